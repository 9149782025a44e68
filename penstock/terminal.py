"""What a run looks like in a terminal: progress while it works, a table at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from penstock.step import Check, Step, StepResult

if TYPE_CHECKING:
    from penstock.recipe import Recipe
    from penstock.run import RunResult


def plain(text: str) -> Text:
    """Text from data, with nothing a terminal would obey."""
    return Text("".join(c if c.isprintable() else "\ufffd" for c in text))


class Terminal:
    """A reporter with a live progress bar for each pass; on a pipe it prints lines instead."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._task: tuple[str, object] | None = None
        self._started = time.perf_counter()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._task = None

    def step_started(self, step: Step, why: str) -> None:
        budget = f", budget {step.budget:.0f} s" if step.budget else ""
        self.console.print(Text.assemble((step.name, "bold"), f"  {why}{budget}"))

    def progress(self, step: Step, what: str, done: int, total: int) -> None:
        if not self.console.is_terminal:
            return
        if self._task is None or self._task[0] != what:
            self._stop()
            self._progress = Progress(
                TextColumn("  {task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._progress.start()
            self._task = (what, self._progress.add_task(what, total=total))
        assert self._progress is not None
        self._progress.update(self._task[1], completed=done, total=total)  # type: ignore[arg-type]
        if done == total:
            self._stop()

    def step_finished(self, result: StepResult) -> None:
        self._stop()
        if result.skipped:
            self.console.print(Text.assemble((result.step.name, "dim"), ("  up to date", "dim")))
        else:
            counts = result.manifest.counts
            rows = f"  kept {counts.kept:,}, dropped {counts.dropped_total:,}" if counts.rows_in or counts.kept else ""
            self.console.print(f"  {result.seconds:.1f} s{rows}  digest {result.manifest.digest[:8]}", highlight=False)

    def warn(self, message: str) -> None:
        self.console.print(Text.assemble(("warning: ", "yellow"), plain(message)))


def print_results(result: RunResult) -> None:
    """The step table and the report's path, on stdout."""
    console = Console()
    table = Table(title="Steps", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("step", "status"):
        table.add_column(name, no_wrap=True)
    for name in ("rows in", "made", "kept", "dropped", "s", "budget"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("digest", no_wrap=True)
    for row in result.steps:
        counts = row.manifest.counts
        table.add_row(
            row.step.name,
            "skipped" if row.skipped else "built",
            *(f"{n:,}" if n else "" for n in (counts.rows_in, counts.made, counts.kept, counts.dropped_total)),
            "" if row.skipped else f"{row.seconds:.1f}",
            f"{row.step.budget:.0f}" if row.step.budget else "",
            row.manifest.digest[:8],
        )
    console.print(table)
    console.print(f"{result.seconds:.1f} s in all", highlight=False)
    console.print(f"report: {result.report}", highlight=False, soft_wrap=True)


def print_checks(recipe: Recipe, checks: Sequence[Check], split_bytes: int) -> None:
    """The table of a dry run, on stdout."""
    from penstock.pipelines.plan import sources_of

    console = Console()
    for source in sources_of(recipe):
        inputs = source.inputs()
        size = sum(i.size for i in inputs)
        splits = len(source.plan(split_bytes))
        console.print(f"source {source.name}: {len(inputs):,} files, {size / 1e6:,.1f} MB, {splits:,} pieces", highlight=False)
    table = Table(title=f"Dry run of {recipe.name}")
    for name in ("step", "would", "why", "budget s"):
        table.add_column(name)
    for check in checks:
        budget = f"{check.step.budget:.0f}" if check.step.budget else ""
        table.add_row(check.step.name, "skip" if check.skip else "run", plain(check.why), budget)
    console.print(table)
