"""Kills at any step of runs with everything on: the same losses, signals, policy log and weights to the last bit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from penstock.errors import TrainingError
from penstock.training import loop
from penstock.training.config import ModelConfig, TrainConfig, TrainData
from penstock.training.loop import train
from penstock.training.mixing.config import PolicyConfig
from penstock.training.probes import GradientProbe
from penstock.training.signals import read_signals
from penstock.training.weighting import WeightingConfig

Make = Callable[..., TrainConfig]


class Killed(Exception):
    """Stands for whatever ends a process."""


def published(out: Path) -> dict[str, bytes]:
    names = [path for path in sorted(out.rglob("*")) if path.is_file() and "tensorboard" not in path.parts]
    return {str(path.relative_to(out)): path.read_bytes() for path in names if path.name != "timings.jsonl"}


def killed_at(step: int, config: TrainConfig, data: TrainData, out: Path, patch: pytest.MonkeyPatch) -> None:
    """Train into ``out`` and stop in ``step``, after its update of the weights and before any of its records."""
    real = loop._Run._note

    def stop(self: Any, number: int, *given: Any) -> Any:
        if number == step:
            raise Killed
        return real(self, number, *given)

    with patch.context() as context:
        context.setattr(loop._Run, "_note", stop)
        with pytest.raises(Killed):
            train(config, data, out, progress=False)


@pytest.fixture(scope="session")
def with_dropout(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small GPT-2 with dropout 0.1 everywhere."""
    from transformers import GPT2Config, GPT2LMHeadModel

    settings: Any = GPT2Config(
        n_embd=16, n_layer=1, n_head=2, vocab_size=32, n_positions=16, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1
    )
    path = tmp_path_factory.mktemp("gpt2")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GPT2LMHeadModel(settings).save_pretrained(path)
    return str(path)


@pytest.fixture
def make(tiny_config: Make, with_dropout: str) -> Make:
    """Two micro-batches a step, dropout 0.1, a checkpoint every third step."""

    def of(**changes: Any) -> TrainConfig:
        given: dict[str, Any] = {
            "model": ModelConfig(path=with_dropout), "micro_batch_size": 3, "mixture": "proportional", "steps": 8,
        }  # fmt: skip
        return tiny_config(**(given | changes))

    return of


