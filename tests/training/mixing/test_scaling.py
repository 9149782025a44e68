"""pytest tests/training/mixing/test_scaling.py"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from penstock.seeding import stream
from penstock.training.mixing.scaling import Law, fit_law

N = np.linspace(50, 20_000, 150)


def planted(alpha: float, log_beta: float, log_epsilon: float) -> np.ndarray:
    return math.exp(log_epsilon) + math.exp(log_beta) * N**-alpha


@pytest.mark.parametrize("truth", [(0.5, 2.0, 0.7), (0.2, 1.0, 0.9), (0.75, 4.0, 1.1)])
def test_a_planted_curve_is_found(truth: tuple[float, float, float]) -> None:
    law = fit_law(N, planted(*truth))
    assert law is not None
    assert (law.alpha, law.log_beta, law.log_epsilon) == pytest.approx(truth, rel=0.02)
    assert law.loss(N).tolist() == pytest.approx(planted(*truth).tolist(), rel=1e-3)


def test_outliers_hardly_move_the_fit() -> None:
    # every tenth loss doubled: least squares in log space would be off by 7 % on average
    loss = planted(0.5, 2.0, 0.7)
    loss[::10] *= 2
    law = fit_law(N, loss)
    assert law is not None
    error = np.abs(law.loss(N) / planted(0.5, 2.0, 0.7) - 1)
    assert error.mean() < 0.002
    assert error.max() < 0.02


def test_following_every_start_finds_nothing_better() -> None:
    noise = np.exp(stream(1, "noise").normal(0, 0.01, len(N)))
    few, all_ = (fit_law(N[::3], (planted(0.3, 2.0, 0.8) * noise)[::3], polish=polish) for polish in (16, 384))
    assert few is not None
    assert all_ is not None
    assert few.error <= all_.error * 1.0001


def test_the_bounds_hold() -> None:
    falls_below = fit_law(N, planted(0.5, 2.0, 0.0))  # towards 1 nat, below exp(0.5)
    assert falls_below is not None
    assert falls_below.log_epsilon == pytest.approx(0.5)
    freed = fit_law(N, planted(0.5, 2.0, 0.0), min_log_epsilon=-2.0)
    assert freed is not None
    assert freed.log_epsilon == pytest.approx(0.0, abs=0.02)
    steep = fit_law(N, planted(1.5, 5.0, 0.7))
    assert steep is not None
    assert 0.001 <= steep.alpha <= 0.8
    assert steep.log_beta <= 6.5
    rising = fit_law(N, np.linspace(2.0, 3.0, len(N)))
    assert rising is not None
    assert rising.alpha >= 0.001


def test_the_slope_is_the_derivative_of_the_curve() -> None:
    law = Law(alpha=0.4, log_beta=2.0, log_epsilon=0.7, error=0.0)
    by_difference = approx_fprime([1000.0], lambda n: float(law.loss(n)[0]), 1e-3)[0]
    assert -math.exp(law.log_slope(1000.0)) == pytest.approx(by_difference, rel=1e-4)


def test_too_few_points_give_no_law() -> None:
    assert fit_law(N[:3], planted(0.5, 2.0, 0.7)[:3]) is None
    # points that are no losses do not count
    assert fit_law(np.array([0.0, 1, 2, 3, 4]), np.array([2.0, -1.0, np.nan, 2.0, 2.0])) is None
