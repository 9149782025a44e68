"""Structure: a question is still there, its numbers are the same, its answer is of the same kind and is not told.

Numbers are compared as exact multisets after what the variant's kind may change is taken back: options are cut off, the
sub-answer of a sub-problem stands where its symbol does. The answer itself must be the original's (a letter of a
multiple choice must point at it).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from penstock.generators.items import Verdict
from penstock.generators.transforms.text import folded
from penstock.generators.verification.alignment import solved
from penstock.generators.verification.base import Pair
from penstock.generators.verification.options import amount, answer_type, options_of, same_answer
from penstock.generators.verification.reading import read
from penstock.generators.verification.undo import Undone, undo

_TELLS = re.compile(
    r"\b(?:the|final|correct|right|its|result|answer)\s+(?:final\s+|correct\s+|right\s+)?(?:answer|solution|result)\s*"
    r"(?:is|=|:|equals|will be|would be|comes to)|\banswer\s*:|\bhint\b|####|\\boxed",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Structural:
    """The check of structure: see the module."""

    name: str = "structural"

    def check(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """One verdict for each pair; its detail says what is not as it was."""
        return [Verdict(self.name, fault is None, fault or "") for fault in map(_fault, pairs)]


def _fault(pair: Pair) -> str | None:
    problem, variant = pair
    if not variant.prompt.strip():
        return "the question is empty"
    if not variant.answer.strip():
        return "the answer is empty"
    before, after = folded(problem.prompt), folded(variant.prompt)
    if before == after:
        return "a copy of the original"
    undone = undo(pair)
    if undone.fault is not None:
        return undone.fault
    if variant.kind in ("paraphrase", "rename") and f" {before} " in f" {after} ":
        return "the original with something before or behind it"
    before_asks = [s for s in read(problem.prompt).statements if s.asks]
    if before_asks and not any(statement.asks for statement in read(variant.prompt).statements):
        return "it asks nothing"
    return _told(pair) or _answers(pair) or (None if solved(pair) else _numbers(pair, undone))


def _told(pair: Pair) -> str | None:
    problem, variant = pair
    hit = _TELLS.search(variant.prompt)
    if hit is not None and not _TELLS.search(problem.prompt):
        return f"it tells an answer: {hit[0]!r}"
    return None


def _answers(pair: Pair) -> str | None:
    problem, variant = pair
    if (options_of(problem.prompt) is None) != (options_of(variant.prompt) is None):
        return None  # undo compared them
    if variant.kind == "rename" and answer_type(problem.answer) == "text":
        return None  # the answer may hold what was renamed
    if answer_type(problem.answer) != answer_type(variant.answer):
        return f"the answer was {answer_type(problem.answer)}, is {answer_type(variant.answer)}"
    if not same_answer(problem.answer, variant.answer):
        return f"the answer was {problem.answer!r}, is {variant.answer!r}"
    return None


def _numbers(pair: Pair, undone: Undone) -> str | None:
    before = Counter(read(undone.original).numbers)
    after = Counter(read(undone.variant).numbers)
    if before != after:
        lost, gained = _list(before - after), _list(after - before)
        return f"numbers lost: {lost}; numbers gained: {gained}"
    answer = amount(pair.problem.answer)
    if answer is not None and answer in undone.spoken and answer not in before:
        return "the sub-problem speaks the answer"
    return None


def _list(found: Counter[Fraction]) -> str:
    return ", ".join(str(value) for value in sorted(found.elements())) or "none"
