"""What a question transform is: a problem in, a variant with the same answer out, or the reason why it does not apply.

A transform never returns its input: where there is nothing to change it says so. What it returns is a proposal; only
the verification ladder (``penstock.generators.verification``) lets it join the group of its original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A question with its final answer.

    Attributes:
        problem_id: unique; the ``group_id`` of its variants.
        solution: a worked solution, where there is one.
        provenance: JSON values that say where it came from.
    """

    problem_id: str
    prompt: str
    answer: str
    solution: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


class Edit(NamedTuple):
    """A span of the original's prompt (characters) and what stands in its place."""

    start: int
    stop: int
    replacement: str


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A transformed question, not verified yet.

    Attributes:
        kind: ``paraphrase``, ``rename``, ``format``, ``background``, ``term`` or ``subproblem``.
        transform: name of the transform, of which a kind may have several.
        answer: the expected answer in the variant's own form (a letter where it is multiple choice).
        edits: of a rule, all that was changed: applying them to the original's prompt gives ``prompt``. Empty for the
            form that asks a model.
        mapping: of a renaming, old name to new one.
        facts: JSON values that checks need (a sub-problem's answer, the order of options, …).
    """

    prompt: str
    answer: str
    kind: str
    transform: str
    edits: tuple[Edit, ...] = ()
    mapping: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NotApplicable:
    """Why a transform has nothing to offer for a problem."""

    transform: str
    reason: str


class RuleTransform(Protocol):
    """A transform that needs no model; the same problem and stream give the same variant."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...

    def apply(self, problem: Problem, stream: np.random.Generator) -> Variant | NotApplicable: ...


class ModelTransform(Protocol):
    """A transform that asks a language model, many problems at once."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...

    async def apply(self, problems: Sequence[Problem], *, seed: int) -> list[Variant | NotApplicable]:
        """One for each problem, in their order.

        Raises:
            BudgetError: nothing more may be asked.
        """


def edited(prompt: str, edits: Sequence[Edit]) -> str:
    """``prompt`` with every span replaced; the edits rise and do not overlap.

    Raises:
        ValueError: they do not, or lie outside the prompt.
    """
    out, at = [], 0
    for start, stop, replacement in edits:
        if not at <= start <= stop <= len(prompt):
            raise ValueError(f"edits: got a span {start}:{stop} after {at} in {len(prompt)} characters")
        out += [prompt[at:start], replacement]
        at = stop
    return "".join([*out, prompt[at:]])
