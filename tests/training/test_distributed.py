"""Runs of two gloo processes on loopback, on one node or two, started by torchrun as users start them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch

from penstock.errors import ConfigError, LostRanksError, TrainingError, WorkerError
from penstock.training import checkpoint, launch, snapshot, worker
from penstock.training.config import TrainConfig, TrainData, TrainResult
from penstock.training.distributed import Ranks, device_of, lost_ranks, share
from penstock.training.loop import evaluate, train
from penstock.training.mixing.config import PolicyConfig
from penstock.training.parallel import way_of
from penstock.training.sequences import SequenceStore
from penstock.training.signals import read_signals
from penstock.training.weighting import WeightingConfig

Make = Callable[..., TrainConfig]
ROOT = Path(__file__).parents[2]
# half of the twelve validation sequences are probed: an even number, which both ranks share
STEERED: dict[str, Any] = {
    "mixture": "proportional",
    "policy": PolicyConfig(name="dga", target=("code", "web"), every=2, lag=2, probe_sequences=4, options={"eta": 3.0}),
    "weighting": WeightingConfig(warmup_steps=2),
    "micro_batch_size": 2,
    "precision": "float32",
}

DYING = """
import json, os, signal, time
from penstock.training import loop

said = json.loads(os.environ["DYING"])
advance = loop._Run.advance

def dying(self):
    if self.step + 1 == said["step"] and self.ranks.rank == said["rank"]:
        if said["how"] == "hang":
            time.sleep(600)
        if said["how"] == "node":
            os.kill(os.getppid(), signal.SIGKILL)
        os._exit(9)
    return advance(self)

loop._Run.advance = dying
"""
WORKER = """
import dying, os, sys
from penstock.training import worker

os._exit(worker.main(sys.argv[1]))
"""


@pytest.fixture
def dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make a rank hang, or end, alone or with its node, before a step of the runs that this test starts."""
    (tmp_path / "dying.py").write_text(DYING)
    (tmp_path / "dying_worker.py").write_text(WORKER)

    def set_up(**said: Any) -> None:
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
        monkeypatch.setenv("DYING", json.dumps(said))
        monkeypatch.setattr(launch, "_WORKER", "dying_worker")

    return set_up


SCRIPT = """
import json, os, sys
from pydantic import TypeAdapter
from penstock.training.config import TrainConfig, TrainData
from penstock.training.loop import train

if "DYING" in os.environ:
    import dying
job = json.load(open(sys.argv[1]))
config = TypeAdapter(TrainConfig).validate_python(job["config"])
data = TypeAdapter(TrainData).validate_python(job["data"])
result = train(config, data, job["out"], progress=False)
sys.stdout.write(f"resumed from {result.resumed_from}\\n")
"""


def on_two_nodes(folder: Path, config: TrainConfig, data: TrainData, out: Path) -> list[tuple[int, str, str]]:
    """A script of one's own, started by torchrun on each of two nodes of one process: exit code, output, errors."""
    (folder / "script.py").write_text(SCRIPT)
    job = launch.write_job(folder / "job.json", config, data, out)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1",
        str(folder / "script.py"), str(job),
    ]  # fmt: skip
    nodes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=str(ROOT))
        for _ in range(2)
    ]
    said = [node.communicate(timeout=300) for node in nodes]
    return [(node.returncode, *both) for node, both in zip(nodes, said, strict=True)]


def shares_over_time(result: TrainResult) -> np.ndarray:
    rows = [row for path in sorted(result.policy_log.iterdir()) for row in pq.read_table(path).to_pylist()]
    return np.array([row["new_weights"] for row in rows])


def norms(result: TrainResult) -> list[float]:
    return [json.loads(line)["grad_norm"] for line in result.metrics.read_text().splitlines()]


def sequences(result: TrainResult) -> list[tuple[int, int]]:
    table = read_signals(result.signals)
    return sorted(zip(table["sequence"].to_pylist(), table["segment"].to_pylist(), strict=True))


