"""pytest tests/training/group_rl/test_nft.py: learning from right and wrong answers, and where it is GRPO."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.training.group_rl.advantages import group_advantages
from penstock.training.group_rl.losses import counts_of, policy_loss
from penstock.training.group_rl.nft import nft_loss

TOLD: dict[str, Any] = {"weight": 2, "negative": 1.0, "normalizer": "token", "max_tokens": 4}


def one_token(log_ratio: float, p: float, right: bool, *, dtype: Any = torch.float64, **changes: Any) -> Any:
    """Loss and slope of a single token."""
    logprobs = torch.tensor([[log_ratio]], dtype=dtype, requires_grad=True)
    loss, facts = nft_loss(
        logprobs,
        torch.zeros(1, 1, dtype=dtype),
        torch.tensor([p], dtype=dtype),
        torch.tensor([right]),
        torch.ones(1, 1, dtype=torch.bool),
        **(TOLD | changes),
    )
    loss.backward()
    assert logprobs.grad is not None
    return loss.item(), logprobs.grad.item(), facts


@pytest.mark.parametrize("p", [0.125, 0.5, 0.875])
def test_on_policy_coefficients_are_those_of_grpo(p: float) -> None:
    loss, slope, _ = one_token(0.0, p, True)
    assert loss == 0.0
    assert -slope == pytest.approx(math.sqrt((1 - p) / p), rel=1e-12)
    _, slope, _ = one_token(0.0, p, False)
    assert -slope == pytest.approx(-math.sqrt(p / (1 - p)), rel=1e-12)


class Softmax(torch.nn.Module):
    """A small policy over seven words: the next one by the prompt, the one before and the position."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.prompt, self.word, self.head = (
            torch.nn.Parameter(torch.randn(*shape, generator=draw, dtype=torch.float64))
            for shape in ((3, 5), (7, 5), (5, 7))
        )

    def forward(self, prompts: torch.Tensor, responses: torch.Tensor) -> torch.Tensor:
        """(B, T) log-probabilities."""
        before = torch.cat([torch.zeros_like(responses[:, :1]), responses[:, :-1]], dim=1)
        hidden = torch.tanh(self.prompt[prompts][:, None] + self.word[before])
        return (hidden @ self.head).log_softmax(-1).gather(2, responses[..., None])[..., 0]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from(["sequence", "token", "dr"]),
    st.sampled_from([(2, "std"), (1, "none")]),
    st.lists(st.booleans(), min_size=24, max_size=24),
)
def test_on_policy_the_gradient_of_a_policy_is_that_of_grpo_or_dr_grpo(
    seed: int, normalizer: Any, kind: Any, right: list[bool]
) -> None:
    weight, scale = kind
    model, draw = Softmax(seed), torch.Generator().manual_seed(seed + 1)
    # three questions of eight answers; a question of one kind of answers has no gradient in GRPO and is left out
    question = np.arange(24) % 3
    found = group_advantages(np.array(right, float), question, scale=scale, std="population", epsilon=0.0)
    responses = torch.randint(7, (24, 4), generator=draw)
    lengths = torch.randint(1, 5, (24, 1), generator=draw)
    mask = (torch.arange(4)[None] < lengths) & ~torch.from_numpy(found.flat)[:, None]
    logprobs = model(torch.from_numpy(question), responses)
    told = {"normalizer": normalizer, "max_tokens": 4, "total": (24, int(lengths.sum()))}
    nft, _ = nft_loss(
        logprobs, logprobs.detach(), torch.from_numpy(found.accuracy), torch.tensor(right), mask,
        weight=weight, negative=1.0, **told,
    )  # fmt: skip
    grpo, _ = policy_loss(
        logprobs, logprobs.detach(), torch.from_numpy(found.values), mask, clip_low=0.2, clip_high=0.2, **told
    )
    slopes = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for loss in (nft, grpo)]
    for ours, theirs in zip(*slopes, strict=True):
        assert ours.flatten().tolist() == pytest.approx(theirs.flatten().tolist(), rel=1e-9, abs=1e-12)
    assert found.flat.all() or any(slope.abs().max() > 1e-6 for slope in slopes[0])


@pytest.mark.parametrize(("weight", "factor"), [(0, 1.0), (1, 0.75), (2, math.sqrt(3.0))])
def test_the_weight_of_a_question_multiplies_its_loss(weight: Any, factor: float) -> None:
    for right in (True, False):
        plain, ours = (one_token(-0.3, 0.25, right, weight=w) for w in (0, weight))
        assert ours[0] == pytest.approx(factor * plain[0], rel=1e-12)
        assert ours[1] == pytest.approx(factor * plain[1], rel=1e-12)


