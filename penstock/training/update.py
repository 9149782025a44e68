"""One optimiser step: forward and backward by micro-batches, the guard, clipping, AdamW.

The objective of a step is the mean loss of the tokens with a loss of its whole batch, all ranks together, or what
sample weights (``weighter``) make of it. A policy's multipliers m_k scale the loss of the tokens of domain k, divided
by their mean over the step's tokens, so that they move weight and change no learning rate.

What is divided by belongs to the whole batch: neither accumulation nor the number of ranks changes the objective.
Ranks average gradients, so each multiplies its part by their number. Where weights need the losses of all
micro-batches, a pass without gradient goes before, with the same random numbers, hence the same dropout.

Losses that are recorded, and that policies see, are the plain ones, whatever the weights.

Price: one exchange of four numbers among the ranks before the backward pass, one of 2 K + 2 after it; the device is
waited for once. Sample weights: what ``weighter`` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, TrainingError
from penstock.training.config import TrainConfig
from penstock.training.distributed import Ranks
from penstock.training.evaluation import autocast
from penstock.training.guards import GradientGuard
from penstock.training.loader import Batch
from penstock.training.model import PackedInputs, pack_inputs, predicted_tokens, segment_sums
from penstock.training.parallel import Spread
from penstock.training.weighter import SampleWeighter, WeightedStep, scale_gradients
from penstock.training.weighting import WeightingConfig

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a step did. Sums and counts by segment are this rank's, everything else is of all ranks."""

    sums: Floats  # (S,) summed plain losses of the segments of this rank's batch, nats
    counts: Floats  # (S,) their tokens with a loss
    loss: float  # nats per token
    tokens: int  # with a loss
    domain_sums: Floats  # (K,)
    domain_counts: Floats  # (K,)
    tokens_read: int  # by the model, padding apart
    norm: float  # of the whole gradient, before clipping
    excess: Floats | None = None  # (S,) summed max(loss - reference loss, 0) of this rank's segments
    skipped: str | None = None  # why no weight changed
    facts: Mapping[str, Any] = field(default_factory=dict)  # of the sample weights, JSON values


