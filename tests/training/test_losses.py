"""pytest tests/training/test_losses.py: the chunked cross-entropy against the plain one."""

from __future__ import annotations

import math
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from penstock.errors import ConfigError
from penstock.training.losses import chunked_cross_entropy, default_chunk, sums_by_segment, weighted_sum
from penstock.training.weighting import loss_weights


def head(tokens: int, width: int, vocabulary: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    """(hidden, weight, bias, targets) with gradients on."""
    draw = torch.Generator().manual_seed(seed)
    made = [torch.randn(*shape, generator=draw, dtype=dtype) for shape in ((tokens, width), (vocabulary, width))]
    made.append(torch.randn(vocabulary, generator=draw, dtype=dtype))
    targets = torch.randint(vocabulary, (tokens,), generator=draw)
    return *(t.requires_grad_() for t in made), targets


def plain(hidden: Any, weight: Any, targets: Any, bias: Any = None) -> torch.Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias)
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none")


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(0, 23),
    width=st.integers(1, 5),
    vocabulary=st.integers(2, 17),
    chunk=st.integers(1, 30),
    with_bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_losses_and_all_gradients_are_those_of_the_plain_form(
    tokens: int, width: int, vocabulary: int, chunk: int, with_bias: bool, seed: int
) -> None:
    hidden, weight, bias, targets = head(tokens, width, vocabulary, seed=seed)
    bias = bias if with_bias else None
    upstream = torch.randn(tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    inputs = [t for t in (hidden, weight, bias) if t is not None]
    expected = plain(hidden, weight, targets, bias)
    found = chunked_cross_entropy(hidden, weight, targets, bias=bias, chunk=chunk)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)
    wanted = torch.autograd.grad((upstream * expected).sum(), inputs)
    for ours, theirs in zip(torch.autograd.grad((upstream * found).sum(), inputs), wanted, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-11, atol=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    hidden, weight, bias, targets = head(7, 3, 5)
    assert torch.autograd.gradcheck(
        lambda h, w, b: chunked_cross_entropy(h, w, targets, bias=b, chunk=3), (hidden, weight, bias)
    )


def test_weights_that_are_known_only_after_the_losses_give_the_gradient_of_the_plain_form() -> None:
    hidden, weight, _, targets = head(60, 4, 11)
    segments = torch.arange(60) // 10
    gradients = []
    for losses in (chunked_cross_entropy(hidden, weight, targets, chunk=7), plain(hidden, weight, targets)):
        sums, counts = sums_by_segment(losses, segments, 6)
        weights = torch.from_numpy(loss_weights((sums / counts).numpy()))
        assert weights.max() > 1.5 * weights.min()
        gradients.append(torch.autograd.grad(weighted_sum(losses, segments, weights / counts), (hidden, weight)))
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-14)


class Allocated(TorchDispatchMode):
    """Elements of the largest tensor that an operation made, and of all that lived at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.largest = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, torch.Tensor):
                self.largest = max(self.largest, value.numel())
                place = value.untyped_storage().data_ptr()
                # what works in place, and a view, live where something lives already
                if value.numel() and place not in self.live:
                    self.live[place] = value.numel()
                    weakref.finalize(value, self.live.pop, place, None)
        self.most = max(self.most, sum(self.live.values()))
        return out


def allocated(loss: Any) -> Allocated:
    with Allocated() as seen:
        loss().sum().backward()
    return seen


def test_one_chunk_of_logits_is_the_most_that_exists_of_them() -> None:
    hidden, weight, bias, targets = head(400, 4, 1000, dtype=torch.float32)
    whole = allocated(lambda: plain(hidden, weight, targets))
    assert whole.largest == 400 * 1000
    assert whole.most >= 2 * 400 * 1000
    chunked = allocated(lambda: chunked_cross_entropy(hidden, weight, targets, bias=bias, chunk=16))
    assert chunked.largest == 16 * 1000
    # beside it there are gradients of 400 * 4 and 1000 * 5 and a few numbers per token
    assert chunked.most < 1.75 * 16 * 1000


def test_nothing_of_the_size_of_a_chunk_is_kept_for_the_backward_pass() -> None:
    hidden, weight, _, targets = head(400, 4, 1000, dtype=torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        chunked_cross_entropy(hidden, weight, targets, chunk=16)
    assert max(kept) == weight.numel() == 4000


def test_the_default_chunk_bounds_the_logits() -> None:
    assert default_chunk(4096, "cpu") * 4096 == 1 << 22
    assert default_chunk(128_256, "cuda") * 128_256 <= 1 << 26
    assert default_chunk(10**9, "cpu") == 128
    hidden, weight, _, targets = head(9, 2, 3)
    assert torch.equal(
        chunked_cross_entropy(hidden, weight, targets), chunked_cross_entropy(hidden, weight, targets, chunk=9)
    )


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_products_are_summed_in_float32(autocast: bool) -> None:
    """Against float32 of the same rounded numbers: bfloat16's own steps are 0.8 %."""
    kind = torch.float32 if autocast else torch.bfloat16
    hidden, weight, bias, targets = head(2048, 16, 64, dtype=torch.float32)
    given = [t.detach().bfloat16().to(kind).requires_grad_() for t in (hidden, weight, bias)]
    exact = [t.detach().float().requires_grad_() for t in given]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = chunked_cross_entropy(given[0], given[1], targets, bias=given[2], chunk=8)
    expected = plain(exact[0], exact[1], targets, exact[2])
    assert found.dtype == torch.float32
    # logits up to 32 are rounded to 1 / 16
    assert (found - expected).abs().max() < 0.13
    assert (found.mean() - expected.mean()).abs() < 2e-3
    found.mean().backward()
    expected.mean().backward()
    for ours, theirs in zip(given, exact, strict=True):
        assert ours.grad.dtype == kind
        error = (ours.grad.float() - theirs.grad).norm() / theirs.grad.norm()
        assert error < 0.01, error


