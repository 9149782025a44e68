"""Words as matching sees them: one spelling for what people read as the same.

Folding is Unicode's compatibility composition (NFKC, UAX #15) and then full case folding. In the folded text letters,
marks and digits make words, characters of scripts written without spaces (Han, kana, Thai, Lao, Khmer, Burmese, Yi, …)
are a word each, format characters and variation selectors are skipped (a soft hyphen parts no word), and everything
else (spaces, punctuation, symbols, controls) separates. Each word has a 64-bit hash and the bytes of the original text
it came from, so what matches in folded text can be pointed at, and cut, in the text as it is.

    >>> folded_words(pa.array(["Ｆｕｌｌ-width, ½ and 中文"]))    # full | width | 1 | 2 | and | 中 | 文

The source of all tables is the running Python's ``unicodedata``; ``UNICODE`` names its version, which belongs to
whatever is kept of the hashes. Hashes are for tables: texts that collide can be made on purpose.

Price on one core: 140 MB/s of English prose with its hashes; 24 bytes a word. Rows with combining marks are looked at
by Python first (10 MB/s of Hindi), those whose marks are not composed are rewritten. The first call of a process builds
the table (0.8 s, 8 MB).
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

UNICODE = unicodedata.unidata_version

# Scripts whose words are not parted by spaces, by block: Thai, Lao, Burmese, Khmer, Tai Le to New Tai Lue, Tai Tham,
# kana, bopomofo, Han, Yi, Javanese, Burmese extensions, Tai Viet, kana supplements and rarer Han
_NO_SPACES = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x1950, 0x19FF),
    (0x1A20, 0x1AAF),
    (0x2E80, 0x2FDF),
    (0x3005, 0x3007),
    (0x3021, 0x312F),
    (0x31A0, 0x31BF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0xA4CF),
    (0xA980, 0xA9FF),
    (0xAA60, 0xAADF),
    (0xF900, 0xFAFF),
    (0x1AFF0, 0x1B16F),
    (0x20000, 0x323AF),
)
_ASSIGNED = ((0x0, 0xD800), (0xE000, 0x323B0), (0xE0000, 0xE01F0))  # beyond: unassigned and private, which separate
_HANGUL_VOWELS_AND_FINALS = (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))


class Words(NamedTuple):
    """Word w of row i has ``rows[i] <= w < rows[i + 1]``; it is bytes ``starts[w]`` to ``ends[w]`` of the row."""

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    hashes: NDArray[np.uint64]


def folded_words(column: pa.Array) -> Words:
    """Folded words of each row of a text column; null has none. Starts and ends count bytes from the row's first."""
    from penstock.selectors import folded_kernels as kernels
    from penstock.text import row_views, without_nulls

    column = without_nulls(column)
    table, expansions = fold_table()
    offsets, data = row_views(column)
    slow = kernels.suspect_rows(offsets, data, table)
    rewritten: dict[int, tuple[str, list[tuple[int, int, int, int]]]] = {}
    for row in np.flatnonzero(slow).tolist():
        text = column[row].as_py()
        if not unicodedata.is_normalized("NFKC", text) and not _clusters_are_composed(text):
            rewritten[row] = _rewrite(text)
    skip = np.zeros(len(column), np.bool_)
    skip[list(rewritten)] = True
    words = Words(*kernels.words(offsets, data, table, expansions, skip))
    return _spliced(words, rewritten) if rewritten else words


def _spliced(words: Words, rewritten: dict[int, tuple[str, list[tuple[int, int, int, int]]]]) -> Words:
    """``words`` with those of rewritten rows put in, their positions as in the text before."""
    from penstock.selectors import folded_kernels as kernels
    from penstock.text import row_views

    table, expansions = fold_table()
    numbers = sorted(rewritten)
    offsets, data = row_views(pa.array([rewritten[row][0] for row in numbers], pa.large_string()))
    new = Words(*kernels.words(offsets, data, table, expansions, np.zeros(len(numbers), np.bool_)))
    counts = np.diff(words.rows)
    pieces: list[tuple[Any, ...]] = []
    last = 0
    for place, row in enumerate(numbers):
        pieces.append(tuple(column[words.rows[last] : words.rows[row]] for column in words[1:]))
        own = slice(new.rows[place], new.rows[place + 1])
        changes = rewritten[row][1]
        starts = _before(new.starts[own], changes, end=False)
        ends = _before(new.ends[own], changes, end=True)
        pieces.append((starts, ends, new.hashes[own]))
        counts[row] = len(starts)
        last = row
    pieces.append(tuple(column[words.rows[last] :] for column in words[1:]))
    rows = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    return Words(rows, *(np.concatenate(columns) for columns in zip(*pieces, strict=True)))


