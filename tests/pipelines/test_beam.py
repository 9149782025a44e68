"""Passes on Beam: the same parts as at home, errors a user can act on, resuming, progress, options."""

import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import penstock
from penstock.dataset import Dataset
from penstock.errors import ConfigError, InputError, MissingExtraError, WorkerError
from penstock.pipelines import beam
from penstock.pipelines.beam import BeamEngine, Plan, job_name, spread
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.passes import Pass, merge_counts, merge_parts, run_pass, splits_of
from penstock.run import run
from penstock.storage import Folder

UP_TO_THE_DATASET = ["documents", "deduplicated", "tokenizer", "quality", "scored", "selection-1", "dataset-1"]


@dataclass(frozen=True)
class Rows:
    """Writes one row a split; the split ``poison`` fails until ``cured`` exists."""

    poison: int = -1
    error: BaseException = field(default_factory=lambda: ValueError("bad\nrow"))
    cured: str = ""

    def __call__(self, split, out):
        if split.payload == self.poison and not os.path.exists(self.cured):
            raise self.error
        out.write("rows", pa.record_batch({"n": pa.array([split.payload], pa.int64())}))
        out.count(rows_in=2, kept=1, dropped={"rows": {"odd": 1}})


def job_of(tmp_path, work, prefix="0abc12/read"):
    return Pass(Folder(str(tmp_path / "step")), prefix, work)


def receipts(job):
    """Bytes of the receipts by split number."""
    base = job.folder / job.prefix
    return {int(name[:5]): base.read_bytes(name) for name in base.files() if name.endswith(".json")}


def plans(job):
    return [name for name in job.folder.files() if "plan" in name]


# ── the same output ──────────────────────────────────────────────────────────────────────────────


def test_a_build_on_the_local_runner_equals_the_build_at_home(finished, tmp_path, published_bytes):
    base, recipe, _ = finished
    ours = run(
        recipe, out=str(tmp_path / "run"), only=["dataset-1"], engine=BeamEngine(), split_bytes=20_000, report=False
    )
    assert [r.step.name for r in ours.steps] == UP_TO_THE_DATASET
    for name in UP_TO_THE_DATASET:
        assert Dataset(f"{tmp_path}/run/{name}").digest == Dataset(f"{base}/run/{name}").digest
    ids = [Dataset(f"{root}/run/documents").read("documents", ["doc_id"])["doc_id"] for root in (tmp_path, base)]
    assert ids[0].to_pylist() == ids[1].to_pylist()
    made = [published_bytes(Folder(f"{root}/run/dataset-1")) for root in (tmp_path, base)]
    assert made[0] == made[1]


@pytest.mark.server
@pytest.mark.parametrize("mode", ["multi_threading", "multi_processing"])
def test_workers_of_the_local_runner_make_the_same_documents(finished, tmp_path, mode):
    base, recipe, _ = finished
    engine = BeamEngine(options=(f"--direct_running_mode={mode}", "--direct_num_workers=2"))
    run(recipe, out=str(tmp_path / "run"), only=["documents"], engine=engine, split_bytes=20_000, report=False)
    assert Dataset(f"{tmp_path}/run/documents").digest == Dataset(f"{base}/run/documents").digest


def test_the_command_line_takes_a_runner_and_its_options(finished, tmp_path):
    base, _, _ = finished
    for name in ("documents", "deduplicated", "tokenizer", "quality", "scored", "selection-1"):
        shutil.copytree(base / "run" / name, tmp_path / "run" / name)
    command = [sys.executable, "-m", "penstock", "build", str(base / "run" / "recipe.yaml"), "--out", "run"]
    command += ["--runner", "FnApiRunner", "--runner-option=--job_name=Mine"]

    def typed(option):
        return subprocess.run([*command, option], cwd=tmp_path, capture_output=True, text=True, timeout=100)

    wrong = typed("--runner-option=--direct_workers=1")
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines()[-1] == (
        "penstock: runner option: got --direct_workers, which Beam does not know for FnApiRunner"
    )
    done = typed("--runner-option=--direct_num_workers=1")
    assert done.returncode == 0, done.stderr
    assert re.findall(r"(\S+) +(skipped|built) ", done.stdout) == [
        *((name, "skipped") for name in UP_TO_THE_DATASET[:-1]),
        ("dataset-1", "built"),
    ]
    assert Dataset(f"{tmp_path}/run/dataset-1").digest == Dataset(f"{base}/run/dataset-1").digest


