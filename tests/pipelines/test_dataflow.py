"""A dry run on Dataflow: the whole job as Beam would send it, with no connection and no credentials."""

import hashlib
import json
import os
import re
import shlex
import socket
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.errors import ConfigError
from penstock.pipelines import beam_packages
from penstock.pipelines.beam import BeamEngine
from penstock.pipelines.dataflow import describe
from penstock.storage import Folder

pytest.importorskip("google.cloud.dataflow")

RECIPE = "{name: rivers, source: {files: [{path: 'gs://bucket/corpus/*.jsonl'}]}, select: {criteria: {language: {}}}}"
CLOUD = ("--project=rivers-1", "--region=europe-west4", "--temp_location=gs://bucket/temp")
IMAGE = "--sdk_container_image=registry/penstock-worker:1"


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """No connection can be opened and no credentials are to be found."""

    def refuse(self, address):
        raise AssertionError(f"a connection to {address}")

    def unresolved(*address):
        raise AssertionError(f"a look-up of {address}")

    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "CLOUDSDK_", "GCLOUD_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("PATH", "")  # no gcloud that Beam could ask
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    monkeypatch.setattr(socket, "create_connection", unresolved)


@pytest.fixture
def no_build(monkeypatch, tmp_path):
    """A package stands ready; building one has a test of its own."""
    package = tmp_path / "built" / "penstock-0-py3-none-any.whl"
    package.parent.mkdir()
    package.write_bytes(b"x" * 1234)
    monkeypatch.setattr(beam_packages, "wheel", lambda: package)


def job_of(*options):
    return describe(BeamEngine("DataflowRunner", (*CLOUD, *options)), Folder("gs://bucket/run"))


def test_the_job_is_whole_and_names_what_was_asked_for(alone, no_build):
    job = job_of(
        "--max_num_workers=50",
        "--num_workers=4",
        "--machine_type=n2-standard-8",
        "--staging_location=gs://bucket/staging",
        "--service_account_email=w@rivers-1.iam.gserviceaccount.com",
        "--job_name=Nightly",
    )
    assert (job.project, job.region) == ("rivers-1", "europe-west4")
    assert job.name == "nightly-pass-000000000000"
    assert (job.machine_type, job.workers, job.most_workers) == ("n2-standard-8", 4, 50)
    assert job.service_account == "w@rivers-1.iam.gserviceaccount.com"
    assert job.image.endswith(f"/beam_python{sys.version_info[0]}.{sys.version_info[1]}_sdk:{version('apache-beam')}")
    assert job.temp_location.startswith(f"gs://bucket/temp/{job.name}.")
    assert job.staging_location.startswith(f"gs://bucket/staging/{job.name}.")
    assert set(job.staged) == {"penstock-0-py3-none-any.whl", "extra_packages.txt", "requirements.txt", "pipeline.pb"}
    assert job.staged["penstock-0-py3-none-any.whl"] == 1234
    assert job.staged["pipeline.pb"] == len(job.pipeline)

    sent = json.loads(job.json)
    environment = sent["environment"]
    (pool,) = environment["workerPools"]
    assert (sent["name"], sent["type"]) == (job.name, "JOB_TYPE_BATCH")
    assert (pool["machineType"], pool["numWorkers"], pool["workerHarnessContainerImage"]) == (
        "n2-standard-8",
        4,
        job.image,
    )
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 50
    assert {package["name"] for package in pool["packages"]} == set(job.staged) - {"pipeline.pb"}
    options = environment["sdkPipelineOptions"]["options"]
    assert options["pipelineUrl"] == f"{job.staging_location}/pipeline.pb"
    assert options["pipelineProtoHash"] == hashlib.sha256(job.pipeline).hexdigest()
    assert not options.get("dry_run")


def test_the_graph_is_that_of_a_pass_and_its_files_are_where_they_would_be_staged(alone, no_build):
    from apache_beam.portability.api import beam_runner_api_pb2

    job = job_of()
    graph = beam_runner_api_pb2.Pipeline.FromString(job.pipeline)
    names = {transform.unique_name for transform in graph.components.transforms.values()}
    assert {"Count", "Splits", "Spread", "Run", "Done"} <= {name.split("/")[0] for name in names}
    files = [d for e in graph.components.environments.values() for d in e.dependencies]
    urls = {beam_runner_api_pb2.ArtifactUrlPayload.FromString(file.type_payload).url for file in files}
    assert urls == {f"{job.staging_location}/{name}" for name in job.staged if name != "pipeline.pb"}


