"""The loop behind ``RefinedWebQuality`` and ``RefinedWebLines``: flags lines, counts their words, and names the edits.

Price: about 250 MB/s a core on mixed text; 32 bytes an edit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock import text
from penstock.kernels import kernel
from penstock.selectors.line_kernels import (
    DIGIT,
    UPPER,
    WORD,
    Edits,
    Phrases,
    first_phrase,
    line_classes,
    longer,
    lower8,
    phrase_at,
)
from penstock.text import SPACE, decode, load8

if TYPE_CHECKING:
    from penstock.selectors.refinedweb import RefinedWebRules

KEPT, UPPERCASE, NUMERIC, COUNTER, ONE_WORD, PATTERN = range(6)
KINDS = 6


class Flagged(NamedTuple):
    """``edits``; lines of each kind (KINDS,); words and flagged words of each row, both (rows,)."""

    edits: Edits
    kinds: NDArray[np.int64]
    words: NDArray[np.int64]
    flagged: NDArray[np.int64]


def flag(column: pa.Array, rules: RefinedWebRules) -> Flagged:
    """Judge every line of every row."""
    offsets, data = text.row_views(column)
    *edits, kinds, words, flagged = _flag(
        offsets,
        data,
        line_classes(),
        float(rules.max_uppercase),
        rules.numeric,
        Phrases.of(rules.counters),
        rules.min_words_per_line,
        rules.short_line_words,
        Phrases.of(rules.prefixes),
        Phrases.of(rules.suffixes),
        Phrases.of(rules.anywhere),
    )
    return Flagged(Edits(*edits), kinds, words, flagged)


@kernel
def _is_counter(data: Any, i: Any, end: Any, classes: Any, counters: Any) -> Any:
    """Whether a line is a number and what it counts, such as ``3.2k likes``, with anything but words around it."""
    while i < end:
        character, width = decode(data, i)
        if classes[character] & WORD:
            break
        i += width
    if i >= end or not classes[decode(data, i)[0]] & DIGIT:
        return False
    while i < end:
        character, width = decode(data, i)
        if not (classes[character] & DIGIT or character == 0x2C or character == 0x2E):
            break
        i += width
    if i < end:
        unit = lower8(data, i)
        i += unit == 0x6B or unit == 0x6D or unit == 0x62  # k, m, b
    space = i
    while i < end:
        character, width = decode(data, i)
        if not classes[character] & SPACE:
            break
        i += width
    if i == space:
        return False
    for k in range(counters.offsets.size - 1):
        if phrase_at(data, i, end, counters.offsets, counters.data, k):
            j = i + counters.offsets[k + 1] - counters.offsets[k]
            while j < end:
                character, width = decode(data, j)
                if classes[character] & WORD:
                    break
                j += width
            if j >= end:
                return True
    return False


@kernel
def _widened(data: Any, left: Any, right: Any, start: Any, stop: Any, classes: Any) -> Any:
    """A pattern's bytes with the whitespace before it, or, at the beginning of the line, after it."""
    while start > left:
        before = start - 1
        while before > left and data[before] & 0xC0 == 0x80:
            before -= 1
        if not classes[decode(data, before)[0]] & SPACE:
            break
        start = before
    if start == left:
        while stop < right:
            character, width = decode(data, stop)
            if not classes[character] & SPACE:
                break
            stop += width
    return start, stop


@kernel
def _pattern(data: Any, left: Any, right: Any, classes: Any, prefixes: Any, suffixes: Any, anywhere: Any) -> Any:
    """Bytes of the first pattern in a line without whitespace around it, widened; (right, right) for none."""
    for k in range(prefixes.offsets.size - 1):
        if phrase_at(data, left, right, prefixes.offsets, prefixes.data, k):
            return _widened(data, left, right, left, left + prefixes.offsets[k + 1] - prefixes.offsets[k], classes)
    at, k = first_phrase(data, left, right, anywhere.offsets, anywhere.data, anywhere.pairs)
    if k >= 0:
        return _widened(data, left, right, at, at + anywhere.offsets[k + 1] - anywhere.offsets[k], classes)
    for k in range(suffixes.offsets.size - 1):
        start = right - (suffixes.offsets[k + 1] - suffixes.offsets[k])
        if start >= left and phrase_at(data, start, right, suffixes.offsets, suffixes.data, k):
            return _widened(data, left, right, start, right, classes)
    return right, right