def test_the_command_line_refuses_a_runner_in_one_line(finished, tmp_path):
    base, _, _ = finished
    command = [sys.executable, "-m", "penstock", "build", str(base / "run" / "recipe.yaml"), "--out", "run"]
    done = subprocess.run([*command, "--runner", "DirectRunner"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "penstock: runner: got 'DirectRunner', which may download another runner; use FnApiRunner for a local run"
    ]


def test_parts_and_counters_of_a_pass_equal_those_at_home(tmp_path):
    made = {}
    for name, engine in {"home": HomeEngine(0), "beam": BeamEngine()}.items():
        found = run_pass(job_of(tmp_path / name, Rows()), splits_of(range(12)), engine)
        made[name] = (merge_parts(found, "rows").digest, merge_counts(found), [r.split for r in found])
    assert made["home"] == made["beam"]


# ── failing and resuming ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ValueError("bad\nrow"), WorkerError, r"split 00002-\w{10}: ValueError: bad row \(in "),
        (KeyError("name"), WorkerError, r"split 00002-\w{10}: KeyError: 'name' \(in "),
        (InputError("a.jsonl: cut [off]"), InputError, r"a\.jsonl: cut \[off\] \(in "),
    ],
)
@pytest.mark.parametrize("mode", ["in_memory", "multi_threading"])
def test_a_poison_split_raises_what_went_wrong_and_the_rerun_makes_only_what_is_missing(
    tmp_path, error, kind, message, mode
):
    job = job_of(tmp_path, Rows(poison=2, error=error, cured=str(tmp_path / "cured")))
    engine = BeamEngine(options=(f"--direct_running_mode={mode}",))
    splits = splits_of(range(5))
    run_pass(job, splits[:2], engine)
    with pytest.raises(
        kind, match=message + r"0abc12/read on FnApiRunner; .* are kept: run again to resume\)$"
    ) as raised:
        run_pass(job, splits, engine)
    assert type(raised.value) is kind
    before = receipts(job)
    assert {0, 1} <= set(before)
    assert 2 not in before
    assert plans(job) == []

    (tmp_path / "cured").touch()
    seen = []
    found = run_pass(job, splits, engine, lambda done, total: seen.append((done, total)))
    assert [r.parts["rows"].file.rows for r in found] == [1] * 5
    after = receipts(job)
    assert {n: after[n] for n in before} == before
    assert (seen[0], seen[-1]) == ((len(before), 5), (5, 5))
    assert plans(job) == []


def test_work_that_cannot_be_pickled_is_refused_before_the_pipeline(tmp_path):
    job = job_of(tmp_path, Rows(error=(n for n in ())))
    with pytest.raises(ConfigError, match=r"0abc12/read: Rows cannot be sent to workers \(.*load them on first use"):
        run_pass(job, splits_of(range(2)), BeamEngine())
    assert job.folder.files() == []


def test_a_plan_that_is_not_the_drivers_is_never_loaded(tmp_path):
    job = job_of(tmp_path, Rows())
    plan = Plan.write(job, splits_of(range(2)))
    Path(job.folder.join(plan.path)).write_bytes(pickle.dumps("other"))
    with pytest.raises(WorkerError, match=r"got sha256 .*, expected .*; run again"):
        beam._load(plan)


def test_a_folder_that_workers_do_not_reach_is_named(tmp_path):
    job = job_of(tmp_path, Rows())
    plan = Plan.write(job, splits_of(range(2)))
    job.folder.remove([plan.path])
    with pytest.raises(WorkerError, match=r"not found on the worker; .* a store such as s3:// or gs://"):
        beam._load(plan)


