"""From sequence numbers to batches: the mixture log says which rows, the stores hold them.

Where numbers follow each other, as those of a step do, a window of the training order is found at once and kept; a
batch is then a slice of it. An entry that is appended to the log leaves the part of a window before it as it is.

Price: a window of about 4,000 sequences costs a millisecond and 72 bytes a sequence; a batch its copy of tokens and
some ten microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.training.batch import Batch
from penstock.training.mixture import MixtureLog
from penstock.training.sequences import SequenceRows
from penstock.training.store import Plan, Planned, Store

Ints = NDArray[np.int64]

WINDOW = 4096  # sequences


class _Source:
    """A dataset that the log names: its store, and where the log's domains stand in it."""

    def __init__(self, store: Store, domains: Sequence[str]) -> None:
        self.store = store
        # the log's quotas of a domain that the store lacks are 0: its -1 is never used
        self.index = np.array([store.domains.index(d) if d in store.domains else -1 for d in domains], dtype=np.int64)


class _Window:
    """Sequences ``start`` to ``stop`` of a training order, all of one dataset."""

    __slots__ = ("_columns", "_plan", "_source", "log", "newest", "start", "stop")

    def __init__(self, log: MixtureLog, source: _Source, start: int, domain: Ints, rows: Ints, version: Ints) -> None:
        self.log, self.newest = log, log.newest_version
        self.start, self.stop = start, start + len(rows)
        self._source = source
        store = source.store
        self._plan: Plan | None = None
        counts = np.zeros_like(rows)
        if isinstance(store, Planned):
            self._plan = store.plan(source.index[domain], rows)
            counts = self._plan.counts
        # together, so that a batch takes one copy
        self._columns = np.stack([np.arange(start, self.stop), domain, rows, version, counts])

    def holds(self, log: MixtureLog, first: int, stop: int) -> bool:
        """Whether it has these sequences as ``log`` has them, which continues the log it was made from."""
        if not self.start <= first <= stop <= self.stop:
            return False
        if log is self.log or log.newest_version == self.newest:
            return True
        return log.first_version <= self.newest + 1 and stop <= log.entry(self.newest + 1).effective_from

    def batch(self, first: int, stop: int) -> Batch:
        begin, end = first - self.start, stop - self.start
        # copies: what a batch holds is its own to change
        numbers, domain, rows, version, counts = self._columns[:, begin:end].copy()
        plan = self._plan
        if plan is None:
            read = self._source.store.read(self._source.index[domain], rows)
            return Batch.of(read, domain=domain, rows=rows, numbers=numbers, version=version)
        return Batch(
            numbers=numbers,
            domain=domain,
            rows=rows,
            mixture_version=version,
            tokens=plan.tokens(begin, end),
            segment_counts=counts,
            segment_lengths=plan.segment_lengths(begin, end).copy(),
            segment_docs=lambda: plan.segment_docs(begin, end),
            learned=(lambda: plan.learned(begin, end)) if plan.may_be_masked else None,
        )


class OrderReader:
    """Reads a training order out of the stores of its datasets."""

    def __init__(self) -> None:
        self._sources: dict[int, _Source] = {}
        self._window: _Window | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_sources": self._sources, "_window": None}

    def use(self, log: MixtureLog, stores: Mapping[int, Store], *, forget: bool = False) -> None:
        """Read these stores, by generation of the log's datasets, and with ``forget`` no others."""
        known = {} if forget else {generation: source.store for generation, source in self._sources.items()}
        known |= stores
        self._sources = {
            dataset.generation: _Source(known[dataset.generation], log.domains) for dataset in log.datasets
        }
        if forget:
            self._window = None

    def store(self, generation: int) -> Store:
        return self._sources[generation].store

    def run(self, log: MixtureLog, first: int, stop: int, *, batch_size: int) -> Batch:
        """Sequences ``first`` to ``stop``; the window that is kept begins at a border of ``batch_size``."""
        window = self._window
        if window is None or not window.holds(log, first, stop):
            window = self._find(log, first, stop, batch_size)
            if window is None:
                return self.read(log, np.arange(first, stop, dtype=np.int64))
            self._window = window
        return window.batch(first, stop)

    def _find(self, log: MixtureLog, first: int, stop: int, batch_size: int) -> _Window | None:
        """A window around these sequences; None where they are of two datasets or some are not in the order."""
        start = max(first - first % batch_size, log.phases[0].begins)
        end = start + -(-max(WINDOW, stop - start) // batch_size) * batch_size
        end = end if log.end is None else min(end, log.end)
        if not start <= first < stop <= end:
            return None
        domain, rows, version, generation = log.locate(np.arange(start, end, dtype=np.int64))
        same = generation == generation[first - start]
        if not same[first - start : stop - start].all():
            return None
        begin = int(np.flatnonzero(same)[0])
        here = slice(begin, begin + int(same.sum()))
        source = self._sources[int(generation[here][0])]
        return _Window(log, source, start + begin, domain[here], rows[here], version[here])

    def read(self, log: MixtureLog, numbers: Ints) -> Batch:
        """The sequences with these numbers, in this order."""
        domain, rows, version, generation = log.locate(numbers)
        parts = []
        for g in np.unique(generation).tolist() or [log.entries[-1].generation]:
            here, source = np.flatnonzero(generation == g), self._sources[g]
            parts.append((here, source.store.read(source.index[domain[here]], rows[here])))
        return Batch.of(_joined(parts), domain=domain, rows=rows, numbers=numbers, version=version)


def _joined(parts: Sequence[tuple[Ints, SequenceRows]]) -> SequenceRows:
    """Rows of several datasets, each with its places in the batch, in the order of their places."""
    if len(parts) == 1:
        return parts[0][1]
    n = sum(len(here) for here, _ in parts)
    kind = np.result_type(*(read.tokens.dtype for _, read in parts))
    tokens = np.empty((n, parts[0][1].tokens.shape[1]), dtype=kind)
    counts = np.empty(n, dtype=np.int64)
    learned = np.ones(tokens.shape, np.bool_) if any(read.learned is not None for _, read in parts) else None
    for here, read in parts:
        tokens[here], counts[here] = read.tokens, read.segment_counts
        if learned is not None and read.learned is not None:
            learned[here] = read.learned
    order = np.argsort(np.concatenate([np.repeat(here, read.segment_counts) for here, read in parts]), kind="stable")
    return SequenceRows(
        tokens=tokens,
        segment_counts=counts,
        segment_lengths=np.concatenate([read.segment_lengths for _, read in parts])[order],
        segment_docs=pa.concat_arrays([read.segment_docs for _, read in parts]).take(pa.array(order)),
        learned=learned,
    )
