"""The clipped surrogate of a step's answers, how it is averaged, and the divergence from a reference model.

With r the ratio of a token's probability now to that when it was sampled and A its answer's advantage, the loss of a
token is -min(r A, clip(r, 1 - low, 1 + high) A) (PPO, arXiv 1707.06347; a ``high`` of its own is DAPO's,
arXiv 2503.14476). Losses of tokens become one number by

    sequence  mean of the tokens of an answer, then of the answers    GRPO
    token     mean of all tokens of the step                          DAPO
    dr        sum over all tokens / (answers x max_tokens)            Dr. GRPO (arXiv 2503.20783)

``total`` says how many answers and tokens the whole step has. Micro-batches and ranks that are all told the same have
losses, gradients and facts that add up to those of the step in one piece.

A row of which no token is in the mask is not there: it is in no sum and in no count. Give such a mask to answers whose
reward is not known. Those of a flat group have advantage 0 and do count; where they are left out of a pass because
they have no gradient, ``total`` counts them still.

Ratios are held below e^20, so that none overflows: through the ratio of a token whose probability has grown by more
than that factor of 5e8 no gradient goes.

Everything here is torch on the device of its arguments; nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from penstock.errors import ConfigError
from penstock.training.group_rl.config import KLEstimator, Normalizer, RatioContext

if TYPE_CHECKING:
    import torch

    Number = float | torch.Tensor
    Total = tuple[Number, Number]  # answers, tokens

Prompt = Literal["own", "original"]

# of a log-ratio before its exponential is taken, in nats
_FARTHEST = 20.0

#: which prompt the new and the old log-probabilities of a ratio are conditioned on
#:
#: own            new own / old own: the ratio of PPO.
#: original_swap  new original / old original: 1 at a step's first update, but the answers were not sampled from what
#:                it divides by, so the estimate is biased.
#: original_is    new original / old own: importance sampling of the original's answers from the variant's; its mean is
#:                right and its variance is high.
RATIO_PROMPTS: Mapping[RatioContext, tuple[Prompt, Prompt]] = {
    "own": ("own", "own"),
    "original_swap": ("original", "original"),
    "original_is": ("original", "own"),
}


def policy_loss(
    logprobs: torch.Tensor,
    old: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    *,
    clip_low: float,
    clip_high: float,
    normalizer: Normalizer,
    max_tokens: int,
    total: Total | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Clipped surrogate loss, a scalar with gradient in ``logprobs``, and facts of it.

    Args:
        logprobs: (B, T) nats, of each response token under the policy that learns.
        old: (B, T) nats, under the policy that sampled.
        advantages: (B,) or (B, T).
        mask: (B, T) bool, response tokens of answers whose reward is known; elsewhere any values may stand, NaN too.
        clip_low, clip_high: how far a ratio may fall below 1 and rise above it.
        normalizer: see above.
        max_tokens: most tokens of an answer, for ``dr``.
        total: answers and tokens of the whole step; None is those of this mask.

    Returns:
        The loss and detached scalars, means over the tokens of the step: ``clipped_low`` and ``clipped_high``, shares
        of tokens whose gradient the clip took away; ``approx_kl``, from the sampling policy, by k3; ``ratio``.

    Raises:
        ConfigError: shapes that do not belong together, an unknown normaliser, max_tokens below 1.
    """
    import torch

    share, tokens = token_shares(mask, normalizer=normalizer, max_tokens=max_tokens, total=total, dtype=logprobs.dtype)
    if advantages.ndim == 1 and len(advantages) == len(mask):
        advantages = advantages[:, None].expand_as(mask)
    require_same_shapes(logprobs=logprobs, old=old, advantages=advantages, mask=mask)
    log_ratio = log_ratios(logprobs, old, mask)
    ratio = ratios(log_ratio)
    advantages = torch.where(mask, advantages, 0.0).to(ratio.dtype)
    bounded = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    losses = -torch.minimum(ratio * advantages, bounded * advantages)
    with torch.no_grad():
        facts = ratio_facts(log_ratio, mask, tokens)
        facts["clipped_low"] = ((ratio < 1.0 - clip_low) & (advantages < 0)).sum() / tokens
        facts["clipped_high"] = ((ratio > 1.0 + clip_high) & (advantages > 0)).sum() / tokens
    return (losses * share).sum(), facts


