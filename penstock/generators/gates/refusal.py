"""Drop refusals: what a model writes when it will not write what it was asked for.

A refusal has two marks, and both are looked for in the first 400 characters:

    speaker   "As an AI language model, I …": nobody else speaks so
    regret    "I'm sorry, but I can't help with that": that one cannot or will not, and a verb of service with what is
              asked for, at the very beginning (after quotes, marks and a greeting)

People apologise and decline too, so neither an apology nor a "cannot" counts alone. The patterns are our own and lie in
``refusals.yaml``: English, German, French, Spanish, Italian, Portuguese, Dutch, Russian, Chinese, Japanese, Korean. How
many texts by people are taken for refusals is measured (docs/gates.md).

Price: some 30 µs a text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import yaml

from penstock.generators.items import Item

_HEAD = 400  # characters
_BEFORE = re.compile(
    r"[\s\"'“”„«»*_>#\-–—(\[{`:]*((oh|well|hello|hi|hmm|ah|thank you[^.!?\n]{0,60})[,.!]\s*)?", re.IGNORECASE
)
_CURLY = str.maketrans("’‘ʼ", "'''")


def is_refusal(text: str) -> bool:
    """Whether a text begins as a refusal does."""
    head = text[:_HEAD].translate(_CURLY)
    speaker, regret = _patterns()
    before = _BEFORE.match(head)
    return regret.match(head, before.end() if before else 0) is not None or speaker.search(head) is not None


@functools.cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """All languages' marks of each kind as one pattern."""
    by_language = yaml.safe_load((Path(__file__).parent / "refusals.yaml").read_text(encoding="utf-8"))

    def joined(mark: str) -> re.Pattern[str]:
        parts = (part for patterns in by_language.values() for part in patterns[mark])
        return re.compile("|".join(f"(?:{part})" for part in parts), re.IGNORECASE | re.MULTILINE)

    return joined("speaker"), joined("regret")


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Gate: ``refusal`` where the text or the answer begins as one."""

    name: ClassVar[str] = "refusal"

    def setup(self) -> None:
        """Compile the patterns."""
        _patterns()

    def judge(self, items: Sequence[Item]) -> list[str | None]:
        return ["refusal" if is_refusal(item.text) or is_refusal(item.answer or "") else None for item in items]
