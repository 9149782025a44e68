"""The loop behind ``GopherQuality``: the code of the first broken rule, row by row, over Arrow's UTF-8 buffers.

One pass counts words and characters, lines are judged at their breaks, and stop words are sought only in rows that
pass all else, no further than needed.

Price: about 280 MB/s a core on prose; no memory but the codes.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock import text
from penstock.kernels import kernel
from penstock.text import LETTER, LINE_BREAK, SPACE, decode, load8

if TYPE_CHECKING:
    from penstock.selectors.gopher import GopherQuality

# Bits beside those of text.char_classes().
NOT_PUNCTUATION = 8
MARK = 16  # "#", "." and "…", which are counted

# Code points that make no word: control characters, ASCII and typographic punctuation, sentence ends of all scripts.
_PUNCTUATION = """
0-8 b-1f 21-2f 3a-40 5b-60 7b-9f ab b4 bb 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368
166e 1735-1736 17d4-17d6 17d9-17da 1803 1809 1944-1945 1aa8-1aab 1b5a-1b5b 1b5e-1b5f 1b7d-1b7e 1c3b-1c3c 1c7e-1c7f
2013-2014 2019 201c-201e 2026 203c-203d 2047-2049 2236 2501 25ba 2e2e 2e3c 2e53-2e54 3001-3002 3008-300d 3010-3011 a4ff
a60e-a60f a6f3 a6f7 a876-a877 a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb fe52 fe56-fe57 ff01 ff05 ff08-ff09 ff0c
ff0e ff11 ff1a-ff1b ff1f ff5e ff61 10a56-10a57 10f55-10f59 10f86-10f89 11047-11048 110be-110c1 11141-11143 111c5-111c6
111cd 111de-111df 11238-11239 1123b-1123c 112a9 1144b-1144c 115c2-115c3 115c9-115d7 11641-11642 1173c-1173e 11944 11946
11a42-11a43 11a9b-11a9c 11c41-11c42 11ef7-11ef8 11f43-11f44 16a6e-16a6f 16af5 16b37-16b38 16b44 16e98 1bc9f 1da88
"""


def punctuation() -> NDArray[np.int64]:
    """Code points of which a symbolic word is made, ascending."""
    bounds = [[int(part, 16) for part in item.split("-")] for item in _PUNCTUATION.split()]
    return np.concatenate([np.arange(b[0], b[-1] + 1) for b in bounds])


@functools.cache
def _classes() -> NDArray[np.uint8]:
    table = text.char_classes() | np.uint8(NOT_PUNCTUATION)
    table[punctuation()] &= ~np.uint8(NOT_PUNCTUATION)
    table[[0x23, 0x2E, 0x2026]] |= MARK
    table.flags.writeable = False
    return table


def quality(column: pa.Array, rules: GopherQuality) -> NDArray[np.int8]:
    """0, or 1 + the index in ``QUALITY_REASONS`` of the first rule a row breaks: shape (rows,)."""
    offsets, data = text.row_views(column)
    stop_offsets, stop_data = text.row_views(pa.array(sorted(set(rules.stop_words), key=_by_length), pa.string()))
    return _quality(
        offsets,
        data,
        _classes(),
        stop_offsets,
        stop_data,
        rules.min_words,
        rules.max_words,
        float(rules.min_mean_word_length),
        float(rules.max_mean_word_length),
        float(rules.max_symbols_per_word),
        float(rules.max_bullet_lines),
        float(rules.max_ellipsis_lines),
        float(rules.min_words_with_letter),
        rules.min_stop_words,
    )


def _by_length(word: str) -> tuple[int, str]:
    return len(word.encode()), word


@kernel
def _stop_word_bit(data: Any, start: Any, end: Any, stop_offsets: Any, stop_data: Any) -> Any:
    """The bit of the stop word that ``data[start:end]`` is, 0 if it is none. Stop words stand by length."""
    length = end - start
    for k in range(stop_offsets.size - 1):
        width = stop_offsets[k + 1] - stop_offsets[k]
        if width < length:
            continue
        if width > length:
            break
        i = 0
        while i < length and data[start + i] == stop_data[stop_offsets[k] + i]:
            i += 1
        if i == length:
            return np.uint64(1) << np.uint64(k)
    return np.uint64(0)


@kernel
def _has_stop_words(data: Any, i: Any, end: Any, classes: Any, stop_offsets: Any, stop_data: Any, enough: Any) -> Any:
    """Whether ``enough`` different stop words are words of ``data[i:end]``; reads no further than it must."""
    found = np.uint64(0)
    different = 0
    while different < enough and i < end:
        start = i
        character, width = decode(data, i)
        while not classes[character] & SPACE:
            i += width
            if i >= end:
                break
            character, width = decode(data, i)
        bit = _stop_word_bit(data, start, i, stop_offsets, stop_data)
        different += bit & ~found != 0
        found |= bit
        i += width
    return different >= enough


@kernel
def _begins_with_bullet(data: Any, i: Any, end: Any, classes: Any) -> Any:
    """Whether the first character of a line that is not whitespace is "-" or "•"."""
    while i < end:
        character, width = decode(data, i)
        if not classes[character] & SPACE:
            return character == 0x2D or character == 0x2022
        i += width
    return False


@kernel
def _ends_with_ellipsis(data: Any, start: Any, end: Any, classes: Any) -> Any:
    """Whether a line, whitespace at its end apart, ends with "..." or "…"."""
    while end > start:
        i = end - 1
        while i > start and data[i] & 0xC0 == 0x80:
            i -= 1
        character, _ = decode(data, i)
        if not classes[character] & SPACE:
            if character == 0x2E:
                return i - 2 >= start and data[i - 1] == 0x2E and data[i - 2] == 0x2E
            return character == 0x2026
        end = i
    return False


@kernel
def _quality(
    offsets: Any,
    data: Any,
    classes: Any,
    stop_offsets: Any,
    stop_data: Any,
    min_words: Any,
    max_words: Any,
    min_mean: Any,
    max_mean: Any,
    max_symbols: Any,
    max_bullets: Any,
    max_ellipsis_lines: Any,
    min_letters: Any,
    min_stop_words: Any,
) -> NDArray[np.int8]:
    out = np.zeros(offsets.size - 1, np.int8)
    for row in range(out.size):
        i = offsets[row]
        end = offsets[row + 1]
        words = 0
        real_words = 0  # not symbolic
        real_characters = 0
        letter_words = 0
        hashes = 0
        ellipses = 0
        dots = 0
        lines = 0
        bullet_lines = 0
        ellipsis_lines = 0
        line_start = i
        while i < end:
            character, width = decode(data, i)
            kind = load8(classes, character)
            if kind & SPACE:
                if kind & LINE_BREAK:
                    lines += 1
                    bullet_lines += _begins_with_bullet(data, line_start, i, classes)
                    ellipsis_lines += _ends_with_ellipsis(data, line_start, i, classes)
                    if character == 0x0D and i + 1 < end and data[i + 1] == 0x0A:
                        i += 1
                    line_start = i + width
                i += width
                continue
            seen = 0
            start = i
            continued = 0  # bytes that begin no character
            dots_end = 0
            while not kind & SPACE:
                seen |= kind
                if kind & MARK:
                    if character == 0x2E:
                        dots = dots + 1 if dots_end == i else 1
                        dots_end = i + 1
                        ellipses += dots % 3 == 0
                    elif character == 0x23:
                        hashes += 1
                    else:
                        ellipses += 1
                i += 1
                if i >= end:
                    break
                character = load8(data, i)
                if character >= 0x80:
                    if character < 0xC0:
                        # the class of the character it belongs to is counted already
                        continued += 1
                        kind = 0
                        continue
                    character, _ = decode(data, i)
                kind = load8(classes, character)
            words += 1
            letter_words += seen & LETTER != 0
            if seen & NOT_PUNCTUATION:
                real_words += 1
                real_characters += i - start - continued
        if line_start < end:
            lines += 1
            bullet_lines += _begins_with_bullet(data, line_start, end, classes)
            ellipsis_lines += _ends_with_ellipsis(data, line_start, end, classes)

        if real_words < min_words:
            out[row] = 1
        elif real_words > max_words:
            out[row] = 2
        elif real_characters / real_words < min_mean:
            out[row] = 3
        elif real_characters / real_words > max_mean:
            out[row] = 4
        elif hashes / words > max_symbols:
            out[row] = 5
        elif ellipses / words > max_symbols:
            out[row] = 6
        elif bullet_lines / lines > max_bullets:
            out[row] = 7
        elif ellipsis_lines / lines > max_ellipsis_lines:
            out[row] = 8
        elif letter_words / words < min_letters:
            out[row] = 9
        elif not _has_stop_words(data, offsets[row], end, classes, stop_offsets, stop_data, min_stop_words):
            out[row] = 10
    return out
