"""The steps of a run as tasks of a Prefect flow: one task a step, paths between tasks, artifacts at the end.

Keys are checked before anything of Prefect is imported, so a run with nothing to do starts no server.

Price: 5 to 15 s to start the server (environment.py), about 20 ms a task.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from penstock.errors import PenstockError
from penstock.flows.artifacts import Progress, publish, recording
from penstock.flows.environment import api_of_a_run, prepare_environment, require_prefect
from penstock.step import Reporter, StepResult
from penstock.storage import without_users


def run_as_flow(
    name: str,
    steps: Sequence[str],
    do: Callable[[str], StepResult],
    report: Callable[[], str] | None,
    reporter: Reporter,
) -> None:
    """Run ``do(step)`` for every step as tasks of one flow, then ``report()``, and publish artifacts.

    Within a flow run (that of a deployment, say) they are tasks of that one, which publishes its artifacts itself.

    Args:
        name: shown as the flow run's name.
        do: runs or skips one step by name; called in order.
        report: writes the report and returns its path or URL.
        reporter: hears of the server's start and of what Prefect could not record.

    Raises:
        MissingExtraError: Prefect is not installed.
        PenstockError: Prefect failed before all steps were done; what ``do`` and ``report`` raise passes unchanged.
    """
    require_prefect(", or leave Prefect out with --plain")
    ours = "prefect" not in sys.modules
    home = prepare_environment()
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect.context import FlowRunContext

    if ours:
        # its log goes to its server, the terminal has ours; without a handler Python would print warnings itself
        log = logging.getLogger("prefect")
        log.propagate = False
        log.addHandler(logging.NullHandler())

    results: list[StepResult] = []
    failed: list[BaseException] = []
    written: list[str] = []

    @contextmanager
    def noting_failure() -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            failed.append(error)
            raise

    @task(name="step", task_run_name="{step}", cache_policy=NO_CACHE, persist_result=False)
    def step_task(step: str) -> str:
        with noting_failure():
            results.append(do(step))
        return results[-1].folder.url

    @task(name="report", task_run_name="report", cache_policy=NO_CACHE, persist_result=False)
    def report_task() -> str:
        assert report is not None
        with noting_failure():
            written.append(report())
        return written[-1]

    def tasks(progress: Progress | None = None) -> None:
        for step in steps:
            step_task(step)
            if progress is not None:
                with recording(reporter.warn):
                    progress.step_done(step)
        if report is not None:
            report_task()

    @flow(name="penstock-run", flow_run_name=name, persist_result=False, validate_parameters=False)
    def whole_run() -> None:
        tasks(Progress(len(steps)))
        publish(results, written[-1] if written else None)

    try:
        if FlowRunContext.get() is not None:
            tasks()
        else:
            with api_of_a_run(home, reporter):
                whole_run()
    except Exception as error:
        if failed:
            raise failed[0] from None
        if isinstance(error, PenstockError):
            raise
        what = without_users(" ".join(f"{type(error).__name__}: {error}".split()))
        if len(results) < len(steps) or (report is not None and not written):
            raise PenstockError(
                f"Prefect failed ({what}); what is done is kept: run again to resume, with --plain to leave Prefect out"
            ) from error
        reporter.warn(f"the run is complete, but Prefect could not record it: {what}")
