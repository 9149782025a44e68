"""A run's records: JSON lines that survive a kill, TensorBoard curves, a progress bar.

Price: one short line and one flush to the operating system a step; the disk is waited for only at checkpoints.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from penstock.errors import DatasetError
from penstock.storage import storage_errors


class JsonLines:
    """One JSON object per step, in step order, each with a ``step`` counted from ``begins`` + 1."""

    def __init__(self, path: Path, begins: int = 0) -> None:
        self.path, self.begins = path, begins
        self._file: IO[str] | None = None

    def open(self, step: int) -> None:
        """Drop the lines of steps after ``step``, a torn last line among them, and append from here on.

        Raises:
            DatasetError: a line of the steps up to ``step`` is missing.
        """
        kept = [record for record in self.read() if record["step"] <= step]
        if [record["step"] for record in kept] != list(range(self.begins + 1, step + 1)):
            raise DatasetError(
                f"{self.path}: holds {len(kept)} of the {step - self.begins} steps before the checkpoint; "
                "put the file back, or remove the run's folder to start anew"
            )
        with storage_errors(str(self.path)):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_name(f".tmp-{self.path.name}")
            temporary.write_text("".join(_line(record) for record in kept), encoding="utf-8")
            temporary.replace(self.path)
            self._file = self.path.open("a", encoding="utf-8")

    def append(self, record: dict[str, Any]) -> None:
        """Write one line, seen at once by whoever follows the file."""
        assert self._file is not None, "append before open"
        with storage_errors(str(self.path)):
            self._file.write(_line(record))
            self._file.flush()

    def sync(self) -> None:
        """Wait until the lines are on the disk."""
        assert self._file is not None, "sync before open"
        with storage_errors(str(self.path)):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; an absent file has none."""
        return whole_lines(self.path)


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of one line a step, each with its ``step``; an absent file has none.

    Raises:
        DatasetError: a line is damaged.
    """
    # only a line that ends with a newline is whole: a kill may cut the last one anywhere
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    found = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if type(record["step"]) is not int:
                raise ValueError(f"its step is {record['step']!r}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DatasetError(
                f"{path}: line {number} is damaged ({error}); put the file back, or remove the run's folder to start "
                "anew"
            ) from error
        found.append(record)
    return found


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n"


class Curves:
    """TensorBoard scalars, each under the name of its group; without a folder, nothing.

    ``train/`` loss, learning rate, gradient norm, skipped steps; ``train_domain/``, ``validation/`` and ``mixture/`` by
    domain; ``target/loss``; ``weighting/`` what the sample weights were like; ``speed/`` tokens per second, MFU and
    the loader's share of the time.
    """

    def __init__(self, folder: Path | None, step: int) -> None:
        """``step`` is the step resumed from: what an earlier attempt drew after it is hidden by TensorBoard."""
        self._writer: Any = None
        if folder is not None:
            from torch.utils import tensorboard

            writer: Any = tensorboard.SummaryWriter
            self._writer = writer(str(folder), purge_step=step + 1 if step else None)

    def add(self, step: int, record: dict[str, Any], timing: dict[str, Any]) -> None:
        """Draw the numbers of one step's line of ``metrics.jsonl`` and of ``timings.jsonl``."""
        if self._writer is None:
            return
        points = {f"train/{name}": record[name] for name in ("loss", "lr", "grad_norm")}
        points["train/skipped"] = float("skipped" in record)
        points["target/loss"] = record.get("target_loss")
        for group, name in (
            ("train_domain", "loss_by_domain"), ("validation", "val_loss_by_domain"), ("mixture", "mixture"),
            ("weighting", "weighting"),
        ):  # fmt: skip
            points |= {f"{group}/{key}": value for key, value in record.get(name, {}).items()}
        points |= {f"speed/{name}": timing[name] for name in ("tokens_per_second", "mfu", "loader_share")}
        for name, value in points.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, step)

    def __enter__(self) -> Curves:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()


class StepProgress:
    """A line on the terminal: step, loss, tokens per second, time left."""

    def __init__(self, steps: int, done: int, *, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("  train"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[rate]} tokens/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not shown,
        )
        self._task = self._bar.add_task("train", total=steps, completed=done, loss="-", rate="-")
        self._began, self._tokens = time.perf_counter(), 0

    def update(self, step: int, loss: float, tokens: int) -> None:
        """``tokens`` are those of this step; the rate shown is the mean since the start of this call."""
        self._tokens += tokens
        rate = self._tokens / max(time.perf_counter() - self._began, 1e-9)
        self._bar.update(self._task, completed=step, loss=f"{loss:.3f}", rate=f"{rate:,.0f}")

    def __enter__(self) -> StepProgress:
        self._bar.start()
        self._began = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()
