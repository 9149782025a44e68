"""numba kernels of repeated passages: winnowed fingerprints of word runs, and the words that cuts leave."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.kernels import kernel
from penstock.selectors.repeated_kernels import FIRST, SECOND
from penstock.text import mix


@kernel
def _select(rows: Any, hashes: Any, size: Any, window: Any, row_of: Any, word_of: Any, keys: Any) -> Any:
    """Fill what has room with the selected runs of all rows and return their number."""
    out_one = np.uint64(1)
    out_two = np.uint64(1)
    for _ in range(size):
        out_one *= FIRST
        out_two *= SECOND
    ring = np.empty((2, window), np.uint64)
    put = 0
    for row in range(rows.size - 1):
        begin = rows[row]
        runs = rows[row + 1] - begin - size + 1
        one = np.uint64(0)
        two = np.uint64(0)
        least = -1  # run with the least key in the window
        taken = -1
        for w in range(rows[row + 1] - begin):
            one = one * FIRST + hashes[begin + w]
            two = two * SECOND + hashes[begin + w]
            if w >= size:
                one -= hashes[begin + w - size] * out_one
                two -= hashes[begin + w - size] * out_two
            run = w - size + 1
            if run < 0:
                continue
            ring[0, run % window] = mix(one, np.uint64(size))
            ring[1, run % window] = mix(two, np.uint64(size))
            if least < 0 or run - least >= window:
                # the old one has left: the last of the least in the window
                least = max(0, run - window + 1)
                for other in range(least, run + 1):
                    if ring[0, other % window] <= ring[0, least % window]:
                        least = other
            elif ring[0, run % window] < ring[0, least % window]:
                least = run
            if (run >= window - 1 or run == runs - 1) and least != taken:
                taken = least
                if put < row_of.size:
                    row_of[put] = row
                    word_of[put] = least
                    keys[0, put] = ring[0, least % window]
                    keys[1, put] = ring[1, least % window]
                put += 1
    return put


@kernel
def selected(rows: Any, hashes: Any, size: Any, window: Any) -> Any:
    """(row, first word in its row, keys (2, n)) of the runs of ``size`` words with the least key of a window of runs.

    Among equal keys one that is selected already is kept. A row of fewer runs than a window has one selected.
    """
    room = 2 * hashes.size // (window + 1) + hashes.size // 16 + 64
    while True:
        row_of = np.empty(room, np.int64)
        word_of = np.empty(room, np.int64)
        keys = np.empty((2, room), np.uint64)
        total = _select(rows, hashes, size, window, row_of, word_of, keys)
        if total <= room:
            return row_of[:total], word_of[:total], keys[:, :total].copy()
        room = total


@kernel
def cut_spans(
    offsets: Any,
    data: Any,
    rows: Any,
    starts: Any,
    ends: Any,
    row_of: Any,
    word_of: Any,
    size: Any,
    gone: Any,
    stays: Any,
) -> Any:
    """(rows, starts, stops) in bytes of the words in runs that are ``gone`` and in none that ``stays``.

    A cut takes the punctuation behind its last word with it, and one of the two spaces around it.
    """
    mark = np.zeros(starts.size, np.uint8)
    for pass_ in range(2):
        reach = -1
        for u in range(row_of.size):
            if (gone if pass_ == 0 else stays)[u]:
                first = rows[row_of[u]] + word_of[u]
                for w in range(max(first, reach), first + size):
                    mark[w] = 1 - pass_
                reach = max(reach, first + size)
    out_rows = np.empty(row_of.size + 1, np.int64)
    out_starts = np.empty(row_of.size + 1, np.int64)
    out_stops = np.empty(row_of.size + 1, np.int64)
    put = 0
    for row in range(rows.size - 1):
        w = rows[row]
        while w < rows[row + 1]:
            if not mark[w]:
                w += 1
                continue
            begin = w
            while w < rows[row + 1] and mark[w]:
                w += 1
            start = offsets[row] + starts[begin]
            stop = offsets[row] + ends[w - 1]
            limit = offsets[row] + starts[w] if w < rows[row + 1] else offsets[row + 1]
            while stop < limit and not (data[stop] == 0x20 or 0x09 <= data[stop] <= 0x0D):
                stop += 1
            if start == offsets[row] or data[start - 1] == 0x20 or 0x09 <= data[start - 1] <= 0x0D:
                while stop < limit and data[stop] == 0x20:
                    stop += 1
            out_rows[put] = row
            out_starts[put] = start - offsets[row]
            out_stops[put] = stop - offsets[row]
            put += 1
    return out_rows[:put], out_starts[:put], out_stops[:put]
