"""numba kernels of the QuaDMix selector; apart, so that importing the selector does not import numba.

A table of runs: run g is codes[offsets[g]:offsets[g + 1]], ascending and not empty. ``index[g, x]`` counts
the entries of run g below x << shift, so a search only walks entries that share their high bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.kernels import inlined, kernel


@inlined
def _last_at_most(offsets: Any, codes: Any, index: Any, shift: Any, g: Any, c: Any) -> Any:
    """Position of the last entry <= c of run g, or of its first one. The halving compiles without branches."""
    first = offsets[g]
    if shift == 0:  # the index counts up to every single code
        return max(first + np.int64(index[g, np.int64(c) + 1]) - 1, first)
    low = np.int64(index[g, c >> shift])
    size = np.int64(index[g, (c >> shift) + 1]) - low
    low += first
    while size > 0:
        half = (size + 1) >> 1
        low = low + half if codes[low + half - 1] <= c else low
        size -= half
    return max(low - 1, first)


@kernel
def locate(offsets: Any, codes: Any, index: Any, shift: Any, group: Any, code: Any) -> Any:
    """Row by row, the position of the last entry <= code[i] of run group[i]; -1 for group -1. Shape (n,), int64."""
    n = group.shape[0]
    out = np.empty(n, dtype=np.int64)
    for i in range(n):
        g = group[i]
        out[i] = _last_at_most(offsets, codes, index, shift, g, code[i]) if g >= 0 else -1
    return out


@kernel
def look_up(offsets: Any, codes: Any, index: Any, shift: Any, group: Any, code: Any, pairs: Any) -> Any:
    """The two values of ``pairs`` (bins, 2) at the position that ``locate`` gives, 0 for group -1: (n,) each.

    Side by side they take one cache miss where two arrays would take two.
    """
    n = group.shape[0]
    one = np.empty(n, dtype=np.float32)
    other = np.empty(n, dtype=np.float32)
    for i in range(n):
        g = group[i]
        one[i] = other[i] = 0.0
        if g >= 0:
            at = _last_at_most(offsets, codes, index, shift, g, code[i])
            one[i] = pairs[at, 0]
            other[i] = pairs[at, 1]
    return one, other


@kernel
def add_weighted(
    out: Any,
    offsets: Any,
    codes: Any,
    index: Any,
    shift: Any,
    steps: Any,
    run: Any,
    weight: Any,
    domain: Any,
    code: Any,
    present: Any,
    neutral: Any,
) -> None:
    """out[i] += weight[d] * steps[position of code[i] in run[d]] with d = domain[i].

    A row that is not ``present``, or whose run is -1, adds weight[d] * neutral.
    """
    for i in range(out.shape[0]):
        d = domain[i]
        g = run[d]
        if g >= 0 and present[i]:
            out[i] += weight[d] * steps[_last_at_most(offsets, codes, index, shift, g, code[i])]
        else:
            out[i] += weight[d] * neutral
