"""Arithmetic in symbols or in words, read and computed exactly: ``(5 + 3) * 2``, ``the sum of 5 and 3``.

An expression may hold one unknown, of first degree: values are ``a * unknown + b`` with exact fractions. What the
grammar does not know is no expression; nothing is guessed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from penstock.generators.transforms.text import Token, tokens
from penstock.generators.verification.numbers import number_at

_SUMS = {"+": 1, "plus": 1, "-": -1, "−": -1, "minus": -1}
_PAIRS = {"sum": "+", "difference": "-", "product": "*", "quotient": "/"}
_VERBS = {"add": "+", "adding": "+", "subtract": "-", "subtracting": "-", "multiply": "*", "multiplying": "*",
          "divide": "/", "dividing": "/"}  # fmt: skip
_LEAD = frozenset(
    (
        "what",
        "is",
        "what's",
        "calculate",
        "compute",
        "evaluate",
        "find",
        "determine",
        "the",
        "value",
        "of",
        "work",
        "out",
    )
)
_MOST = 150  # words and signs of a question that is nothing but arithmetic
_BEFORE = frozenset((":", "if", "that", "when", "equation", "solve", "suppose", "given", "let"))


@dataclass(frozen=True)
class Linear:
    """``slope * unknown + constant``."""

    slope: Fraction
    constant: Fraction
    unknown: str = ""

    def __add__(self, other: Linear) -> Linear:
        return Linear(self.slope + other.slope, self.constant + other.constant, _one(self, other))

    def scaled(self, factor: Fraction) -> Linear:
        return Linear(self.slope * factor, self.constant * factor, self.unknown)


class _NoExpressionError(Exception):
    """The text is none."""


def _one(one: Linear, other: Linear) -> str:
    if one.unknown and other.unknown and one.unknown != other.unknown:
        raise _NoExpressionError
    return one.unknown or other.unknown


@functools.lru_cache(maxsize=512)
def value_of(text: str) -> Fraction | None:
    """The value of an expression without an unknown, with or without "What is …?" round it; None for other text."""
    found = _expression(text)
    return found.constant if found is not None and not found.slope else None


@functools.lru_cache(maxsize=512)
def solution_of(text: str) -> Fraction | None:
    """The unknown of a linear equation, in symbols or words; None for other text and where it is not determined."""
    found = [token for token in tokens(text) if token.low not in ("?", ",", ".", ";")]
    if len(found) > _MOST:
        return None
    for at, token in enumerate(found):
        if token.low not in ("=", "equals", "is"):
            continue
        after = at + 1
        if token.low == "is" and [one.low for one in found[after : after + 2]] == ["equal", "to"]:
            after += 2
        for start in range(at):
            if start and found[start - 1].low not in _BEFORE:
                continue
            left, right = _whole(found[start:at]), _longest(found[after:])
            if left is None or right is None:
                continue
            try:
                zero = left + right.scaled(Fraction(-1))
            except _NoExpressionError:
                continue
            if zero.slope:
                return -zero.constant / zero.slope
    return None


def _expression(text: str) -> Linear | None:
    found = list(tokens(text))
    if len(found) > _MOST:
        return None
    while found and (found[-1].text in "?.=!" or found[-1].text == "_"):
        found.pop()
    for at, token in enumerate(found):  # "State the final answer to the following problem: 3 + 4"
        if token.text == ":":
            found = found[at + 1 :]
            break
    start = 0
    while True:
        value = _whole(found[start:])
        if value is not None:
            return value
        if start >= len(found) or found[start].low not in _LEAD:
            return None
        start += 1


def _whole(found: Sequence[Token]) -> Linear | None:
    reader = _Reader(found)
    try:
        value = reader.sum()
    except (_NoExpressionError, ZeroDivisionError, IndexError):
        return None
    return value if reader.at == len(found) else None


def _longest(found: Sequence[Token]) -> Linear | None:
    """The expression that ``found`` begins with."""
    reader = _Reader(found)
    try:
        return reader.sum()
    except (_NoExpressionError, ZeroDivisionError, IndexError):
        return None


class _Reader:
    """A recursive-descent reader over tokens."""

    def __init__(self, found: Sequence[Token]) -> None:
        self.found = found
        self.at = 0
        self._depth = 0

    def _low(self, ahead: int = 0) -> str:
        place = self.at + ahead
        return self.found[place].low if place < len(self.found) else ""

    def _take(self, *words: str) -> bool:
        if all(self._low(ahead) == word for ahead, word in enumerate(words)):
            self.at += len(words)
            return True
        return False

    def sum(self) -> Linear:
        value = self._term()
        while self._low() in _SUMS:
            sign = _SUMS[self._low()]
            self.at += 1
            value = value + self._term().scaled(Fraction(sign))
        return value

    def _term(self) -> Linear:
        value = self._factor()
        while True:
            if self._take("*") or self._take("×") or self._take("times") or self._take("multiplied", "by"):
                value = _apply("*", value, self._factor())
            elif self._take("/") or self._take("÷") or self._take("divided", "by"):
                value = _apply("/", value, self._factor())
            else:
                return value

    def _factor(self) -> Linear:
        self._depth += 1
        if self._depth > 50:
            raise _NoExpressionError
        try:
            return self._inner()
        finally:
            self._depth -= 1

    def _inner(self) -> Linear:
        if self._take("(") or self._take("["):
            value = self.sum()
            if not (self._take(")") or self._take("]")):
                raise _NoExpressionError
            return value
        if self._take("-") or self._take("−"):
            return self._factor().scaled(Fraction(-1))
        if self._take("negative") or self._take("minus"):
            return self._factor().scaled(Fraction(-1))
        self._take("the")
        for head in (("number", "you", "get", "when", "you"), ("number", "you", "get", "if", "you"), ("result", "of")):
            if self._take(*head):
                return self._operation()
        if self._low() in _PAIRS:
            sign = _PAIRS[self._low()]
            self.at += 1
            if not (self._take("of") or self._take("between")):
                raise _NoExpressionError
            one = self._factor()
            if not self._take("and"):
                raise _NoExpressionError
            return _apply(sign, one, self._factor())
        if self._take("half", "of") or self._take("half"):
            return self._factor().scaled(Fraction(1, 2))
        return self._number()

    def _operation(self) -> Linear:
        """``add 3 to 5``, ``subtract 3 from 5``, ``multiply 3 by 5``, ``divide 6 by 3``."""
        verb = _VERBS.get(self._low())
        if verb is None:
            raise _NoExpressionError
        self.at += 1
        one = self._factor()
        joined = self._low()
        self.at += 1
        other = self._factor()
        if joined not in {"+": ("to", "and"), "-": ("from",), "*": ("by", "and"), "/": ("by",)}[verb]:
            raise _NoExpressionError
        return _apply("-", other, one) if verb == "-" else _apply(verb, one, other)

    def _number(self) -> Linear:
        if self.at >= len(self.found):
            raise _NoExpressionError
        number = number_at(self.found, self.at)
        if number is None:
            token = self.found[self.at]
            if token.kind == "w" and len(token.low) == 1:
                self.at += 1
                return Linear(Fraction(1), Fraction(0), token.low)
            raise _NoExpressionError
        self.at = number.stop
        value = Linear(Fraction(0), number.value)
        if number.times:
            return _apply("*", value, self._factor())
        if self._take("more", "than"):
            return self._factor() + value
        if self._take("less", "than"):
            return self._factor() + value.scaled(Fraction(-1))
        if self._take("times"):
            return _apply("*", value, self._factor())
        # 3x
        following = self.found[self.at] if self.at < len(self.found) else None
        letter = following is not None and following.kind == "w" and len(following.low) == 1
        if following is not None and letter and self.found[self.at - 1].stop == following.start:
            self.at += 1
            return Linear(number.value, Fraction(0), following.low)
        return value


def _apply(sign: str, one: Linear, other: Linear) -> Linear:
    if sign == "+":
        return one + other
    if sign == "-":
        return one + other.scaled(Fraction(-1))
    if sign == "*":
        if one.slope and other.slope:
            raise _NoExpressionError
        return other.scaled(one.constant) if other.slope else one.scaled(other.constant)
    if other.slope:
        raise _NoExpressionError
    return one.scaled(1 / other.constant)