def _clusters_are_composed(text: str) -> bool:
    """Whether every character of the text folds by itself after all."""
    return all(unicodedata.is_normalized("NFKC", cluster) for cluster in set(_clusters().findall(text)))


def _rewrite(text: str) -> tuple[str, list[tuple[int, int, int, int]]]:
    """The text with its clusters composed, and (new start, stop, old start, stop) in bytes of each that changed."""
    pieces, changes = [], []
    at = new = old = 0
    for found in _clusters().finditer(text):
        cluster = found.group()
        composed = unicodedata.normalize("NFKC", cluster)
        if composed == cluster:
            continue
        between = text[at : found.start()]
        pieces += [between, composed]
        size = len(between.encode())
        new, old = new + size, old + size
        changes.append((new, new + len(composed.encode()), old, old + len(cluster.encode())))
        new, old, at = changes[-1][1], changes[-1][3], found.end()
    pieces.append(text[at:])
    return "".join(pieces), changes


def _before(positions: NDArray[np.int64], changes: list[tuple[int, int, int, int]], *, end: bool) -> NDArray[np.int64]:
    """Where bytes of the rewritten text stood before; inside a change, at its start or its end."""
    if not changes:
        return positions
    table = np.array(changes, np.int64)
    place = np.searchsorted(table[:, 0], positions, side="left" if end else "right") - 1
    change = table[np.maximum(place, 0)]
    inside = (place >= 0) & (positions < change[:, 1] + end)
    moved = positions + np.where(place >= 0, change[:, 3] - change[:, 1], 0)
    return np.where(inside, change[:, 3 if end else 2], moved)


@functools.cache
def fold_table() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """The table and the expansions that ``folded_kernels`` reads, both read-only."""
    from penstock.selectors.folded_kernels import EXPANDS, SEPARATES, SUSPECT
    from penstock.text import TABLE_SIZE

    table = np.full(TABLE_SIZE, SEPARATES, np.uint32)
    expansions: list[int] = []
    for code in _codes():
        character = chr(code)
        folded = unicodedata.normalize("NFKC", character).casefold()
        entries = [_kind(ord(c)) | ord(c) << 3 for c in folded]
        if len(entries) == 1:
            table[code] = entries[0]
        elif entries:
            table[code] = EXPANDS | len(expansions) << 3
            expansions += [len(entries), *entries]
    table[list(_suspects())] |= SUSPECT
    flat = np.array(expansions or [0], np.uint32)
    for array in (table, flat):
        array.flags.writeable = False
    return table, flat


def _codes() -> list[int]:
    return [code for first, stop in _ASSIGNED for code in range(first, stop)]


def _kind(code: int) -> int:
    from penstock.selectors.folded_kernels import IGNORED, SEPARATES, SINGLE, WORD

    category = unicodedata.category(chr(code))
    if category == "Cf" or code == 0x34F or 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF:
        return IGNORED
    if category[0] not in "LMN":
        return SEPARATES
    return SINGLE if code in _unspaced() else WORD


@functools.cache
def _unspaced() -> frozenset[int]:
    return frozenset(code for first, last in _NO_SPACES for code in range(first, last + 1))


@functools.cache
def _suspects() -> frozenset[int]:
    """Characters that may change, or be changed by, the one before them when a text is composed."""
    seconds = set(_HANGUL_VOWELS_AND_FINALS)
    opens: dict[int, int] = {}
    for code in _codes():
        decomposition = unicodedata.decomposition(chr(code))
        if decomposition:
            if decomposition[0] != "<":
                seconds.update(int(part, 16) for part in decomposition.split()[1:])
            opens[code] = ord(unicodedata.normalize("NFKD", chr(code))[0])
    first = {code: opens.get(code, code) for code in _codes()}
    return frozenset(c for c, head in first.items() if head in seconds or unicodedata.combining(chr(head)))


@functools.cache
def _clusters() -> re.Pattern[str]:
    """A character with the suspects behind it: outside of these every character folds by itself."""
    codes = sorted(_suspects())
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    inside = "".join(f"{re.escape(chr(a))}-{re.escape(chr(b))}" for a, b in ranges)
    return re.compile(f"[^{inside}]?[{inside}]+", re.DOTALL)
