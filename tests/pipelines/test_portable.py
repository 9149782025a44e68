"""A build through Beam's portable job service, by worker processes that hold only the built wheel.

Workers run in a clean virtual environment: the wheel of penstock, installed by pip, and links to the
distributions that its metadata asks for (and theirs in turn), nothing else. A plain installation of those
would fetch gigabytes from a network that tests do not have; the links also leave out what happens to lie in the
developer's environment, so a dependency that is used but not declared fails here.
"""

import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import psutil
import pytest
from packaging.requirements import Requirement

from penstock.dataset import Dataset
from penstock.recipe import Recipe
from penstock.run import run
from penstock.storage import Folder

REPOSITORY = Path(__file__).parents[2]
SERVICES = Path(__file__).with_name("beam_services.py")
STEPS = ["documents", "deduplicated", "tokenizer", "quality", "scored", "selection-1", "dataset-1"]

pytestmark = [pytest.mark.slow, pytest.mark.server]

# Written by every process of the clean environment as it starts.
WITNESS = """
import importlib.util, json, os, sys
if "PENSTOCK_WITNESS" in os.environ:
    value = {"penstock": importlib.util.find_spec("penstock").origin, "path": sys.path}
    with open(os.path.join(os.environ["PENSTOCK_WITNESS"], f"{os.getpid()}.json"), "w") as file:
        json.dump(value, file)
"""


def build_wheel(folder):
    """A wheel made of a copy, since a build leaves folders beside the source."""
    source = folder / "source"
    shutil.copytree(REPOSITORY / "penstock", source / "penstock", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("*.whl")
    shutil.rmtree(source)
    return wheel


def needed_by(distribution, extra="", seen=None):
    """The installed distributions that one needs, directly or not."""
    seen = {} if seen is None else seen
    for text in distribution.requires or ():
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *need.extras):
            name = re.sub(r"[-_.]+", "-", need.name).lower()
            if (name, wanted) not in seen:
                seen[name, wanted] = found = importlib.metadata.distribution(need.name)
                needed_by(found, wanted, seen)
    return {name: found for (name, _), found in seen.items()}


@pytest.fixture(scope="module")
def clean_environment(tmp_path_factory):
    """Folder of a virtual environment that holds the wheel, links to its dependencies and the witness."""
    folder = tmp_path_factory.mktemp("clean")
    wheel = build_wheel(folder)
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, text=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    (own,) = importlib.metadata.distributions(path=[str(site)])
    dependencies = needed_by(own)
    assert {"apache-beam", "pyarrow"} <= set(dependencies)
    assert "pytest" not in dependencies
    for distribution in dependencies.values():
        for name in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(distribution.locate_file(name))
    (site / "_witness.py").write_text(WITNESS)
    (site / "witness.pth").write_text("import _witness\n")
    return environment


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def process(command, log, **options):
    """A process whose whole family is gone afterwards."""
    with open(log, "wb") as file:
        started = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, **options)
    try:
        yield started
    finally:
        family = []
        with contextlib.suppress(psutil.NoSuchProcess):
            me = psutil.Process(started.pid)
            family = [me, *me.children(recursive=True)]
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        started.wait(10)
        assert not psutil.wait_procs(family, 10)[1]


def wait_for(what, found, *processes, seconds=240):
    """The first true value of ``found()``; fails when a process ends or time is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        for one in processes:
            assert one.poll() is None, f"waiting for {what}: process ended with {one.returncode}"
        time.sleep(0.005)
    raise AssertionError(f"waited {seconds} s for {what}")


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("localhost", port), 0.2):
        return True
    return False


@pytest.fixture
def services(clean_environment, tmp_path):
    """(job port, pool port, pool process): the job service in this environment, the pool in the clean one."""
    job_port, pool_port = free_port(), free_port()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "witness").mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    for_pool = clean | {
        "PATH": f"{clean_environment / 'bin'}:{os.environ['PATH']}",
        "PENSTOCK_WITNESS": str(tmp_path / "witness"),
    }
    python = str(clean_environment / "bin" / "python")
    job = [sys.executable, "-P", str(SERVICES), "job_service", str(job_port), "2"]
    pool = [python, "-P", str(SERVICES), "worker_pool", str(pool_port)]
    with (
        process(job, tmp_path / "job_service.log", cwd=tmp_path / "elsewhere", env=clean) as job_service,
        process(pool, tmp_path / "worker_pool.log", cwd=tmp_path / "elsewhere", env=for_pool) as worker_pool,
    ):
        for port in (job_port, pool_port):
            wait_for("the services", lambda port=port: listens(port), job_service, worker_pool)
        yield job_port, pool_port, worker_pool


def test_a_build_by_clean_worker_processes_survives_the_death_of_one_and_equals_the_build_at_home(
    services, clean_environment, recipe_text, tmp_path, published_bytes
):
    job_port, pool_port, pool = services
    (tmp_path / "recipe.yaml").write_text(recipe_text)
    # the folder is relative to the driver's directory, which is not the workers'
    command = [sys.executable, "-m", "penstock", "build", "recipe.yaml", "--out", "run", "--split-mb", "0.006"]
    command += ["--runner", "PortableRunner", f"--runner-option=--job_endpoint=localhost:{job_port}"]
    command += ["--runner-option=--environment_type=EXTERNAL"]
    command += [f"--runner-option=--environment_config=localhost:{pool_port}"]
    read = Folder(str(tmp_path / "run" / "documents"))

    def receipts():
        return [name for name in read.files() if name.endswith(".json")]

    def two_workers():
        found = psutil.Process(pool.pid).children()
        return found if len(found) == 2 else None

    with process(command, tmp_path / "first.log", cwd=tmp_path) as driver:
        workers = wait_for("two workers", two_workers, driver, pool)
        wait_for("a first receipt", receipts, driver, pool)
        workers[1].kill()  # each has a bundle of half the splits, and one of the two has done one
        assert driver.wait(120) == 1
    last = (tmp_path / "first.log").read_text().strip().splitlines()[-1]
    assert re.fullmatch(r"penstock: Beam pipeline \w+/read on PortableRunner failed: .+kept: run again to resume", last)

    done = {name: read.read_json(name)["parts"]["documents"]["file"]["path"] for name in receipts()}
    splits = sum(len(source.plan(int(0.006 * (1 << 20)))) for source in sources(recipe_text))
    assert 0 < len(done) < splits

    again = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=240
    )  # a guard: about 40 s on an idle machine
    assert again.returncode == 0, again.stderr[-4000:]
    files = {file.path for file in Dataset(read.url).table("documents").files}
    assert set(done.values()) <= files
    assert len(files) == splits

    home = run(Recipe.parse(recipe_text), out=str(tmp_path / "home"), only=["dataset-1"], workers=0, report=False)
    assert [r.step.name for r in home.steps] == STEPS
    for result in home.steps:
        assert Dataset(str(tmp_path / "run" / result.step.name)).digest == result.manifest.digest
    ours, theirs = (Folder(str(tmp_path / name / "dataset-1")) for name in ("run", "home"))
    assert published_bytes(ours) == published_bytes(theirs)

    seen = [json.loads(file.read_text()) for file in (tmp_path / "witness").iterdir()]
    assert len(seen) > 2 * len(STEPS)
    for witness in seen:
        assert witness["penstock"].startswith(f"{clean_environment}/lib/")
        assert not any(folder.startswith(str(REPOSITORY)) for folder in witness["path"])


def sources(recipe_text):
    from penstock.pipelines.plan import sources_of

    return sources_of(Recipe.parse(recipe_text))
