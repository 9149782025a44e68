"""What of a statement's marks decides: wording that a writer is free in is taken out or made alike.

- Words that only say when, where the order of statements says it already (``then``, ``now``, ``after``), "starts with"
  in a statement and "in total" in a question. Their opposites (``before``, ``ends``, ``average``) stay marks, so that
  none can turn into one.
- "he" or "she" is the one person of the question where nobody else is in it, so that a name and its pronoun are alike.
- The order of marks inside a question that holds no number and compares nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock.generators.transforms.text import word_set
from penstock.generators.verification.reading import Mark, Statement, Text

Rows = Sequence[Sequence[Mark]]

_WHEN = frozenset(("then", "now", "after", "still", "already"))
_FIRST = frozenset(("begin", "initial"))  # free in a statement; a question can ask for what there was at first
_PERSONS = frozenset(("he", "she"))
# somebody without a name, at whom a pronoun could point
_PEOPLE = word_set(
    "mother mom mommy mum father dad daddy grandmother grandma grandfather grandpa brother brothers sister sisters son "
    "sons daughter daughters uncle aunt cousin cousins friend friends wife husband boy girl man woman teacher neighbor "
    "neighbour boss partner roommate classmate customer child baby student coach doctor nurse son nephew niece"
)


def only_person(one: Text, other: Text, rows: Rows, others: Rows) -> Mark | None:
    """The mark of the one person whom both texts name, where every "he" and "she" must be that person; else None."""
    names = {name for name in one.names | other.names if len(name) > 1}
    if len(names) != 1 or (one.words | other.words) & _PEOPLE:
        return None
    said, told = _pronouns(rows), _pronouns(others)
    if len(said | told) > 1 or (said and told and said != told):
        return None
    return Mark("name", names.pop())


def _pronouns(rows: Rows) -> set[str]:
    return {mark.value for row in rows for mark in row if mark.kind == "pronoun"} & _PERSONS


def essence(statement: Statement, row: Sequence[Mark], person: Mark | None) -> tuple[Mark, ...]:
    """The marks that decide, in the order of the text."""
    kept = []
    for mark in row:
        free = mark.value in _WHEN or (mark.value == "total" if statement.asks else mark.value in _FIRST)
        if mark.kind == "relation" and free:
            continue
        kept.append(person if person is not None and mark.kind == "pronoun" and mark.value in _PERSONS else mark)
    return tuple(kept)


def key(statement: Statement, row: tuple[Mark, ...]) -> tuple[Mark, ...]:
    """What statements are compared by: the row, or its marks in sorted order where theirs is free."""
    compares = any(mark.kind == "number" or mark == Mark("relation", "than") for mark in row)
    people = {mark for mark in row if mark.kind in ("name", "pronoun")}
    return tuple(sorted(row)) if statement.asks and not compares and len(people) < 2 else row
