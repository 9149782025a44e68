"""What a run of group-relative learning leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class GroupRLResult:
    """A finished run. All paths lie in the run's folder."""

    model: Path  # folder that transformers loads
    checkpoint: Path  # the last one
    metrics: Path  # JSON lines, one a step
    evaluation: Path | None  # JSON lines, one an evaluation; None without held-out problems
    rollouts: Path  # folder of Parquet files, one a step
    device: str  # torch's name of what it ran on
    steps: int
    resumed_from: int  # the step this call began after; 0 is a fresh run
    parameters: int
    groups: int  # questions trained on
    problems: int  # their phrasings
    dropped: Mapping[str, int]  # problems that were not asked, by reason
    answers: int  # over all steps
    tokens: int  # of these answers
    seconds: float  # wall time of this call
    rewards: tuple[float | None, ...]  # mean known reward of every step
    zero_gradient: tuple[float | None, ...]  # share of rollouts without gradient, of every step
    evaluations: tuple[Mapping[str, Any], ...]  # the lines of ``evaluation``
    skipped: int  # steps that changed no weight
