"""A run that is killed anywhere and started again writes the same bytes as one left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.training import checkpoint
from penstock.training.group_rl import evaluation, loop
from penstock.training.group_rl.config import GroupRLConfig
from penstock.training.group_rl.loop import learn
from penstock.training.group_rl.problems import ProblemTable

STEPS = 5
REWARD = "def exact(text, problem):\n    return None if text == '9' else float(text == problem.answer)\n"


class Killed(Exception):
    """Stands for whatever ends a process."""


def published(out: Path) -> dict[str, bytes]:
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != "timings.jsonl"]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(half_right: Path, sums: ProblemTable, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run left alone: its configuration, what it takes, and its bytes."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "resume_rewards.py").write_text(REWARD)
    sys.path.insert(0, str(folder))
    config = GroupRLConfig(
        objective="ta-grpo", steps=STEPS, groups_per_step=4, rollouts=2, instruction="", max_new_tokens=4, device="cpu",
        threads=1, learning_rate=2e-3, kl_beta=0.02, updates_per_step=2, reward="resume_rewards:exact", eval_every=2,
        eval_problems=4, eval_samples=4, eval_ks=(1, 4), checkpoint_every=2, schedule="cosine", warmup_steps=2,
    )  # fmt: skip
    learn(config, half_right, sums, folder / "o", held_out={"sums": sums}, progress=False)
    yield config, folder, published(folder / "o")
    sys.path.remove(str(folder))


def test_the_run_has_what_may_go_wrong(whole: Any) -> None:
    _, _, expected = whole
    records = [json.loads(line) for line in expected["metrics.jsonl"].splitlines()]
    assert [record["step"] for record in records] == [*range(1, STEPS + 1)]
    assert all(record["updates"] == 2 and record["kl"] is not None for record in records)
    assert any(record["groups"]["unknown"] > 0 for record in records)
    assert len({record["loss"] for record in records}) == STEPS
    evaluations = [json.loads(line)["step"] for line in expected["evaluation.jsonl"].splitlines()]
    assert evaluations == [0, 2, 4, 5]
    assert len([name for name in expected if name.startswith("rollouts/")]) == STEPS


# where a run is stopped: something it calls, before or after that is done
PLACES = {
    "before the answers": (loop.LivePolicy, "__call__", "before"),
    "between answers and rewards": (loop.LivePolicy, "__call__", "after"),
    "between rewards and updates": (loop._Run, "_update", "before"),
    "between the two updates": (loop.Objective, "backward", "before"),
    "after the updates": (loop._Run, "_update", "after"),
    "in an evaluation": (evaluation, "sample_answers", "after"),
    "before a checkpoint": (loop._Run, "_save", "before"),
    "in a checkpoint": (checkpoint, "_write_tensors", "after"),
    "after a checkpoint": (loop._Run, "_save", "after"),
    "before the model is written": (loop._Run, "export", "before"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_run_killed_there_ends_in_the_same_bytes(
    whole: Any, half_right: Path, sums: ProblemTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    config, _, expected = whole
    owner, name, when = PLACES[place]
    rng = np.random.default_rng(sum(map(ord, place)))
    real, calls = getattr(owner, name), []
    # of the calls that a run makes there, one of the first and one of the later ones
    for at in (1, int(rng.integers(2, 4))) if name != "export" else (1,):
        calls.clear()

        def stopping(*given: Any, at: int = at, **options: Any) -> Any:
            calls.append(1)
            if len(calls) == at and when == "before":
                raise Killed
            out = real(*given, **options)
            if len(calls) == at:
                raise Killed
            return out

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, stopping)
            with pytest.raises(Killed):
                learn(config, half_right, sums, tmp_path / "o", held_out={"sums": sums}, progress=False)
    learn(config, half_right, sums, tmp_path / "o", held_out={"sums": sums}, progress=False)
    assert published(tmp_path / "o") == expected


CHILD = """
import sys
from penstock.training.group_rl.config import GroupRLConfig
from penstock.training.group_rl.loop import learn
from penstock.training.group_rl.problems import ProblemTable
config = GroupRLConfig(**eval(sys.argv[1]))
table = ProblemTable.read(sys.argv[3])
learn(config, sys.argv[2], table, sys.argv[4], held_out={"sums": table}, progress=False)
"""


def test_a_process_that_is_killed_at_a_random_moment_ends_in_the_same_bytes(
    whole: Any, half_right: Path, sums: ProblemTable, rows: Callable[..., Any], tmp_path: Path
) -> None:
    config, folder, expected = whole
    table = tmp_path / "sums.jsonl"
    pairs = [(a, b) for a in range(2, 8) for b in range(2)]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows(pairs)))
    rng = np.random.default_rng(int.from_bytes(os.urandom(4), "little"))
    out = tmp_path / "o"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), "OMP_NUM_THREADS": "1"}
    settings = repr(vars(config))
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, settings, str(half_right), str(table), str(out)], env=environment
    ) as child:
        reached = out / "rollouts" / f"step-{int(rng.integers(1, STEPS)):08d}.parquet"
        while not reached.exists() and child.poll() is None:
            time.sleep(0.002)
        delay = float(rng.uniform(0.0, 0.1))
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
    learn(config, half_right, sums, out, held_out={"sums": sums}, progress=False)
    assert published(out) == expected, f"killed {delay:.3f} s after {reached.name} was there"
