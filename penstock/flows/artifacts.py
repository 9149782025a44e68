"""What a flow run shows of itself in Prefect: the step table, drops by reason, progress, the report.

Texts come from data and Prefect shows Markdown, so names are made harmless first.

Price: about 20 ms an artifact or update.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from penstock.report.text import one_line
from penstock.step import StepResult
from penstock.storage import without_users

NAME_CHARACTERS = 200
PROGRESS_SECONDS = 5.0  # between two updates within a step


def link_to(path: str) -> str:
    """A path or URL of a store as a link that Markdown cannot misread."""
    return quote(path, safe=":/") if "://" in path else Path(path).absolute().as_uri()


def cell(text: str) -> str:
    """Text from data for a table artifact, whose cells are shown as Markdown: a code span unless it is a mere name."""
    shown = one_line(text, NAME_CHARACTERS)
    if re.fullmatch(r"(?!www\.)[^\W_]([\w.-]*[^\W_])?", shown):
        return shown
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    return f"{fence} {shown} {fence}"


def step_rows(results: Sequence[StepResult]) -> list[dict[str, Any]]:
    """The step table as rows of an artifact."""
    return [
        {
            "step": r.step.name,
            "status": "skipped" if r.skipped else "built",
            "in": r.manifest.counts.rows_in,
            "made": r.manifest.counts.made,
            "kept": r.manifest.counts.kept,
            "dropped": r.manifest.counts.dropped_total,
            "seconds": round(r.seconds, 1),
            "digest": r.manifest.digest[:8],
        }
        for r in results
    ]


def drop_rows(results: Sequence[StepResult]) -> list[dict[str, Any]]:
    """Drop reasons of all steps as rows of an artifact."""
    return [
        {"step": r.step.name, "work": cell(work), "reason": cell(reason), "rows": rows}
        for r in results
        for work, reasons in r.manifest.counts.dropped.items()
        for reason, rows in reasons.items()
    ]


def publish(
    results: Sequence[StepResult],
    report: str | None,
    prefix: str = "",
    files: Mapping[str, tuple[int, int]] | None = None,
) -> None:
    """Write the tables of these steps, and the link to the report where there is one, into the current flow run.

    Args:
        prefix: before the keys, by which Prefect lists the versions of an artifact: ``nightly-``.
        files: of a push, in place of steps: number and bytes by what became of them.
    """
    from prefect.artifacts import create_link_artifact, create_table_artifact

    if files:
        rows = [{"what": what, "files": number, "bytes": size} for what, (number, size) in files.items()]
        create_table_artifact(key=f"{prefix}files", table=rows, description="Files by what became of them")
    else:
        create_table_artifact(key=f"{prefix}steps", table=step_rows(results), description="Steps of the run")
        drops = drop_rows(results)
        create_table_artifact(key=f"{prefix}drop-reasons", table=drops, description="Rows dropped, by reason")
    if report is not None:
        create_link_artifact(key=f"{prefix}report", link=link_to(report), link_text="report.html")


@contextmanager
def recording(warn: Callable[[str], None]) -> Iterator[None]:
    """Turn Prefect's failure to record something into a warning: the work goes on without."""
    import httpx
    from prefect.exceptions import PrefectException

    try:
        yield
    except (OSError, httpx.HTTPError, PrefectException) as error:
        warn(without_users(f"Prefect could not record an artifact: {type(error).__name__}: {error}"))


class Progress:
    """The progress artifact of the current flow run: per cent of its steps, and what it is at."""

    def __init__(self, steps: int, prefix: str = "") -> None:
        self._steps, self._prefix = max(steps, 1), prefix
        self._done = 0
        self._artifact: Any = None
        self._said = time.monotonic()

    def step_done(self, name: str) -> None:
        """One more step is built or skipped."""
        self._done += 1
        self._say(0.0, f"{name}: {self._done} of {self._steps} steps")

    def within(self, name: str, what: str, done: int, total: int) -> None:
        """A pass of a step went on; said at most every ``PROGRESS_SECONDS``."""
        if time.monotonic() - self._said >= PROGRESS_SECONDS:
            self._say(done / max(total, 1), f"{name}: {what}, {done:,} of {total:,} parts")

    def _say(self, fraction: float, description: str) -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        self._said = time.monotonic()
        percent = min(100.0 * (self._done + fraction) / self._steps, 100.0)
        if self._artifact is None:
            key = f"{self._prefix}progress"
            self._artifact = create_progress_artifact(percent, key=key, description=description)
        else:
            update_progress_artifact(self._artifact, percent, description=description)
