"""Scores of a text from what a model says at its tokens: likelihood, membership and machine-text statistics.

With l_t, mu_t, var_t of ``positions`` over the N predicted tokens of a text, natural logarithms:

    loss       -mean l_t                                       perplexity is its exponential
    entropy    -mean mu_t
    zlib       mean l_t / bytes of zlib(text)                  Carlini et al. 2021, arXiv 2012.07805
    mink       mean of the k lowest l_t                        Shi et al. 2024, arXiv 2310.16789
    minkpp     mean of the k lowest (l_t - mu_t) / sd_t        Zhang et al. 2025, arXiv 2404.02936
    dcpdd      mean of min(-p_t log p_ref(x_t), a) over the first occurrence of each token
                                                               Zhang et al. 2024, arXiv 2409.14781
    zs         | mean(-l_t) - mean H_t |                       Radvand et al. 2025, arXiv 2501.02406
    zs_signed  mean l_t + mean H_t
    zs_ratio   mean l_t / mean H_t
    z          sum(l_t - mu_t) / sqrt(sum var_t)               the curvature of Bao et al. 2024, arXiv 2310.05130

The k lowest are max(1, floor(k N)). z is a martingale's sum: about N(0, 1) for a text that the model itself wrote at
temperature 1, and for no other. zs and zs_signed disagree on text that is likelier than such, of a low temperature or
a cut sampler: its loss is far below its entropy, so zs is large, as for people's text, and zs_signed is large, as for a
machine's. Read zs_signed or z there.

A text of fewer than two predicted tokens has no score; nor has any a score that would be a quotient by nothing.

Price: a sort of N numbers; no allocation beyond them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

_SD_FLOOR = 1e-4  # of one token: where a model leaves no choice, float32 cannot tell l from mu any closer
_VARIANCE_FLOOR = 1e-8  # of the mean variance: below it z is a quotient of rounding errors

Kind = Literal["likelihood", "membership", "machine"]


@dataclass(frozen=True)
class Score:
    """A score: which way is suspicious, of what, and to how many decimals it is stored."""

    kind: Kind
    suspicious: Literal["large", "small"]
    decimals: int


# the order of columns
SCORES: dict[str, Score] = {
    "loss": Score("likelihood", "small", 4),
    "entropy": Score("likelihood", "small", 4),
    "zlib": Score("membership", "large", 8),
    "mink": Score("membership", "large", 4),
    "minkpp": Score("membership", "large", 4),
    "dcpdd": Score("membership", "large", 6),
    "zs": Score("machine", "small", 4),
    "zs_signed": Score("machine", "large", 4),
    "zs_ratio": Score("machine", "large", 4),
    "z": Score("machine", "large", 3),
}


def column(score: str) -> str:
    """Name of a score's column."""
    return f"score.lm_{score}"


def scores_of(
    log_p: NDArray[np.float64],
    mean: NDArray[np.float64],
    variance: NDArray[np.float64],
    *,
    min_k: float,
    compressed_bytes: int,
    first: NDArray[np.bool_] | None = None,
    reference_log_p: NDArray[np.float64] | None = None,
    cap: float = 0.01,
) -> dict[str, float | None]:
    """Every score of one text, not rounded; None where it is not defined.

    Args:
        log_p, mean, variance: l_t, mu_t, var_t of its predicted tokens: (N,).
        min_k: the share k of the lowest.
        compressed_bytes: of zlib(text).
        first: whether a token's id occurs for the first time in the text: (N,).
        reference_log_p: log p_ref of each token: (N,); without it there is no dcpdd.
        cap: the a of dcpdd, which bounds what one token adds.
    """
    found: dict[str, float | None] = dict.fromkeys(SCORES)
    n = len(log_p)
    if n < 2:
        return found
    lowest = max(1, int(min_k * n + 1e-9))  # 0.3 * 10 is a little below 3
    likelihood, entropy = float(log_p.mean()), -float(mean.mean())
    found["loss"], found["entropy"] = -likelihood, entropy
    found["mink"] = _mean_of_lowest(log_p, lowest)
    found["minkpp"] = _mean_of_lowest((log_p - mean) / np.maximum(np.sqrt(variance), _SD_FLOOR), lowest)
    if compressed_bytes:
        found["zlib"] = likelihood / compressed_bytes
    if reference_log_p is not None and first is not None and first.any():
        found["dcpdd"] = float(np.minimum(-np.exp(log_p[first]) * reference_log_p[first], cap).mean())
    found["zs_signed"] = likelihood + entropy
    found["zs"] = abs(likelihood + entropy)
    if entropy > _SD_FLOOR:
        found["zs_ratio"] = likelihood / entropy
    if variance.mean() > _VARIANCE_FLOOR:
        found["z"] = float((log_p - mean).sum() / np.sqrt(variance.sum()))
    return {name: value if value is not None and np.isfinite(value) else None for name, value in found.items()}


def _mean_of_lowest(values: NDArray[np.float64], count: int) -> float:
    return float(np.partition(values, count - 1)[:count].mean())


def first_occurrences(ids: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Whether each id of a text occurs there for the first time: (n,)."""
    mask = np.zeros(len(ids), dtype=bool)
    mask[np.unique(ids, return_index=True)[1]] = True
    return mask
