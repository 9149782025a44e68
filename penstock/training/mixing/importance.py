"""Importance sampling by clusters (CRISP): draw each domain as often as a small target would.

The domains are clusters of the training data (``group`` in a recipe). The target's documents are assigned to the
nearest centroid, and their histogram is the mixture: domain c is drawn with probability P(c | target), that is, a
document of c with weight w(c) = P(c | target) / P(c | training). Grangier, Fan, Seto and Ablin, ICLR 2025 (arXiv
2410.03735). ``histogram`` makes it from vectors; ``votes`` is the form that GRAPE compares with: five centroids a
domain, and the five centroids nearest to each target document vote.

Traps:

- a domain that no target document falls into is never drawn; ``PostStage`` smoothing or a floor brings it in;
- a small domain with much of the target is repeated without end: in the token-limited runs of arXiv 2410.02498 this
  is what importance sampling fails by. ``PostStage.max_epochs`` caps it;
- with a target of a few documents the histogram is a few spikes;
- with GRAPE's form on SlimPajama mass went to GitHub and StackExchange, and it was worse than all other methods there.

Price: one nearest-centroid search per target document, before training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.training.mixing.base import Cadence, Floats, Mixture, Observation, Signal
from penstock.training.mixing.rule import Rule, check_names, numbers


@dataclass(kw_only=True, eq=False)
class ImportanceSampling(Rule):
    """The target's histogram over domains as a mixture that stays.

    Args:
        histogram: the target's documents or tokens in each domain, in any unit; domains left out have none.
    """

    name: str = field(default="importance", init=False)
    cadence: Cadence = field(default_factory=Cadence)
    histogram: Mapping[str, float]

    def __post_init__(self) -> None:
        if not isinstance(self.histogram, Mapping) or not numbers(list(self.histogram.values()), _WHAT).sum() > 0:
            raise ConfigError(
                f"{_WHAT}: got {self.histogram!r}, allowed a number per domain, at least one above 0; an empty target "
                "has no importance"
            )

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset()

    def start(self, domains: tuple[str, ...], tokens: NDArray[np.int64]) -> Mixture:
        """Mass on domains that hold no tokens is left out, with its share in the facts.

        Raises:
            ConfigError: an unknown domain, or no mass on any domain that holds tokens.
        """
        self.begin(domains, tokens)
        check_names(self.histogram, domains, _WHAT)
        given = numbers([self.histogram.get(name, 0.0) for name in domains], _WHAT)
        mass = np.where(self.present, given, 0.0)
        if not mass.sum() > 0:
            raise ConfigError(f"{_WHAT}: all of it lies in domains without sequences; name domains that hold some")
        weights: Floats = mass / mass.sum()
        proportional = np.asarray(tokens, dtype=np.float64) / float(np.sum(tokens))
        ratio = np.divide(weights, proportional, out=np.zeros(len(weights)), where=self.present)
        facts: dict[str, Any] = {"importance": ratio.tolist(), "left_out": 1.0 - float(mass.sum() / given.sum())}
        return Mixture(weights=weights, facts=facts)

    def update(self, seen: Observation) -> Mixture | None:
        return None


_WHAT = "policy importance, histogram"


def histogram(targets: NDArray[Any], centroids: NDArray[Any], domain_of: Sequence[str]) -> dict[str, float]:
    """Share of target vectors whose nearest centroid is of each domain, for ``ImportanceSampling``.

    Args:
        targets: unit vectors of the target's documents: (n, d).
        centroids: unit vectors: (C, d).
        domain_of: each centroid's domain: (C,); a domain may have several.

    Raises:
        ConfigError: no target, or shapes that do not fit.
    """
    return votes(targets, centroids, domain_of, k=1)


def votes(targets: NDArray[Any], centroids: NDArray[Any], domain_of: Sequence[str], *, k: int = 5) -> dict[str, float]:
    """Share of votes of each domain, where every target vector's ``k`` nearest centroids have one vote each.

    Nearest is by inner product; ties go to the earlier centroid. With ``k`` = 1 this is ``histogram``.
    """
    a, b = np.asarray(targets, dtype=np.float32), np.asarray(centroids, dtype=np.float32)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1:] != b.shape[1:] or len(b) != len(domain_of) or not len(b):
        raise ConfigError(
            f"importance: got targets of shape {a.shape}, centroids {b.shape} and {len(domain_of)} domains, allowed "
            "(n, d), (C, d) and C names"
        )
    if not len(a):
        raise ConfigError("importance: the target has no document; give at least one")
    if not 1 <= k <= len(b):
        raise ConfigError(f"importance, k: got {k}, allowed 1 to the {len(b)} centroids")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ConfigError("importance: a vector holds a number that is not finite; leave that document out")
    names = list(dict.fromkeys(domain_of))
    index = np.array([names.index(name) for name in domain_of])
    counts = np.zeros(len(names), dtype=np.int64)
    for begin in range(0, len(a), _CHUNK):
        near = np.argsort(-(a[begin : begin + _CHUNK] @ b.T), axis=1, kind="stable")[:, :k]
        counts += np.bincount(index[near].ravel(), minlength=len(names))
    return {name: float(count / counts.sum()) for name, count in zip(names, counts, strict=True)}


_CHUNK = 4096  # target vectors compared at a time
