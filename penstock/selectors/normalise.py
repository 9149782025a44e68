"""Clean text to one canonical form, and drop what holds nothing.

``Normalise`` writes Unicode's normalisation form C (UAX #15) by the running Python's tables, so that the same word is
the same bytes, and leaves "\\n" and "\\t" as the only control characters (general category Cc). "\\r\\n" and every
other control that ends a line for ``str.splitlines()`` become "\\n" and the unit separator becomes a space, so that no
two words grow together; the rest go. Format characters such as the zero-width joiner stay: emoji and several scripts
need them. Applying it twice changes nothing more.

A row with learned ranges (column ``learn``) is cleaned stretch by stretch between their borders, and the ranges move
with it: a mark after a border is not composed with the letter before it, and "\\r\\n" that a border parts becomes two
line ends. What training learns from must stay apart from what it does not.

Price: one scan at about 550 MB/s a core finds the rows that may need work, the few found are rewritten at about
100 MB/s; the content hash costs about 1 GB/s and 1 µs a row. Together 250 MB/s on English prose.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import unicodedata
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

_CONTROLS = r"\x00-\x08\x0b-\x1f\x7f-\x{9f}"
_LINE_ENDS = r"\r\n?|[\x0b\x0c\x1c-\x1e\x{85}]"
# Below this no character is ever changed by form C; from _UNSEEN on characters are rare enough to be looked at always.
_FIRST_COMBINING = 0x300
_UNSEEN = 0x20000
_HANGUL_VOWELS_AND_FINALS = (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))


@dataclass(frozen=True, kw_only=True)
class Normalise:
    """Replace ``text`` by its canonical form and ``content_hash`` by that text's hash. Null text becomes empty.

    ``learn``, where the batch has it, is moved with the text.
    """

    name: ClassVar[str] = "normalise"
    revision: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ("text", "content_hash", "learn")

    def setup(self) -> None:
        """Build the table of characters to look at (about 50 ms)."""
        _suspects()

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """``text`` (string), ``content_hash`` (16 bytes) and, when the batch has it, ``learn``, one for each row.

        Raises InputError naming a row whose learned ranges are none.
        """
        from penstock.spans import map_pieces

        columns = map_pieces(batch, normalised)
        text = columns.pop("text")
        return {"text": text, "content_hash": content_hashes(text), **columns}


@dataclass(frozen=True, kw_only=True)
class NotEmpty:
    """Drop rows whose text is null, empty or whitespace alone, with the reason ``empty``."""

    name: ClassVar[str] = "not_empty"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ()

    def decide(self, batch: pa.RecordBatch) -> pa.StringArray:
        """``empty`` or null for each row."""
        from penstock import text

        return pc.if_else(pa.array(text.blank(batch["text"])), pa.scalar("empty"), pa.scalar(None, pa.string()))


def normalised(text: pa.Array) -> pa.Array:
    """Each row in canonical form, null as empty: same type and shape. Rows that are canonical are not touched."""
    if text.null_count:
        text = text.fill_null("")
    suspect = pc.match_substring_regex(text, _suspects())
    if not pc.any(suspect).as_py():
        return text
    rows = text.filter(suspect)
    rows = pc.replace_substring_regex(rows, _LINE_ENDS, "\n")
    rows = pc.replace_substring(rows, "\x1f", " ")
    rows = pc.replace_substring_regex(rows, f"[{_CONTROLS}]", "")
    # last: without a control between them two characters may compose
    # (in Python: pyarrow 25's utf8_normalize leaves form D for "NFC", apache/arrow issue 51225)
    composed = pa.array([unicodedata.normalize("NFC", row) for row in rows.to_pylist()], text.type)
    return pc.replace_with_mask(text, suspect, composed)


def content_hashes(text: pa.Array) -> pa.FixedSizeBinaryArray:
    """blake2b-128 of each row's UTF-8 bytes: fixed_size_binary(16), shape (rows,)."""
    from penstock.text import views, without_nulls

    offsets, data = views(without_nulls(text))
    content = data.data
    bounds = offsets.tolist()
    hashes = [hashlib.blake2b(content[start:end], digest_size=16).digest() for start, end in itertools.pairwise(bounds)]
    return pa.array(hashes, pa.binary(16))


@functools.cache
def _suspects() -> str:
    """A regular expression that finds controls and any character without which text is surely in form C."""
    # A text is in form C if each of its characters is so alone, has no combining class and is not the second half
    # of a composed character.
    seconds = set(_HANGUL_VOWELS_AND_FINALS)
    suspects = set()
    for code in range(_UNSEEN):
        character = chr(code)
        decomposition = unicodedata.decomposition(character)
        if decomposition and decomposition[0] != "<":
            seconds.update(int(part, 16) for part in decomposition.split()[1:])
            if unicodedata.normalize("NFC", character) != character:
                suspects.add(code)
        if unicodedata.combining(character):
            suspects.add(code)
    ranges: list[list[int]] = []
    for code in sorted(suspects | seconds):
        if code < _FIRST_COMBINING:
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    pairs = "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in ranges)
    return rf"[{_CONTROLS}{pairs}\x{{{_UNSEEN:x}}}-\x{{10ffff}}]"
