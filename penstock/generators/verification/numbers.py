"""Numbers in a question, in digits or in words, as exact fractions.

``5``, ``1,000``, ``2.5``, ``3/4``, ``twenty-five``, ``two hundred and fifty``, ``half``, ``a third``,
``three quarters``, ``dozen``, ``twice`` (two, times). An ordinal is no number.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from penstock.generators.transforms.text import Token, word_set

_ONES = {
    word: value
    for value, word in enumerate(
        (
            "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
            "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
        )
    )
}  # fmt: skip
_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fourty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80,
    "ninety": 90,
}  # fmt: skip
_SCALES = {"thousand": 1000, "million": 10**6, "billion": 10**9}
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4, "fourths": 4, "fifth": 5,
    "fifths": 5, "sixth": 6, "sixths": 6, "seventh": 7, "sevenths": 7, "eighth": 8, "eighths": 8, "ninth": 9,
    "ninths": 9, "tenth": 10, "tenths": 10, "twelfth": 12, "twelfths": 12, "hundredth": 100, "hundredths": 100,
}  # fmt: skip
TIMES = {
    "twice": 2, "double": 2, "doubles": 2, "doubled": 2, "thrice": 3, "triple": 3, "triples": 3, "tripled": 3,
    "quadruple": 4, "quadrupled": 4,
}  # fmt: skip
ORDINALS = word_set(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fifteenth twentieth "
    "thirtieth"
)
WORDS = frozenset(["a", "an", *_ONES, *_TENS, *_SCALES, *TIMES, *_PARTS, "hundred", "dozen", "dozens"])


class Number(NamedTuple):
    """A number and the tokens that say it: ``tokens[start:stop]``.

    Attributes:
        times: it is said as a multiple (``twice``).
    """

    value: Fraction
    start: int
    stop: int
    times: bool = False


def number_at(tokens: Sequence[Token], at: int) -> Number | None:
    """The number that begins with this token, as long as it goes; None where none does."""
    token = tokens[at]
    if token.kind == "n":
        return _digits(tokens, at)
    low = token.low
    if token.kind != "w" or low not in WORDS:
        return None
    if low in TIMES:
        return Number(Fraction(TIMES[low]), at, at + 1, True)
    if low in ("dozen", "dozens"):
        return Number(Fraction(12), at, at + 1)
    if low in ("half", "halves"):
        return Number(Fraction(1, 2), at, at + 1)
    if low in ("a", "an", "one"):
        after = _joined(tokens, at)
        follows = tokens[after].low if after < len(tokens) else ""
        if follows in ("half", "third", "quarter", "fifth", "sixth", "seventh", "eighth", "tenth") or (
            follows in ("fourth", "ninth", "twelfth", "hundredth") and _of(tokens, after + 1)
        ):
            return Number(Fraction(1, _PARTS[follows]), at, after + 1)
        if low != "one" and follows in ("hundred", "thousand", "million", "billion"):
            return _spelled(tokens, after, 1, at)
        if low != "one":
            return None
    if low in _PARTS:
        # "third of the cake" is a part, "the third day" an ordinal
        if _of(tokens, at + 1) and (low in ORDINALS or low == "quarter"):
            return Number(Fraction(1, _PARTS[low]), at, at + 1)
        return None
    if low in _SCALES or low == "hundred":
        return _spelled(tokens, at, 1, at)
    return _spelled(tokens, at, None, at)


def _of(tokens: Sequence[Token], at: int) -> bool:
    return at < len(tokens) and tokens[at].low in ("of", "as")


def _joined(tokens: Sequence[Token], at: int) -> int:
    """The place of the next word after an optional hyphen that touches both."""
    after = at + 1
    if after < len(tokens) and tokens[after].text == "-" and tokens[after].start == tokens[at].stop:
        return after + 1
    return after


@functools.lru_cache(maxsize=4096)
def _fraction(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))


def _digits(tokens: Sequence[Token], at: int) -> Number:
    value = _fraction(tokens[at].text)
    stop = at + 1
    if (
        stop + 1 < len(tokens)
        and tokens[stop].text == "/"
        and tokens[stop + 1].kind == "n"
        and tokens[at].stop == tokens[stop].start
        and tokens[stop].stop == tokens[stop + 1].start
    ):
        below = _fraction(tokens[stop + 1].text)
        if below:
            return Number(value / below, at, stop + 2)
    if stop < len(tokens) and tokens[stop].low in _SCALES:
        return Number(value * _SCALES[tokens[stop].low], at, stop + 1)
    if stop < len(tokens) and tokens[stop].low == "hundred":
        return Number(value * 100, at, stop + 1)
    return Number(value, at, stop)


def _spelled(tokens: Sequence[Token], at: int, begun: int | None, start: int) -> Number:
    """Read ``two hundred and fifty thousand``; ``begun`` is the one of "a hundred", of which ``at`` is the scale."""
    total, part = 0, begun if begun is not None else 0
    stop, previous = at, ""
    while stop < len(tokens):
        low = tokens[stop].low
        if low in _ONES and previous not in ("ones",) and not (previous == "tens" and _ONES[low] > 9):
            part, previous = part + _ONES[low], "ones"
        elif low in _TENS and previous in ("", "hundred", "scale"):
            part, previous = part + _TENS[low], "tens"
        elif low == "hundred" and previous in ("ones", "tens", "") and (part or begun is not None):
            part, previous = part * 100, "hundred"
        elif low in _SCALES and (part or begun is not None):
            total, part, previous = total + part * _SCALES[low], 0, "scale"
        else:
            break
        begun = None
        stop += 1
        ahead = _joined(tokens, stop - 1)
        if ahead == stop < len(tokens) and tokens[stop].low == "and" and previous in ("hundred", "scale"):
            ahead += 1
        if ahead != stop:
            if ahead == len(tokens) or (tokens[ahead].low not in _ONES and tokens[ahead].low not in _TENS):
                break
            stop = ahead
    value = total + part
    # "two thirds", "three-quarters": more than one part
    after = _joined(tokens, stop - 1)
    if after < len(tokens) and previous == "ones" and 1 < value < 12 and tokens[after].low in _PARTS:
        part_word = tokens[after].low
        # "three quarters" may be coins, "three quarters of" and "three-quarters" are none
        coins = part_word == "quarters" and after == stop and not _of(tokens, after + 1)
        if part_word.endswith("s") and part_word != "halves" and value < _PARTS[part_word] and not coins:
            return Number(Fraction(value, _PARTS[part_word]), start, after + 1)
    return Number(Fraction(value), start, stop)
