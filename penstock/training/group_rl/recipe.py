"""What a recipe says about learning from groups: the settings of the objective, the model and the problems.

    group_rl: {}                                               the run's own model, on its own groups of problems
    group_rl: {model: models/small, problems: runs/groups}     others

Paths are relative to where the command runs.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from penstock.errors import ConfigError
from penstock.generators.exports import INSTRUCTION
from penstock.training.group_rl.config import RUNNING, GroupRLConfig

OWN_PROMPT = "Question: {question}\nAnswer:"  # as the run's documents have problems: see sources.base.problem_text
_PLACE = "{question}"


@dataclass(frozen=True, kw_only=True)
class GroupRLRecipe(GroupRLConfig):
    """``GroupRLConfig``, and what is trained on what."""

    max_new_tokens: int = 128  # half of the context that a recipe's own model has by default
    model: str | None = None  # folder of the model to start from, or a run's; None is the first round's of ``train``
    problems: str | None = None  # folder of `penstock transform`, or a file of its rows; None is what the run made
    held_out: float | str = 0.1  # share of the questions that pass@k is measured on, or a folder or file of others
    prompt: str | None = None  # what is asked, with {question}, in place of ``instruction``; None: see ``asks``

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.held_out, bool) or (isinstance(self.held_out, float | int) and not 0 <= self.held_out < 1):
            raise ConfigError(
                f"held_out: got {self.held_out!r}, allowed a share from 0 to below 1, or a path; 0 measures nothing"
            )
        for name in ("model", "problems", "held_out"):
            if getattr(self, name) == "":
                raise ConfigError(f"{name}: got an empty path, allowed a folder or a file; name one or leave it out")
        if self.prompt is not None and self.prompt.count(_PLACE) != 1:
            raise ConfigError(
                f"prompt: got {self.prompt!r}, allowed a text with {_PLACE} once; say where the question stands"
            )
        if self.prompt is not None and self.instruction != INSTRUCTION:
            raise ConfigError("prompt: got it beside an instruction, allowed one of them; put all into the prompt")

    @property
    def asks(self) -> str | None:
        """The prompt of a question; None for ``instruction`` above it.

        The run's own model has read problems as documents and is asked in their form, unless the recipe says otherwise.
        """
        own = self.model is None and self.instruction == INSTRUCTION
        return OWN_PROMPT if self.prompt is None and own else self.prompt

    def asked(self, question: str) -> str:
        """What the model is asked about a question, before any chat template and ``settings.instruction``."""
        return question if self.asks is None else self.asks.replace(_PLACE, question)

    @property
    def settings(self) -> GroupRLConfig:
        """Those of the loop; the instruction is empty where the prompt stands in its place."""
        given: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(GroupRLConfig)}
        return GroupRLConfig(**given | ({} if self.asks is None else {"instruction": ""}))

    def said(self) -> dict[str, Any]:
        """What decides the outcome, as JSON values; where things lie is not among it."""
        left_out = {*RUNNING, "model", "problems"}
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}
        if isinstance(self.held_out, str):
            del found["held_out"]
        return found | {"asks": self.asks}
