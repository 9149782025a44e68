"""Loops of ``penstock.spans``: checks of spans and of learned ranges, and the buffers of text with spans replaced."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.kernels import inlined, kernel

# what is wrong with a span
NO_SUCH_ROW = 1
ROWS_FALL = 2
BACKWARDS = 3
OUTSIDE = 4
OVERLAPS = 5
CUTS_CHARACTER = 6
# and with the learned ranges of a row
ODD = 1
UNSORTED = 2
BEYOND_TEXT = 3
IN_CHARACTER = 4


@inlined
def _inside_character(data: Any, position: Any, end: Any) -> Any:
    return position < end and (data[position] & 0xC0) == 0x80


@kernel
def bad_span(offsets: Any, data: Any, rows: Any, starts: Any, stops: Any) -> Any:
    """(what is wrong, number of the span) of the first bad span; (0, 0) where all are good."""
    for i in range(rows.size):
        row, start, stop = rows[i], starts[i], stops[i]
        if row < 0 or row >= offsets.size - 1:
            return NO_SUCH_ROW, i
        if i and row < rows[i - 1]:
            return ROWS_FALL, i
        if stop < start:
            return BACKWARDS, i
        base, end = offsets[row], offsets[row + 1]
        if start < 0 or stop > end - base:
            return OUTSIDE, i
        if i and row == rows[i - 1] and start < stops[i - 1]:
            return OVERLAPS, i
        if _inside_character(data, base + start, end) or _inside_character(data, base + stop, end):
            return CUTS_CHARACTER, i
    return 0, 0


@kernel
def bad_range(offsets: Any, data: Any, bounds: Any, ranges: Any) -> Any:
    """(what is wrong, row) of the first row whose learned ranges are bad; (0, 0) where all are good."""
    for row in range(bounds.size - 1):
        if (bounds[row + 1] - bounds[row]) % 2:
            return ODD, row
        base, end = offsets[row], offsets[row + 1]
        last = 0
        for i in range(bounds[row], bounds[row + 1]):
            position = ranges[i]
            if position < last:
                return UNSORTED, row
            if position > end - base:
                return BEYOND_TEXT, row
            if _inside_character(data, base + position, end):
                return IN_CHARACTER, row
            last = position
    return 0, 0


@inlined
def _copy(out: Any, at: Any, data: Any, start: Any, stop: Any) -> Any:
    # views first: indexing `out` itself checks for negative positions at every byte
    to = out[at : at + stop - start]
    source = data[start:stop]
    for i in range(to.size):
        to[i] = source[i]
    return at + stop - start


@kernel
def assemble(
    offsets: Any, data: Any, rows: Any, starts: Any, stops: Any, new_offsets: Any, new_data: Any, size: Any
) -> NDArray[np.uint8]:
    """The bytes of all rows, ``size`` in all, with span i replaced by ``new_data[new_offsets[i]:new_offsets[i + 1]]``.

    Rows follow each other in the buffer, so what lies between two spans is one copy, over any number of rows.
    """
    out = np.empty(size, np.uint8)
    at = 0
    done = offsets[0]
    for i in range(rows.size):
        base = offsets[rows[i]]
        at = _copy(out, at, data, done, base + starts[i])
        at = _copy(out, at, new_data, new_offsets[i], new_offsets[i + 1])
        done = base + stops[i]
    _copy(out, at, data, done, offsets[offsets.size - 1])
    return out


@inlined
def emit(out: Any, first: Any, at: Any, start: Any, stop: Any) -> Any:
    """Add a range to those from ``first`` on; one that touches the last is part of it."""
    if stop <= start:
        return at
    if at > first and out[at - 1] == start:
        out[at - 1] = stop
        return at
    out[at] = start
    out[at + 1] = stop
    return at + 2


@kernel
def _covered(ranges: Any, first: Any, last: Any, start: Any, stop: Any) -> Any:
    """Whether every byte from start to stop lies in one of the ranges from ``first`` to ``last``."""
    for k in range(first, last, 2):
        if ranges[k] > start:
            return False
        if ranges[k + 1] > start:
            start = ranges[k + 1]
            if start >= stop:
                return True
    return start >= stop


@kernel
def move_ranges(
    bounds: Any, ranges: Any, lengths: Any, rows: Any, starts: Any, stops: Any, sizes: Any
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Learned ranges of all rows after the spans were replaced by texts of ``sizes`` bytes: bounds and ranges."""
    out = np.empty(ranges.size + 2 * rows.size, np.int32)
    out_bounds = np.zeros(bounds.size, np.int32)
    at = 0
    i = 0
    for row in range(bounds.size - 1):
        first, last = bounds[row], bounds[row + 1]
        out_first = at
        if i == rows.size or rows[i] > row or first == last:
            while i < rows.size and rows[i] == row:
                i += 1
            for k in range(first, last):
                out[at] = ranges[k]
                at += 1
            out_bounds[row + 1] = at
            continue
        k = first  # the first range that ends after what is done
        done = 0  # bytes of the old text that are dealt with
        shift = 0
        while True:
            more = i < rows.size and rows[i] == row
            start = starts[i] if more else lengths[row]
            j = k
            while j < last and ranges[j] < start:
                at = emit(out, out_first, at, max(ranges[j], done) + shift, min(ranges[j + 1], start) + shift)
                j += 2
            if not more:
                break
            stop = stops[i]
            if sizes[i] > 0:
                if stop > start:
                    learned = _covered(ranges, first, last, start, stop)
                else:  # an insertion is learned when the bytes on both sides of it are
                    learned = _covered(ranges, first, last, start - 1, start + 1)
                if learned:
                    at = emit(out, out_first, at, start + shift, start + shift + sizes[i])
            shift += sizes[i] - (stop - start)
            done = stop
            while k < last and ranges[k + 1] <= done:
                k += 2
            i += 1
        out_bounds[row + 1] = at
    return out_bounds, out[:at].copy()


@kernel
def join_ranges(bounds: Any, starts: Any, stops: Any) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Ranges ``bounds[row]`` to ``bounds[row + 1]`` of each row, empty ones left out and touching ones made one."""
    out = np.empty(2 * starts.size, np.int32)
    out_bounds = np.zeros(bounds.size, np.int32)
    at = 0
    for row in range(bounds.size - 1):
        first = at
        for k in range(bounds[row], bounds[row + 1]):
            at = emit(out, first, at, starts[k], stops[k])
        out_bounds[row + 1] = at
    return out_bounds, out[:at].copy()
