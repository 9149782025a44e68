"""From a surrogate to points: the mean of the best of many draws, evolution, or where to measure next.

    best_mean   predict ``draws`` points of the space, take the mean of the ``top`` best (QuaDMix 10, RegMix 128). A
                single best draw is where the surrogate errs most; the mean hedges against that
    evolve      start from the ``survivors`` best of the draws; each generation crosses random parents, mutates,
                repairs, and keeps the best predicted of parents and children. The answer is the survivors' mean
    next_round  points of the next round of measurements, CLIMB's way: drawn uniformly, without replacement, from the
                max(n^2, 128) best predicted draws, and taken as they are. Perturbing good mixtures of many domains
                moves them further apart than fresh draws are

QuaDMix (arXiv 2504.16511v2), RegMix (arXiv 2407.01492), CLIMB (arXiv 2504.13161). All stay within draws of the space,
and crossings of such, because trees predict nothing beyond what was measured.

Price: one prediction a draw; ``evolve`` 60,000 more with its defaults. See docs/quadmix.md for figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from penstock.errors import ConfigError
from penstock.seeding import stream
from penstock.selectors.search.settings import SearchSettings
from penstock.selectors.search.space import Floats, Space


class Predictor(Protocol):
    """What a proposal needs of a surrogate."""

    @property
    def refusal(self) -> str | None: ...

    def predict(self, points: Floats) -> Floats: ...


@dataclass(frozen=True, eq=False)
class Proposal:
    """A point (P,), its predicted loss, and the predictions of what it is the mean of, best first."""

    unit: Floats
    predicted: float
    averaged: Floats


def _ranked(
    space: Space, surrogate: Predictor, settings: SearchSettings, seed: int, name: str
) -> tuple[Floats, Floats]:
    """(draws, their predictions), best first.

    Raises:
        ConfigError: the surrogate explains nothing.
    """
    if surrogate.refusal is not None:
        raise ConfigError(f"search: {surrogate.refusal}")
    points = space.draw(settings.draws, seed=seed, name=name)
    predicted = surrogate.predict(points)
    order = np.argsort(predicted, kind="stable")
    return points[order], predicted[order]


def best_mean(space: Space, surrogate: Predictor, settings: SearchSettings, *, seed: int) -> Proposal:
    """The mean of the ``settings.top`` best predicted of ``settings.draws`` draws.

    Raises:
        ConfigError: the surrogate explains nothing.
    """
    points, predicted = _ranked(space, surrogate, settings, seed, "proposals")
    return _average(space, surrogate, settings, points[: settings.top], predicted[: settings.top])


def evolve(space: Space, surrogate: Predictor, settings: SearchSettings, *, seed: int) -> Proposal:
    """Evolution on the surrogate from the best draws.

    Raises:
        ConfigError: the surrogate explains nothing.
    """
    points, predicted = _ranked(space, surrogate, settings, seed, "proposals")
    points, predicted = points[: settings.survivors], predicted[: settings.survivors]
    for generation in range(settings.generations):
        rng = stream(seed, "search", "evolution", generation)
        a, b = rng.integers(0, len(points), (2, settings.children))
        children = space.repair(space.mutate(space.cross(points[a], points[b], rng), settings.mutation, rng))
        everyone = np.concatenate([points, children])
        fitness = np.concatenate([predicted, surrogate.predict(children)])
        # a child equal to a parent would crowd the others out
        _, first = np.unique(everyone, axis=0, return_index=True)
        first.sort()
        order = first[np.argsort(fitness[first], kind="stable")][: settings.survivors]
        points, predicted = everyone[order], fitness[order]
    return _average(space, surrogate, settings, points, predicted)


def next_round(
    space: Space, surrogate: Predictor, settings: SearchSettings, count: int, *, seed: int, number: int
) -> Floats:
    """Points of round ``number``: (count, P).

    Raises:
        ConfigError: the surrogate explains nothing.
    """
    points, _ = _ranked(space, surrogate, settings, seed, f"round {number}")
    best = points[: max(count * count, 128)]
    rng = stream(seed, "search", "round", number)
    return best[np.sort(rng.choice(len(best), size=min(count, len(best)), replace=False))]


def _average(
    space: Space, surrogate: Predictor, settings: SearchSettings, points: Floats, predicted: Floats
) -> Proposal:
    unit = space.mean(points, average=settings.average_space)
    return Proposal(unit=unit, predicted=float(surrogate.predict(unit[None])[0]), averaged=predicted)
