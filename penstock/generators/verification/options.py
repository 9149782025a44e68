"""The options of a multiple-choice question, read from its text: ``(A) 12  (B) 15``, ``A. 12``, ``B) 15``."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from fractions import Fraction

_LABEL = re.compile(r"(?:(?<=\s)|^)\(?([A-J])[).:](?=\s|$)")
_LEAD = re.compile(r"\s*\b(?:options|choices|answer choices|choose one|the options are)\s*:?\s*$", re.IGNORECASE)
_NUMBER = re.compile(r"^[$€£]?\s*(-?(?:\d[\d,]*)?\.?\d+)\s*%?$")


@dataclass(frozen=True)
class Options:
    """A multiple-choice question, taken apart.

    Attributes:
        stem: the question without its options.
        by_letter: the text of every option.
    """

    stem: str
    by_letter: dict[str, str]


@functools.lru_cache(maxsize=512)
def options_of(prompt: str) -> Options | None:
    """Its options where at least two stand at its end, labelled from A on without a gap; None otherwise."""
    hits = list(_LABEL.finditer(prompt))
    # the last run of labels that begins with A
    starts = [i for i, hit in enumerate(hits) if hit[1] == "A"]
    if not starts:
        return None
    hits = hits[starts[-1] :]
    letters = [hit[1] for hit in hits]
    if len(letters) < 2 or letters != [chr(ord("A") + i) for i in range(len(letters))]:
        return None
    ends = [hit.start() for hit in hits[1:]] + [len(prompt)]
    texts = [prompt[hit.end() : end].strip().rstrip(",;").strip() for hit, end in zip(hits, ends, strict=True)]
    if not all(texts):
        return None
    stem = _LEAD.sub("", prompt[: hits[0].start()].rstrip())
    return Options(stem.rstrip(), dict(zip(letters, texts, strict=True)))


@functools.lru_cache(maxsize=4096)
def amount(answer: str) -> Fraction | None:
    """A short answer that is one number, with or without a sign of money or percent; None for other text."""
    hit = _NUMBER.match(answer.strip())
    return Fraction(hit[1].replace(",", "")) if hit else None


def same_answer(one: str, other: str) -> bool:
    """Whether two short answers are the same number, or the same text but for case and space."""
    a, b = amount(one), amount(other)
    if a is not None and b is not None:
        return a == b and answer_type(one) == answer_type(other)
    return " ".join(one.casefold().split()) == " ".join(other.casefold().split())


def answer_type(answer: str) -> str:
    """``integer``, ``decimal``, ``fraction``, ``money``, ``percent``, ``letter`` or ``text``."""
    text = answer.strip()
    if re.fullmatch(r"[A-J]", text):
        return "letter"
    if re.fullmatch(r"-?\d+/\d+", text):
        return "fraction"
    if (value := amount(text)) is None:
        return "text"
    if text[0] in "$€£":
        return "money"
    if text.endswith("%"):
        return "percent"
    return "integer" if value.denominator == 1 else "decimal"
