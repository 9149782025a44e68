"""Are two questions the same problem: a model is asked twice, with the order swapped, and has to say yes both times.

A judge that prefers what it reads first, or second, contradicts itself and passes nothing. Where either question gets
no usable answer the pair does not pass: a check that could not be made proves nothing.

Price: two requests a pair.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.generators.base import LanguageModel, Message, Request
from penstock.generators.items import Verdict
from penstock.generators.prompt_files import PromptFile, read_prompts
from penstock.generators.structured import ask_structured
from penstock.generators.verification.base import Pair

PROMPTS = Path(__file__).with_name("prompts")
PLACEHOLDERS = {
    "judge": (frozenset({"first", "second"}), frozenset[str]()),
    "solve": (frozenset({"question"}), frozenset[str]()),
}
SCHEMA = {
    "type": "object",
    "properties": {"difference": {"type": "string"}, "same": {"type": "boolean"}},
    "required": ["difference", "same"],
    "additionalProperties": False,
}


def prompts_of(folder: str | None = None) -> dict[str, PromptFile]:
    """The prompts ``judge`` and ``solve``, each from the user's folder where that has it.

    Raises:
        ConfigError: a prompt is not acceptable.
    """
    return read_prompts(PROMPTS, PLACEHOLDERS, folder)


@dataclass(frozen=True, kw_only=True)
class Judge:
    """ModelCheck ``judge``: both orders of a pair must be called the same problem.

    Args:
        model: usually a ``ModelSession``; the likeliest answer is taken.
        prompt: with ``{{first}}`` and ``{{second}}``.
        max_tokens, corrections: of each question.
    """

    model: LanguageModel
    prompt: PromptFile
    max_tokens: int = 512
    corrections: int = 1

    @property
    def name(self) -> str:
        return "judge"

    async def check_async(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """One verdict for each pair, whose detail (JSON) holds both answers.

        Raises:
            BudgetError: nothing more may be asked.
        """
        texts = [(pair.problem.prompt, pair.variant.prompt) for pair in pairs]
        requests = [
            Request(
                messages=(Message("user", self.prompt.fill(first=first, second=second)),),
                max_tokens=self.max_tokens,
            )
            for original, variant in texts
            for first, second in ((original, variant), (variant, original))
        ]
        answers = await ask_structured(self.model, requests, SCHEMA, corrections=self.corrections)
        out = []
        for row in range(len(pairs)):
            asked = answers[2 * row : 2 * row + 2]
            said = [one.value if one.error is None else {"error": one.error} for one in asked]
            same = [answer.get("same") for answer in said]
            detail = {"forward": said[0], "backward": said[1]}
            out.append(Verdict(self.name, same == [True, True], json.dumps(detail, sort_keys=True)))
        return out
