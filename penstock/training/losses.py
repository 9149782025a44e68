"""Cross-entropy of a language model's head that never holds all logits, token by token, with any gradient per token.

    losses = chunked_cross_entropy(hidden, head.weight, targets)          # (P,) nats, float32 or better
    sums, counts = sums_by_segment(losses, segments, segment_count)       # (S,) float64, detached
    weighted_sum(losses, segments, coefficients).backward()               # weights found after the losses

The logits of ``chunk`` tokens are made, reduced to a log-sum-exp and the target's logit, and dropped; the backward pass
makes them again. So the gradient of every token's loss may be anything, and may be known only once all losses are: a
fused kernel that takes the head's gradient in its forward pass cannot do that. Logits are reduced in float32 (float64
inputs in float64), the head's gradient is summed over the chunks in float32, and under autocast the products run in its
type, as those of the plain head do.

The head's weight must be whole where this runs: under FSDP2 call it inside ``forward`` of the module that owns it.

Price: peak memory one chunk of logits (4 V bytes a token, and 2 V more in bfloat16) in place of all of them; the head's
product once more in the backward pass (a third more head time), one addition to a (V, d) sum per chunk, and under
autocast a copy of the head's weight in its type.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from penstock.errors import ConfigError

if TYPE_CHECKING:
    import torch

# logits of a chunk unless told: 16 MB in float32 stays near a processor's caches, 256 MB fills a GPU
_LOGITS_ON_CPU, _LOGITS_ON_GPU = 1 << 22, 1 << 26
# with fewer, each pass over the head's weight serves too few tokens: at a vocabulary of 131,072 on a CPU, 32 take 1.6
# times as long as the plain form, 128 and 256 1.2 times
_FEWEST_TOKENS = 128


def default_chunk(vocabulary: int, device: str) -> int:
    """Tokens of a chunk when none is given; ``device`` is torch's name of its kind."""
    return max(_FEWEST_TOKENS, (_LOGITS_ON_CPU if device == "cpu" else _LOGITS_ON_GPU) // vocabulary)


def chunked_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    chunk: int | None = None,
) -> torch.Tensor:
    """Cross-entropy in nats of every token: shape (P,), float32 or the inputs' type where that is wider.

    Differentiable once in ``hidden``, ``weight`` and ``bias``, with any gradient per token. A token whose gradient is
    zero adds nothing, even where its loss or its hidden state is NaN.

    Args:
        hidden: last hidden states of the tokens *before* the predicted ones, shape (P, d).
        weight: of the head, shape (V, d).
        targets: predicted token ids below V, int64, shape (P,).
        bias: of the head, shape (V,).
        chunk: tokens whose logits exist at a time; None is what ``default_chunk`` says.

    Raises:
        ConfigError: shapes that do not belong together, or a chunk below 1.
    """
    fits = hidden.ndim == 2 and weight.ndim == 2 and hidden.shape[1] == weight.shape[1]
    if not fits or targets.shape != hidden.shape[:1] or (bias is not None and bias.shape != weight.shape[:1]):
        got = ", ".join(str(tuple(t.shape)) for t in (hidden, weight, targets, bias) if t is not None)
        raise ConfigError(
            f"cross-entropy: got shapes {got}, allowed hidden (P, d), weight (V, d), targets (P,), bias (V,); "
            "flatten rows and positions first"
        )
    if chunk is not None and chunk < 1:
        raise ConfigError(f"chunk: got {chunk}, allowed >= 1 tokens; leave it out for the default")
    out: torch.Tensor = _function().apply(
        hidden, weight, bias, targets, chunk or default_chunk(len(weight), hidden.device.type)
    )
    return out


