"""Rows of mapped sequence files: found once, for many batches, and copied by address.

To find a row is arithmetic on arrays and costs the same for one as for a thousand, so a plan does it for a window of
the training order; a batch then is a slice of the plan and one loop of ``memcpy``, which holds no interpreter lock.
Tokens that lie in an object store are fetched when their slice is read (``remote``).

Price: a plan holds 40 bytes a row and 8 bytes a segment; a batch costs the copy of its tokens and a few microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.training.remote import RemoteRows, locate

Ints = NDArray[np.int64]
Addresses = NDArray[np.uint64]


@dataclass(frozen=True)
class Chunk:
    """One record batch of a file."""

    tokens: NDArray[Any]  # (rows, L) view of the mapped file; of no meaning where they are remote
    lengths: pa.ListArray
    docs: pa.ListArray
    mask: pa.ListArray | None  # learned runs of each row, null is all of it; None where that holds for every row
    place: int  # of the tokens' first byte in the file
    remote: RemoteRows | None = None  # what reads them where the file is in a store


class ChunkTable:
    """Where the record batches of a store lie in memory. It keeps them alive."""

    def __init__(self, chunks: Sequence[Chunk], length: int) -> None:
        """``chunks``: those of all domains, in order."""
        self.chunks = tuple(chunks)
        self.length = length
        kinds = {chunk.tokens.dtype for chunk in chunks}
        self.kind = np.result_type(*kinds) if kinds else np.dtype(np.uint16)
        self.widens = len(kinds) > 1
        self.begins = np.cumsum([0, *(len(chunk.tokens) for chunk in chunks)], dtype=np.int64)
        self.tokens = _addresses([chunk.tokens.ctypes.data for chunk in chunks])
        self.row_bytes = _addresses([length * chunk.tokens.itemsize for chunk in chunks])
        self.offsets = _addresses([_address(chunk.lengths, 1, chunk.lengths.offset) for chunk in chunks])
        self.values = _addresses([_address(chunk.lengths, 3, chunk.lengths.values.offset) for chunk in chunks])
        self.has_masks = any(chunk.mask is not None for chunk in chunks)
        self.remotes = {at: chunk.remote for at, chunk in enumerate(chunks) if chunk.remote is not None}

    def __reduce__(self) -> tuple[Any, ...]:
        # addresses mean nothing to another process
        return ChunkTable, (self.chunks, self.length)

    def plan(self, rows: Ints) -> RowPlan:
        """Find rows that are counted through all chunks; each must be one of them."""
        chunk = np.searchsorted(self.begins, rows, side="right").astype(np.int64) - 1
        return RowPlan(self, chunk, rows - self.begins[chunk])


class RowPlan:
    """n rows of a store, in a given order, ready to be read in slices."""

    def __init__(self, table: ChunkTable, chunk: Ints, local: Ints) -> None:
        from penstock.training._row_kernels import copy_rows, copy_segments, count_segments

        self._table, self._chunk, self._local = table, chunk, local
        self._copy: Any = copy_rows
        self.may_be_masked = table.has_masks  # False: ``learned`` gives None
        self._addresses = table.tokens[chunk] + local.astype(np.uint64) * table.row_bytes[chunk]
        self.counts = np.empty(len(local), dtype=np.int64)
        count_segments(table.offsets, chunk, local, self.counts)
        self.ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts)])
        self.lengths = np.empty(int(self.ends[-1]), dtype=np.int64)
        copy_segments(table.offsets, table.values, chunk, local, self.counts, self.lengths)

    def __reduce__(self) -> tuple[Any, ...]:
        return RowPlan, (self._table, self._chunk, self._local)

    def __len__(self) -> int:
        return len(self._local)

    def tokens(self, begin: int, stop: int) -> NDArray[Any]:
        """Tokens of rows ``begin`` to ``stop`` of the plan: (stop - begin, L), in the widest type of the store."""
        table, addresses = self._table, self._addresses[begin:stop]
        out = np.empty((stop - begin, table.length), dtype=table.kind)
        if not table.remotes:
            self._copy_rows(begin, stop, addresses, out)
            return out
        addresses, held = locate(table.remotes, self._chunk[begin:stop], self._local[begin:stop], addresses)
        self._copy_rows(begin, stop, addresses, out)
        del held  # until here: it is what the addresses point into
        return out

    def _copy_rows(self, begin: int, stop: int, addresses: Addresses, out: NDArray[Any]) -> None:
        table = self._table
        if not table.widens:
            self._copy(addresses, out)
            return
        from penstock.training._row_kernels import widen_rows

        narrow = table.row_bytes[self._chunk[begin:stop]] < table.length * table.kind.itemsize
        places = np.flatnonzero(narrow)
        widen_rows(addresses[narrow], places, out)
        places = np.flatnonzero(~narrow)
        wide = np.empty((len(places), table.length), dtype=table.kind)
        self._copy(addresses[~narrow], wide)
        out[places] = wide

    def segment_counts(self, begin: int, stop: int) -> Ints:
        """Segments of each of these rows: (stop - begin,)."""
        return self.counts[begin:stop]

    def segment_lengths(self, begin: int, stop: int) -> Ints:
        """Tokens of each of their segments, in order: (S,)."""
        return self.lengths[self.ends[begin] : self.ends[stop]]

    def segment_docs(self, begin: int, stop: int) -> pa.StringArray:
        """Document of each of their segments: (S,)."""
        parts, places = [], []
        for number, here, rows in self._by_chunk(begin, stop):
            parts.append(self._table.chunks[number].docs.take(rows))
            places.append(here)
        if not parts:
            return pa.array([], pa.string())
        back = pa.array(np.argsort(np.concatenate(places)))
        return pa.concat_arrays(parts).take(back).flatten()

    def learned(self, begin: int, stop: int) -> NDArray[np.bool_] | None:
        """Which of their tokens are learned where they are predicted: (stop - begin, L); None is all of them.

        A padding position of a row without a mask is True: it is never predicted.
        """
        out: NDArray[np.bool_] | None = None
        if not self._table.has_masks:
            return None
        for number, here, rows in self._by_chunk(begin, stop):
            mask = self._table.chunks[number].mask
            runs = None if mask is None else mask.take(rows)
            if runs is not None and runs.null_count < len(runs):
                out = np.ones((stop - begin, self._table.length), np.bool_) if out is None else out
                out[here] = run_mask(runs, self._table.length)
        return out

    def _by_chunk(self, begin: int, stop: int) -> list[tuple[int, Ints, pa.Array]]:
        """Chunk, places among these rows and rows inside the chunk, for every chunk that has any."""
        chunk, local = self._chunk[begin:stop], self._local[begin:stop]
        found = [(int(number), np.flatnonzero(chunk == number)) for number in np.unique(chunk)]
        return [(number, here, pa.array(local[here])) for number, here in found]


def run_mask(runs: pa.ListArray, length: int) -> NDArray[np.bool_]:
    """Whether each position of ``length`` lies in one of its row's runs: (n, length); a null row is all True."""
    valid = runs.is_valid().to_numpy(zero_copy_only=False)
    counts, flat = flat_lists(runs.drop_null())
    # runs lie apart, so no position is two borders
    steps = np.zeros((len(counts), length + 1), np.int8)
    steps[np.repeat(np.arange(len(counts)), counts), flat] = 1 - 2 * (np.arange(len(flat)) % 2)
    out = np.ones((len(runs), length), np.bool_)
    out[valid] = np.cumsum(steps, axis=1, dtype=np.int8)[:, :length] == 1
    return out


def flat_lists(lists: pa.ListArray) -> tuple[Ints, NDArray[Any]]:
    """Elements per list and all elements, offset and slice respected."""
    offsets = np.asarray(lists.offsets).astype(np.int64)
    return np.diff(offsets), np.asarray(lists.flatten())


def _address(lists: pa.ListArray, buffer: int, offset: int) -> int:
    """Of an int32 buffer's element ``offset``; 0 for a buffer that is not there because nothing lies in it."""
    found = lists.buffers()[buffer]
    return 0 if found is None else int(found.address) + 4 * offset


def _addresses(values: Sequence[int]) -> Addresses:
    return np.array(values, dtype=np.uint64)
