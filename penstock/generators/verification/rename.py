"""Inverse rename: the map from new names back to old ones is read from the two texts and restores the original.

The texts are compared word by word. Wherever they differ, an old name became a new one; the map must be one to one
over the whole question, new names must be new (no capture: nobody, no word and no unit of the question may be called
so), and neither side may be a number, a unit, a pronoun, a day, a month or a word that relates amounts. Names stay in
their gender where the text says "he" or "she". Nothing else may differ but "a" and "an" before a renamed word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock.generators.items import Verdict
from penstock.generators.transforms.names import GENDERS
from penstock.generators.transforms.text import Token, base, lemma, tokens
from penstock.generators.verification.base import Pair
from penstock.generators.verification.numbers import ORDINALS, number_at
from penstock.generators.verification.relations import FUNCTION, PRONOUNS, RELATIONS, UNITS


@dataclass(frozen=True)
class Restored:
    """The check of a renaming: see the module. Other kinds pass; ``Aligned`` lets them rename nothing."""

    name: str = "rename"

    def check(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """One verdict for each pair; its detail names the word that breaks the map."""
        return [Verdict(self.name, fault is None, fault or "") for fault in map(_fault, pairs)]


def _fault(pair: Pair) -> str | None:
    problem, variant = pair
    if variant.kind != "rename":
        return None
    old, new = tokens(problem.prompt), tokens(variant.prompt)
    if len(old) != len(new):
        return f"{len(old)} words and signs became {len(new)}: more than names changed"
    forth: dict[str, str] = {}
    back: dict[str, str] = {}
    known = {word for token in old for word in (token.low, base(token.low), lemma(token.low)) if len(word) > 1}
    known |= {token.text for token in old if len(token.text) == 1}
    renamed = False
    for at, (a, b) in enumerate(zip(old, new, strict=True)):
        one, other = _name(a), _name(b)
        if a.low in ("a", "an") and b.low in ("a", "an"):
            if a.low != b.low and at + 1 < len(old) and old[at + 1].low == new[at + 1].low:
                return f"{a.text!r} became {b.text!r} before {old[at + 1].text!r}"
            continue
        if forth.setdefault(one, other) != other:
            return f"{a.text!r} became {forth[one]!r} and {other!r}"
        if back.setdefault(other, one) != one:
            return f"{back[other]!r} and {one!r} both became {b.text!r}"
        if one == other:
            if a.low != b.low:
                return f"{a.text!r} became {b.text!r}"
            continue
        renamed = True
        fault = _unfit(old, new, at) or ("stands in the original" if other in known else None)
        if fault is not None:
            return f"{a.text!r} became {b.text!r}: {fault}"
    if not renamed:
        return "nothing was renamed"
    letters = {letter for pair in forth.items() if pair[0] != pair[1] and len(pair[0]) == 1 for letter in pair}
    if letters & (left := _written_together(new)):
        return f"{min(letters & left)!r} also stands in a product or in the name of a line or an angle"
    return _told(variant.mapping, forth) or _gender(old, forth)


def _written_together(found: Sequence[Token]) -> set[str]:
    """Letters inside words of a formula (``ab``, ``ABC``), commands left out: a renaming cannot take one of them."""
    letters: set[str] = set()
    inside = False
    for at, token in enumerate(found):
        before = found[at - 1].text if at else ""
        if token.text == "$" and before != "$":  # "$$" opens or closes once
            inside = not inside
        elif before == "\\" and token.text in "([":
            inside = True
        elif before == "\\" and token.text in ")]":
            inside = False
        elif token.kind == "w" and len(token.low) > 1 and before != "\\" and (inside or token.text.isupper()):
            letters |= set(token.text)
    return letters


def _name(token: Token) -> str:
    if token.kind != "w":
        return token.low
    if len(token.low) == 1:
        return token.text  # x and X are two unknowns
    return base(token.low) if token.text[0].isupper() else lemma(token.low)


def _unfit(old: Sequence[Token], new: Sequence[Token], at: int) -> str | None:
    """Why this word may not become that one; None where it may."""
    a, b = old[at], new[at]
    if a.kind != "w" or b.kind != "w":
        return "only names can be renamed"
    for found in (old, new):
        low = base(found[at].low)
        if number_at(found, at) is not None or low in ORDINALS:
            return f"{low!r} is a number"
        if low in RELATIONS or low in PRONOUNS or low in FUNCTION or low in UNITS:
            return f"{low!r} is a word of the problem's structure"
    if a.text[0].isupper() != b.text[0].isupper():
        return "capitals differ"
    if (a.low != _stem(a)) != (b.low != _stem(b)):
        return "one is a possessive or a plural"
    return None


def _stem(token: Token) -> str:
    return token.low if token.text[0].isupper() and not token.low.endswith("'s") else lemma(token.low)


def _told(told: Mapping[str, str], forth: dict[str, str]) -> str | None:
    """Why the map that the transform states is not the one that the texts show."""
    stated = {(_folded(old), _folded(new)) for old, new in told.items()}
    read = {(_folded(old), _folded(new)) for old, new in forth.items() if old != new}
    if not stated:
        return None
    wrong = sorted(stated ^ read)
    return f"the stated map and the texts differ in {wrong[0][0]!r}" if wrong else None


def _folded(name: str) -> str:
    return name if len(name) == 1 else lemma(name.lower())


def _gender(old: Sequence[Token], forth: dict[str, str]) -> str | None:
    """Why a pronoun would no longer fit a renamed person."""
    said = {PRONOUNS[token.low] for token in old if token.low in ("he", "him", "his", "she", "her", "hers")}
    if not said:
        return None
    for one, other in forth.items():
        a, b = GENDERS.get(one), GENDERS.get(other)
        if one != other and a and b and a != b and "u" not in (a, b):
            return f"{one!r} became {other!r}, who is not of the same gender"
    return None