@pytest.mark.slow
def test_two_nodes_train_as_one_node_and_as_one_process_and_go_on_after_a_death(
    tiny_config: Make, tiny_data: TrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dying: Callable[..., None]
) -> None:
    """With a policy and sample weights. Two nodes: ddp until one is gone, then fsdp to the end. One node of two
    processes: until one dies, then one process to the end."""
    config = tiny_config(**STEERED)
    one = train(config, tiny_data, tmp_path / "one", progress=False)
    with monkeypatch.context():
        dying(rank=1, step=8, how="node")
        ended = sorted(on_two_nodes(tmp_path, config, tiny_data, tmp_path / "nodes"))
        of_nodes = (tmp_path / "nodes" / "metrics.jsonl").read_bytes().splitlines()
        assert [code for code, _, _ in ended] == [-signal.SIGKILL, 1]
        told = r"LostRanksError: rank 0 could not .*Another process ended or hangs.*The last checkpoint stands"
        assert re.search(told, ended[1][2]), ended[1][2]
        dying(rank=1, step=8, how="exit")
        with pytest.raises(WorkerError, match=r"rank 1 ended with exit code 9 .*step-00000006 stands, start again"):
            train(dataclasses.replace(config, processes=2), tiny_data, tmp_path / "node", progress=False)
        of_node = (tmp_path / "node" / "metrics.jsonl").read_bytes().splitlines()
    monkeypatch.undo()
    assert len(of_nodes) == 7
    assert of_nodes == of_node
    assert not any((tmp_path / name / "model").exists() for name in ("nodes", "node"))

    again = dataclasses.replace(config, parallel="fsdp", async_checkpoints=True)
    for code, output, errors in on_two_nodes(tmp_path, again, tiny_data, tmp_path / "nodes"):
        assert (code, output) == (0, "resumed from 6\n"), errors
    # one process takes over what two left, and finds nothing to do
    two = train(config, tiny_data, tmp_path / "nodes", progress=False)
    assert two.resumed_from == config.steps
    assert two.losses == pytest.approx(one.losses, abs=2e-6)
    assert two.validation == pytest.approx(dict(one.validation), abs=2e-6)
    assert two.target_loss == pytest.approx(one.target_loss, abs=2e-6)
    assert two.tokens == one.tokens
    assert len(np.unique(shares_over_time(one), axis=0)) == 6
    assert np.allclose(shares_over_time(two), shares_over_time(one), atol=1e-5)
    # AdamW hardly sees a gradient that is too large or too small by a factor; its norm does
    assert norms(two) == pytest.approx(norms(one), rel=1e-4)
    # every sequence once, whichever rank saw it; the first six steps by ddp, the rest by fsdp
    assert sequences(two) == sequences(one)
    excess = [
        read_signals(r.signals).sort_by([("sequence", "ascending"), ("segment", "ascending")]) for r in (one, two)
    ]
    assert np.allclose(*(table["excess_loss"].to_numpy() for table in excess), atol=1e-5)
    # the parts of the model that each rank held make the same model
    weights = [checkpoint.load_latest(r.checkpoint.parent) for r in (one, two)]
    assert {path.name for path in two.checkpoint.iterdir()} >= {f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}
    for name, expected in weights[0].model.items():  # type: ignore[union-attr]
        assert torch.allclose(weights[1].model[name], expected, atol=1e-4), name  # type: ignore[union-attr]
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(two.model)
    assert evaluate(loaded, SequenceStore.open(tiny_data.validation), config) == pytest.approx(
        dict(two.validation), rel=1e-5
    )
    # the last checkpoint of two is lost: one goes on from the one before, of two by fsdp, and from one of two by ddp
    (checkpoint.complete(tmp_path / "nodes" / "checkpoints")[-1] / "manifest.json").unlink()
    for name, step in (("nodes", 9), ("node", 6)):
        alone = train(config, tiny_data, tmp_path / name, progress=False)
        assert alone.resumed_from == step
        assert alone.losses == pytest.approx(one.losses, abs=2e-6)
        assert sequences(alone) == sequences(one)


