"""Everything a run writes down beside its weights and signals: metrics, times, the policy's log, curves.

The first rank of a run writes; on the others all of this does nothing. ``metrics.jsonl`` and the policy's log are
functions of the run and come out the same after a kill; ``timings.jsonl`` never repeats and stands apart.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from penstock.training.distributed import Ranks
from penstock.training.metrics import Curves, JsonLines
from penstock.training.signals import drop_policy_entries, write_policy_entry


class Records:
    """The files of one run's folder that tell its story."""

    def __init__(self, folder: Path, ranks: Ranks, *, tensorboard: bool, begins: int = 0) -> None:
        """``begins`` is the step that the run's first one comes after."""
        self.folder, self.first = folder, ranks.first
        self.metrics, self.timings = (JsonLines(folder / f"{name}.jsonl", begins) for name in ("metrics", "timings"))
        self.tensorboard = folder / "tensorboard" if tensorboard else None
        self._curves: Curves | None = None

    def open(self, step: int, stack: ExitStack) -> None:
        """Drop what was written after ``step`` and go on from there; DatasetError when an earlier line is missing."""
        if not self.first:
            return
        drop_policy_entries(self.folder / "policy_log", step)
        for lines in (self.metrics, self.timings):
            lines.open(step)
            stack.callback(lines.close)
        self._curves = stack.enter_context(Curves(self.tensorboard, step))

    def step(self, record: dict[str, Any], timing: dict[str, Any]) -> None:
        """One line of each file and the curves' points."""
        if self._curves is not None:
            self.metrics.append(record)
            self.timings.append(timing)
            self._curves.add(record["step"], record, timing)

    def sync(self) -> None:
        """Wait until the lines are on the disk."""
        if self.first:
            self.metrics.sync()
            self.timings.sync()

    def policy(
        self,
        *,
        step: int,
        effective_from: int,
        version: int,
        name: str,
        domains: tuple[str, ...],
        old: Any,
        new: Any,
        seen: dict[str, Any] | None = None,
    ) -> None:
        """One row of the policy's log."""
        if self.first:
            write_policy_entry(
                self.folder / "policy_log",
                step=step,
                effective_from=effective_from,
                version=version,
                policy=name,
                domains=domains,
                old=np.asarray(old, dtype=np.float64).tolist(),
                new=np.asarray(new, dtype=np.float64).tolist(),
                signals=None if seen is None else json.dumps(seen, allow_nan=False, sort_keys=True),
            )
