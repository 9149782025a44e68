"""The surrogate: judged on points it did not see, the same on any number of threads, refused where it knows nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock.errors import ConfigError
from penstock.seeding import stream
from penstock.selectors.search.surrogate import fit_surrogate


def planted(n: int, p: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A loss near 3 that falls with the first coordinate and has its least at 0.4 of the second."""
    rng = stream(seed, "planted")
    x = rng.random((n, p))
    y = 3.0 + 0.05 * (-x[:, 0] + 4 * (x[:, 1] - 0.4) ** 2 + noise * rng.normal(size=n))
    return x, y


@pytest.mark.parametrize(("n", "p"), [(64, 40), (64, 10), (400, 10)])
def test_it_finds_what_matters_in_every_regime_of_points_per_coordinate(n: int, p: int) -> None:
    x, y = planted(n, p, 0.1)
    surrogate = fit_surrogate(x, y, seed=1, names=[f"c{i}" for i in range(p)])
    assert surrogate.refusal is None
    assert surrogate.fit.points == n
    assert surrogate.fit.coordinates == p
    assert surrogate.fit.r2 > 0.35
    assert surrogate.fit.spearman > 0.6
    importances = surrogate.importances()
    assert set(list(importances)[:2]) == {"c0", "c1"}
    assert sum(importances.values()) == pytest.approx(1.0)
    fresh, truth = planted(500, p, 0.0, seed=9)
    assert np.corrcoef(surrogate.predict(fresh), truth)[0, 1] > 0.75


def test_the_judgement_is_that_of_the_folds_it_shows() -> None:
    x, y = planted(80, 6, 0.3)
    surrogate = fit_surrogate(x, y, seed=2)
    residual = y - surrogate.out_of_fold
    # the mean of three predictions errs a little less than each of them
    r2 = 1 - (residual**2).sum() / ((y - y.mean()) ** 2).sum()
    assert r2 - 0.1 < surrogate.fit.r2 <= r2
    assert 0.9 < np.abs(residual).mean() / surrogate.fit.mae <= 1.0
    assert 0.9 < residual.std(ddof=1) / surrogate.fit.residual_sd <= 1.0
    many_x, many_y = planted(500, 6, 0.3)
    many = fit_surrogate(many_x, many_y, seed=2)
    residual = many_y - many.out_of_fold
    assert many.fit.r2 == pytest.approx(1 - (residual**2).sum() / ((many_y - many_y.mean()) ** 2).sum())
    assert many.fit.mae == pytest.approx(np.abs(residual).mean())
    assert many.fit.residual_sd == pytest.approx(residual.std(ddof=1))
    # a point is never judged by trees that saw it: those that did are much nearer
    assert np.abs(y - surrogate.predict(x)).mean() < 0.75 * surrogate.fit.mae


@pytest.mark.parametrize("n", [20, 64, 112, 3000])
def test_trees_split_however_few_the_points_are(n: int) -> None:
    x, y = planted(n, 182, 0.05)
    x[:, 2:] = x[:, :1]  # nothing to get lost in
    fitted = fit_surrogate(x[:200], y[:200], seed=0).predict(x)
    assert np.ptp(fitted) > 0.1 * np.ptp(y)


def test_threads_seeds_and_repeats_decide_as_they_should() -> None:
    # enough points for LightGBM to divide them among threads, and noise enough to stop early
    x, y = planted(1200, 4, 3.0)
    one, two, again, other = (
        fit_surrogate(x, y, seed=s, threads=t).predict(x) for s, t in ((1, 1), (1, 2), (1, 1), (2, 1))
    )
    assert one.tolist() == two.tolist() == again.tolist()
    assert one.tolist() != other.tolist()


def test_the_unit_of_the_loss_changes_nothing() -> None:
    x, y = planted(64, 20, 0.3)
    small, large = fit_surrogate(x, y, seed=1), fit_surrogate(x, 1000 * y - 500, seed=1)
    assert large.fit.r2 == pytest.approx(small.fit.r2)
    assert large.fit.residual_sd == pytest.approx(1000 * small.fit.residual_sd)
    assert large.predict(x) == pytest.approx(1000 * small.predict(x) - 500)


def test_pure_noise_is_refused() -> None:
    refused = 0
    for seed in range(10):
        rng = stream(seed, "noise")
        surrogate = fit_surrogate(rng.random((64, 20)), rng.normal(size=64), seed=seed)
        refused += surrogate.refusal is not None
        assert surrogate.fit.r2 < 0.2
        assert (surrogate.refusal is None) == (surrogate.fit.r2 > 0)
        if surrogate.refusal is not None:
            assert f"R2 {surrogate.fit.r2:.3f} over 64 points" in surrogate.refusal
    # a few draws of noise explain each other by chance; the guard is behind
    assert refused >= 8


def test_a_coordinate_that_does_not_vary_is_not_counted_and_a_constant_loss_is_explained_by_nothing() -> None:
    x, y = planted(40, 5, 0.1)
    x[:, 4] = 0.5
    assert fit_surrogate(x, y, seed=0).fit.coordinates == 4
    flat = fit_surrogate(x, np.full(40, 3.0), seed=0)
    assert (flat.fit.r2, flat.fit.spearman, flat.fit.residual_sd) == (0.0, 0.0, 0.0)
    assert flat.refusal is not None
    assert flat.importances() == {}
    assert flat.predict(x).tolist() == [3.0] * 40


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((9, 2)), np.ones(9), "got 9 measured points, allowed >= 10"),
        (np.ones((12, 2)), np.ones(11), r"got points \(12, 2\) and losses \(11,\)"),
        (np.ones(12), np.ones(12), r"got points \(12,\)"),
        (np.ones((12, 2)), np.full(12, np.nan), "allowed finite"),
        (np.full((12, 2), np.inf), np.ones(12), "allowed finite"),
    ],
)
def test_points_that_cannot_be_fitted_are_refused(x: Any, y: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit_surrogate(x, y, seed=0)


def test_ten_points_that_no_split_tells_apart_are_refused_and_not_an_error() -> None:
    points = stream(1, "few").random((10, 4))
    constant = fit_surrogate(points, np.full(10, 3.0), seed=0)
    assert constant.refusal == "the surrogate predicts the same loss for all 10 points; measure more points"
