"""Order: only statements that lean on nothing before them may change places.

A statement leans on others where it holds a pronoun, a word of sequence or of remainder ("then", "the rest", "left"), a
comparison, something that happens, a number without what it counts, or "the" thing that another one brings in. Moving
is refused too where a later statement holds a pronoun that could then point at somebody else. The two halves of
"if …, how many …?" may change places where the question, then read first, holds no pronoun.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from penstock.generators.items import Verdict
from penstock.generators.transforms.text import lemma, word_set
from penstock.generators.verification.base import Pair
from penstock.generators.verification.pairing import Pairing, pair_up
from penstock.generators.verification.reading import Mark, Statement
from penstock.generators.verification.undo import undo

# relations that a statement may hold and still stand alone
_ALONE = word_set(
    "each per cost price contain high low old young tall short long heavy light fast slow big small need age full empty"
)
_POINTING = word_set(
    "this that these those such so but and or then also too however therefore thus hence because while meanwhile it's "
    "there's if after before when otherwise either neither respectively former latter besides"
)
_COMPARING = word_set("more less")
_SINGULAR = frozenset(("he", "she", "it"))


@dataclass(frozen=True)
class Ordered:
    """The check of order: see the module."""

    name: str = "order"

    def check(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """One verdict for each pair; its detail quotes the statement that may not move."""
        return [Verdict(self.name, fault is None, fault or "") for fault in map(_fault, pairs)]


def _fault(pair: Pair) -> str | None:
    undone = undo(pair)
    if undone.fault is not None:
        return undone.fault
    found = pair_up(undone.original, undone.variant, pair.variant.kind == "rename")
    return misplaced(found)


def misplaced(found: Pairing) -> str | None:
    """Why the variant's order is not free to be other than the original's; None where it is."""
    turned = found.inversions()
    if not turned:
        return None
    statements = found.original.statements
    moved: set[int] = set()
    for i, j in turned:
        if _halves(statements[i], statements[j]):
            if (fault := _turned_question(found, i, j)) is not None:
                return fault
            continue
        moved |= {i, j}
    for place in sorted(moved):
        if (fault := leans(statements[place], found.before[place])) is not None:
            return fault
    if moved:
        return _pointed(found, moved) or _introduced([statements[place] for place in sorted(moved)])
    return None


def _halves(one: Statement, other: Statement) -> bool:
    return one.sentence == other.sentence and one.condition != other.condition


def _pronouns(row: Sequence[Mark]) -> set[str]:
    return {mark.value for mark in row if mark.kind == "pronoun"}


def _turned_question(found: Pairing, i: int, j: int) -> str | None:
    """Why "if A, B?" may not become "B if A?", or the other way round."""
    condition, question = (i, j) if found.original.statements[i].condition else (j, i)
    first, second = (question, condition) if condition < question else (condition, question)
    if condition < question and _pronouns(found.before[first]) - {"we", "you", "i"}:
        return f"the question holds a pronoun: {_quote(found.original.statements[question])}"
    if condition > question and _pronouns(found.before[first]) - {"we", "you", "i"}:
        return f"the condition holds a pronoun: {_quote(found.original.statements[condition])}"
    named = {mark.value for row in found.before for mark in row if mark.kind == "name"}
    if _pronouns(found.before[second]) & {"he", "she"} and len(named) > 1:
        return (
            f"a pronoun could point at another one of {len(named)} names: {_quote(found.original.statements[second])}"
        )
    return None


def leans(statement: Statement, row: Sequence[Mark]) -> str | None:
    """Why a statement means something only at its place; None where it stands alone."""
    quote = _quote(statement)
    if statement.asks or statement.condition:
        return f"a question or its condition moved: {quote}"
    compared = {"than", *_COMPARING} if _names_what_it_compares_with(row) else set()
    for at, mark in enumerate(row):
        if mark.kind in ("pronoun", "ordinal", "ask") or (
            mark.kind == "relation" and mark.value not in _ALONE and mark.value not in compared
        ):
            return f"{mark} leans on what comes before: {quote}"
        follows = row[at + 1] if at + 1 < len(row) else None
        if mark.kind == "number" and (follows is None or follows.kind not in ("thing", "unit")):
            return f"{mark} counts what was said before: {quote}"
    for low in statement.lows:
        if low in _POINTING:
            return f"{low!r} leans on what comes before: {quote}"
    return None


def _names_what_it_compares_with(row: Sequence[Mark]) -> bool:
    """Whether each "than" is followed by a name: "4 years older than Mary" means the same wherever it stands."""
    than = Mark("relation", "than")
    behind = [follows.kind for mark, follows in itertools.pairwise(row) if mark == than]
    return bool(behind) and behind == ["name"] * row.count(than)


def _pointed(found: Pairing, moved: set[int]) -> str | None:
    """Why a pronoun behind the moved statements could point at another than before."""
    for place in range(min(moved), len(found.before)):
        if place in moved:
            continue
        held = _pronouns(found.before[place])
        joined = any(mark == Mark("relation", "total") for mark in found.before[place])
        if held & _SINGULAR or ("they" in held and not joined):
            return f"its pronoun could point at another: {_quote(found.original.statements[place])}"
    return None


def _introduced(moved: Sequence[Statement]) -> str | None:
    """Why one moved statement needs another: it says "the" of what the other brings in with "a"."""
    for one in moved:
        bare = {lemma(low) for low in one.lows}
        for other in moved:
            if other is one:
                continue
            for article, low in zip(other.lows, other.lows[1:], strict=False):
                if article == "the" and lemma(low) in bare:
                    return f"'the {low}' leans on what comes before: {_quote(other)}"
    return None


def _quote(statement: Statement) -> str:
    return " ".join(statement.lows)[:100]
