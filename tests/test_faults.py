"""Kills at random moments of every step: the next run ends in the bytes of a run that nothing disturbed.

A trial starts from a finished run without one step's folder, so that only this step runs, kills it, runs it
again and compares everything. A third of the kills hit right before the n-th change a step makes to its folder
(between a part and its receipt, a receipt and the manifest, the manifest and the clearing), the rest hit at a
random time: the whole process group, only the driver, or only a worker. ``--faults`` sets the trials per step.

Children are forked from one process that has imported everything: each is a process group of its own that runs
the real steps, without the five seconds of imports. The last test kills ``python -m penstock run`` itself.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from penstock.dataset import Dataset
from penstock.recipe import Recipe
from penstock.reuse import named_files
from penstock.storage import Folder

pytestmark = pytest.mark.slow

STEPS = (
    "documents",
    "deduplicated",
    "tokenizer",
    "quality",
    "scored",
    "selection-1",
    "dataset-1",
    "sequences-1",
    "model-1",
    "selection-2",
    "dataset-2",
    "sequences-2",
    "model-2",
)

NURSERY = r"""
import json, os, signal, sys, time, traceback
import filelock, fsspec.implementations.local, numba, sklearn, torch, transformers
import penstock.cli, penstock.pipelines.plan, penstock.run, penstock.terminal, penstock.training.loop
from penstock.errors import PenstockError
from penstock.recipe import Recipe

