"""The report of a run, written by a process that loads the drawing libraries while the last steps are built.

They take more than a second to load, a fifth of a nightly build, and while its last steps are built a core idles.

Price: 150 MB while the last steps are built.
"""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime
from types import TracebackType

from penstock import processes
from penstock.recipe import Recipe
from penstock.storage import Folder


class ReportProcess:
    """Writes one report; ends with the block it is made for, whatever it is at."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> ReportProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            processes.end(self._pool)
            self._pool = None

    def start(self) -> None:
        """Let the process load what it needs; without this the report is written by the calling process."""
        if self._pool is None:
            self._pool = processes.start(1, load=_load)

    def write(self, recipe: Recipe, root: Folder, built: Collection[str], began: datetime) -> str:
        """``penstock.report.build.write_report``, with what it returns and raises."""
        from penstock.report.build import write_report

        if self._pool is not None:
            try:
                return self._pool.submit(write_report, recipe, root, built, began).result()
            except BrokenProcessPool:
                self._pool = None  # killed, or out of memory: the report is still to be written
        return write_report(recipe, root, built, began)


def _load() -> None:
    from penstock.report import build, charts, render

    del build, render
    charts.draw_nothing()
