"""What a report shows of learning from groups: rewards, groups without gradient, pass@k, answers. Part of the record.

Rewards are those of the recipe (1 for a right answer, 0 for a wrong one, where it compares answers); shares are of the
groups that share a baseline. An answer of which nothing is known, such as a time-out, is in no mean and in no share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from penstock.report.record_training import Curve


@dataclass(frozen=True, kw_only=True)
class TransformReward:
    """Mean reward of the answers to one kind of phrasing, over the first and the last tenth of the steps."""

    transform: str  # "original" or the transform's name
    first: float | None
    last: float | None


@dataclass(frozen=True, kw_only=True)
class PassRecord:
    """pass@k on one set of held-out problems, by k: means over problems, before the first step and after the last.

    ``error`` is the standard error of ``after`` over problems, by k.
    """

    name: str  # "originals", "variants"
    problems: int
    samples: int  # answers to each
    ks: tuple[int, ...]
    before: tuple[float | None, ...]  # None where too few answers are known
    after: tuple[float | None, ...]
    error: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class AnswerSample:
    """An answer that was sampled while training; ``reward`` is None where it is not known."""

    step: int
    problem: str
    transform: str
    reward: float | None
    outcome: str  # "correct", "wrong", "timeout", …
    question: str
    text: str


@dataclass(frozen=True, kw_only=True)
class PolicyRecord:
    """A model that learned from groups, from the step ``policy-OBJECTIVE`` and its metrics.

    ``zero_gradient``, ``all_zero`` and ``all_one`` are shares of groups by step: those whose rewards are all equal give
    no gradient. ``outcomes`` counts answers over all steps, ``dropped`` problems by the reason why they were left out.
    """

    objective: str
    model: str  # where it started from
    device: str
    parameters: int
    groups: int  # questions trained on
    problems: int  # their phrasings
    held_out: int  # questions kept for pass@k
    steps: int
    answers: int
    seconds: float
    reward: Curve = dataclasses.field(default_factory=Curve)
    zero_gradient: Curve = dataclasses.field(default_factory=Curve)
    all_zero: Curve = dataclasses.field(default_factory=Curve)
    all_one: Curve = dataclasses.field(default_factory=Curve)
    transforms: tuple[TransformReward, ...] = ()
    passes: tuple[PassRecord, ...] = ()
    outcomes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    dropped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    samples: tuple[AnswerSample, ...] = ()
