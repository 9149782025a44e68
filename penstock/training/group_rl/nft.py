"""Negative-aware fine-tuning: supervised learning from right and from wrong answers (NFT, arXiv 2505.18116).

With r a token's ratio of probabilities, p the share of right answers of its question, held within [0.02, 0.98], and c
whether the answer is right, the loss of a token is

    w(p) [ c (-log r) + (1 - c) lambda (-log cl((1 - p r) / (1 - p), 1)) ]

What wrong answers are fitted with is the policy that is implied for them: that of all answers less the right ones.
cl(x, m) has the value max(x, m) and the gradient of x, so that a token whose implied ratio would fall below 1 is pushed
down still. Weights of a question:

    0   1                    every question alike
    1   1 - p                the gradient of Dr. GRPO
    2   sqrt((1 - p) / p)    the gradient of GRPO

On policy (r = 1) and with weight 2 the gradient is that of GRPO with the population's standard deviation and epsilon
0: the coefficients of grad log pi are sqrt((1 - p) / p) for a right answer and -sqrt(p / (1 - p)) for a wrong one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

from penstock.errors import ConfigError
from penstock.training.group_rl.config import Normalizer
from penstock.training.group_rl.losses import log_ratios, ratio_facts, ratios, require_same_shapes, token_shares

if TYPE_CHECKING:
    import torch

    from penstock.training.group_rl.losses import Total

NFTWeight = Literal[0, 1, 2]

# of the share of right answers: 1 / (1 - p) and the weights stay finite
_LEAST, _MOST = 0.02, 0.98


def nft_loss(
    logprobs: torch.Tensor,
    old: torch.Tensor,
    accuracy: torch.Tensor,
    correct: torch.Tensor,
    mask: torch.Tensor,
    *,
    weight: NFTWeight,
    negative: float,
    normalizer: Normalizer,
    max_tokens: int,
    total: Total | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """NFT's loss, a scalar with gradient in ``logprobs``, and facts of it.

    A question whose answers are all right or all wrong has a gradient here, since p is held off 0 and 1: leave its
    rows out of ``mask`` for the loss as published, which trains on mixed questions alone.

    Args:
        logprobs, old, mask, normalizer, max_tokens, total: as in ``losses.policy_loss``.
        accuracy: (B,) p of the answer's question; NaN is allowed where no token of the row is in the mask.
        correct: (B,) bool.
        weight: of a question, see above.
        negative: lambda; 0 is rejection fine-tuning, right answers alone.

    Returns:
        The loss and detached scalars, means over the tokens of the step: ``floored``, the share of tokens of wrong
        answers whose implied ratio is below 1; ``approx_kl`` and ``ratio`` as in ``policy_loss``.

    Raises:
        ConfigError: an unknown weight, a negative ``negative``, and as ``policy_loss``.
    """
    import torch

    if weight not in get_args(NFTWeight):
        raise ConfigError(f"nft_weight: got {weight!r}, allowed 0, 1 or 2; 2 has GRPO's gradient on policy")
    if not (math.isfinite(negative) and negative >= 0):
        raise ConfigError(f"nft_negative: got {negative}, allowed a finite number >= 0; 0 leaves wrong answers out")
    share, tokens = token_shares(mask, normalizer=normalizer, max_tokens=max_tokens, total=total, dtype=logprobs.dtype)
    require_same_shapes(logprobs=logprobs, old=old, mask=mask)
    require_same_shapes(accuracy=accuracy, correct=correct, rows=mask.any(dim=1))
    p = accuracy.to(logprobs.dtype).clamp(_LEAST, _MOST)[:, None]
    right = correct.bool()[:, None]
    log_ratio = log_ratios(logprobs, old, mask)
    implied = (1.0 - p * ratios(log_ratio)) / (1.0 - p)
    losses = torch.where(right, -log_ratio, -negative * _at_least(implied, 1.0).log()) * _question_weight(p, weight)
    with torch.no_grad():
        facts = ratio_facts(log_ratio, mask, tokens)
        facts["floored"] = (mask & ~right & (implied < 1.0)).sum() / tokens
    return (torch.where(mask, losses, 0.0) * share).sum(), facts


def _at_least(values: torch.Tensor, floor: float) -> torch.Tensor:
    """max(values, floor) with the gradient of ``values`` everywhere."""
    # the difference is added last, so that the value is the floor to the last bit
    return values.detach().clamp(min=floor) + (values - values.detach())


def _question_weight(p: torch.Tensor, weight: NFTWeight) -> torch.Tensor | float:
    if weight == 0:
        return 1.0
    return 1.0 - p if weight == 1 else ((1.0 - p) / p).sqrt()