def test_a_relative_folder_means_the_drivers_directory_on_every_worker(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sent = pickle.dumps(Folder("run"))
    monkeypatch.chdir("/")
    assert pickle.loads(sent).path == str(tmp_path / "run")  # noqa: S301 (pickled above)


# ── jobs that end otherwise ──────────────────────────────────────────────────────────────────────


class Cancelled:
    """A job that another person cancelled."""

    def wait_until_finish(self):
        return "CANCELLED"


class Interrupted:
    """A job during which Ctrl-C is pressed here."""

    cancelled = 0

    def wait_until_finish(self):
        raise KeyboardInterrupt

    def cancel(self):
        Interrupted.cancelled += 1
        raise RuntimeError("gone")


def runner_of(result):
    class Runner(beam_runner()):
        def run_pipeline(self, pipeline, options):
            return result

    return Runner


def beam_runner():
    from apache_beam.runners.runner import PipelineRunner

    return PipelineRunner


@pytest.fixture
def runner_named(monkeypatch):
    """Make a runner importable and return its full name."""

    def name(result):
        monkeypatch.setattr(sys.modules[__name__], "Chosen", runner_of(result), raising=False)
        return f"{__name__}.Chosen"

    return name


def test_a_job_that_ends_early_without_an_error_is_an_error(tmp_path, runner_named):
    job = job_of(tmp_path, Rows())
    with pytest.raises(WorkerError, match=r"ended as CANCELLED with 3 of 3 splits undone; .*run again to resume"):
        run_pass(job, splits_of(range(3)), BeamEngine(runner_named(Cancelled())))


def test_an_interrupt_within_a_split_of_the_local_runner_is_an_interrupt(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_pass(job_of(tmp_path, Rows(poison=1, error=KeyboardInterrupt())), splits_of(range(2)), BeamEngine())


def test_an_interrupted_driver_cancels_its_job_and_passes_the_interrupt_on(tmp_path, runner_named):
    job = job_of(tmp_path, Rows())
    with pytest.raises(KeyboardInterrupt) as raised:
        run_pass(job, splits_of(range(3)), BeamEngine(runner_named(Interrupted())))
    assert Interrupted.cancelled == 1
    assert raised.value.__notes__ == ["the Beam job could not be cancelled and may still run: gone"]
    assert plans(job) == []


# ── progress and counters ────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Waits:
    """After a first split is done, the others wait until its progress has been heard."""

    step: Folder
    heard: str

    def __call__(self, split, out):
        if not any(name.endswith(".json") for name in self.step.files()):
            return
        end = time.monotonic() + 20
        while not os.path.exists(self.heard):
            if time.monotonic() > end:
                raise ValueError("no progress was heard")
            time.sleep(0.01)


def test_progress_is_heard_while_the_pipeline_runs_and_adds_up(tmp_path, monkeypatch):
    monkeypatch.setattr(beam, "POLL_SECONDS", 0.02)
    heard = tmp_path / "heard"
    seen = []

    def progress(done, total):
        seen.append(done)
        if done == 1:
            monkeypatch.setattr(beam, "POLL_SECONDS", 60)
            heard.touch()

    job = job_of(tmp_path, Waits(Folder(str(tmp_path / "step")), str(heard)))
    run_pass(job, splits_of(range(7)), BeamEngine(), progress)
    assert seen == [0, 1, 7]


def test_a_listing_that_fails_costs_progress_and_not_the_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(beam, "POLL_SECONDS", 0.005)
    receipts_of, failed = beam._receipts, []

    def stumbling(job, splits):
        if threading.current_thread().name == "penstock-receipts":
            failed.append(1)
            raise OSError("throttled")
        return receipts_of(job, splits)

    monkeypatch.setattr(beam, "_receipts", stumbling)
    seen = []
    run_pass(job_of(tmp_path, Rows()), splits_of(range(4)), BeamEngine(), lambda done, _: seen.append(done))
    assert seen == [0, 4]
    assert failed


def test_a_runner_shows_counters_of_splits_and_rows(tmp_path):
    import apache_beam
    from apache_beam.metrics.metric import MetricsFilter
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

    plan = Plan.write(job_of(tmp_path, Rows()), splits_of(range(5)))
    pipeline = apache_beam.Pipeline(runner=FnApiRunner())
    spread(pipeline, plan)
    result = pipeline.run()
    found = result.metrics().query(MetricsFilter().with_namespace("penstock"))["counters"]
    assert {c.key.metric.name: c.committed for c in found} == {
        "splits": 5,
        "rows_in": 10,
        "rows_made": 0,
        "rows_kept": 5,
        "rows_dropped": 5,
    }


def test_the_graph_of_a_job_does_not_grow_with_its_splits(tmp_path):
    import apache_beam

    sizes = []
    for count in (10, 10_000):
        plan = Plan.write(job_of(tmp_path, Rows()), splits_of({"part": n, "of": "x" * 50} for n in range(count)))
        pipeline = apache_beam.Pipeline(runner=beam_runner()())
        spread(pipeline, plan)
        sizes.append(pipeline.to_runner_api().ByteSize())
    assert sizes[1] < sizes[0] + 100


# ── runners, options, names ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name", ["DirectRunner", "directrunner", "direct", "SwitchingDirectRunner", "a.direct_runner.DirectRunner", ""]
)
def test_runners_that_may_download_another_are_refused(name):
    with pytest.raises(ConfigError, match=f"got {name!r}, which may download another runner; use FnApiRunner"):
        BeamEngine(name)


def test_the_package_names_no_such_runner_elsewhere():
    root = Path(penstock.__file__).parent
    naming = [str(f.relative_to(root)) for f in root.rglob("*.py") if "directrunner" in f.read_text().lower()]
    assert naming == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("job_endpoint=localhost:1",), r"got 'job_endpoint=localhost:1', allowed --name=value"),
        (("--runner=Prism",), r"got --runner=Prism; name the runner itself with --runner"),
    ],
)
def test_options_of_the_wrong_form_are_refused_at_once(options, message):
    with pytest.raises(ConfigError, match=message):
        BeamEngine(options=options)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (BeamEngine(options=("--direct_num_worker=2",)), r"got --direct_num_worker, which Beam does not know"),
        (BeamEngine(options=("--direct_num_workers=two",)), r"does not accept .*invalid int value: 'two'"),
        (BeamEngine("NoSuchRunner"), r"got NoSuchRunner, allowed FnApiRunner, PortableRunner"),
        (
            BeamEngine("DataflowRunner", ("--project=rivers",)),
            r"DataflowRunner: got no --region, --temp_location, allowed",
        ),
        (BeamEngine("no_such_package.Runner"), r"no_such_package\.Runner cannot be imported .*run: pip install"),
        (BeamEngine("penstock.pipelines.beam.Nothing"), r"got penstock.pipelines.beam.Nothing, allowed FnApiRunner"),
    ],
)
def test_what_beam_does_not_know_is_refused_before_anything_is_written(tmp_path, capfd, engine, message):
    job = job_of(tmp_path, Rows())
    with pytest.raises((ConfigError, MissingExtraError), match=message):
        run_pass(job, splits_of(range(2)), engine)
    assert job.folder.files() == []
    assert "usage:" not in capfd.readouterr().err


