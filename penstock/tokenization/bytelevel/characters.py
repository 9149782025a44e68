"""Sets of characters as the tokenizer's own regular expressions see them, and UTF-8 as an automaton over bytes.

Two characters that are in the same sets mean the same to a pre-tokenizer; they form a *class*. ``Classes`` gives each
character its class. ``Utf8`` reads bytes: from its start, one to four bytes lead to a class or nowhere, and characters
whose remaining bytes lead to the same classes share a node, so that there are some hundred nodes. Surrogates, overlong
forms and code points above U+10FFFF lead nowhere.

Price: 0.3 s a set, kept for the process, and 0.1 s for the classes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError

CODE_POINTS = 0x110000
_SURROGATES = range(0xD800, 0xE000)
NOWHERE = -1


# planes without an assigned character or for private use; their characters are in the same sets
_EMPTY_PLANES = (*range(4, 14), 15, 16)
_SAMPLE = 1021  # every so many of them are looked at


@functools.cache
def _looked_at() -> tuple[str, NDArray[np.int64]]:
    """The characters that are put to a splitter, and their code points."""
    points = np.arange(CODE_POINTS)
    plane = points >> 16
    inside = ~np.isin(plane, _EMPTY_PLANES) | (points % _SAMPLE == 0)
    inside &= (points < _SURROGATES.start) | (points >= _SURROGATES.stop)
    found = points[inside]
    return "".join(map(chr, found.tolist())), found


@functools.lru_cache(maxsize=256)
def members(text: str) -> NDArray[np.bool_]:
    """The characters that a set, written as Oniguruma does, holds: (0x110000,).

    Raises:
        ConfigError: Oniguruma cannot read it.
    """
    from tokenizers import Regex

    if len(text) == 1 or (len(text) == 2 and text[0] == "\\" and not text[1].isalnum()):
        out = np.zeros(CODE_POINTS, dtype=bool)
        out[ord(text[-1])] = text != "."
        if text != ".":
            return out
    try:
        pattern = Regex(f"(?:{text})+")  # of runs there are far fewer than of characters
    except Exception as error:  # tokenizers raises Exception itself
        raise ConfigError(
            f"tokenizer: its pre-tokenizer's pattern has {text}, which cannot be read ({error})"
        ) from error
    from tokenizers.pre_tokenizers import Split

    return _kept(Split(pattern, behavior="removed", invert=True))


@functools.lru_cache(maxsize=8)
def digits() -> NDArray[np.bool_]:
    """The characters that the pre-tokenizer ``Digits`` takes for digits."""
    from tokenizers.pre_tokenizers import Digits

    return _alternating(Digits(individual_digits=False))


@functools.lru_cache(maxsize=8)
def punctuation() -> NDArray[np.bool_]:
    """The characters that the pre-tokenizer ``Punctuation`` takes for punctuation."""
    from tokenizers.pre_tokenizers import Punctuation

    return _alternating(Punctuation(behavior="contiguous"))


def _kept(splitter: Any) -> NDArray[np.bool_]:
    """The characters that a splitter leaves."""
    return _spread(splitter.pre_tokenize_str(_looked_at()[0]))


def _alternating(splitter: Any) -> NDArray[np.bool_]:
    """The characters of a set, by a splitter that cuts where a run of them begins or ends; U+0000 is none of them."""
    return _spread(splitter.pre_tokenize_str(_looked_at()[0])[1::2])


def _spread(pieces: list[tuple[str, tuple[int, int]]]) -> NDArray[np.bool_]:
    """The characters in pieces of those looked at, and those like them."""
    _, points = _looked_at()
    found = np.zeros(len(points), dtype=bool)
    for _, (begin, end) in pieces:
        found[begin:end] = True
    out = np.zeros(CODE_POINTS, dtype=bool)
    out[points] = found
    for plane in _EMPTY_PLANES:
        # of a plane without characters all are alike, so its samples are
        out[plane << 16 : plane + 1 << 16] = found[points >> 16 == plane].any()
    return out


@dataclass(frozen=True, eq=False)
class Classes:
    """C classes of characters.

    Attributes:
        of: class of each code point; -1 for a surrogate or a character that no text has: (0x110000,).
        sets: whether each set holds each class: (number of sets, C).
    """

    of: NDArray[np.int32]
    sets: NDArray[np.bool_]

    @classmethod
    def by(cls, sets: Sequence[NDArray[np.bool_]], *, absent: Sequence[int] = ()) -> Classes:
        """The coarsest classes that every set is a union of.

        Args:
            sets: (0x110000,) each.
            absent: code points that no text has.
        """
        of = np.zeros(CODE_POINTS, dtype=np.int64)
        of[_SURROGATES.start : _SURROGATES.stop] = -1
        of[list(absent)] = -1
        present = of == 0
        held_by = np.zeros((0, 1), dtype=bool)
        for held in sets:
            code = 2 * of + held
            used = np.bincount(code[present], minlength=2 * held_by.shape[1]) > 0
            number = np.cumsum(used) - 1
            of = np.where(present, number[code], -1)
            before = np.flatnonzero(used) // 2
            held_by = np.vstack([held_by[:, before], (np.flatnonzero(used) % 2 == 1)[None]])
        return cls(of=of.astype(np.int32), sets=held_by)


@dataclass(frozen=True, eq=False)
class Utf8:
    """U nodes; node 0 is between characters.

    Attributes:
        step: (U, 256) int32: a node above 0, ``-2 - class`` when the byte ends a character, -1 when it leads nowhere.
        ahead: the classes that a character may still have at each node, as a bit set: (U,).
    """

    step: NDArray[np.int32]
    ahead: tuple[int, ...]

    @classmethod
    def of(cls, classes: NDArray[np.int32]) -> Utf8:
        """The automaton of all characters with a class >= 0."""
        rows: list[NDArray[np.int32]] = [np.full(256, NOWHERE, dtype=np.int32)]
        ahead: list[int] = [0]
        numbers: dict[bytes, int] = {}

        def node(follow: NDArray[np.int32]) -> int:
            """The node whose continuation bytes 80 to BF do as given."""
            key = follow.tobytes()
            if key not in numbers:
                if (follow == NOWHERE).all():
                    numbers[key] = NOWHERE
                else:
                    row = np.full(256, NOWHERE, dtype=np.int32)
                    row[0x80:0xC0] = follow
                    numbers[key] = len(rows)
                    rows.append(row)
                    ahead.append(functools.reduce(int.__or__, (_ahead(int(t), ahead) for t in set(follow.tolist()))))
            return numbers[key]

        if (classes < 0).all():
            return cls(step=np.stack(rows), ahead=(0,))
        ends = np.where(classes >= 0, -2 - classes, NOWHERE).astype(np.int32)
        rows[0][:0x80] = ends[:0x80]
        for lead in range(0xC2, 0xE0):
            rows[0][lead] = node(ends[(lead & 0x1F) << 6 :][:64])
        of_block = np.array([node(block) for block in ends.reshape(-1, 64)], dtype=np.int32)
        empty = np.full(64, NOWHERE, dtype=np.int32)
        for lead in range(0xE0, 0xF0):
            follow = of_block[(lead & 0x0F) << 6 :][:64].copy()
            if lead == 0xE0:
                follow[:0x20] = NOWHERE  # overlong
            rows[0][lead] = node(follow)
        planes = of_block.reshape(-1, 64)  # of 4096 code points each
        for lead in range(0xF0, 0xF5):
            follow = empty.copy()
            for second in range(64):
                place = ((lead & 7) << 6) + second
                if 16 <= place < len(planes):  # below: overlong
                    follow[second] = node(planes[place])
            rows[0][lead] = node(follow)
        return cls(step=np.stack(rows), ahead=tuple(ahead))


def _ahead(target: int, ahead: list[int]) -> int:
    if target == NOWHERE:
        return 0
    return 1 << (-2 - target) if target < NOWHERE else ahead[target]
