"""Presentation: numbers and units written another way, their values as they were.

``5 apples`` and ``five apples``, ``$5`` and ``5 dollars``, ``20%`` and ``20 percent``, ``1000`` and ``1,000``,
``5 kg`` and ``5 kilograms``. Numbers that name something (Room 5, day 3, the year 1995), that are part of a formula or
a ratio, or whose neighbours would read wrongly are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penstock.generators.transforms.base import Edit, NotApplicable, Problem, Variant
from penstock.generators.transforms.editing import cased, made
from penstock.generators.transforms.text import Token, not_prose, sentences, tokens, word_set

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_VALUES = {word: value for value, word in enumerate(_ONES)} | {word: 20 + 10 * i for i, word in enumerate(_TENS)}
# a number behind one of these names something
_LABELS = word_set(
    "day week grade room number level chapter page step figure question type part team year age class group house "
    "route apartment gate line section version lane floor problem exercise no"
)
# words behind an amount of money that it does not describe: "$5 each", but not "$5 bill"
_FREE = word_set(
    "each per for on in to from a an and or more less at by every if when while as with but he she they how of is was "
    "then after before left total altogether"
)
_SHORT = {
    "kg": ("kilogram", "kilograms"), "lb": ("pound", "pounds"), "lbs": ("pound", "pounds"), "oz": ("ounce", "ounces"),
    "cm": ("centimeter", "centimeters"), "km": ("kilometer", "kilometers"), "mm": ("millimeter", "millimeters"),
    "ml": ("milliliter", "milliliters"), "ft": ("foot", "feet"), "mph": ("mile per hour", "miles per hour"),
}  # fmt: skip
_GLUED = frozenset("/:×*+=^<>_\\{}#.")


@dataclass(frozen=True)
class Presentation:
    """The transform: see the module. One style is changed wherever it stands, and others along with it at random."""

    name: str = "presentation"
    kind: str = "format"

    def apply(self, problem: Problem, stream: np.random.Generator) -> Variant | NotApplicable:
        if why := not_prose(problem.prompt):
            return NotApplicable(transform=self.name, reason=why)
        found = tokens(problem.prompt)
        starts = {span.start for span in sentences(problem.prompt)}
        by_style: dict[str, list[Edit]] = {}
        for at in range(len(found)):
            for style, edit in _at(found, at, starts):
                by_style.setdefault(style, []).append(edit)
        if not by_style:
            return NotApplicable(transform=self.name, reason="no number or unit that can be written another way")
        styles = sorted(by_style)
        first = int(stream.integers(len(styles)))
        chosen: list[Edit] = []
        for style in (
            styles[first],
            *(style for i, style in enumerate(styles) if i != first and stream.random() < 0.5),
        ):
            for edit in by_style[style]:
                if all(edit.stop <= other.start or other.stop <= edit.start for other in chosen):
                    chosen.append(edit)
        return made(problem, chosen, kind=self.kind, transform=self.name)


def spelled(value: int) -> str:
    """0 to 99 in words.

    Raises:
        ValueError: it is none of these.
    """
    if not 0 <= value < 100:
        raise ValueError(f"value: got {value}, allowed 0 to 99")
    if value < 20:
        return _ONES[value]
    return _TENS[value // 10 - 2] + (f"-{_ONES[value % 10]}" if value % 10 else "")


def _at(found: Sequence[Token], at: int, starts: set[int]) -> list[tuple[str, Edit]]:
    """What can be done with the number that stands here, by style."""
    token = found[at]
    before = found[at - 1] if at else None
    after = found[at + 1] if at + 1 < len(found) else None
    if token.kind == "n":
        return _digits(found, at, before, after, starts)
    if token.low in _VALUES and token.low not in ("zero", "one") and token.start not in starts:
        return _words(found, at, before)
    return []


def _digits(
    found: Sequence[Token], at: int, before: Token | None, after: Token | None, starts: set[int]
) -> list[tuple[str, Edit]]:
    token = found[at]
    out: list[tuple[str, Edit]] = []
    tight_before = before is not None and before.stop == token.start
    tight_after = after is not None and after.start == token.stop
    if (before is not None and before.text in _GLUED and tight_before) or (
        after is not None
        and (after.text in _GLUED - {"."} or (after.text == "." and _digit(found, at + 2, after.stop)))
    ):
        return out
    if (
        before is not None
        and (before.text in "*+=^<>×÷-−(" or before.kind == "n")
        and not (before.text == "(" and after is not None and after.kind == "w")
    ):
        return out
    if before is not None and before.text == "$":
        return _money(found, at, after)
    if before is not None and before.text in "€£¥":
        return out
    if after is not None and after.text == "%" and tight_after:
        out.append(("percent", Edit(after.start, after.stop, " percent")))
        return out
    whole = token.text.isdigit()
    if whole and len(token.text) >= 4 and not 1800 <= int(token.text) <= 2100 and token.text[0] != "0":
        out.append(("thousands", Edit(token.start, token.stop, f"{int(token.text):,}")))
    elif "," in token.text:
        out.append(("thousands", Edit(token.start, token.stop, token.text.replace(",", ""))))
    if after is None or after.kind != "w" or (tight_after and after.low not in _SHORT):
        return out
    if after.low in _SHORT:
        name = _SHORT[after.low][token.text != "1"]
        space = " " if tight_after else ""
        stop = after.stop + (at + 2 < len(found) and found[at + 2].text == "." and not _ends(found, at + 2))
        out.append(("unit", Edit(after.start, stop, space + name)))
        return out
    if after.low in ("percent", "dollars") and not tight_after:
        if after.low == "percent":
            out.append(("percent", Edit(token.stop, after.stop, "%")))
        elif before is None or before.text != "-":
            out.append(("money", Edit(token.start, after.stop, f"${token.text}")))
        return out
    label = before is not None and (before.low in _LABELS or (before.text[0].isupper() and before.start not in starts))
    clock = after.low in ("am", "pm", "a", "p", "o'clock", "million", "billion", "thousand", "hundred", "dozen")
    if whole and not label and not clock and int(token.text) < 100 and (token.text == "0" or token.text[0] != "0"):
        word = spelled(int(token.text))
        out.append(("words", Edit(token.start, token.stop, cased(word, "A") if token.start in starts else word)))
    return out


def _money(found: Sequence[Token], at: int, after: Token | None) -> list[tuple[str, Edit]]:
    token, sign = found[at], found[at - 1]
    if at > 1 and found[at - 2].low in ("a", "an"):
        return []
    if after is not None and (after.start == token.stop and after.text not in ".,?!;)"):
        return []
    if after is not None and after.kind == "w" and after.low not in _FREE:
        return []
    if after is not None and after.kind == "n":
        return []
    name = "dollar" if token.text == "1" else "dollars"
    return [("money", Edit(sign.start, token.stop, f"{token.text} {name}"))]


def _digit(found: Sequence[Token], at: int, touching: int) -> bool:
    return at < len(found) and found[at].kind == "n" and found[at].start == touching


def _ends(found: Sequence[Token], at: int) -> bool:
    """Whether the full stop here ends the sentence: nothing follows, or a capital does."""
    return at + 1 >= len(found) or found[at + 1].text[0].isupper()


def _words(found: Sequence[Token], at: int, before: Token | None) -> list[tuple[str, Edit]]:
    """A number in words as digits: one word, or tens and ones with a hyphen."""
    token = found[at]
    if before is not None and (
        before.low in _VALUES or before.text == "-" or before.low in ("hundred", "thousand", "and")
    ):
        return []
    value, last = _VALUES[token.low], at
    if (
        value >= 20
        and at + 2 < len(found)
        and found[at + 1].text == "-"
        and _VALUES.get(found[at + 2].low, 0) in range(1, 10)
    ):
        value, last = value + _VALUES[found[at + 2].low], at + 2
    after = found[last + 1] if last + 1 < len(found) else None
    if after is not None and (after.text == "-" or after.kind == "n" or after.low in _AFTER):
        return []
    return [("digits", Edit(token.start, found[last].stop, str(value)))]


_AFTER = word_set(
    "hundred thousand million billion dozen third thirds fourth fourths quarter quarters fifth fifths sixth sixths "
    "half halves eighth eighths tenth tenths and"
) | frozenset(_VALUES)
