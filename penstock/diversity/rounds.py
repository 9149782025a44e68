"""Greedy MAP in two rounds: every shard keeps k rows, then k are chosen from what was kept.

GreeDi (Mirzasoleiman et al. 2013); with rows sharded at random, as here, Barbosa et al. 2015.

A shard cannot know what others keep, so some of the log determinant is lost; how much depends on the data and on the
number of shards. ``measure_loss`` says it for a sample small enough to be chosen from at once:

    share = (central - two rounds) / (central - random)

0 where two rounds chose as well as one, 1 where they chose no better than chance.

Price: that of ``greedy_map`` on every shard, and on shards x k rows; memory is one shard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.diversity.arrays import Array, as_array, host, like
from penstock.diversity.greedy import Greedy, Objective, greedy_map
from penstock.diversity.kernels import Cosine, weighted
from penstock.errors import InputError
from penstock.seeding import stream

_RANDOM = 8  # random choices whose mean is compared with


@dataclass(frozen=True, kw_only=True)
class Loss:
    """log determinants of equally many rows: chosen at once, in two rounds, at random (None: linearly dependent)."""

    rows: int
    picks: int
    central: float
    two_rounds: float
    random: float | None

    @property
    def share(self) -> float | None:
        """Of what choosing gains over chance, how much two rounds lose; None where that is not defined."""
        if self.random is None or self.central - self.random <= 0:
            return None
        return (self.central - self.two_rounds) / (self.central - self.random)


def two_rounds(
    features: Any,
    shards: Any,
    k: int,
    *,
    quality: Any = None,
    objective: Objective = "logdet",
    options: Mapping[str, Any] | None = None,
) -> Greedy:
    """Choose up to k rows in two rounds; picks are row numbers of ``features``.

    Args:
        features: embeddings (n, d), compared by cosine.
        shards: (n,) whole numbers: the shard of each row.
        quality, objective: as for ``greedy_map``; ``options`` are more of its arguments.

    Raises:
        InputError: not one shard a row; or as ``greedy_map``.
        ConfigError: as ``greedy_map``.
    """
    rows, numbers = as_array(features), np.asarray(host(as_array(shards)))
    if numbers.shape != (rows.shape[0],):
        raise InputError(f"shards: got shape {numbers.shape}, allowed ({rows.shape[0]},), one number a row")
    weights = None if quality is None else np.asarray(host(as_array(quality)), dtype=np.float64)

    def choose(some: NDArray[np.int64]) -> Greedy:
        of = None if weights is None else weights[some]
        return greedy_map(_take(rows, some), k, quality=of, objective=objective, **(options or {}))

    kept = [some[choose(some).picks] for n in np.unique(numbers) if len(some := np.flatnonzero(numbers == n))]
    union = np.sort(np.concatenate(kept)) if kept else np.zeros(0, np.int64)
    last = choose(union)
    return Greedy(**(vars(last) | {"picks": union[last.picks]}))


def _take(rows: Array, index: NDArray[np.int64]) -> Array:
    return rows[like(index, rows)]


def measure_loss(
    features: Any, shards: Any, k: int, *, quality: Any = None, objective: Objective = "logdet", seed: int = 0
) -> Loss:
    """What two rounds lose on these rows; arguments and errors are those of ``two_rounds``."""
    kernel = Cosine(features) if quality is None else weighted(Cosine(features), quality)
    central = greedy_map(kernel, k, objective=objective)
    parted = two_rounds(features, shards, k, quality=quality, objective=objective)
    count = min(len(central.picks), len(parted.picks))
    found = []
    for draw in range(_RANDOM):
        rows = stream(seed, "random rows", draw).choice(kernel.n, count, replace=False)
        matrix = host(kernel.dense(kernel.index(rows)))
        sign, value = np.linalg.slogdet(matrix + np.eye(count) if objective == "logdet_plus_identity" else matrix)
        found.append(float(value) if sign > 0 else -math.inf)
    mean = math.fsum(found) / len(found) if all(map(math.isfinite, found)) else None
    return Loss(
        rows=kernel.n,
        picks=count,
        central=math.fsum(central.log_gains[:count]),
        two_rounds=math.fsum(parted.log_gains[:count]),
        random=mean,
    )