def test_only_the_gradients_asked_for_are_taken() -> None:
    hidden, weight, bias, targets = head(6, 3, 5)
    chunked_cross_entropy(hidden, weight.detach(), targets, bias=bias.detach(), chunk=2).sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None
    chunked_cross_entropy(hidden.detach(), weight, targets, chunk=2).sum().backward()
    assert torch.allclose(weight.grad, torch.autograd.grad(plain(hidden, weight, targets).sum(), weight)[0])
    assert not chunked_cross_entropy(hidden.detach(), weight.detach(), targets).requires_grad


def test_a_segment_without_weight_adds_nothing_even_where_its_loss_is_no_number() -> None:
    hidden, weight, bias, targets = head(6, 3, 5)
    with torch.no_grad():
        hidden[4] = math.nan
    segments = torch.tensor([0, 0, 1, 1, 2, 2])
    losses = chunked_cross_entropy(hidden, weight, targets, bias=bias, chunk=4)
    assert losses[4].isnan()
    objective = weighted_sum(losses, segments, torch.tensor([0.25, 0.25, 0.0]))
    found = torch.autograd.grad(objective, (hidden, weight, bias))
    expected = 0.25 * plain(hidden, weight, targets, bias)[:4].sum()
    wanted = torch.autograd.grad(expected, (hidden, weight, bias))
    assert objective.item() == pytest.approx(expected.item())
    assert torch.allclose(found[0][:4], wanted[0][:4])
    assert found[0][4:].tolist() == [[0.0] * 3] * 2
    # of the plain form without the segment: with it, the head's own gradient is NaN
    alone = 0.25 * plain(hidden[:4], weight, targets[:4], bias).sum()
    assert torch.allclose(found[1], torch.autograd.grad(alone, weight)[0])
    assert wanted[1].isnan().any()
    assert found[2].isfinite().all()


def test_coefficients_are_no_part_of_the_graph() -> None:
    losses = torch.tensor([1.0, 2.0], requires_grad=True)
    weighted_sum(losses, torch.tensor([0, 1]), losses * 3).backward()
    assert losses.grad.tolist() == [3.0, 6.0]


def test_sums_by_segment_count_every_token_once() -> None:
    losses = torch.tensor([1.0, 2.0, 4.0, 8.0], requires_grad=True)
    sums, counts = sums_by_segment(losses, torch.tensor([2, 0, 2, 3]), 5)
    assert sums.tolist() == [2.0, 0.0, 5.0, 8.0, 0.0]
    assert counts.tolist() == [1.0, 0.0, 2.0, 1.0, 0.0]
    assert not sums.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": torch.zeros(2, 3, 4)}, r"got shapes \(2, 3, 4\), \(5, 4\), \(6,\)"),
        ({"weight": torch.zeros(5, 3)}, r"got shapes \(6, 4\), \(5, 3\), \(6,\)"),
        ({"targets": torch.zeros(7, dtype=torch.int64)}, r"got shapes \(6, 4\), \(5, 4\), \(7,\)"),
        ({"bias": torch.zeros(6)}, r"got shapes \(6, 4\), \(5, 4\), \(6,\), \(6,\), allowed hidden \(P, d\)"),
        ({"chunk": 0}, "chunk: got 0, allowed >= 1 tokens"),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "hidden": torch.zeros(6, 4),
        "weight": torch.zeros(5, 4),
        "targets": torch.zeros(6, dtype=torch.int64),
    }
    with pytest.raises(ConfigError, match=message):
        chunked_cross_entropy(**(arguments | change))
