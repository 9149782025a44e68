"""pytest tests/training/test_weighting.py: functions from losses to weights, without any loop."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.training.weighting import (
    SCORES,
    WeightingConfig,
    cap_weights,
    effective_size,
    loss_weights,
    normalise,
    softmax,
    weigh,
)
from penstock.training.weighting_range import LossRange, loss_range, tail_of, trimmed_count

# at this temperature exp(score / r) is 4 ** score
FOUR = 1 / math.log(4)
# on [1, 5] these are h = -1, -1/2, 0, 1
LOSSES = np.array([1.0, 2.0, 3.0, 5.0])
NAMES = sorted(SCORES)

batches = st.lists(st.floats(0.01, 20.0), min_size=2, max_size=40).map(np.array).filter(lambda x: np.ptp(x) > 1e-3)


@pytest.mark.parametrize(
    ("strategy", "powers"),
    [
        ("linupper", [1, 2, 4, 4]),
        ("quadratic", [1, 4**0.75, 4, 1]),
        ("extremes", [4, 2, 1, 4]),
        ("linear_half", [1, 4**0.25, 2, 4]),
        ("kl_dro", [1 / 4, 1 / 2, 1, 4]),
        ("uniform", [1, 1, 1, 1]),
    ],
)
def test_four_losses_have_the_weights_worked_out_by_hand(strategy: Any, powers: list[float]) -> None:
    found = loss_weights(LOSSES, strategy=strategy, temperature=FOUR, bounds="minmax")
    assert found == pytest.approx(np.array(powers) / sum(powers))


def test_linupper_is_flat_above_the_middle_and_the_linear_one_is_not() -> None:
    losses = np.array([1.0, 2.0, 3.2, 4.0, 5.0])
    high = loss_weights(losses, strategy="linupper", bounds="minmax")[2:]
    assert high.tolist() == [high[0]] * 3
    assert high[0] > loss_weights(losses, strategy="linupper", bounds="minmax")[1]
    assert np.diff(loss_weights(losses, strategy="linear_half", bounds="minmax")).min() > 0.01


@pytest.mark.parametrize("strategy", NAMES)
@settings(max_examples=60, deadline=None)
@given(losses=batches, r=st.floats(0.1, 5.0), data=st.data())
def test_weights_sum_to_one_and_follow_their_losses_not_their_places(
    strategy: Any, losses: Any, r: float, data: Any
) -> None:
    found = loss_weights(losses, strategy=strategy, temperature=r)
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1.0)
    order = data.draw(st.permutations(range(len(losses))))
    assert loss_weights(losses[order], strategy=strategy, temperature=r) == pytest.approx(found[order], rel=1e-9)
    span = 2.0 if strategy == "kl_dro" else 1.0
    assert found.max() / found.min() <= math.exp(span / r) * (1 + 1e-9)
    most = len(losses) / (1 + (len(losses) - 1) * math.exp(-span / r))
    assert len(losses) * found.max() <= most * (1 + 1e-9)


@pytest.mark.parametrize("strategy", NAMES)
@settings(max_examples=40, deadline=None)
@given(losses=batches, scale=st.floats(0.1, 10.0), shift=st.floats(-5.0, 5.0))
def test_units_of_the_loss_do_not_matter(strategy: Any, losses: Any, scale: float, shift: float) -> None:
    moved = loss_weights(losses * scale + shift, strategy=strategy, bounds="minmax")
    assert moved == pytest.approx(loss_weights(losses, strategy=strategy, bounds="minmax"), rel=1e-6)


@given(losses=batches, shift=st.floats(-5.0, 5.0))
def test_kl_dro_on_the_losses_themselves_ignores_a_shift_and_not_a_scale(losses: Any, shift: float) -> None:
    plain = loss_weights(losses, strategy="kl_dro", temperature=1.0, bounds="none")
    shifted = loss_weights(losses + shift, strategy="kl_dro", temperature=1.0, bounds="none")
    assert shifted == pytest.approx(plain, rel=1e-9)
    scaled = loss_weights(losses * 2, strategy="kl_dro", temperature=1.0, bounds="none")
    assert np.argmax(scaled) == np.argmax(plain)
    assert scaled.max() > plain.max()


@given(losses=batches)
def test_linupper_never_lowers_a_weight_as_its_loss_rises(losses: Any) -> None:
    found = loss_weights(np.sort(losses), strategy="linupper")
    assert np.diff(found).min() >= -1e-15


@pytest.mark.parametrize("strategy", [*NAMES, "uniform"])
def test_equal_losses_a_huge_temperature_and_a_single_loss_leave_nothing_to_weigh(strategy: Any) -> None:
    assert loss_weights(np.full(5, 3.0), strategy=strategy).tolist() == [0.2] * 5
    assert loss_weights(LOSSES, strategy=strategy, temperature=1e6) == pytest.approx([0.25] * 4, abs=1e-6)
    assert loss_weights(np.array([7.0]), strategy=strategy).tolist() == [1.0]


@pytest.mark.parametrize("strategy", NAMES)
def test_a_loss_that_is_no_number_has_no_weight_and_does_not_move_the_others(strategy: Any) -> None:
    broken = np.array([1.0, math.nan, 2.0, 3.0, math.inf, 5.0, -math.inf])
    found = loss_weights(broken, strategy=strategy)
    assert found[[1, 4, 6]].tolist() == [0.0, 0.0, 0.0]
    assert found[[0, 2, 3, 5]].tolist() == loss_weights(LOSSES, strategy=strategy).tolist()
    assert loss_weights(np.full(3, math.nan), strategy=strategy).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_the_same_for_arrays_and_for_tensors_and_never_above_the_ceiling(name: str) -> None:
    h = np.linspace(-1, 1, 9)
    array, tensor = SCORES[name](h), SCORES[name](torch.from_numpy(h))
    assert tensor.numpy().tolist() == array.tolist()
    assert array.max() == 1.0


def test_a_small_range_keeps_its_digits_in_float32() -> None:
    exact = np.linspace(3.0, 3.0001, 11)
    bounds = LossRange(float(np.float32(exact[0])), float(np.float32(exact[-1])))
    losses = torch.tensor(exact, dtype=torch.float32)
    wanted = 2 * (losses.double() - bounds.low) / (bounds.high - bounds.low) - 1
    assert (normalise(losses, bounds).double() - wanted).abs().max() < 1e-4
    width = np.float32(bounds.high) - np.float32(bounds.low)
    usual = (2 * losses - np.float32(bounds.high + bounds.low)) / width
    assert (usual.double() - wanted).abs().max() > 2e-3


@pytest.mark.parametrize("strategy", NAMES)
def test_a_range_below_the_floor_is_no_range(strategy: Any) -> None:
    losses = 3.0 + np.array([0.0, 0.5, 1.0]) * 1e-8
    assert loss_weights(losses, strategy=strategy) == pytest.approx([1 / 3] * 3, abs=0.02)


# effective size over M, mean of M times the largest weight: 200 batches of normal losses, measured with another
# implementation
MEASURED = {
    ("linupper", 48, 1.0): (0.95, 1.17),
    ("linupper", 48, 0.4): (0.84, 1.37),
    ("quadratic", 48, 0.4): (0.85, 1.46),
    ("extremes", 48, 0.4): (0.58, 3.72),
    ("kl_dro", 48, 1.0): (0.83, 2.49),
    ("kl_dro", 48, 0.4): (0.38, 7.01),
    ("linear_half", 48, 0.4): (0.75, 3.04),
    ("linupper", 128, 0.4): (0.87, 1.32),
    ("extremes", 128, 0.4): (0.62, 4.46),
}


@pytest.mark.parametrize(("strategy", "size", "r"), sorted(MEASURED))
def test_normal_losses_have_the_effective_size_and_the_largest_weight_that_were_measured(
    strategy: Any, size: int, r: float
) -> None:
    draws = np.random.default_rng(0).normal(3.0, 0.5, (200, size))
    found = [loss_weights(row, strategy=strategy, temperature=r, bounds="minmax") for row in draws]
    share, largest = MEASURED[strategy, size, r]
    assert np.mean([effective_size(w) / size for w in found]) == pytest.approx(share, abs=0.02)
    assert np.mean([w.max() * size for w in found]) == pytest.approx(largest, rel=0.06)


@pytest.mark.parametrize(("kind", "lost"), [("minmax", True), ("quantile", True), ("trimmed", False)])
def test_one_bad_sequence_takes_the_batch_over_unless_the_range_is_trimmed(kind: Any, lost: bool) -> None:
    """A quantile of 1 % interpolates towards the outlier, so it is as little help as the maximum."""
    largest = []
    for row in np.random.default_rng(1).normal(3.0, 0.5, (50, 48)):
        row[0] = 20.0
        largest.append(48 * loss_weights(row, bounds=kind, quantile=0.01)[0])
    assert (float(np.mean(largest)) > 6.0) is lost
    assert (float(max(largest)) < 2.0) is not lost


@pytest.mark.parametrize(
    ("size", "dropped"), [(1, 0), (2, 0), (3, 0), (4, 1), (48, 1), (50, 1), (51, 2), (100, 2), (101, 3)]
)
def test_the_trim_is_rounded_up_and_leaves_two(size: int, dropped: int) -> None:
    assert trimmed_count(size, 0.02) == dropped
    losses = np.random.default_rng(0).permutation(size).astype(float)
    assert loss_range(losses, "trimmed", trim=0.02) == (dropped, size - 1 - dropped)
    assert trimmed_count(size, 0.0) == 0


def test_ranges_of_five_losses() -> None:
    losses = np.array([4.0, 1.0, 9.0, 2.0, 3.0])
    assert loss_range(losses, "minmax") == (1.0, 9.0)
    assert loss_range(losses, "trimmed", trim=0.2) == (2.0, 4.0)
    assert loss_range(losses, "quantile", quantile=0.25) == (2.0, 4.0)
    with pytest.raises(ConfigError, match="range: got 'running', allowed minmax, trimmed or quantile"):
        loss_range(losses, "running")


# --- the cap ---


@settings(max_examples=100, deadline=None)
@given(raw=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=30), c=st.floats(1.0, 5.0))
def test_a_cap_holds_keeps_the_sum_and_the_proportions_below_it(raw: list[float], c: float) -> None:
    weights = np.array(raw) / np.sum(raw)
    limit = c / len(weights)
    found = cap_weights(weights, limit)
    assert found.sum() == pytest.approx(1.0)
    assert found.max() <= limit * (1 + 1e-9)
    free = found < limit * (1 - 1e-9)
    if free.any():
        # by the water-filling condition: one factor >= 1 for all that are not at the cap, which the others would exceed
        factor = (found[free] / weights[free]).mean()
        assert factor >= 1 - 1e-9
        assert found[free] == pytest.approx(weights[free] * factor, rel=1e-6)
        assert (weights[~free] * factor >= limit * (1 - 1e-6)).all()


def test_a_cap_of_weights_worked_out_by_hand() -> None:
    # 0.6 is cut to 0.4 and the rest doubled by 0.6 / 0.4 = 1.5: 0.3 becomes 0.45, is cut too, and 0.1 gets what is left
    assert cap_weights(np.array([0.6, 0.3, 0.1]), 0.4) == pytest.approx([0.4, 0.4, 0.2])
    assert cap_weights(np.array([0.5, 0.5]), 0.9).tolist() == [0.5, 0.5]


def test_a_cap_of_two_keeps_the_bound_where_it_was_broken() -> None:
    losses = np.random.default_rng(0).normal(3.0, 0.5, 48)
    free = loss_weights(losses, strategy="kl_dro", temperature=0.4)
    assert free.max() * 48 > 2.5
    capped = loss_weights(losses, strategy="kl_dro", temperature=0.4, cap=2.0)
    assert capped.max() * 48 == pytest.approx(2.0)
    assert capped.sum() == pytest.approx(1.0)


# --- robust optimisation ---


def test_kl_dro_weights_are_the_adversary_of_the_log_mean_exp() -> None:
    """The gradient with the weights held is that of r log mean exp(l / r), and no other weights reach its value."""
    r = 0.7
    theta = torch.tensor([0.3, -1.2, 0.8], dtype=torch.float64, requires_grad=True)
    rows = torch.tensor(np.random.default_rng(0).normal(size=(6, 3)))
    losses = (rows @ theta - 1.0).square()
    weights = loss_weights(losses.detach().numpy(), strategy="kl_dro", temperature=r, bounds="none")
    (held,) = torch.autograd.grad((torch.from_numpy(weights) * losses).sum(), theta, retain_graph=True)
    value = r * (torch.logsumexp(losses / r, 0) - math.log(6))
    (whole,) = torch.autograd.grad(value, theta)
    assert held.tolist() == pytest.approx(whole.tolist(), rel=1e-12)

    seen = losses.detach().numpy()
    reached = weights @ seen - r * (weights * np.log(6 * weights)).sum()
    assert reached == pytest.approx(value.item(), rel=1e-12)
    for other in np.random.default_rng(1).dirichlet(np.ones(6), 50):
        assert other @ seen - r * (other * np.log(6 * other)).sum() < reached


# --- the tail ---


def test_garbage_beyond_the_trim_is_seen_and_gains_weight_with_linupper_alone() -> None:
    draw = np.random.default_rng(0)
    losses = draw.normal(5.3, 0.4, 100)
    losses[:10] = draw.normal(9.5, 0.2, 10)
    bounds = loss_range(losses, "trimmed")
    found = {name: tail_of(losses, loss_weights(losses, strategy=name), bounds) for name in ("linupper", "quadratic")}
    assert all(tail.uncovered and tail.share == 0.1 for tail in found.values())
    assert found["linupper"].weight > 0.2
    assert found["quadratic"].weight < 0.1


def test_garbage_within_the_trim_is_covered() -> None:
    draw = np.random.default_rng(0)
    losses = draw.normal(5.3, 0.4, 100)
    losses[:2] = 9.5
    tail = tail_of(losses, loss_weights(losses), loss_range(losses, "trimmed"))
    assert (tail.share, tail.uncovered) == (0.02, False)
    assert tail_of(losses, loss_weights(losses), loss_range(losses, "minmax")).uncovered


@pytest.mark.parametrize("shape", ["normal", "skewed", "repeats", "equal", "few"])
def test_ordinary_batches_have_no_tail(shape: str) -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        losses = {
            "normal": draw.normal(3.0, 0.5, 64),
            "skewed": draw.lognormal(1.2, 0.3, 64),
            "repeats": np.where(draw.random(64) < 0.4, 0.05, draw.normal(5.0, 0.5, 64)),
            "equal": np.full(64, 3.0),
            "few": np.array([1.0, 1.0, 1.0, 9.0]),
        }[shape]
        assert not tail_of(losses, loss_weights(losses), loss_range(losses, "trimmed")).uncovered


# --- segments that cannot be weighed, or hardly ---


def test_short_segments_have_the_mean_score_and_do_not_make_the_range() -> None:
    config = WeightingConfig(range="minmax", temperature=FOUR, min_tokens=4)
    found = weigh(np.array([1.0, 2.0, 3.0, 5.0, 40.0, 0.0]), np.array([9.0, 9, 9, 9, 3, 3]), config, FOUR)
    assert found.bounds == (1.0, 5.0)
    assert found.scores.tolist() == [0.0, 0.5, 1.0, 1.0, 0.625, 0.625]
    powers = np.array([1, 2, 4, 4, 4**0.625, 4**0.625])
    assert found.weights == pytest.approx(powers / powers.sum())
    short = weigh(LOSSES, np.ones(4), config, FOUR)
    assert short.weights.tolist() == [0.25] * 4
    assert short.bounds is None


def test_an_empty_and_a_broken_segment_have_no_weight() -> None:
    found = weigh(np.array([1.0, 0.0, 3.0, math.nan]), np.array([5.0, 0, 5, 5]), WeightingConfig(), 0.4)
    assert found.live.tolist() == [True, False, True, False]
    assert found.weights[[1, 3]].tolist() == [0.0, 0.0]
    assert found.weights.sum() == pytest.approx(1.0)
    assert found.bounds == (1.0, 3.0)
    assert weigh(np.zeros(2), np.zeros(2), WeightingConfig(), 0.4).weights.tolist() == [0.0, 0.0]
    assert weigh(np.zeros(0), np.zeros(0), WeightingConfig(), 0.4).weights.tolist() == []


def test_softmax_of_scores_far_apart_is_finite() -> None:
    assert softmax(np.array([0.0, 1000.0]), 0.1).tolist() == [0.0, 1.0]


# --- settings ---


@pytest.mark.parametrize(
    ("settings_", "temperatures"),
    [
        ({}, {1: 0.4, 99: 0.4}),
        ({"strategy": "extremes"}, {1: 1.0, 99: 1.0}),
        ({"schedule": "linear", "final_temperature": 0.2, "schedule_steps": 4}, {11: 0.4, 13: 0.3, 15: 0.2, 99: 0.2}),
        (
            {"temperature": 3.0, "schedule": "cosine", "final_temperature": 1.0, "schedule_steps": 4},
            {5: 3.0, 11: 3.0, 12: 3 - 2 * (0.5 - 0.5 * math.cos(math.pi / 4)), 13: 2.0, 15: 1.0, 99: 1.0},
        ),
    ],
)
def test_the_temperature_follows_its_schedule_after_the_warm_up(
    settings_: dict[str, Any], temperatures: dict[int, float]
) -> None:
    config = WeightingConfig(warmup_steps=10, **settings_)
    assert {step: config.temperature_at(step) for step in temperatures} == pytest.approx(temperatures)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"strategy": "upper"}, "strategy: got 'upper', allowed linupper, quadratic, extremes"),
        ({"temperature": 0.0}, "temperature: got 0.0, allowed a finite number > 0"),
        ({"temperature": math.nan}, "temperature: got nan"),
        ({"schedule": "linear"}, "final_temperature: got None, allowed set with schedule linear or cosine"),
        ({"final_temperature": 0.2}, "final_temperature: got 0.2, allowed set with schedule linear or cosine"),
        ({"schedule": "linear", "final_temperature": 0.2}, "schedule_steps: got None"),
        ({"schedule": "cosine", "final_temperature": 0.2, "schedule_steps": 0}, "schedule_steps: got 0"),
        ({"warmup_steps": -1}, "warmup_steps: got -1, allowed a whole number >= 0"),
        ({"min_tokens": 0}, "min_tokens: got 0, allowed a whole number >= 1"),
        ({"trim": 0.5}, "trim: got 0.5, allowed 0 <= share < 0.5"),
        ({"quantile": -0.1}, "quantile: got -0.1"),
        ({"running_decay": 1.0}, "running_decay: got 1.0"),
        ({"cap": 0.9}, "cap: got 0.9, allowed a number >= 1"),
        ({"range": "none"}, "range: got 'none', allowed 'none' with strategy kl_dro alone"),
        ({"strategy": "kl_dro", "range": "none", "accumulation": "deferred"}, "scores need a ceiling"),
        ({"accumulation": "deferred", "cap": 2.0}, "a cap needs all weights before the gradient"),
        ({"accumulation": "running", "temperature": 0.01}, "temperature: got 0.01, allowed at least 0.05"),
        ({"accumulation": "each"}, "accumulation: got 'each', allowed prepass, running, deferred, per_micro"),
        ({"length": "tokens"}, "length: got 'tokens', allowed sequence, token"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_what_is_allowed(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WeightingConfig(**settings_)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"strategy": "upper"}, "strategy: got 'upper'"),
        ({"temperature": -1.0}, "temperature: got -1.0"),
        ({"bounds": "running"}, "bounds: got 'running'"),
        ({"bounds": "none"}, "'none' with kl_dro alone"),
        ({"cap": 0.5}, "cap: got 0.5"),
    ],
)
def test_loss_weights_refuses_what_it_cannot_do(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loss_weights(LOSSES, **settings_)


# --- the paper's linear regression ---


def regression_error(strategy: Any, seed: int) -> float:
    """Squared distance from the truth after 100 steps of gradient descent on weighted squares, r = 1."""
    draw = np.random.default_rng(seed)
    truth, theta = draw.normal(size=20), np.zeros(20)
    for _ in range(100):
        rows = draw.normal(size=(64, 20))
        residual = rows @ (theta - truth)
        weights = loss_weights(residual**2, strategy=strategy, temperature=1.0, bounds="minmax")
        theta -= 0.02 * 2 * (weights * residual) @ rows
    return float(((theta - truth) ** 2).sum())


def test_linear_regression_learns_fastest_with_linupper_then_quadratic_then_uniform_and_extremes_last_of_all() -> None:
    for seed in range(5):
        error = {name: regression_error(name, seed) for name in ("linupper", "quadratic", "uniform", "extremes")}
        assert sorted(error, key=error.__getitem__) == ["linupper", "quadratic", "uniform", "extremes"], error