DGA = PolicyConfig(name="dga", target=("code",), every=2, lag=3, probe_sequences=4, options={"eta": 3.0})
WEIGHTED = WeightingConfig(warmup_steps=2, accumulation="prepass")
WAYS: dict[str, dict[str, Any]] = {
    "dga": {"policy": DGA},
    "odm": {"policy": PolicyConfig(name="odm", every=1, lag=2, smoothing=0.1)},
    "dga, weighted, in the background": {"policy": DGA, "weighting": WEIGHTED, "async_checkpoints": True},
    "running weights": {"weighting": dataclasses.replace(WEIGHTED, accumulation="running")},
    "deferred weights": {"weighting": dataclasses.replace(WEIGHTED, accumulation="deferred", length="token")},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_killed_at_any_step_ends_in_the_same_bytes(
    make: Make, tiny_data: TrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    config = make(**WAYS[way])
    whole = train(config, tiny_data, tmp_path / "whole", progress=False)
    expected = published(tmp_path / "whole")
    versions = set(read_signals(whole.signals)["mixture_version"].to_pylist())
    assert (len(versions) > 1) == (config.policy is not None)  # updates took effect while the run went on
    for at in range(2, 9):
        out = tmp_path / str(at)
        killed_at(at, config, tiny_data, out, monkeypatch)
        torch.rand(3)  # whatever the caller does with the global generator must not matter
        again = train(config, tiny_data, out, progress=False)
        assert again.resumed_from == (at - 1) // 3 * 3
        assert published(out) == expected


def test_an_update_is_pending_in_some_checkpoint(make: Make, tiny_data: TrainData, tmp_path: Path) -> None:
    """So that the kills above hit one: observed at step 2, in force from step 5 on, saved after step 3."""
    train(make(policy=DGA, keep_checkpoints=9), tiny_data, tmp_path / "o", progress=False)
    state = json.loads((tmp_path / "o" / "checkpoints" / "step-00000003" / "state.json").read_text())
    entries = state["loader"]["log"]["entries"]
    assert [entry["effective_from"] for entry in entries] == [0, (2 + 3) * 6]
    assert entries[0]["quotas"] != entries[1]["quotas"]


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_how_far_is_read_ahead_changes_nothing(make: Make, tiny_data: TrainData, tmp_path: Path, prefetch: int) -> None:
    for name, config in (("a", make(policy=DGA)), ("b", make(policy=DGA, prefetch=prefetch))):
        train(config, tiny_data, tmp_path / name, progress=False)
    assert published(tmp_path / "a") == published(tmp_path / "b")


def test_checkpoints_written_in_the_background_are_those_of_the_moment_they_were_taken(
    make: Make, tiny_data: TrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer is held back until training has changed the weights twice more."""
    from penstock.training import checkpoint

    train(make(keep_checkpoints=9), tiny_data, tmp_path / "a", progress=False)
    real, advanced = checkpoint._write_tensors, loop._Run.advance
    import threading

    later = threading.Event()

    def slow(*given: Any) -> None:
        assert later.wait(30)
        real(*given)

    def advance(self: Any) -> Any:
        out = advanced(self)
        if self.step in (5, 8):
            later.set()
        return out

    monkeypatch.setattr(checkpoint, "_write_tensors", slow)
    monkeypatch.setattr(loop._Run, "advance", advance)
    train(make(keep_checkpoints=9, async_checkpoints=True), tiny_data, tmp_path / "b", progress=False)
    assert published(tmp_path / "a") == published(tmp_path / "b")


def test_an_error_of_the_background_writer_reaches_the_caller(
    make: Make, tiny_data: TrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from penstock.errors import StorageError
    from penstock.training import checkpoint

    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write_tensors", full)
    with pytest.raises(StorageError, match="step-00000003"):
        train(make(async_checkpoints=True), tiny_data, tmp_path / "o", progress=False)
    assert checkpoint.complete(tmp_path / "o" / "checkpoints") == []


def test_a_policy_that_observes_and_does_not_act_changes_no_bit(
    make: Make, tiny_data: TrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout 0.1, two micro-batches; the probes ran and their gradients were not zero."""
    from penstock.training import steering

    still = PolicyConfig(name="static", options={"weights": {"code": 0.4, "web": 0.6}})
    plain = train(make(policy=still), tiny_data, tmp_path / "plain", progress=False)
    real, measured = GradientProbe.measure, []

    def measure(self: Any, *given: Any) -> Any:
        measured.append(real(self, *given))
        return measured[-1]

    class Watching(steering.Mixer):
        def __init__(self, *given: Any, **options: Any) -> None:
            super().__init__(*given, **options | {"acts": False})

    monkeypatch.setattr(GradientProbe, "measure", measure)
    monkeypatch.setattr(steering, "Mixer", Watching)
    initial = {"eta": 3.0, "initial": {"code": 0.4, "web": 0.6}}
    watched = train(
        make(policy=dataclasses.replace(DGA, options=initial)), tiny_data, tmp_path / "watched", progress=False
    )
    assert len(measured) == 4
    assert all((abs(sums) > 1e-3).all() for found in measured for sums, _ in found.values())
    assert watched.losses == plain.losses
    for name in ("model.safetensors", "config.json"):
        assert (watched.model / name).read_bytes() == (plain.model / name).read_bytes()


def test_the_policy_log_follows_the_mixture(make: Make, tiny_data: TrainData, tmp_path: Path) -> None:
    result = train(make(policy=DGA), tiny_data, tmp_path / "o", progress=False)
    rows = [row for path in sorted(result.policy_log.iterdir()) for row in pq.read_table(path).to_pylist()]
    assert [row["step"] for row in rows] == [0, 2, 4, 6, 8]
    assert [row["mixture_version"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["effective_from_sequence"] for row in rows] == [0, 30, 42, 54, 66]
    for before, after in pairwise(rows):
        assert after["old_weights"] == before["new_weights"]
        assert after["new_weights"] != after["old_weights"]
    seen = json.loads(rows[1]["signals"])
    assert seen["signals"]["target_dot"]["counts"] == [1.0, 1.0]
    records = [json.loads(line) for line in result.metrics.read_text().splitlines()]
    in_force = [tuple(record["mixture"].values()) for record in records]
    assert in_force[4] == tuple(rows[0]["new_weights"])  # step 5 is sequences 24 to 29
    assert in_force[5] == tuple(rows[1]["new_weights"])
    # held-out half of the target: recorded with every validation, and at the end
    assert [record["step"] for record in records if "target_loss" in record] == [4, 8]
    assert records[-1]["target_loss"] == result.target_loss
    assert result.target_loss != result.validation["code"]


def spiking(patch: pytest.MonkeyPatch, at: set[int], factor: float) -> list[int]:
    """Multiply the gradient of some steps; returns the steps whose optimiser ran."""
    from penstock.training.update import Update

    real, ran = Update._finish, []

    def finish(self: Any, step: int, *given: Any) -> Any:
        if step in at:
            for parameter in self.spread.model.parameters():
                parameter.grad.mul_(factor)
        out = real(self, step, *given)
        if out.skipped is None:
            ran.append(step)
        return out

    patch.setattr(Update, "_finish", finish)
    return ran


GUARDED = {"spike_z": 4.0, "spike_window": 3}


def test_spikes_and_nans_are_skipped_and_resume_alike(
    make: Make, tiny_data: TrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make(**GUARDED, policy=DGA)
    ran = spiking(monkeypatch, {5, 6}, 50.0)
    whole = train(config, tiny_data, tmp_path / "whole", progress=False)
    assert ran == [1, 2, 3, 4, 7, 8]
    assert whole.skipped == 2
    records = [json.loads(line) for line in whole.metrics.read_text().splitlines()]
    assert ["skipped" in record for record in records] == [False] * 4 + [True] * 2 + [False] * 2
    assert "standard deviations above the running mean" in records[4]["skipped"]
    assert set(read_signals(whole.signals)["step"].to_pylist()) == {1, 2, 3, 4, 7, 8}
    for at in range(2, 9):
        killed_at(at, config, tiny_data, tmp_path / str(at), monkeypatch)
        train(config, tiny_data, tmp_path / str(at), progress=False)
        assert published(tmp_path / str(at)) == published(tmp_path / "whole")


def test_a_skipped_step_changes_no_weight_and_no_moment(
    make: Make, tiny_data: TrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from penstock.training import checkpoint

    spiking(monkeypatch, {4}, float("nan"))
    config = make(checkpoint_every=1, keep_checkpoints=9, steps=5)
    result = train(config, tiny_data, tmp_path / "o", progress=False)
    third, fourth, fifth = (path for path in checkpoint.complete(tmp_path / "o" / "checkpoints")[2:])
    for name in ("model.safetensors",):
        assert (third / name).read_bytes() == (fourth / name).read_bytes() != (fifth / name).read_bytes()
    before, after = (checkpoint.Tensors([path / "training.safetensors"]) for path in (third, fourth))
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("rng"))
    record = json.loads(result.metrics.read_text().splitlines()[3])
    assert (record["grad_norm"], record["loss_by_domain"]) == (None, {})
    assert "gradient norm nan" in record["skipped"]


def test_too_many_skipped_steps_in_a_row_end_the_run(
    make: Make, tiny_data: TrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spiking(monkeypatch, {4, 5, 6}, float("nan"))
    train(make(max_skipped=3), tiny_data, tmp_path / "a", progress=False)
    with pytest.raises(TrainingError, match=r"step 6: .* the last of 3 steps in a row .* sequences 30 to 35"):
        train(make(max_skipped=2), tiny_data, tmp_path / "b", progress=False)
    assert [p.name for p in sorted((tmp_path / "b" / "checkpoints").iterdir())] == ["step-00000003"]


def test_a_bound_on_the_norm_is_one_of_the_guards(make: Make, tiny_data: TrainData, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"step 1: the gradient norm is .*, allowed at most max_gradient_norm = 1e-06"
    ):
        train(make(max_gradient_norm=1e-6, max_skipped=0), tiny_data, tmp_path / "o", progress=False)
