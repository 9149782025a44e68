"""Weights of the segments of an optimiser step, over all ranks and all accumulation steps.

    weighter = WeightingConfig(strategy="linupper", warmup_steps=100).build()
    step = weighter.begin(number, counts)                  # counts: tokens with a loss of this rank's segments
    for losses, segments, sums in micro_batches:           # token losses, segment of each, loss sum of each segment
        step.loss(losses, segments, sums).backward()       # times weighter.world_size where gradients are averaged
    scale_gradients(parameters, step.finish())             # before clipping; 1.0 but for accumulation "deferred"

The objective over the global batch is the sum of w_s times the mean loss of segment s, or with ``length="token"`` the
mean over tokens with weight w_s each, divided by the sum of all of them (a divisor of one rank's own would weight ranks
unequally). Until the warm-up ends and with strategy "uniform" it is the plain mean over tokens, by the expression of
a loop without weights, so to the last bit its losses.

How weights that depend on all losses meet gradient accumulation:

    prepass    the losses of all micro-batches first, without gradient: exact; where there are several, one more
               forward pass
    deferred   range of the steps before; gradients of u l with u = exp((score - 1) / r) are summed and divided by the
               sum of u once: exact for that range, no extra pass
    running    the same with the mean of u of the steps before in place of the sum: approximate, nothing to divide
    per_micro  a softmax over each micro-batch, divided by their number: the published code, for comparison

``deferred`` and ``running`` know no range before their first step, so that one is plain whatever the warm-up.

Ranks are those of the process group, never of a machine. Losses of all ranks are gathered (in rank order, padded to
the rank with most segments) and each rank computes all weights in float64: the same bits on every rank, and the same
as one process with the segments in that order. MIN, MAX and SUM alone would do without order statistics; 16 bytes a
segment are not worth a second path. All ranks must begin and finish the same steps, and with ``per_micro``
have equally many micro-batches.

A NaN loss has weight 0 and adds nothing to the head's gradient; where it comes from NaN activations, the body's
gradient is NaN whatever the weight, and the loop's guard has to see it.

Price: a gather of 24 bytes a rank before the forward pass and one of 16 bytes a segment; ``prepass`` and ``per_micro``
wait for the device between forward and backward pass, the other two do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike

from penstock.errors import ConfigError
from penstock.training.losses import weighted_sum
from penstock.training.weighting import (
    CEILING,
    SCORES,
    Weighed,
    WeightingConfig,
    normalise,
    range_of,
    weigh,
)
from penstock.training.weighting_range import Floats, LossRange
from penstock.training.weighting_report import Part, WeightingReport, report_of

if TYPE_CHECKING:
    import torch

# a warning needs this share of the last steps, averaged with this decay
_TAIL_SHARE, _TAIL_DECAY = 0.25, 0.95


class SampleWeighter:
    """The state of weighting through a run; ``begin`` is one step."""

    def __init__(self, config: WeightingConfig, *, group: Any = None) -> None:
        """
        Args:
            group: the data-parallel process group; None is the default one, or no other rank where none is set up.
        """
        self.config, self.group = config, group
        self.step = 0  # the last one finished
        self._range: LossRange | None = None
        self._mean_score = 0.0
        self._normaliser = 1.0  # mean of u over segments, or over tokens
        self._tail = 0.0
        self._warned = False

    @property
    def world_size(self) -> int:
        """Ranks of the group."""
        return _ranks(self.group)[1]

    def active(self, step: int) -> bool:
        """Whether step ``step``, counted from 1, is weighted. The same on every rank."""
        config = self.config
        known = not config.frozen or self._range is not None
        return config.strategy != "uniform" and step > config.warmup_steps and known

    def weights(self, losses: Any, step: int) -> Any:
        """Weights of the segments of a whole batch, no other rank asked: shape (M,), detached, sum 1.

        Args:
            losses: mean loss of every segment of all ranks, shape (M,), a tensor or an array as the result.
            step: optimiser step, counted from 1; inside the warm-up all are equal.
        """
        array = isinstance(losses, np.ndarray)
        values = _on_host(losses)
        if self.active(step):
            found = self._weigh(values, np.full(len(values), np.inf), step).weights
        else:
            finite = np.isfinite(values)
            found = finite / max(int(finite.sum()), 1)
        return found if array else losses.new_tensor(found)

    def begin(
        self, step: int, counts: ArrayLike, *, base: ArrayLike | None = None, micro_batches: int = 1
    ) -> WeightedStep:
        """Start a step; every rank does.

        Args:
            step: optimiser step, counted from 1.
            counts: tokens with a loss of every segment of this rank in this step, in the order of the micro-batches:
                shape (S,).
            base: factors that come on top of the weights, such as a mixing policy's multiplier of the segment's domain:
                shape (S,), >= 0. They are not normalised away.
            micro_batches: how many there will be; read by "per_micro" alone.

        Raises:
            ConfigError: a factor below 0 or not finite, or not one per segment.
        """
        return WeightedStep(self, step, counts, base, micro_batches)

    def warning(self) -> str | None:
        """What a user should know, once: the range does not cover a tail of high losses."""
        if self._warned or self._tail < _TAIL_SHARE:
            return None
        self._warned = True
        return (
            f"weighting: in many of the last steps more segments lie far above the others than trim = "
            f"{self.config.trim} leaves out, so the range ends among them: linupper, extremes and kl_dro give them "
            "weight; look at the segments with the highest losses, and if they are garbage, filter them or raise trim "
            "above their share"
        )

    def state_dict(self) -> dict[str, Any]:
        """All that later weights depend on, as JSON values."""
        return {
            "step": self.step,
            "range": None if self._range is None else list(self._range),
            "mean_score": self._mean_score,
            "normaliser": self._normaliser,
            "tail": self._tail,
            "warned": self._warned,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state that ``state_dict`` gave."""
        self.step = int(state["step"])
        self._range = None if state["range"] is None else LossRange(*map(float, state["range"]))
        self._mean_score, self._normaliser = float(state["mean_score"]), float(state["normaliser"])
        self._tail, self._warned = float(state["tail"]), bool(state["warned"])

    def _weigh(self, losses: Floats, counts: Floats, step: int) -> Weighed:
        """Weights by this step's settings: with the state's range where it holds."""
        config = self.config
        bounds = self._range if config.frozen or config.range == "running" else None
        mean = self._mean_score if config.frozen and bounds is not None else None
        return weigh(losses, counts, config, config.temperature_at(step), bounds=bounds, mean_score=mean)

    def _raw(self, weighed: Weighed, step: int) -> Floats:
        """u of every segment: what a softmax has before its sum is known."""
        raised = np.exp((weighed.scores - CEILING) / self.config.temperature_at(step))
        return cast("Floats", np.where(weighed.live, raised, 0.0))

    def _observe(self, losses: Floats, counts: Floats, step: int, *, segments: int, tokens: float) -> None:
        """Move the running range and normaliser by a step's segments of all ranks."""
        config = self.config
        used = self._weigh(losses, counts, step)
        if not used.long.any():
            return
        fresh, raw = range_of(losses, used.long, config), self._raw(used, step)
        normaliser = raw.sum() / segments if config.length == "sequence" else (raw * counts).sum() / tokens
        mean = used.mean_score or 0.0
        if self._range is None:
            self._range, self._mean_score, self._normaliser = fresh, mean, float(normaliser)
            return
        keep, take = config.running_decay, 1.0 - config.running_decay
        self._range = LossRange(*(keep * old + take * new for old, new in zip(self._range, fresh, strict=True)))
        self._mean_score = keep * self._mean_score + take * mean
        self._normaliser = keep * self._normaliser + take * float(normaliser)

    def _finished(self, step: int, report: WeightingReport | None) -> None:
        self.step = step
        if report is not None:
            self._tail = _TAIL_DECAY * self._tail + (1.0 - _TAIL_DECAY) * report.tail_uncovered


