"""numba kernels of repeated text: lines and paragraphs with 128-bit keys, look-up of keys, and merging of spans."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.kernels import kernel
from penstock.text import SPACE, count_codepoints, decode, hash_bytes, mix, next_break

FIRST = np.uint64(0x9E3779B97F4A7C15)
SECOND = np.uint64(0xD1B54A32D192ED03)


@kernel
def _is_blank(data: Any, start: Any, end: Any, classes: Any) -> Any:
    i = start
    while i < end:
        character, width = decode(data, i)
        if not classes[character] & SPACE:
            return False
        i += width
    return True


@kernel
def _fill(offsets: Any, data: Any, classes: Any, paragraphs: Any, least: Any, row_of: Any, bounds: Any) -> Any:
    """Fill what has room with the units of all rows and return their number."""
    put = 0
    for row in range(offsets.size - 1):
        end = offsets[row + 1]
        i = offsets[row]
        start = i
        stop = i
        has = False
        position = 0
        last = -1
        while i < end or has:
            at = i
            line_stop = end
            after = end
            blank = True
            if i < end:
                line_stop, after = next_break(data, i, end, classes)
                blank = _is_blank(data, i, line_stop, classes)
            if has and (not paragraphs or blank):
                if count_codepoints(data, start, stop) >= least:
                    if put < row_of.size:
                        row_of[put] = row
                        bounds[put, 0] = start - offsets[row]
                        bounds[put, 1] = stop - offsets[row]
                        bounds[put, 2] = at - offsets[row]
                        bounds[put, 3] = position
                    last = put if paragraphs else -1
                    put += 1
                else:
                    last = -1
                position += 1
                has = False
            if not blank:
                if not has:
                    start = at
                    has = True
                    if last >= 0 and last < row_of.size:
                        bounds[last, 2] = start - offsets[row]
                    last = -1
                stop = line_stop
            i = after
        if last >= 0 and last < row_of.size:
            bounds[last, 2] = end - offsets[row]
    return put


@kernel
def units(offsets: Any, data: Any, classes: Any, paragraphs: Any, least: Any) -> Any:
    """(row of each unit, bounds (units, 4)): the lines or paragraphs of at least ``least`` characters.

    A paragraph is a run of lines that are not blank. Bounds are the unit's first byte, the one after its last, the
    one after what goes with it (the break of a line, the blank lines behind a paragraph), all from the start of its
    row, and its number among the units of its row, short ones counted.
    """
    room = (offsets[offsets.size - 1] - offsets[0]) // 64 + 64
    while True:
        row_of = np.empty(room, np.int64)
        bounds = np.empty((room, 4), np.int64)
        total = _fill(offsets, data, classes, paragraphs, least, row_of, bounds)
        if total <= room:
            return row_of[:total], bounds[:total]
        room = total


@kernel
def byte_keys(offsets: Any, data: Any, row_of: Any, bounds: Any) -> Any:
    """Two 64-bit hashes of the bytes of each unit without ASCII spaces at its ends, and whether anything is left."""
    keys = np.empty((2, row_of.size), np.uint64)
    some = np.empty(row_of.size, np.bool_)
    for u in range(row_of.size):
        start = offsets[row_of[u]] + bounds[u, 0]
        stop = offsets[row_of[u]] + bounds[u, 1]
        while start < stop and (data[start] == 0x20 or data[start] == 0x09):
            start += 1
        while start < stop and (data[stop - 1] == 0x20 or data[stop - 1] == 0x09):
            stop -= 1
        some[u] = start < stop
        keys[0, u] = hash_bytes(data, start, stop, FIRST)
        keys[1, u] = hash_bytes(data, start, stop, SECOND)
    return keys, some


@kernel
def word_keys(rows: Any, starts: Any, hashes: Any, row_of: Any, bounds: Any) -> Any:
    """Two 64-bit hashes of the folded words of each unit, and whether it has any."""
    keys = np.empty((2, row_of.size), np.uint64)
    some = np.empty(row_of.size, np.bool_)
    row = -1
    w = 0
    for u in range(row_of.size):
        if row_of[u] != row:
            row = row_of[u]
            w = rows[row]
        while w < rows[row + 1] and starts[w] < bounds[u, 0]:
            w += 1
        one = FIRST
        two = SECOND
        count = 0
        while w < rows[row + 1] and starts[w] < bounds[u, 1]:
            one = one * FIRST + hashes[w]
            two = two * SECOND + hashes[w]
            count += 1
            w += 1
        some[u] = count > 0
        keys[0, u] = mix(one, np.uint64(count))
        keys[1, u] = mix(two, np.uint64(count))
    return keys, some


@kernel
def lookup(key: Any, key2: Any, known: Any, known2: Any) -> Any:
    """Place of each (key, key2) among the known ones, which are sorted by key; -1 where it is not there."""
    out = np.full(key.size, -1, np.int64)
    if known.size == 0:
        return out
    for i in range(key.size):
        at = np.searchsorted(known, key[i])
        while at < known.size and known[at] == key[i]:
            if known2[at] == key2[i]:
                out[i] = at
                break
            at += 1
    return out


@kernel
def merged(rows: Any, starts: Any, stops: Any) -> Any:
    """Spans sorted by (row, start) joined where they touch or overlap: (rows, starts, stops)."""
    out_rows = np.empty(rows.size, np.int64)
    out_starts = np.empty(rows.size, np.int64)
    out_stops = np.empty(rows.size, np.int64)
    put = -1
    for i in range(rows.size):
        if put >= 0 and out_rows[put] == rows[i] and starts[i] <= out_stops[put]:
            out_stops[put] = max(out_stops[put], stops[i])
        else:
            put += 1
            out_rows[put] = rows[i]
            out_starts[put] = starts[i]
            out_stops[put] = stops[i]
    return out_rows[: put + 1], out_starts[: put + 1], out_stops[: put + 1]


@kernel
def tidy(offsets: Any, data: Any, rows: Any, starts: Any, stops: Any) -> Any:
    """Widen spans in place so that cutting them leaves no white space at the end of a row and no two blank lines.

    Spans are as ``merged`` gives them; they may touch afterwards, and do not overlap.
    """
    for i in range(rows.size):
        first = offsets[rows[i]]
        before = first + starts[i]
        if before == first or (data[before - 1] == 0x0A and (before - 1 == first or data[before - 2] == 0x0A)):
            limit = offsets[rows[i] + 1]
            if i + 1 < rows.size and rows[i + 1] == rows[i]:
                limit = first + starts[i + 1]
            while first + stops[i] < limit and data[first + stops[i]] == 0x0A:
                stops[i] += 1
    edge = np.int64(-1)  # where the text that is left of the row ends, as far as it is known
    for i in range(rows.size - 1, -1, -1):
        first = offsets[rows[i]]
        if i + 1 == rows.size or rows[i + 1] != rows[i]:
            edge = offsets[rows[i] + 1]
        if first + stops[i] != edge:
            continue
        limit = first + stops[i - 1] if i > 0 and rows[i - 1] == rows[i] else first
        at = first + starts[i]
        while at > limit and (data[at - 1] == 0x20 or 0x09 <= data[at - 1] <= 0x0D):
            at -= 1
        starts[i] = at - first
        edge = at
