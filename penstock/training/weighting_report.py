"""What weighting did to the segments of a step: effective sample size, the 2 / M monitor, the range and the tail.

The convergence bound of Sow et al. (arXiv 2502.06733) assumes that no weight is above 2 / M. Ordinary batches break
it now and then (LinUpper at r = 0.4 in 0.5 % of batches of 48 normal losses, Extremes and KL-DRO in most), so
it is watched and never asserted; ``WeightingConfig.cap`` enforces it.

Price: one pass over M numbers and their quartiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from penstock.training.weighting import Weighed, effective_size
from penstock.training.weighting_range import Floats, LossRange, tail_of


class Part(NamedTuple):
    """Segments that were weighed against each other: a step, or with "per_micro" a micro-batch."""

    losses: Floats  # (M,) means
    counts: Floats  # (M,) tokens with a loss
    weighed: Weighed


@dataclass(frozen=True)
class WeightingReport:
    """What was done to the segments of one step, over all ranks."""

    temperature: float
    segments: int  # live ones: M
    empty: int  # without a token that has a loss
    not_finite: int  # NaN or infinite loss
    short: int  # below min_tokens
    max_weight: float  # M times the largest weight; the convergence bound of the paper assumes at most 2
    effective_share: float  # effective sample size over M
    above_two: float  # share of segments with a weight above 2 / M
    low: float | None  # the range
    high: float | None
    tail_share: float  # see weighting_range.Tail
    tail_weight: float
    tail_uncovered: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def report_of(parts: Sequence[Part], temperature: float) -> WeightingReport:
    """The report of a step made of parts that count alike."""
    losses = np.concatenate([part.losses for part in parts])
    counts = np.concatenate([part.counts for part in parts])
    weights = np.concatenate([part.weighed.weights for part in parts])
    live = np.concatenate([part.weighed.live for part in parts])
    long = np.concatenate([part.weighed.long for part in parts])
    ranges = [part.weighed.bounds for part in parts if part.weighed.bounds is not None]
    bounds = LossRange(*(float(end) for end in np.mean(ranges, axis=0))) if ranges else None
    tail = None if bounds is None else tail_of(losses[long], weights[long], bounds)
    size, total = int(live.sum()), float(weights.sum())
    relative = weights * (size / total) if total > 0 else weights
    return WeightingReport(
        temperature=temperature,
        segments=size,
        empty=int((counts == 0).sum()),
        not_finite=int(((counts > 0) & ~live).sum()),
        short=int((live & ~long).sum()),
        max_weight=float(relative.max(initial=0.0)),
        effective_share=effective_size(relative / size) / size if size else 0.0,
        above_two=float((relative[live] > 2.0).mean()) if size else 0.0,
        low=None if bounds is None else bounds.low,
        high=None if bounds is None else bounds.high,
        tail_share=tail.share if tail else 0.0,
        tail_weight=tail.weight if tail else 0.0,
        tail_uncovered=tail.uncovered if tail else False,
    )
