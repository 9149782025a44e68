"""Background: a short story before the question that has nothing to do with it.

A story sets a scene and adds one or two details. It holds no number, no name, no pronoun, no word of comparison and no
word of the question, so it can change no amount; it stands first, so that it comes between nothing. Idea: MathForge's
question reformulation (arXiv 2601.20614), which asks a model for it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from penstock.generators.transforms.base import Edit, NotApplicable, Problem, Variant
from penstock.generators.transforms.editing import PRONOUNS, made, pick
from penstock.generators.transforms.text import lemma, tokens, word_set

SCENES = (
    "The sky was clear, and a gentle wind blew through the valley.",
    "Rain was falling softly on the roofs of the village.",
    "The streets of the harbour smelled of fresh bread.",
    "A grey fog lay on the meadows.",
    "The lamps along the canal were bright.",
    "Music drifted from the balcony.",
    "The market was busy and loud.",
    "Snow covered the gardens behind the church.",
    "The sea was calm and very blue.",
    "The radio was playing quietly in the kitchen.",
    "The curtains moved in the gentle breeze.",
    "Birds were singing by the river.",
    "The valley was green, and the air was fresh.",
    "The library was quiet, and dust danced in the sunlight.",
    "Clouds drifted along the mountains.",
    "The scent of pine hung between the trees.",
)
DETAILS = (
    "A dog was barking in the courtyard.",
    "The neighbourhood seemed to be in a hurry.",
    "The bells of the chapel rang.",
    "The poster on the wall announced a concert.",
    "The paint on the fence was peeling.",
    "An elderly gardener hummed a melody.",
    "Somebody had painted a smiling sun on the pavement.",
    "The newspaper spoke of the weather.",
    "The air smelled of lavender.",
    "A cat slept on the windowsill.",
    "A kite danced in the wind.",
    "The sign on the door was freshly painted.",
    "Shadows moved across the courtyard.",
    "The wooden floor creaked.",
    "A bicycle leaned against the gate.",
    "The mood was cheerful.",
)
_COMMON = word_set(
    "the a an and of in on to was were had been by from with at for is are as behind along against across through very "
    "be between"
)


@dataclass(frozen=True)
class Background:
    """The transform: see the module."""

    name: str = "background"
    kind: str = "background"

    def apply(self, problem: Problem, stream: np.random.Generator) -> Variant | NotApplicable:
        found = [token for token in tokens(problem.prompt) if token.kind == "w"]
        if not found:
            return NotApplicable(transform=self.name, reason="the question holds no word")
        if found[0].low in PRONOUNS or found[0].low in ("this", "that", "these", "those"):
            return NotApplicable(transform=self.name, reason=f"{found[0].text!r} at its start would point at the story")
        said = {lemma(token.low) for token in found} - _COMMON
        scenes = [scene for scene in SCENES if not said & _lemmas(scene)]
        details = [detail for detail in DETAILS if not said & _lemmas(detail)]
        if not scenes or not details:
            return NotApplicable(transform=self.name, reason="every story speaks of something in the question")
        story = [pick(scenes, stream), pick(details, stream)]
        other = pick(details, stream)
        if other not in story:
            story.append(other)
        start = len(problem.prompt) - len(problem.prompt.lstrip())
        return made(problem, [Edit(start, start, " ".join(story) + " ")], kind=self.kind, transform=self.name)


@functools.cache
def _lemmas(sentence: str) -> frozenset[str]:
    return frozenset({lemma(token.low) for token in tokens(sentence) if token.kind == "w"} - _COMMON)
