"""Passes on Apache Beam: the same function over the same splits, spread by a Beam runner.

    Create(count) | FlatMap(numbers) | Reshuffle | Map(run split number i) | CombineGlobally(sum)

Each worker reads its split and writes its part straight to the store, so no text crosses a shuffle:
what travels is the numbers of splits, out and back. The pass itself (work and splits) is a file in the
run's folder that every worker reads once, checked against its sha256; the job's graph is 35 kB for any number
of splits, while runners refuse large ones (Dataflow above 10 MB). Receipts in the folder are the result.

The local runner is named explicitly: Beam's own default may fetch another runner's binary.

Before the first pass ``BeamEngine.check`` looks at what the workers will need (``beam_launch``), and penstock is sent
to those that start in Beam's own container (``beam_packages``). Workers refuse a pass of a launcher that has other
versions of penstock or of what decides bytes: rows would differ by who made them.

Price: one pipeline a pass. FnApiRunner starts one in a fraction of a second; a runner that starts workers for
each job pays for that (seconds for processes on this machine, minutes for machines of a cloud). 10,000 splits
with 200 buckets make a plan of 2 MB, 2 s to write and 1 s to load.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import platform
import re
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from penstock import __version__, errors
from penstock.errors import ConfigError, MissingExtraError, PenstockError, WorkerError
from penstock.pipelines import beam_launch as launch
from penstock.pipelines.passes import Pass, Split, run_split
from penstock.storage import Folder

if TYPE_CHECKING:
    from penstock.recipe import Recipe

LOCAL_RUNNER = "FnApiRunner"
METRICS = "penstock"  # namespace of the counters a runner shows: splits, rows_in, rows_made, rows_kept, rows_dropped
POLL_SECONDS = 2.0

_RESUME = "splits already done are kept: run again to resume"
_DECIDING = ("numpy", "pyarrow", "tokenizers")  # what most steps make their bytes with


@dataclass(frozen=True)
class Plan:
    """Where workers find a pass and its splits, and what they must have installed to make the same of them."""

    folder: Folder
    path: str
    sha256: str
    splits: int
    libraries: tuple[tuple[str, str], ...]

    @classmethod
    def write(cls, job: Pass, splits: Sequence[Split]) -> Plan:
        """Store a pass for workers.

        Raises:
            ConfigError: the work cannot be pickled.
        """
        from apache_beam.internal import pickler

        try:
            data = pickler.dumps((job, list(splits)))
        except Exception as error:
            raise ConfigError(
                f"{job.prefix}: {type(job.work).__name__} cannot be sent to workers ({error}); keep open files, locks "
                "and models out of row work and load them on first use"
            ) from error
        path = f"{job.prefix}/plan.{uuid.uuid4().hex[:8]}.pickle"
        with job.folder.open_write(path) as file:
            file.write(data)
        return cls(job.folder, path, file.sha256, len(splits), libraries())


@functools.cache
def libraries() -> tuple[tuple[str, str], ...]:
    """(name, version) of what decides bytes here; of Python the minor version, of builds such as ``+cpu`` nothing."""
    from penstock.step import library_versions

    python = ".".join(platform.python_version_tuple()[:2])
    found = {name: version.partition("+")[0] for name, version in library_versions(_DECIDING).items()}
    return tuple({"python": python, "penstock": __version__, **found}.items())


_loading = threading.Lock()


@functools.lru_cache(maxsize=1)
def _load(plan: Plan) -> tuple[Pass, list[Split]]:
    from apache_beam.internal import pickler

    here = dict(libraries())
    differ = [(name, version) for name, version in plan.libraries if here.get(name) != version]
    if differ:
        others = ", ".join(f"{name} {here.get(name)} (not {version})" for name, version in differ)
        raise WorkerError(
            f"a worker has other versions than the launcher and would make other bytes: {others}; install the "
            "launcher's in the container of the workers"
        )
    try:
        data = plan.folder.read_bytes(plan.path)
    except FileNotFoundError as error:
        raise WorkerError(
            f"{plan.folder.join(plan.path)}: not found on the worker; a run on other machines needs an output folder "
            "that all of them reach: a shared disk, or a store such as s3:// or gs://"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    # a pickle is code: only the driver's own bytes are ever loaded
    if found != plan.sha256:
        raise WorkerError(f"{plan.path}: got sha256 {found[:12]}…, expected {plan.sha256[:12]}…; run again")
    loaded: tuple[Pass, list[Split]] = pickler.loads(data)
    return loaded


def _run(number: int, plan: Plan) -> int:
    """Do one split on a worker; returns 1, the number of splits done."""
    from apache_beam.metrics.metric import Metrics

    with _loading:  # threads of a worker share one copy
        job, splits = _load(plan)
    split = splits[number]
    try:
        counts = run_split(job, split).counts
    except PenstockError:
        raise
    except Exception as error:
        raise WorkerError(f"split {split.id}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    numbers = {
        "splits": 1,
        "rows_in": counts.rows_in,
        "rows_made": counts.made,
        "rows_kept": counts.kept,
        "rows_dropped": counts.dropped_total,
    }
    for name, value in numbers.items():
        Metrics.counter(METRICS, name).inc(value)
    return 1


def _numbers(count: int) -> Iterable[int]:
    return range(count)


def spread(pipeline: Any, plan: Plan) -> Any:
    """Add a pass to a Beam pipeline; returns a collection of one number, the splits done.

    The sum has a use besides: Beam's local job service notices a dead worker only by the output that the
    worker owes it, and without any would wait forever.
    """
    import apache_beam as beam

    return (
        pipeline
        | "Count" >> beam.Create([plan.splits])
        | "Splits" >> beam.FlatMap(_numbers)
        | "Spread" >> beam.Reshuffle()
        | "Run" >> beam.Map(_run, plan)
        | "Done" >> beam.CombineGlobally(sum)
    )


@dataclass(frozen=True)
class BeamEngine:
    """Runs every pass as one Beam pipeline.

    The run's folder must be one that all workers reach. Progress is read from the receipts in it, on any runner.

    Args:
        runner: ``FnApiRunner`` (in this process), or another that Beam knows: ``PortableRunner``, ``FlinkRunner``,
            ``SparkRunner``, ``DataflowRunner``.
        options: Beam's own command-line options, passed through, e.g. ``--job_endpoint=localhost:8099``,
            ``--max_num_workers=50``, ``--direct_running_mode=multi_processing``. ``--job_name`` becomes the
            beginning of every job's name.
        shared_disk: workers on other machines have the disks of this one at the same paths.

    Raises:
        ConfigError: a runner or an option that is refused here; others are checked when the first pass starts.
    """

    runner: str = LOCAL_RUNNER
    options: tuple[str, ...] = ()
    shared_disk: bool = False

    def __post_init__(self) -> None:
        name = self.runner.rpartition(".")[2].lower()
        if not name or name.removesuffix("runner").endswith("direct"):
            raise ConfigError(
                f"runner: got {self.runner!r}, which may download another runner; use {LOCAL_RUNNER} for a local run"
            )
        if self.options and not self.options[0].startswith("--"):
            raise ConfigError(f"runner option: got {self.options[0]!r}, allowed --name=value as Beam documents it")
        for option in self.options:
            if option.partition("=")[0] == "--runner":
                raise ConfigError(f"runner option: got {option}; name the runner itself with --runner")

    def check(self, recipe: Recipe, root: Folder, *, offline: bool = False) -> None:
        """Look at what the workers will need, before the first pass: options, the run's folder, inputs, packages.

        Writes, lists, reads and deletes a small file in the run's folder and where the job puts its own, unless both
        workers and folder are of this machine.

        Args:
            offline: leave out what reaches another machine.

        Raises:
            ConfigError: an option is missing, the folder or an input is of this machine alone, the workers would have
                no penstock, or no job service answers.
            MissingExtraError: the runner's packages, or a store's client, are not installed.
            StorageError: a store refuses one of the four.
        """
        from penstock.pipelines.beam_packages import add_penstock

        self._runner()
        options = self.parsed()
        where = self._checked(options, root)
        if where is not None:
            launch.check_inputs(self.runner, recipe, where, shared_disk=self.shared_disk)
        add_penstock(self.runner, options, root.protocol)
        if offline:
            return
        _answers(options)
        if self.runner != LOCAL_RUNNER and (where is not None or not launch.is_of_this_machine(root.url)):
            launch.check_store("the run's folder", root)
            for name, url in launch.locations(self.runner, options).items():
                launch.check_store(f"--{name}", Folder(url))

    def _checked(self, options: Any, folder: Folder) -> str | None:
        """Where the workers are, once the options and the folder are what they need."""
        launch.check_options(self.runner, options)
        where = launch.elsewhere(self.runner, options)
        if where is not None and not self.shared_disk:
            launch.check_folder(self.runner, folder, where)
        return where

    def map(self, job: Pass, splits: Sequence[Split], done: Callable[[int], None]) -> None:
        """Run a pass.

        Raises:
            ConfigError: Beam does not know the runner or an option, the workers cannot reach the folder, or the work
                cannot be pickled.
            MissingExtraError: the runner's packages are not installed.
            WorkerError: a split raised or the job ended early; a PenstockError of a split keeps its own class.
        """
        import apache_beam as beam

        from penstock.pipelines.beam_packages import add_penstock

        runner = self._runner()
        options = self.named(job)
        self._checked(options, job.folder)
        add_penstock(self.runner, options, job.folder.protocol)
        _answers(options)
        try:
            pipeline = beam.Pipeline(runner=runner, options=options)
        except ValueError as error:
            raise ConfigError(f"runner {self.runner}: {' '.join(str(error).split())}") from error
        plan = Plan.write(job, splits)
        try:
            with _progress(job, splits, done):
                spread(pipeline, plan)
                try:
                    state = _wait(pipeline.run())
                except Exception as error:
                    if self.runner == LOCAL_RUNNER and "\nKeyboardInterrupt" in f"\n{error}":
                        raise KeyboardInterrupt from error  # Beam makes an error of a Ctrl-C within a split
                    raise self._translated(error, job) from error
                missing = len(splits) - len(_receipts(job, splits))
                if missing:
                    raise WorkerError(
                        f"Beam pipeline {job.prefix} on {self.runner} ended as {state} with {missing} of {len(splits)} "
                        f"splits undone; {_RESUME}"
                    )
        finally:
            job.folder.remove([plan.path])

    def _runner(self) -> Any:
        if self.runner == LOCAL_RUNNER:
            from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

            return FnApiRunner()
        from apache_beam.runners.runner import create_runner

        try:
            return create_runner(self.runner)
        except ImportError as error:
            package = "penstock[cloud]" if "dataflow" in self.runner.lower() else "apache-beam"
            raise MissingExtraError(
                f"runner {self.runner} cannot be imported ({error}); run: pip install '{package}'"
            ) from error
        except (ValueError, AttributeError) as error:
            raise ConfigError(
                f"runner: got {self.runner}, allowed {LOCAL_RUNNER}, PortableRunner, FlinkRunner, SparkRunner, "
                "DataflowRunner, or the full name of a PipelineRunner class"
            ) from error

    def named(self, job: Pass) -> Any:
        """``parsed``, with the name of a pass' job."""
        from apache_beam.options.pipeline_options import GoogleCloudOptions, SetupOptions

        options = self.parsed()
        setup = options.view_as(SetupOptions)
        if setup.save_main_session is None:  # all that the launcher's main module holds would go to Dataflow
            setup.save_main_session = False
        cloud = options.view_as(GoogleCloudOptions)
        cloud.job_name = job_name(cloud.job_name or "penstock", job)
        return options

    def parsed(self) -> Any:
        """Beam's ``PipelineOptions``.

        Raises:
            ConfigError: Beam does not know an option, or not its value.
        """
        from apache_beam.options.pipeline_options import PipelineOptions

        refusal = io.StringIO()
        try:
            with contextlib.redirect_stderr(refusal):  # argparse prints some 150 lines and leaves
                options = PipelineOptions(list(self.options))
                known = options.get_all_options()
        except SystemExit as error:
            why = refusal.getvalue().strip().rpartition("error: ")[2]
            raise ConfigError(f"runner option: Beam does not accept {' '.join(self.options)}: {why}") from error
        if self.runner == LOCAL_RUNNER:  # others define options of their own, which Beam passes on to them
            unknown = sorted(set(options.get_all_options(retain_unknown_options=True)) - set(known))
            if unknown:
                raise ConfigError(f"runner option: got --{unknown[0]}, which Beam does not know for {self.runner}")
        return options

    def _translated(self, error: Exception, job: Pass) -> PenstockError:
        """The user's error in what a runner raises: the error itself, or text that ends with a worker's traceback."""
        found = _PENSTOCK_ERROR.findall("".join(traceback.format_exception_only(error)))
        if found:
            name, message = found[-1]
            kind = getattr(errors, name, WorkerError)
            return kind(f"{message} (in {job.prefix} on {self.runner}; {_RESUME})")
        if lacking := _NO_MODULE.search(str(error)):
            return WorkerError(
                f"Beam pipeline {job.prefix} on {self.runner} failed: its workers have no module {lacking[1]}; start "
                f"them in a container that has it, such as that of containers/Dockerfile; {_RESUME}"
            )
        lines = _RPC_DETAILS.findall(str(error)) or [x.strip() for x in str(error).splitlines() if x.strip()]
        what = lines[-1] if lines else type(error).__name__
        return WorkerError(f"Beam pipeline {job.prefix} on {self.runner} failed: {what}; {_RESUME}")


