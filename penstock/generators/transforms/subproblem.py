"""Sub-problem: one number of the question is hidden behind a letter, and an arithmetic condition yields it.

    Tom has 12 apples.  ->  N is the sum of 5 and 7. Tom has N apples.

The condition is generated from the number: a sum, a difference, a product or a quotient of whole numbers, in one of
several wordings. It speaks neither the hidden number nor the answer. Idea: MathForge's question reformulation (arXiv
2601.20614), which asks a model for an independent sub-problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penstock.generators.transforms.base import Edit, NotApplicable, Problem, Variant
from penstock.generators.transforms.editing import made, pick
from penstock.generators.transforms.text import Span, Token, not_prose, sentences, tokens, word_set

_LETTERS = "NKXMQWZV"
_SUMS = ("the sum of {0} and {1}", "{0} plus {1}", "{0} more than {1}", "the number you get when you add {0} to {1}")
_DIFFERENCES = (
    "the difference between {0} and {1}", "{0} minus {1}", "{1} less than {0}",
    "the number you get when you subtract {1} from {0}",
)  # fmt: skip
_PRODUCTS = ("the product of {0} and {1}", "{0} times {1}", "{0} multiplied by {1}")
_QUOTIENTS = ("the quotient of {0} and {1}", "{0} divided by {1}", "the result of dividing {0} by {1}")
_FORMS = ("{0} is {1}.", "Let {0} be {1}.", "Suppose {0} equals {1}.", "{0} stands for {1}.")
_LABELS = word_set(
    "day week grade room number level chapter page step figure question type part team year age class no"
)


@dataclass(frozen=True)
class Subproblem:
    """The transform: see the module.

    Args:
        largest: whole numbers above it are not hidden.
    """

    name: str = "subproblem"
    kind: str = "subproblem"
    largest: int = 100_000

    def apply(self, problem: Problem, stream: np.random.Generator) -> Variant | NotApplicable:
        if why := not_prose(problem.prompt):
            return NotApplicable(transform=self.name, reason=why)
        found = tokens(problem.prompt)
        spans = sentences(problem.prompt)
        places = [at for at in range(len(found)) if self._hideable(found, at)]
        letters = [letter for letter in _LETTERS if letter.lower() not in {token.low for token in found}]
        if not places or not letters:
            return NotApplicable(transform=self.name, reason="no whole number that a letter can stand for")
        token = found[pick(places, stream)]
        value = int(token.text.replace(",", ""))
        condition = _condition(value, problem.answer.strip().replace(",", ""), stream)
        letter = pick(letters, stream)
        meaning = pick(_FORMS, stream).format(letter, condition)
        first = int(stream.integers(2)) == 0
        start = _place(spans, token, first)
        edits = [Edit(start, start, meaning + " "), Edit(token.start, token.stop, letter)]
        facts = {"sub_answer": value, "symbol": letter, "condition": condition}
        return made(problem, edits, kind=self.kind, transform=self.name, facts=facts)

    def _hideable(self, found: Sequence[Token], at: int) -> bool:
        token = found[at]
        if token.kind != "n" or "." in token.text or (len(token.text) > 1 and token.text[0] == "0"):
            return False
        if not 2 <= int(token.text.replace(",", "")) <= self.largest:
            return False
        before = found[at - 1] if at else None
        after = found[at + 1] if at + 1 < len(found) else None
        if before is not None and (
            before.low in _LABELS or (before.stop == token.start and before.text not in "$€£(\"'“")
        ):
            return False
        if before is not None and before.kind == "s" and before.text in "+-*/=<>^×÷−":
            return False
        if after is None or after.kind == "n":
            return False
        return after.start > token.stop if after.kind != "s" else after.text in "%.,?!;)" and not _decimal(found, at)


def _decimal(found: Sequence[Token], at: int) -> bool:
    """Whether a sign and another number touch it: 3.5.2, 1,2, 5:30."""
    ahead = found[at + 1 : at + 3]
    return len(ahead) == 2 and ahead[1].kind == "n" and ahead[0].stop == ahead[1].start


def _place(spans: Sequence[Span], token: Token, first: bool) -> int:
    """Where the condition stands: before everything, or before the sentence that uses its letter."""
    if first:
        return spans[0].start
    return next(span.start for span in spans if span.start <= token.start < span.stop)


def _condition(value: int, answer: str, stream: np.random.Generator) -> str:
    """Arithmetic of two whole numbers that gives ``value``, neither of them ``value`` or the answer."""
    below, above = int(stream.integers(1, value)), value + int(stream.integers(2, max(12, value // 2)))
    factors = [factor for factor in range(2, min(value, 1000)) if value % factor == 0]
    divisor = int(stream.integers(2, 10))
    options: list[tuple[Sequence[str], int, int]] = [
        (_SUMS, below, value - below),
        (_DIFFERENCES, above, above - value),
        (_QUOTIENTS, value * divisor, divisor),
    ]
    if factors:
        factor = pick(factors, stream)
        options.append((_PRODUCTS, factor, value // factor))
    options = [options[i] for i in stream.permutation(len(options)).tolist()]
    free = [
        option for option in options if str(value) not in map(str, option[1:]) and answer not in map(str, option[1:])
    ]
    if not free:  # one of a few small numbers: a difference far enough off
        far = value + 101
        while answer in (str(far), "101"):
            far += 1
        free = [(_DIFFERENCES, far, far - value)]
    words, one, other = free[0]
    return pick(words, stream).format(one, other)