class WeightedStep:
    """One optimiser step: ``loss`` for every micro-batch in turn, then ``finish``."""

    def __init__(
        self, weighter: SampleWeighter, number: int, counts: ArrayLike, base: ArrayLike | None, micro_batches: int
    ) -> None:
        self.weighter, self.number, self.micro_batches = weighter, number, micro_batches
        self.counts: Floats = _on_host(counts)
        self.base: Floats | None = None if base is None else _on_host(base)
        if self.base is not None:
            good = self.base.shape == self.counts.shape and np.isfinite(self.base).all() and (self.base >= 0).all()
            if not good:
                raise ConfigError(
                    f"base: got shape {self.base.shape}, least {self.base.min(initial=0.0)}; allowed a finite factor "
                    f">= 0 for each of the {len(self.counts)} segments; leave it out for 1 everywhere"
                )
        self.plain = not weighter.active(number)  # not weighted: the mean over tokens
        own = [self.counts.sum(), np.count_nonzero(self.counts), len(self.counts)]
        sizes, _ = _gather(np.array(own, dtype=np.float64)[:, None], 1, weighter.group)
        self.tokens = float(sizes[0].sum())  # with a loss, over all ranks
        self.segments = int(sizes[1].sum())  # with such a token, over all ranks
        self._most = int(sizes[2].max())
        self.report: WeightingReport | None = None  # after finish; None for a plain step
        self._done = 0  # segments whose losses were given
        self._ahead: Floats | None = None  # coefficients of all local segments, of a pre-pass
        self._sums: list[Any] = []
        self._parts: list[Part] = []  # over all ranks

    @property
    def wants_prepass(self) -> bool:
        """Whether ``prepass`` has to come first when there is more than one micro-batch."""
        return not self.plain and self.weighter.config.accumulation == "prepass"

    def prepass(self, sums: torch.Tensor) -> None:
        """Weigh the whole step by the losses of a pass without gradient.

        The pass must give the losses of the pass to come: same weights, same dropout.

        Args:
            sums: summed loss of every segment of this rank, in the order of ``counts``: shape (S,).

        Raises:
            ConfigError: not one for each segment that ``begin`` was told of.
        """
        if len(sums) != len(self.counts):
            raise ConfigError(
                f"weighting: got losses of {len(sums)} of {len(self.counts)} segments, allowed all at once; call "
                "prepass with the losses of all micro-batches first, or use accumulation deferred"
            )
        self._ahead = self._weigh_now(sums, self.counts)

    def coefficients(self, sums: torch.Tensor) -> torch.Tensor:
        """The factor of every token's loss in the next segments: shape (S_m,), float64, detached, on the sums' device.

        Args:
            sums: summed loss of the next segments of this rank, in the order of ``counts``: shape (S_m,).

        Raises:
            ConfigError: more segments than ``begin`` was told of, or some but not all of them without a pre-pass.
        """
        import torch

        sums = sums.detach()
        here = slice(self._done, self._done + len(sums))
        if here.stop > len(self.counts):
            raise ConfigError(
                f"weighting: got losses of {here.stop} segments, allowed the {len(self.counts)} whose counts began "
                "the step; give begin all segments of the step"
            )
        mode = self.weighter.config.accumulation
        found: Any
        if self.plain:
            found = np.full(len(sums), 1.0 / max(self.tokens, 1.0))
        elif mode == "prepass":
            if self._ahead is None:
                self.prepass(sums)
            found = cast("Floats", self._ahead)[here]
        elif mode == "per_micro":
            found = self._weigh_now(sums, self.counts[here]) / self.micro_batches
        else:
            found = self._frozen(sums, torch.as_tensor(self.counts[here]).to(sums.device))
        self._done = here.stop
        self._sums.append(sums)
        out = torch.as_tensor(found).to(sums.device)
        return out if self.base is None else out * torch.as_tensor(self.base[here]).to(sums.device)

    def loss(self, losses: torch.Tensor, segments: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
        """This micro-batch's part of the global objective, a scalar with gradient; see ``coefficients``.

        Args:
            losses: token losses with gradient, shape (P,).
            segments: segment of each in its micro-batch, shape (P,), below S_m.
            sums: shape (S_m,), as from ``losses.sums_by_segment``.
        """
        factors = self.coefficients(sums)
        if self.plain and self.base is None:
            # the plain loop's own expression, so that a warm-up repeats it to the last bit
            return losses.sum() / self.tokens
        return weighted_sum(losses, segments, factors)

    def finish(self) -> float:
        """End the step on every rank: what the summed gradients are to be multiplied by, before they are clipped.

        Raises:
            ConfigError: fewer segments were given than the step began with.
        """
        import torch

        weighter, config = self.weighter, self.weighter.config
        if self._done != len(self.counts):
            raise ConfigError(
                f"weighting: got losses of {self._done} segments, allowed the {len(self.counts)} whose counts began "
                "the step; give every micro-batch to loss or coefficients"
            )
        if config.accumulation == "per_micro" and not self.plain and len(self._parts) != self.micro_batches:
            raise ConfigError(
                f"weighting: got {len(self._parts)} micro-batches, allowed the {self.micro_batches} that begin was "
                "told of; give begin their number"
            )
        scale = 1.0
        follows = config.frozen or config.range == "running"
        if follows and config.strategy != "uniform":
            sums = torch.cat(self._sums) if self._sums else torch.zeros(0, dtype=torch.float64)
            losses, counts, _ = self._all(sums, self.counts)
            if config.frozen and not self.plain:
                weighed = weighter._weigh(losses, counts, self.number)
                self._parts = [Part(losses, counts, weighed)]
                raw = weighter._raw(weighed, self.number)
                total = float(raw.sum() if config.length == "sequence" else (raw * counts).sum())
                if config.accumulation == "deferred" and total > 0:
                    scale = (self.segments if config.length == "sequence" else self.tokens) / total
            weighter._observe(losses, counts, self.number, segments=self.segments, tokens=self.tokens)
        if not self.plain:
            self.report = report_of(self._parts, config.temperature_at(self.number))
        weighter._finished(self.number, self.report)
        return scale

    def _all(self, sums: torch.Tensor, counts: Floats) -> tuple[Floats, Floats, slice]:
        """Mean losses and counts of these segments over all ranks, and which of them are this rank's."""
        own = sums.detach().double().cpu().numpy()
        means = np.divide(own, counts, out=np.zeros(len(own)), where=counts > 0)
        rows, here = _gather(np.stack([means, counts]), self._most, self.weighter.group)
        return rows[0], rows[1], here

    def _weigh_now(self, sums: torch.Tensor, counts: Floats) -> Floats:
        """Coefficients of these segments of this rank, by a softmax over them on all ranks."""
        losses, everywhere, here = self._all(sums, counts)
        weighed = self.weighter._weigh(losses, everywhere, self.number)
        self._parts.append(Part(losses, everywhere, weighed))
        if self.weighter.config.length == "sequence":
            return weighed.weights[here] / np.maximum(counts, 1.0)
        tokens = float((weighed.weights * everywhere).sum())
        return weighed.weights[here] / (tokens if tokens > 0 else 1.0)

    def _frozen(self, sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Coefficients by the range of the steps before: on the device, nothing waited for."""
        import torch

        weighter, config = self.weighter, self.weighter.config
        assert weighter._range is not None  # active() says so
        losses = sums.double() / counts.clip(min=1.0)
        live = (counts > 0) & torch.isfinite(losses)
        scores = SCORES[config.strategy](normalise(torch.where(live, losses, 0.0), weighter._range))
        scores = torch.where(counts >= config.min_tokens, scores, weighter._mean_score)
        raw = torch.where(live, ((scores - CEILING) / config.temperature_at(self.number)).exp(), 0.0)
        # deferred divides by the number for now, so that gradients keep their size until the sum is known
        known = weighter._normaliser if config.accumulation == "running" else 1.0
        if config.length == "sequence":
            return raw / (counts.clip(min=1.0) * (known * self.segments))
        return raw / (known * self.tokens)


def scale_gradients(parameters: Iterable[torch.nn.Parameter], scale: float) -> None:
    """Multiply all gradients in place; a scale of 1 touches nothing."""
    import torch

    gradients = [p.grad for p in parameters if p.grad is not None]
    if scale != 1.0 and gradients:
        torch._foreach_mul_(gradients, scale)


def _on_host(values: Any) -> Floats:
    """An array or a tensor of any device in float64."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64)


def _ranks(group: Any) -> tuple[int, int]:
    """This process' rank in the group, and how many there are."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def _gather(rows: Floats, most: int, group: Any) -> tuple[Floats, slice]:
    """Columns of all ranks in rank order, (k, M) from (k, S) with S <= ``most``, and where the own ones are."""
    import torch
    import torch.distributed as dist

    rank, world = _ranks(group)
    if world == 1:
        return rows, slice(0, rows.shape[1])
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend(group) == "nccl" else "cpu"
    # the first row says which columns are filled
    padded = torch.zeros(len(rows) + 1, most, dtype=torch.float64)
    padded[0, : rows.shape[1]] = 1.0
    padded[1:, : rows.shape[1]] = torch.from_numpy(rows)
    padded = padded.to(device)
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded, group=group)
    found = [part.cpu().numpy() for part in parts]
    filled = [part[1:, part[0] > 0] for part in found]
    first = sum(part.shape[1] for part in filled[:rank])
    return np.concatenate(filled, axis=1), slice(first, first + filled[rank].shape[1])
