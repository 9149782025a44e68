"""Before a Beam job starts: where workers are, what Dataflow needs, which folders and inputs are reached."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from typer.testing import CliRunner

from penstock.cli import app
from penstock.errors import ConfigError, MissingExtraError, StorageError, WorkerError
from penstock.pipelines import beam, beam_launch
from penstock.pipelines.beam import BeamEngine, Plan
from penstock.pipelines.beam_launch import check_store, elsewhere, files_of_this_machine
from penstock.pipelines.passes import Pass, run_pass, splits_of
from penstock.recipe import Recipe
from penstock.storage import Folder

CLOUD = ("--project=rivers-1", "--region=europe-west4", "--temp_location=gs://bucket/temp")
DATAFLOW = BeamEngine("DataflowRunner", (*CLOUD, "--sdk_container_image=registry/penstock-worker:1"))
POOL = ("--job_endpoint=embed", "--environment_type=EXTERNAL")


@dataclass(frozen=True)
class Nothing:
    def __call__(self, split, out):
        pass


def options_of(runner, *options):
    return BeamEngine(runner, options).parsed()


# ── where the workers are ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("runner", "options"),
    [
        ("FnApiRunner", ()),
        ("PortableRunner", ("--job_endpoint=embed", "--environment_type=LOOPBACK")),
        ("PortableRunner", ("--job_endpoint=cluster:8099", "--environment_type=LOOPBACK")),
        ("PortableRunner", (*POOL, "--environment_config=localhost:50000")),
        ("PortableRunner", (*POOL, "--environment_config=[::1]:50000")),
        ("PortableRunner", (*POOL, f"--environment_config={socket.gethostname()}:50000")),
        ("PortableRunner", (*POOL, '--environment_config={"url": "127.0.0.1:50000"}')),
        ("PortableRunner", (*POOL, "--environment_option=external_service_address=localhost:1")),
        ("PortableRunner", ("--job_endpoint=localhost:8099", "--environment_type=beam:env:process:v1")),
        ("FlinkRunner", ()),
        ("flink", ("--flink_master=[local]",)),
        ("FlinkRunner", ("--flink_master=localhost:8081", "--environment_type=PROCESS")),
        ("SparkRunner", ("--spark_master_url=local[2]",)),
        ("some.package.OwnRunner", ()),
    ],
)
def test_workers_on_this_machine_reach_its_folders(runner, options):
    assert elsewhere(runner, options_of(runner, *options)) is None


CONTAINERS = "containers, which see no folder of this machine"


@pytest.mark.parametrize(
    ("runner", "options", "where"),
    [
        ("DataflowRunner", CLOUD, "machines of Google's cloud"),
        ("dataflow", CLOUD, "machines of Google's cloud"),
        ("apache_beam.runners.dataflow.dataflow_runner.DataflowRunner", CLOUD, "machines of Google's cloud"),
        ("PortableRunner", ("--job_endpoint=localhost:8099",), CONTAINERS),
        ("PortableRunner", ("--job_endpoint=embed", "--environment_type=docker"), CONTAINERS),
        ("FlinkRunner", ("--flink_master=cluster:8081",), CONTAINERS),
        ("SparkRunner", ("--spark_master_url=spark://cluster:7077",), CONTAINERS),
        ("PortableRunner", (*POOL, "--environment_config=cluster:50000"), "machines behind cluster:50000"),
        ("PortableRunner", (*POOL, '--environment_config={"url": "cluster:5"}'), "machines behind cluster:5"),
        (
            "PortableRunner",
            ("--job_endpoint=cluster:8099", "--environment_type=EXTERNAL", "--environment_config=localhost:50000"),
            "machines behind cluster:8099",
        ),
        ("FlinkRunner", ("--flink_master=http://c:1", "--environment_type=PROCESS"), "machines behind http://c:1"),
        (
            "SparkRunner",
            ("--spark_master_url=spark://c:7077", "--environment_type=PROCESS"),
            "machines behind spark://c:7077",
        ),
        (
            "SparkRunner",
            ("--spark_rest_url=http://c:6066", "--environment_type=PROCESS"),
            "machines behind http://c:6066",
        ),
    ],
)
def test_workers_elsewhere_are_placed_in_words(runner, options, where):
    assert elsewhere(runner, options_of(runner, *options)) == where


# ── what Dataflow needs ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ((), "--project, --region, --temp_location"),
        (CLOUD[:1], "--region, --temp_location"),
        (CLOUD[:2], "--temp_location"),
        ((*CLOUD[:2], "--staging_location=gs://bucket/staging"), "--temp_location"),
        (CLOUD[1:], "--project"),
    ],
)
def test_everything_that_dataflow_lacks_is_named_at_once(given, missing):
    with pytest.raises(
        ConfigError, match=rf"^runner DataflowRunner: got no {missing}, allowed a project.*--runner-opt"
    ):
        beam_launch.check_options("DataflowRunner", options_of("DataflowRunner", *given))


@pytest.mark.parametrize("location", ["/tmp/temp", "s3://bucket/temp", "gs://bucket", "gs://B/temp"])
@pytest.mark.parametrize("name", ["temp_location", "staging_location"])
def test_a_location_that_beam_would_quietly_replace_is_refused(name, location):
    given = [f"--{name}={location}", *(one for one in CLOUD if not one.startswith(f"--{name}="))]
    with pytest.raises(ConfigError, match=rf"got --{name}={location}, allowed gs://BUCKET/FOLDER; "):
        beam_launch.check_options("DataflowRunner", options_of("DataflowRunner", *given))


def test_a_missing_client_of_googles_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "google.cloud.dataflow", None)
    with pytest.raises(MissingExtraError, match=r"google-cloud-dataflow-client .*penstock\[cloud\]"):
        beam_launch.check_options("DataflowRunner", options_of("DataflowRunner", *CLOUD))


# ── the run's folder ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("url", ["runs/a", "/data/run", "file:///data/run", "memory://run"])
def test_a_folder_of_this_machine_is_refused_for_workers_elsewhere(url):
    with pytest.raises(
        ConfigError, match=rf"^{url}: .* DataflowRunner .*Google's cloud; give --out .*s3://.*--shared-"
    ):
        beam_launch.check_folder("DataflowRunner", Folder(url), "machines of Google's cloud")


def test_a_pass_on_other_machines_never_begins_in_a_folder_of_this_one(tmp_path):
    job = Pass(Folder(str(tmp_path / "step")), "0abc12/read", Nothing())
    with pytest.raises(ConfigError, match=r"got a folder of this machine, which the workers of DataflowRunner"):
        run_pass(job, splits_of(range(2)), DATAFLOW)
    assert not (tmp_path / "step").exists()


def test_a_shared_disk_is_believed(tmp_path):
    pool = (*POOL, "--environment_config=cluster:50000")
    recipe = Recipe.parse("{name: a, source: {files: [a.jsonl]}, select: null}")
    root = Folder(str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"run: got a folder of this machine.*machines behind cluster:50000"):
        BeamEngine("PortableRunner", pool).check(recipe, root)
    BeamEngine("PortableRunner", pool, shared_disk=True).check(recipe, root)
    assert list((tmp_path / "run").iterdir()) == []  # where a file was written and deleted again


# ── inputs ───────────────────────────────────────────────────────────────────────────────────────

EVERYWHERE = """
name: everywhere
source: {files: [{path: gs://b/a.jsonl}], hub: [org/name]}
filters: {urls: {domains: [gs://b/hosts.txt]}, words: {lists: [s3://b/words.txt]}}
deduplicate: {history: [gs://b/earlier]}
decontaminate: {benchmarks: [{name: quiz, files: gs://b/quiz.jsonl}]}
quality: {positive: {files: gs://b/good.jsonl}, negative: {files: gs://b/poor.jsonl}}
scores:
  perplexity: {reference: {files: gs://b/reference.jsonl}}
  askllm: {model: {url: 'http://h/v1', model: m}}
select: {search: {target: {files: gs://b/target.jsonl}}}
"""


def test_a_recipe_whose_inputs_lie_in_stores_passes():
    recipe = Recipe.parse(EVERYWHERE)
    assert list(files_of_this_machine(recipe)) == []
    beam_launch.check_inputs("DataflowRunner", recipe, "machines of Google's cloud", shared_disk=False)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("source.files=[x.jsonl]", "source.files.0.path"),
        ("source.files=[{path: 'file:///x.jsonl'}]", "source.files.0.path"),
        ("source.files=[{path: 'gs://b/a', chat: {template: x.jinja}}]", "source.files.0.chat.template"),
        ("filters.urls.soft_words=[gs://b/1, x.txt]", "filters.urls.soft_words.1"),
        ("filters.words.lists=[x.txt]", "filters.words.lists.0"),
        ("deduplicate.history=[x]", "deduplicate.history.0"),
        ("decontaminate.benchmarks=[{name: quiz, files: x.jsonl}]", "decontaminate.benchmarks.0.files.0.path"),
        ("quality.positive.files=x.jsonl", "quality.positive.files.0.path"),
        ("quality.negative.files=x.jsonl", "quality.negative.files.0.path"),
        ("scores.perplexity.reference.files=x.jsonl", "scores.perplexity.reference.files.0.path"),
        ("scores.askllm.model={path: x}", "scores.askllm.model.path"),
        ("scores.classifier={edu: {path: x}}", "scores.classifier.edu.path"),
        ("scores.lm={model: x}", "scores.lm.model"),
        ("select.search.target.files=x.jsonl", "select.search.target.files.0.path"),
        ("embed={model: {path: x}}", "embed.model.path"),
    ],
)
def test_every_file_that_workers_read_is_found_by_its_key(override, key):
    (found,) = files_of_this_machine(Recipe.parse(EVERYWHERE, [override]))
    assert found.partition(": ")[0] == key
    assert "x" in found.partition(": ")[2]


def test_a_folder_in_the_layout_of_the_hub_is_one_of_this_machine_and_a_name_is_not(tmp_path, monkeypatch):
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert list(files_of_this_machine(Recipe.parse(EVERYWHERE))) == []
    monkeypatch.chdir(tmp_path)
    assert list(files_of_this_machine(Recipe.parse(EVERYWHERE))) == ["source.hub.0.dataset: org/name"]


def test_models_that_are_copied_and_templates_that_are_built_in_may_lie_here(static_folder):
    overrides = [f"embed={{model: {{path: '{static_folder}'}}}}"]
    overrides += ["source.files=[{path: 'gs://b/a', chat: {template: chatml}}]"]
    assert list(files_of_this_machine(Recipe.parse(EVERYWHERE, overrides))) == []


def test_all_inputs_of_this_machine_are_named_at_once_and_its_python_is_shared_by_no_disk():
    text = "{name: a, source: {environment: {}}, filters: {words: {lists: [w.txt, v.txt]}}, select: null}"
    recipe, where = Recipe.parse(text), "machines behind cluster:1"
    with pytest.raises(ConfigError) as raised:
        beam_launch.check_inputs("PortableRunner", recipe, where, shared_disk=False)
    assert str(raised.value).startswith(
        "inputs of this machine, which the workers of PortableRunner do not reach, as they run on machines behind "
        "cluster:1: filters.words.lists.0: w.txt; filters.words.lists.1: v.txt; source.environment: this Python "
        "installation; put files into a store"
    )
    with pytest.raises(ConfigError, match=r"cluster:1: source\.environment: this Python installation; put"):
        beam_launch.check_inputs("PortableRunner", recipe, where, shared_disk=True)
    stands_aside = Recipe.parse(EVERYWHERE, ["source.environment={}"])
    beam_launch.check_inputs("PortableRunner", stands_aside, where, shared_disk=False)


# ── what a store allows ──────────────────────────────────────────────────────────────────────────


class Guarded(MemoryFileSystem):
    """A store in memory that refuses some operations."""

    protocol = "guarded"
    store: dict = {}
    pseudo_dirs: list = [""]
    refuses: set = set()

    def allow(self, operation):
        if operation in self.refuses:
            raise PermissionError(f"no {operation} for you")

    def pipe_file(self, path, value, **options):
        self.allow("write")
        return super().pipe_file(path, value, **options)

    def find(self, path, **options):
        self.allow("list")
        return super().find(path, **options)

    def cat_file(self, path, **options):
        self.allow("read")
        return super().cat_file(path, **options)

    def rm_file(self, path):
        self.allow("delete")
        return super().rm_file(path)


@pytest.fixture
def guarded(monkeypatch):
    """The set of operations that ``guarded://`` refuses; it counts as Google's store."""
    fsspec.register_implementation("guarded", Guarded, clobber=True)
    monkeypatch.setattr(Guarded, "store", {})
    monkeypatch.setattr(Guarded, "refuses", set())
    monkeypatch.setitem(beam_launch._OPERATIONS, "guarded", beam_launch._OPERATIONS["gs"])
    return Guarded.refuses


def test_a_store_that_allows_all_four_is_left_as_it_was(guarded):
    check_store("--temp_location", Folder("guarded://bucket/temp"))
    assert Guarded.store == {}


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        ({"write"}, r"to write \(it takes storage\.objects\.create\): [^;]+; have it granted"),
        ({"list"}, r"to list \(it takes storage\.objects\.list\): [^;]+; have it granted"),
        ({"read"}, r"to read \(it takes storage\.objects\.get\): [^;]+; have it granted"),
        ({"delete"}, r"to delete \(it takes storage\.objects\.delete\): [^;]+; have it granted"),
        ({"list", "delete"}, r"to list \(it takes [^;]+; to delete \(it takes [^;]+; have it granted"),
    ],
)
def test_what_a_store_refuses_is_named_with_the_permission_that_it_takes(guarded, refused, said):
    guarded |= refused
    with pytest.raises(StorageError, match=rf"^--temp_location guarded://b/temp: .* was refused {said}"):
        check_store("--temp_location", Folder("guarded://b/temp"))
    assert (Guarded.store == {}) == ("delete" not in refused)


def test_a_store_that_does_not_list_what_it_took_is_named(guarded, monkeypatch):
    monkeypatch.setattr(Guarded, "find", lambda self, path, **options: {})
    with pytest.raises(StorageError, match=r"to list .*: what was just written is not listed; have"):
        check_store("the run's folder", Folder("guarded://b/run"))


@pytest.mark.server
def test_a_bucket_is_tried_before_the_first_pass_and_a_missing_one_is_told(s3_bucket):
    engine = BeamEngine("PortableRunner", (*POOL, "--environment_config=cluster:50000"))
    recipe = Recipe.parse("{name: a, source: {files: ['s3://b/a.jsonl']}, select: null}")
    engine.check(recipe, Folder(f"{s3_bucket}/run"))
    here = BeamEngine("PortableRunner", ("--environment_type=LOOPBACK",))  # a store is tried wherever workers are
    with pytest.raises(StorageError, match=r"write \(it takes s3:PutObject"):
        here.check(recipe, Folder("s3://no-such-bucket/run"))
    assert Folder(s3_bucket).files() == []
    with pytest.raises(
        StorageError, match=r"the run's folder s3://no-such-bucket/run: .*write \(it takes s3:PutObject"
    ):
        engine.check(recipe, Folder("s3://no-such-bucket/run"))


# ── what only a worker can know ──────────────────────────────────────────────────────────────────


def test_a_worker_with_other_versions_than_the_launcher_makes_nothing(tmp_path, monkeypatch):
    plan = Plan.write(Pass(Folder(str(tmp_path)), "0abc12/read", Nothing()), splits_of(range(2)))
    beam._load(plan)
    beam._load.cache_clear()
    here = dict(plan.libraries) | {"pyarrow": "1.0", "python": "3.99"}
    monkeypatch.setattr(beam, "libraries", lambda: tuple(here.items()))
    ours = dict(plan.libraries)
    message = rf"python 3\.99 \(not {ours['python']}\), pyarrow 1\.0 \(not {ours['pyarrow']}\); install"
    with pytest.raises(WorkerError, match=message):
        beam._load(plan)


def test_workers_without_penstock_are_told_from_their_first_error(tmp_path):
    said = (
        "Traceback (most recent call last):\n  …\nModuleNotFoundError: No module named 'penstock' [while running 'Run']"
    )
    found = DATAFLOW._translated(RuntimeError(said), Pass(Folder(str(tmp_path)), "0abc12/read", Nothing()))
    assert type(found) is WorkerError
    assert "0abc12/read on DataflowRunner failed: its workers have no module penstock; start them in a cont" in str(
        found
    )


# ── the command line ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shared-disk"], "without a runner; name one by --runner"),
        (["--job-file", "job.json"], "--job-file: got job.json without a job of Dataflow to write"),
        (["--job-file", "job.json", "--dry-run", "--runner", "FnApiRunner"], "--job-file: got job.json without"),
        (["--job-file", "job.json", "--runner", "DataflowRunner"], "--job-file: got job.json without"),
        (["--runner", "DataflowRunner"], "got no --project, --region, --temp_location"),
        (["--runner", "DataflowRunner", "--dry-run"], "got no --project, --region, --temp_location"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_made(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text("{name: a, source: {files: [a.jsonl]}, select: null}")
    done = CliRunner().invoke(app, ["build", "recipe.yaml", *arguments])
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)
    assert os.listdir() == ["recipe.yaml"]
