"""Workers get penstock: who lacks it, the wheel that is built for them, and what Beam's stager makes of it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import penstock
from penstock.errors import ConfigError
from penstock.pipelines import beam_packages
from penstock.pipelines.beam import BeamEngine
from penstock.pipelines.beam_packages import add_penstock, lacks_penstock, pinned, wheel

SOURCE = Path(penstock.__file__).parent
POOL = ("--environment_type=EXTERNAL", "--environment_config=localhost:50000")


def options_of(runner, *options):
    return BeamEngine(runner, options).parsed()


@pytest.fixture
def installed(monkeypatch):
    """As if penstock ran from a wheel, without its source."""
    wheel.cache_clear()
    monkeypatch.setattr(beam_packages, "source_folder", lambda: None)
    yield
    wheel.cache_clear()


@pytest.mark.parametrize(
    ("runner", "options", "lacks"),
    [
        ("DataflowRunner", (), True),
        ("DataflowRunner", ("--extra_package=/x/other-1-py3-none-any.whl",), True),
        ("DataflowRunner", ("--extra_package=/x/penstock-1-py3-none-any.whl",), False),
        ("DataflowRunner", ("--sdk_container_image=registry/image",), False),
        ("DataflowRunner", ("--worker_harness_container_image=registry/image",), False),
        ("DataflowRunner", ("--setup_file=/x/pyproject.toml",), False),
        ("DataflowRunner", ("--environment_config=registry/image",), True),
        ("PortableRunner", ("--job_endpoint=localhost:8099",), True),
        ("PortableRunner", ("--job_endpoint=c:1", "--environment_config=registry/image"), False),
        ("PortableRunner", ("--environment_options=docker_container_image=registry/image",), False),
        ("PortableRunner", POOL, False),
        ("PortableRunner", ("--environment_type=LOOPBACK",), False),
        ("FlinkRunner", (), False),
        ("FlinkRunner", ("--flink_master=cluster:8081",), True),
        ("SparkRunner", ("--spark_master_url=spark://c:7077",), True),
        ("FnApiRunner", (), False),
        ("some.package.OwnRunner", (), False),
    ],
)
def test_penstock_is_sent_to_workers_in_beams_own_container_alone(runner, options, lacks):
    assert lacks_penstock(runner, options_of(runner, *options)) is lacks


def test_an_installed_penstock_asks_for_a_container_or_a_package(installed):
    with pytest.raises(
        ConfigError, match=r"installed here without its source.*--sdk_container_image=.*--extra_package"
    ):
        add_penstock("DataflowRunner", options_of("DataflowRunner"), "gs")
    named = options_of("DataflowRunner", "--sdk_container_image=registry/image")
    add_penstock("DataflowRunner", named, "gs")
    assert named.get_all_options(drop_default=True) == {"sdk_container_image": "registry/image"}


def test_a_source_that_cannot_be_built_says_why(installed, monkeypatch, tmp_path):
    (tmp_path / "penstock").mkdir()
    for name in beam_packages.IN_WHEEL:
        (tmp_path / name).write_text("[build-system\n")
    monkeypatch.setattr(beam_packages, "source_folder", lambda: tmp_path)
    with pytest.raises(ConfigError, match=r"a package for workers cannot be built \(.+pyproject\.toml.+\); mend it"):
        wheel()


def test_requirements_are_those_of_the_project_at_the_versions_here_with_the_client_of_the_store():
    lines = pinned("gs")
    names = [re.split(r"[\[=]", line)[0] for line in lines]
    assert lines == sorted(lines)
    assert {"pyarrow", "numpy", "tokenizers", "torch", "gcsfs"} <= set(names)
    assert "apache-beam" not in names  # the container's own
    assert "s3fs" not in names
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+(\[[a-z0-9,_-]+\])?==[0-9][A-Za-z0-9.!]*", line) for line in lines)
    assert set(pinned("s3")) - set(lines) == {line for line in pinned("s3") if line.startswith("s3fs==")}


def test_a_requirements_file_of_the_users_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(beam_packages, "wheel", lambda: tmp_path / "penstock-1.whl")
    options = options_of("DataflowRunner", "--requirements_file=mine.txt", "--extra_package=/x/a.whl")
    add_penstock("DataflowRunner", options, "gs")
    given = options.get_all_options(drop_default=True)
    assert given == {"requirements_file": "mine.txt", "extra_packages": ["/x/a.whl", str(tmp_path / "penstock-1.whl")]}


@pytest.mark.slow
def test_what_beams_stager_stages_is_a_whole_penstock_that_installs_without_an_index(tmp_path):
    from apache_beam.runners.portability.stager import Stager

    options = options_of("DataflowRunner")
    add_penstock("DataflowRunner", options, "gs")

    class Copier(Stager):
        def stage_artifact(self, local_path_to_artifact, artifact_name, sha256):
            Path(artifact_name).write_bytes(Path(local_path_to_artifact).read_bytes())

        def commit_manifest(self):
            return "done"

    def fetches_nothing(*_):
        raise AssertionError("the launcher downloads packages")

    staged, temporary = tmp_path / "staged", tmp_path / "temporary"
    staged.mkdir()
    temporary.mkdir()
    _, names = Copier().create_and_stage_job_resources(
        options,
        temp_dir=str(temporary),
        populate_requirements_cache=fetches_nothing,
        staging_location=str(staged),
    )
    package = wheel().name
    assert set(names) >= {package, "extra_packages.txt", "requirements.txt"}
    assert (staged / "extra_packages.txt").read_text() == f"{package}\n"
    assert (staged / "requirements.txt").read_text().splitlines() == pinned("gs")

    python = tmp_path / "environment" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "environment")], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(staged / package)], check=True, capture_output=True)
    shown = subprocess.run(
        [str(python), "-P", "-c", "import penstock; print(penstock.__file__, penstock.__version__)"],
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
        check=True,
    )
    file, version = shown.stdout.split()
    home = Path(file).parent
    assert home.is_relative_to(tmp_path / "environment")
    assert version == penstock.__version__

    def files(folder):
        found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        return {str(path) for path in found if path.suffix != ".pyc"}

    assert files(home) == files(SOURCE)
    kinds = {Path(name).suffix for name in files(home)}
    assert {".j2", ".md", ".yaml", ".json"} <= kinds  # templates, prompts, recipes of init, families
