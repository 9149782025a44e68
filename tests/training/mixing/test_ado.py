"""pytest tests/training/mixing/test_ado.py"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.signal import savgol_filter

from penstock.errors import ConfigError
from penstock.training.mixing.ado import AdaptiveDataOptimization
from penstock.training.mixing.base import Cadence, Observation, Signal
from penstock.training.mixing.scaling import Law

LOSS = Signal.TRAIN_LOSS
DOMAINS = ("d0", "d1", "d2")
TOKENS = np.array([50, 30, 20])


def test_three_updates_by_hand_with_a_domain_that_has_no_curve_at_first(observed: Callable[..., Observation]) -> None:
    policy = AdaptiveDataOptimization(floor=0.2, weight=0.5, memory=0.5, credit=2.0, first_fit=1, refit=10**9)
    policy.start(DOMAINS, TOKENS)
    policy.fitted_at = 0  # the curves are given below
    # alpha 0.5 and n = 4: the slope is -0.5 * beta / 8, so slopes are as beta
    half, double = (Law(alpha=0.5, log_beta=math.log(b), log_epsilon=0.7, error=0.0) for b in (1.0, 2.0))
    policy.laws = [half, double, None]
    seen = {"tokens": [1024, 1024, 2048], "weights": [0.5, 0.3, 0.2]}  # n = 4 units for all

    # 1: h = mu = (.5, .3, .2); rho ~ mu h^2 slope: (.125, .027 * 2), the third keeps .2
    #    rho = .8 * (125, 54) / 179 = (.5586592, .2413408), .2; all at least the floor .2
    #    pi = (rho + mu) / 2
    first = policy.update(observed({LOSS: [3.0, 3.0, None]}, step=1, **seen))
    assert first is not None
    rho = [0.8 * 125 / 179, 0.8 * 54 / 179, 0.2]
    assert first.facts["rho"] == pytest.approx(rho, abs=1e-12)
    pi_1 = [(r + m) / 2 for r, m in zip(rho, (0.5, 0.3, 0.2), strict=True)]
    assert first.weights.tolist() == pytest.approx(pi_1, abs=1e-12)
    assert pi_1[0] == pytest.approx(0.529329608938547)

    # 2: drawn under (.4, .4, .2), so h = (.45, .35, .2); the third has a curve now, of slope 4
    #    .5 * .2025 : .3 * .1225 * 2 : .2 * .04 * 4 = .10125 : .0735 : .032, sum .20675
    #    floor .2: the third is lifted from .1548, the others share .8 as .10125 : .0735
    policy.laws[2] = Law(alpha=0.5, log_beta=math.log(4.0), log_epsilon=0.7, error=0.0)
    second = policy.update(observed({LOSS: [3.0, None, 3.0]}, step=2, **(seen | {"weights": [0.4, 0.4, 0.2]})))
    assert second is not None
    rho = [0.8 * 10125 / 17475, 0.8 * 7350 / 17475, 0.2]
    assert second.facts["rho"] == pytest.approx(rho, abs=1e-12)
    mean = [(m + p) / 2 for m, p in zip((0.5, 0.3, 0.2), pi_1, strict=True)]
    pi_2 = [(r + m) / 2 for r, m in zip(rho, mean, strict=True)]
    assert second.weights.tolist() == pytest.approx(pi_2, abs=1e-12)

    # 3: as before with h = (.425, .375, .2); the mean is now of the prior and two mixtures
    third = policy.update(observed({LOSS: [3.0, 3.0, 3.0]}, step=3, **(seen | {"weights": [0.4, 0.4, 0.2]})))
    assert third is not None
    raw = [0.5 * 0.425**2, 0.3 * 0.375**2 * 2, 0.2 * 0.2**2 * 4]
    rho = [0.8 * raw[0] / (raw[0] + raw[1]), 0.8 * raw[1] / (raw[0] + raw[1]), 0.2]
    assert third.facts["rho"] == pytest.approx(rho, abs=1e-12)
    mean = [(m + p + q) / 3 for m, p, q in zip((0.5, 0.3, 0.2), pi_1, pi_2, strict=True)]
    assert third.weights.tolist() == pytest.approx([(r + m) / 2 for r, m in zip(rho, mean, strict=True)], abs=1e-12)


def trained(policy: AdaptiveDataOptimization, observed: Callable[..., Observation], steps: int) -> list[Any]:
    """Two domains at equal shares: d0 falls slowly along a curve, d1 has long been flat."""
    policy.start(("d0", "d1"), np.array([1, 1]))
    out = []
    for step in range(1, steps + 1):
        n = 100.0 * step
        loss = [2.0 + 8.0 * n**-0.3, 3.0 + 0.02 * n**-0.3]
        each = [int(n * 512), int(n * 512)]
        out.append(policy.update(observed({LOSS: loss}, step=step, weights=[0.5, 0.5], tokens=each)))
    return out


def test_planted_curves_give_the_share_to_what_still_falls(observed: Callable[..., Observation]) -> None:
    policy = AdaptiveDataOptimization(first_fit=60, refit=60, ignore=10, subsample=2, window=11)
    found = trained(policy, observed, 120)
    assert found[:59] == [None] * 59
    law = policy.laws[0]
    assert law is not None
    assert (law.alpha, law.log_beta, law.log_epsilon) == pytest.approx((0.3, math.log(8), math.log(2)), rel=0.05)
    assert policy.fitted_at == 120
    # mu and h are equal: rho is as the slopes, 8 to 0.02, and the floor lifts the second
    assert found[59].facts["rho"] == pytest.approx([0.99, 0.01])
    # a tenth of rho and nine tenths of the mean so far
    assert found[59].weights.tolist() == pytest.approx([0.1 * 0.99 + 0.9 * 0.5, 0.1 * 0.01 + 0.9 * 0.5])
    assert found[119].weights[0] > found[59].weights[0]


def test_equal_curves_leave_prior_times_credit(observed: Callable[..., Observation]) -> None:
    policy = AdaptiveDataOptimization(first_fit=1, refit=10**9, floor=0.0)
    policy.start(DOMAINS, TOKENS)
    policy.fitted_at = 0
    policy.laws = [Law(alpha=0.4, log_beta=1.0, log_epsilon=0.7, error=0.0)] * 3
    mixture = policy.update(observed({LOSS: [2.0, 2.0, 2.0]}, weights=[0.5, 0.3, 0.2], tokens=[900, 50, 50]))
    assert mixture is not None
    raw = np.array([0.5, 0.3, 0.2]) ** 1.5
    assert mixture.facts["rho"] == pytest.approx((raw / raw.sum()).tolist())


def test_a_curve_is_smoothed_then_cut_then_thinned() -> None:
    policy = AdaptiveDataOptimization(ignore=20, subsample=5, window=9, order=3)
    step = np.arange(1.0, 61.0)
    loss = 2 + np.sin(step) / 10
    loss[3] = np.nan  # not seen at step 4
    n, smooth = policy._curve(step, step * 7, loss)
    there = np.isfinite(loss)
    whole = savgol_filter(loss[there], 9, 3)
    kept = step[there] > 20
    assert n.tolist() == (step[there][kept][::5] * 7).tolist()
    assert smooth.tolist() == whole[kept][::5].tolist()
    assert n[0] == 21 * 7


def test_the_axis_is_all_tokens_or_the_domains_own(observed: Callable[..., Observation]) -> None:
    seen = observed({LOSS: [2.0, 2.0]}, weights=[0.5, 0.5], tokens=[1024, 3072])
    for axis, wanted in [("total", [4.0, 4.0]), ("domain", [1.0, 3.0])]:
        policy = AdaptiveDataOptimization(axis=axis)
        policy.start(("d0", "d1"), np.array([1, 1]))
        policy.update(seen)
        assert policy.rows == [[1.0, *wanted, 2.0, 2.0]]


def test_a_long_history_is_thinned_by_halves(observed: Callable[..., Observation]) -> None:
    policy = AdaptiveDataOptimization(history=16, first_fit=10**9)
    policy.start(("d0",), np.array([1]))
    for step in range(1, 101):
        policy.update(observed({LOSS: [2.0]}, step=step, tokens=[step]))
    steps = [row[0] for row in policy.rows]
    assert len(steps) <= 16
    assert steps == [float(s) for s in range(1, 101, policy.stride)]


def test_a_domain_that_was_never_seen_keeps_its_share_after_the_fit(observed: Callable[..., Observation]) -> None:
    policy = AdaptiveDataOptimization(first_fit=20, ignore=0, subsample=1, window=5, floor=0.0)
    policy.start(DOMAINS, TOKENS)
    for step in range(1, 21):
        loss = [2.0 + 8.0 * step**-0.3, 3.0 + 5.0 * step**-0.2, None]
        mixture = policy.update(observed({LOSS: loss}, step=step, weights=[0.5, 0.3, 0.2], tokens=[step * 1024] * 3))
    assert mixture is not None
    assert mixture.facts["laws"][2] is None
    assert mixture.facts["rho"][2] == pytest.approx(0.2)


def test_nothing_to_fit_is_no_change(observed: Callable[..., Observation]) -> None:
    policy = AdaptiveDataOptimization(first_fit=1, cadence=Cadence(every=5))
    policy.start(DOMAINS, TOKENS)
    assert policy.update(observed({LOSS: [None, None, None]}, step=5)) is None


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"credit": -1}, "credit: got -1"),
        ({"memory": 0}, "memory: got 0"),
        ({"weight": 2}, "weight: got 2"),
        ({"floor": 0.5}, "floor: got 0.5, allowed at most 1 / 3 domains"),
        ({"window": 4}, "window: got 4, allowed a finite number >= 5"),
        ({"refit": 1.5}, "refit: got 1.5, allowed a whole number >= 1"),
        ({"axis": "tokens"}, "axis: got 'tokens'"),
        ({"history": 3}, "history: got 3"),
        ({"max_alpha": 0}, "max_alpha: got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        AdaptiveDataOptimization(**settings).start(DOMAINS, TOKENS)
    assert text in str(error.value)
