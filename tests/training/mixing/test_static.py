"""pytest tests/training/mixing/test_static.py"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from penstock.errors import ConfigError
from penstock.training.mixing.base import Observation
from penstock.training.mixing.cooldown import Cooldown
from penstock.training.mixing.static import Static

DOMAINS = ("en", "it", "sw")


def test_temperature_flattens_shares_of_tokens() -> None:
    # 16, 4 and 1 tokens: square roots 4, 2, 1
    mixture = Static(temperature=2).start(DOMAINS, np.array([16, 4, 1]))
    assert mixture.weights.tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    assert Static().start(DOMAINS, np.array([16, 4, 1])).weights.tolist() == pytest.approx([16 / 21, 4 / 21, 1 / 21])


def test_log_f_of_temperatures_equals_the_papers_factor() -> None:
    # sizes 2733, 162, 39 and 1: the factor F is 2.25 at temperature 2, 11.0 at 3.33 and 29.8 at 5
    sizes = np.array([2733, 162, 39, 1])
    p = sizes / sizes.sum()
    found = []
    for temperature in (1, 2, 1 / 0.3, 5):
        w = Static(temperature=temperature).start(("a", "b", "c", "d"), sizes).weights
        found.append(float((w**2 / p).sum()))
    assert found == pytest.approx([1.0, 2.25, 11.0, 29.8], rel=0.01)


def test_domains_without_tokens_get_nothing_from_uniform_and_proportional() -> None:
    assert Static(weights="uniform").start(DOMAINS, np.array([5, 0, 7])).weights.tolist() == [0.5, 0.0, 0.5]
    assert Static(temperature=1e9).start(DOMAINS, np.array([5, 0, 7])).weights.tolist() == pytest.approx([0.5, 0, 0.5])


def test_given_weights_are_normalised_and_stay() -> None:
    policy = Static(weights={"en": 2, "it": 1, "sw": 1})
    assert policy.start(DOMAINS, np.array([1, 1, 1])).weights.tolist() == [0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ({"en": 1, "it": 1, "sx": 1}, "unknown domain 'sx'; did you mean sw?"),
        ({"en": 1, "it": 1}, "no weight for sw"),
        ({"en": 1, "it": -1, "sw": 1}, "allowed finite weights >= 0"),
        ({"en": 1, "it": float("nan"), "sw": 1}, "allowed finite weights >= 0"),
        ({"en": 1, "it": "much", "sw": 1}, "got {'en': 1, 'it': 'much', 'sw': 1}"),
        ({"en": 1, "it": 1, "sw": 1}, "sw has no sequences but a positive weight"),
        ({"en": 0, "it": 0, "sw": 0}, "no domain has a positive weight"),
        ({"en": 0.2, "it": 0.2, "sw": 0.2}, "sum to 0.6, allowed shares that sum to 1"),
        ([1, 1, 1], "got [1, 1, 1], allowed 'proportional', 'uniform' or a weight per domain"),
        ("equal", "got 'equal', allowed 'proportional', 'uniform'"),
    ],
)
def test_bad_weights_are_refused_with_what_is_allowed(weights: Any, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        Static(weights=weights).start(DOMAINS, np.array([3, 3, 0]))
    assert text in str(error.value)


def test_no_tokens_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="no domain holds a token"):
        Static().start(DOMAINS, np.array([0, 0, 0]))


def test_cooldown_switches_once_at_half_of_the_steps(observed: Callable[..., Observation]) -> None:
    policy = Cooldown(steps=20, hot=2, cold=1)
    assert policy.start(DOMAINS, np.array([16, 4, 1])).weights.tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    asked = [step for step in range(1, 21) if policy.cadence.due(step)]
    assert asked == [10, 20]
    switched = policy.update(observed({}, step=10, weights=[4 / 7, 2 / 7, 1 / 7]))
    assert switched is not None
    assert switched.weights.tolist() == pytest.approx([16 / 21, 4 / 21, 1 / 21])
    assert switched.facts == {"temperature": 1}
    assert policy.update(observed({}, step=20, weights=[1, 0, 0])) is None


def test_cooldown_knows_after_a_restart_whether_it_has_switched(
    observed: Callable[..., Observation], as_json: Callable[[Any], Any]
) -> None:
    policy = Cooldown(steps=8)
    policy.start(DOMAINS, np.array([16, 4, 1]))
    policy.update(observed({}, step=4, weights=[1, 0, 0]))
    again = Cooldown(steps=8)
    again.start(DOMAINS, np.array([16, 4, 1]))
    again.load_state_dict(as_json(policy.state_dict()))
    assert again.update(observed({}, step=8, weights=[1, 0, 0])) is None


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"steps": 1}, "steps: got 1, allowed a finite number >= 2"),
        ({"steps": 2.5}, "allowed a whole number"),
        ({"steps": 10, "hot": 0}, "hot: got 0, allowed a finite number > 0"),
        ({"steps": 10, "at": 1.5}, "at: got 1.5"),
    ],
)
def test_cooldown_settings_out_of_range_are_refused(settings: Any, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        Cooldown(**settings)
    assert text in str(error.value)