_PENSTOCK_ERROR = re.compile(r"penstock\.errors\.(\w+): (.+?)(?: \[while running .*)?$", re.MULTILINE)
_NO_MODULE = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")
_RPC_DETAILS = re.compile(r'^\s*details = "(.+)"$', re.MULTILINE)


def job_name(base: str, job: Pass) -> str:
    """A job's name: lower-case letters, digits and '-', a letter first, at most 63, as Dataflow wants it."""
    key, _, name = job.prefix.partition("/")
    text = re.sub(r"[^a-z0-9]+", "-", f"{base}-{name}-{key}".lower()).strip("-")
    return (text if text[:1].isalpha() else f"p-{text}")[:63].rstrip("-")


def _answers(options: Any) -> None:
    """Refuse a job endpoint where nobody listens: Beam would wait for it without a word."""
    from apache_beam.options.pipeline_options import PortableOptions

    endpoint = options.view_as(PortableOptions).job_endpoint
    host, _, port = (endpoint or "").rpartition(":")
    if not host or not port.isdigit():
        return  # none, or "embed"
    try:
        socket.create_connection((host.strip("[]"), int(port)), 10).close()
    except OSError as error:
        raise ConfigError(
            f"runner option: got --job_endpoint={endpoint}, where nothing answers ({error}); start the job service "
            "first, or give its host:port"
        ) from error


