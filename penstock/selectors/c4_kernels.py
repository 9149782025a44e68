"""The loops behind ``C4Lines`` and ``C4Quality``, over Arrow's UTF-8 buffers.

A line that holds a citation is copied without it before it is judged; any other is judged where it lies.

Price: about 120 MB/s a core for the lines and 350 MB/s for the document rules on mixed text; scratch of the
longest line with a citation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock import text
from penstock.kernels import kernel
from penstock.selectors.line_kernels import (
    DIGIT,
    Edits,
    Phrases,
    abbreviations,
    count_sentences,
    first_phrase,
    line_classes,
    longer,
)
from penstock.text import LINE_BREAK, SPACE, decode, load8

if TYPE_CHECKING:
    from penstock.selectors.c4 import C4Rules

# What becomes of a line; the first two stay.
KEPT, CITATIONS, TOO_LONG_WORD, NO_TERMINAL, TOO_FEW_WORDS, JAVASCRIPT, POLICY = range(7)
KINDS = 7

_EDIT = np.frombuffer(b"[edit]", np.uint8)
_NEEDED = np.frombuffer(b"[citation needed]", np.uint8)


def lines(column: pa.Array, rules: C4Rules) -> tuple[Edits, NDArray[np.int64]]:
    """What to cut from each row, and the number of lines of each kind: shape (KINDS,); of citations, their number."""
    offsets, data = text.row_views(column)
    lorem = Phrases.of(("lorem ipsum",) if rules.lorem_ipsum else ())
    script = Phrases.of(("javascript",) if rules.javascript else ())
    policy = Phrases.of(rules.policy_phrases)
    *edits, counts = _lines(
        offsets,
        data,
        line_classes(),
        rules.max_word_length or np.iinfo(np.int64).max,
        rules.citations,
        rules.terminal_punctuation,
        rules.min_words_per_line,
        lorem,
        script,
        rules.curly_bracket,
        policy,
    )
    return Edits(*edits), counts


def document(column: pa.Array, rules: C4Rules) -> NDArray[np.int8]:
    """0, or 1 + the index in ``C4_REASONS`` of the rule a row breaks: shape (rows,)."""
    offsets, data = text.row_views(column)
    known = abbreviations()
    lorem = Phrases.of(("lorem ipsum",) if rules.lorem_ipsum else ())
    return _document(
        offsets,
        data,
        line_classes(),
        known.slots,
        known.offsets,
        known.data,
        lorem,
        rules.curly_bracket,
        rules.min_sentences,
    )


@kernel
def _citation_end(data: Any, i: Any, end: Any, classes: Any) -> Any:
    """The byte after the citation that begins with the bracket at byte i, or i: ``[12]``, ``[edit]``, …"""
    j = i + 1
    while j < end:
        character, width = decode(data, j)
        if not classes[character] & DIGIT:
            break
        j += width
    if j < end and data[j] == 0x5D:
        return j + 1
    for other in (_EDIT, _NEEDED):
        if i + other.size <= end:
            same = 0
            while same < other.size and data[i + same] == other[same]:
                same += 1
            if same == other.size:
                return i + other.size
    return i


@kernel
def _ends_well(data: Any, start: Any, end: Any) -> Any:
    """Whether a line ends with ``. ? ! " '`` and not with ``...``."""
    if start == end:
        return False
    last = data[end - 1]
    if last == 0x2E:
        return not (end - start >= 3 and data[end - 2] == 0x2E and data[end - 3] == 0x2E)
    return last == 0x3F or last == 0x21 or last == 0x22 or last == 0x27