def child(job):
    os.setsid()
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for fd in (1, 2):
        os.dup2(log, fd)
    inside, changes = f"{job['out']}/{job['step']}/", []

    def watch(event, args):
        if event == "open":
            writes = isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        else:
            writes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
        if writes and str(args[0]).startswith(inside):
            name = os.path.basename(str(args[1] if event == "os.rename" else args[0]))
            kept = name in ("manifest.json", "README.md", "samples.parquet")
            changes.append(f"{event} {name if kept else os.path.splitext(name)[1]}")
            if len(changes) == job["kill_at"]:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    try:
        with penstock.terminal.Terminal() as terminal:
            result = penstock.run.run(
                Recipe.load(job["recipe"]), out=job["out"], workers=job["workers"], reporter=terminal,
                split_bytes=20_000, report=False,
            )
    except PenstockError as error:
        print(f"penstock: {error}", file=sys.stderr, flush=True)
        return 1
    except BaseException:
        traceback.print_exc()
        return 3
    seconds = sum(r.seconds for r in result.steps if r.step.name == job["step"])
    with open(job["log"] + ".json", "w") as file:
        json.dump({"changes": changes, "seconds": seconds}, file)
    return 0

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            code = child(json.loads(line))
        finally:
            os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def alive(session):
    """Processes of a session that still run; those that ended and were not collected do not count."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def workers_of(session):
    found = []
    for process in alive(session):
        with contextlib.suppress(psutil.Error):
            if "spawn_main" in " ".join(process.cmdline()):
                found.append(process)
    return found


def until(condition, *, why, seconds=60.0):
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(why() if callable(why) else why)
        time.sleep(0.002)
    return value


class Nursery:
    """Starts runs and waits for them; ``last`` is the session of the latest."""

    def __init__(self, folder):
        self.log = folder / "log"
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | threads,
        )

    def start(self, recipe, out, step, *, workers=0, kill_at=0):
        self.log.unlink(missing_ok=True)
        job = {"recipe": str(recipe), "out": str(out), "step": step, "workers": workers, "kill_at": kill_at}
        self._process.stdin.write(json.dumps({**job, "log": str(self.log)}) + "\n")
        self._process.stdin.flush()
        self.last = int(self._process.stdout.readline())
        return self.last

    def wait(self):
        return int(self._process.stdout.readline())

    def run(self, *args, **options):
        self.start(*args, **options)
        return self.wait()

    def said(self):
        return self.log.read_text() if self.log.exists() else ""

    def close(self):
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    made = Nursery(tmp_path_factory.mktemp("nursery"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def undisturbed(finished, nursery, tmp_path_factory):
    """(recipe file, run folder): the finished run again in many splits and shards; its models are taken over."""
    base, recipe, _ = finished
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "recipe.yaml").write_text(Recipe.parse(recipe.to_yaml(), ["shard_mb=0.03"]).to_yaml())
    for name in ("model-1", "model-2"):
        shutil.copytree(base / "run" / name, folder / "run" / name)
    assert nursery.run(folder / "recipe.yaml", folder / "run", "documents") == 0, nursery.said()
    assert "model-1  up to date" in nursery.said()
    assert len(Dataset(str(folder / "run" / "documents")).table("documents").files) > 5
    assert len(Dataset(str(folder / "run" / "dataset-1")).table("train").files) > 2
    return folder / "recipe.yaml", folder / "run"


def compare(root, reference, note, published_bytes):
    """Every digest, every published byte, both accounting identities, and nothing left lying about."""
    for name in STEPS:
        dataset, expected = Dataset(f"{root}/{name}"), Dataset(f"{reference}/{name}")
        assert dataset.manifest.digest == expected.manifest.digest, (name, note)
        assert dataset.manifest.counts == expected.manifest.counts, (name, note)
        assert dataset.manifest.counts.balances, (name, note)
        assert dataset.manifest.stats == expected.manifest.stats or not name.startswith("dataset"), (name, note)
        named = named_files(dataset.folder, dataset.manifest) | {"manifest.json"}
        assert set(dataset.folder.files()) - {"README.md", "croissant.json"} == named, (name, note)
        dataset.verify()
    for number in (1, 2):
        chosen = Dataset(f"{root}/selection-{number}").manifest.stats["domains"]
        for split, domains in Dataset(f"{root}/sequences-{number}").manifest.stats["tokens"].items():
            for domain, count in domains.items():
                assert chosen[split][domain]["tokens"] == count["in"] == count["packed"] + count["cut"], note
    for name in ("dataset-1", "dataset-2"):
        assert published_bytes(Folder(f"{root}/{name}")) == published_bytes(Folder(f"{reference}/{name}")), (name, note)


def kill_at_random(rng, nursery, recipe, out, step, kind, known):
    """Start the step and kill it; True when something was hit."""
    if kind == "change":
        # every kind of change is as likely as any other, however many parts there are
        wanted = rng.choice(sorted(set(known["changes"])))
        number = rng.choice([n for n, change in enumerate(known["changes"], 1) if change == wanted])
        code = nursery.run(recipe, out, step, kill_at=number)
        print(f"  killed before change {number} of {len(known['changes'])}, {wanted}: {code}")
        return code == -signal.SIGKILL
    workers = {"group": rng.choice((0, 2)), "driver": 1, "worker": 2}[kind]
    session = nursery.start(recipe, out, step, workers=workers)
    until(lambda: f"\n{step}  " in "\n" + nursery.said() or not psutil.pid_exists(session), why=nursery.said)
    if kind == "worker":
        until(lambda: workers_of(session) or not psutil.pid_exists(session), why="no worker came up")
    delay = rng.uniform(0, known["seconds"] + (1.0 if workers else 0.0))
    time.sleep(delay)
    with contextlib.suppress(ProcessLookupError):
        if kind == "group":
            os.killpg(session, signal.SIGKILL)
        elif kind == "driver":
            os.kill(session, signal.SIGKILL)
        elif found := workers_of(session):
            os.kill(rng.choice(found).pid, signal.SIGKILL)
    code = nursery.wait()
    print(f"  {kind} killed after {delay:.2f} s with {workers} workers: {code}")
    # workers watch for the end of their driver; nobody else ends them
    until(lambda: not alive(session), why=lambda: f"still alive: {alive(session)}", seconds=30)
    if kind == "worker" and code == 1:
        assert "penstock: a worker process died" in nursery.said()
        assert "run again to resume" in nursery.said()
        return True
    assert code in (0, -signal.SIGKILL), nursery.said()
    return code == -signal.SIGKILL


@pytest.mark.parametrize("step", STEPS)
def test_a_step_killed_anywhere_ends_in_the_same_bytes(step, undisturbed, nursery, tmp_path, request, published_bytes):
    recipe, reference = undisturbed
    seed = request.config.getoption("--faults-seed") or random.SystemRandom().getrandbits(32)
    rng = random.Random(f"{seed} {step}")
    print(f"--faults-seed={seed}")
    root = tmp_path / "run"

    def fresh():
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(reference, root)
        shutil.rmtree(root / step)

    fresh()
    assert nursery.run(recipe, root, step) == 0, nursery.said()
    compare(root, reference, "built again, not disturbed", published_bytes)
    known = json.loads(Path(f"{nursery.log}.json").read_text())
    assert {"os.rename manifest.json", "os.mkdir "} < set(known["changes"])
    kinds = ("change", "group") if step.startswith("model") else ("change", "group", "change", "driver", "worker")
    order = rng.sample(range(len(kinds)), len(kinds))
    if order[0] and "change" not in (kinds[order[0]], kinds[order[1]]):
        order[1] = 0  # two trials are never both by time
    for trial in range(request.config.getoption("--faults")):
        kind = kinds[order[trial % len(kinds)]]
        for _attempt in range(8):
            fresh()
            if kill_at_random(rng, nursery, recipe, root, step, kind, known):
                break
        else:
            pytest.fail(f"{kind}: no kill came before the end; seed {seed}")
        while rng.random() < 0.3:
            nursery.run(recipe, root, step, kill_at=rng.randint(1, len(known["changes"])))
        assert nursery.run(recipe, root, step) == 0, nursery.said()
        compare(root, reference, f"seed {seed}, trial {trial}, {kind}", published_bytes)


def test_a_run_from_nothing_killed_again_and_again_ends_in_the_same_bytes(
    undisturbed, tmp_path, request, published_bytes
):
    recipe, reference = undisturbed
    seed = request.config.getoption("--faults-seed") or random.SystemRandom().getrandbits(32)
    rng = random.Random(f"{seed} whole run")
    print(f"--faults-seed={seed}")
    root, log = tmp_path / "run", tmp_path / "log"
    command = [sys.executable, "-m", "penstock", "run", "--plain", str(recipe), "--out", str(root)]
    command += ["--workers", "1", "--split-mb", "0.019073486328125"]
    kills = min(request.config.getoption("--faults"), 6)
    for step in sorted(rng.sample(STEPS, kills), key=STEPS.index):
        with log.open("w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        until(
            lambda step=step, process=process: f"\n{step}  " in log.read_text() or process.poll() is not None,
            why=log.read_text,
            seconds=300,
        )
        time.sleep(rng.uniform(0, 0.6))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        until(lambda process=process: not alive(process.pid), why="processes left")
    with log.open("w") as file:
        assert subprocess.run(command, stdout=file, stderr=file, timeout=300).returncode == 0, log.read_text()
    compare(root, reference, f"seed {seed}", published_bytes)
