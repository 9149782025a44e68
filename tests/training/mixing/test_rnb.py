"""pytest tests/training/mixing/test_rnb.py"""

from __future__ import annotations

from collections.abc import Callable
from math import exp
from typing import Any

import numpy as np
import pytest

from penstock.errors import ConfigError
from penstock.training.mixing.base import Observation, Signal
from penstock.training.mixing.rnb import RegroupAndBalance

GRAM = Signal.GRADIENT_GRAM
DOMAINS = ("d0", "d1", "d2")
TOKENS = np.array([50, 25, 25])  # p = (1/2, 1/4, 1/4)
Gram = list[list[float | None]]


def started(**settings: Any) -> RegroupAndBalance:
    policy = RegroupAndBalance(**({"strength": 2.0} | settings))
    policy.start(DOMAINS, TOKENS)
    return policy


def softened(*values: float) -> list[float]:
    powers = [exp(v) for v in values]
    return [x / sum(powers) for x in powers]


def test_three_updates_by_hand_with_one_domain_absent(observed: Callable[..., Observation]) -> None:
    policy = started()
    assert policy.start(DOMAINS, TOKENS).weights.tolist() == pytest.approx([1 / 3] * 3)
    # 1: Gp = (6/2, 16/4, 0) = (3, 4, 0), its length 5
    first = policy.update(observed({GRAM: [[6, 0, 0], [0, 16, 0], [0, 0, 0]]}))
    assert first is not None
    assert first.weights.tolist() == pytest.approx(softened(1.2, 1.6, 0.0), abs=1e-12)
    # 2: d2 was not seen and keeps 0.2; among the others p = (2/3, 1/3) and Gp = (6 - 2, -4 + 7) = (4, 3)
    gram: Gram = [[9, -6, None], [-6, 21, None], [None, None, None]]
    second = policy.update(observed({GRAM: gram}, weights=[0.5, 0.3, 0.2]))
    assert second is not None
    assert second.weights.tolist() == pytest.approx([0.8 * w for w in softened(1.6, 1.2)] + [0.2], abs=1e-12)
    # 3: overwritten, so the first products give the first mixture again
    third = policy.update(observed({GRAM: [[6, 0, 0], [0, 16, 0], [0, 0, 0]]}, weights=second.weights.tolist()))
    assert third is not None
    assert third.weights.tolist() == first.weights.tolist()


def test_products_of_length_zero_leave_the_mixture(observed: Callable[..., Observation]) -> None:
    assert started().update(observed({GRAM: np.zeros((3, 3)).tolist()})) is None
    # nothing of it is 0, but G p is: (1, -2, 0) . (1/2, 1/4, 1/4)
    cancelling = [[1.0, -2.0, 0.0], [-2.0, 4.0, 0.0], [0.0, 0.0, 0.0]]
    assert started().update(observed({GRAM: cancelling})) is None
    assert started().update(observed({GRAM: [[None] * 3] * 3})) is None


def test_the_scale_of_gradients_does_not_matter(observed: Callable[..., Observation]) -> None:
    gram = np.array([[6.0, 1, 2], [1, 16, -3], [2, -3, 4]])
    found = [started().update(observed({GRAM: (gram * scale).tolist()})) for scale in (1.0, 1e-150, 1e150)]
    assert found[0] is not None
    for other in found[1:]:
        assert other is not None
        assert other.weights.tolist() == pytest.approx(found[0].weights.tolist(), rel=1e-12)


def test_shares_of_the_evaluation_data_count(observed: Callable[..., Observation]) -> None:
    # only d1 is evaluated on: d2 agrees with it, d0 does not
    policy = started(evaluation={"d0": 0, "d1": 1, "d2": 0})
    mixture = policy.update(observed({GRAM: [[9, 0, 0], [0, 3, 4], [0, 4, 9]]}))
    assert mixture is not None
    assert mixture.weights.tolist() == pytest.approx(softened(0.0, 1.2, 1.6))
    assert mixture.facts["direction"] == pytest.approx([0.0, 0.6, 0.8])


def test_pairs_that_were_never_seen_together_do_not_count(observed: Callable[..., Observation]) -> None:
    # d0 and d1 were seen, never in one measurement: each is compared with itself alone
    mixture = started().update(observed({GRAM: [[3, None, None], [None, 4, None], [None, None, None]]}))
    assert mixture is not None
    assert mixture.weights.tolist() == pytest.approx([2 / 3 * w for w in softened(1.2, 1.6)] + [1 / 3])


def test_strength_zero_is_uniform_and_bad_settings_are_refused(observed: Callable[..., Observation]) -> None:
    mixture = started(strength=0).update(observed({GRAM: [[6, 0, 0], [0, 16, 0], [0, 0, 0]]}))
    assert mixture is not None
    assert mixture.weights.tolist() == pytest.approx([1 / 3] * 3)
    with pytest.raises(ConfigError, match="strength: got -1"):
        RegroupAndBalance(strength=-1)
    with pytest.raises(ConfigError, match="policy rnb, evaluation: unknown domain 'x'"):
        started(evaluation={"x": 1})