@kernel
def _judge(
    data: Any,
    start: Any,
    end: Any,
    words: Any,
    terminal: Any,
    min_words: Any,
    lorem: Any,
    script: Any,
    curly: Any,
    policy: Any,
) -> Any:
    """What becomes of a line without its citations. One that decides about the whole document stays for that."""
    if terminal and not _ends_well(data, start, end):
        return NO_TERMINAL
    if words < min_words:
        return TOO_FEW_WORDS
    if first_phrase(data, start, end, lorem.offsets, lorem.data, lorem.pairs)[1] >= 0:
        return KEPT
    if first_phrase(data, start, end, script.offsets, script.data, script.pairs)[1] >= 0:
        return JAVASCRIPT
    if first_phrase(data, start, end, policy.offsets, policy.data, policy.pairs)[1] >= 0:
        if curly:
            for i in range(start, end):
                if data[i] == 0x7B:
                    return KEPT
        return POLICY
    return KEPT


@kernel
def _edit_row(
    data: Any,
    begin: Any,
    end: Any,
    classes: Any,
    max_word: Any,
    citations: Any,
    terminal: Any,
    min_words: Any,
    lorem: Any,
    script: Any,
    curly: Any,
    policy: Any,
    starts: Any,
    stops: Any,
    newlines: Any,
    first_span: Any,
    counts: Any,
    piece_starts: Any,
    piece_ends: Any,
    buffer: Any,
) -> Any:
    """Add the spans of ``data[begin:end]``, absolute, and its kinds; their new number, or -1 where there is no room."""
    room = starts.size - 1
    spans = first_span
    begun = False  # something of the row stays
    done = begin  # up to here the row is decided
    region = begin  # where the stretch that stays began
    breaks = 0  # newlines to write before the next piece
    i = begin
    while i < end:
        # one line: its words, and its bounds without whitespace around it
        left = np.int64(-1)
        right = i
        words = 0
        longest = 0
        length = 0
        bracket = False
        while i < end:
            character = load8(data, i)
            width = np.int64(1)
            if character >= 0x80:
                character, width = decode(data, i)
            kind = load8(classes, character)
            i += width
            if kind & SPACE:
                if length > longest:
                    longest = length
                length = 0
                if kind & LINE_BREAK:
                    if character == 0x0D and i < end and load8(data, i) == 0x0A:
                        i += 1
                    break
                continue
            if length == 0:
                words += 1
                if left < 0:
                    left = i - width
            length += 1
            bracket = bracket or character == 0x5B
            right = i
        if length > longest:
            longest = length
        if left < 0:
            left = right
        if longest > max_word:
            counts[TOO_LONG_WORD] += 1
            continue

        pieces = 1
        piece_starts[0] = left
        piece_ends[0] = right
        if citations and bracket:
            pieces = 0
            at = left
            piece = left
            while at < right:
                after = _citation_end(data, at, right, classes) if data[at] == 0x5B else at
                if after == at:
                    at += 1
                    continue
                if pieces + 2 > piece_starts.size:
                    return -1
                piece_starts[pieces] = piece
                piece_ends[pieces] = at
                pieces += 1
                at = after
                piece = after
            piece_starts[pieces] = piece
            piece_ends[pieces] = right
            pieces += 1
        if pieces == 1:
            verdict = _judge(data, left, right, words, terminal, min_words, lorem, script, curly, policy)
        else:
            if right - left > buffer.size:
                return -1
            fill = 0
            for k in range(pieces):
                for j in range(piece_starts[k], piece_ends[k]):
                    buffer[fill] = data[j]
                    fill += 1
            verdict = _judge(buffer, 0, fill, words, terminal, min_words, lorem, script, curly, policy)
        counts[verdict] += 1
        if verdict != KEPT:
            continue
        counts[CITATIONS] += pieces - 1

        if begun:
            breaks += 1
        for k in range(pieces):
            piece = piece_starts[k]
            last = piece_ends[k]
            if not begun:
                # whitespace that a citation leaves at the beginning of the text goes, too
                while piece < last:
                    character, width = decode(data, piece)
                    if not classes[character] & SPACE:
                        break
                    piece += width
                if piece == last:
                    continue
                begun = True
            gap = piece - done
            if (gap != 0 or breaks != 0) and not (gap == 1 and breaks == 1 and data[done] == 0x0A):
                if spans >= room:
                    return -1
                starts[spans] = done
                stops[spans] = piece
                newlines[spans] = breaks
                spans += 1
                region = piece
            breaks = 0
            done = last
    # whitespace at the end of the text goes, with the spans that lie in it
    while True:
        while done > region:
            before = done - 1
            while before > region and data[before] & 0xC0 == 0x80:
                before -= 1
            if not classes[decode(data, before)[0]] & SPACE:
                break
            done = before
        if done > region or spans == first_span:
            break
        spans -= 1
        done = starts[spans]
        region = begin if spans == first_span else stops[spans - 1]
    if done < end:
        if spans == starts.size:  # rows of which nothing stays have this span alone
            return -1
        starts[spans] = done
        stops[spans] = end
        newlines[spans] = 0
        spans += 1
    return spans