def test_a_wrong_answer_below_the_floor_has_no_loss_and_is_pushed_down_still() -> None:
    p, ratio = 0.25, 1.5
    loss, slope, facts = one_token(math.log(ratio), p, False, weight=0)
    assert loss == 0.0
    assert slope == pytest.approx(p * ratio / (1 - p), rel=1e-12)
    assert facts["floored"].item() == 1.0
    assert facts["ratio"].item() == pytest.approx(ratio)
    implied = (1 - p * 0.5) / (1 - p)
    loss, slope, facts = one_token(math.log(0.5), p, False, weight=0)
    assert loss == pytest.approx(-math.log(implied), rel=1e-12)
    assert slope == pytest.approx(p * 0.5 / (1 - p) / implied, rel=1e-12)
    assert facts["floored"].item() == 0.0


def test_a_right_answer_is_fitted_by_its_likelihood_however_unlikely_it_became() -> None:
    for log_ratio in (2.0, -1.0, -40.0):
        loss, slope, facts = one_token(log_ratio, 0.25, True, weight=0)
        assert (loss, slope) == (-log_ratio, -1.0)
        assert facts["floored"].item() == 0.0


@pytest.mark.parametrize(("accuracy", "held"), [(0.0, 0.02), (0.001, 0.02), (1.0, 0.98), (0.99, 0.98), (0.3, 0.3)])
def test_the_share_of_right_answers_is_held_off_its_ends(accuracy: float, held: float) -> None:
    for right in (True, False):
        _, slope, _ = one_token(0.0, accuracy, right)
        expected = -math.sqrt((1 - held) / held) if right else math.sqrt(held / (1 - held))
        assert slope == pytest.approx(expected, rel=1e-9)


def test_wrong_answers_weigh_as_much_as_they_are_told() -> None:
    plain = one_token(-0.4, 0.5, False)
    half = one_token(-0.4, 0.5, False, negative=0.5)
    assert half[:2] == pytest.approx([0.5 * plain[0], 0.5 * plain[1]])
    assert one_token(-0.4, 0.5, False, negative=0.0)[:2] == (0.0, 0.0)
    assert one_token(-0.4, 0.5, True, negative=0.0)[:2] == one_token(-0.4, 0.5, True)[:2]


@pytest.mark.parametrize("log_ratio", [5.0, 18.0, 200.0, -200.0])
@pytest.mark.parametrize("right", [True, False])
def test_probabilities_far_apart_give_finite_numbers(log_ratio: float, right: bool) -> None:
    loss, slope, facts = one_token(log_ratio, 0.98, right, dtype=torch.float32)
    assert math.isfinite(loss)
    assert math.isfinite(slope)
    assert all(torch.isfinite(value) for value in facts.values())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["sequence", "token", "dr"]), st.data())
def test_parts_of_a_step_add_up_and_answers_that_are_not_there_count_nowhere(
    seed: int, normalizer: Any, data: Any
) -> None:
    draw = torch.Generator().manual_seed(seed)
    old = -torch.rand(8, 4, generator=draw, dtype=torch.float64)
    logprobs = (old + 0.4 * torch.randn(8, 4, generator=draw, dtype=torch.float64)).requires_grad_()
    mask = torch.arange(4)[None] < torch.randint(0, 5, (8, 1), generator=draw)
    accuracy = torch.where(mask.any(dim=1), torch.rand(8, generator=draw, dtype=torch.float64), math.nan)
    rows = (logprobs, old, accuracy, torch.arange(8) % 2 == 0, mask)
    told = TOLD | {"normalizer": normalizer}
    whole, facts = nft_loss(*rows, **told)
    (slope,) = torch.autograd.grad(whole, logprobs)
    part_of = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=8, max_size=8)))
    parts = [nft_loss(*(r[part_of == n] for r in rows), **told, total=counts_of(mask)) for n in range(3)]
    (sum_of_slopes,) = torch.autograd.grad(sum(loss for loss, _ in parts), logprobs)
    assert sum(loss.item() for loss, _ in parts) == pytest.approx(whole.item(), abs=1e-12)
    assert sum_of_slopes.flatten().tolist() == pytest.approx(slope.flatten().tolist(), abs=1e-12)
    assert slope.isfinite().all()
    for name, value in facts.items():
        assert sum(part[name].item() for _, part in parts) == pytest.approx(value.item(), abs=1e-12)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"weight": 3}, "nft_weight: got 3"),
        ({"negative": -1.0}, "nft_negative: got -1.0"),
        ({"negative": math.nan}, "nft_negative: got nan"),
        ({"normalizer": "mean"}, "normalizer: got 'mean'"),
    ],
)
def test_settings_that_are_none_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        one_token(0.0, 0.5, True, **changes)


def test_rows_of_another_number_are_refused() -> None:
    rows = torch.zeros(2, 3), torch.zeros(2, 3), torch.full((3,), 0.5), torch.ones(2, dtype=torch.bool)
    with pytest.raises(ConfigError, match=r"accuracy \(3,\)"):
        nft_loss(*rows, torch.ones(2, 3, dtype=torch.bool), **TOLD)
