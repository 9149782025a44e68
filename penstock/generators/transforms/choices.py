"""Multiple choice and back: an open question gets options, a question with options becomes open.

The wrong options are near the answer and written as it is (decimals, thousands); the place of the right one is drawn.
A question that speaks of its options ("which of the following") stays as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from penstock.generators.transforms.base import Edit, NotApplicable, Problem, Variant
from penstock.generators.transforms.editing import made
from penstock.generators.verification.options import options_of

_NUMBER = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?")
_SPEAKS = re.compile(r"\b(?:following|options?|choices|these|above|below|listed)\b", re.IGNORECASE)
_STYLES = ("({})", "{})", "{}.")


@dataclass(frozen=True)
class Choices:
    """The transform: see the module.

    Args:
        options: how many, 2 to 10.
    """

    name: str = "choices"
    kind: str = "format"
    options: int = 4

    def apply(self, problem: Problem, stream: np.random.Generator) -> Variant | NotApplicable:
        found = options_of(problem.prompt)
        if found is not None:
            return self._open(problem, found.stem, found.by_letter)
        answer = problem.answer.strip()
        if not _NUMBER.fullmatch(answer):
            return NotApplicable(transform=self.name, reason="the answer is no plain number")
        if not problem.prompt.strip():
            return NotApplicable(transform=self.name, reason="the question is empty")
        texts = [answer, *_wrong(answer, self.options - 1, stream)]
        texts = [texts[i] for i in stream.permutation(len(texts)).tolist()]
        letters = [chr(ord("A") + i) for i in range(len(texts))]
        style = _STYLES[int(stream.integers(len(_STYLES)))]
        lines = "".join(f"\n{style.format(letter)} {text}" for letter, text in zip(letters, texts, strict=True))
        end = len(problem.prompt.rstrip())
        return made(
            problem,
            [Edit(end, len(problem.prompt), f"\nOptions:{lines}")],
            kind=self.kind,
            transform=self.name,
            answer=letters[texts.index(answer)],
            facts={"options": texts},
        )

    def _open(self, problem: Problem, stem: str, by_letter: dict[str, str]) -> Variant | NotApplicable:
        chosen = by_letter.get(problem.answer.strip().strip("().").upper())
        if chosen is None:
            return NotApplicable(transform=self.name, reason="the answer is none of the options")
        if _SPEAKS.search(stem):
            return NotApplicable(transform=self.name, reason="the question speaks of its options")
        if not problem.prompt.startswith(stem):
            return NotApplicable(transform=self.name, reason="the options do not stand at the end")
        cut = Edit(len(stem), len(problem.prompt), "")
        return made(problem, [cut], kind=self.kind, transform=self.name, answer=chosen)


def _wrong(answer: str, count: int, stream: np.random.Generator) -> list[str]:
    """``count`` other numbers of the same look, near the answer, none below zero unless the answer is."""
    plain = answer.replace(",", "")
    decimals = len(plain.partition(".")[2])
    value, step = Fraction(plain), Fraction(1, 10**decimals)
    size = abs(value)
    near = [step, 2 * step, 5 * step, 10 * step, size / 10, size / 5, size / 4, size / 2, size, 2 * size]
    candidates: list[Fraction] = []
    for distance in near:
        whole = max(step, round(distance / step) * step)
        candidates += [value + whole, value - whole]
    found: list[str] = []
    for at in stream.permutation(len(candidates)).tolist():
        other = candidates[at]
        text = _written(other, decimals, "," in answer)
        if other != value and text not in found and (other >= 0 or value < 0):
            found.append(text)
        if len(found) == count:
            return found
    further = value
    while len(found) < count:  # more options than neighbours
        further += 7 * step
        text = _written(further, decimals, "," in answer)
        if text not in found:
            found.append(text)
    return found


def _written(value: Fraction, decimals: int, commas: bool) -> str:
    units = int(value * 10**decimals)
    whole, part = divmod(abs(units), 10**decimals)
    text = f"{whole:,}" if commas else str(whole)
    return ("-" if units < 0 else "") + text + (f".{part:0{decimals}d}" if decimals else "")