@kernel
def _lines(
    offsets: Any,
    data: Any,
    classes: Any,
    max_word: Any,
    citations: Any,
    terminal: Any,
    min_words: Any,
    lorem: Any,
    script: Any,
    curly: Any,
    policy: Any,
) -> Any:
    totals = np.zeros(KINDS, np.int64)
    counts = np.zeros(KINDS, np.int64)
    rows = np.empty(256, np.int64)
    starts = np.empty(256, np.int64)
    stops = np.empty(256, np.int64)
    newlines = np.empty(256, np.int64)
    buffer = np.empty(256, np.uint8)
    # pieces of the line at hand that stay
    piece_starts = np.empty(16, np.int64)
    piece_ends = np.empty(16, np.int64)
    spans = 0
    for row in range(offsets.size - 1):
        more = -1
        while more < 0:
            counts[:] = 0
            more = _edit_row(
                data,
                offsets[row],
                offsets[row + 1],
                classes,
                max_word,
                citations,
                terminal,
                min_words,
                lorem,
                script,
                curly,
                policy,
                starts,
                stops,
                newlines,
                spans,
                counts,
                piece_starts,
                piece_ends,
                buffer,
            )
            if more < 0:
                rows, starts, stops, newlines = longer(rows), longer(starts), longer(stops), longer(newlines)
                piece_starts, piece_ends, buffer = longer(piece_starts), longer(piece_ends), longer(buffer)
        for span in range(spans, more):
            rows[span] = row
            starts[span] -= offsets[row]
            stops[span] -= offsets[row]
        spans = more
        totals += counts
    return rows[:spans], starts[:spans], stops[:spans], newlines[:spans], totals


@kernel
def _document(
    offsets: Any,
    data: Any,
    classes: Any,
    slots: Any,
    known: Any,
    known_data: Any,
    lorem: Any,
    curly: Any,
    min_sentences: Any,
) -> NDArray[np.int8]:
    out = np.zeros(offsets.size - 1, np.int8)
    for row in range(out.size):
        i = offsets[row]
        end = offsets[row + 1]
        lorem_at, found = first_phrase(data, i, end, lorem.offsets, lorem.data, lorem.pairs)
        curly_at = end
        if curly:
            curly_at = i
            while curly_at < end and data[curly_at] != 0x7B:
                curly_at += 1
        if found >= 0 and lorem_at < curly_at:
            out[row] = 1
            continue
        if curly_at < end:
            out[row] = 2
            if found >= 0:
                # on one line lorem ipsum is the first of the two rules
                same = True
                at = curly_at
                while at < lorem_at:
                    character, width = decode(data, at)
                    if classes[character] & LINE_BREAK:
                        same = False
                    at += width
                if same:
                    out[row] = 1
            continue
        sentences = 0
        content = False
        while i < end and (sentences < min_sentences or not content):
            start = i
            blank = True
            after = end
            at = i
            while at < end:
                character, width = decode(data, at)
                kind = classes[character]
                if kind & LINE_BREAK:
                    after = at + width
                    break
                blank = blank and kind & SPACE != 0
                at += width
            if not blank:
                content = True
                sentences += count_sentences(data, start, at, classes, slots, known, known_data)
            i = after
        if not content or sentences < min_sentences:
            out[row] = 3
    return out
