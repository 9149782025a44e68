"""pytest tests/training/mixing/test_doremi.py"""

from __future__ import annotations

from collections.abc import Callable
from math import log

import numpy as np
import pytest

from penstock.errors import ConfigError
from penstock.training.mixing.base import Observation, Signal
from penstock.training.mixing.doremi import DoReMi

DOMAINS = ("d0", "d1", "d2")
TOKENS = np.array([50, 30, 20])
EXCESS = Signal.EXCESS_LOSS
# the third domain is not there at first, later the first and then the second are not
SEEN: list[list[float | None]] = [[log(2), 0.0, None], [None, log(3), 0.0], [0.0, None, log(2)]]
# eta 1, c = 0.1, from thirds, all by hand:
#   1: (2, 1, 1) / 4 -> 0.9 of it + 1/30
#   2: (116, 93, 31) / 240, since d0 goes on with log 2 -> (112.4, 91.7, 35.9) / 240
#   3: (112.4, 3 * 91.7, 2 * 35.9) / 459.3, since d1 goes on with log 3 -> 0.9 of it + 1/30
BY_HAND = [
    [29 / 60, 31 / 120, 31 / 120],
    [0.468333333333333, 0.382083333333333, 0.149583333333333],
    [0.253581537121707, 0.572392771608970, 0.174025691269323],
]


def started(**settings: object) -> DoReMi:
    policy = DoReMi(**({"smoothing": 0.1} | settings))  # type: ignore[arg-type]
    policy.start(DOMAINS, TOKENS)
    return policy


def test_three_updates_by_hand_with_smoothing_and_absent_domains(observed: Callable[..., Observation]) -> None:
    policy = started()
    so_far = []
    for step, (excess, wanted) in enumerate(zip(SEEN, BY_HAND, strict=True), start=1):
        mixture = policy.update(observed({EXCESS: excess}, step=step, weights=[0.5, 0.3, 0.2], counts=[7, 11, 13]))
        assert mixture is not None
        assert mixture.facts["weights"] == pytest.approx(wanted, abs=1e-12)
        assert mixture.multipliers is not None
        assert mixture.multipliers.tolist() == pytest.approx([wanted[0] / 0.5, wanted[1] / 0.3, wanted[2] / 0.2])
        so_far.append(wanted)
        # what the large model is trained on: the mean of all mixtures so far
        assert policy.result.tolist() == pytest.approx(np.mean(so_far, axis=0).tolist(), abs=1e-12)
        # what the small model draws does not change
        assert mixture.weights.tolist() == [0.5, 0.3, 0.2]


def test_smoothing_inside_differs_from_smoothing_after(observed: Callable[..., Observation]) -> None:
    inside, after = started(), started(smoothing=0.0)
    for excess in SEEN:
        a = inside.update(observed({EXCESS: excess}, weights=[0.5, 0.3, 0.2]))
        b = after.update(observed({EXCESS: excess}, weights=[0.5, 0.3, 0.2]))
    assert a is not None
    assert b is not None
    smoothed = 0.9 * np.array(b.facts["weights"]) + 0.1 / 3
    assert np.abs(np.array(a.facts["weights"]) - smoothed).max() > 0.01


def test_multipliers_average_to_one_over_what_is_drawn(observed: Callable[..., Observation]) -> None:
    policy = DoReMi()
    start = policy.start(DOMAINS, TOKENS)
    assert start.multipliers is not None
    assert float(start.multipliers @ start.weights) == pytest.approx(1.0)
    assert start.multipliers.tolist() == pytest.approx([1 / 1.5, 1 / 0.9, 1 / 0.6])
    # the post-stage had changed what is drawn: the multipliers follow the observed shares
    mixture = policy.update(observed({EXCESS: [1.0, 0.5, 0.2]}, weights=[0.4, 0.4, 0.2]))
    assert mixture is not None
    assert mixture.multipliers is not None
    assert float(mixture.multipliers @ np.array([0.4, 0.4, 0.2])) == pytest.approx(1.0)


def test_a_domain_without_a_share_of_the_draws_takes_no_part(observed: Callable[..., Observation]) -> None:
    policy = DoReMi(smoothing=0.1, sampling={"d0": 1, "d1": 1, "d2": 0})
    start = policy.start(DOMAINS, TOKENS)
    assert start.multipliers is not None
    assert start.multipliers.tolist() == pytest.approx([1, 1, 0])
    mixture = policy.update(observed({EXCESS: [log(3), 0.0, None]}, weights=[0.5, 0.5, 0]))
    assert mixture is not None
    # 3/4 and 1/4, smoothed over two domains
    assert mixture.facts["weights"] == pytest.approx([0.725, 0.275, 0])


def test_a_crushed_domain_is_lifted_to_its_share_of_the_smoothing(observed: Callable[..., Observation]) -> None:
    policy = started(smoothing=0.003)
    for _ in range(3):
        mixture = policy.update(observed({EXCESS: [1e6, 0.0, 0.0]}, weights=[0.5, 0.3, 0.2]))
    assert mixture is not None
    assert mixture.facts["weights"] == pytest.approx([0.998, 0.001, 0.001], rel=1e-9)


@pytest.mark.parametrize("settings", [{"eta": -1}, {"smoothing": 1.0}, {"smoothing": None}, {"eta": True}])
def test_settings_out_of_range_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="policy doremi"):
        DoReMi(**settings)  # type: ignore[arg-type]