def sums_by_segment(
    losses: torch.Tensor, segments: torch.Tensor, segment_count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of losses and number of tokens with a loss of every segment: two detached float64 tensors of shape (S,).

    Args:
        losses: shape (P,).
        segments: segment of each of them, int64 below ``segment_count``, shape (P,).
    """
    import torch

    sums = torch.zeros(segment_count, dtype=torch.float64, device=losses.device)
    sums.index_add_(0, segments, losses.detach().double())
    return sums, torch.bincount(segments, minlength=segment_count).double()


def weighted_sum(losses: torch.Tensor, segments: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    """Sum over tokens of their loss times the coefficient of their segment, a scalar with gradient.

    A segment with coefficient 0 is left out: its loss may be NaN.

    Args:
        losses, segments: shape (P,).
        coefficients: shape (S,); never part of the graph.
    """
    import torch

    factor = coefficients.detach().to(losses.dtype)[segments]
    return torch.where(factor == 0, 0.0, losses).mul(factor).sum()


@cache
def _function() -> Any:
    """The autograd function, made once: its class needs torch, and importing this module must not."""
    import torch
    from torch.autograd.function import once_differentiable

    def logits_of(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """A chunk's logits, ours to overwrite, in the type they are reduced in."""
        out = hidden @ weight.T if bias is None else torch.addmm(bias, hidden, weight.T)
        return out.to(torch.promote_types(out.dtype, torch.float32))

    class ChunkedCrossEntropy(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any,
            hidden: torch.Tensor,
            weight: torch.Tensor,
            bias: torch.Tensor | None,
            targets: torch.Tensor,
            chunk: int,
        ) -> torch.Tensor:
            kind = hidden.device.type
            narrow = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
            compute = narrow or torch.promote_types(hidden.dtype, weight.dtype)
            with torch.autocast(kind, enabled=False):
                head, shift = weight.to(compute), None if bias is None else bias.to(compute)
                wide = torch.promote_types(compute, torch.float32)
                losses = torch.empty(len(targets), dtype=wide, device=hidden.device)
                normaliser = torch.empty_like(losses)
                for begin in range(0, len(targets), chunk):
                    here = slice(begin, begin + chunk)
                    logits = logits_of(hidden[here].to(compute), head, shift)
                    picked = logits.gather(1, targets[here, None])[:, 0]
                    top = logits.amax(dim=1, keepdim=True)
                    # in place: torch.logsumexp would hold a second chunk
                    total = logits.sub_(top).exp_().sum(dim=1)
                    normaliser[here] = total.log_().add_(top[:, 0])
                    losses[here] = normaliser[here] - picked
                    del logits  # before the next chunk is made
            ctx.save_for_backward(hidden, weight, bias, targets, normaliser)
            ctx.chunk, ctx.compute = chunk, compute
            return losses

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            hidden, weight, bias, targets, normaliser = ctx.saved_tensors
            chunk, compute = ctx.chunk, ctx.compute
            needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
            wide = normaliser.dtype
            with torch.autocast(hidden.device.type, enabled=False):
                head, shift = weight.to(compute), None if bias is None else bias.to(compute)
                of_hidden = torch.empty_like(hidden) if needs_hidden else None
                of_weight = torch.zeros(weight.shape, dtype=wide, device=weight.device) if needs_weight else None
                of_bias = torch.zeros(len(weight), dtype=wide, device=weight.device) if needs_bias else None
                for begin in range(0, len(targets), chunk):
                    here = slice(begin, begin + chunk)
                    gradient = upstream[here, None].to(wide)
                    # a token without gradient is taken out before it is multiplied, as 0 times NaN is NaN: no hidden
                    # state, and softmax exp(-inf)
                    silent = gradient == 0
                    rows = hidden[here].to(compute).masked_fill(silent, 0.0)
                    scores = logits_of(rows, head, shift)
                    scores.sub_(normaliser[here, None].masked_fill(silent, torch.inf)).exp_()
                    scores.scatter_add_(1, targets[here, None], scores.new_full((len(rows), 1), -1.0))
                    scores.mul_(gradient)
                    if of_bias is not None:
                        of_bias += scores.sum(dim=0)
                    narrow = scores.to(compute)
                    if of_hidden is not None:
                        of_hidden[here] = narrow @ head
                    if of_weight is not None and compute == wide:
                        of_weight.addmm_(narrow.T, rows)
                    elif of_weight is not None:
                        of_weight += narrow.T @ rows
                    del scores, narrow
            return (
                of_hidden,
                None if of_weight is None else of_weight.to(weight.dtype),
                None if of_bias is None or bias is None else of_bias.to(bias.dtype),
                None,
                None,
            )

    return ChunkedCrossEntropy
