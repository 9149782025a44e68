"""A run that goes on from another's checkpoint on other data: what is carried, what begins anew, kills within it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from penstock.errors import DatasetError
from penstock.training import loop
from penstock.training.checkpoint import complete
from penstock.training.config import ModelConfig, TrainConfig, TrainData
from penstock.training.loop import train
from penstock.training.mixing.config import PolicyConfig
from penstock.training.signals import read_signals

Make = Callable[..., TrainConfig]


class Killed(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture
def other_data(tiny_data: TrainData, tmp_path: Path, packed: SimpleNamespace) -> TrainData:
    """Without the domain ``code``, with ``books`` before and ``zoo`` after the one that stays."""

    def files(domain: str, count: int) -> list[str]:
        rows = packed.random(domain, count, length=16, vocabulary=32, seed=5)
        return [str(packed.write(tmp_path / "other" / f"{domain}.arrow", rows, length=16, domain=domain))]

    new = {"books": files("books", 20), "web": list(tiny_data.train["web"]), "zoo": files("zoo", 10)}
    return dataclasses.replace(tiny_data, train=new, fingerprint="beef")


@pytest.fixture
def older(tiny_config: Make, tiny_data: TrainData, tmp_path: Path) -> Path:
    """The checkpoints of a run of ten steps."""
    return train(tiny_config(), tiny_data, tmp_path / "older", progress=False).checkpoint.parent


def further(config: Make, **changes: Any) -> TrainConfig:
    return config(**({"steps": 6, "mixture": "proportional"} | changes))


def files_of(out: Path) -> dict[str, bytes]:
    found = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != "timings.jsonl"]
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


def test_steps_moments_and_tokens_go_on_and_the_schedule_begins_anew(
    tiny_config: Make, other_data: TrainData, older: Path, tmp_path: Path
) -> None:
    before = json.loads((complete(older)[-1] / "state.json").read_text())
    config = further(tiny_config)
    done = train(config, dataclasses.replace(other_data, before=older), tmp_path / "new", progress=False)
    lines = [json.loads(line) for line in done.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(11, 17))
    assert [line["lr"] for line in lines] == [config.learning_rate_at(step) for step in range(6)]
    assert lines[0]["tokens"] > before["tokens"]
    assert (done.steps, done.resumed_from) == (16, 10)
    moments = load_file(done.checkpoint / "training.safetensors")
    assert {float(value) for name, value in moments.items() if name.startswith("step/")} == {16.0}
    log = json.loads((done.checkpoint / "state.json").read_text())["loader"]
    assert log["consumed"] == 16 * config.batch_size
    (dataset,) = log["log"]["datasets"]
    assert (dataset["generation"], dataset["begins"], dataset["rows"]) == (1, 60, [20, 50, 10])
    assert log["log"]["domains"] == ["books", "web", "zoo"]
    assert log["log"]["first_version"] == 1
    signals = read_signals(tmp_path / "new" / "signals")
    assert set(signals["mixture_version"].to_pylist()) == {1}
    assert set(signals["domain"].to_pylist()) == {"books", "web", "zoo"}
    assert signals["sequence"].to_numpy().min() == 60
    (entry,) = pq.read_table(tmp_path / "new" / "policy_log").to_pylist()
    assert (entry["step"], entry["effective_from_sequence"], entry["mixture_version"]) == (10, 60, 1)


def test_the_first_update_is_adamw_s_from_the_carried_weights_and_moments(
    tiny_config: Make, other_data: TrainData, older: Path, tmp_path: Path
) -> None:
    """By hand: AdamW's formula on the gradient that the step's own numbers give."""
    data = dataclasses.replace(other_data, before=older)
    config = further(tiny_config, steps=1, warmup_steps=1, clip_norm=1e9)
    done = train(config, data, tmp_path / "new", progress=False)
    saved, after = (
        load_file(complete(older)[-1] / "model.safetensors"),
        load_file(done.checkpoint / "model.safetensors"),
    )
    old = load_file(complete(older)[-1] / "training.safetensors")
    new = load_file(done.checkpoint / "training.safetensors")
    for name, weight in saved.items():
        gradient = (new[f"exp_avg/{name}"] - config.beta1 * old[f"exp_avg/{name}"]) / (1 - config.beta1)
        square = config.beta2 * old[f"exp_avg_sq/{name}"] + (1 - config.beta2) * gradient**2
        torch.testing.assert_close(new[f"exp_avg_sq/{name}"], square, rtol=1e-3, atol=1e-9)
        decayed = weight * (1 - config.learning_rate * (config.weight_decay if weight.ndim > 1 else 0.0))
        mean = new[f"exp_avg/{name}"] / (1 - config.beta1**11)
        spread = (new[f"exp_avg_sq/{name}"] / (1 - config.beta2**11)).sqrt() + config.epsilon
        torch.testing.assert_close(after[name], decayed - config.learning_rate * mean / spread, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("step", [11, 14])
def test_a_run_that_is_killed_while_it_goes_on_ends_in_the_same_bytes(
    step: int, tiny_config: Make, other_data: TrainData, older: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, config = dataclasses.replace(other_data, before=older), further(tiny_config)
    train(config, data, tmp_path / "whole", progress=False)
    real = loop._Run._note

    def stop(self: Any, number: int, *given: Any) -> Any:
        if number == step:
            raise Killed
        return real(self, number, *given)

    with monkeypatch.context() as context:
        context.setattr(loop._Run, "_note", stop)
        with pytest.raises(Killed):
            train(config, data, tmp_path / "killed", progress=False)
    assert train(config, data, tmp_path / "killed", progress=False).resumed_from == {11: 10, 14: 12}[step]
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def test_a_policy_begins_anew_over_the_domains_that_are_there(
    tiny_config: Make, tiny_data: TrainData, other_data: TrainData, tmp_path: Path
) -> None:
    policy = PolicyConfig(name="dga", target=("web",), every=2, lag=3, probe_sequences=4, options={"eta": 3.0})
    config = tiny_config(policy=policy, mixture="proportional")
    older = train(config, tiny_data, tmp_path / "older", progress=False).checkpoint.parent
    data = dataclasses.replace(other_data, before=older)
    done = train(dataclasses.replace(config, steps=8), data, tmp_path / "new", progress=False)
    rows = pq.read_table(done.policy_log).sort_by("step").to_pylist()
    assert [row["step"] for row in rows] == [10, 12, 14, 16, 18]
    assert all(row["domains"] == ["books", "web", "zoo"] for row in rows)
    assert all(np.isclose(sum(row["new_weights"]), 1.0) for row in rows)
    assert json.loads(rows[1]["signals"])["policy"] is not None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"batch_size": 12}, "batch_size 6 there, 12 now"),
        ({"model": ModelConfig(hidden_size=32, layers=2, heads=2, kv_heads=1, ffn_size=32)}, "model.hidden_size 16"),
    ],
)
def test_another_model_or_batch_is_refused(
    changes: dict[str, Any], named: str, tiny_config: Make, other_data: TrainData, older: Path, tmp_path: Path
) -> None:
    data = dataclasses.replace(other_data, before=older)
    with pytest.raises(DatasetError, match=f"cannot go on from it: .*{named}"):
        train(further(tiny_config, **changes), data, tmp_path / "new", progress=False)


def test_a_folder_without_a_checkpoint_and_another_one_than_the_run_began_from_are_refused(
    tiny_config: Make, tiny_data: TrainData, other_data: TrainData, older: Path, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match="no checkpoint to go on from"):
        train(further(tiny_config), dataclasses.replace(other_data, before=tmp_path), tmp_path / "new", progress=False)
    train(further(tiny_config), dataclasses.replace(other_data, before=older), tmp_path / "new", progress=False)
    another = train(tiny_config(steps=4), tiny_data, tmp_path / "another", progress=False).checkpoint.parent
    with pytest.raises(DatasetError, match=r"belongs to another run: .*before"):
        train(further(tiny_config), dataclasses.replace(other_data, before=another), tmp_path / "new", progress=False)