def test_a_container_of_ones_own_is_named_and_nothing_but_the_graph_is_staged(alone):
    job = job_of(IMAGE)
    assert job.image == "registry/penstock-worker:1"
    assert set(job.staged) == {"pipeline.pb"}
    assert (job.machine_type, job.workers, job.most_workers, job.service_account) == (None, None, None, None)
    assert job.staging_location.startswith("gs://bucket/temp/")


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--update", "--update"),
        ("--prebuild_sdk_container_engine=cloud_build", "--prebuild_sdk_container_engine"),
        ("--requirements_file=r.txt", "--requirements_file, for .*add --runner-option=--requirements_cache=skip"),
        ("--sdk_location=gs://bucket/beam.tar.gz", "--sdk_location"),
        ("--extra_package=gs://bucket/a.whl", "--extra_package"),
    ],
)
def test_options_for_which_beam_would_reach_out_are_refused(alone, option, named):
    with pytest.raises(ConfigError, match=rf"^--dry-run: got {named}"):
        job_of(IMAGE, option)


def test_what_beam_itself_refuses_is_one_error(alone):
    with pytest.raises(ConfigError, match=r"^runner DataflowRunner: .*Invalid Project ID \(12345\)"):
        job_of(IMAGE, "--project=12345")


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return ["recipe.yaml", "--runner", "DataflowRunner", "--dry-run", *(f"--runner-option={one}" for one in CLOUD)]


def test_the_command_prints_the_job_and_what_it_could_not_check_and_writes_it(alone, no_build, recipe, tmp_path):
    arguments = [*recipe, "--out", "gs://bucket/run", "--job-file", "job.json", "--runner-option=--max_num_workers=9"]
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["build", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    out = done.stdout
    assert "Dry run of rivers into gs://bucket/run on DataflowRunner: nothing was contacted" in out
    for words in (
        "penstock-PASS-KEY",
        "rivers-1",
        "europe-west4",
        "9 at most",
        "penstock-0-py3-none-any.whl (1.23 kB)",
        "gs://bucket/temp/penstock-PASS-KEY.TIME",
        "steps: documents, deduplicated, tokenizer, scored, selection-1, dataset-1\n",
        "listed, read and deleted in gs://bucket/run, gs://bucket/temp;",
    ):
        assert words in out, words
    written = json.loads((tmp_path / "job.json").read_text())
    graph = (tmp_path / "job.json.pb").read_bytes()
    assert (
        written["environment"]["sdkPipelineOptions"]["options"]["pipelineProtoHash"]
        == hashlib.sha256(graph).hexdigest()
    )
    assert sorted(os.listdir(tmp_path)) == ["built", "job.json", "job.json.pb", "recipe.yaml"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--out", "runs/a"], "runs/a: got a folder of this machine"),
        (["--out", "gs://b/run", "--set", "source.files=[here.jsonl]"], "source.files.0.path: here.jsonl"),
    ],
)
def test_a_dry_run_tells_what_a_run_would(alone, no_build, recipe, more, message):
    done = CliRunner().invoke(app, ["run", *recipe, *more])
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)
    assert "Dry run" not in done.stdout


DOCS = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", DOCS.replace("\\\n", " "), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("penstock ")
]


def test_the_documented_dry_run_is_one(alone, no_build, recipe):
    (command,) = [line for line in COMMANDS if "--dry-run" in line]
    words = shlex.split(command.replace("PROJECT", "rivers-1").replace("BUCKET", "bucket").replace("RUN", "run"))
    done = CliRunner().invoke(app, words[1:], catch_exceptions=False)
    assert done.exit_code == 0
    assert "nothing was contacted" in done.stdout


def test_documented_options_are_ones_that_beam_knows():
    assert len(COMMANDS) == 5
    for command in COMMANDS:
        words = shlex.split(command)
        given = [word.partition("=")[2] for word in words if word.startswith("--runner-option=")]
        runner = words[words.index("--runner") + 1]
        asked = BeamEngine(runner, tuple(given)).parsed().get_all_options(drop_default=True)
        assert len(asked) == len(given) > 0
