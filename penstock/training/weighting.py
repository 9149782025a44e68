"""From losses to weights: the one place that does it, for samples of a batch and for selectors that sample.

Each segment's mean loss is put on [-1, 1] by the range of its batch (``weighting_range``), scored, and the scores go
through a softmax of temperature r over the whole batch:

    h = ((l - low) - (high - l)) / (high - low)       w = softmax(score(h) / r)

    linupper      min(h + 1, 1)      low losses count less, from the middle on all alike
    quadratic     1 - h^2            both ends count less
    extremes      |h|                both ends count more
    linear_half   (h + 1) / 2        linear; what one published code base calls "upper"
    kl_dro        h, or l itself     the adversary of KL-regularised robust optimisation, at its closed form
    uniform       -                  no weighting at all: the plain loss, not a softmax of equal scores

LinUpper, Quadratic and Extremes: Sow et al., "Dynamic Loss-Based Sample Reweighting", ICLR 2025 (arXiv 2502.06733).
KL-DRO: max over w of sum w l - r sum w log(M w) has the maximum w = softmax(l / r) and the value
r log mean exp(l / r), whose gradient is that of sum w l with w held fixed.

Scores take arrays or tensors; the rest is NumPy in float64, as M numbers a step are not worth a device. How a batch is
spread over ranks and accumulation steps is the business of ``weighter``.

Price: a sort of M numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.training.weighting_range import Floats, LossRange, RangeKind, loss_range

if TYPE_CHECKING:
    from penstock.training.weighter import SampleWeighter

Strategy = Literal["linupper", "quadratic", "extremes", "kl_dro", "linear_half", "uniform"]
Accumulation = Literal["prepass", "running", "deferred", "per_micro"]
Schedule = Literal["constant", "linear", "cosine"]
Length = Literal["sequence", "token"]

# the smallest difference of losses that the range divides by
_FLOOR = 1e-6


def linupper(h: Any) -> Any:
    """0 to 1 on [-1, 0], then flat: ``h`` (M,) array or tensor on [-1, 1], as for every score."""
    return (h + 1.0).clip(max=1.0)


def quadratic(h: Any) -> Any:
    """Highest in the middle, 0 at both ends."""
    return 1.0 - h * h


def extremes(h: Any) -> Any:
    """Highest at both ends, 0 in the middle."""
    return abs(h)


def linear_half(h: Any) -> Any:
    """0 to 1, linear."""
    return 0.5 * h + 0.5


def kl_dro(h: Any) -> Any:
    """The value itself."""
    return h


# no score on [-1, 1] is above 1, so a softmax may subtract 1 before it has seen all of them
SCORES: Mapping[str, Callable[[Any], Any]] = {
    "linupper": linupper,
    "quadratic": quadratic,
    "extremes": extremes,
    "linear_half": linear_half,
    "kl_dro": kl_dro,
}
CEILING = 1.0


def normalise(losses: Any, bounds: LossRange) -> Any:
    """Losses on [-1, 1], clipped: low is -1, high is 1; (M,) array or tensor in and out.

    The difference of differences keeps its digits where ``2 l - (high + low)`` cancels: at a range of 1e-4 around a
    loss of 3, in float32, the error is 3e-8 in place of 2e-3. Equal losses are 0.
    """
    return (((losses - bounds.low) - (bounds.high - losses)) / max(bounds.high - bounds.low, _FLOOR)).clip(-1.0, 1.0)


def softmax(scores: Floats, temperature: float) -> Floats:
    """Weights that sum to one: ``scores`` (M,), M >= 1."""
    raised = np.exp((scores - scores.max()) / temperature)
    out: Floats = raised / raised.sum()
    return out


def cap_weights(weights: Floats, limit: float) -> Floats:
    """Weights of the same sum, none above ``limit``: those above are set to it, the rest are scaled up, and so on.

    Args:
        weights: shape (M,), >= 0.
        limit: at least the mean of the weights, else there is no solution.
    """
    total = weights.sum()
    fixed = np.zeros(len(weights), np.bool_)
    out: Floats = weights.copy()
    while True:
        # the tolerance ends the search where rounding put a weight a hair above
        over = ~fixed & (out > limit * (1 + 1e-12))
        if not over.any():
            return out
        fixed |= over
        rest = weights[~fixed].sum()
        left = max(total - limit * fixed.sum(), 0.0)
        out = np.where(fixed, limit, weights * (left / rest if rest > 0 else 0.0))


def effective_size(weights: Floats) -> float:
    """1 / sum of squares of weights that sum to one; 0 when there are none."""
    squares = float(np.square(weights).sum())
    return 1.0 / squares if squares > 0 else 0.0


def loss_weights(
    losses: NDArray[Any],
    *,
    strategy: Strategy = "linupper",
    temperature: float = 0.4,
    bounds: RangeKind | LossRange = "trimmed",
    trim: float = 0.02,
    quantile: float = 0.05,
    cap: float | None = None,
) -> Floats:
    """Weights of samples by their losses, sum 1: shape (M,), float64. Also probabilities to sample by.

    A loss that is no finite number gets 0 and does not move the range.

    Args:
        losses: shape (M,).
        temperature: of the softmax; small is sharp.
        bounds: how the range is found ("minmax", "trimmed", "quantile", or "none" for ``kl_dro`` on the losses
            themselves), or a range.
        trim, quantile: see ``weighting_range.loss_range``.
        cap: no weight above ``cap`` times the mean weight.

    Raises:
        ConfigError: an unknown strategy, a temperature or cap out of its range.
    """
    _require(strategy in get_args(Strategy), "strategy", strategy, ", ".join(get_args(Strategy)))
    _require(_positive(temperature), "temperature", temperature, "a finite number > 0")
    _require(cap is None or cap >= 1, "cap", cap, "a number >= 1, or none")
    _require(bounds != "running", "bounds", bounds, "'minmax', 'trimmed', 'quantile', 'none' or a LossRange")
    values = np.asarray(losses, dtype=np.float64)
    finite = np.isfinite(values)
    out = np.zeros(len(values))
    if not finite.any():
        return out
    if strategy == "uniform":
        out[finite] = 1.0 / finite.sum()
        return out
    seen = values[finite]
    if bounds == "none":
        _require(strategy == "kl_dro", "bounds", bounds, "'none' with kl_dro alone")
        scores = seen
    else:
        found = bounds if isinstance(bounds, LossRange) else loss_range(seen, bounds, trim=trim, quantile=quantile)
        scores = SCORES[strategy](normalise(seen, found))
    weights = softmax(scores, temperature)
    out[finite] = weights if cap is None else cap_weights(weights, cap / len(weights))
    return out


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0


def _require(holds: bool, name: str, got: Any, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{name}: got {got!r}, allowed {allowed}; change it")


@dataclass(frozen=True, kw_only=True)
class WeightingConfig:
    """How segments of a batch are weighted by their losses.

    Steps up to ``warmup_steps`` are those of a trainer without weights. Then the temperature is ``temperature`` or goes
    from it to ``final_temperature`` over ``schedule_steps``.
    """

    strategy: Strategy = "linupper"
    temperature: float | None = None  # None is 0.4 for linupper and quadratic, 1.0 for the others
    schedule: Schedule = "constant"
    final_temperature: float | None = None  # of "linear" and "cosine"
    schedule_steps: int | None = None  # steps after the warm-up until final_temperature
    warmup_steps: int = 1000
    range: RangeKind = "trimmed"  # "running" is that of the steps before, "none" is kl_dro on the losses themselves
    trim: float = 0.02  # share of segments left out of the range at each end, rounded up
    quantile: float = 0.05  # of "quantile", at each end
    running_decay: float = 0.9  # of the running range and normaliser, a step
    length: Length = "sequence"  # a segment counts once, or once a token
    min_tokens: int = 1  # a segment with fewer tokens with a loss gets the weight of the mean score
    cap: float | None = None  # largest weight times the number of segments
    accumulation: Accumulation = "prepass"

    def __post_init__(self) -> None:
        for name, kinds in (
            ("strategy", Strategy),
            ("schedule", Schedule),
            ("range", RangeKind),
            ("length", Length),
            ("accumulation", Accumulation),
        ):
            allowed = get_args(kinds)
            _require(getattr(self, name) in allowed, name, getattr(self, name), ", ".join(allowed))
        scheduled = self.schedule != "constant"
        for name in ("temperature", "final_temperature"):
            value = getattr(self, name)
            _require(value is None or _positive(value), name, value, "a finite number > 0, or none")
        for name in ("final_temperature", "schedule_steps"):
            value = getattr(self, name)
            with_schedule = "set with schedule linear or cosine, and with them alone"
            _require((value is not None) == scheduled, name, value, with_schedule)
        for name, least in (("warmup_steps", 0), ("min_tokens", 1), ("schedule_steps", 1)):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
            _require(whole or (name == "schedule_steps" and value is None), name, value, f"a whole number >= {least}")
        _require(0 <= self.trim < 0.5, "trim", self.trim, "0 <= share < 0.5")
        _require(0 <= self.quantile < 0.5, "quantile", self.quantile, "0 <= share < 0.5")
        _require(0 <= self.running_decay < 1, "running_decay", self.running_decay, "0 <= number < 1")
        _require(self.cap is None or self.cap >= 1, "cap", self.cap, "a number >= 1, or none")
        if self.range == "none":
            _require(self.strategy == "kl_dro", "range", self.range, "'none' with strategy kl_dro alone")
        if self.frozen:
            mode = f"with accumulation {self.accumulation}"
            _require(self.range != "none", "range", self.range, f"a range {mode}: scores need a ceiling")
            _require(self.cap is None, "cap", self.cap, f"none {mode}: a cap needs all weights before the gradient")
            lowest = min(self.temperature_at(self.warmup_steps + 1), self.final_temperature or math.inf)
            _require(lowest >= 0.05, "temperature", lowest, f"at least 0.05 {mode}: smaller ones underflow")

    @property
    def frozen(self) -> bool:
        """Whether a micro-batch is weighted before the others are known, by the range of the steps before."""
        return self.accumulation in ("running", "deferred")

    def temperature_at(self, step: int) -> float:
        """Temperature r of optimiser step ``step``, counted from 1."""
        first = self.temperature or (0.4 if self.strategy in ("linupper", "quadratic") else 1.0)
        if self.schedule == "constant" or self.final_temperature is None or self.schedule_steps is None:
            return first
        done = min(max((step - self.warmup_steps - 1) / self.schedule_steps, 0.0), 1.0)
        share = done if self.schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * done)
        return first + (self.final_temperature - first) * share

    def build(self, group: Any = None) -> SampleWeighter:
        """The object that a loop asks; ``group`` is the data-parallel process group, None the default one."""
        from penstock.training.weighter import SampleWeighter

        return SampleWeighter(self, group=group)


@dataclass(frozen=True)
class Weighed:
    """Weights of the M segments of a batch, and what they were made from."""

    weights: Floats  # (M,) sum 1 over the live segments, 0 for the others
    scores: Floats  # (M,) before the softmax; 0 where not live
    live: NDArray[np.bool_]  # (M,) has a token with a loss, and that loss is finite
    long: NDArray[np.bool_]  # (M,) live and not below min_tokens
    bounds: LossRange | None  # None without a long segment, or with range "none"

    @property
    def mean_score(self) -> float | None:
        """Mean score of the long segments."""
        return float(self.scores[self.long].mean()) if self.long.any() else None


def weigh(
    losses: Floats,
    counts: Floats,
    config: WeightingConfig,
    temperature: float,
    *,
    bounds: LossRange | None = None,
    mean_score: float | None = None,
) -> Weighed:
    """Weights of all segments of a batch, by the settings of ``config``; the pure core of ``weighter``.

    Args:
        losses: mean loss of each segment, shape (M,); may be NaN or infinite.
        counts: tokens with a loss of each segment, shape (M,).
        bounds: the range to use; None finds that of these losses.
        mean_score: what a segment below ``min_tokens`` scores; None is the mean of the others, or 0 without others.
    """
    live = (counts > 0) & np.isfinite(losses)
    long = live & (counts >= config.min_tokens)
    weights, scores = np.zeros(len(losses)), np.zeros(len(losses))
    if long.any():
        seen = losses[long]
        if config.range == "none":
            scores[long] = seen
        else:
            bounds = bounds or range_of(losses, long, config)
            scores[long] = SCORES[config.strategy](normalise(seen, bounds))
    short = live & ~long
    if short.any():
        others = float(scores[long].mean()) if long.any() else 0.0
        scores[short] = others if mean_score is None else mean_score
    if live.any():
        weights[live] = softmax(scores[live], temperature)
        if config.cap is not None:
            weights = cap_weights(weights, config.cap / int(live.sum()))
    return Weighed(weights, scores, live, long, bounds if long.any() and config.range != "none" else None)


def range_of(losses: Floats, long: NDArray[np.bool_], config: WeightingConfig) -> LossRange:
    """The range of the long segments of this batch alone; what a running range averages is the trimmed one."""
    kind: RangeKind = "trimmed" if config.range == "running" else config.range
    return loss_range(losses[long], kind, trim=config.trim, quantile=config.quantile)
