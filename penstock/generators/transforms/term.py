"""Term: a thing of the question gets a coined name, and a sentence at the start says what it means.

    Tom has 5 marbles.  ->  In this problem, a velk is a marble. Tom has 5 velks.

The thing is a plural that a number counts; every form of it is replaced, so that the sentence decodes the question
whole. Units, words that relate amounts and plurals that are no regular ones are left alone. Idea: MathForge's question
reformulation (arXiv 2601.20614), which asks a model for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penstock.generators.transforms.base import Edit, NotApplicable, Problem, Variant
from penstock.generators.transforms.editing import made, pick
from penstock.generators.transforms.text import Token, base, lemma, not_prose, tokens, word_set
from penstock.generators.verification.relations import PLAIN, RELATIONS, UNITS

_STARTS = ("b", "bl", "br", "d", "dr", "f", "fl", "gl", "gr", "k", "kl", "kr", "pl", "pr", "tr", "v", "z", "sn", "sk")
_VOWELS = ("a", "e", "i", "o", "u")
_MIDDLES = ("lb", "nd", "rv", "mp", "lt", "rg", "v", "zz", "nk", "lm")
_ENDS = ("lk", "nd", "rg", "rn", "lm", "nk", "rb", "g", "p", "b", "k", "n")
_VERBAL = word_set("can to will would could should must may might did does do not cannot they we you i he she it who")
_FORMS = (
    "In this problem, {a} {new} is {an} {old}.",
    "Here, {a} {new} is {an} {old}.",
    'The word "{new}" means {an} {old}.',
    'In this question, "{new}" stands for {an} {old}.',
)


@dataclass(frozen=True)
class Term:
    """The transform: see the module."""

    name: str = "term"
    kind: str = "term"

    def apply(self, problem: Problem, stream: np.random.Generator) -> Variant | NotApplicable:
        if why := not_prose(problem.prompt):
            return NotApplicable(transform=self.name, reason=why)
        found = tokens(problem.prompt)
        things = sorted(_things(found))
        if not things:
            return NotApplicable(transform=self.name, reason="no regular plural is counted in it")
        old = pick(things, stream)
        taken = {token.low for token in found} | {lemma(token.low) for token in found}
        new = _coined(stream)
        while new in taken or new + "s" in taken:
            new = _coined(stream)
        edits = []
        for at, token in enumerate(found):
            if token.kind != "w" or lemma(token.low) != old:
                continue
            plural = base(token.low) != old
            stop = token.start + len(base(token.low))
            written = new + ("s" if plural else "")
            edits.append(Edit(token.start, stop, written.capitalize() if token.text[0].isupper() else written))
            before = found[at - 1] if at else None
            if before is not None and before.low == "an":
                edits.append(Edit(before.start, before.stop, before.text[0]))
        form = pick(_FORMS, stream)
        meaning = form.format(a="a", new=new, an="an" if old[0] in "aeiou" else "a", old=old)
        start = len(problem.prompt) - len(problem.prompt.lstrip())
        edits.append(Edit(start, start, meaning + " "))
        return made(problem, edits, kind=self.kind, transform=self.name, mapping={old: new}, facts={"term": new})


def _coined(stream: np.random.Generator) -> str:
    """Two syllables that make no English word."""
    return "".join(pick(parts, stream) for parts in (_STARTS, _VOWELS, _MIDDLES, _VOWELS, _ENDS))


def _things(found: Sequence[Token]) -> set[str]:
    """Singulars of regular plurals that a number or "how many" counts."""
    things = set()
    for number, token in itertools.pairwise(found):
        low = token.low
        if not (number.kind == "n" or number.low == "many") or token.kind != "w" or len(low) < 4:
            continue
        one = lemma(low)
        if low != one + "s" and low != one + "es":
            continue
        if token.text[0].isupper() or low.endswith("ss") or one.endswith(("s", "u")):
            continue
        if any(word in table for word in (low, one) for table in (UNITS, RELATIONS, PLAIN)):
            continue
        uses = [at for at, other in enumerate(found) if other.kind == "w" and lemma(other.low) == one]
        # part of a name, or a verb as well: "he can skip", "Tom skips"
        if not any(_other_sense(found, at) for at in uses):
            things.add(one)
    return things


def _other_sense(found: Sequence[Token], at: int) -> bool:
    before = found[at - 1] if at else None
    if before is None or before.kind != "w":
        return False
    name = before.text[0].isupper() and at > 1 and found[at - 2].text not in ".?!"
    return found[at].text[0].isupper() or before.low in _VERBAL or name
