"""Compiled loops of ``minhash``: words to shingle hashes, shingle hashes to signatures, signatures to band keys.

Price on one core: shingling about 250 MB/s of English prose; signatures of 112 permutations about 55M shingles/s;
band keys are free beside them. Memory: 4 bytes a shingle and 4 bytes a permutation of the rows at hand.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock import text
from penstock.kernels import kernel
from penstock.text import TABLE_SIZE, decode, mix

ALONE = 1 << 31  # a character of a script without spaces: a word of its own
_SEED = np.uint64(0x452821E638D01377)
_BASE = np.uint64(0xD6E8FEB86659FD93)  # odd, so that no word of an n-gram is lost modulo 2**64
_LETTERS_BELOW = 0x40000
_MARKS_BELOW = 0x20000
_VARIATION_SELECTORS = range(0xE0100, 0xE01F0)

# letters of scripts that are written without spaces between words, by Unicode block
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x3005, 0x3007),  # ideographic iteration mark and zero
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),  # Katakana extensions
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xA980, 0xA9DF),  # Javanese
    (0xA9E0, 0xA9FF),  # Myanmar extensions
    (0xAA60, 0xAADF),  # Myanmar extensions, Tai Viet
    (0xF900, 0xFAFF),  # Han compatibility
    (0x1AFF0, 0x1B16F),  # Kana supplements
    (0x20000, 0x3FFFF),  # Han supplements
)


@functools.cache
def folded() -> NDArray[np.uint32]:
    """What each code point is to a word: 0 ends it, else its lower case, with ALONE where it is one itself.

    Letters, numbers and marks belong to words (general categories L, N, M); everything else stands between them.
    Shape (TABLE_SIZE,), read-only.
    """
    # nothing above but variation selectors belongs to a word
    characters = np.arange(_LETTERS_BELOW, dtype=np.uint32).view("U1")
    letters = np.strings.isalnum(characters)
    table = np.zeros(TABLE_SIZE, np.uint32)
    # the only lower case of two characters, that of "İ", is cut to its first
    table[:_LETTERS_BELOW] = np.strings.lower(characters).astype("U1").view(np.uint32) * letters
    for first, last in _UNSPACED:
        table[first : last + 1][letters[first : last + 1]] |= np.uint32(ALONE)
    for mark in (*range(_MARKS_BELOW), *_VARIATION_SELECTORS):
        if unicodedata.category(chr(mark)).startswith("M"):
            table[mark] = mark
    table.flags.writeable = False
    return table


def shingles(column: pa.Array, ngram: int) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Hashes of all runs of ``ngram`` words of each row, repeats included; a null row has none.

    Returns:
        ``rows`` (n + 1,) and ``hashes`` (shingles,): those of row i are ``hashes[rows[i]:rows[i + 1]]``.
    """
    offsets, data = text.row_views(column)
    # a word is a byte at least, so there are never more shingles than bytes; pages that are not written cost nothing
    capacity = int(offsets[-1] - offsets[0]) if len(offsets) > 1 else 0
    rows, hashes = _shingles(offsets, data, folded(), ngram, capacity)
    return rows, hashes[: rows[-1]]


def signatures(
    rows: NDArray[np.int64], hashes: NDArray[np.uint32], a: NDArray[np.uint64], b: NDArray[np.uint64]
) -> NDArray[np.uint32]:
    """The least ``(a·h + b mod 2**64) >> 32`` over each row's hashes, by permutation: shape (rows, permutations)."""
    return _signatures(rows, hashes, a, b)


def band_keys(signature: NDArray[np.uint32], bands: int) -> NDArray[np.uint64]:
    """A 64-bit key of each band of each signature, its number mixed in: shape (rows, bands)."""
    return _band_keys(signature, bands)


@kernel
def _shingles(offsets: Any, data: Any, table: Any, n: Any, capacity: Any) -> tuple[Any, Any]:
    rows = np.empty(offsets.size, np.int64)
    hashes = np.empty(capacity, np.uint32)
    last = np.zeros(n, np.uint64)  # hashes of the last n words, as a ring
    oldest = np.uint64(1)  # the factor of the word that leaves the run
    for _ in range(n):
        oldest *= _BASE
    rows[0] = 0
    count = 0
    for row in range(offsets.size - 1):
        i = offsets[row]
        end = offsets[row + 1]
        words = 0
        place = 0
        run = np.uint64(0)
        last[:] = 0
        word = _SEED
        length = 0
        while True:
            kind = np.uint32(0)
            width = 1
            if i < end:
                character, width = decode(data, i)
                kind = table[character]
            alone = kind >= np.uint32(ALONE)
            if length > 0 and (kind == 0 or alone):  # a word has ended before this character
                whole = mix(word, np.uint64(length))
                run = run * _BASE + whole - last[place] * oldest
                last[place] = whole
                place = place + 1 if place + 1 < n else 0
                words += 1
                if words >= n:
                    hashes[count] = np.uint32(mix(run, np.uint64(n)) >> np.uint64(32))
                    count += 1
                word = _SEED
                length = 0
            if i >= end:
                break
            if kind != 0:
                word = mix(word, np.uint64(kind))
                length += 1
            i += width
        rows[row + 1] = count
    return rows, hashes


@kernel
def _signatures(rows: Any, hashes: Any, a: Any, b: Any) -> NDArray[np.uint32]:
    permutations = a.size
    out = np.empty((rows.size - 1, permutations), np.uint32)
    least = np.empty(permutations, np.uint64)  # the least before the shift is the least after it
    for row in range(rows.size - 1):
        least[:] = np.uint64(0xFFFFFFFFFFFFFFFF)
        i = rows[row]
        end = rows[row + 1]
        # eight hashes to a visit of the row's minima: they are loaded and stored once for them
        while i + 8 <= end:
            h0 = np.uint64(hashes[i])
            h1 = np.uint64(hashes[i + 1])
            h2 = np.uint64(hashes[i + 2])
            h3 = np.uint64(hashes[i + 3])
            h4 = np.uint64(hashes[i + 4])
            h5 = np.uint64(hashes[i + 5])
            h6 = np.uint64(hashes[i + 6])
            h7 = np.uint64(hashes[i + 7])
            for p in range(permutations):
                x = a[p]
                y = b[p]
                first = min(min(x * h0 + y, x * h1 + y), min(x * h2 + y, x * h3 + y))
                second = min(min(x * h4 + y, x * h5 + y), min(x * h6 + y, x * h7 + y))
                least[p] = min(least[p], min(first, second))
            i += 8
        while i < end:
            h = np.uint64(hashes[i])
            for p in range(permutations):
                least[p] = min(least[p], a[p] * h + b[p])
            i += 1
        for p in range(permutations):
            out[row, p] = least[p] >> np.uint64(32)
    return out


@kernel
def _band_keys(signature: Any, bands: Any) -> NDArray[np.uint64]:
    width = signature.shape[1] // bands
    out = np.empty((signature.shape[0], bands), np.uint64)
    for row in range(out.shape[0]):
        for band in range(bands):
            key = mix(_SEED, np.uint64(band))
            for p in range(band * width, (band + 1) * width):
                key = mix(key, np.uint64(signature[row, p]))
            out[row, band] = mix(key, _SEED)
    return out
