"""Gradients on batches of their own, beside training: what Dynamic Gradient Alignment and R&B look at.

At every measurement one batch of each domain and one of the target are drawn, their mean losses are differentiated,
and the products of the gradients are the signal (Fan et al. 2024, arXiv 2410.02498; with clipping to norm 1 before the
product as in GRAPE). Batches of domains come from rows that training may have seen: on unseen rows the memorisation
that the method should react to would not show. They are drawn from a stream of their own, so the order of the
training data does not change.

Nothing of training is touched. Gradients come from ``torch.autograd.grad``, which leaves ``.grad`` alone, and the state
of every random generator is put back. Under FSDP2 that function does not see the sharded parameters; there ``.grad`` is
stashed, ``backward`` runs, the products of the local shards are added over the ranks, and ``.grad`` is put back.
Dropout is off while a probe runs: its noise would enter the product and nothing else.

Price: K + 1 gradients of ``sequences`` sequences at a measurement, and one gradient (4 bytes a parameter) in memory;
for ``Signal.GRADIENT_GRAM`` K gradients of the parameters that it is taken over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.seeding import rehash, stream
from penstock.training.batch import Batch
from penstock.training.mixing.base import Floats, Signal

if TYPE_CHECKING:
    import torch

    from penstock.training.store import Store

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """Sequences that training should become good at: some to probe with, the others to measure on."""

    store: Store
    probe: tuple[Ints, Ints]  # (n,) domain index and row of the sequences that gradients are taken of
    held_out: tuple[Ints, Ints]  # (m,) of those that are only ever evaluated

    @classmethod
    def split(
        cls, store: Store, *, domains: Sequence[str] | None = None, held_out: float = 0.5, seed: int = 0
    ) -> Target:
        """All sequences of ``domains``, by the hash of each one's place; both sides get one where there are two.

        Args:
            domains: of the store; None is all of them.
            held_out: share that is only evaluated, 0 to below 1.

        Raises:
            ConfigError: an unknown domain, no sequence at all, or none left to probe with.
        """
        if not 0 <= held_out < 1:
            raise ConfigError(f"held_out: got {held_out}, allowed 0 to below 1")
        names = store.domains if domains is None else tuple(domains)
        if unknown := [name for name in names if name not in store.domains]:
            raise ConfigError(
                f"target: no domain {', '.join(map(repr, unknown))}; the target's data has {', '.join(store.domains)}"
            )
        index = [store.domains.index(name) for name in names]
        domain = np.concatenate([np.full(store.rows[k], k, np.int64) for k in index] or [np.zeros(0, np.int64)])
        row = np.concatenate([np.arange(store.rows[k], dtype=np.int64) for k in index] or [np.zeros(0, np.int64)])
        if not len(row):
            raise ConfigError(
                f"target: {', '.join(names) or 'no domain'} holds no sequence; name a domain that has some (of "
                f"{', '.join(store.domains)}), or hold out more"
            )
        coin = rehash(rehash(row.astype(np.uint64), seed, "target row") ^ domain.astype(np.uint64), seed, "target")
        order = np.argsort(coin, kind="stable")
        out = round(held_out * len(row)) if held_out else 0
        out = min(max(out, 1 if held_out else 0), len(row) - 1)
        kept, aside = np.sort(order[out:]), np.sort(order[:out])
        return cls(store=store, probe=(domain[kept], row[kept]), held_out=(domain[aside], row[aside]))


class GradientProbe:
    """Signals from gradients of probe batches; see the module."""

    def __init__(
        self,
        model: torch.nn.Module,
        loss: Callable[[Batch], torch.Tensor],
        store: Store,
        *,
        target: Target | None = None,
        sequences: int = 8,
        target_sequences: int | None = None,
        seed: int = 0,
        clip_norm: float | None = 1.0,
        parameters: Sequence[torch.nn.Parameter] | None = None,
        basis: Floats | None = None,
        backward: Literal["autograd", "grad"] = "autograd",
        rank: int = 0,
        world_size: int = 1,
        group: Any = None,
    ) -> None:
        """
        Args:
            model: whose parameters are differentiated; the module itself, not its DDP wrapper.
            loss: mean token loss of a batch in nats, with its graph. On several ranks it is averaged over them, so it
                should be the rank's summed loss times the ranks over the tokens of all: slices may be uneven.
            store: of the training data.
            target: for ``Signal.TARGET_DOT`` and ``Signal.TARGET_LOSS``.
            sequences: of each domain's batch over all ranks.
            target_sequences: of the target's batch; None is as many, or all there are.
            seed: of the draws.
            clip_norm: gradients are scaled to at most this norm before products are taken; None leaves them.
            parameters: to differentiate; None is all that train.
            basis: (N, K) distributions over domains: one batch is drawn from each instead of from each domain.
            backward: "grad" for FSDP2.
            rank, world_size, group: each rank takes its slice of a batch, and gradients are averaged over ranks.

        Raises:
            ConfigError: a number out of range, or a basis whose rows are no distributions.
        """
        if sequences < 1 or (target_sequences is not None and target_sequences < 1):
            raise ConfigError(f"probe: got {sequences} and {target_sequences} sequences, allowed >= 1")
        if sequences % world_size:
            raise ConfigError(f"probe: {sequences} sequences do not divide by {world_size} ranks; change the number")
        if clip_norm is not None and not clip_norm > 0:
            raise ConfigError(f"clip_norm: got {clip_norm}, allowed > 0, or null for none")
        if basis is not None:
            basis = np.asarray(basis, dtype=np.float64)
            fits = basis.ndim == 2 and basis.shape[1] == len(store.domains)
            if not fits or (basis < 0).any() or not np.allclose(basis.sum(axis=1), 1.0, atol=1e-6):
                raise ConfigError(
                    f"basis: got an array of shape {basis.shape}, allowed (N, {len(store.domains)}) with rows >= 0 "
                    "that sum to 1"
                )
        self.model, self.loss, self.store, self.target = model, loss, store, target
        self.sequences, self.target_sequences, self.seed = sequences, target_sequences, seed
        self.clip_norm, self.basis, self.backward = clip_norm, basis, backward
        self.parameters = [p for p in (parameters or model.parameters()) if p.requires_grad]
        self.rank, self.world_size, self.group = rank, world_size, group
        with_target = {Signal.TARGET_DOT, Signal.TARGET_LOSS} if target is not None else set()
        self.gives = frozenset({Signal.GRADIENT_GRAM, *with_target})

    def measure(self, wanted: frozenset[Signal], number: int) -> Mapping[Signal, tuple[Floats, Floats]]:
        """Sums and counts of the wanted signals from fresh batches; ``number`` is the measurement's, from 0.

        Domains without sequences are not probed: their counts are 0.
        """
        found: dict[Signal, tuple[Floats, Floats]] = {}
        with _undisturbed(self.model):
            if Signal.TARGET_DOT in wanted or Signal.TARGET_LOSS in wanted:
                found |= self._against_target(number)
            if Signal.GRADIENT_GRAM in wanted:
                found[Signal.GRADIENT_GRAM] = self._gram(number)
        return {signal: found[signal] for signal in wanted if signal in found}

    def _against_target(self, number: int) -> dict[Signal, tuple[Floats, Floats]]:
        assert self.target is not None, "asked for what is not given"
        domain, row = self.target.probe
        count = min(self.target_sequences or self.sequences, len(row))
        pick = np.sort(stream(self.seed, "target probe", number).choice(len(row), size=count, replace=False))
        mean, of_target = self._gradient(rows_batch(self.target.store, *self._own(domain[pick], row[pick])))
        scale = self._scale(self._dots(of_target, of_target))
        k = len(self.store.domains) if self.basis is None else len(self.basis)
        dots, counts = np.zeros(k), np.zeros(k)
        for i, batch in self._batches(number):
            _, gradient = self._gradient(batch)
            squared, product = self._dots(gradient, gradient), self._dots(gradient, of_target)
            dots[i], counts[i] = product * scale * self._scale(squared), 1.0
        return {
            Signal.TARGET_DOT: (dots, counts),
            Signal.TARGET_LOSS: (np.array([mean]), np.array([1.0])),
        }

    def _gram(self, number: int) -> tuple[Floats, Floats]:
        k = len(self.store.domains) if self.basis is None else len(self.basis)
        held = {i: self._gradient(batch)[1] for i, batch in self._batches(number)}
        gram, counts = np.zeros((k, k)), np.zeros((k, k))
        for i in held:
            for j in held:
                if j >= i:
                    gram[i, j] = gram[j, i] = self._dots(held[i], held[j])
                    counts[i, j] = counts[j, i] = 1.0
        if self.clip_norm is not None:
            scale = np.array([self._scale(gram[i, i]) for i in range(k)])
            gram *= scale[:, None] * scale[None, :]
        return gram, counts

    def _batches(self, number: int) -> Iterator[tuple[int, Batch]]:
        """One batch of each domain that has sequences, or of each basis distribution."""
        rows = np.array(self.store.rows)
        for i in range(len(rows) if self.basis is None else len(self.basis)):
            name = self.store.domains[i] if self.basis is None else str(i)
            draw = stream(self.seed, "probe", number, name)
            if self.basis is None:
                if not rows[i]:
                    continue
                domain = np.full(self.sequences, i, dtype=np.int64)
            else:
                has = self.basis[i] * (rows > 0)
                if not has.sum():
                    continue
                domain = np.sort(draw.choice(len(rows), size=self.sequences, p=has / has.sum())).astype(np.int64)
            row = (draw.random(self.sequences) * rows[domain]).astype(np.int64)
            yield i, rows_batch(self.store, *self._own(domain, row))

    def _own(self, domain: Ints, row: Ints) -> tuple[Ints, Ints]:
        """This rank's slice."""
        if len(row) < self.world_size:
            return domain, row
        here = slice(self.rank * len(row) // self.world_size, (self.rank + 1) * len(row) // self.world_size)
        return domain[here], row[here]

    def _gradient(self, batch: Batch) -> tuple[float, list[Any]]:
        """Mean loss and its gradient by parameter, averaged over ranks; None for a parameter it does not reach."""
        import torch

        with torch.enable_grad():
            loss = self.loss(batch)
            if self.backward == "grad":
                before = [p.grad for p in self.parameters]
                for p in self.parameters:
                    p.grad = None
                torch.autograd.backward(loss)
                # FSDP2 averages while it scatters, so a shard is one of the mean
                gradients = [None if p.grad is None else _local(p.grad) for p in self.parameters]
                for p, grad in zip(self.parameters, before, strict=True):
                    p.grad = grad
            else:
                gradients = list(torch.autograd.grad(loss, self.parameters, allow_unused=True))
                if self.world_size > 1:
                    for gradient in gradients:
                        if gradient is not None:
                            torch.distributed.all_reduce(gradient, group=self.group)
                            gradient /= self.world_size
        mean = loss.detach().double().reshape(1)
        if self.world_size > 1:
            torch.distributed.all_reduce(mean, group=self.group)
            mean /= self.world_size
        return float(mean), gradients

    def _dots(self, one: list[Any], other: list[Any]) -> float:
        """Inner product in float32 by tensor, in float64 over tensors; shards are added over ranks."""
        import torch

        parts = [
            torch.dot(a.flatten().float(), b.flatten().float()).double()
            for a, b in zip(one, other, strict=True)
            if a is not None and b is not None and a.numel()
        ]
        total = torch.stack(parts).sum().reshape(1) if parts else torch.zeros(1, dtype=torch.float64)
        if self.backward == "grad" and self.world_size > 1:
            torch.distributed.all_reduce(total, group=self.group)
        return float(total)

    def _scale(self, squared_norm: float) -> float:
        if self.clip_norm is None or squared_norm <= self.clip_norm**2:
            return 1.0
        return self.clip_norm / float(np.sqrt(squared_norm))


def _local(gradient: Any) -> Any:
    return gradient.to_local() if hasattr(gradient, "to_local") else gradient


@contextmanager
def _undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode inside; modes of all modules, buffers and random generators are as before outside."""
    import torch

    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    devices = sorted({p.device for p in model.parameters() if p.device.type == "cuda"}, key=str)
    try:
        with torch.random.fork_rng(devices=devices):
            model.eval()
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if not torch.equal(buffer, buffers[name]):
                    buffer.copy_(buffers[name])


def rows_batch(store: Store, domain: Ints, row: Ints) -> Batch:
    """Sequences of a store by domain index and row, as a batch that stands in no training order."""
    return Batch.of(store.read(domain, row), domain=domain, rows=row)
