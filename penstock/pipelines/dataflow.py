"""A dry run for Dataflow: the whole job as Beam would send it, and nothing sent, read or asked for.

The graph, the environment and the list of staged files are made by Beam's own runner and client. Two things are put in
their way: Beam's ``dry_run`` option ends the runner before it makes a client, and the client that then describes the
job has no connection and notes what it would upload.

    dry_run    what ``penstock build RECIPE --runner DataflowRunner --dry-run`` prints
    describe   the description of one pass; all passes of a run differ in the job's name and the number of splits

Price: a few seconds, most of them for the package (``beam_packages``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.errors import ConfigError
from penstock.pipelines.beam import BeamEngine, Plan, libraries, spread
from penstock.pipelines.beam_launch import locations
from penstock.pipelines.beam_packages import add_penstock
from penstock.pipelines.passes import PartWriter, Pass, Split
from penstock.storage import Folder, storage_errors

if TYPE_CHECKING:
    from rich.console import Console

    from penstock.recipe import Recipe

GRAPH_LIMIT = 10_000_000  # bytes of a job that Dataflow takes
_SHAPE = "0" * 12  # in place of a step's key, which is known once its parents are built
_THEIR_CHOICE = "Dataflow's choice"


@dataclass(frozen=True)
class JobDescription:
    """A Dataflow job (``google.dataflow.v1beta3.Job``) that was not sent."""

    name: str
    project: str
    region: str
    service_account: str | None  # None: the project's default for Compute Engine
    machine_type: str | None  # None: Dataflow's choice, and so for the next two
    workers: int | None  # to begin with
    most_workers: int | None
    image: str
    temp_location: str
    staging_location: str
    staged: dict[str, int]  # bytes of every file that would be uploaded, by name
    json: str  # of the Job
    pipeline: bytes  # the graph, a serialised ``org.apache.beam.model.pipeline.v1.Pipeline``; staged with the others


def describe(engine: BeamEngine, folder: Folder) -> JobDescription:
    """The job of one pass of a run in ``folder``, with a name and a plan in the places of a real pass'.

    Raises:
        ConfigError: an option would make Beam reach another machine for the description, or Dataflow refuses one.
        MissingExtraError: Google's client is not installed.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import GoogleCloudOptions, TestOptions, WorkerOptions
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

    job = Pass(folder, f"{_SHAPE}/pass", _nothing)
    plan = Plan(folder, f"{job.prefix}/plan.{'0' * 8}.pickle", "0" * 64, 1000, libraries())
    options = engine.named(job)
    _refuse_network(options)
    add_penstock(engine.runner, options, folder.protocol)
    options.view_as(TestOptions).dry_run = True
    try:
        pipeline = beam.Pipeline(runner=DataflowRunner(), options=options)
        spread(pipeline, plan)
        result: Any = pipeline.run()  # of a dry run: it has the job
        made = result.job
    except ValueError as error:
        raise ConfigError(f"runner {engine.runner}: {' '.join(str(error).split())}") from error
    made.options.view_as(TestOptions).dry_run = False
    staged, graph = _stage(made)
    cloud, worker = made.options.view_as(GoogleCloudOptions), made.options.view_as(WorkerOptions)
    return JobDescription(
        made.proto.name,
        cloud.project,
        cloud.region,
        cloud.service_account_email,
        worker.machine_type,
        worker.num_workers,
        worker.max_num_workers,
        made.proto.environment.worker_pools[0].worker_harness_container_image,
        cloud.temp_location,
        cloud.staging_location,
        staged,
        made.json(),
        graph,
    )


def _nothing(split: Split, out: PartWriter) -> None:
    """The work of the pass that stands for all passes; it never runs."""


