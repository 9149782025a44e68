"""Kills at random moments of every step: the next run ends in the bytes of a run that nothing disturbed.

A trial starts from a finished run without one step's folder, so that only this step runs, kills it, runs it
again and compares everything. A third of the kills hit right before the n-th change a step makes to its folder
(between a part and its receipt, a receipt and the manifest, the manifest and the clearing), the rest hit at a
random time: the whole process group, only the driver, or only a worker. ``--faults`` sets the trials per step.
The last test kills ``python -m penstock run`` itself.
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


def kill_at_random(rng, nursery, processes, recipe, out, step, kind, known):
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
    processes.until(lambda: f"\n{step}  " in "\n" + nursery.said() or not psutil.pid_exists(session), why=nursery.said)
    if kind == "worker":
        processes.until(
            lambda: processes.workers_of(session) or not psutil.pid_exists(session), why="no worker came up"
        )
    delay = rng.uniform(0, known["seconds"] + (1.0 if workers else 0.0))
    time.sleep(delay)
    with contextlib.suppress(ProcessLookupError):
        if kind == "group":
            os.killpg(session, signal.SIGKILL)
        elif kind == "driver":
            os.kill(session, signal.SIGKILL)
        elif found := processes.workers_of(session):
            os.kill(rng.choice(found).pid, signal.SIGKILL)
    code = nursery.wait()
    print(f"  {kind} killed after {delay:.2f} s with {workers} workers: {code}")
    # workers watch for the end of their driver; nobody else ends them
    processes.until(
        lambda: not processes.alive(session), why=lambda: f"still alive: {processes.alive(session)}", seconds=30
    )
    if kind == "worker" and code == 1:
        assert "penstock: a worker process died" in nursery.said()
        assert "run again to resume" in nursery.said()
        return True
    assert code in (0, -signal.SIGKILL), nursery.said()
    return code == -signal.SIGKILL


@pytest.mark.parametrize("step", STEPS)
def test_a_step_killed_anywhere_ends_in_the_same_bytes(
    step, undisturbed, nursery, processes, tmp_path, request, published_bytes
):
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
            if kill_at_random(rng, nursery, processes, recipe, root, step, kind, known):
                break
        else:
            pytest.fail(f"{kind}: no kill came before the end; seed {seed}")
        while rng.random() < 0.3:
            nursery.run(recipe, root, step, kill_at=rng.randint(1, len(known["changes"])))
        assert nursery.run(recipe, root, step) == 0, nursery.said()
        compare(root, reference, f"seed {seed}, trial {trial}, {kind}", published_bytes)


def test_a_run_from_nothing_killed_again_and_again_ends_in_the_same_bytes(
    undisturbed, processes, tmp_path, request, published_bytes
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
        processes.until(
            lambda step=step, process=process: f"\n{step}  " in log.read_text() or process.poll() is not None,
            why=log.read_text,
            seconds=300,
        )
        time.sleep(rng.uniform(0, 0.6))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        processes.until(lambda process=process: not processes.alive(process.pid), why="processes left")
    with log.open("w") as file:
        assert subprocess.run(command, stdout=file, stderr=file, timeout=300).returncode == 0, log.read_text()
    compare(root, reference, f"seed {seed}", published_bytes)
