"""Digests of tables that do not depend on how rows are split into batches, files or row groups.

Every row is hashed over its columns to 128 bits (two independent 64-bit lanes); a table's digest is
the sum of its rows' hashes, lane by lane modulo 2**64, with the row count and the column names and
types. Sums commute, so parts merge in any order and equal rows give equal digests whatever the
split. It guards against accidents, not against an adversary.

Price: one pass over the bytes, about 1 GB/s a core; 24 bytes of state.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_Lanes = NDArray[np.uint64]  # shape (2, rows)
_NULL = 0x9AE16A3B2F90404F
_SEEDS = np.array([0x243F6A8885A308D3, 0x13198A2E03707344], dtype=np.uint64)


@cache
def _kernels() -> Any:
    from penstock import _digest_kernels

    return _digest_kernels


@dataclass(frozen=True)
class TableDigest:
    """Mergeable digest of a multiset of rows."""

    rows: int = 0
    first: int = 0
    second: int = 0

    def merge(self, other: TableDigest) -> TableDigest:
        mask = (1 << 64) - 1
        return TableDigest(
            self.rows + other.rows, (self.first + other.first) & mask, (self.second + other.second) & mask
        )

    @classmethod
    def of(cls, batch: pa.RecordBatch | pa.Table) -> TableDigest:
        """Digest of the rows of a batch or table."""
        if isinstance(batch, pa.Table):
            out = cls()
            for part in batch.to_batches():
                out = out.merge(cls.of(part))
            return out
        lanes = row_hashes(batch)
        with np.errstate(over="ignore"):
            sums = lanes.sum(axis=1, dtype=np.uint64)
        return cls(batch.num_rows, int(sums[0]), int(sums[1]))

    def hex(self, columns: dict[str, str]) -> str:
        """32 hex digits over the sums, the row count and the columns' names and types."""
        text = f"{self.rows}:{self.first}:{self.second}:" + ";".join(f"{n}:{t}" for n, t in columns.items())
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def columns_of(schema: pa.Schema) -> dict[str, str]:
    """Column names to types, as manifests write them."""
    return {field.name: str(field.type) for field in schema}


def row_hashes(batch: pa.RecordBatch) -> _Lanes:
    """Two 64-bit hashes of every row: shape (2, rows)."""
    combine = _kernels().combine
    out = np.repeat(_SEEDS[:, None], batch.num_rows, axis=1)
    for column in batch.columns:
        out = combine(out, _hash_array(column))
    return out


def _hash_array(array: pa.Array) -> _Lanes:
    """Two hashes per element, equal for equal values whatever the array's offset or buffers."""
    kernels = _kernels()
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind = array.type
    n = len(array)
    if n == 0:
        return np.zeros((2, 0), dtype=np.uint64)
    if pa.types.is_dictionary(kind):
        return _hash_array(array.dictionary_decode())
    if array.null_count == n:
        return np.full((2, n), _NULL, dtype=np.uint64)
    if pa.types.is_struct(kind):
        out = np.repeat(_SEEDS[:, None], n, axis=1)
        for child in array.flatten():
            out = kernels.combine(out, _hash_array(child))
        lanes = out
    elif pa.types.is_fixed_size_list(kind):
        size = kind.list_size
        values = array.flatten() if array.null_count == 0 else array.values.slice(array.offset * size, n * size)
        starts = np.arange(n + 1, dtype=np.int64) * size
        lanes = _hash_lists(values, starts)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        offsets = np.asarray(array.offsets).astype(np.int64)
        values = array.values.slice(offsets[0], offsets[-1] - offsets[0])
        lanes = _hash_lists(values, offsets - offsets[0])
    else:
        data, starts = _as_bytes(array)
        lanes = kernels.hash_ranges(data, starts, _SEEDS)
    if array.null_count:
        lanes[:, np.asarray(array.is_null())] = _NULL
    return lanes


def _hash_lists(values: pa.Array, starts: NDArray[np.int64]) -> _Lanes:
    """Hashes of runs of ``values``; a run of plain numbers is hashed as bytes, anything else element by element."""
    kernels = _kernels()
    width = _fixed_width(values.type)
    if width and values.null_count == 0 and not pa.types.is_boolean(values.type):
        data, _ = _as_bytes(values)
        lanes: _Lanes = kernels.hash_ranges(data, starts * width, _SEEDS)
        return lanes
    merged: _Lanes = kernels.fold(_hash_array(values), starts, _SEEDS)
    return merged


def _fixed_width(kind: pa.DataType) -> int:
    try:
        return int(kind.bit_width) // 8
    except ValueError:
        return 0


def _as_bytes(array: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The values of a flat array as one run of bytes and the n + 1 offsets of its elements."""
    kind, n = array.type, len(array)
    if pa.types.is_boolean(kind):
        array, kind = array.cast(pa.uint8()), pa.uint8()
    if pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind):
        array, kind = array.cast(pa.large_binary()), pa.large_binary()
    buffers = array.buffers()
    if pa.types.is_large_binary(kind):
        offsets = np.frombuffer(buffers[1], dtype=np.int64)[array.offset : array.offset + n + 1]
        if buffers[2] is None:
            return np.zeros(0, dtype=np.uint8), np.zeros(n + 1, dtype=np.int64)
        data = np.frombuffer(buffers[2], dtype=np.uint8)
        return data[offsets[0] : offsets[-1]], offsets - offsets[0]
    width = _fixed_width(kind)
    if not width:
        raise TypeError(f"cannot digest a column of type {kind}")
    data = np.frombuffer(buffers[1], dtype=np.uint8)[array.offset * width : (array.offset + n) * width]
    return data, np.arange(n + 1, dtype=np.int64) * width