def test_a_mistake_in_a_process_is_told_as_it_is(
    tiny_config: Make, tiny_data: TrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process itself, without torchrun, which adds nothing to it."""
    data = dataclasses.replace(tiny_data, vocab_size=20, validation={}, tokenizer_file=None)
    job = launch.write_job(tmp_path / "job.json", tiny_config(processes=2), data, tmp_path / "o")
    (tmp_path / "log.txt").write_text("what torchrun says\n")
    monkeypatch.setenv("RANK", "0")
    assert worker.main(str(job)) == 1
    told = launch._what_happened(tmp_path, tmp_path / "o", 1)
    assert isinstance(told, ConfigError)
    assert re.match(r"domain \w+, row \d+: token id \d+, allowed below vocab_size = 20", str(told))


@pytest.mark.slow
def test_a_rank_that_hangs_is_given_up(
    tiny_config: Make, tiny_data: TrainData, tmp_path: Path, dying: Callable[..., None]
) -> None:
    dying(rank=1, step=5, how="hang")
    with pytest.raises(TrainingError, match=r"rank 0 could not .*The last checkpoint stands"):
        train(tiny_config(processes=2, rank_timeout=5.0), tiny_data, tmp_path / "o", progress=False)
    assert [path.name for path in checkpoint.complete(tmp_path / "o" / "checkpoints")] == ["step-00000003"]


STARTER = """
import json, sys
from pydantic import TypeAdapter
from penstock.training import launch
from penstock.training.config import TrainConfig, TrainData
from penstock.training.loop import train

launch._WORKER = "dying_worker"
job = json.load(open(sys.argv[1]))
config = TypeAdapter(TrainConfig).validate_python(job["config"])
train(config, TypeAdapter(TrainData).validate_python(job["data"]), job["out"], progress=False)
"""


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(
    tiny_config: Make, tiny_data: TrainData, tmp_path: Path, dying: Callable[..., None]
) -> None:
    """Killed without a chance to clean up, while a rank hangs and would be waited for."""
    dying(rank=1, step=3, how="hang")
    job = launch.write_job(tmp_path / "start.json", tiny_config(processes=2), tiny_data, tmp_path / "o")
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(job)], stderr=subprocess.DEVNULL)
    metrics = tmp_path / "o" / "metrics.jsonl"
    try:
        while not (metrics.exists() and metrics.read_bytes().count(b"\n") == 2):
            assert starter.poll() is None, "it ended before its workers began"
            time.sleep(0.1)
        started = psutil.Process(starter.pid).children(recursive=True)
        assert len([child for child in started if "dying_worker" in child.cmdline()]) >= 2
    finally:
        starter.kill()
        starter.wait()
    _, left = psutil.wait_procs(started, timeout=120)
    assert left == []


def test_a_result_survives_the_way_between_processes(tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("model", "checkpoint", "metrics", "signals", "policy_log")}
    result = TrainResult(
        **paths, tensorboard=None, device="cpu", steps=2, resumed_from=0, parameters=5, tokens=9, seconds=0.1,
        losses=(3.0, 2.5), validation={"a": 1.0}, target_loss=None, skipped=1,
    )  # fmt: skip
    assert launch.result_from_json(json.loads(json.dumps(launch.result_to_json(result)))) == result


def test_every_tensor_is_saved_by_one_rank_and_the_bytes_are_shared() -> None:
    tensors = {str(i): torch.zeros(size) for i, size in enumerate([100, 90, 50, 40, 10, 1])}
    owned = [snapshot.owned(tensors, Ranks(rank, 3)) for rank in range(3)]
    names = [name for one in owned for name in one]
    assert sorted(names) == sorted(tensors)
    assert [sum(len(t) for t in one.values()) for one in owned] == [100, 100, 91]  # type: ignore[arg-type]


def test_rows_of_other_ranks_files_are_put_together(tmp_path: Path) -> None:
    whole = torch.arange(35.0).reshape(7, 5)
    for number, rows in enumerate([slice(0, 3), slice(3, 6), slice(6, 7)]):
        piece = checkpoint.Piece(whole[rows], rows.start, 7)
        own = {"step": torch.tensor(3.0)} if number == 1 else {}
        checkpoint._write_tensors(tmp_path / f"model-{number}.safetensors", {"w": piece, **own})
    tensors = checkpoint.Tensors(sorted(tmp_path.iterdir()))
    assert torch.equal(tensors["w"], whole)
    assert torch.equal(tensors.rows("w", 2, 7), whole[2:7])  # what the second of two ranks holds
    assert tensors.rows("w", 4, 4).shape == (0, 5)
    assert tensors["step"] == 3.0
    assert sorted(tensors) == ["step", "w"]


def test_rows_that_no_file_holds_are_named(tmp_path: Path) -> None:
    from penstock.errors import DatasetError

    for number, first in enumerate((0, 4)):
        piece = checkpoint.Piece(torch.zeros(2, 5), first, 6)
        checkpoint._write_tensors(tmp_path / f"model-{number}.safetensors", {"w": piece})
    with pytest.raises(DatasetError, match="rows 2 to 6 of w are in no file"):
        checkpoint.Tensors(sorted(tmp_path.iterdir()))["w"]


def test_processes_and_ways_that_do_not_fit_are_refused(tiny_config: Make) -> None:
    with pytest.raises(ConfigError, match="processes: got 4, allowed a divisor of batch_size = 6"):
        tiny_config(processes=4)
    with pytest.raises(ConfigError, match="processes: got 2, allowed 1 with parallel: none"):
        tiny_config(processes=2, parallel="none")
    with pytest.raises(ConfigError, match="6 sequences do not divide by 4 processes"):
        share(6, Ranks(0, 4))
    with pytest.raises(ConfigError, match="parallel: got 'none' with 2 processes"):
        way_of("none", Ranks(0, 2))
    assert [way_of("auto", Ranks(0, n)) for n in (1, 2)] == ["none", "ddp"]
    assert way_of("fsdp", Ranks(0, 1)) == "none"
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device: got 'cuda'"):
            device_of("cuda", Ranks(1, 2))


def test_errors_about_other_ranks_are_told_from_ones_own() -> None:
    assert lost_ranks(LostRanksError("gone"))
    assert lost_ranks(RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"))
    assert not lost_ranks(RuntimeError("shapes cannot be multiplied"))
    assert not lost_ranks(TrainingError("the loss is nan"))
