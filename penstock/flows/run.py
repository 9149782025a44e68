"""The whole run as a Prefect flow: one task a step, paths between tasks.

Keys are checked before anything of Prefect is imported, so a run with nothing to do starts no
server. The server is Prefect's ephemeral one on SQLite in a ``PREFECT_HOME`` of penstock's own, with
analytics off; an operator's PREFECT_API_URL is used instead when it is set.

Price: 10 to 20 s to start the ephemeral server, about 20 ms a task.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from penstock.errors import MissingExtraError
from penstock.step import StepResult


def prepare_environment() -> None:
    """Set what Prefect reads when it is first imported; a value the user set stays."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    home = cache / "penstock" / "prefect"
    defaults = {
        "PREFECT_HOME": str(home),
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(home / "storage"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)


def run_as_flow(
    name: str, steps: Sequence[str], do: Callable[[str], StepResult], report: Callable[[], str]
) -> list[StepResult]:
    """Run ``do(step)`` for every step as tasks of one flow, then ``report()``, and publish artifacts.

    Args:
        name: shown as the flow run's name.
        do: runs or skips one step by name; called in order.
        report: writes the report and returns its path.

    Raises:
        MissingExtraError: Prefect is not installed.
    """
    prepare_environment()
    try:
        from prefect import flow, task
        from prefect.artifacts import create_link_artifact, create_table_artifact
        from prefect.cache_policies import NO_CACHE
    except ImportError as error:
        raise MissingExtraError.of("prefect", "flows") from error

    results: list[StepResult] = []

    @task(name="step", task_run_name="{step}", cache_policy=NO_CACHE, persist_result=False)
    def step_task(step: str) -> str:
        result = do(step)
        results.append(result)
        return result.folder.url

    @task(name="report", cache_policy=NO_CACHE, persist_result=False)
    def report_task() -> str:
        return report()

    @flow(name="penstock-run", flow_run_name=name, persist_result=False, validate_parameters=False)
    def whole_run() -> str:
        for step in steps:
            step_task(step)
        path = report_task()
        create_table_artifact(key="steps", table=step_rows(results), description="Steps of the run")
        create_table_artifact(key="drop-reasons", table=drop_rows(results), description="Rows dropped, by reason")
        link = Path(path).as_uri() if path.startswith("/") else path
        create_link_artifact(key="report", link=link, link_text="report.html")
        return path

    whole_run()
    return results


def step_rows(results: Sequence[StepResult]) -> list[dict[str, Any]]:
    """The step table as rows of an artifact."""
    return [
        {
            "step": r.step.name,
            "status": "skipped" if r.skipped else "built",
            "in": r.manifest.counts.rows_in,
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
        {"step": r.step.name, "work": work, "reason": reason, "rows": rows}
        for r in results
        for work, reasons in r.manifest.counts.dropped.items()
        for reason, rows in reasons.items()
    ]
