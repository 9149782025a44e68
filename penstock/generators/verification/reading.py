"""A question as statements of marks: numbers, units, things counted, people, pronouns, and words that relate amounts.

    "Tom has 5 red apples."  ->  name tom · number 5 · thing red · thing apple

Two texts state the same where their statements carry the same marks in the same order; all other words are free. What
is a name or a counted thing is read from the texts themselves: a name is capitalised inside a sentence somewhere, a
thing stands behind a number or behind "how many" somewhere. Every occurrence of it is then a mark.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from penstock.generators.transforms.text import Token, base, lemma, sentences, tokens_of, word_set
from penstock.generators.verification.numbers import ORDINALS, WORDS, number_at
from penstock.generators.verification.relations import (
    PLAIN,
    PRONOUNS,
    RELATIONS,
    SHORT_UNITS,
    SIGNS,
    UNITS,
)

_ASK_COUNT = frozenset(("number", "amount", "quantity"))
_ORDERS = frozenset(("calculate", "find", "determine", "compute", "evaluate", "solve", "express", "simplify"))
_QUESTION = frozenset(("what", "which", "who", "whose", "whom", "when", "where", "why", "how"))
_OPENING = word_set("suppose supposing assume assuming imagine consider given note however yet next plenty")
_AROUND = frozenset("$\\{}|_")
_OPERATORS = frozenset("+=<>*×÷^≤≥≠±√")


class Mark(NamedTuple):
    """One thing that a variant must keep.

    Attributes:
        kind: ``number``, ``unit``, ``thing``, ``name``, ``pronoun``, ``relation``, ``ordinal``, ``ask``, ``sign``.
    """

    kind: str
    value: str

    def __str__(self) -> str:
        return f"{self.kind} {self.value}"


@dataclass(frozen=True)
class Statement:
    """A sentence, or one of the two halves of "if …, how many …?".

    Attributes:
        sentence: the place of its sentence in the text.
        asks: it is the half that asks, or a whole question.
        condition: it is the half that says "if …".
    """

    tokens: tuple[Token, ...]
    sentence: int
    asks: bool = False
    condition: bool = False

    @functools.cached_property
    def lows(self) -> tuple[str, ...]:
        """Its folded words and numbers."""
        return tuple(token.low for token in self.tokens if token.kind != "s" or token.low in SIGNS)


@dataclass(frozen=True)
class Text:
    """A question, read.

    Attributes:
        names: folded words that are capitalised inside a sentence somewhere.
        things: singulars of the words that are counted somewhere.
    """

    prompt: str
    statements: tuple[Statement, ...]
    names: frozenset[str]
    things: frozenset[str]

    @functools.cached_property
    def words(self) -> frozenset[str]:
        """All its folded words, without possessives."""
        return frozenset(base(token.low) for statement in self.statements for token in statement.tokens)

    @functools.cached_property
    def numbers(self) -> tuple[Fraction, ...]:
        """All numbers in the order of the text."""
        found = []
        for statement in self.statements:
            at = 0
            while at < len(statement.tokens):
                number = None if _free(statement.tokens[at].low) else number_at(statement.tokens, at)
                if number is None:
                    at += 1
                else:
                    found.append(number.value)
                    at = number.stop
        return tuple(found)


@functools.lru_cache(maxsize=2048)
def read(prompt: str) -> Text:
    """Read a question once; the same text is not read again soon."""
    statements: list[Statement] = []
    names: set[str] = set()
    things: set[str] = set()
    for index, span in enumerate(sentences(prompt)):
        found = tokens_of(prompt, span)
        if all(token.kind == "s" for token in found):
            continue  # a line that only closes a formula
        statements += _halves(found, index)
        _collect(found, names, things)
    return Text(prompt, tuple(statements), frozenset(names), frozenset(things))


def _halves(found: tuple[Token, ...], index: int) -> list[Statement]:
    """A sentence as one statement, or as its condition and its question."""
    lows = [token.low for token in found]
    asks = "?" in lows[-3:] or lows[0] in _ORDERS
    if lows[0] == "if":
        for at in range(len(lows) - 1, 1, -1):
            if lows[at - 1] == "," and (base(lows[at]) in _QUESTION or lows[at] in _ORDERS):
                return [
                    Statement(found[: at - 1], index, condition=True),
                    Statement(found[at:], index, asks=True),
                ]
    elif asks and "if" in lows[2:]:
        at = lows.index("if", 2)
        head = found[: at - 1] if lows[at - 1] == "," else found[:at]
        if lows.count("if") == 1:
            return [Statement(head, index, asks=True), Statement(found[at:], index, condition=True)]
    return [Statement(found, index, asks=asks)]


def _collect(found: Sequence[Token], names: set[str], things: set[str]) -> None:
    """Add the names and the counted things of one sentence."""
    counting = 0  # how many words behind the number may still belong to what it counts
    at = 0
    begun = False
    while at < len(found):
        token = found[at]
        number = None if _free(token.low) else number_at(found, at)
        if number is not None:
            counting, at, begun = 3, number.stop, True
            continue
        if token.kind != "w":
            counting = counting if token.text == "-" else 0
            at += 1
            continue
        low = base(token.low)
        known = low in RELATIONS or low in PRONOUNS or low in PLAIN or low in UNITS or low in ORDINALS
        unknown = not known and len(low) > 1 and low not in _QUESTION and low not in _ORDERS
        if unknown and token.text[0].isupper() and (begun or not _opens(found, at)):
            names.add(low)
        begun = True
        if low in ("many", "more", "fewer", "less", "number") or (low == "of" and counting == 3):
            counting = 3
        elif known and not (counting and low in UNITS):
            counting = 0
        elif counting:
            if low not in UNITS and len(low) > 1:
                things.add(lemma(low))
            counting -= 1
        at += 1


def _opens(found: Sequence[Token], at: int) -> bool:
    """Whether the first word of a sentence only opens it ("Unfortunately, he …", "Suppose that …") and names nobody."""
    if found[at].low in _OPENING:
        return True
    comma = at + 1 < len(found) and found[at + 1].text == ","
    return comma and at + 2 < len(found) and not found[at + 2].text[0].isupper()


@functools.lru_cache(maxsize=16384)
def _free(low: str) -> bool:
    """Whether a folded word begins no number and carries no mark, unless it is a name or a thing of the text."""
    tables = (WORDS, RELATIONS, PRONOUNS, UNITS, ORDINALS, _QUESTION, _ORDERS, ("in", "per"))
    return len(low) > 1 and low.isalpha() and not low.endswith(("er", "est")) and not any(low in t for t in tables)


def marks(statement: Statement, names: frozenset[str], things: frozenset[str]) -> tuple[Mark, ...]:
    """The marks of a statement in the order of the text; ``names`` and ``things`` come from all texts compared."""
    found = statement.tokens
    out: list[Mark] = []
    at = 0
    sign: Mark | None = None  # of money, written before its number, read after it
    while at < len(found):
        token = found[at]
        if _free(token.low) and not (token.low in names or lemma(token.low) in things or _command(found, at)):
            at += 1
            continue
        number = number_at(found, at)
        if number is not None:
            out.append(Mark("number", str(number.value)))
            if number.times:
                out.append(Mark("relation", "times"))
            if sign is not None:
                out.append(sign)
                sign = None
            at = number.stop
            short = found[at].low if at < len(found) else ""
            if short in SHORT_UNITS and not _in_formula(found, at):
                out.append(Mark("unit", SHORT_UNITS[short]))
                at += 1
            continue
        at += 1
        low = token.low
        if token.kind != "w":
            if low in SIGNS:
                unit = Mark("unit", SIGNS[low])
                if low not in "%°¢" and at < len(found) and found[at].kind == "n":
                    sign = unit
                else:
                    out.append(unit)
            elif low in _OPERATORS or (low == "-" and _minus(found, at - 1)):
                out.append(Mark("sign", {"×": "*", "÷": "/"}.get(low, low)))
            elif low == "/":
                out.append(Mark("relation", "per"))
            continue
        at += _word(found, at - 1, names, things, out)
    return tuple(out)


def _minus(found: Sequence[Token], at: int) -> bool:
    """A hyphen that is a minus sign: space before it, or a number right behind it and no word right before."""
    before = found[at - 1] if at else None
    after = found[at + 1] if at + 1 < len(found) else None
    touches = before is not None and before.stop == found[at].start
    return after is not None and (not touches or (before is not None and before.text in "(=")) and after.kind != "s"


def _word(found: Sequence[Token], at: int, names: frozenset[str], things: frozenset[str], out: list[Mark]) -> int:
    """Add the marks of one word; returns how many further tokens it used."""
    token = found[at]
    low = base(token.low)
    if _command(found, at):
        out.append(Mark("sign", token.text))
        return 0
    following = found[at + 1].low if at + 1 < len(found) else ""
    if token.low.endswith("n't"):
        out.append(Mark("relation", "not"))
        return 0
    if "'" in low:  # they've, she'll
        low = low.partition("'")[0]
    if low == "how":
        out.append(Mark("ask", "amount" if following in ("many", "much") else "how"))
        return 1 if following in ("many", "much") else 0
    if low in ("what", "which") and following in _ASK_COUNT and at + 2 < len(found) and found[at + 2].low == "of":
        out.append(Mark("ask", "amount"))
        return 2
    if low in ("what", "which") and following in ("distance", "length"):
        out.append(Mark("ask", "how"))
        out.append(Mark("relation", "far" if following == "distance" else "long"))
        return 1
    if low in _QUESTION:
        if low not in ("when", "where", "which", "who", "whose", "whom"):
            out.append(Mark("ask", low))
        return 0
    if at == 0 and low in _ORDERS:
        out.append(Mark("ask", "what"))
        return 0
    if low == "in" and (following == "total" or (following == "all" and _closes(found, at + 2))):
        out.append(Mark("relation", "total"))
        return 1
    if low in PRONOUNS and (len(low) > 1 or not _in_formula(found, at)):
        out.append(Mark("pronoun", PRONOUNS[low]))
    elif len(low) == 1 and (low not in "ai" or _in_formula(found, at)):
        out.append(Mark("name", token.text))  # x and X are two unknowns
    elif low == "per" and following == "cent":
        out.append(Mark("unit", "percent"))
        return 1
    elif low == "mph":
        out += [Mark("unit", "mile"), Mark("relation", "per"), Mark("unit", "hour")]
    elif low in UNITS:
        unit = UNITS[low]
        # "the second day" is an ordinal, "30 seconds" and "per second" are a unit
        timed = at > 0 and (found[at - 1].low in ("per", "-", "a", "each", "every") or _ended(found, at))
        out.append(Mark("ordinal", low) if low == "second" and not timed else Mark("unit", unit))
    elif low in names:
        out.append(Mark("name", low))
    elif lemma(low) in things:
        out.append(Mark("thing", lemma(low)))
    elif low in RELATIONS:
        out.append(Mark("relation", RELATIONS[low]))
    elif low in ORDINALS:
        out.append(Mark("ordinal", low))
    elif (low.endswith("est") and at and found[at - 1].low == "the") or (low.endswith("er") and following == "than"):
        out.append(Mark("relation", low))
    return 0


def _command(found: Sequence[Token], at: int) -> bool:
    """Whether the word is a command of a formula: \\leq, \\sqrt."""
    return at > 0 and found[at - 1].text == "\\"


def _closes(found: Sequence[Token], at: int) -> bool:
    """Whether a clause ends here: "in all?", but not "in all the boxes"."""
    return at >= len(found) or found[at].kind == "s" or found[at].low == "and"


def _in_formula(found: Sequence[Token], at: int) -> bool:
    """Whether an operator stands beside the letter, or a bracket or a dollar sign of a formula touches it."""
    token = found[at]
    before = found[at - 1] if at else None
    after = found[at + 1] if at + 1 < len(found) else None
    return (
        before is not None
        and (before.text in _OPERATORS or (before.text in _AROUND and before.stop == token.start))
    ) or (
        after is not None and (after.text in _OPERATORS or (after.text in _AROUND and after.start == token.stop))
    )  # fmt: skip


def _ended(found: Sequence[Token], at: int) -> bool:
    """Whether a number ends right before this token."""
    return any(
        (number := number_at(found, start)) is not None and number.stop == at for start in range(max(0, at - 4), at)
    )