@kernel
def _flag_row(
    data: Any,
    begin: Any,
    end: Any,
    classes: Any,
    max_upper: Any,
    numeric: Any,
    counters: Any,
    min_words: Any,
    short: Any,
    prefixes: Any,
    suffixes: Any,
    anywhere: Any,
    starts: Any,
    stops: Any,
    newlines: Any,
    spans: Any,
    kinds: Any,
) -> Any:
    """Add the spans of ``data[begin:end]``, absolute, and its kinds; (their new number, words, flagged words).

    The number is -1 where there is no room.
    """
    room = starts.size - 2
    all_words = 0
    flagged = 0
    done = begin  # up to here the row is decided
    begun = False  # a line of the row stays
    last = begin == end
    i = begin
    while not last:
        start = i
        left = np.int64(-1)
        right = i
        words = 0
        characters = 0
        uppers = 0
        digits = 0
        spaces = 0
        was_space = True
        while i < end:
            character = load8(data, i)
            width = np.int64(1)
            if character >= 0x80:
                character, width = decode(data, i)
            if character == 0x0A:
                break
            kind = load8(classes, character)
            characters += 1
            if kind & SPACE:
                spaces += 1
                was_space = True
            else:
                if was_space:
                    words += 1
                    if left < 0:
                        left = i
                was_space = False
                uppers += kind & UPPER != 0
                digits += kind & DIGIT != 0
                right = i + width
            i += width
        line_end = i
        last = i == end
        i += 1

        all_words += words
        cut_start = line_end
        cut_stop = line_end
        if words > 0:
            found = KEPT
            if uppers / characters > max_upper:
                found = UPPERCASE
            elif numeric and digits == characters - spaces:
                found = NUMERIC
            elif digits != 0 and _is_counter(data, left, right, classes, counters):
                found = COUNTER
            elif words < min_words:
                found = ONE_WORD
            elif words <= short:
                cut_start, cut_stop = _pattern(data, left, right, classes, prefixes, suffixes, anywhere)
                found = PATTERN if cut_start < cut_stop else KEPT
            kinds[found] += 1
            if found != KEPT:
                flagged += words
                if found != PATTERN or (cut_start == left and cut_stop == right):
                    continue
        if spans >= room:
            return -1, all_words, flagged
        # what stays: the line, or the two sides of a pattern
        gap = start - done
        if (gap != 0 or begun) and not (gap == 1 and begun and data[done] == 0x0A):
            starts[spans] = done
            stops[spans] = start
            newlines[spans] = 1 if begun else 0
            spans += 1
        if cut_start < cut_stop:
            starts[spans] = cut_start
            stops[spans] = cut_stop
            newlines[spans] = 0
            spans += 1
        done = line_end
        begun = True
    if done < end:
        if spans == starts.size:  # rows of which nothing stays have this span alone
            return -1, all_words, flagged
        starts[spans] = done
        stops[spans] = end
        newlines[spans] = 0
        spans += 1
    return spans, all_words, flagged


@kernel
def _flag(
    offsets: Any,
    data: Any,
    classes: Any,
    max_upper: Any,
    numeric: Any,
    counters: Any,
    min_words: Any,
    short: Any,
    prefixes: Any,
    suffixes: Any,
    anywhere: Any,
) -> Any:
    totals = np.zeros(KINDS, np.int64)
    kinds = np.zeros(KINDS, np.int64)
    all_words = np.zeros(offsets.size - 1, np.int64)
    flagged = np.zeros(offsets.size - 1, np.int64)
    rows = np.empty(256, np.int64)
    starts = np.empty(256, np.int64)
    stops = np.empty(256, np.int64)
    newlines = np.empty(256, np.int64)
    spans = 0
    for row in range(offsets.size - 1):
        more = -1
        while more < 0:
            kinds[:] = 0
            more, all_words[row], flagged[row] = _flag_row(
                data,
                offsets[row],
                offsets[row + 1],
                classes,
                max_upper,
                numeric,
                counters,
                min_words,
                short,
                prefixes,
                suffixes,
                anywhere,
                starts,
                stops,
                newlines,
                spans,
                kinds,
            )
            if more < 0:
                rows, starts, stops, newlines = longer(rows), longer(starts), longer(stops), longer(newlines)
        for span in range(spans, more):
            rows[span] = row
            starts[span] -= offsets[row]
            stops[span] -= offsets[row]
        spans = more
        totals += kinds
    return rows[:spans], starts[:spans], stops[:spans], newlines[:spans], totals, all_words, flagged
