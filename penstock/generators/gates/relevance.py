"""Drop items that have nothing to do with the task: by embeddings, or by asking a model.

``Relevance`` compares an item with references, which are the task and, better, examples of what is wanted: ``off_task``
where its largest cosine is below ``threshold``. What cosine is near depends on the embedder and on the references, so
``threshold_of`` takes the threshold from examples: the ``quantile`` (0.05) of the similarity of each to the nearest of
the others. What share of foreign texts that stops is measured (docs/gates.md).

``RelevanceJudge`` asks a model whether an item belongs to the task; its prompt is a file that can be replaced. Where
nothing usable is answered, the item does not pass (``not_judged``).

Price: one embedding an item; one call an item.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from penstock.embedding.base import Embedder, Vectors, normalised
from penstock.errors import ConfigError
from penstock.generators.base import LanguageModel, Message, Request
from penstock.generators.gates.passing import Finding
from penstock.generators.items import Item, Verdict
from penstock.generators.prompt_files import PromptFile, read_text
from penstock.generators.structured import ask_structured

CHARACTERS = 1024  # of a text's beginning that are embedded
_LEAST = 20  # examples that a quantile is taken of
_BELONGS = {
    "type": "object",
    "properties": {"why": {"type": "string"}, "belongs": {"type": "boolean"}},
    "required": ["why", "belongs"],
    "additionalProperties": False,
}


@dataclass(frozen=True, kw_only=True)
class Relevance:
    """Gate: ``off_task`` where no reference is near; the similarity is a verdict.

    Args:
        embedder: of items and references.
        references: the task and examples of what is wanted.
        threshold: least cosine to the nearest reference.

    Raises ConfigError for no reference or a threshold that is no cosine.
    """

    embedder: Any = field(repr=False)  # an Embedder
    references: tuple[str, ...] = field(repr=False)
    threshold: float

    name: ClassVar[str] = "relevance"

    def __post_init__(self) -> None:
        if not any(text.strip() for text in self.references):
            raise ConfigError("relevance: got no reference, allowed the task or examples of what is wanted; give some")
        if not -1.0 <= self.threshold <= 1.0:
            raise ConfigError(f"relevance.threshold: got {self.threshold}, allowed a cosine from -1 to 1")

    def setup(self) -> None:
        """Embed the references."""
        _vectors(self.embedder, self.references)

    async def examine(self, items: Sequence[Item]) -> list[Finding]:
        if not items:
            return []
        references: Vectors = _vectors(self.embedder, self.references)
        nearest = (embedded(self.embedder, [item.text for item in items]) @ references.T).max(axis=1)
        return [self._finding(float(value)) for value in nearest]

    def _finding(self, similarity: float) -> Finding:
        near = similarity >= self.threshold
        verdict = Verdict("relevance", near, f"{similarity:.3f} to the nearest of {len(self.references)} references")
        return Finding(None if near else "off_task", (verdict,))


@functools.lru_cache(maxsize=8)
def _vectors(embedder: Any, references: tuple[str, ...]) -> Vectors:
    embedder.setup()
    return embedded(embedder, [text for text in references if text.strip()])


def embedded(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """Unit vectors of the beginnings of texts (n, d); zero where there is nothing to embed, or no number came."""
    heads = [text[:CHARACTERS] for text in texts]
    rows = [row for row, head in enumerate(heads) if head.strip()]
    out = np.zeros((len(heads), embedder.dimensions), dtype=np.float32)
    if rows:
        out[rows] = normalised(embedder.embed([heads[row] for row in rows]))
    return out


def threshold_of(embedder: Embedder, examples: Sequence[str], quantile: float = 0.05) -> float:
    """The cosine to the nearest other that all but a ``quantile`` of the examples reach.

    Raises:
        ConfigError: fewer than 20 examples, or a quantile that is none.
    """
    if len(examples) < _LEAST or not 0 <= quantile <= 1:
        raise ConfigError(
            f"relevance: got {len(examples)} examples and quantile {quantile}, allowed {_LEAST} or more and 0 to 1; "
            "give a threshold instead"
        )
    embedder.setup()
    vectors = embedded(embedder, examples)
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -1.0)
    return float(np.quantile(alike.max(axis=1), quantile))


@dataclass(frozen=True, kw_only=True)
class RelevanceJudge:
    """Gate: ``off_task`` where a model says that an item does not belong, ``not_judged`` where it says nothing.

    Args:
        model: that is asked.
        task: what the items are for.
        prompt: a file with {{task}} and {{piece}} in place of ours.
        seed: of the requests.

    Raises ConfigError for a prompt that is not acceptable.
    """

    model: LanguageModel = field(repr=False)
    task: str
    prompt: str | None = None
    seed: int = 0

    name: ClassVar[str] = "relevance_judge"

    def __post_init__(self) -> None:
        self._file()

    def _file(self) -> PromptFile:
        return judge_prompt("relevance", self.prompt, frozenset({"task", "piece"}))

    def setup(self) -> None:
        self.model.setup()

    async def examine(self, items: Sequence[Item]) -> list[Finding]:
        """One call an item.

        Raises:
            BudgetError: nothing more may be asked.
        """
        file = self._file()
        requests = [
            Request(messages=(Message("user", file.fill(task=self.task, piece=piece_of(item))),), seed=self.seed)
            for item in items
        ]
        answers = await ask_structured(self.model, requests, _BELONGS)
        return [self._finding(one.value, one.error) for one in answers]

    def _finding(self, value: Any, error: str | None) -> Finding:
        if error is not None:
            return Finding("not_judged", (Verdict(self.name, False, error),))
        belongs = bool(value["belongs"])
        return Finding(None if belongs else "off_task", (Verdict(self.name, belongs, value["why"]),))


def judge_prompt(
    name: str, path: str | None, required: frozenset[str], optional: frozenset[str] = frozenset()
) -> PromptFile:
    """A prompt of ours, or the user's file in its place. Raises ConfigError where it is not acceptable."""
    own = Path(__file__).parent / "prompts" / f"{name}.md"
    return PromptFile(name, read_text(path or own), required, optional)


def piece_of(item: Item) -> str:
    """What a judge is shown of an item: text and answer as JSON strings, so that neither reaches out of its place."""
    text = json.dumps(item.text, ensure_ascii=False)
    return text if item.answer is None else f"{text}\nAnswer: {json.dumps(item.answer, ensure_ascii=False)}"
