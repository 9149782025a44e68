"""Score items by a rubric with several judges, and drop those below a threshold.

Every juror, a model or one of several samples of it, scores each dimension of the rubric with a whole number. The
verdict holds the mean and the spread (standard deviation over jurors) of the total and the mean of each dimension; an
item whose mean total, as a share of the highest one, is below ``threshold`` is ``low_score``. A juror whose answer
cannot be used after corrections does not count; an item without a juror left is ``not_judged``.

The rubric is a YAML file (``prompts/creative.yaml``, ``prompts/reasoning.yaml``; five and three dimensions of 0 to 5,
as Voyager's paper has them, arXiv 2512.12072) and the prompt around it a file too; both can be replaced. A juror that
is the model which wrote the items favours its own: name another one.

Price: one call an item and juror.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml

from penstock._yaml import load_yaml
from penstock.errors import ConfigError
from penstock.generators.base import LanguageModel, Message, Request
from penstock.generators.gates.passing import Finding
from penstock.generators.gates.relevance import judge_prompt, piece_of
from penstock.generators.items import Item, Verdict
from penstock.generators.prompt_files import PromptFile, read_text
from penstock.generators.structured import ask_structured
from penstock.seeding import derive

RUBRICS = ("creative", "reasoning")
_SEEDS = 2**31


@dataclass(frozen=True, kw_only=True)
class Rubric:
    """Dimensions that are scored from ``lowest`` to ``highest``, each with what it asks.

    Raises ConfigError where nothing can be scored by it.
    """

    name: str
    lowest: int
    highest: int
    dimensions: Mapping[str, str]

    def __post_init__(self) -> None:
        if not self.dimensions or not all(isinstance(t, str) and t.strip() for t in self.dimensions.values()):
            raise ConfigError(f"rubric {self.name}: got a dimension without words, allowed name: what it asks; add it")
        if not self.lowest < self.highest:
            raise ConfigError(f"rubric {self.name}: got {self.lowest} to {self.highest}, allowed lowest below highest")

    @property
    def schema(self) -> dict[str, Any]:
        """What a juror answers."""
        score = {"type": "integer", "minimum": self.lowest, "maximum": self.highest}
        scores = {
            "type": "object",
            "properties": dict.fromkeys(self.dimensions, score),
            "required": list(self.dimensions),
            "additionalProperties": False,
        }
        return {
            "type": "object",
            "properties": {"why": {"type": "string"}, "scores": scores},
            "required": ["why", "scores"],
            "additionalProperties": False,
        }


def rubric_file(name: str) -> Path:
    """Where a rubric is: one of ours by name, or a file."""
    return Path(__file__).parent / "prompts" / f"{name}.yaml" if name in RUBRICS else Path(name)


def read_rubric(name: str) -> Rubric:
    """One of ours by name, or that of a YAML file.

    Raises:
        ConfigError: it is none.
    """
    path = rubric_file(name)
    try:
        said = load_yaml(read_text(path))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: no YAML ({error}); allowed lowest, highest and dimensions") from error
    keys = {"lowest", "highest", "dimensions"}
    if not isinstance(said, dict) or set(said) != keys or not isinstance(said["dimensions"], dict):
        raise ConfigError(f"{path}: got another shape, allowed lowest, highest and dimensions (name: what it asks)")
    if not all(type(said[key]) is int for key in ("lowest", "highest")):
        raise ConfigError(f"{path}: got {said['lowest']!r} and {said['highest']!r}, allowed whole numbers")
    dimensions = {str(key): value for key, value in said["dimensions"].items()}
    return Rubric(name=path.stem, lowest=said["lowest"], highest=said["highest"], dimensions=dimensions)


@dataclass(frozen=True, kw_only=True)
class Jury:
    """Gate: ``low_score`` or ``not_judged``; scores are a verdict.

    Args:
        models: the jurors.
        task: what the items were written for.
        rubric: how they are scored.
        samples: of each model; more than one needs a temperature above 0.
        temperature: of the jurors.
        threshold: least mean total as a share of the range from all lowest to all highest; 0 drops nothing.
        prompt: a file with {{task}}, {{piece}}, {{dimensions}}, {{lowest}}, {{highest}} and {{form}} in place of ours.
        seed: of the requests.

    Raises ConfigError for no juror, a number out of range or a prompt that is not acceptable.
    """

    models: tuple[LanguageModel, ...] = field(repr=False)
    task: str
    rubric: Rubric
    samples: int = 1
    temperature: float = 0.0
    threshold: float = 0.5
    prompt: str | None = None
    seed: int = 0

    name: ClassVar[str] = "jury"

    def __post_init__(self) -> None:
        if not self.models or self.samples < 1:
            raise ConfigError(
                f"jury: got {len(self.models)} models and {self.samples} samples of each, allowed >= 1 and >= 1"
            )
        if self.samples > 1 and self.temperature == 0:
            raise ConfigError(
                f"jury: got {self.samples} samples at temperature 0, allowed one, as all would be equal; raise it"
            )
        if not 0.0 <= self.threshold <= 1.0:
            raise ConfigError(f"jury.threshold: got {self.threshold}, allowed a share from 0 to 1; 0 drops nothing")
        self._file()

    def _file(self) -> PromptFile:
        required = frozenset({"piece", "dimensions", "lowest", "highest", "form"})
        return judge_prompt("jury", self.prompt, required, frozenset({"task"}))

    def setup(self) -> None:
        for model in self.models:
            model.setup()

    async def examine(self, items: Sequence[Item]) -> list[Finding]:
        """``len(models) * samples`` calls an item.

        Raises:
            BudgetError: nothing more may be asked.
        """
        votes: list[list[Mapping[str, int]]] = [[] for _ in items]
        for model in self.models:
            requests = [self._request(item, sample) for sample in range(self.samples) for item in items]
            for place, answer in enumerate(await ask_structured(model, requests, self.rubric.schema)):
                if answer.error is None:
                    votes[place % len(items)].append(answer.value["scores"])
        return [self._finding(one) for one in votes]

    def _request(self, item: Item, sample: int) -> Request:
        rubric = self.rubric
        text = self._file().fill(
            task=self.task,
            piece=piece_of(item),
            lowest=rubric.lowest,
            highest=rubric.highest,
            dimensions="\n".join(f"- {name}: {asks}" for name, asks in rubric.dimensions.items()),
            form=json.dumps(dict.fromkeys(rubric.dimensions, rubric.lowest)),
        )
        return Request(
            messages=(Message("user", text),),
            temperature=self.temperature,
            seed=derive(self.seed, "jury", sample) % _SEEDS,
            sample=sample,
        )

    def _finding(self, votes: Sequence[Mapping[str, int]]) -> Finding:
        asked = len(self.models) * self.samples
        if not votes:
            return Finding("not_judged", (Verdict(self.name, False, f"none of {asked} jurors gave scores"),))
        rubric = self.rubric
        totals = [sum(vote.values()) for vote in votes]
        mean, spread = statistics.fmean(totals), statistics.pstdev(totals)
        lowest, highest = len(rubric.dimensions) * rubric.lowest, len(rubric.dimensions) * rubric.highest
        passed = mean - lowest >= self.threshold * (highest - lowest)
        detail = {
            "rubric": rubric.name,
            "mean": round(mean, 4),
            "spread": round(spread, 4),
            "highest": highest,
            "jurors": len(votes),
            "asked": asked,
            "dimensions": {name: round(statistics.fmean(v[name] for v in votes), 4) for name in rubric.dimensions},
        }
        return Finding(None if passed else "low_score", (Verdict(self.name, passed, json.dumps(detail)),))
