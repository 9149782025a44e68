"""numba kernels of penstock.digest; apart, so that importing the digest does not import numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.kernels import inlined, kernel

_A = np.uint64(0xBF58476D1CE4E5B9)
_B = np.uint64(0x94D049BB133111EB)
_C = np.uint64(0x9E3779B97F4A7C15)


@inlined
def _mix(x: Any) -> Any:
    x = (x ^ (x >> np.uint64(30))) * _A
    x = (x ^ (x >> np.uint64(27))) * _B
    return x ^ (x >> np.uint64(31))


@kernel
def hash_ranges(data: Any, starts: Any, seeds: Any) -> Any:
    """Hash data[starts[i]:starts[i + 1]] for every i under both seeds: (2, n) uint64."""
    n = starts.shape[0] - 1
    out = np.empty((2, n), dtype=np.uint64)
    for i in range(n):
        at, stop = starts[i], starts[i + 1]
        a = seeds[0] ^ np.uint64(stop - at)
        b = seeds[1] + np.uint64(stop - at)
        while at + 8 <= stop:
            word = np.uint64(0)
            for j in range(8):
                word |= np.uint64(data[at + j]) << np.uint64(8 * j)
            a = (a ^ word) * _A
            a ^= a >> np.uint64(32)
            b = (b ^ word) * _B
            b ^= b >> np.uint64(29)
            at += 8
        word = np.uint64(0)
        shift = np.uint64(0)
        while at < stop:
            word |= np.uint64(data[at]) << shift
            shift += np.uint64(8)
            at += 1
        out[0, i] = _mix(a ^ word)
        out[1, i] = _mix(b ^ (word + _C))
    return out


@kernel
def combine(left: Any, right: Any) -> Any:
    """Fold one column's hashes into the rows' hashes, order of columns counting."""
    out = np.empty_like(left)
    for lane in range(left.shape[0]):
        for i in range(left.shape[1]):
            out[lane, i] = _mix(left[lane, i] * _C + right[lane, i])
    return out


@kernel
def fold(values: Any, starts: Any, seeds: Any) -> Any:
    """Combine element hashes over runs starts[i]:starts[i + 1], order counting: (2, n)."""
    n = starts.shape[0] - 1
    out = np.empty((2, n), dtype=np.uint64)
    for lane in range(2):
        for i in range(n):
            h = seeds[lane] ^ np.uint64(starts[i + 1] - starts[i])
            for j in range(starts[i], starts[i + 1]):
                h = _mix(h * _C + values[lane, j])
            out[lane, i] = h
    return out