def _wait(result: Any) -> str:
    """Wait for a job; one that is interrupted here is cancelled there."""
    try:
        return str(result.wait_until_finish())
    except BaseException as error:
        if not isinstance(error, Exception):
            try:
                result.cancel()
            except Exception as refusal:  # noqa: BLE001 (runners raise what they like; the interrupt goes on)
                error.add_note(f"the Beam job could not be cancelled and may still run: {refusal}")
        raise


def _receipts(job: Pass, splits: Sequence[Split]) -> set[str]:
    wanted = {f"{split.id}.json" for split in splits}
    return wanted.intersection((job.folder / job.prefix).files())


@contextlib.contextmanager
def _progress(job: Pass, splits: Sequence[Split], done: Callable[[int], None]) -> Iterator[None]:
    """Report splits as their receipts appear; on leaving without an error, all of them."""
    stop = threading.Event()
    seen = 0

    def watch() -> None:
        nonlocal seen
        pause = POLL_SECONDS
        while not stop.wait(pause):
            started = time.perf_counter()
            try:
                now = len(_receipts(job, splits))
            except Exception:  # noqa: BLE001 (a store that stumbles costs one update of the bar, never the pass)
                continue
            took = time.perf_counter() - started
            if now > seen:
                done(now - seen)
                seen = now
            pause = max(POLL_SECONDS, 9 * took)  # a large folder is listed for a tenth of the time at most

    thread = threading.Thread(target=watch, name="penstock-receipts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if seen < len(splits):
        done(len(splits) - seen)
