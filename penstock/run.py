"""From a recipe to steps, and from steps to a run: the one function behind ``penstock run``.

root/
  run.json            whose folder this is
  recipe.yaml         the recipe as resolved
  documents/ … model-2/   one dataset a step: manifest.json and parts
  timings.json        seconds and peak memory of the last build of each step
  logs/               TensorBoard curves and step times of training
  report.html
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from penstock.checked import sealed, unsealed
from penstock.errors import ConfigError
from penstock.lock import FolderLock
from penstock.ownership import claim
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.passes import Engine
from penstock.recipe import Recipe
from penstock.step import Check, Reporter, Settings, Silent, Step, StepResult, check_steps, run_step
from penstock.storage import Folder

FINGERPRINTS = ".fingerprints.json"
TIMINGS = "timings.json"
_REPORT_LOADS = 3  # last steps of a run: in a small one they take as long as the report's libraries to load


@dataclass(frozen=True)
class RunResult:
    """What a run did, in step order."""

    root: Folder
    steps: tuple[StepResult, ...]
    report: str | None  # path or URL; None when none was asked for
    seconds: float


@dataclass
class Fingerprints:
    """Digests of input files, remembered by path, size and stamp so that unchanged files are read once."""

    root: Folder
    known: dict[str, list[Any]] = field(default_factory=dict)
    changed: bool = False

    @classmethod
    def load(cls, root: Folder, earlier: Folder | None = None) -> Fingerprints:
        """What this run's folder remembers, and what an earlier run's does."""
        known: dict[str, list[Any]] = {}
        for folder in (earlier, root):
            if folder is not None:
                with suppress(FileNotFoundError, ValueError):  # a damaged one costs another look at the files
                    known |= unsealed(folder.read_json(FINGERPRINTS))["files"]
        return cls(root, known)

    def __call__(self, file: Any) -> str:
        from penstock.sources.base import fingerprint

        seen = self.known.get(file.path)
        if seen is not None and seen[:2] == [file.size, file.stamp]:
            return str(seen[2])
        digest = fingerprint(file)
        self.known[file.path] = [file.size, file.stamp, digest]
        self.changed = True
        return digest

    def save(self) -> None:
        if self.changed:
            self.root.write_json(FINGERPRINTS, sealed({"files": self.known}))
            self.changed = False


def root_of(recipe: Recipe, out: str | None) -> Folder:
    """The run's folder: ``--out``, else the recipe's ``output``, else ``runs/<name>``."""
    return Folder(out or recipe.output or f"runs/{recipe.name}")


def settings_of(recipe: Recipe, root: Folder, split_bytes: int, since: str | None = None) -> Settings:
    earlier = None if since is None else Folder(since)
    if earlier is not None and not earlier.exists("run.json"):
        raise ConfigError(
            f"since: got {since}, where no run is (no run.json); give the folder or URL of an earlier run"
        )
    prints = Fingerprints.load(root, earlier)
    return Settings(recipe.seed, recipe.dropped, split_bytes, prints, earlier, recipe.max_dropped)


def check(
    recipe: Recipe,
    *,
    out: str | None = None,
    split_bytes: int = 32 << 20,
    only: Sequence[str] | None = None,
    since: str | None = None,
) -> list[Check]:
    """What a run would do with each step, and why; nothing is written.

    Raises:
        ConfigError: ``since`` is no run.
        OtherRecipeError: the folder belongs to a recipe of another name.
    """
    from penstock.pipelines.plan import needed, plan

    root = root_of(recipe, out)
    own_folder(recipe, root, write=False)
    steps = plan(recipe) if only is None else needed(plan(recipe), only)
    return check_steps(steps, root, settings_of(recipe, root, split_bytes, since))


def own_folder(recipe: Recipe, root: Folder, *, write: bool) -> None:
    """Refuse a folder that another recipe made; mark a new one as this recipe's."""
    hint = "choose another --out, or delete the folder if that run is no longer wanted"
    claim(root, recipe.name, write=write, hint=hint)
    if write:
        root.write_bytes("recipe.yaml", recipe.to_yaml().encode())


@contextmanager
def building(
    steps: Sequence[Step],
    root: Folder,
    settings: Settings,
    *,
    workers: int | None = None,
    engine: Engine | None = None,
    reporter: Reporter,
) -> Iterator[tuple[list[Check], Callable[[Step], StepResult]]]:
    """What a folder's steps are built with, for every verb that builds: their checks, and the function that builds one.

    The caller holds the folder's lock and has claimed it. Seconds and peak memory of each build go to the timings.
    """
    checks = check_steps(steps, root, settings)
    settings.fingerprint.save()  # type: ignore[attr-defined]
    with ExitStack() as stack:
        engine = engine or stack.enter_context(HomeEngine(workers))
        watch = stack.enter_context(PeakMemory())

        def build(step: Step) -> StepResult:
            watch.reset()
            result = run_step(step, root, engine, reporter, settings)
            if not result.skipped:
                remember(root, result, watch.peak)
            return result

        yield checks, build


