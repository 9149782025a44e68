"""Pieces for kernels that judge lines: classes of characters, sentence ends, phrases, and edits as spans.

A row is edited by naming the pieces of it that stay, line by line; what lies between two pieces becomes a span to cut
or to replace by newlines, which ``edits.apply_edits`` applies.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock import text
from penstock.kernels import kernel
from penstock.selectors.wordset_kernels import WordSet, find
from penstock.text import LETTER, SPACE, decode, load8

# Bits beside those of text.char_classes().
DIGIT = 8  # str.isdecimal
PUNCTUATION = 16  # general category P
TERMINAL = 32  # ends a sentence
UPPER = 64  # str.isupper
WORD = 128  # str.isalnum, or "_": a word character of regular expressions

# Full stops, question and exclamation marks of all scripts, as FineWeb counts them.
_TERMINAL = """
21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 166e 1735-1736 17d4-17d6 17d9-17da
1803 1809 1944-1945 1aa8-1aab 1b5a-1b5b 1b5e-1b5f 1b7d-1b7e 1c3b-1c3c 1c7e-1c7f 203c-203d 2047-2049 2e2e 2e3c 2e53-2e54
3002 a4ff a60e-a60f a6f3 a6f7 a876-a877 a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb fe52 fe56-fe57 ff01 ff0e ff1f
ff61 10a56-10a57 10f55-10f59 10f86-10f89 11047-11048 110be-110c1 11141-11143 111c5-111c6 111cd 111de-111df 11238-11239
1123b-1123c 112a9 1144b-1144c 115c2-115c3 115c9-115d7 11641-11642 1173c-1173e 11944 11946 11a42-11a43 11a9b-11a9c
11c41-11c42 11ef7-11ef8 11f43-11f44 16a6e-16a6f 16af5 16b37-16b38 16b44 16e98 1bc9f 1da88
"""

# English abbreviations that keep their full stop, as in spaCy; single letters and times such as "10a.m." need no entry.
ABBREVIATIONS = """
Adm. Ak. Ala. Apr. Ariz. Ark. Aug. Bros. Calif. Co. Colo. Conn. Corp. D.C. Dec. Del. Dr. E.G. E.g. Feb. Fla. Ga. Gen.
Gov. I.E. I.e. Ia. Id. Ill. Inc. Ind. Jan. Jr. Jul. Jun. Kan. Kans. Ky. La. Ltd. Mar. Mass. Md. Messrs. Mich. Minn.
Miss. Mo. Mont. Mr. Mrs. Ms. Mt. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. Ph.D. Prof.
Rep. Rev. S.C. Sen. Sep. Sept. St. Tenn. Va. Wash. Wis. a.m. co. e.g. i.e. p.m. v.s. vs.
"""


def terminal_marks() -> NDArray[np.int64]:
    """Code points that end a sentence, ascending."""
    bounds = [[int(part, 16) for part in item.split("-")] for item in _TERMINAL.split()]
    return np.concatenate([np.arange(b[0], b[-1] + 1) for b in bounds])


@functools.cache
def line_classes() -> NDArray[np.uint8]:
    """All bits of every code point: shape (text.TABLE_SIZE,), read-only."""
    import sys
    import unicodedata

    table: NDArray[np.uint8] = text.char_classes().copy()
    characters = np.arange(sys.maxunicode + 1, dtype=np.uint32).view("U1")
    known = table[: characters.size]
    known |= np.strings.isdecimal(characters) * np.uint8(DIGIT)
    known |= np.strings.isupper(characters) * np.uint8(UPPER)
    known |= np.strings.isalnum(characters) * np.uint8(WORD)
    known[0x5F] |= WORD
    for code in range(characters.size):
        if unicodedata.category(chr(code))[0] == "P":
            known[code] |= PUNCTUATION
    known[terminal_marks()] |= TERMINAL
    table.flags.writeable = False
    return table


@functools.cache
def abbreviations() -> WordSet:
    return WordSet.of(pa.array(ABBREVIATIONS.split(), pa.string()))


class Phrases(NamedTuple):
    """Texts to look for whatever the case of their ASCII letters, and the pairs of bytes they begin with."""

    offsets: NDArray[np.int64]
    data: NDArray[np.uint8]
    pairs: NDArray[np.bool_]

    @classmethod
    def of(cls, phrases: Iterable[str]) -> Phrases:
        """Phrases of two bytes and more."""
        small = [ascii_lower(phrase) for phrase in phrases]
        offsets, data = text.row_views(pa.array(small, pa.string()))
        pairs = np.zeros(1 << 16, np.bool_)
        for phrase in small:
            first, second = phrase.encode()[:2]
            pairs[first << 8 | second] = True
        pairs.flags.writeable = False
        return cls(offsets, data, pairs)


def ascii_lower(phrase: str) -> str:
    return "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in phrase)


@kernel
def lower8(data: Any, i: Any) -> Any:
    """Byte i with an ASCII capital made small."""
    byte = load8(data, i)
    return byte + 32 if 0x41 <= byte <= 0x5A else byte


@kernel
def phrase_at(data: Any, i: Any, end: Any, offsets: Any, phrases: Any, k: Any) -> Any:
    """Whether phrase k stands at byte i."""
    length = offsets[k + 1] - offsets[k]
    if i + length > end:
        return False
    j = 0
    while j < length and lower8(data, i + j) == phrases[offsets[k] + j]:
        j += 1
    return j == length


@kernel
def first_phrase(data: Any, start: Any, end: Any, offsets: Any, phrases: Any, pairs: Any) -> Any:
    """Byte at which the first of the phrases begins and its number; (end, -1) where there is none."""
    if offsets.size < 2:
        return end, -1
    for i in range(start, end - 1):
        if pairs[lower8(data, i) << 8 | lower8(data, i + 1)]:
            for k in range(offsets.size - 1):
                if phrase_at(data, i, end, offsets, phrases, k):
                    return i, k
    return end, -1


@kernel
def _before(data: Any, start: Any, i: Any) -> Any:
    """First byte of the character that ends at byte i."""
    i -= 1
    while i > start and data[i] & 0xC0 == 0x80:
        i -= 1
    return i


@kernel
def _stop_ends(data: Any, start: Any, i: Any, classes: Any, slots: Any, known: Any, known_data: Any) -> Any:
    """Whether the full stop at byte i, at the end of the word that begins at ``start``, ends a sentence."""
    if i == start:
        return True
    before = _before(data, start, i)
    character, _ = decode(data, before)
    kind = classes[character]
    if kind & LETTER:
        # one letter alone is an initial; a capital after something else than a capital is an abbreviation
        if before == start:
            return False
        other, _ = decode(data, _before(data, start, before))
        if kind & UPPER and not classes[other] & UPPER:
            return False
        if classes[other] & PUNCTUATION and _before(data, start, before) == start:
            return False
    elif not kind & (DIGIT | PUNCTUATION):
        return character == 0x25 or character == 0xB2
    first = start
    while first < i and classes[decode(data, first)[0]] & (PUNCTUATION | DIGIT):
        first += decode(data, first)[1]
    return find(slots, known, known_data, data, first, i + 1) < 0


@kernel
def count_sentences(data: Any, start: Any, end: Any, classes: Any, slots: Any, known: Any, known_data: Any) -> Any:
    """Sentences of ``data[start:end]``, at least one.

    A sentence ends at a terminal mark that only punctuation follows in its word, or at a full stop between a small and
    a capital letter; the next begins at the next word that is not punctuation alone. A run of full stops ends none, nor
    does the stop of an initial or of a known abbreviation.
    """
    sentences = 1
    ended: Any = False
    i = start
    while i < end:
        character, width = decode(data, i)
        if classes[character] & SPACE:
            i += width
            continue
        first = i
        content = False  # anything but punctuation
        mark: Any = np.int64(-1)  # the last terminal mark with punctuation alone after it
        inner = 0  # sentences that end inside the word
        kind = 0
        while i < end:
            character, width = decode(data, i)
            before = kind
            kind = classes[character]
            if kind & SPACE:
                break
            if not kind & PUNCTUATION:
                content = True
                mark = -1
            elif kind & TERMINAL:
                if character == 0x2E:
                    dots = i
                    while dots + 1 < end and data[dots + 1] == 0x2E:
                        dots += 1
                    if dots > i:
                        i = dots
                    elif (
                        before & LETTER
                        and not before & UPPER
                        and i + 1 < end
                        and classes[decode(data, i + 1)[0]] & UPPER
                    ):
                        inner += 1
                    elif _stop_ends(data, first, i, classes, slots, known, known_data):
                        mark = i
                else:
                    mark = i
            i += width
        if content and ended:
            sentences += 1
            ended = False
        sentences += inner
        ended = ended or mark >= 0
    return sentences


@kernel
def longer(values: Any) -> Any:
    """A copy with twice the room."""
    out = np.empty(2 * values.size, values.dtype)
    out[: values.size] = values
    return out


class Edits(NamedTuple):
    """Spans of text that go, each with the number of newlines that come in its place: see ``edits.apply_edits``."""

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    newlines: NDArray[np.int64]
