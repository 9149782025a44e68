"""Training as a step: what is committed, what decides the key, and what a kill leaves."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pytest

from penstock import schema
from penstock.dataset import Dataset
from penstock.errors import ConfigError, DatasetError
from penstock.pipelines.fit import Tokenizer
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.select import by_domain
from penstock.pipelines.sequences import PackedSequences
from penstock.seeding import hash_ids, stream
from penstock.sources.base import fingerprint
from penstock.step import Settings, Silent, check_step, run_step
from penstock.storage import Folder
from penstock.tokenization.bpe import BPEConfig
from penstock.training.config import ModelConfig, TrainConfig
from penstock.training.loop import train
from penstock.training.mixing.config import PolicyConfig
from penstock.training.step import TrainStep
from penstock.training.weighting import WeightingConfig

DOMAINS = ("web", "../escape", "<b>\n", "y" * 300)


@pytest.fixture
def place(tmp_path, commit_rows):
    """A folder with sequences of four domains, one of them in validation alone, and a tokenizer."""

    def prepare(root=tmp_path / "run", *, count=80, longest=30, domains=DOMAINS, **packing):
        rng = stream(0, "train step")
        ids = [f"f#{i}" for i in range(count)]
        lengths = rng.integers(2, longest + 1, count)
        domain = [domains[int(k)] for k in rng.integers(0, len(domains), count)]
        # the last domain is never trained on
        split = [
            "validation" if d == domains[-1] or k < 0.2 else "train"
            for d, k in zip(domain, rng.random(count), strict=True)
        ]
        batch = pa.RecordBatch.from_pydict(
            {
                "doc_id": ids, "id_hash": hash_ids(ids), "domain": domain, "split": split,
                "tokens": pa.array(lengths.astype(np.int32)), "bytes": pa.array(lengths.astype(np.int64)),
                "text": [f"text {i}" for i in range(count)],
                "token_ids": pa.array([rng.integers(2, 250, n).tolist() for n in lengths], pa.list_(pa.uint16())),
            }
        )  # fmt: skip
        copies = batch.select(["doc_id", "domain", "split", "tokens", "bytes"]).append_column(
            "copies", pa.array([1] * count, pa.int32())
        )
        commit_rows(root, "scored", {"documents": [batch]})
        commit_rows(root, "selection", {"selection": [copies]}, {"domains": by_domain(copies)})
        given = {"length": 16, "tail": "pad", "min_segment": 1, "pad_id": 1, "seed": 1} | packing
        run(root, PackedSequences("sequences", "scored", "selection", **given))
        run(root, Tokenizer("tokenizer", "scored", BPEConfig(vocabulary_size=258), 10_000, 1))
        return root

    return prepare


def run(root, step, **settings):
    return run_step(step, Folder(str(root)), HomeEngine(0), Silent(), Settings(**settings))


def config(**changes):
    model = ModelConfig(hidden_size=16, layers=1, heads=2, kv_heads=1, ffn_size=32)
    given = {
        "steps": 6, "model": model, "batch_size": 4, "warmup_steps": 2, "eval_every": 3, "eval_sequences": 2,
        "checkpoint_every": 2, "signals_every": 2, "device": "cpu", "threads": 1, "mixture_block": 16,
    }  # fmt: skip
    return TrainConfig(**given | changes)


def model_step(**changes):
    return TrainStep("model", "sequences", "tokenizer", config(**changes))


def test_a_trained_step_holds_model_signals_log_and_its_last_checkpoint(place):
    root = place()
    made = run(root, model_step()).manifest
    folder = root / "model"
    Dataset(str(folder)).verify()
    assert {name.partition("/")[0] for name in made.artifacts} == {"model", "checkpoints", "metrics.jsonl"}
    assert {name.split("/")[1] for name in made.artifacts if name.startswith("checkpoints/")} == {"step-00000006"}
    assert sorted(made.tables) == ["policy_log", "signals"]
    signals = Dataset(str(folder)).read("signals")
    assert signals.schema.equals(schema.SIGNALS)
    assert set(signals["step"].to_pylist()) == set(range(1, 7))
    assert set(signals["domain"].to_pylist()) <= set(DOMAINS[:3])
    assert made.stats["steps"] == 6
    assert set(made.stats["validation"]) == set(DOMAINS)
    lines = [json.loads(line) for line in (folder / made.artifacts["metrics.jsonl"].path).read_text().splitlines()]
    assert lines[-1]["step"] == 6
    assert lines[-1]["loss"] == made.stats["final_loss"]
    assert math.isfinite(made.stats["final_loss"])
    assert (made.stats["skipped_steps"], made.stats["target_loss"]) == (0, None)
    state = json.loads((folder / made.artifacts["checkpoints/step-00000006/state.json"].path).read_text())
    assert state["identity"]["data"] == Dataset(str(root / "sequences")).digest
    # curves and times differ between equal runs, so they are no part of the dataset
    assert any((root / "logs" / "model").rglob("*tfevents*"))
    assert (root / "logs" / "model" / "timings.jsonl").exists()


def test_no_domain_reaches_a_file_name(place):
    root = place()
    run(root, model_step(tensorboard=False))
    plain = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./")
    names = [str(path.relative_to(root)) for path in root.rglob("*")]
    assert all(set(name) <= plain for name in names)
    assert not (root.parent / "escape").exists()


def test_what_only_says_how_a_run_is_watched_changes_neither_key_nor_digest(place, tmp_path):
    found = []
    for number, changes in enumerate(({}, {"tensorboard": False, "keep_checkpoints": 1}, {"keep_checkpoints": 3})):
        made = run(place(tmp_path / str(number)), model_step(**changes)).manifest
        found.append((made.key, made.digest))
    assert found[0] == found[1] == found[2]


CHANGED = {
    "steps": 7, "seed": 1, "model": ModelConfig(hidden_size=8, layers=1, heads=2, kv_heads=1, ffn_size=32),
    "batch_size": 5, "micro_batch_size": 2, "mixture": "uniform", "temperature": 2.0, "mixture_block": 20,
    "cross_document_attention": True, "learning_rate": 1e-2, "min_learning_rate": 1e-4, "warmup_steps": 1,
    "beta1": 0.8, "beta2": 0.9, "epsilon": 1e-6, "weight_decay": 0.2, "clip_norm": 2.0, "eval_every": 2,
    "eval_sequences": 3, "checkpoint_every": 3, "signals_every": 3, "loss_mean_decay": 0.5, "precision": "bfloat16",
    "max_epochs": 2.0, "on_exhausted": "redistribute", "group_rows": 64, "policy": PolicyConfig(name="odm"),
    "weighting": WeightingConfig(), "max_skipped": 1, "max_gradient_norm": 9.0, "spike_z": 6.0, "spike_window": 20,
}  # fmt: skip
# what it needs is set with it
TOGETHER = {"reference_model": {"reference_model": "/m", "policy": PolicyConfig(name="doremi")}}
RUNNING = {
    "device": "cuda", "threads": 2, "tensorboard": False, "keep_checkpoints": 5, "processes": 2, "parallel": "fsdp",
    "rank_timeout": 9.0, "compile": True, "activation_checkpointing": True, "loss_chunk": 64, "prefetch": 0,
    "async_checkpoints": True, "peak_tflops": 1.0, "cache_gb": 1.0,
}  # fmt: skip


def test_every_parameter_either_decides_the_key_or_only_how_a_run_is_watched():
    names = {field.name for field in fields(TrainConfig)}
    assert names == {*CHANGED, *TOGETHER, *RUNNING}
    base = model_step().config()
    for name, value in CHANGED.items():
        assert model_step(**{name: value}).config() != base, name
    doremi = model_step(**TOGETHER["reference_model"]).config()
    assert doremi != model_step(**TOGETHER["reference_model"] | {"reference_model": "/n"}).config()
    for name, value in RUNNING.items():
        assert model_step(**{name: value}).config() == base, name


@pytest.mark.parametrize(
    "change", [{"hidden_size": 8}, {"tie_embeddings": False}, {"context_length": 99}, {"path": "/m"}]
)
def test_every_parameter_of_the_model_decides_the_key(change):
    model = replace(config().model, **change)
    assert model_step(model=model).config() != model_step().config()


def test_a_model_to_start_from_is_known_by_its_files(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "notes.txt").write_text("read by nobody")
    step = model_step(model=ModelConfig(path=str(tmp_path)))
    before = step.inputs(Settings(fingerprint=fingerprint))
    assert set(before) == {"model:config.json", "model:model.safetensors"}
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    after = step.inputs(Settings(fingerprint=fingerprint))
    assert after["model:config.json"] == before["model:config.json"]
    assert after["model:model.safetensors"] != before["model:model.safetensors"]
    assert model_step().inputs(Settings()) == {}
    compared = model_step(reference_model=str(tmp_path), policy=PolicyConfig(name="doremi"))
    assert set(compared.inputs(Settings(fingerprint=fingerprint))) == {
        "reference:config.json",
        "reference:model.safetensors",
    }


@pytest.mark.parametrize("changes", [{}, {"keep_checkpoints": 1, "tensorboard": False}], ids=["as it was", "less kept"])
def test_an_interrupted_step_goes_on_from_its_checkpoint_and_ends_the_same(place, tmp_path, monkeypatch, changes):
    import penstock.training.loop as loop

    whole = run(place(tmp_path / "whole"), model_step()).manifest
    root = place(tmp_path / "cut")
    advance = loop._Run.advance

    def until_four(self):
        if self.step == 4:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(loop._Run, "advance", until_four)
    with pytest.raises(KeyboardInterrupt):
        run(root, model_step())
    monkeypatch.undo()
    assert not (root / "model" / "manifest.json").exists()
    assert check_step(model_step(), Folder(str(root)), known(root), Settings()).why == "resumes an unfinished build"
    resumed = []
    monkeypatch.setattr(loop, "train", lambda *a, **k: resumed.append(train(*a, **k)) or resumed[-1])
    made = run(root, model_step(**changes)).manifest
    assert resumed[0].resumed_from == 4
    assert made.digest == whole.digest


@pytest.mark.slow
def test_a_step_trains_with_several_processes(place, tmp_path):
    """The same key, tables with the same rows in parts by rank, and the loss of one process up to rounding."""
    made = [run(place(tmp_path / str(n)), model_step(processes=n)).manifest for n in (1, 2)]
    assert made[0].key == made[1].key
    assert made[1].stats["final_loss"] == pytest.approx(made[0].stats["final_loss"], abs=1e-5)
    assert made[1].stats["tokens"] == made[0].stats["tokens"]
    Dataset(str(tmp_path / "2" / "model")).verify()
    seen = [Dataset(str(tmp_path / str(n) / "model")).read("signals") for n in (1, 2)]
    keys = [sorted(zip(*(t[c].to_pylist() for c in ("sequence", "segment", "doc_id")), strict=True)) for t in seen]
    assert keys[0] == keys[1]
    assert len(made[1].tables["signals"].files) == 2 * len(made[0].tables["signals"].files)
    # nothing of how the processes were started is left in the dataset
    assert not any(".processes" in name for name in made[1].artifacts)


def known(root):
    return {name: Dataset(str(root / name)).manifest for name in ("sequences", "tokenizer")}


def test_other_sequences_are_not_trained_on_with_the_old_checkpoints(place, tmp_path):
    root = place()
    first = run(root, model_step()).manifest
    place(root, count=60)
    second = run(root, model_step()).manifest
    assert second.key != first.key
    assert second.digest == run(place(tmp_path / "anew", count=60), model_step()).manifest.digest


def test_no_training_sequence_says_what_to_change(place):
    root = place(count=20, longest=4, length=256, tail="cut")
    with pytest.raises(DatasetError, match=r"model: sequences holds no training sequence: with sequences.tail: cut"):
        run(root, model_step())


def test_a_mixture_of_other_domains_is_refused_before_a_step(place):
    root = place()
    with pytest.raises(ConfigError, match="mixture"):
        run(root, model_step(mixture={"nowhere": 1.0}))
    assert not (root / "model" / "manifest.json").exists()
