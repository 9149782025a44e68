"""Batches of a mixture of domains, addressed by sequence number.

Sequence n of a run is a pure function of the mixture log, the seed and the data (see ``mixture``), so
there is nothing to fast-forward: any rank computes its own slice of any step, resume is O(1), and the
number of ranks may change between save and resume. The loader is a map-style dataset with
``__getitems__`` and takes its indices from a sampler in the main process; worker processes would only
copy tokens between processes, which costs more than the gather itself. ``stream`` gathers ahead in a thread.

>>> loader = MixtureLoader(store, {"docs": 3, "code": 1}, seed=0, fingerprint=digest, batch_size=32)
>>> loader.batch(7, rank=1, world_size=4).tokens.shape
(8, 512)

Weights are shares of *tokens*: a domain whose sequences hold more padding gets more sequences (see ``shares``).

A change of the mixture that was decided after step t is an entry that takes effect at sequence
(t + lag) * batch_size, wherever the readers are: prefetch depth, workers and restarts do not move it, no batch that
was handed out changes, and nothing is built anew. All ranks must make the same changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, DatasetError
from penstock.training.batch import Batch
from penstock.training.mixture import MixtureLog
from penstock.training.mixture_entries import Entry, OnExhausted
from penstock.training.prefetch import ahead, pinned, require_pinning
from penstock.training.reader import OrderReader
from penstock.training.shares import Caps, Weights, domain_weights, row_limits, sequence_quotas, vector_weights
from penstock.training.store import Store

Ints = NDArray[np.int64]

__all__ = ["Batch", "MixtureLoader", "Weights", "domain_weights"]

# past versions of which ``weights_of`` and ``batch`` still know; in memory only
_KEPT_VERSIONS = 1024


class MixtureLoader:
    """Map-style access to the training order, with state that fits in a checkpoint."""

    def __init__(
        self,
        store: Store,
        weights: Weights,
        *,
        seed: int,
        fingerprint: str,
        batch_size: int,
        temperature: float = 1.0,
        block: int = 1000,
        lag: int = 8,
        max_epochs: Caps | None = None,
        on_exhausted: OnExhausted = "repeat",
        group_rows: int | None = None,
    ) -> None:
        """
        Args:
            store: sequences by domain.
            weights, temperature: see ``domain_weights``.
            seed: of the row orders and of ties in the mixture.
            fingerprint: digest of the data; a state of another fingerprint is refused.
            batch_size: sequences per step over all ranks.
            block: sequences over which the mixture's ratios are exact; it may hold more than the data does.
            lag: steps from the one after which a change is decided to the last one it leaves alone; at least the
                prefetch depth.
            max_epochs: how often a domain may be read, for all or by name; see ``row_limits``.
            on_exhausted: what follows when a domain may not be read any more: it begins anew ("repeat": no caps),
                its share goes to the others in their ratio ("redistribute"), or the order ends ("stop").
            group_rows: sequences of a domain that are read from one place before the next place's turn comes; see
                ``permutation``. None shuffles all of a domain's rows.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size: got {batch_size}, allowed >= 1")
        if lag < 0:
            raise ConfigError(f"lag: got {lag}, allowed >= 0 steps")
        if group_rows is not None and group_rows < 1:
            raise ConfigError(f"group_rows: got {group_rows}, allowed >= 1 sequences, or None for no groups")
        self.batch_size = batch_size
        self.block = block
        self.lag = lag
        self._caps: tuple[Caps | None, OnExhausted] = (max_epochs, on_exhausted)
        self._group_rows = group_rows
        shares = domain_weights(store, weights, temperature=temperature)
        self.log = MixtureLog.start(
            store.domains, sequence_quotas(store, shares, block), seed=seed, **self._dataset(store, shares, fingerprint)
        )
        self._reader = OrderReader()
        self._reader.use(self.log, {0: store})
        self.consumed = 0
        self._observed = -1  # sequences consumed when the last change was decided
        self._ahead = 0  # steps that a running stream may have gathered past ``consumed``

    def _dataset(self, store: Store, shares: Sequence[float], fingerprint: str) -> dict[str, Any]:
        max_epochs, on_exhausted = self._caps
        return {
            "rows": store.rows,
            "weights": shares,
            "limits": row_limits(store, max_epochs, on_exhausted),
            "on_exhausted": on_exhausted,
            "fingerprint": fingerprint,
            "group_rows": self._group_rows,
        }

    @property
    def domains(self) -> tuple[str, ...]:
        """Names by ``Batch.domain``: those of all datasets of the run, an index never changes its meaning."""
        return self.log.domains

    @property
    def store(self) -> Store:
        """The store in force at ``consumed``."""
        return self._reader.store(self._in_force.generation)

    @property
    def fingerprint(self) -> str:
        """Of the dataset in force at ``consumed``."""
        return self.log.dataset(self._in_force.generation).fingerprint

    @property
    def _in_force(self) -> Entry:
        return self.log.entry(self.log.version_at(self.consumed))

    @property
    def weights(self) -> tuple[float, ...]:
        """Shares of tokens in force at ``consumed``, as they were asked for: (K,)."""
        return self._in_force.weights

    @property
    def newest_version(self) -> int:
        """Number of the last entry of the log, in force or to come."""
        return self.log.newest_version

    def weights_of(self, version: int) -> tuple[float, ...]:
        """Shares of tokens of a mixture version: (K,). About a thousand past versions are known.

        Raises:
            ConfigError: the version is not there yet, or is too old.
        """
        return self.log.entry(version).weights

    def effective_from(self, version: int) -> int:
        """The sequence from which a mixture version is in force."""
        return self.log.entry(version).effective_from

    @property
    def epochs(self) -> tuple[float, ...]:
        """How often each domain of the dataset in force was read: (K,), 0 for one without sequences."""
        rows = self.log.dataset(self._in_force.generation).rows
        return tuple(c / n if n else 0.0 for c, n in zip(self.log.cursors(self.consumed), rows, strict=True))

    @property
    def steps_left(self) -> int | None:
        """Whole steps from ``consumed`` to the end of the order; None where it has no end."""
        return None if self.log.end is None else max(0, self.log.end - self.consumed) // self.batch_size

    def numbers(self, step: int, *, rank: int = 0, world_size: int = 1) -> Ints:
        """Sequence numbers of one rank's slice of step ``step``, counted from sequence 0."""
        return np.arange(*self._slice(step, rank, world_size), dtype=np.int64)

    def _slice(self, step: int, rank: int, world_size: int) -> tuple[int, int]:
        if world_size < 1 or not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} of {world_size}: allowed 0 <= rank < world size")
        if self.batch_size % world_size:
            raise ConfigError(f"batch_size: {self.batch_size} sequences do not divide by {world_size} ranks; change it")
        share = self.batch_size // world_size
        first = step * self.batch_size + rank * share
        return first, first + share

    def batch(self, step: int, *, rank: int = 0, world_size: int = 1) -> Batch:
        """The sequences of one rank in step ``step``.

        Raises:
            DatasetError: the order ends before.
        """
        first, stop = self._slice(step, rank, world_size)
        return self._reader.run(self.log, first, stop, batch_size=self.batch_size)

    def __getitems__(self, numbers: Sequence[int] | Ints) -> Batch:
        """The sequences with these numbers, in this order."""
        wanted = np.asarray(numbers, dtype=np.int64)
        if len(wanted) and wanted[0] >= 0 and (np.diff(wanted) == 1).all():
            return self._reader.run(self.log, int(wanted[0]), int(wanted[-1]) + 1, batch_size=self.batch_size)
        return self._reader.read(self.log, wanted)

    def sampler(self, steps: int, *, rank: int = 0, world_size: int = 1) -> Iterator[list[int]]:
        """Sequence numbers of the next ``steps`` steps after what was consumed.

        For ``DataLoader(loader, batch_sampler=loader.sampler(n), collate_fn=lambda batch: batch)``. Worker processes
        know the log as it was when they were started: take none in a run that changes its mixture.
        """
        first = self.consumed // self.batch_size
        for step in range(first, first + steps):
            yield [int(n) for n in self.numbers(step, rank=rank, world_size=world_size)]

    def stream(
        self, steps: int | None = None, rank: int = 0, world_size: int = 1, *, prefetch: int = 2, pin: bool = False
    ) -> Iterator[Batch]:
        """The next steps in order, gathered ahead by a thread; a batch that is taken counts as consumed.

        Do not call ``advance`` beside it. Batches that were gathered and not taken leave no trace: a state saved
        between two batches is the same for every ``prefetch``.

        Args:
            steps: how many; None goes on to the end of the order.
            prefetch: batches gathered ahead of the one taken last, at most ``lag``; 0 takes no thread.
            pin: gather tokens into page-locked memory, from which a copy to a GPU runs beside its work.

        Raises:
            ConfigError: a bad rank, ``prefetch`` above ``lag``, or ``pin`` without CUDA.
            DatasetError: the order has fewer than ``steps`` steps left.
        """
        self.numbers(0, rank=rank, world_size=world_size)
        if not 0 <= prefetch <= self.lag:
            raise ConfigError(
                f"prefetch: got {prefetch}, allowed 0 to the loader's lag of {self.lag}: a change of the mixture must "
                "not reach what was gathered; raise lag"
            )
        if pin:
            require_pinning()
        left = self.steps_left
        if steps is not None and left is not None and steps > left:
            raise DatasetError(self.log.ended(self.consumed + steps * self.batch_size - 1))
        return self._taken(steps, rank, world_size, prefetch, pin)

    def _taken(self, steps: int | None, rank: int, world_size: int, prefetch: int, pin: bool) -> Iterator[Batch]:
        first = self.consumed // self.batch_size

        def gathered() -> Iterator[Batch]:
            step = first
            while steps is None or step < first + steps:
                end = self.log.end
                if end is not None and (step + 1) * self.batch_size > end:
                    return
                batch = self.batch(step, rank=rank, world_size=world_size)
                if pin:
                    batch.tokens = pinned(batch.tokens)
                yield batch
                step += 1

        expected = self.consumed
        self._ahead = prefetch
        try:
            for batch in ahead(gathered(), prefetch):
                if self.consumed != expected:
                    raise ConfigError(
                        f"{self.consumed} sequences are consumed, the stream gave {expected}: a batch that is taken "
                        "from a stream counts by itself; do not call advance or load a state beside it"
                    )
                self.advance()
                expected = self.consumed
                yield batch
        finally:
            self._ahead = 0

    def advance(self, steps: int = 1) -> None:
        """Count ``steps`` whole steps as consumed."""
        self.consumed += steps * self.batch_size

    def update(self, weights: Weights | Sequence[float] | NDArray[np.float64], *, step: int) -> int:
        """Change the mixture, as decided after optimiser step ``step``, which counts from 1.

        The change takes effect at sequence ``(step + lag) * batch_size``; where an earlier change takes effect there
        or later (a batch size or a lag shrank in between), at the first step border after it. The same change made
        twice is one. Changes come in the order of their steps.

        Args:
            weights: as in the constructor, or a vector over ``domains`` that sums to 1.

        Returns:
            Number of the mixture version.

        Raises:
            ConfigError: bad weights, another change after the same step or a later one, or a change that would
                reach sequences already handed out.
        """
        step = int(step)
        store = self._reader.store(self.log.entries[-1].generation)
        shares = domain_weights(store, self._named(store, weights))
        wanted = sequence_quotas(store, shares, self.block)
        quotas, asked = self._over_domains(store, wanted, 0), self._over_domains(store, shares, 0.0)
        if step * self.batch_size == self._observed and self.log.entries[-1].quotas == quotas:
            return self.newest_version
        self.log = self._shortened().append(self._effective(step), quotas, asked)
        self._observed = step * self.batch_size
        return self.newest_version

    def replace(self, store: Store, *, fingerprint: str, weights: Weights, step: int) -> int:
        """Read another dataset from ``(step + lag) * batch_size`` on; a change like those of ``update``.

        Its domains may be others: a name keeps its index in ``domains``, new names come after the old. Every domain
        begins with its first epoch and an order of its own, under the loader's ``max_epochs``.

        Raises:
            ConfigError: as ``update``, or sequences of another length.
        """
        if store.length != self.store.length:
            raise ConfigError(
                f"the new data has sequences of {store.length} tokens, the old {self.store.length}; "
                "pack both with one sequence length"
            )
        step = int(step)
        shares = domain_weights(store, weights)
        log = self._shortened().replace(
            self._effective(step),
            store.domains,
            sequence_quotas(store, shares, self.block),
            **self._dataset(store, shares, fingerprint),
        )
        # the store first: a thread may be reading
        self._reader.use(log, {log.entries[-1].generation: store})
        self.log, self._observed = log, step * self.batch_size
        return self.newest_version

    def _named(self, store: Store, weights: Any) -> Weights:
        """Weights by name, without the domains that the store lacks and nobody wants."""
        if not isinstance(weights, str | Mapping):
            weights = vector_weights(weights, self.domains)
        if isinstance(weights, str):
            return weights  # type: ignore[return-value]
        gone = {name for name in self.domains if name not in store.domains}
        return {name: w for name, w in weights.items() if not (name in gone and w == 0)}

    def _over_domains(self, store: Store, values: Sequence[Any], default: Any) -> tuple[Any, ...]:
        by_name = dict(zip(store.domains, values, strict=True))
        return tuple(by_name.get(name, default) for name in self.domains)

    def _effective(self, step: int) -> int:
        """The sequence at which a change decided after ``step`` takes effect."""
        observed, last = step * self.batch_size, self.log.entries[-1].effective_from
        if observed <= self._observed:
            raise ConfigError(
                f"mixture: a change after step {step} ({observed} sequences), but one after {self._observed} sequences "
                "was made already; make one change a step, in the order of the steps"
            )
        point = observed + self.lag * self.batch_size
        dispatched = self.consumed + self._ahead * self.batch_size
        if point < dispatched:
            raise ConfigError(
                f"mixture: a change after step {step} would take effect at sequence {point}, but {dispatched} are "
                f"handed out; make it by step {dispatched // self.batch_size - self.lag}, or raise lag"
            )
        return point if point > last else (last // self.batch_size + 1) * self.batch_size

    def _shortened(self) -> MixtureLog:
        """The log with at most a few thousand past entries, so that a change costs the same however many there were."""
        if len(self.log.entries) < 2 * _KEPT_VERSIONS:
            return self.log
        return self.log.trimmed(self.consumed, keep=_KEPT_VERSIONS)

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the sequences to come, as JSON values: the entry in force and those to come."""
        return {
            "consumed": self.consumed,
            "observed": self._observed,
            "fingerprint": self.fingerprint,
            "log": self.log.trimmed(self.consumed).to_json(),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, stores: Mapping[str, Store] | None = None) -> None:
        """Continue from a state; its mixture log and seed, caps and groups in it, replace this loader's own.

        Args:
            stores: by fingerprint, for a state in which a replacement is still to come: the datasets it names
                beside this loader's own.

        Raises:
            DatasetError: the state belongs to other data; ``follow`` goes on with new data.
            ConfigError: ``batch_size`` does not divide what was consumed.
        """
        log, consumed, observed = self._read_state(state)
        known = {d.fingerprint: self._reader.store(d.generation) for d in self.log.datasets} | dict(stores or {})
        found: dict[int, Store] = {}
        for dataset in log.datasets:
            store = known.get(dataset.fingerprint)
            if store is None:
                raise DatasetError(
                    f"the loader state was saved for data {dataset.fingerprint}, this data is {', '.join(known)}; "
                    "open the same data, or make the new data follow the old by a replacement entry (follow)"
                )
            rows = dict(zip(log.domains, dataset.rows, strict=True))
            if {name: n for name, n in rows.items() if n} != {
                name: n for name, n in zip(store.domains, store.rows, strict=True) if n
            }:
                raise DatasetError(
                    f"the loader state has domains and sequences {rows} for data {dataset.fingerprint}, the data has "
                    f"{dict(zip(store.domains, store.rows, strict=True))}; open the same data"
                )
            found[dataset.generation] = store
        self.log, self.consumed, self._observed = log, consumed, observed
        self._reader.use(log, found, forget=True)

    def follow(self, state: Mapping[str, Any], *, narrow: bool = False) -> int:
        """Continue a run on other data: a replacement entry at the sequence where the state stands.

        This loader's data and mixture take over from there; entries of the old data that were still to come are
        dropped. The old data is not needed. For a run that goes on with both, see ``replace``.

        Args:
            narrow: number the domains as this loader's data does, without those that only the old data had: for a run
                whose records begin anew. Otherwise a name keeps its index.

        Returns:
            Number of the mixture version.
        """
        log, consumed, observed = self._read_state(state)
        own, domains = self.log.entries[-1], self.log.domains
        dataset, store = self.log.dataset(own.generation), self._reader.store(own.generation)
        past = log.until(consumed)
        self.log = past.replace(
            consumed,
            self.log.domains,
            own.quotas,
            rows=dataset.rows,
            weights=own.weights,
            limits=own.limits,
            on_exhausted=own.on_exhausted,
            fingerprint=dataset.fingerprint,
            group_rows=dataset.group_rows,
        ).trimmed(consumed)
        if narrow:
            self.log = self.log.narrowed(domains)
        self.consumed, self._observed = consumed, observed
        self._reader.use(self.log, {self.log.entries[-1].generation: store}, forget=True)
        return self.newest_version

    def _read_state(self, state: Mapping[str, Any]) -> tuple[MixtureLog, int, int]:
        try:
            consumed, observed = int(state["consumed"]), int(state["observed"])
            log = MixtureLog.from_json(state["log"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DatasetError(f"loader state: {error!r}; it was damaged or saved by another version") from error
        if consumed % self.batch_size:
            raise ConfigError(
                f"batch_size: got {self.batch_size}, allowed a divisor of the {consumed} sequences consumed"
            )
        return log, consumed, observed
