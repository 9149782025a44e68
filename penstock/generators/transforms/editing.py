"""What every rule transform needs: making a variant from edits, and knowing which words it must not touch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from penstock.generators.transforms.base import Edit, NotApplicable, Problem, Variant, edited
from penstock.generators.transforms.text import Token, folded, word_set

T = TypeVar("T")

# words that point at somebody or something said elsewhere
PRONOUNS = word_set(
    "he him his himself she her hers herself it its itself they them their theirs themselves i me my we us our you your"
)
# a word after a number is no noun where it is one of these
_NO_NOUN = word_set(
    "a an the of to in on at for from by with as and or but so if because while when where who which that this these "
    "is are was were be been has have had do does did will would can could each every per more less fewer than left "
    "total all both times years old into onto through during after before until since then also only altogether"
)
_NUMBERS = word_set(
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand half dozen"
)


def pick(options: Sequence[T], stream: np.random.Generator) -> T:
    """One of them."""
    return options[int(stream.integers(len(options)))]


def made(
    problem: Problem,
    edits: Sequence[Edit],
    *,
    kind: str,
    transform: str,
    answer: str | None = None,
    mapping: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Variant | NotApplicable:
    """The variant that these edits make, or not applicable where they change nothing that counts."""
    rising = tuple(sorted(edits))
    prompt = edited(problem.prompt, rising)
    if folded(prompt) == folded(problem.prompt):
        return NotApplicable(transform=transform, reason="nothing to change")
    return Variant(
        prompt=prompt,
        answer=problem.answer if answer is None else answer,
        kind=kind,
        transform=transform,
        edits=rising,
        mapping=dict(mapping or {}),
        facts=dict(facts or {}),
    )


def cased(word: str, like: str) -> str:
    """``word`` with a capital where ``like`` begins with one."""
    return word[:1].upper() + word[1:] if like[:1].isupper() else word


def counted(tokens: Sequence[Token]) -> frozenset[str]:
    """Folded words that may belong to what a number counts, or that are capitalised: not to be replaced one by one."""
    found: set[str] = set()
    reach = 0
    for at, token in enumerate(tokens):
        if token.kind == "n" or token.low in _NUMBERS:
            reach = 3
        elif token.kind != "w":
            reach = reach if token.text == "-" else 0
        elif token.low in ("many", "much", "more", "fewer", "less", "number", "of"):
            reach = 3
        elif token.low in _NO_NOUN:
            reach = 0
        else:
            if reach or (token.text[0].isupper() and at and tokens[at - 1].kind == "w"):
                found.add(token.low)
            reach = max(0, reach - 1)
    return frozenset(found)