def kl_divergence(logprobs: torch.Tensor, reference: torch.Tensor, *, estimator: KLEstimator) -> torch.Tensor:
    """Estimates of KL(policy || reference) from tokens that the policy sampled, one each: (B, T) nats, with gradient.

    With d = log reference - log policy (Schulman, "Approximating KL divergence", 2020):

    k1  -d                unbiased, of either sign; its gradient has mean 0, so as a part of a loss it is noise
    k2  d^2 / 2           biased, its gradient is that of the divergence
    k3  exp(d) - d - 1    unbiased, never negative (also named low_var_kl)

    Values where there is no token are for ``average`` to leave out.

    Args:
        logprobs, reference: (B, T) nats of the same tokens; finite where there is no token, too.

    Raises:
        ConfigError: an unknown estimator, other shapes.
    """
    if estimator not in get_args(KLEstimator):
        raise ConfigError(f"kl_estimator: got {estimator!r}, allowed {_listed(KLEstimator)}; take one")
    require_same_shapes(logprobs=logprobs, reference=reference)
    d = reference - logprobs
    if estimator == "k1":
        return -d
    return 0.5 * d.square() if estimator == "k2" else d.clamp(max=_FARTHEST).expm1() - d


def average(
    values: torch.Tensor, mask: torch.Tensor, *, normalizer: Normalizer, max_tokens: int, total: Total | None = None
) -> torch.Tensor:
    """The mean of token values (B, T) by the normaliser, a scalar: how a divergence joins the loss.

    Arguments and errors as in ``policy_loss``. A mask of fewer rows with the step's ``total`` leaves rows out of the
    sum and not out of the count.
    """
    import torch

    share, _ = token_shares(mask, normalizer=normalizer, max_tokens=max_tokens, total=total, dtype=values.dtype)
    require_same_shapes(values=values, mask=mask)
    return (torch.where(mask, values, 0.0) * share).sum()


def counts_of(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Answers that have a token in ``mask`` (B, T), and tokens: the parts of which ``total`` is the sum."""
    return mask.any(dim=1).sum(), mask.sum()


def log_ratios(logprobs: torch.Tensor, old: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Log of the ratio of each token, (B, T) with gradient; 0 outside the mask."""
    import torch

    return torch.where(mask, logprobs - old.detach(), 0.0)


def ratios(log_ratio: torch.Tensor) -> torch.Tensor:
    """The ratio of each token, at most e^20."""
    return log_ratio.clamp(max=_FARTHEST).exp()


def ratio_facts(log_ratio: torch.Tensor, mask: torch.Tensor, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """``ratio`` and ``approx_kl`` of the tokens in the mask, over ``tokens`` of the step."""
    import torch

    log_ratio = log_ratio.detach()
    return {
        "ratio": torch.where(mask, ratios(log_ratio), 0.0).sum() / tokens,
        "approx_kl": (log_ratio.clamp(max=_FARTHEST).expm1() - log_ratio).sum() / tokens,
    }


def token_shares(
    mask: torch.Tensor, *, normalizer: Normalizer, max_tokens: int, total: Total | None, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """What each token of a row counts in the mean, (B, 1) of ``dtype``, and how many tokens the step has.

    Arguments and errors as in ``policy_loss``.
    """
    import torch

    if normalizer not in get_args(Normalizer):
        raise ConfigError(f"normalizer: got {normalizer!r}, allowed {_listed(Normalizer)}; take one")
    if max_tokens < 1:
        raise ConfigError(f"max_tokens: got {max_tokens}, allowed >= 1; it is the most tokens of an answer")
    if mask.ndim != 2 or mask.dtype != torch.bool:
        raise ConfigError(
            f"mask: got shape {tuple(mask.shape)} of {mask.dtype}, allowed (B, T) of bool; give one row an answer"
        )
    # a step without a token has loss 0 rather than NaN
    answers, tokens = (torch.as_tensor(n).clamp(min=1).double() for n in (counts_of(mask) if total is None else total))
    lengths = mask.sum(dim=1, keepdim=True).clamp(min=1).double()
    if normalizer == "sequence":
        whole = answers * lengths
    else:
        whole = torch.ones_like(lengths) * (tokens if normalizer == "token" else answers * max_tokens)
    return (1.0 / whole).to(dtype), tokens


def require_same_shapes(**tensors: torch.Tensor) -> None:
    """ConfigError unless all have one shape."""
    if len({tuple(tensor.shape) for tensor in tensors.values()}) > 1:
        got = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise ConfigError(f"loss: got {got}, allowed one shape (B, T), advantages also (B,); pad answers to one length")


def _listed(kind: Any) -> str:
    return ", ".join(map(repr, get_args(kind)))