def _refuse_network(options: Any) -> None:
    """Refuse what would make Beam look for a running job, build an image or fetch a package."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions, SetupOptions

    cloud, setup = options.view_as(GoogleCloudOptions), options.view_as(SetupOptions)
    given = {
        "--update": cloud.update,
        "--prebuild_sdk_container_engine": setup.prebuild_sdk_container_engine,
        "--requirements_file": setup.requirements_file and setup.requirements_cache != "skip",
        "--sdk_location": "://" in (setup.sdk_location or ""),
        "--extra_package": any("://" in package for package in setup.extra_packages or ()),
    }
    reaching = [name for name, value in given.items() if value]
    if reaching:
        advice = "leave it out of the dry run"
        if "--requirements_file" in reaching:
            advice += ", or for the requirements: add --runner-option=--requirements_cache=skip"
        raise ConfigError(
            f"--dry-run: got {', '.join(reaching)}, for which Beam reaches other machines while it describes the job, "
            f"allowed options that do not; {advice}"
        )


def _stage(job: Any) -> tuple[dict[str, int], bytes]:
    """Complete a job by Beam's client; returns bytes by name of what it would upload, and the graph."""
    from apache_beam.runners.dataflow.internal import apiclient
    from apache_beam.runners.internal.names import STAGED_PIPELINE_FILENAME

    staged: dict[str, int] = {}
    files: dict[str, bytes] = {}

    class Unconnected(apiclient.DataflowApplicationClient):
        """Beam's client without its clients of Google's services, for which it would look for credentials."""

        def __init__(self, options: Any) -> None:
            self.environment_version = apiclient._FNAPI_ENVIRONMENT_MAJOR_VERSION
            self._sdk_image_overrides = self._get_sdk_image_overrides(options)

        def _gcs_file_copy(self, from_path: str, to_path: str, sha256: str) -> None:
            staged[os.path.basename(to_path)] = os.path.getsize(from_path)

        def stage_file(
            self, gcs_or_local_path: str, file_name: str, stream: Any, mime_type: str = "", total_size: Any = None
        ) -> None:
            files[file_name] = stream.read()
            staged[file_name] = len(files[file_name])

    Unconnected(job.options).create_job_description(job)
    return staged, files[STAGED_PIPELINE_FILENAME]


def _of_any_pass(text: str) -> str:
    """A name or an address with placeholders; Beam ends addresses with the time."""
    return re.sub(rf"pass-{_SHAPE}(\.[0-9.]+$)?", lambda found: "PASS-KEY" + (".TIME" if found[1] else ""), text)


def dry_run(
    engine: BeamEngine,
    recipe: Recipe,
    root: Folder,
    only: Sequence[str] | None = None,
    job_file: Path | None = None,
    console: Console | None = None,
) -> JobDescription:
    """Check what can be checked from here, describe the job and print it; no connection is opened.

    Args:
        only: names of the steps that are wanted, with what they need; by default all.
        job_file: where the Job goes as JSON, and beside it, with ``.pb`` added to the name, the graph.
        console: stdout by default.

    Raises:
        ConfigError: as ``BeamEngine.check`` and ``describe``.
        StorageError: ``job_file`` cannot be written.
    """
    from rich.console import Console

    from penstock.pipelines.plan import needed, plan
    from penstock.report.text import size
    from penstock.terminal import PATH_CHARACTERS, plain, print_table, say, table

    console = console or Console()
    steps = plan(recipe)
    steps = steps if only is None else needed(steps, only)
    engine.check(recipe, root, offline=True)
    job = describe(engine, root)
    if job_file is not None:
        graph_file = job_file.with_name(f"{job_file.name}.pb")
        with storage_errors(str(job_file)):
            job_file.write_text(job.json + "\n", encoding="utf-8")
            graph_file.write_bytes(job.pipeline)
    bounds = (("to begin with", job.workers), ("at most", job.most_workers))
    workers = ", ".join(f"{number:,} {what}" for what, number in bounds if number is not None)
    staged = ", ".join(f"{name} ({size(n)})" for name, n in job.staged.items())
    rows = {
        "job": _of_any_pass(job.name),
        "project": job.project,
        "region": job.region,
        "machine type": job.machine_type or _THEIR_CHOICE,
        "workers": workers or _THEIR_CHOICE,
        "container": job.image,
        "account": job.service_account or "the project's default for Compute Engine",
        "staged": staged,
        "staging": _of_any_pass(job.staging_location),
        "temporary": _of_any_pass(job.temp_location),
        "size": f"{size(len(job.json))} of JSON and a graph of {size(len(job.pipeline))}; "
        f"Dataflow takes {size(GRAPH_LIMIT)}",
    }
    shown = table(("of each pass", ""))
    for name, value in rows.items():
        shown.add_row(name, plain(value, PATH_CHARACTERS))
    print_table(console, f"Dry run of {recipe.name} into {root.url} on {engine.runner}: nothing was contacted", shown)
    say(console, "steps: ", plain(", ".join(step.name for step in steps), PATH_CHARACTERS))
    say(console, "checked: options; that workers reach the run's folder and what they read; the packages they get")
    folders = ", ".join(dict.fromkeys((root.url, *locations(engine.runner, engine.parsed()).values())))
    say(
        console,
        "not checked, as it takes the network: which steps are up to date; that the inputs exist; that a file can be "
        "written, listed, read and deleted in ",
        plain(folders, PATH_CHARACTERS),
        "; credentials; quotas; that the region, the machine type and the container exist",
    )
    if job_file is not None:
        say(console, "written: ", plain(f"{job_file}, {graph_file}", PATH_CHARACTERS))
    return job
