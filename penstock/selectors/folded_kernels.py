"""numba kernels that cut text into folded words and hash them; apart, so that ``folded`` is imported without numba.

The table has one uint32 a code point: what it is (below), then the code point it folds to, or for ``EXPANDS`` where its
folded characters stand in ``expansions`` (their number, then an entry each); the highest bit marks ``SUSPECT``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.kernels import kernel
from penstock.text import decode, load8, mix

SEPARATES = 0
WORD = 1
SINGLE = 2  # a word by itself
IGNORED = 3
EXPANDS = 4
SUSPECT = 1 << 31  # what it becomes may depend on its neighbours

_BASIS = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)


@kernel
def suspect_rows(offsets: Any, data: Any, table: Any) -> NDArray[np.bool_]:
    """Rows with a character whose folding may depend on its neighbours: shape (rows,)."""
    out = np.zeros(offsets.size - 1, np.bool_)
    for row in range(out.size):
        i = offsets[row]
        end = offsets[row + 1]
        while i < end:
            if load8(data, i) < 0x80:
                i += 1
                continue
            character, width = decode(data, i)
            if table[character] & SUSPECT:
                out[row] = True
                break
            i += width
    return out


@kernel
def _scan(offsets: Any, data: Any, table: Any, expansions: Any, skip: Any, starts: Any, ends: Any, hashes: Any) -> Any:
    """Fill what has room and return the number of words up to each row: shape (rows + 1,)."""
    count = offsets.size - 1
    room = starts.size
    rows = np.zeros(count + 1, np.int64)
    put = 0
    for row in range(count):
        first = offsets[row]
        i = first
        end = offsets[row + 1]
        if skip[row]:
            i = end
        inside = False
        start = i
        stop = i
        h = _BASIS
        while i <= end:
            character = np.int64(0)
            width = 1
            if i < end:
                character = load8(data, i)
                if character >= 0x80:
                    character, width = decode(data, i)
            entry = np.int64(table[character])  # the end of a row separates, as the character 0 does
            if entry & 7 == WORD:
                if not inside:
                    inside = True
                    start = i
                    h = _BASIS
                h = (h ^ np.uint64(entry >> 3 & 0x1FFFFF)) * _PRIME
                stop = i + width
                i += width
                continue
            if entry & 7 == SEPARATES:
                if inside:
                    if put < room:
                        starts[put] = start - first
                        ends[put] = stop - first
                        hashes[put] = mix(h, _PRIME)
                    put += 1
                    inside = False
                i += width
                continue
            place = entry >> 3 & 0x1FFFFF
            expands = entry & 7 == EXPANDS
            for k in range(np.int64(expansions[place]) if expands else 1):
                part = np.int64(expansions[place + 1 + k]) if expands else entry
                if part & 7 == WORD:
                    if not inside:
                        inside = True
                        start = i
                        h = _BASIS
                    h = (h ^ np.uint64(part >> 3 & 0x1FFFFF)) * _PRIME
                    stop = i + width
                elif part & 7 != IGNORED:
                    if inside:
                        if put < room:
                            starts[put] = start - first
                            ends[put] = stop - first
                            hashes[put] = mix(h, _PRIME)
                        put += 1
                        inside = False
                    if part & 7 == SINGLE:
                        if put < room:
                            starts[put] = i - first
                            ends[put] = i + width - first
                            hashes[put] = mix((_BASIS ^ np.uint64(part >> 3 & 0x1FFFFF)) * _PRIME, _PRIME)
                        put += 1
            i += width
        rows[row + 1] = put
    return rows


@kernel
def words(offsets: Any, data: Any, table: Any, expansions: Any, skip: Any) -> Any:
    """(rows (n + 1,), starts, ends (words,), hashes (words,)) of the rows that ``skip`` does not name.

    Starts and ends count bytes from the first of their row.
    """
    # words of less than three bytes with their spaces are rare; where they are not, a second scan knows the number
    room = (offsets[offsets.size - 1] - offsets[0]) // 3 + 64
    while True:
        starts = np.empty(room, np.int64)
        ends = np.empty(room, np.int64)
        hashes = np.empty(room, np.uint64)
        rows = _scan(offsets, data, table, expansions, skip, starts, ends, hashes)
        total = rows[rows.size - 1]
        if total <= room:
            return rows, starts[:total], ends[:total], hashes[:total]
        room = total