class Update:
    """Trains a spread model on batches; holds the optimiser and the guard."""

    def __init__(
        self,
        spread: Spread,
        config: TrainConfig,
        *,
        domains: tuple[str, ...],
        vocab_size: int,
        bfloat16: bool,
        reference: Callable[[PackedInputs], torch.Tensor] | None = None,
    ) -> None:
        """
        Args:
            reference: token losses of a reference model, (P,) without gradient, for policies that ask for the excess.
        """
        self.reference = reference
        self.spread, self.config, self.domains = spread, config, domains
        self.vocab_size, self.bfloat16 = vocab_size, bfloat16
        self.ranks: Ranks = spread.ranks
        self.optimizer = adamw(spread.model, config)
        self.guard = GradientGuard(
            max_skipped=config.max_skipped,
            max_norm=config.max_gradient_norm,
            spike_z=config.spike_z,
            window=config.spike_window,
        )
        # a policy's multipliers go the same way as sample weights, with none of these
        settings = config.weighting or WeightingConfig(strategy="uniform")
        self.weighter: SampleWeighter = settings.build(self.ranks.host_group)

    def __call__(self, step: int, batch: Batch, rate: float, *, multipliers: Floats | None = None) -> Outcome:
        """Train on this rank's slice of the batch of ``step``, counted from 1, at learning rate ``rate``.

        Args:
            multipliers: of the loss of each domain's tokens, (K,) >= 0; None is 1 everywhere.

        Raises:
            ConfigError: a token id beyond the vocabulary.
            TrainingError: nothing to predict in the whole batch, or one skipped step in a row too many.
        """
        self._check_ids(batch)
        self.spread.model.train()
        counts = segment_token_counts(batch)
        factors = None if multipliers is None else multipliers[np.repeat(batch.domain, batch.segment_counts)]
        total, read = self._check_tokens(step, batch, counts)
        micro = self._micro_batches(batch)
        weighted = self._begin(step, counts, factors, total, len(micro))
        if weighted is not None and weighted.wants_prepass and len(micro) > 1:
            weighted.prepass(self._without_gradient(batch, micro))
        parts = []
        for number, rows in enumerate(micro):
            inputs, last = self._inputs(batch, rows), number == len(micro) - 1
            with self.spread.accumulating(last=last):
                with autocast(self.spread.device, self.bfloat16):
                    losses = self.spread.losses(inputs, last=last)
                sums, found = segment_sums(losses, inputs)
                if weighted is None:
                    self._backward(losses.sum() / total)
                else:
                    self._backward(weighted.loss(losses, inputs.segments, sums))
            parts.append((sums, found, *self._excess(losses, inputs)))
        scale = 1.0 if weighted is None else weighted.finish()
        scale_gradients(self.spread.model.parameters(), scale)
        facts = {} if weighted is None or weighted.report is None else weighted.report.to_json()
        return self._finish(step, batch, rate, parts, read, facts)

    def _begin(
        self, step: int, counts: Floats, factors: Floats | None, total: int, micro_batches: int
    ) -> WeightedStep | None:
        """Sample weights of the step, with a policy's factors; None for the plain mean over tokens."""
        if self.config.weighting is None and factors is None:
            return None
        if factors is not None:
            # their mean over the tokens of the step becomes 1
            mass = float(self.ranks.sum(np.array([(factors * counts).sum()]))[0])
            factors = factors * (total / mass) if mass > 0 else np.ones(len(factors))
        return self.weighter.begin(step, counts, base=factors, micro_batches=micro_batches)

    def _without_gradient(self, batch: Batch, micro: list[slice]) -> torch.Tensor:
        """Summed losses of all segments of this rank, (S,), by the random numbers that the next pass will draw."""
        import torch

        device = self.spread.device
        sums = []
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
            for rows in micro:
                inputs = self._inputs(batch, rows)
                with autocast(device, self.bfloat16):
                    losses = self.spread.bare_losses(inputs)
                sums.append(segment_sums(losses, inputs)[0])
        return torch.cat(sums)

    def _excess(self, losses: torch.Tensor, inputs: PackedInputs) -> tuple[torch.Tensor, ...]:
        """What each segment's tokens lose beyond the reference, clipped token by token; nothing without one."""
        import torch

        if self.reference is None:
            return ()
        with torch.no_grad(), autocast(self.spread.device, self.bfloat16):
            beyond = (losses.detach() - self.reference(inputs)).clip(min=0.0)
        return (segment_sums(beyond, inputs)[0],)

    def _backward(self, objective: torch.Tensor) -> None:
        import torch

        # DDP and FSDP2 average over ranks, the objective is a sum over them
        torch.autograd.backward(objective if self.ranks.alone else objective * self.ranks.world_size)

    def _micro_batches(self, batch: Batch) -> list[slice]:
        """Rows of each; every rank has as many."""
        size = self.config.micro_batch_size or len(batch.numbers)
        return [slice(begin, begin + size) for begin in range(0, len(batch.numbers), size)]

    def _inputs(self, batch: Batch, rows: slice) -> PackedInputs:
        learned = None if batch.learned is None else batch.learned[rows]
        return pack_inputs(
            batch.tokens[rows], batch.segment_ids[rows], batch.positions[rows], learned, device=self.spread.device
        )

    def _check_tokens(self, step: int, batch: Batch, counts: Floats) -> tuple[int, int]:
        """Tokens with a loss, and tokens that are no padding, of the whole batch: from the layout alone."""
        own = [counts.sum(), batch.segment_lengths.sum(), batch.learned is not None]
        total, size, masks = self.ranks.sum(np.array(own, dtype=np.float64))
        if not total and not masks:
            raise TrainingError(f"step {step}: no token to predict, every segment has one token; pack longer documents")
        if not total:
            raise TrainingError(
                f"step {step}: none of the {int(size)} tokens is learned; raise batch_size or "
                "sequences.length, so that every step holds something to learn"
            )
        return int(total), int(size)

    def _finish(
        self,
        step: int,
        batch: Batch,
        rate: float,
        parts: list[tuple[torch.Tensor, ...]],
        read: int,
        facts: Mapping[str, Any],
    ) -> Outcome:
        """Judge the gradient, clip it and apply it."""
        import torch

        norm_here = self.spread.gradient_norm()
        sums, counts, *excess = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
        k = len(self.domains)
        of_segment = np.repeat(batch.domain, batch.segment_counts)
        by_domain = [np.bincount(of_segment, weights=values, minlength=k) for values in (sums, counts)]
        reduced = self.ranks.sum(np.concatenate([[sums.sum(), counts.sum()], *by_domain]))
        norm, tokens = float(norm_here), int(reduced[1])
        loss = float(reduced[0] / tokens)
        reason = self.guard.judge(loss, norm)
        if reason is None:
            self.spread.clip(norm_here, self.config.clip_norm)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if reason is not None:
            size = self.config.batch_size
            self.guard.raise_if_stuck(
                step,
                reason,
                f"lower learning_rate ({rate:g} here), lengthen warmup_steps, or look at the sequences "
                f"{(step - 1) * size} to {step * size - 1} of the training order",
            )
        return Outcome(
            sums=sums,
            counts=counts,
            loss=loss,
            tokens=tokens,
            domain_sums=reduced[2 : 2 + k],
            domain_counts=reduced[2 + k :],
            tokens_read=read,
            norm=norm,
            excess=excess[0] if excess else None,
            skipped=reason,
            facts=facts,
        )

    def _check_ids(self, batch: Batch) -> None:
        largest = int(batch.tokens.max(initial=0))
        if largest >= self.vocab_size:
            row = int(np.argmax(batch.tokens.max(axis=1)))
            name = self.domains[int(batch.domain[row])]
            raise ConfigError(
                f"domain {name}, row {int(batch.rows[row])}: token id {largest}, allowed below vocab_size = "
                f"{self.vocab_size}; give the tokenizer the sequences were made with"
            )


def segment_token_counts(batch: Batch) -> Floats:
    """Tokens with a loss of every segment of a batch: (S,)."""
    if batch.learned is None:
        return np.maximum(batch.segment_lengths - 1, 0).astype(np.float64)
    first = np.cumsum(batch.segment_counts) - batch.segment_counts
    row, place = np.nonzero(predicted_tokens(batch.segment_ids, batch.learned))
    segments = first[row] + batch.segment_ids[row, place]
    return np.bincount(segments, minlength=len(batch.segment_lengths)).astype(np.float64)


def adamw(model: Any, config: TrainConfig) -> torch.optim.Optimizer:
    """Fused AdamW with decay on tensors of two or more dimensions."""
    import torch

    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True
    )


def finite(value: float) -> float | None:
    """For JSON, which knows no other numbers."""
    return value if math.isfinite(value) else None
