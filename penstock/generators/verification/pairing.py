"""Which statement of a variant is which statement of its original.

Statements with the same words are paired first, then those whose marks are the same in essence (``essence``), those
that share most words first. Statements without a mark pair by their words where they share any. Of what is left, two
neighbours pair with one statement that has the marks of both: a sentence made of two, or two of one.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from penstock.generators.verification.essence import essence, key, only_person
from penstock.generators.verification.reading import Mark, Statement, Text, marks, read

_SURE = 0.5  # share of common words from which a statement stays where it stands


@dataclass(frozen=True)
class Pairing:
    """Statements by place.

    Attributes:
        pairs: (place in the original, place in the variant), by place in the original.
        missing: places in the original that have no partner.
        added: places in the variant that have none.
        before, after: marks of all statements of the original, of the variant.
    """

    original: Text
    variant: Text
    pairs: tuple[tuple[int, int], ...]
    missing: tuple[int, ...]
    added: tuple[int, ...]
    before: tuple[tuple[Mark, ...], ...]
    after: tuple[tuple[Mark, ...], ...]

    def inversions(self) -> list[tuple[int, int]]:
        """Pairs of places in the original whose statements stand the other way round in the variant."""
        return [
            (i, other)
            for place, (i, j) in enumerate(self.pairs)
            for other, at in self.pairs[place + 1 :]
            if at < j
        ]  # fmt: skip


@functools.lru_cache(maxsize=256)
def pair_up(original: str, variant: str, free_names: bool = False) -> Pairing:
    """Pair the statements of two questions; ``free_names`` compares names and things by their places alone."""
    one, other = read(original), read(variant)
    names, things = one.names | other.names, one.things | other.things
    before = tuple(marks(statement, names, things) for statement in one.statements)
    after = tuple(marks(statement, names, things) for statement in other.statements)
    person = None if free_names else only_person(one, other, before, after)
    left, right = (_Side(text.statements, rows, free_names, person) for text, rows in ((one, before), (other, after)))
    matched = _in_place(left, right)
    if matched is None:
        matched = {}
        for same in (lambda side, i: (side.statements[i].lows, side.keys[i]), lambda side, i: side.keys[i]):
            _by_key(left, right, matched, same)
        _by_words(left, right, matched)
    joined = [] if free_names else _joined(left, right, matched)
    paired = sorted([*matched.items(), *joined])
    free_left = sorted(set(range(len(before))) - {i for i, _ in paired})
    free_right = sorted(set(range(len(after))) - {j for _, j in paired})
    return Pairing(one, other, tuple(paired), tuple(free_left), tuple(free_right), before, after)


class _Side:
    """One text: its statements, what decides of their marks, and what they are compared by."""

    def __init__(
        self, statements: Sequence[Statement], found: Sequence[tuple[Mark, ...]], free_names: bool, person: Mark | None
    ) -> None:
        self.statements = statements
        if free_names:
            self.rows = [tuple(_open(mark) for mark in row) for row in found]
            self.keys = self.rows
        else:
            both = list(zip(statements, found, strict=True))
            self.rows = [essence(statement, row, person) for statement, row in both]
            self.keys = [key(statement, row) for statement, row in zip(statements, self.rows, strict=True)]
        self.bags = [frozenset(statement.lows) for statement in statements]


def _open(mark: Mark) -> Mark:
    return Mark("entity", "") if mark.kind in ("name", "thing") else mark


def _shared(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(1, len(one | other))


def _in_place(left: _Side, right: _Side) -> dict[int, int] | None:
    """Every statement with its neighbour at the same place, where that is plain to see."""
    count = len(left.keys)
    if count != len(right.keys) or left.keys != right.keys:
        return None
    near = all(_shared(a, b) >= _SURE for a, b in zip(left.bags, right.bags, strict=True))
    # two statements with the same marks could have changed places
    if near and (len(set(left.keys)) == count or left.bags == right.bags):
        return {i: i for i in range(count)}
    return None


def _by_key(left: _Side, right: _Side, matched: dict[int, int], key: Callable[[_Side, int], object]) -> None:
    """Pair statements of equal key, those that share most words first, then by order."""
    waiting: dict[object, list[int]] = defaultdict(list)
    taken = set(matched.values())
    for j in range(len(right.keys)):
        if j not in taken and right.keys[j]:
            waiting[key(right, j)].append(j)
    candidates = [
        (-_shared(left.bags[i], right.bags[j]), abs(i - j), i, j)
        for i in range(len(left.keys))
        if i not in matched and left.keys[i]
        for j in waiting.get(key(left, i), ())
    ]
    for _, _, i, j in sorted(candidates):
        if i not in matched and j not in taken:
            matched[i] = j
            taken.add(j)


def _by_words(left: _Side, right: _Side, matched: dict[int, int]) -> None:
    """Pair statements that carry no mark by the words they share."""
    taken = set(matched.values())
    candidates = [
        (-share, abs(i - j), i, j)
        for i in range(len(left.keys))
        if i not in matched and not left.keys[i]
        for j in range(len(right.keys))
        if j not in taken and not right.keys[j] and (share := _shared(left.bags[i], right.bags[j])) > 0
    ]
    for _, _, i, j in sorted(candidates):
        if i not in matched and j not in taken:
            matched[i] = j
            taken.add(j)


def _joined(left: _Side, right: _Side, matched: dict[int, int]) -> list[tuple[int, int]]:
    """Pairs of two neighbours on one side with one statement on the other that has the marks of both.

    Where two become one, the second may lose the pronoun or the name it began with ("Tom has 5. He buys 3" as "Tom has
    5 and buys 3"), or its pronouns ("40% of them" as "40% of whom"); where one becomes two it may gain them.
    """
    taken = set(matched.values())
    free_left = [i for i in range(len(left.keys)) if i not in matched]
    free_right = [j for j in range(len(right.keys)) if j not in taken]
    found: list[tuple[int, int]] = []
    used: set[int] = set()
    for i, after in itertools.pairwise(free_left):
        for j in free_right:
            free = j not in used and all(i != other for other, _ in found)
            if after == i + 1 and free and right.rows[j] in _together(left.rows[i], left.rows[after]):
                found += [(i, j), (after, j)]
                used.add(j)
    for j, after in itertools.pairwise(free_right):
        for i in free_left:
            free = all(i != other for other, _ in found) and not {j, after} & used
            if after == j + 1 and free and left.rows[i] in _together(right.rows[j], right.rows[after]):
                found += [(i, j), (i, after)]
                used |= {j, after}
    return found


def _together(one: tuple[Mark, ...], other: tuple[Mark, ...]) -> list[tuple[Mark, ...]]:
    options = [one + other]
    if other and other[0].kind in ("pronoun", "name") and (other[0].kind == "pronoun" or other[0] in one):
        options.append(one + other[1:])
    options.append(one + tuple(mark for mark in other if mark.kind != "pronoun"))
    return options
