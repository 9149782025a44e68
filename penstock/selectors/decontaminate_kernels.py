"""numba kernels of decontamination: hashes of word windows, looked up in an index, and exact Jaccard of two sets.

The hash of a window of L words is the polynomial of its word hashes, oldest first, mixed with L. A bitmap of hash
prefixes, some thirty times as many bits as the index has hashes, answers nearly all look-ups with one read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.kernels import kernel
from penstock.text import mix

_BASE = np.uint64(0x9E3779B97F4A7C15)


@kernel
def window_hashes(rows: Any, hashes: Any, length: Any) -> Any:
    """(rows (n + 1,), hashes) of all windows of ``length`` words; a row of fewer words has none."""
    count = rows.size - 1
    out_rows = np.zeros(count + 1, np.int64)
    for row in range(count):
        out_rows[row + 1] = out_rows[row] + max(np.int64(0), rows[row + 1] - rows[row] - length + 1)
    out = np.empty(out_rows[count], np.uint64)
    oldest = _power(length)
    put = 0
    for row in range(count):
        run = np.uint64(0)
        for w in range(rows[row], rows[row + 1]):
            run = run * _BASE + hashes[w]
            if w - rows[row] >= length:
                run -= hashes[w - length] * oldest
            if w - rows[row] >= length - 1:
                out[put] = mix(run, np.uint64(length))
                put += 1
    return out_rows, out


@kernel
def whole_hashes(rows: Any, hashes: Any) -> NDArray[np.uint64]:
    """The hash of each row's words as one window: shape (rows,)."""
    out = np.empty(rows.size - 1, np.uint64)
    for row in range(out.size):
        run = np.uint64(0)
        for w in range(rows[row], rows[row + 1]):
            run = run * _BASE + hashes[w]
        out[row] = mix(run, np.uint64(rows[row + 1] - rows[row]))
    return out


@kernel
def _power(exponent: Any) -> Any:
    out = np.uint64(1)
    for _ in range(exponent):
        out *= _BASE
    return out


@kernel
def bitmap(keys: Any, bits: Any) -> NDArray[np.uint64]:
    """A bit for each prefix of ``bits`` bits that a key has: shape (2 ** bits / 64,)."""
    out = np.zeros(1 << (bits - 6), np.uint64)
    for key in keys:
        prefix = np.int64(key >> np.uint64(64 - bits))
        out[prefix >> 6] |= np.uint64(1) << np.uint64(prefix & 63)
    return out


@kernel
def _find(
    rows: Any, hashes: Any, lengths: Any, known: Any, bits: Any, keys: Any, first: Any, last: Any, key: Any
) -> Any:
    """Fill what has room with the hits of all windows and return their number."""
    down = np.uint64(64 - bits)
    runs = np.zeros(lengths.size, np.uint64)
    oldest = np.zeros(lengths.size, np.uint64)
    for k in range(lengths.size):
        oldest[k] = _power(lengths[k])
    put = 0
    for row in range(rows.size - 1):
        begin = rows[row]
        runs[:] = 0
        for w in range(begin, rows[row + 1]):
            for k in range(lengths.size):
                length = lengths[k]
                run = runs[k] * _BASE + hashes[w]
                if w - begin >= length:
                    run -= hashes[w - length] * oldest[k]
                runs[k] = run
                if w - begin < length - 1:
                    continue
                h = mix(run, np.uint64(length))
                prefix = np.int64(h >> down)
                if not known[prefix >> 6] >> np.uint64(prefix & 63) & np.uint64(1):
                    continue
                at = np.searchsorted(keys, h)
                if at < keys.size and keys[at] == h:
                    if put < first.size:
                        first[put] = w - length + 1
                        last[put] = w
                        key[put] = at
                    put += 1
    return put


@kernel
def find(rows: Any, hashes: Any, lengths: Any, known: Any, bits: Any, keys: Any) -> Any:
    """(first word, last word, place in ``keys``) of each window that the index holds, by row and last word.

    Args:
        lengths: window lengths in words, each at least 1.
        known, bits: ``bitmap`` of ``keys`` and its bits.
        keys: sorted hashes.
    """
    room = 1024
    while True:
        first = np.empty(room, np.int64)
        last = np.empty(room, np.int64)
        key = np.empty(room, np.int64)
        total = _find(rows, hashes, lengths, known, bits, keys, first, last, key)
        if total <= room:
            return first[:total], last[:total], key[:total]
        room = total


@kernel
def _pairs(bands: Any, known: Any, bits: Any, keys: Any, places: Any, left: Any, right: Any) -> Any:
    down = np.uint64(64 - bits)
    put = 0
    for unit in range(bands.shape[0]):
        for band in range(bands.shape[1]):
            h = bands[unit, band]
            prefix = np.int64(h >> down)
            if not known[prefix >> 6] >> np.uint64(prefix & 63) & np.uint64(1):
                continue
            at = np.searchsorted(keys, h)
            while at < keys.size and keys[at] == h:
                if put < left.size:
                    left[put] = unit
                    right[put] = places[at]
                put += 1
                at += 1
    return put


@kernel
def pairs(bands: Any, known: Any, bits: Any, keys: Any, places: Any) -> Any:
    """(unit, place) of each band key (units, bands) among sorted ``keys``, once a band; ``places`` are of keys."""
    room = 1024
    while True:
        left = np.empty(room, np.int64)
        right = np.empty(room, np.int64)
        total = _pairs(bands, known, bits, keys, places, left, right)
        if total <= room:
            return left[:total], right[:total]
        room = total


@kernel
def jaccard(a_rows: Any, a: Any, b_rows: Any, b: Any, pairs_a: Any, pairs_b: Any) -> NDArray[np.float64]:
    """Jaccard similarity of set ``pairs_a[p]`` of a and set ``pairs_b[p]`` of b; members sorted, each once."""
    out = np.zeros(pairs_a.size, np.float64)
    for p in range(out.size):
        i = a_rows[pairs_a[p]]
        i_end = a_rows[pairs_a[p] + 1]
        j = b_rows[pairs_b[p]]
        j_end = b_rows[pairs_b[p] + 1]
        either = (i_end - i) + (j_end - j)
        both = 0
        while i < i_end and j < j_end:
            if a[i] == b[j]:
                both += 1
                i += 1
                j += 1
            elif a[i] < b[j]:
                i += 1
            else:
                j += 1
        if either:
            out[p] = both / (either - both)
    return out


@kernel
def sorted_sets(rows: Any, members: Any) -> Any:
    """(rows, members) with each row's members sorted and each once."""
    out = np.empty(members.size, np.uint64)
    out_rows = np.zeros(rows.size, np.int64)
    put = 0
    for row in range(rows.size - 1):
        own = np.sort(members[rows[row] : rows[row + 1]])
        for k in range(own.size):
            if k == 0 or own[k] != own[k - 1]:
                out[put] = own[k]
                put += 1
        out_rows[row + 1] = put
    return out_rows, out[:put]
