"""The whole run as a Prefect flow: one task a step, paths between tasks, tables and the report as artifacts.

Keys are checked before anything of Prefect is imported, so a run with nothing to do starts no server.
An API that the user names (PREFECT_API_URL, a profile, prefect.toml) is used; otherwise a server of our
own runs on SQLite in a ``PREFECT_HOME`` of penstock's, with analytics off (server.py). ``prefect server
start`` with the same PREFECT_HOME shows past runs.

Price: 5 to 15 s to start the server, about 20 ms a task.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from penstock.errors import MissingExtraError, PenstockError
from penstock.flows.server import Server
from penstock.report.text import one_line
from penstock.step import Reporter, StepResult
from penstock.storage import storage_errors

NAME_CHARACTERS = 200

_servers: dict[Path, Server] = {}  # kept to the end of the process: Prefect sends the last log lines at exit


def prepare_environment() -> Path:
    """Set what Prefect reads when it is first imported, unless the user set it; returns ``PREFECT_HOME``, made."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.setdefault("PREFECT_HOME", str(cache / "penstock" / "prefect"))).expanduser()
    defaults = {
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(home / "storage"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # what its threads say when the server is gone
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    with storage_errors(str(home)):
        home.mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder of the path only
    return home


@contextmanager
def _api(home: Path, reporter: Reporter) -> Iterator[None]:
    """Prefect's settings with an API that answers: the user's, or a server of our own."""
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    if PREFECT_API_URL.value():
        yield
        return
    server = _servers.get(home)
    if server is None or not server.running:
        _go_round_proxies()
        reporter.note("starting Prefect's server (the first start takes longer; --plain does without)")
        server = _servers[home] = Server(home)
        server.wait()
    # on loopback a server answers or is dead; the five retries meant for a network would wait a minute
    with temporary_settings({PREFECT_API_URL: server.api, PREFECT_CLIENT_MAX_RETRIES: 3}):
        yield


def _go_round_proxies() -> None:
    """Add loopback to the hosts that no proxy of the environment stands before."""
    hosts = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if urllib.request.getproxies() and "127.0.0.1" not in hosts.split(","):
        # both spellings, as libraries differ in which one they read first
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"{hosts},127.0.0.1".lstrip(",")


def run_as_flow(
    name: str,
    steps: Sequence[str],
    do: Callable[[str], StepResult],
    report: Callable[[], str] | None,
    reporter: Reporter,
) -> None:
    """Run ``do(step)`` for every step as tasks of one flow, then ``report()``, and publish artifacts.

    Args:
        name: shown as the flow run's name.
        do: runs or skips one step by name; called in order.
        report: writes the report and returns its path or URL.
        reporter: hears of the server's start and of what Prefect could not record.

    Raises:
        MissingExtraError: Prefect is not installed.
        PenstockError: Prefect failed before all steps were done; what ``do`` and ``report`` raise passes unchanged.
    """
    if importlib.util.find_spec("prefect") is None:
        raise MissingExtraError(f"{MissingExtraError.of('prefect', 'flows')}, or leave Prefect out with --plain")
    ours = "prefect" not in sys.modules
    home = prepare_environment()
    from prefect import flow, task
    from prefect.artifacts import create_link_artifact, create_table_artifact
    from prefect.cache_policies import NO_CACHE

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

    @flow(name="penstock-run", flow_run_name=name, persist_result=False, validate_parameters=False)
    def whole_run() -> None:
        for step in steps:
            step_task(step)
        if report is not None:
            report_task()
        create_table_artifact(key="steps", table=step_rows(results), description="Steps of the run")
        create_table_artifact(key="drop-reasons", table=drop_rows(results), description="Rows dropped, by reason")
        for path in written:
            create_link_artifact(key="report", link=link_to(path), link_text="report.html")

    try:
        with _api(home, reporter):
            whole_run()
    except Exception as error:
        if failed:
            raise failed[0] from None
        if isinstance(error, PenstockError):
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())
        if len(results) < len(steps) or (report is not None and not written):
            raise PenstockError(
                f"Prefect failed ({what}); what is done is kept: run again to resume, with --plain to leave Prefect out"
            ) from error
        reporter.warn(f"the run is complete, but Prefect could not record it: {what}")


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
