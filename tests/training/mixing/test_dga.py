"""pytest tests/training/mixing/test_dga.py"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any

import numpy as np
import pytest

from penstock.errors import ConfigError
from penstock.training.mixing.base import Observation, Signal
from penstock.training.mixing.dga import DynamicGradientAlignment
from penstock.training.mixing.post import PostStage

DOMAINS = ("d0", "d1", "d2")
TOKENS = np.array([10, 10, 10])
DOT = Signal.TARGET_DOT
# the third domain is not probed the first time
PRODUCTS: list[list[float | None]] = [[log(2), 0.0, None], [0.0, log(3), log(2)], [-log(2), 0.0, 0.0]]
# from thirds: (2, 1) share 2/3, the third keeps 1/3; then (4, 6, 6) / 16; then (1, 3, 3) / 7
BY_HAND = [[4 / 9, 2 / 9, 1 / 3], [1 / 4, 3 / 8, 3 / 8], [1 / 7, 3 / 7, 3 / 7]]


def started(**settings: Any) -> DynamicGradientAlignment:
    policy = DynamicGradientAlignment(**({"eta": 1.0} | settings))
    policy.start(DOMAINS, TOKENS)
    return policy


def test_three_updates_by_hand_with_one_domain_absent(observed: Callable[..., Observation]) -> None:
    policy = started()
    for products, wanted in zip(PRODUCTS, BY_HAND, strict=True):
        mixture = policy.update(observed({DOT: products}, counts=[2, 2, 2]))
        assert mixture is not None
        assert mixture.weights.tolist() == pytest.approx(wanted, abs=1e-12)


def test_smoothing_of_the_post_stage_stays_out_of_the_recursion(observed: Callable[..., Observation]) -> None:
    policy, post = started(), PostStage(smoothing=0.3)
    before = np.full(3, 1 / 3)
    for products, wanted in zip(PRODUCTS, BY_HAND, strict=True):
        mixture = policy.update(observed({DOT: products}, weights=before.tolist()))
        assert mixture is not None
        before, _ = post.apply(mixture.weights, before=before)
        assert before.tolist() == pytest.approx([0.7 * w + 0.1 for w in wanted], abs=1e-12)


def test_the_running_mixture_by_hand_and_its_recursion_apart(observed: Callable[..., Observation]) -> None:
    policy = started(ema=0.5)
    found = [policy.update(observed({DOT: products})) for products in PRODUCTS]
    # halfway from (1, 1, 1) / 3 to the mixtures above, each time
    wanted = [
        [7 / 18, 5 / 18, 1 / 3],
        [23 / 72, 47 / 144, 17 / 48],
        [23 / 144 + 1 / 14, 47 / 288 + 3 / 14, 17 / 96 + 3 / 14],
    ]
    for mixture, numbers in zip(found, wanted, strict=True):
        assert mixture is not None
        assert mixture.weights.tolist() == pytest.approx(numbers, abs=1e-12)


def test_eta_scales_the_exponent_and_counts_only_the_mean(observed: Callable[..., Observation]) -> None:
    once = started(eta=2.0).update(observed({DOT: [log(2), 0.0, 0.0]}, counts=[1, 5, 9]))
    assert once is not None
    assert once.weights.tolist() == pytest.approx([4 / 6, 1 / 6, 1 / 6])


def test_a_domain_that_points_with_the_target_gains_and_one_against_it_loses(
    observed: Callable[..., Observation],
) -> None:
    policy = DynamicGradientAlignment()
    start = policy.start(DOMAINS, TOKENS)
    mixture = policy.update(observed({DOT: [0.4, 0.0, -0.4]}))
    assert mixture is not None
    assert start.weights.tolist() == pytest.approx([1 / 3] * 3)
    assert mixture.weights[0] > 1 / 3 > mixture.weights[2]
    # eta 1.5 and products of at most 1 move a logarithm by at most 1.5
    assert abs(np.log(mixture.weights[0] / mixture.weights[2])) == pytest.approx(1.5 * 0.8)


def test_no_probe_no_change(observed: Callable[..., Observation]) -> None:
    assert started().update(observed({DOT: [None, None, None]})) is None


def test_initial_mixture_by_name_and_a_weight_of_zero_stays_zero(observed: Callable[..., Observation]) -> None:
    policy = DynamicGradientAlignment(eta=1.0, initial={"d0": 3, "d1": 1, "d2": 0})
    assert policy.start(DOMAINS, TOKENS).weights.tolist() == pytest.approx([0.75, 0.25, 0])
    mixture = policy.update(observed({DOT: [0.0, log(3), 99.0]}))
    assert mixture is not None
    assert mixture.weights.tolist() == pytest.approx([0.5, 0.5, 0])


def test_three_updates_of_two_basis_distributions_over_three_domains(observed: Callable[..., Observation]) -> None:
    policy = DynamicGradientAlignment(eta=1.0, basis=[{"d0": 1, "d1": 1}, {"d2": 4, "d1": 1}])
    matrix = policy.basis_over(DOMAINS, TOKENS)
    assert matrix is not None
    assert matrix.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.2, 0.8]]
    assert policy.start(DOMAINS, TOKENS).weights.tolist() == pytest.approx([0.25, 0.35, 0.4])
    # b: (3, 1) / 4, then the second is not probed, then (3, 2) / 5
    for products, b in [([log(3), 0.0], (0.75, 0.25)), ([log(9), None], (0.75, 0.25)), ([0.0, log(2)], (0.6, 0.4))]:
        mixture = policy.update(observed({DOT: products}, weights=[1, 0, 0]))
        assert mixture is not None
        assert mixture.facts["basis_weights"] == pytest.approx(b)
        wanted = [0.5 * b[0], 0.5 * b[0] + 0.2 * b[1], 0.8 * b[1]]
        assert mixture.weights.tolist() == pytest.approx(wanted)


def test_a_basis_of_single_domains_is_the_plain_rule(observed: Callable[..., Observation]) -> None:
    plain, basis = started(), started(basis=[{"d0": 1}, {"d1": 1}, {"d2": 1}])
    for products in PRODUCTS:
        a, b = plain.update(observed({DOT: products})), basis.update(observed({DOT: products}))
        assert a is not None
        assert b is not None
        assert a.weights.tolist() == pytest.approx(b.weights.tolist(), abs=1e-15)


def test_products_of_domains_are_refused_where_the_basis_was_to_be_probed(
    observed: Callable[..., Observation],
) -> None:
    policy = started(basis=[{"d0": 1}, {"d1": 1}])
    with pytest.raises(ConfigError, match="the probe and the policy need the same basis"):
        policy.update(observed({DOT: [1.0, 2.0, 3.0]}))


def test_a_basis_goes_on_from_a_state_alone(
    observed: Callable[..., Observation], as_json: Callable[[Any], Any]
) -> None:
    policy = started(basis=[{"d0": 1, "d2": 1}, {"d1": 1}], ema=0.25)
    policy.update(observed({DOT: [0.3, -0.2]}, weights=[1, 0, 0]))
    fresh = DynamicGradientAlignment(eta=1.0, basis=[{"d0": 1, "d2": 1}, {"d1": 1}], ema=0.25)
    fresh.load_state_dict(as_json(policy.state_dict()))
    seen = observed({DOT: [0.1, 0.7]}, weights=[1, 0, 0])
    a, b = policy.update(seen), fresh.update(seen)
    assert a is not None
    assert b is not None
    assert a.weights.tolist() == b.weights.tolist()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"eta": 0}, "eta: got 0, allowed a finite number > 0"),
        ({"eta": "large"}, "eta: got 'large'"),
        ({"ema": 0.0}, "ema: got 0.0"),
        ({"ema": 1.5}, "<= 1"),
        ({"basis": []}, "at least one"),
        ({"basis": "abc"}, "a list of mixtures by domain"),
        ({"basis": [{"d9": 1}]}, "unknown domain 'd9'"),
        ({"basis": [{"d0": 0}]}, "no domain has a positive weight"),
        ({"basis": [{"d0": 1}], "initial": "proportional"}, "got initial beside basis"),
    ],
)
def test_settings_out_of_range_are_refused(settings: Any, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        DynamicGradientAlignment(**settings).start(DOMAINS, TOKENS)
    assert text in str(error.value)