def run(
    recipe: Recipe,
    *,
    out: str | None = None,
    workers: int | None = None,
    engine: Engine | None = None,
    reporter: Reporter | None = None,
    split_bytes: int = 32 << 20,
    only: Sequence[str] | None = None,
    since: str | None = None,
    flow: bool = False,
    report: bool = True,
) -> RunResult:
    """Build every step that is not up to date, then the report.

    Args:
        out: folder or URL of the run; by default the recipe's.
        workers: processes of the home engine; by default one a core.
        engine: runs the passes instead of the home engine.
        split_bytes: input bytes of one split; changes no output.
        only: names of steps to run, with what they need; by default all.
        since: folder or URL of an earlier run. What was fitted there (tokenizer, quality classifier) is kept, and
            every part whose input did not change is taken over. Without it the run's own folder serves for parts.
        flow: order the steps by a Prefect flow (extra ``flows``) when there is something to do.
        report: write ``report.html`` at the end.

    Raises:
        PenstockError: of the kind that says what to mend; everything done so far is kept.
    """
    from penstock.pipelines.plan import needed, plan
    from penstock.report.process import ReportProcess

    started, began = time.perf_counter(), datetime.now(UTC)
    reporter = reporter or Silent()
    root = root_of(recipe, out)
    with ExitStack() as stack:
        stack.enter_context(FolderLock(root))
        own_folder(recipe, root, write=True)
        settings = settings_of(recipe, root, split_bytes, since)
        steps = plan(recipe)
        if only is not None:
            steps = needed(steps, only)
        together = building(steps, root, settings, workers=workers, engine=engine, reporter=reporter)
        checks, build = stack.enter_context(together)
        reports = stack.enter_context(ReportProcess())
        last = [c.step.name for c in checks if not c.skip][-_REPORT_LOADS:]

        def do(step: Step) -> StepResult:
            if step.name in last and report and workers != 0:
                reports.start()
            return build(step)

        def write_report(results: Sequence[StepResult]) -> str:
            return reports.write(recipe, root, [r.step.name for r in results if not r.skipped], began)

        results = in_order(recipe.name, checks, do, reporter, flow=flow, report=write_report if report else None)
    written = root.join("report.html") if report else None
    return RunResult(root, results, written, time.perf_counter() - started)


def in_order(
    name: str,
    checks: Sequence[Check],
    build: Callable[[Step], StepResult],
    reporter: Reporter,
    *,
    flow: bool,
    report: Callable[[Sequence[StepResult]], str] | None = None,
) -> tuple[StepResult, ...]:
    """Build every step, then the report.

    Args:
        name: of the flow.
        flow: make each a task of Prefect's, when there is something to do.
        report: writes it, told what was done, and returns its path or URL.
    """
    steps = {check.step.name: check.step for check in checks}
    results: list[StepResult] = []

    def do(step: str) -> StepResult:
        results.append(build(steps[step]))
        return results[-1]

    if flow and not all(check.skip for check in checks):
        from penstock.flows.steps import run_as_flow

        run_as_flow(name, list(steps), do, None if report is None else partial(report, results), reporter)
    else:
        for step in steps:
            do(step)
        if report is not None:
            report(results)
    return tuple(results)


def report_again(recipe: Recipe, *, out: str | None = None) -> str:
    """Write the report of a run's datasets as they are and return its path.

    Raises:
        DatasetError: there is none.
        OtherRecipeError: the folder belongs to a recipe of another name.
    """
    from penstock.report.build import write_report

    root = root_of(recipe, out)
    own_folder(recipe, root, write=False)
    return write_report(recipe, root)


def remember(root: Folder, result: StepResult, peak: int) -> None:
    """Keep a built step's time and memory; they are facts of this machine, so no manifest holds them."""
    timings = read_timings(root)
    timings[result.step.name] = {
        "seconds": round(result.seconds, 3),
        "peak_memory": peak,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    root.write_json(TIMINGS, sealed(timings))


def read_timings(root: Folder) -> dict[str, Any]:
    """``seconds``, ``peak_memory`` (bytes) and ``finished`` (ISO 8601) of the last build of each step, by its name.

    A damaged file is as good as none: times are told to people and decide nothing.
    """
    try:
        return unsealed(root.read_json(TIMINGS))
    except (FileNotFoundError, ValueError):
        return {}


class PeakMemory:
    """Samples the resident memory of this process and its children, together, five times a second."""

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="penstock-memory", daemon=True)

    def reset(self) -> None:
        self.peak = 0

    def _watch(self) -> None:
        import psutil

        me = psutil.Process(os.getpid())
        while not self._stop.wait(0.2):
            total = 0
            try:
                family = [me, *me.children(recursive=True)]
            except psutil.Error:
                continue
            for process in family:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue  # it ended between the two calls
            self.peak = max(self.peak, total)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
