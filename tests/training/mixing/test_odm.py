"""pytest tests/training/mixing/test_odm.py"""

from __future__ import annotations

from collections.abc import Callable
from math import e, exp, log, sqrt
from typing import Any

import numpy as np
import pytest

from penstock.errors import ConfigError
from penstock.training.mixing.base import Cadence, Observation, Signal
from penstock.training.mixing.odm import OnlineDataMixing

LOSS = Signal.TRAIN_LOSS
TWO = (("a", "b"), np.array([10, 10]))


def started(**settings: Any) -> OnlineDataMixing:
    policy = OnlineDataMixing(**settings)
    policy.start(*TWO)
    return policy


def test_three_updates_of_exp3_by_hand_with_an_absent_domain(observed: Callable[..., Observation]) -> None:
    policy = started()
    # (losses, shares drawn under) -> summed rewards, mixture; exploration is 1/2, then sqrt(ln 2 / 4), sqrt(ln 2 / 6)
    rounds: list[tuple[list[float | None], list[float], list[float], list[float]]] = [
        ([2.0, None], [0.5, 0.5], [0.4, 0.0], [0.5, 0.5]),
        ([None, 3.0], [0.5, 0.5], [0.4, 0.6], [0.495817350239624, 0.504182649760376]),
        ([1.0, 4.0], [0.4, 0.6], [0.65, 0.6 + 2 / 3], [0.479561518755317, 0.520438481244683]),
    ]
    for step, (losses, drawn, rewards, wanted) in enumerate(rounds, start=1):
        mixture = policy.update(observed({LOSS: losses}, step=step, weights=drawn, counts=[3, 8]))
        assert mixture is not None
        assert mixture.facts["rewards"] == pytest.approx(rewards, abs=1e-12)
        assert mixture.weights.tolist() == pytest.approx(wanted, abs=1e-12)


def test_three_updates_of_the_smoothed_mean_by_hand_with_an_absent_domain(
    observed: Callable[..., Observation],
) -> None:
    policy = started(form="smoothed_mean", smoothing=0.5)
    # R by halves: (1, 0), then ((1 + 4) / 2, 8 / 2), then d0 stays and (4 + 2) / 2
    rounds: list[tuple[list[float | None], list[float], list[float]]] = [
        ([log(2), None], [1.0, 0.0], [0.941421661973556, 0.058578338026444]),
        ([log(4), log(8)], [2.5, 4.0], [0.398067034317729, 0.601932965682271]),
        ([None, log(2)], [2.5, 3.0], [0.459818802579948, 0.540181197420052]),
    ]
    for step, (losses, rewards, wanted) in enumerate(rounds, start=101):
        mixture = policy.update(observed({LOSS: losses}, step=step, weights=[0.9, 0.1]))
        assert mixture is not None
        logs = [0.0 if r == 0 else log(r) for r in rewards]
        found = [0.0 if r is None else r for r in mixture.facts["rewards"]]
        assert found == pytest.approx(logs, abs=1e-12)
        assert mixture.weights.tolist() == pytest.approx(wanted, abs=1e-12)


def test_the_two_forms_are_different_rules(observed: Callable[..., Observation]) -> None:
    seen = observed({LOSS: [1.0, 4.0]}, step=1000, weights=[0.5, 0.5])
    a, b = started().update(seen), started(form="smoothed_mean").update(seen)
    assert a is not None
    assert b is not None
    assert abs(a.weights[1] - b.weights[1]) > 0.2


def test_exploration_is_uniform_until_k_ln_k_steps(observed: Callable[..., Observation]) -> None:
    k = 8
    for step, uniform in [(1, True), (16, True), (17, False)]:  # 8 ln 8 is 16.6
        policy = OnlineDataMixing(cadence=Cadence(every=1, warmup=0))
        policy.start(tuple("abcdefgh"), np.full(k, 5))
        mixture = policy.update(observed({LOSS: [9.0, *[1.0] * 7]}, step=step, weights=[1 / k] * k))
        assert mixture is not None
        assert (mixture.weights.tolist() == pytest.approx([1 / k] * k, abs=1e-12)) is uniform


def test_exploration_counts_steps_from_the_warm_up(observed: Callable[..., Observation]) -> None:
    policy = started(cadence=Cadence(every=10, warmup=100))
    mixture = policy.update(observed({LOSS: [1.0, 2.0]}, step=150, weights=[0.5, 0.5]))
    assert mixture is not None
    assert mixture.facts["exploration"] == pytest.approx(sqrt(log(2) / (2 * 50)))


def test_division_by_the_share_can_be_left_out(observed: Callable[..., Observation]) -> None:
    for importance, wanted in [(True, [0.2 / 0.9, 0.2 / 0.1]), (False, [0.2, 0.2])]:
        mixture = started(importance=importance).update(observed({LOSS: [2.0, 2.0]}, weights=[0.9, 0.1]))
        assert mixture is not None
        assert mixture.facts["rewards"] == pytest.approx(wanted)


def test_long_exploitation_follows_the_harder_domain(observed: Callable[..., Observation]) -> None:
    policy = started(importance=False)
    for step in range(1, 401):
        mixture = policy.update(observed({LOSS: [1.0, 3.0]}, step=step, weights=[0.5, 0.5]))
    assert mixture is not None
    before, now = sqrt(log(2) / (2 * 399)), sqrt(log(2) / (2 * 400))
    odds = exp(before * 400 * 0.2)
    assert mixture.weights[1] == pytest.approx((1 - 2 * now) * odds / (1 + odds) + now)


def test_no_loss_no_change(observed: Callable[..., Observation]) -> None:
    policy = started()
    assert policy.update(observed({LOSS: [None, None]})) is None
    assert policy.rewards.tolist() == [0.0, 0.0]


def test_smoothing_of_zero_is_the_last_loss_alone(observed: Callable[..., Observation]) -> None:
    policy = started(form="smoothed_mean", smoothing=0)
    policy.update(observed({LOSS: [500.0, 1.0]}, step=10**9))
    mixture = policy.update(observed({LOSS: [1.0, 2.0]}, step=10**9))
    assert mixture is not None
    assert mixture.weights[1] == pytest.approx(e / (1 + e), abs=1e-4)


@pytest.mark.parametrize(
    "settings", [{"form": "ucb"}, {"scale": 0}, {"smoothing": 1}, {"smoothing": -0.1}, {"importance": "yes"}]
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="policy odm"):
        OnlineDataMixing(**settings)
