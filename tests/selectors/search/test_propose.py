"""Proposals: the mean of the best draws, evolution, the next round of measurements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from penstock.errors import ConfigError
from penstock.seeding import stream
from penstock.selectors.search.mixture_space import MixtureSpace
from penstock.selectors.search.propose import best_mean, evolve, next_round
from penstock.selectors.search.settings import SearchSettings
from penstock.selectors.search.surrogate import fit_surrogate

Make = Callable[..., Any]


class Known:
    """A surrogate that knows the loss."""

    refusal = None

    def __init__(self, predict: Callable[[np.ndarray], np.ndarray]) -> None:
        self.predict = predict


class Ignorant(Known):
    refusal = "the surrogate explains nothing"


def test_the_best_mean_is_the_mean_of_the_best_predicted_draws(make_space: Make) -> None:
    space = make_space(2, criteria=2)
    at = space.names.index("d01.omega")
    settings = SearchSettings(draws=500, top=7, survivors=128)
    found = best_mean(space, Known(lambda x: (x[:, at] - 0.5) ** 2), settings, seed=3)
    draws = space.draw(500, seed=3, name="proposals")
    best = sorted(range(500), key=lambda i: abs(draws[i, at] - 0.5))[:7]
    assert found.unit == pytest.approx(draws[best].mean(axis=0))
    assert found.averaged.tolist() == pytest.approx(sorted((draws[best, at] - 0.5) ** 2))
    assert found.predicted == pytest.approx((draws[best, at].mean() - 0.5) ** 2)
    value = best_mean(space, Known(lambda x: (x[:, at] - 0.5) ** 2), replace(settings, average_space="value"), seed=3)
    lam = [space.parameters(p).of("d00").lam for p in draws[best]]
    assert space.parameters(value.unit).of("d00").lam == pytest.approx(np.mean(lam))
    assert space.parameters(found.unit).of("d00").lam == pytest.approx(np.exp(np.mean(np.log(lam))))


def test_evolution_gets_where_draws_do_not(make_space: Make) -> None:
    space = make_space(4)
    target = space.draw(1, seed=0, name="target")[0]

    def distance(points: np.ndarray) -> np.ndarray:
        return ((points - target) ** 2).sum(axis=1)

    settings = SearchSettings(draws=2000, survivors=64, generations=25, children=500, mutation=0.05)
    drawn, evolved = (p(space, Known(distance), settings, seed=1) for p in (best_mean, evolve))
    assert distance(evolved.unit[None])[0] < 0.25 * distance(drawn.unit[None])[0]
    alpha = evolved.unit.reshape(4, 7)[:, :3]
    assert alpha.sum(axis=1) == pytest.approx(np.ones(4))
    assert len(evolved.averaged) == 64
    assert evolve(space, Known(distance), settings, seed=1).unit.tolist() == evolved.unit.tolist()


def test_evolution_keeps_mixtures_within_their_bounds() -> None:
    space = MixtureSpace(domains=("a", "b", "c"), tokens=(8000, 1900, 100))
    settings = SearchSettings(draws=500, survivors=32, generations=10, children=200)
    found = evolve(space, Known(lambda x: -x[:, 2]), settings, seed=0).unit
    assert found.sum() == pytest.approx(1.0)
    assert found[2] == pytest.approx(0.15, abs=0.001)


def test_the_next_round_comes_from_the_best_predicted_draws_and_no_two_rounds_are_equal(make_space: Make) -> None:
    space = make_space(2)
    settings = SearchSettings(draws=1000, survivors=128)
    at = space.names.index("d00.eta")
    first, second = (next_round(space, Known(lambda x: x[:, at]), settings, 12, seed=4, number=n) for n in (1, 2))
    assert first.shape == second.shape == (12, 14)
    assert not (first[:, None] == second[None]).all(axis=2).any()
    draws = space.draw(1000, seed=4, name="round 1")
    best = draws[np.argsort(draws[:, at], kind="stable")[:144]]  # 12 squared, above 128
    assert all((best == point).all(axis=1).any() for point in first)
    assert len(np.unique(first, axis=0)) == 12


def test_a_surrogate_that_knows_nothing_is_not_searched(make_space: Make) -> None:
    space = make_space(2)
    settings = SearchSettings(draws=200, survivors=20)
    ignorant = Ignorant(lambda x: x[:, 0])
    for proposal in (best_mean, evolve):
        with pytest.raises(ConfigError, match="search: the surrogate explains nothing"):
            proposal(space, ignorant, settings, seed=0)
    with pytest.raises(ConfigError, match="search: the surrogate explains nothing"):
        next_round(space, ignorant, settings, 5, seed=0, number=1)


@pytest.mark.slow
def test_on_the_planted_truth_evolution_is_no_worse_than_the_mean_of_ten_and_both_beat_what_was_measured(
    make_space: Make, objective: Any
) -> None:
    space = make_space(26)
    settings = SearchSettings(draws=20_000)
    found = {"measured": [], "random": [], "evolution": []}
    for seed in range(2):
        truth = objective(space, seed)
        points = space.draw(300, seed=seed, name="points")
        losses = truth(points)
        noisy = losses + 0.15 * stream(seed, "noise").normal(size=300)
        surrogate = fit_surrogate(points, noisy, seed=seed)
        assert surrogate.fit.spearman > 0.7
        found["measured"].append(losses[np.argmin(noisy)])
        found["random"].append(truth(best_mean(space, surrogate, settings, seed=seed).unit[None])[0])
        found["evolution"].append(truth(evolve(space, surrogate, settings, seed=seed).unit[None])[0])
    measured, random, evolution = (float(np.mean(found[k])) for k in ("measured", "random", "evolution"))
    assert evolution <= random < measured - 0.3
    assert evolution < -3.3
