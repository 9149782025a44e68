"""The gain that an item needs: the first threshold from a first sample, and how it falls.

    S = a k-DPP draw of k rows of the sample
    quantile    the (1 - a)-quantile of gain(w | S) over the rest of the sample: a share a of its like would pass;
                at most ``highest``
    geometric   clip(alpha det(K_S)^(1/k)): the mean of the gains against 0, 1, … k - 1 anchors
    paper       clip(alpha det K_S): their product, of another unit than the one gain it is compared with
    round i     threshold * exp(-i / horizon)

Where every row of the sample is in S, the quantile is of the gain of each given all others, 1 / (K_S^-1)_ii.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from penstock.diversity.arrays import host
from penstock.diversity.factor import TOLERANCE, AnchorFactor
from penstock.diversity.kernels import Kernel
from penstock.diversity.sampling import kdpp
from penstock.generators.voyager.settings import ThresholdSettings

FLOOR = 1e-8  # a duplicate's gain is rounding noise below it, so no threshold may fall to that
_ALPHA = {"geometric": 0.75, "paper": 1.0}


def first_threshold(kernel: Kernel, anchors: int, settings: ThresholdSettings, stream: np.random.Generator) -> float:
    """The threshold of round 0, for any strategy but ``none``.

    Args:
        kernel: of the first sample, of unit diagonal, at least one row.
        anchors: k.
    """
    drawn = [int(row) for row in kdpp(kernel, anchors, stream).rows]
    factor = AnchorFactor(kernel)
    for row in drawn:
        # where k is all there is, a draw may hold rows that rounding cannot tell apart: they would make noise
        if factor.gains([row])[0] > TOLERANCE:
            factor.append(row)
    if settings.strategy == "quantile":
        rest = sorted(set(range(kernel.n)) - set(drawn))
        gains = host(factor.gains(rest)) if rest else _given_others(kernel, factor.anchors)
        return min(max(float(np.quantile(gains, 1.0 - settings.acceptance)), FLOOR), settings.highest)
    alpha = _ALPHA[settings.strategy] if settings.alpha is None else settings.alpha
    log_mean = factor.log_determinant / (len(factor.anchors) if settings.strategy == "geometric" else 1)
    return max(min(max(alpha * math.exp(log_mean), settings.lowest), settings.highest), FLOOR)


def _given_others(kernel: Kernel, rows: list[int]) -> NDArray[np.float64]:
    """Gain of each of some independent rows given all the others: float64, (rows,)."""
    gains: NDArray[np.float64] = 1.0 / np.diagonal(np.linalg.inv(host(kernel.dense(kernel.index(rows)))))
    return gains


def threshold_at(first: float, round: int, settings: ThresholdSettings) -> float:
    """The threshold of a round; the first sample (negative rounds) has that of round 0."""
    if settings.decay == "none" or round <= 0:
        return first
    return max(first * math.exp(-round / settings.horizon), FLOOR)
