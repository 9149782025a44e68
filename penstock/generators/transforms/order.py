"""Order of information: statements of fact that stand alone change places; a condition goes behind its question.

Two neighbouring sentences change places where each says how things are ("A bag holds 5 apples."), names what it counts
and points at nothing outside itself; nothing behind them may hold a pronoun that could now point elsewhere.
"If a bag holds 5 apples, how many …?" becomes "How many … if a bag holds 5 apples?" and back where the half that comes
to stand first holds no pronoun.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import numpy as np

from penstock.generators.transforms.base import Edit, NotApplicable, Problem, Variant
from penstock.generators.transforms.editing import PRONOUNS, made, pick
from penstock.generators.transforms.names import GENDERS
from penstock.generators.transforms.text import Span, base, lemma, not_prose, sentences, tokens, tokens_of, word_set

_IF_FIRST = re.compile(r"^If (?P<condition>.+), (?P<question>(?:how|what|who|which) .+)\?$", re.DOTALL)
_IF_LAST = re.compile(r"^(?P<question>(?:How|What|Who|Which) .+?),? if (?P<condition>.+)\?$", re.DOTALL)
_LINKS = word_set(
    "then after afterwards before later next now finally first last also too another other others rest remaining left "
    "remains remainder same still again instead however but so therefore thus this that these those such more less "
    "fewer than half twice times double triple both all total altogether together already until when while if because "
    "since as only either neither previous originally initially ago yesterday today tomorrow back away out up down "
    "off and or each"
)
# ways to say how things are
_STATES = word_set("has have is are costs cost weighs contains holds sells charges needs requires earns makes uses")
_EVENTS = word_set(
    "bought sold gave took got ate drank had was were went came made found lost won spent paid kept left began ran "
    "saw drew threw grew drove rode wrote read spoke stole broke fell rose flew caught taught brought thought sent "
    "lent built put cut let met"
)


@dataclass(frozen=True)
class Order:
    """The transform: see the module."""

    name: str = "order"
    kind: str = "format"

    def apply(self, problem: Problem, stream: np.random.Generator) -> Variant | NotApplicable:
        if why := not_prose(problem.prompt):
            return NotApplicable(transform=self.name, reason=why)
        text = problem.prompt
        spans = sentences(text)
        options: list[list[Edit]] = [_exchange(text, one, other) for one, other in _free(text, spans)]
        for span in spans:
            options += _turned(text, span, spans)
        if not options:
            return NotApplicable(transform=self.name, reason="every sentence leans on those before it")
        return made(problem, pick(options, stream), kind=self.kind, transform=self.name)


def _exchange(text: str, one: Span, other: Span) -> list[Edit]:
    return [
        Edit(one.start, one.stop, text[other.start : other.stop]),
        Edit(other.start, other.stop, text[one.start : one.stop]),
    ]


def _free(text: str, spans: list[Span]) -> list[tuple[Span, Span]]:
    """Neighbours that may change places."""
    alone = [_alone(text, span) for span in spans]
    pointing = [_points(text, span) for span in spans]
    return [
        (spans[i], spans[i + 1])
        for i in range(len(spans) - 1)
        if alone[i]
        and alone[i + 1]
        and not any(pointing[i + 2 :])
        and not _brings(text, spans[i], spans[i + 1])
        and not _brings(text, spans[i + 1], spans[i])
    ]


def _alone(text: str, span: Span) -> bool:
    said = text[span.start : span.stop]
    if not said.endswith(".") or said.lower().startswith(("how", "what", "if", "give ", "do ", "calculate", "find")):
        return False
    found = tokens_of(text, span)
    lows = [token.low for token in found]
    if any(low in PRONOUNS or low in _LINKS for low in lows) or not any(low in _STATES for low in lows):
        return False
    if any(low in _EVENTS or (low.endswith("ed") and len(low) > 5) for low in lows):
        return False
    for at, token in enumerate(found):
        if token.kind == "n" and (at == 0 or found[at - 1].text != "$"):
            follows = found[at + 1] if at + 1 < len(found) else None
            if follows is None or (follows.kind != "w" and follows.text != "%"):
                return False
    return any(token.kind == "n" for token in found)


def _points(text: str, span: Span) -> bool:
    """Whether a pronoun in it could point at what stands right before it."""
    lows = {token.low for token in tokens_of(text, span)}
    held = lows & PRONOUNS
    plural = {"they", "them", "their", "theirs"}
    if held & plural and not lows & {"total", "altogether", "combined"}:
        return True
    return bool(held - plural - {"i", "me", "my", "we", "us", "our", "you", "your"})


def _brings(text: str, one: Span, other: Span) -> bool:
    """Whether ``other`` says "the" of a word that ``one`` holds."""
    held = {lemma(token.low) for token in tokens_of(text, one)}
    found = tokens_of(text, other)
    return any(a.low == "the" and lemma(b.low) in held for a, b in itertools.pairwise(found))


def _turned(text: str, span: Span, spans: list[Span]) -> list[list[Edit]]:
    """Edits that put the condition on the other side of its question."""
    said = text[span.start : span.stop]
    hit = _IF_FIRST.match(said) or _IF_LAST.match(said)
    if hit is None or " if " in hit["condition"] or " if " in hit["question"]:
        return []
    front = "question" if said.startswith("If ") else "condition"
    back = "condition" if front == "question" else "question"
    held = {token.low for token in tokens(hit[front])} & PRONOUNS
    behind = {token.low for token in tokens(hit[back])} & PRONOUNS
    people = {base(token.low) for token in tokens(text)} & GENDERS.keys()
    capitals = {token.low for token in tokens(text) if token.kind == "w" and token.text[0].isupper()}
    if held - {"i", "we", "you", "my", "our", "your"} or (
        behind & {"he", "she", "his", "her", "him"} and len(people) > 1
    ):
        return []
    if behind & {"he", "she", "his", "her", "him"} and len(capitals) > len(spans) + len(people):
        return []  # another capital could be somebody as well
    condition, question = hit["condition"], hit["question"]
    first, second = span.start + hit.start("condition"), span.start + hit.start("question")
    if front == "question":
        return [
            [
                Edit(span.start, second + 1, question[0].upper()),
                Edit(span.stop - 1, span.stop, f" if {condition}?"),
            ]
        ]
    if question[1:2].isupper():
        return []
    return [
        [
            Edit(span.start, span.start + 1, f"If {condition}, {question[0].lower()}"),
            Edit(second + len(question), first + len(condition), ""),
        ]
    ]
