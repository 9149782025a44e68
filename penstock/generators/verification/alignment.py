"""Operand alignment: every statement says the same of the same amounts.

The two questions are read as statements of marks (``reading``), after what the variant's kind may change is taken back
(``undo``). Every statement must find its partner with the same marks in the same order: numbers with their units and
what they count, who has them, comparatives, direction of what happens, quantifiers, pronouns, time and what is asked.
A renaming may exchange names and things by a map that is one to one over the whole question. A background may add
statements that carry no amount, nobody and nothing of the question, no pronoun and no relation but the time of day or
what things are like. Nothing else may be added or missing.

Price: for all checks without a model 0.5 to 1 ms a pair of questions of 50 words; the last 2,048 are kept read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.generators.items import Verdict
from penstock.generators.transforms.text import word_set
from penstock.generators.verification.base import Pair
from penstock.generators.verification.expressions import solution_of, value_of
from penstock.generators.verification.options import amount
from penstock.generators.verification.pairing import Pairing, pair_up
from penstock.generators.verification.reading import Mark, Text, read
from penstock.generators.verification.undo import undo


@dataclass(frozen=True)
class Aligned:
    """The check of operands: see the module."""

    name: str = "alignment"

    def check(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """One verdict for each pair; its detail names the first statement that has no partner."""
        return [Verdict(self.name, fault is None, fault or "") for fault in map(_fault, pairs)]


def _fault(pair: Pair) -> str | None:
    if solved(pair):
        return None
    undone = undo(pair)
    if undone.fault is not None:
        return undone.fault
    renaming = pair.variant.kind == "rename"
    found = pair_up(undone.original, undone.variant, renaming)
    if found.missing:
        return _unmatched(found)
    if found.added and pair.variant.kind != "background":
        return f"added: {_said(found.variant, found.added[0])}"
    for place in found.added:
        if (fault := _intrudes(found, place)) is not None:
            return fault
    return _bijection(found) if renaming else None


def solved(pair: Pair) -> bool:
    """Whether both sides are one and the same arithmetic: computed from either text, they give the answer.

    A variant in symbols may stand for a word problem too, where it uses no number that the problem does not hold.
    """
    problem, variant = pair
    if variant.kind != "format":
        return False
    answer = amount(problem.answer)
    if answer is None or amount(variant.answer) != answer:
        return False
    if len(read(variant.prompt).numbers) < 2:
        return False  # "What is 7?" tells the answer
    after = value_of(variant.prompt)
    if after is None:
        after = solution_of(variant.prompt)
    if after != answer:
        return False
    before = value_of(problem.prompt)
    if before is None:
        before = solution_of(problem.prompt)
    if before is not None:
        return before == answer
    return set(read(variant.prompt).numbers) <= set(read(problem.prompt).numbers)


def _unmatched(found: Pairing) -> str:
    """The first statement of the original that lost its partner, beside the one that looks most like it."""
    place = found.missing[0]
    marks = found.before[place]
    if not found.added:
        return f"missing: {_said(found.original, place)}"
    near = max(found.added, key=lambda j: len(set(marks) & set(found.after[j])))
    other = found.after[near]
    for i, mark in enumerate(marks):
        if i >= len(other) or other[i] != mark:
            return f"{mark} became {other[i] if i < len(other) else 'nothing'}: {_said(found.variant, near)}"
    return (
        f"added {other[len(marks)]}: {_said(found.variant, near)}" if len(other) > len(marks) else "statements differ"
    )


def _said(text: Text, place: int) -> str:
    statement = text.statements[place]
    return text.prompt[statement.tokens[0].start : statement.tokens[-1].stop][:120]


# relations of which a story may speak: the time of day, the season, what things are like
_SCENERY = word_set(
    "morning noon afternoon evening night spring summer autumn winter weekend warm cold cool hot old young big small "
    "long short tall early late near far now open inside out up down over under above back thin thick deep wide narrow"
)


def _intrudes(found: Pairing, place: int) -> str | None:
    """Why an added statement could change an amount; None where it cannot."""
    for mark in found.after[place]:
        known = mark.value in found.original.names or mark.value in found.original.things
        scenery = mark.kind == "relation" and mark.value in _SCENERY
        if known or not (scenery or mark.kind in ("name", "thing")):
            return f"the added {_said(found.variant, place)!r} speaks of {mark}"
    return None


def _bijection(found: Pairing) -> str | None:
    """Why names do not map one to one; None where they do."""
    forth: dict[Mark, Mark] = {}
    back: dict[Mark, Mark] = {}
    for i, j in found.pairs:
        for old, new in zip(found.before[i], found.after[j], strict=True):
            if forth.setdefault(old, new) != new:
                return f"{old} became {forth[old]} and {new}"
            if back.setdefault(new, old) != old:
                return f"{back[new]} and {old} both became {new}"
    return None
