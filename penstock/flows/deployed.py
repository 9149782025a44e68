"""One Prefect flow a verb, for deployments: ``penstock.flows.deployed.build`` and its like are entry points.

Parameters are checked before anything starts. The verb is one task, tried again with a growing delay where that may
help (retry.py); the steps that it builds are tasks within it. What was done is kept, so another try, or a run after a
kill, goes on. The step table, the drops by reason, progress and a link to the report are artifacts of the flow run,
also of one that fails.

Importing this module loads Prefect (extra ``flows``).

Price: 3 s to start the process of a run, about 20 ms a task and an artifact.
"""

from __future__ import annotations

import contextvars
import inspect
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from prefect import Flow, State, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import FailedRun
from prefect.runtime import deployment
from prefect.states import Failed
from prefect.tasks import exponential_backoff

from penstock.errors import ConfigError, PenstockError
from penstock.flows.artifacts import Progress, publish, recording
from penstock.flows.retry import worth_again
from penstock.flows.verbs import VERBS, Outcome
from penstock.report.text import duration, one_line
from penstock.step import Step, StepResult
from penstock.storage import without_users

SERVED_BY = "PENSTOCK_SERVED_BY"  # process id of ``penstock serve``, in the environment of its runs
LINE_CHARACTERS = 400
LEASE_SECONDS = 60.0


class RunReporter:
    """A reporter of the current flow run: its log, its progress artifact and the results for its tables."""

    def __init__(self, steps: int, prefix: str) -> None:
        self.results: list[StepResult] = []
        self.prefix = prefix
        self._log = get_run_logger()
        self._progress = Progress(steps, prefix)
        self._context = contextvars.copy_context()  # of the flow run, on whatever thread the news come

    def step_started(self, step: Step, why: str) -> None:
        self._log.info("%s: %s", step.name, one_line(why, LINE_CHARACTERS))

    def progress(self, step: Step, what: str, done: int, total: int) -> None:
        with recording(self.warn):
            self._context.run(self._progress.within, step.name, what, done, total)

    def step_finished(self, result: StepResult) -> None:
        name = result.step.name
        if name not in {r.step.name for r in self.results}:  # otherwise another try skips what the last one built
            self.results.append(result)
            with recording(self.warn):
                self._context.run(self._progress.step_done, name)
        if not result.skipped:
            counts = result.manifest.counts
            self._log.info(
                "%s: %s, kept %s, dropped %s, digest %s",
                name,
                duration(result.seconds),
                f"{counts.kept:,}",
                f"{counts.dropped_total:,}",
                result.manifest.digest[:8],
            )

    def note(self, message: str) -> None:
        self._log.info("%s", one_line(message, LINE_CHARACTERS))

    def warn(self, message: str) -> None:
        self._log.warning("%s", one_line(message, 4 * LINE_CHARACTERS))


def _perform(
    name: str, given: Mapping[str, Any], retries: int, retry_seconds: float, occupies: Sequence[str]
) -> State[Any] | str:
    """The body of every flow.

    Returns:
        The outcome's folder, or a failed state with our message: raising would bury it in a traceback.
    """
    _end_with_server()
    verb = VERBS[name]
    try:
        steps = verb.steps(**given)
    except PenstockError as error:
        return _failure(error)
    prefix = re.sub("[^a-z0-9]+", "-", f"{deployment.name or ''}".lower()).strip("-")
    reporter = RunReporter(len(steps), f"{prefix}-" if prefix else "")
    outcomes: list[Outcome] = []
    errors: list[BaseException] = []

    @task(
        name=name,
        task_run_name=name,
        retries=retries,
        retry_delay_seconds=exponential_backoff(retry_seconds),
        retry_condition_fn=lambda *_: worth_again(errors[-1]),
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    def work() -> str:
        try:
            outcomes.append(verb.function(**given, reporter=reporter, **({"flow": True} if verb.takes_flow else {})))
        except BaseException as error:
            errors.append(error)
            raise
        return outcomes[-1].folder

    try:
        with _places(occupies):
            return work()
    except PenstockError as error:
        return _failure(error)
    except ConcurrencySlotAcquisitionError as error:
        names = ", ".join(occupies)
        return _failure(
            ConfigError(f"occupies: got {names}, allowed limits of this server ({error}); prefect gcl create makes one")
        )
    finally:
        with recording(reporter.warn):
            done = outcomes[-1] if outcomes else Outcome("")  # nothing, of a run that failed
            publish(reporter.results, done.report, prefix=reporter.prefix, files=done.files)


@contextmanager
def _places(limits: Sequence[str]) -> Iterator[None]:
    """One place of each limit, given back at the end; of a killed run when its lease ends."""
    if not limits:
        yield
        return
    get_run_logger().info("waiting for a place of %s", ", ".join(limits))
    # strict: a limit that does not exist is an error, not a run without a limit. A server that is away for a moment
    # ends no training.
    with concurrency(list(limits), strict=True, lease_duration=LEASE_SECONDS, raise_on_lease_renewal_failure=False):
        yield


def _failure(error: PenstockError) -> State[Any]:
    message = one_line(without_users(str(error)), 4 * LINE_CHARACTERS)
    get_run_logger().error("%s", message)
    logging.getLogger("prefect.flow_runs").addFilter(_not_a_failed_run)
    return Failed(message=message)


def _not_a_failed_run(record: logging.LogRecord) -> bool:
    """Whether a record is no traceback of Prefect's about the failed state that we returned."""
    return not (record.exc_info and isinstance(record.exc_info[1], FailedRun))


def _end_with_server() -> None:
    """A run of ``penstock serve`` leaves Ctrl-C to it, and ends with it however it ended."""
    parent = int(os.environ.get(SERVED_BY) or 0)
    if parent == 0:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="penstock-served", daemon=True).start()


def _flow_of(name: str) -> Flow[..., Any]:
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        *(parameter.replace(kind=keyword) for parameter in VERBS[name].arguments()),
        inspect.Parameter("retries", keyword, default=3, annotation=int),
        inspect.Parameter("retry_seconds", keyword, default=30.0, annotation=float),
        inspect.Parameter("occupies", keyword, default=[], annotation=list[str]),
    ]

    def deployed(*, retries: int, retry_seconds: float, occupies: list[str], **given: Any) -> State[Any] | str:
        return _perform(name, given, retries, retry_seconds, occupies)

    deployed.__name__ = deployed.__qualname__ = name
    deployed.__doc__ = inspect.getdoc(VERBS[name].function)
    deployed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return flow(name=f"penstock-{name}", persist_result=False)(deployed)


run = _flow_of("run")
build = _flow_of("build")
train = _flow_of("train")
refresh = _flow_of("refresh")
generate = _flow_of("generate")
transform = _flow_of("transform")
push = _flow_of("push")
