"""Loops of the loader: rows of mapped files found and copied by address, layouts of segments, permuted positions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from penstock._digest_kernels import _mix
from penstock.kernels import kernel

_ROUNDS = 6
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _copying(typing_context: Any, target: Any, source: Any, size: Any) -> Any:

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = context.get_value_type(types.voidptr)
        to, of = (builder.inttoptr(address, pointer) for address in arguments[:2])
        cgutils.raw_memcpy(builder, to, of, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.uint64), code


def _pointing(typing_context: Any, address: Any) -> Any:

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.uint64), code


_copy_bytes: Any = intrinsic(_copying)  # (target, source, size): bytes from one address to another
_pointer: Any = intrinsic(_pointing)  # (address): what carray takes


@kernel
def copy_rows(addresses: Any, out: Any) -> Any:
    """Rows of ``out``'s own type at these addresses, into ``out`` (n, L), which lies in one piece."""
    size = np.uint64(out.shape[1] * out.itemsize)
    target = np.uint64(out.ctypes.data)
    for i in range(addresses.size):
        _copy_bytes(target + np.uint64(i) * size, addresses[i], size)


@kernel
def widen_rows(addresses: Any, places: Any, out: Any) -> Any:
    """Rows of uint16 at these addresses, into the rows ``places`` of ``out`` (n, L)."""
    for i in range(addresses.size):
        out[places[i], :] = carray(_pointer(addresses[i]), (out.shape[1],), np.uint16)


@kernel
def count_segments(offsets: Any, chunks: Any, rows: Any, counts: Any) -> Any:
    """Elements of list ``rows[i]`` in the array of int32 offsets at ``offsets[chunks[i]]``, into ``counts`` (n,)."""
    for i in range(rows.size):
        pair = carray(_pointer(offsets[chunks[i]] + np.uint64(4 * rows[i])), (2,), np.int32)
        counts[i] = pair[1] - pair[0]


@kernel
def copy_segments(offsets: Any, values: Any, chunks: Any, rows: Any, counts: Any, out: Any) -> Any:
    """The int32 elements of those lists one after the other, into ``out`` (S,)."""
    at = 0
    for i in range(rows.size):
        if counts[i]:
            first = carray(_pointer(offsets[chunks[i]] + np.uint64(4 * rows[i])), (1,), np.int32)[0]
            list_ = carray(_pointer(values[chunks[i]] + np.uint64(4 * first)), (counts[i],), np.int32)
            for j in range(counts[i]):
                out[at] = list_[j]
                at += 1


@kernel
def lay_out(counts: Any, lengths: Any, ids: Any, positions: Any) -> Any:
    """Segment and position of every token; ``ids`` and ``positions`` are (n, L)."""
    s = 0
    for i in range(counts.size):
        at = 0
        for segment in range(counts[i]):
            for position in range(lengths[s]):
                ids[i, at] = segment
                positions[i, at] = position
                at += 1
            s += 1
        for position in range(ids.shape[1] - at):
            ids[i, at + position] = -1
            positions[i, at + position] = position


@kernel
def permuted(positions: Any, size: Any, half: Any, keys: Any, out: Any) -> Any:
    """Cycle walking on a Feistel network of two halves of ``half`` bits, until a value is below ``size``."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    for i in range(positions.size):
        value = np.uint64(positions[i])
        while True:
            left, right, round_key = value >> half, value & mask, keys[i]
            for _ in range(_ROUNDS):
                round_key += _GOLDEN
                left, right = right, left ^ (_mix(right ^ _mix(round_key)) & mask)
            value = (left << half) | right
            if value < size:
                break
        out[i] = value
