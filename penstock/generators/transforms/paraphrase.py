"""Paraphrase by rule: phrases of the lexicon, and the form of the question.

What a number may count, names, numbers and units are not touched. Some of the places that could be changed are, at
least one. The question goes from "How many apples …" to "What number of apples …" and from "What is the total …?" to
"Determine the total …." and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penstock.generators.transforms.base import Edit, NotApplicable, Problem, Variant
from penstock.generators.transforms.editing import cased, counted, made, pick
from penstock.generators.transforms.lexicon import MEASURED, NO_NOUN, PHRASES
from penstock.generators.transforms.text import Token, not_prose, sentences, tokens

_ORDERS = ("Calculate", "Determine", "Find")
_Options = list[tuple[Edit, ...]]  # what may be done at one place; one of them is


@dataclass(frozen=True)
class Paraphrase:
    """The transform: see the module.

    Args:
        share: of the places that can be changed, about how many are.
    """

    name: str = "paraphrase"
    kind: str = "paraphrase"
    share: float = 0.6

    def apply(self, problem: Problem, stream: np.random.Generator) -> Variant | NotApplicable:
        if why := not_prose(problem.prompt):
            return NotApplicable(transform=self.name, reason=why)
        text = problem.prompt
        found = tokens(text)
        places = [*_phrases(found), *_counts(found), *_questions(text)]
        if not places:
            return NotApplicable(transform=self.name, reason="no phrase of the lexicon and no question of a known form")
        sure = int(stream.integers(len(places)))
        edits: list[Edit] = []
        for at in [sure, *(i for i in range(len(places)) if i != sure)]:
            options = places[at]
            # one draw for every place, so that a draw does not depend on those before it
            wanted, chosen = stream.random() < self.share, pick(options, stream)
            if at != sure and not wanted:
                continue
            if all(a.stop <= b.start or b.stop <= a.start for a in chosen for b in edits):
                edits += chosen
        return made(problem, edits, kind=self.kind, transform=self.name)


def _phrases(found: Sequence[Token]) -> list[_Options]:
    """Places where a phrase of the lexicon stands, each with what may stand there."""
    places: list[_Options] = []
    kept = counted(found)
    said = {token.low for token in found}
    at = 0
    while at < len(found):
        options: _Options = []
        stop = at + 1
        for phrase in PHRASES.get(found[at].low, ()):
            if not _fits(found, at, phrase.words, phrase.before, phrase.behind):
                continue
            new = phrase.new.split()
            # a counted word stays, and no new word may be one that the question uses already in its own way
            if any(word in kept for word in phrase.words) or any(word in kept for word in new):
                continue
            if len(new) == 1 and len(phrase.words) == 1 and new[0] in said:
                continue
            last = found[at + len(phrase.words) - 1]
            options.append((Edit(found[at].start, last.stop, cased(phrase.new, found[at].text)),))
            stop = max(stop, at + len(phrase.words))
        if options:
            places.append(options)
        at = stop
    return places


def _fits(
    found: Sequence[Token], at: int, words: tuple[str, ...], before: frozenset[str], behind: frozenset[str]
) -> bool:
    stop = at + len(words)
    if stop > len(found) or any(found[at + i].low != word for i, word in enumerate(words)):
        return False
    if found[at].text.isupper() and len(found[at].text) > 1:
        return False
    if before and (at == 0 or found[at - 1].low not in before):
        return False
    return not behind or (stop < len(found) and found[stop].low in behind)


def _counts(found: Sequence[Token]) -> list[_Options]:
    """Every "how many apples" as "what number of apples"."""
    places: list[_Options] = []
    for at in range(len(found) - 2):
        how, many, noun = found[at : at + 3]
        behind = found[at + 3].low if at + 3 < len(found) else ""
        counts = noun.kind == "w" and noun.low not in NO_NOUN and behind not in MEASURED
        if how.low == "how" and many.low == "many" and counts:
            places.append([(Edit(how.start, many.stop, cased("what number of", how.text)),)])
    return places


def _questions(text: str) -> list[_Options]:
    """ "What is the total …?" as an order, and an order as a question; whole sentences only."""
    places: list[_Options] = []
    for span in sentences(text):
        said = text[span.start : span.stop]
        if said.startswith("What is the ") and said.endswith("?") and said.count("?") == 1:
            places.append(
                [
                    (Edit(span.start, span.start + len("What is"), order), Edit(span.stop - 1, span.stop, "."))
                    for order in _ORDERS
                ]
            )
        else:
            for order in _ORDERS:
                if said.startswith(f"{order} the ") and said.endswith(".") and ", " not in said:
                    places.append(
                        [(Edit(span.start, span.start + len(order), "What is"), Edit(span.stop - 1, span.stop, "?"))]
                    )
    return places
