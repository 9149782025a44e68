"""The loop behind ``HeuristicScore``: statistics of words, characters and lines, row by row, over Arrow's buffers.

A word is hashed while it is scanned, ASCII letters in lower case. Stop words are found in a sorted array of hashes;
runs of three words and lines seen before in a table of hashes that is cleared for each row. Two that collide in 64 bits
count as equal, which no statistic would show.

Price: about 125 MB/s a core on prose. Scratch: 16 to 32 bytes a byte of the longest prefix.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.kernels import inlined, kernel
from penstock.text import LETTER, LINE_BREAK, SPACE, char_classes, decode, load8, mix

STATISTICS = ("words", "stop_words", "alphabetic", "word_length", "line_ends", "repeated_lines", "repeated_trigrams")

TERMINAL = 8  # a bit beside those of text.char_classes(): ends a sentence, or closes what did
_SEED = np.uint64(0x9E3779B97F4A7C15)
_PRIME = np.uint64(0x100000001B3)
_BASIS = np.uint64(0xCBF29CE484222325)
_EMPTY = np.uint64(0)
# full stops of scripts that do not write "."
_STOPS = (0x2E, 0x21, 0x3F, 0x3A, 0x3B, 0x2026, 0x203C, 0x203D, 0x0589, 0x061F, 0x06D4, 0x0964, 0x0965, 0x1362, 0x3002)
_WIDE_STOPS = (0xFF01, 0xFF0E, 0xFF1F, 0xFF61)
_CLOSING = (0x22, 0x27, 0x29, 0x5D, 0xBB, 0x2019, 0x201D, 0x300D, 0x300F)


def _table() -> NDArray[np.uint8]:
    table = char_classes().copy()
    table[list((*_STOPS, *_WIDE_STOPS, *_CLOSING))] |= TERMINAL
    table.flags.writeable = False
    return table


_CLASSES: list[NDArray[np.uint8]] = []


def _classes() -> NDArray[np.uint8]:
    if not _CLASSES:
        _CLASSES.append(_table())
    return _CLASSES[0]


def statistics(
    offsets: NDArray[np.int64], data: NDArray[np.uint8], limit: int, stop_hashes: NDArray[np.uint64]
) -> NDArray[np.float64]:
    """``STATISTICS`` of the first ``limit`` bytes of each row: (n, 7), NaN where there is nothing to divide by."""
    return _statistics(offsets, data, limit, _classes(), stop_hashes)


def word_hashes(offsets: NDArray[np.int64], data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The hash of each row as one word: shape (n,)."""
    return _word_hashes(offsets, data)


@inlined
def _folded(h: Any, byte: Any) -> Any:
    """The hash with one more byte, a capital ASCII letter as a small one."""
    if 0x41 <= byte <= 0x5A:
        byte += 32
    return (h ^ np.uint64(byte)) * _PRIME


@kernel
def _word_hashes(offsets: Any, data: Any) -> NDArray[np.uint64]:
    out = np.empty(offsets.size - 1, np.uint64)
    for row in range(out.size):
        h = _BASIS
        for i in range(offsets[row], offsets[row + 1]):
            h = _folded(h, np.int64(data[i]))
        out[row] = h
    return out


@kernel
def _is_in(values: Any, wanted: Any) -> Any:
    """Whether a sorted array holds a value."""
    low = 0
    high = values.size
    while low < high:
        middle = (low + high) >> 1
        if values[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low < values.size and values[low] == wanted


@kernel
def _seen(slots: Any, mask: Any, h: Any) -> Any:
    """Whether the table holds a hash; it does afterwards. ``mask`` is the table's size less one."""
    if h == _EMPTY:
        h = _SEED
    at = np.int64(mix(_SEED, h) >> np.uint64(20)) & mask
    while slots[at] != _EMPTY:
        if slots[at] == h:
            return True
        at = (at + 1) & mask
    slots[at] = h
    return False


@kernel
def _statistics(offsets: Any, data: Any, limit: Any, classes: Any, stop_hashes: Any) -> NDArray[np.float64]:
    n = offsets.size - 1
    out = np.full((n, 7), np.nan)
    longest = 0
    for row in range(n):
        longest = max(longest, min(offsets[row + 1] - offsets[row], limit))
    size = 16
    while size < longest + 2:  # two bytes a word at least: half full at most
        size *= 2
    trigrams = np.zeros(size, np.uint64)
    lines = np.zeros(size, np.uint64)
    for row in range(n):
        start = offsets[row]
        end = offsets[row + 1]
        if end - start > limit:
            end = start + limit
            while end > start and data[end] & 0xC0 == 0x80:
                end -= 1
        room = 16
        while room < end - start + 2:
            room *= 2
        trigrams[:room] = _EMPTY
        lines[:room] = _EMPTY
        mask = room - 1

        words = 0
        stops = 0
        letters = 0
        characters = 0
        trigram_count = 0
        repeated_trigrams = 0
        line_count = 0
        ended = 0
        line_characters = 0
        repeated_characters = 0
        last = np.uint64(0)
        before = np.uint64(0)
        word = _BASIS
        inside = False
        line = _BASIS
        width_of_line = 0
        terminal = False
        i = start
        while True:
            at_end = i >= end
            character = 0x0A
            width = 1
            if not at_end:
                character, width = decode(data, i)
            kind = load8(classes, character)
            if kind & SPACE:
                if inside:
                    words += 1
                    stops += _is_in(stop_hashes, word)
                    if words > 2:
                        trigram_count += 1
                        repeated_trigrams += _seen(trigrams, mask, mix(mix(mix(_SEED, before), last), word))
                    line = mix(line, word)
                    before = last
                    last = word
                    word = _BASIS
                    inside = False
                if kind & LINE_BREAK and width_of_line > 0:
                    line_count += 1
                    ended += terminal
                    line_characters += width_of_line
                    if _seen(lines, mask, line):
                        repeated_characters += width_of_line
                    line = _BASIS
                    width_of_line = 0
                    terminal = False
                if at_end:
                    break
            else:
                inside = True
                characters += 1
                width_of_line += 1
                letters += kind & LETTER != 0
                terminal = kind & TERMINAL != 0
                for k in range(width):
                    word = _folded(word, load8(data, i + k))
            i += width
        out[row, 0] = words
        if words > 0:
            out[row, 1] = stops / words
            out[row, 2] = letters / characters
            out[row, 3] = characters / words
            out[row, 4] = ended / line_count
            out[row, 5] = repeated_characters / line_characters
        if trigram_count > 0:
            out[row, 6] = repeated_trigrams / trigram_count
    return out
