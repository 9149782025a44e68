"""pytest tests/training/group_rl/test_losses.py: the clipped surrogate, its means, ratios and divergences."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.training.group_rl.losses import (
    RATIO_PROMPTS,
    average,
    counts_of,
    kl_divergence,
    policy_loss,
)

NORMALIZERS = ("sequence", "token", "dr")
CONTEXTS = tuple(RATIO_PROMPTS)


def answers(seed: int, rows: int = 6, length: int = 5, spread: float = 0.5) -> dict[str, torch.Tensor]:
    """Log-probabilities, advantages and a ragged mask in float64; the second answer is not there."""
    draw = torch.Generator().manual_seed(seed)
    old = -3.0 * torch.rand(rows, length, generator=draw, dtype=torch.float64)
    lengths = torch.randint(1, length + 1, (rows,), generator=draw)
    lengths[1] = 0
    return {
        "logprobs": old + spread * torch.randn(rows, length, generator=draw, dtype=torch.float64),
        "old": old,
        "advantages": torch.randn(rows, generator=draw, dtype=torch.float64),
        "mask": torch.arange(length)[None, :] < lengths[:, None],
    }


def loss_and_gradient(given_: dict[str, torch.Tensor], **settings_: Any) -> tuple[Any, torch.Tensor, Any]:
    told = {"clip_low": 0.2, "clip_high": 0.28, "normalizer": "token", "max_tokens": 9} | settings_
    logprobs = given_["logprobs"].clone().requires_grad_()
    loss, facts = policy_loss(logprobs, given_["old"], given_["advantages"], given_["mask"], **told)
    loss.backward()
    assert logprobs.grad is not None
    return loss.item(), logprobs.grad, facts


def by_hand(
    given_: dict[str, torch.Tensor], normalizer: str, low: float, high: float, max_tokens: int
) -> tuple[float, list[list[float]]]:
    """Loss and gradient, token by token."""
    rows = list(zip(*(given_[name].tolist() for name in ("logprobs", "old", "advantages", "mask")), strict=True))
    counts = [sum(mask) for *_, mask in rows]
    whole = sum(c > 0 for c in counts)
    loss, gradient = 0.0, []
    for (new, old, advantage, mask), count in zip(rows, counts, strict=True):
        gradient.append([0.0] * len(mask))
        for t in range(count):
            weight = {"sequence": 1 / max(whole * count, 1), "token": 1 / sum(counts), "dr": 1 / (whole * max_tokens)}
            ratio = math.exp(new[t] - old[t])
            clipped = min(max(ratio, 1 - low), 1 + high)
            loss -= weight[normalizer] * min(ratio * advantage, clipped * advantage)
            if ratio * advantage <= clipped * advantage:
                gradient[-1][t] = -weight[normalizer] * ratio * advantage
    return loss, gradient


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("seed", range(4))
def test_loss_and_gradient_are_the_formula_token_by_token(normalizer: str, seed: int) -> None:
    given_ = answers(seed)
    loss, gradient, _ = loss_and_gradient(given_, normalizer=normalizer)
    expected, slopes = by_hand(given_, normalizer, 0.2, 0.28, 9)
    assert loss == pytest.approx(expected, rel=1e-12)
    assert gradient == pytest.approx(torch.tensor(slopes, dtype=torch.float64), rel=1e-12, abs=1e-15)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(NORMALIZERS), st.data())
def test_parts_of_a_step_add_up_to_the_step(seed: int, normalizer: str, data: Any) -> None:
    given_ = answers(seed, rows=8)
    part_of = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=8, max_size=8)))
    loss, gradient, facts = loss_and_gradient(given_, normalizer=normalizer)
    parts = [{name: tensor[part_of == part] for name, tensor in given_.items()} for part in range(4)]
    # each micro-batch and each rank knows the whole by counts alone
    total = tuple(int(sum(counts_of(part["mask"])[i] for part in parts)) for i in range(2))
    found = [loss_and_gradient(part, normalizer=normalizer, total=total) for part in parts]
    assert sum(part[0] for part in found) == pytest.approx(loss, abs=1e-12)
    for number, part in enumerate(found):
        assert part[1] == pytest.approx(gradient[part_of == number], abs=1e-12)
    for name, value in facts.items():
        assert sum(part[2][name].item() for part in found) == pytest.approx(value.item(), abs=1e-12)


def test_normalisers_weigh_long_answers_differently() -> None:
    mask = torch.tensor([[True, False, False], [True, True, True]])
    given_ = {"logprobs": torch.zeros(2, 3), "old": torch.zeros(2, 3), "advantages": torch.tensor([1.0, 1.0])}
    for normalizer, one, three in (("sequence", 1 / 2, 1 / 6), ("token", 1 / 4, 1 / 4), ("dr", 1 / 10, 1 / 10)):
        _, gradient, _ = loss_and_gradient(given_ | {"mask": mask}, normalizer=normalizer, max_tokens=5)
        assert gradient[0].tolist() == pytest.approx([-one, 0, 0])
        assert gradient[1].tolist() == pytest.approx([-three] * 3)


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [
        (1.25, 1.0, -1.25),  # above 1.2, but the upper bound is its own
        (1.35, 1.0, 0.0),
        (0.75, -1.0, 0.0),
        (0.85, -1.0, 0.85),
        (1.35, -1.0, 1.35),  # a wrong answer that became likelier is pushed down in full
        (0.5, 1.0, -0.5),
    ],
)
def test_the_clip_takes_the_gradient_only_where_the_step_would_go_further(
    ratio: float, advantage: float, slope: float
) -> None:
    given_ = {
        "logprobs": torch.tensor([[math.log(ratio)]], dtype=torch.float64),
        "old": torch.zeros(1, 1, dtype=torch.float64),
        "advantages": torch.tensor([advantage], dtype=torch.float64),
        "mask": torch.ones(1, 1, dtype=torch.bool),
    }
    _, gradient, facts = loss_and_gradient(given_)
    assert gradient.item() == pytest.approx(slope)
    assert facts["clipped_high"].item() == (slope == 0.0 and advantage > 0)
    assert facts["clipped_low"].item() == (slope == 0.0 and advantage < 0)
    assert facts["ratio"].item() == pytest.approx(ratio)
    assert facts["approx_kl"].item() == pytest.approx(ratio - 1 - math.log(ratio))


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_what_stands_outside_the_mask_has_no_part_in_loss_or_gradient(normalizer: str) -> None:
    given_ = answers(7)
    clean = loss_and_gradient(given_, normalizer=normalizer)
    outside = ~given_["mask"]
    spoilt = dict(given_)
    for name in ("logprobs", "old"):
        spoilt[name] = given_[name].masked_fill(outside, math.nan)
    spoilt["advantages"] = given_["advantages"].clone()
    spoilt["advantages"][1] = math.nan  # the answer that is not there
    found = loss_and_gradient(spoilt, normalizer=normalizer)
    assert found[0] == clean[0]
    assert found[1].tolist() == clean[1].tolist()
    assert {n: v.item() for n, v in found[2].items()} == {n: v.item() for n, v in clean[2].items()}
    fewer = {name: tensor[[0, 2, 3, 4, 5]] for name, tensor in given_.items()}
    assert loss_and_gradient(fewer, normalizer=normalizer)[0] == pytest.approx(clean[0], rel=1e-12)


def test_advantages_may_differ_by_token() -> None:
    given_ = answers(3)
    spread = given_ | {"advantages": given_["advantages"][:, None].expand(6, 5)}
    assert loss_and_gradient(spread)[0] == loss_and_gradient(given_)[0]
    # as many answers as tokens must not be taken for tokens
    square = answers(3, rows=5)
    spread = square | {"advantages": square["advantages"][:, None].expand(5, 5)}
    assert loss_and_gradient(spread)[0] == loss_and_gradient(square)[0]


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_a_step_without_a_token_has_loss_zero(normalizer: str) -> None:
    given_ = answers(1) | {"mask": torch.zeros(6, 5, dtype=torch.bool)}
    loss, gradient, facts = loss_and_gradient(given_, normalizer=normalizer)
    assert loss == 0.0
    assert not gradient.any()
    assert all(value.item() == 0.0 for value in facts.values())


@pytest.mark.parametrize("change", [300.0, -300.0])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_probabilities_far_apart_give_finite_numbers(change: float, advantage: float) -> None:
    given_ = {
        "logprobs": torch.tensor([[change]]),
        "old": torch.zeros(1, 1),
        "advantages": torch.tensor([advantage]),
        "mask": torch.ones(1, 1, dtype=torch.bool),
    }
    loss, gradient, facts = loss_and_gradient(given_)
    assert math.isfinite(loss)
    assert math.isfinite(gradient.item())
    assert all(torch.isfinite(value) for value in facts.values())
    assert torch.isfinite(kl_divergence(torch.zeros(1, 1), torch.tensor([[change]]), estimator="k3")).all()


def policy(seed: int, words: int = 5) -> torch.Tensor:
    logits = torch.randn(words, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.requires_grad_()


@pytest.mark.parametrize("seed", range(3))
def test_k1_and_k3_have_the_mean_of_the_divergence_and_k2_its_gradient(seed: int) -> None:
    logits, reference = policy(seed), policy(seed + 100).detach().log_softmax(0)
    logprobs = logits.log_softmax(0)
    chances = logprobs.exp()
    exact = (chances * (logprobs - reference)).sum()
    (slope,) = torch.autograd.grad(exact, logits, retain_graph=True)
    mean, gradient = {}, {}
    for name in ("k1", "k2", "k3"):
        values = kl_divergence(logprobs[None], reference[None], estimator=name)[0]  # type: ignore[arg-type]
        mean[name] = (chances.detach() * values).sum()
        (gradient[name],) = torch.autograd.grad(mean[name], logits, retain_graph=True)
        assert name == "k1" or (values >= 0).all()
    assert mean["k1"].item() == pytest.approx(exact.item(), rel=1e-12)
    assert mean["k3"].item() == pytest.approx(exact.item(), rel=1e-12)
    assert abs(mean["k2"].item() - exact.item()) > 1e-3
    assert gradient["k2"].tolist() == pytest.approx(slope.tolist(), abs=1e-12)
    assert gradient["k1"].tolist() == pytest.approx([0.0] * 5, abs=1e-12)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_a_divergence_is_averaged_as_the_loss_is_and_flat_groups_may_be_left_out(normalizer: str) -> None:
    given_ = answers(5)
    values, mask = given_["old"], given_["mask"]
    told = {"normalizer": normalizer, "max_tokens": 9, "total": counts_of(mask)}
    every = average(values, mask, **told)  # type: ignore[arg-type]
    # on policy the surrogate is -A, so that advantages stand for the values
    as_loss = given_ | {"logprobs": given_["old"], "advantages": -values}
    assert every.item() == pytest.approx(loss_and_gradient(as_loss, normalizer=normalizer)[0], rel=1e-12)
    flat = torch.tensor([True, False, True, False, False, False])
    parts = [average(values, mask & rows[:, None], **told) for rows in (flat, ~flat)]  # type: ignore[arg-type]
    assert (parts[0] + parts[1]).item() == pytest.approx(every.item(), rel=1e-12)
    assert parts[0].item() != 0.0


class Toy:
    """Answers of two tokens over a vocabulary of four, after either prompt: all 16 can be listed."""

    words = 4

    def __init__(self, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.logits = {
            prompt: torch.randn(self.words + 1, self.words, generator=draw, dtype=torch.float64)
            for prompt in ("own", "original")
        }

    def logprobs(self, prompt: str) -> torch.Tensor:
        """(16, 2): of the first token, and of the second after the first."""
        table = self.logits[prompt].log_softmax(dim=1)
        every = itertools.product(range(self.words), repeat=2)
        return torch.stack([torch.stack([table[-1, a], table[a, b]]) for a, b in every])


def ratio_terms(context: Any, now: Toy, sampled: Toy) -> tuple[torch.Tensor, torch.Tensor]:
    """The log-probabilities that a ratio is made of: under the policy that learns, and under the one that sampled."""
    of_new, of_old = RATIO_PROMPTS[context]
    return now.logprobs(of_new), sampled.logprobs(of_old)


def mean_ratio(context: Any, now: Toy, sampled: Toy) -> torch.Tensor:
    """Expectation of the product of token ratios over answers that ``sampled`` gives to the variant."""
    new, old = ratio_terms(context, now, sampled)
    chances = sampled.logprobs("own").sum(dim=1).exp()
    assert chances.sum().item() == pytest.approx(1.0)
    return (chances * (new - old).sum(dim=1).exp()).sum()


@pytest.mark.parametrize("context", ["own", "original_is"])
def test_ratios_that_are_importance_sampling_keep_the_mean_of_a_constant(context: str) -> None:
    assert mean_ratio(context, Toy(1), Toy(2)).item() == pytest.approx(1.0, rel=1e-12)


def test_swapped_ratios_do_not_keep_it_but_are_one_at_the_first_update() -> None:
    assert abs(mean_ratio("original_swap", Toy(1), Toy(2)).item() - 1.0) > 0.05
    now = Toy(3)
    for context in ("own", "original_swap"):
        new, old = ratio_terms(context, now, now)
        assert ((new - old).exp() == 1.0).all()
    new, old = ratio_terms("original_is", now, now)
    assert ((new - old).exp() != 1.0).any()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda g: loss_and_gradient(g, normalizer="mean"), "normalizer: got 'mean'"),
        (lambda g: loss_and_gradient(g, max_tokens=0), "max_tokens: got 0"),
        (lambda g: loss_and_gradient(g | {"mask": g["mask"].double()}), "of torch.float64"),
        (lambda g: loss_and_gradient(g | {"old": g["old"][:, :2]}), r"old \(6, 2\)"),
        (lambda g: loss_and_gradient(g | {"advantages": g["advantages"][:5]}), r"advantages \(5,\)"),
        (lambda g: average(g["old"][:2], g["mask"], normalizer="token", max_tokens=9), r"values \(2, 5\)"),
        (lambda g: kl_divergence(g["old"], g["old"], estimator="k4"), "kl_estimator: got 'k4'"),  # type: ignore[arg-type]
        (lambda g: kl_divergence(g["old"], g["old"][:2], estimator="k1"), r"reference \(2, 5\)"),
    ],
)
def test_what_is_no_loss_is_refused(call: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        call(answers(0))
