"""Question transforms by a language model: one prompt a kind, each a file that users can replace.

    transforms = model_transforms(session, kinds=("paraphrase", "background"))
    variants = await transforms[0].apply(problems, seed=0)

The kinds are those of the rule forms: a paraphrase, other names, another form of presentation, an irrelevant story
around it (background), a coined term, and a number replaced by a problem of its own (sub-problem). The last three
follow the idea of MathForge's question reformulation (arXiv 2601.20614); the wording of all is our own. The model sees
the question alone, so that no answer can leak into a variant.

An answer is JSON by a schema, corrected in turn where it is not. A model may say that a transform does not apply. What
it returns is never taken as it comes: an empty question, the input itself (but for case, white space and punctuation),
and the input between a few words of its own are refused. Whether the variant still has the same answer is for the
verification ladder to say.

Price: one request a problem and kind, and up to ``corrections`` more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.errors import ConfigError
from penstock.generators.base import LanguageModel, Message, Request, name_of
from penstock.generators.prompt_files import PromptFile, read_prompts
from penstock.generators.structured import Structured, ask_structured
from penstock.generators.transforms.base import NotApplicable, Problem, Variant
from penstock.seeding import derive

KINDS = ("paraphrase", "rename", "format", "background", "term", "subproblem")

_TEXT: Mapping[str, Any] = {"type": "string"}
_NAMES: Mapping[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"old": _TEXT, "new": _TEXT},
        "required": ["old", "new"],
        "additionalProperties": False,
    },
}
# what a kind's answer holds besides applies, reason and question
_MORE: Mapping[str, Mapping[str, Any]] = {
    "rename": {"names": _NAMES},
    "term": {"term": _TEXT},
    "subproblem": {"number": _TEXT, "condition": _TEXT},
}
_PLACEHOLDERS = {kind: (frozenset({"question"}), frozenset[str]()) for kind in KINDS}
_WRAPPER = 6  # words around the input that make no variant of it
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class PromptedTransform:
    """ModelTransform: one kind, asked of a model.

    Args:
        kind: one of ``KINDS``.
        model: usually a ``ModelSession``.
        prompt: with ``{{question}}``.
        temperature, max_tokens: of each request.
        corrections: how often an answer that does not obey the schema is asked again.
    """

    kind: str
    model: LanguageModel
    prompt: PromptFile
    temperature: float = 0.7
    max_tokens: int = 1024
    corrections: int = 2

    @property
    def name(self) -> str:
        return f"model_{self.kind}"

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of an answer."""
        properties = {"applies": {"type": "boolean"}, "reason": _TEXT, "question": _TEXT, **_MORE.get(self.kind, {})}
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    async def apply(self, problems: Sequence[Problem], *, seed: int) -> list[Variant | NotApplicable]:
        """One for each problem, in their order.

        Raises:
            BudgetError: nothing more may be asked.
        """
        requests = [
            Request(
                messages=(Message("user", self.prompt.fill(question=problem.prompt)),),
                temperature=self.temperature,
                max_tokens=self.max_tokens,
                seed=derive(seed, "transform", self.kind) & 0x7FFFFFFF,  # servers take 32 bits
            )
            for problem in problems
        ]
        answers = await ask_structured(self.model, requests, self.schema, corrections=self.corrections)
        return [self._read(problem, answer) for problem, answer in zip(problems, answers, strict=True)]

    def _read(self, problem: Problem, answer: Structured) -> Variant | NotApplicable:
        if answer.error is not None:
            return self._not(f"no usable answer: {answer.error}")
        value: Mapping[str, Any] = answer.value
        if not value["applies"]:
            return self._not(f"the model says so: {value['reason'].strip() or 'without a reason'}")
        question = value["question"].strip()
        refused = _refused(problem.prompt, question)
        if refused:
            return self._not(refused)
        facts: dict[str, Any] = {"model": name_of(self.model), "prompt_hash": self.prompt.digest}
        facts |= {name: value[name].strip() for name in ("term", "number", "condition") if name in value}
        return Variant(
            prompt=question,
            answer=problem.answer,
            kind=self.kind,
            transform=self.name,
            mapping={pair["old"]: pair["new"] for pair in value.get("names", ())},
            facts=facts,
        )

    def _not(self, reason: str) -> NotApplicable:
        return NotApplicable(transform=self.name, reason=reason)


def _refused(original: str, question: str) -> str | None:
    """Why a text is no variant of its original, whatever it says."""
    old, new = (_WORD.findall(text.casefold()) for text in (original, question))
    if not new:
        return "an empty question"
    if old == new:
        return "the input came back"
    more = len(new) - len(old)
    if 0 < more <= _WRAPPER and any(new[start : start + len(old)] == old for start in range(more + 1)):
        return "the input came back in a wrapper"
    return None


def model_transforms(
    model: LanguageModel,
    *,
    kinds: Sequence[str] = KINDS,
    prompts: str | None = None,
    temperature: float = 0.7,
    max_tokens: int = 1024,
    corrections: int = 2,
) -> tuple[PromptedTransform, ...]:
    """The transforms of these kinds, in their order.

    Args:
        prompts: a folder with files ``KIND.md`` that replace ours; each has ``{{question}}``.

    Raises:
        ConfigError: an unknown kind, or a prompt that is not acceptable.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ConfigError(f"kinds: got {unknown[0]!r}, allowed {', '.join(KINDS)}; correct the name")
    files = read_prompts(Path(__file__).with_name("prompts"), _PLACEHOLDERS, prompts)
    return tuple(
        PromptedTransform(
            kind=kind,
            model=model,
            prompt=files[kind],
            temperature=temperature,
            max_tokens=max_tokens,
            corrections=corrections,
        )
        for kind in kinds
    )