def test_a_job_service_that_is_not_there_is_an_error_and_not_a_wait(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))  # taken, and nobody listens
        endpoint = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"--job_endpoint={endpoint}, where nothing answers .*start the job"):
            run_pass(
                job_of(tmp_path, Rows()),
                splits_of(range(2)),
                BeamEngine("PortableRunner", (f"--job_endpoint={endpoint}", "--environment_type=LOOPBACK")),
            )


@pytest.mark.server
def test_a_worker_pool_that_is_not_there_is_named(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        pool = f"127.0.0.1:{other.getsockname()[1]}"
        options = ("--job_endpoint=embed", "--environment_type=EXTERNAL", f"--environment_config={pool}")
        with pytest.raises(
            WorkerError, match=rf"0abc12/read on PortableRunner failed: .*{pool}.*refused; splits"
        ) as raised:
            run_pass(job_of(tmp_path, Rows()), splits_of(range(2)), BeamEngine("PortableRunner", options))
    assert "\n" not in str(raised.value)


def test_options_reach_the_runner_as_they_were_given(tmp_path):
    from apache_beam.options.pipeline_options import GoogleCloudOptions, PortableOptions, WorkerOptions

    given = ("--max_num_workers=50", "--job_endpoint=embed", "--environment_type", "EXTERNAL", "--own=1")
    options = BeamEngine("PortableRunner", given).named(job_of(tmp_path, Rows()))
    assert options.view_as(WorkerOptions).max_num_workers == 50
    assert options.view_as(PortableOptions).job_endpoint == "embed"
    assert options.view_as(PortableOptions).environment_type == "EXTERNAL"
    assert options.get_all_options(retain_unknown_options=True)["own"] == "1"
    assert options.view_as(GoogleCloudOptions).job_name == "penstock-read-0abc12"


@pytest.mark.parametrize(
    ("base", "prefix", "expected"),
    [
        ("penstock", "0abc12/read", "penstock-read-0abc12"),
        ("My Build_1", "0abc12/sample-positive", "my-build-1-sample-positive-0abc12"),
        ("2026", "0abc12/read", "p-2026-read-0abc12"),
        ("x" * 70, "0abc12/read", "x" * 63),
        ("x" * 62 + "_y", "0abc12/read", "x" * 62),
    ],
)
def test_a_job_is_named_after_its_pass(tmp_path, base, prefix, expected):
    assert job_name(base, job_of(tmp_path, Rows(), prefix)) == expected


LETTERS = "abXY09-_. é"


@given(st.text(LETTERS, min_size=1, max_size=80), st.text(LETTERS, max_size=80))
def test_a_job_name_is_one_that_dataflow_accepts(base, name):
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", job_name(base, Pass(Folder("x"), f"0abc12/{name}", Rows())))
