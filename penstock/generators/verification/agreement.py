"""Does a variant have the answer that it should: a reference model solves it several times.

A variant passes where the answer given most often is its gold answer, and the share of right solutions lies in a band.
This is the one check that sees a changed problem whatever the change was, as far as the model can solve it: a variant
whose true answer differs is solved to that other answer.

The lower end of the band asks for a minimum of agreement; the upper end is about difficulty and not about equivalence,
so by default it is 1. ``SVS_BAND`` is SvS's (arXiv 2508.14029, its code): neither trivial nor unsolvable, to choose
problems that a model still learns from.

Solutions that were not verified (a time-out, an error, no completion) count on neither side. Originals are solved too,
once each, so that every verdict holds the share of right solutions before and after; ``shifts`` gives their mean
difference by kind of transform. A large shift is another distribution of difficulty, which pooled rewards would hide.

Price: ``samples`` requests for each variant and each original.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from penstock.errors import ConfigError
from penstock.generators.base import LanguageModel, Message, Request
from penstock.generators.items import Verdict
from penstock.generators.prompt_files import PromptFile
from penstock.generators.verification.base import Pair
from penstock.generators.verification.workers import AnswerVerifier
from penstock.seeding import derive

NAME = "solve_agreement"
BAND = (0.125, 1.0)
SVS_BAND = (0.125, 0.625)


class Solved(NamedTuple):
    """How a question was solved: right and wrong solutions, those not decided, and the commonest wrong answer."""

    correct: int
    wrong: int
    undecided: int
    rival: str | None
    rivals: int

    @property
    def accuracy(self) -> float | None:
        """The share of right solutions among the decided; None where none was."""
        decided = self.correct + self.wrong
        return self.correct / decided if decided else None


@dataclass(frozen=True, kw_only=True)
class SolveAgreement:
    """ModelCheck ``solve_agreement``.

    Args:
        model: the reference, usually a ``ModelSession``.
        verifier: decides of the solutions.
        prompt: with ``{{question}}``.
        samples: solutions of each question.
        band: lowest and highest share of right solutions that pass.
        originals: solve the originals too, for the shift of difficulty.
        temperature, max_tokens, seed: of the requests.

    Raises ConfigError for settings out of their range.
    """

    model: LanguageModel
    verifier: AnswerVerifier
    prompt: PromptFile
    samples: int = 8
    band: tuple[float, float] = BAND
    originals: bool = True
    temperature: float = 0.7
    max_tokens: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"samples: got {self.samples}, allowed >= 1; 8 is good")
        check_band("band", self.band, 0.0)

    @property
    def name(self) -> str:
        return NAME

    async def check_async(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """One verdict for each pair; its detail (JSON) counts the solutions.

        Raises:
            BudgetError: nothing more may be asked.
        """
        asked = {(pair.variant.prompt, pair.variant.answer): None for pair in pairs}
        if self.originals:
            asked |= {(pair.problem.prompt, pair.problem.answer): None for pair in pairs}
        solved = dict(zip(asked, await self._solve(list(asked)), strict=True))
        out = []
        for pair in pairs:
            found = solved[pair.variant.prompt, pair.variant.answer]
            before = solved.get((pair.problem.prompt, pair.problem.answer))
            out.append(self._verdict(found, before))
        return out

    def _verdict(self, found: Solved, before: Solved | None) -> Verdict:
        accuracy = found.accuracy
        low, high = self.band
        passed = accuracy is not None and found.correct > found.rivals and low <= accuracy <= high
        detail = {
            "accuracy": accuracy,
            "correct": found.correct,
            "wrong": found.wrong,
            "undecided": found.undecided,
            "rival": found.rival,
            "rivals": found.rivals,
            "original_accuracy": before.accuracy if before is not None else None,
        }
        return Verdict(NAME, passed, json.dumps(detail, sort_keys=True))

    async def _solve(self, questions: Sequence[tuple[str, str]]) -> list[Solved]:
        requests = [
            Request(
                messages=(Message("user", self.prompt.fill(question=question)),),
                temperature=self.temperature,
                max_tokens=self.max_tokens,
                seed=derive(self.seed, NAME) & 0x7FFFFFFF,  # servers take 32 bits
                sample=sample,
            )
            for question, _ in questions
            for sample in range(self.samples)
        ]
        completions = await self.model.complete(requests)
        # verifying takes processes and time; the loop that answers other requests must not stand still
        return await asyncio.to_thread(
            self._count, questions, [c.text if c.error is None else None for c in completions]
        )

    def _count(self, questions: Sequence[tuple[str, str]], solutions: Sequence[str | None]) -> list[Solved]:
        n = self.samples
        rows = [
            (gold, [text for text in solutions[place * n : place * n + n] if text is not None])
            for place, (_, gold) in enumerate(questions)
        ]
        verified = iter(self.verifier.verify([(gold, text) for gold, texts in rows for text in texts]))
        out = []
        for _, texts in rows:
            results = [next(verified) for _ in texts]
            wrong = [one.answer for one in results if one.result == "wrong"]
            correct = sum(one.result == "correct" for one in results)
            rival, rivals = self._commonest([answer for answer in wrong if answer is not None])
            out.append(Solved(correct, len(wrong), n - correct - len(wrong), rival, rivals))
        return out

    def _commonest(self, answers: Sequence[str]) -> tuple[str | None, int]:
        """The answer given most often, equal ones together, and how often; the first of several."""
        groups: list[tuple[str, int]] = []
        left = list(answers)
        while left:
            known = self.verifier.verify([(left[0], rf"\boxed{{{answer}}}") for answer in left])
            same = [place == 0 or one.result == "correct" for place, one in enumerate(known)]
            groups.append((left[0], sum(same)))
            left = [answer for answer, one in zip(left, same, strict=True) if not one]
        return max(groups, key=lambda group: group[1], default=(None, 0))


def check_band(where: str, band: tuple[float, float], lowest: float) -> None:
    """Raise ConfigError where a band is no range within ``lowest`` and 1."""
    low, high = band
    if not lowest <= low <= high <= 1.0:
        raise ConfigError(f"{where}: got {low} to {high}, allowed {lowest:g} <= lowest <= highest <= 1; correct it")


def shifts(verdicts: Iterable[tuple[str, Verdict]]) -> dict[str, dict[str, float]]:
    """Mean difference of accuracy, variant less original, by kind: ``{kind: {"pairs": …, "shift": …}}``.

    Args:
        verdicts: (kind, verdict) of any check; those of others, and those without both accuracies, are passed over.
    """
    sums: dict[str, tuple[int, float]] = {}
    for kind, verdict in verdicts:
        if verdict.check != NAME:
            continue
        told: Mapping[str, float | None] = json.loads(verdict.detail)
        after, before = told["accuracy"], told["original_accuracy"]
        if after is not None and before is not None:
            pairs, total = sums.get(kind, (0, 0.0))
            sums[kind] = (pairs + 1, total + after - before)
    return {kind: {"pairs": pairs, "shift": round(total / pairs, 6)} for kind, (pairs, total) in sorted(sums.items())}
