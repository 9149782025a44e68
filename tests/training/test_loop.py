"""pytest tests/training/test_loop.py"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from penstock.errors import ConfigError, DatasetError, InputError, PenstockError
from penstock.training import checkpoint, loop
from penstock.training.config import ModelConfig, TrainConfig, TrainData, TrainResult
from penstock.training.loader import MixtureLoader
from penstock.training.loop import TrainingError, evaluate, train
from penstock.training.mixing.config import PolicyConfig
from penstock.training.model import build_model
from penstock.training.sequences import SequenceStore
from penstock.training.signals import document_scores, read_signals
from penstock.training.weighting import WeightingConfig

Make = Callable[..., TrainConfig]


class Killed(Exception):
    """Stands for whatever ends a process."""


def published(out: Path) -> dict[str, bytes]:
    """Bytes of everything a run leaves behind that does not hold wall time."""
    names = [path for path in sorted(out.rglob("*")) if path.is_file() and "tensorboard" not in path.parts]
    return {str(path.relative_to(out)): path.read_bytes() for path in names if path.name != "timings.jsonl"}


@pytest.fixture
def whole(tiny_config: Make, tiny_data: TrainData, tmp_path: Path) -> TrainResult:
    """An undisturbed run."""
    return train(tiny_config(), tiny_data, tmp_path / "whole", progress=False)


def test_training_learns_and_reports(whole: TrainResult, tiny_config: Make) -> None:
    assert (whole.steps, whole.resumed_from, len(whole.losses)) == (10, 0, 10)
    assert whole.losses[0] == pytest.approx(math.log(32), abs=0.1)
    assert whole.losses[-1] < whole.losses[0]
    records = [json.loads(line) for line in whole.metrics.read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, 11))
    assert tuple(record["loss"] for record in records) == whole.losses
    assert [record["step"] for record in records if "val_loss_by_domain" in record] == [4, 8, 10]
    assert records[-1]["val_loss_by_domain"] == whole.validation
    assert set(whole.validation) == {"code", "web"}
    assert [record["lr"] for record in records] == [tiny_config().learning_rate_at(i) for i in range(10)]
    assert records[-1]["tokens"] == whole.tokens
    assert set(records[0]) == {"step", "loss", "lr", "grad_norm", "tokens", "loss_by_domain"}
    timings = [json.loads(line) for line in whole.metrics.with_name("timings.jsonl").read_text().splitlines()]
    assert [timing["step"] for timing in timings] == list(range(1, 11))


def test_signals_hold_every_segment_once_and_agree_with_the_metrics(whole: TrainResult, tiny_data: TrainData) -> None:
    table = read_signals(whole.signals)
    loader = MixtureLoader(
        SequenceStore.open(tiny_data.train), {"code": 1, "web": 2}, seed=0, fingerprint="f00d", batch_size=6, block=12
    )
    seen = [
        (int(n), doc, size - 1)
        for step in range(10)
        for batch in [loader.batch(step)]
        for n, doc, size in zip(
            np.repeat(batch.numbers, batch.segment_counts),
            batch.segment_docs.to_pylist(),
            batch.segment_lengths,
            strict=True,
        )
        if size > 1
    ]
    found = zip(*(table[name].to_pylist() for name in ("sequence", "doc_id", "tokens")), strict=True)
    assert list(found) == seen
    records = [json.loads(line) for line in whole.metrics.read_text().splitlines()]
    for record in records:
        rows = table.filter(pc.equal(table["step"], record["step"]))
        tokens, losses = rows["tokens"].to_numpy(), rows["loss"].to_numpy()
        assert float((tokens * losses).sum() / tokens.sum()) == pytest.approx(record["loss"], rel=1e-5)
        domain = np.array(rows["domain"].to_pylist())
        for name, loss in record["loss_by_domain"].items():
            at = domain == name
            assert float((tokens * losses)[at].sum() / tokens[at].sum()) == pytest.approx(loss, rel=1e-5)
    # the mixture is 1 : 2 up to padding, and scores cover every document seen
    assert document_scores(table).num_rows == len({doc for _, doc, _ in seen})


def test_the_policy_log_holds_the_static_mixture(whole: TrainResult) -> None:
    (path,) = whole.policy_log.iterdir()
    (entry,) = pq.read_table(path).to_pylist()
    assert (entry["policy"], entry["domains"], entry["effective_from_sequence"]) == ("static", ["code", "web"], 0)
    assert entry["new_weights"] == pytest.approx([1 / 3, 2 / 3])


def test_transformers_loads_the_model_and_its_tokenizer(whole: TrainResult, tiny_data: TrainData) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    model: Any = AutoModelForCausalLM.from_pretrained(whole.model)
    tokenizer: Any = AutoTokenizer.from_pretrained(whole.model)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.model_max_length) == (1, 0, 16)
    assert tokenizer("w5 w9").input_ids == [5, 9]
    assert (model.config.eos_token_id, model.config.pad_token_id) == (1, 0)
    assert {path.name for path in whole.model.iterdir()} >= {"model.safetensors", "config.json", "tokenizer.json"}
    config = TrainConfig(steps=1, warmup_steps=0, batch_size=6, micro_batch_size=4)
    again = evaluate(model, SequenceStore.open(tiny_data.validation), config)
    assert again == pytest.approx(dict(whole.validation), rel=1e-6)


def test_a_finished_run_started_again_trains_nothing(
    whole: TrainResult, tiny_config: Make, tiny_data: TrainData
) -> None:
    before = published(whole.model.parent)
    again = train(tiny_config(), tiny_data, whole.model.parent, progress=False)
    assert (again.resumed_from, again.losses, again.validation) == (10, whole.losses, whole.validation)
    assert published(whole.model.parent) == before


@pytest.mark.parametrize("at", [2, 3, 5, 7, 10])
def test_a_run_stopped_anywhere_resumes_to_the_last_bit(
    whole: TrainResult,
    tiny_config: Make,
    tiny_data: TrainData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
) -> None:
    real = loop._Run.advance

    def stop(self: Any) -> Any:
        if self.step + 1 == at:
            raise Killed
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "advance", stop)
        with pytest.raises(Killed):
            train(tiny_config(), tiny_data, tmp_path / "cut", progress=False)
    torch.rand(3)  # whatever the caller does with the global generator must not matter
    result = train(tiny_config(), tiny_data, tmp_path / "cut", progress=False)
    assert result.resumed_from == (at - 1) // 3 * 3
    assert result.losses == whole.losses
    assert published(tmp_path / "cut") == published(tmp_path / "whole")


def test_dropout_resumes_with_the_generator_it_had(tiny_data: TrainData, tiny_config: Make, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    settings: Any = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32, n_positions=16, resid_pdrop=0.3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GPT2LMHeadModel(settings).save_pretrained(tmp_path / "start")
    config = tiny_config(model=ModelConfig(path=str(tmp_path / "start")), steps=6)
    one = train(config, tiny_data, tmp_path / "one", progress=False)
    other = train(dataclasses.replace(config, seed=1), tiny_data, tmp_path / "other", progress=False)
    assert other.losses != one.losses
    before = published(tmp_path / "one")
    shutil.rmtree(one.checkpoint)
    assert train(config, tiny_data, tmp_path / "one", progress=False).resumed_from == 3
    assert published(tmp_path / "one") == before


SCRIPT = """
import json, os, sys
from penstock.training import checkpoint, loop
from penstock.training.config import ModelConfig, TrainConfig, TrainData
from penstock.training.loop import train

given = json.loads(sys.argv[1])
config = TrainConfig(**{**given["config"], "model": ModelConfig(**given["config"]["model"])})
if "die_in_step" in given:
    real = loop._Run.advance
    def advance(self):
        if self.step + 1 == given["die_in_step"]:
            os._exit(9)
        return real(self)
    loop._Run.advance = advance
if "die_in_checkpoint" in given:
    write = checkpoint._write_tensors
    def half(path, tensors):
        write(path, tensors)
        if given["die_in_checkpoint"] in str(path):
            with open(path, "r+b") as file:
                file.truncate(os.path.getsize(path) // 2)
            os._exit(9)
    checkpoint._write_tensors = half
train(config, TrainData(**given["data"]), given["out"], progress=False)
"""


@pytest.mark.parametrize(
    "death",
    [{"die_in_step": 8}, {"die_in_checkpoint": "step-00000006/training.safetensors"}],
    ids=["step", "checkpoint"],
)
def test_a_killed_process_leaves_the_checkpoint_before_and_resumes_to_the_same_bytes(
    whole: TrainResult, tiny_config: Make, tiny_data: TrainData, tmp_path: Path, death: dict[str, Any]
) -> None:
    out = tmp_path / "killed"
    data = dataclasses.asdict(tiny_data) | {"tokenizer_file": str(tiny_data.tokenizer_file)}
    given = {"config": dataclasses.asdict(tiny_config()), "data": data, "out": str(out)} | death
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(given)], cwd=root, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    assert not (out / "model").exists()
    result = train(tiny_config(), tiny_data, out, progress=False)
    assert result.resumed_from == (6 if "die_in_step" in death else 3)
    assert published(out) == published(tmp_path / "whole")


def test_control_c_goes_on_up_and_leaves_a_resumable_folder(
    whole: TrainResult, tiny_config: Make, tiny_data: TrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoint._write_tensors
    calls = []

    def interrupted(path: Path, tensors: Any) -> None:
        real(path, tensors)
        calls.append(path)
        if len(calls) == 3:  # inside the second checkpoint
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write_tensors", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_config(), tiny_data, tmp_path / "cut", progress=False)
    assert [path.name for path in checkpoint.complete(tmp_path / "cut" / "checkpoints")] == ["step-00000003"]
    train(tiny_config(), tiny_data, tmp_path / "cut", progress=False)
    assert published(tmp_path / "cut") == published(tmp_path / "whole")


def test_a_torn_last_line_of_the_metrics_is_cut_off(
    whole: TrainResult, tiny_config: Make, tiny_data: TrainData
) -> None:
    before = whole.metrics.read_bytes()
    whole.metrics.write_bytes(before + b'{"step": 11, "loss": 3.0}\n{"step": 12, "lo')
    train(tiny_config(), tiny_data, whole.model.parent, progress=False)
    assert whole.metrics.read_bytes() == before


def test_missing_metrics_lines_are_not_papered_over(
    whole: TrainResult, tiny_config: Make, tiny_data: TrainData
) -> None:
    lines = whole.metrics.read_text().splitlines(keepends=True)
    whole.metrics.write_text("".join(lines[:4] + lines[5:]))
    with pytest.raises(DatasetError, match="holds 9 of the 10 steps"):
        train(tiny_config(), tiny_data, whole.model.parent, progress=False)


def test_a_damaged_checkpoint_is_named(whole: TrainResult, tiny_config: Make, tiny_data: TrainData) -> None:
    file = whole.checkpoint / "training.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(DatasetError, match=r"step-00000010/training\.safetensors is not what its manifest says"):
        train(tiny_config(), tiny_data, whole.model.parent, progress=False)


def test_only_the_newest_checkpoints_are_kept_and_none_is_pickled(whole: TrainResult) -> None:
    names = [path.name for path in sorted(whole.checkpoint.parent.iterdir())]
    assert names == ["step-00000009", "step-00000010"]
    assert {path.suffix for path in whole.checkpoint.iterdir()} == {".json", ".safetensors"}


def test_another_runs_folder_is_refused_with_what_differs(
    whole: TrainResult, tiny_config: Make, tiny_data: TrainData
) -> None:
    out = whole.model.parent
    with pytest.raises(DatasetError, match=r"learning_rate 0\.003 there, 0\.001 now"):
        train(tiny_config(learning_rate=0.001), tiny_data, out, progress=False)
    with pytest.raises(DatasetError, match="data 'f00d' there, 'beef' now"):
        train(tiny_config(), dataclasses.replace(tiny_data, fingerprint="beef"), out, progress=False)


def test_accumulation_does_not_change_the_loss(tiny_config: Make, tiny_data: TrainData, tmp_path: Path) -> None:
    results = [
        train(tiny_config(micro_batch_size=size), tiny_data, tmp_path / str(size), progress=False) for size in (1, None)
    ]
    assert results[0].losses == pytest.approx(results[1].losses, rel=1e-4)


Learned = Callable[..., TrainData]


@pytest.fixture
def chat_data(tiny_data: TrainData, tmp_path: Path, packed: SimpleNamespace) -> Learned:
    """Sequences of a prompt, an answer and a prompt alone; ``salt`` changes the tokens of the last."""

    def make(salt: int, *, masked: bool = True) -> TrainData:
        rows, masks = [], []
        for i in range(24):
            turn = [2 + (i + k) % 29 for k in range(9)]
            rest = [2 + (salt * 5 + i * 7 + k * k) % 29 for k in range(5)]
            rows.append([(f"c{i}", turn), (f"p{i}", rest)])
            masks.append([4, 9])
        file = tmp_path / f"{salt}-{masked}.arrow"
        packed.write(file, rows, length=16, domain="chat", masks=masks if masked else None)
        files = {"chat": [str(file)]}
        return dataclasses.replace(tiny_data, train=files, validation=files)

    return make


def test_what_is_not_learned_changes_nothing(chat_data: Learned, tiny_config: Make, tmp_path: Path) -> None:
    """Other ids in prompts that no answer follows: the same losses, signals and weights, byte for byte."""
    config = tiny_config(mixture="proportional")
    one, two = (train(config, chat_data(salt), tmp_path / f"m{salt}", progress=False) for salt in (1, 2))
    assert one.losses == two.losses
    assert (one.model / "model.safetensors").read_bytes() == (two.model / "model.safetensors").read_bytes()
    assert one.metrics.read_bytes() == two.metrics.read_bytes()
    assert read_signals(one.signals).equals(read_signals(two.signals))
    # without the mask they do change
    whole = [train(config, chat_data(s, masked=False), tmp_path / f"w{s}", progress=False) for s in (1, 2)]
    assert whole[0].losses[0] != whole[1].losses[0]


def test_losses_counts_and_signals_are_of_learned_tokens(chat_data: Learned, tiny_config: Make, tmp_path: Path) -> None:
    config = tiny_config(mixture="proportional")
    result = train(config, chat_data(1), tmp_path / "o", progress=False)
    signals = read_signals(result.signals)
    # five of the nine tokens of a turn; a prompt alone has no row
    assert set(signals["tokens"].to_pylist()) == {5}
    assert set(signals["segment"].to_pylist()) == {0}
    assert signals.num_rows == config.steps * config.batch_size
    assert result.tokens == 5 * signals.num_rows
    for step, loss in enumerate(result.losses, 1):
        of_step = signals.filter(pc.equal(signals["step"], step))["loss"].to_numpy()
        assert loss == pytest.approx(float(of_step.mean()), rel=1e-5)
    model = build_model(config.model, vocab_size=32, length=16, seed=config.seed)
    rows = np.array([[2 + (i + k) % 29 for k in range(9)] for i in range(24)])
    labels = np.where(np.arange(9) >= 4, rows, -100)
    with torch.no_grad():
        expected = float(model(input_ids=torch.from_numpy(rows), labels=torch.from_numpy(labels)).loss)
    store = SequenceStore.open(chat_data(1).validation)
    found = evaluate(model, store, dataclasses.replace(config, eval_sequences=24))
    assert found == {"chat": pytest.approx(expected, rel=1e-5)}


def test_masked_training_accumulates_and_resumes_like_any_other(
    chat_data: Learned, tiny_config: Make, tmp_path: Path
) -> None:
    data = chat_data(1)
    config = tiny_config(mixture="proportional")
    whole = train(config, data, tmp_path / "whole", progress=False)
    train(dataclasses.replace(config, steps=10), data, tmp_path / "again", progress=False)
    assert published(tmp_path / "again") == published(tmp_path / "whole")
    small = train(dataclasses.replace(config, micro_batch_size=1), data, tmp_path / "small", progress=False)
    assert small.losses == pytest.approx(whole.losses, rel=1e-4)


def test_a_step_without_a_learned_token_says_what_to_change(
    tiny_data: TrainData, tiny_config: Make, tmp_path: Path, packed: SimpleNamespace
) -> None:
    rows = [[("p", [2, 3, 4])]] * 6
    file = packed.write(tmp_path / "p.arrow", rows, length=16, domain="p", masks=[[]] * 6)
    data = dataclasses.replace(tiny_data, train={"p": [str(file)]}, validation={})
    with pytest.raises(TrainingError, match="step 1: none of the 18 tokens is learned; raise batch_size"):
        train(tiny_config(mixture="proportional"), data, tmp_path / "o", progress=False)


def test_one_step_of_the_optimiser_by_hand(tiny_config: Make, tiny_data: TrainData, tmp_path: Path) -> None:
    """AdamW's first update is lr * sign(gradient), nearly, after decay of lr * weight_decay on matrices only."""
    config = tiny_config(steps=1, warmup_steps=1, learning_rate=0.01, weight_decay=0.5, epsilon=1e-12)
    result = train(config, tiny_data, tmp_path / "o", progress=False)
    start = build_model(config.model, vocab_size=32, length=16, seed=config.seed).state_dict()
    end = checkpoint.load_latest(tmp_path / "o" / "checkpoints")
    assert end is not None
    assert result.steps == 1
    matrix, vector = "model.layers.0.mlp.up_proj.weight", "model.norm.weight"
    moved = end.model[matrix] - start[matrix] * (1 - 0.01 * 0.5)
    assert torch.allclose(moved.abs(), torch.tensor(0.01), rtol=1e-3)
    assert torch.allclose((end.model[vector] - start[vector]).abs(), torch.tensor(0.01), rtol=1e-3)


def test_the_gradient_is_clipped_as_a_whole(tiny_config: Make, tiny_data: TrainData, tmp_path: Path) -> None:
    config = tiny_config(steps=1, warmup_steps=1, clip_norm=1e-3)
    result = train(config, tiny_data, tmp_path / "o", progress=False)
    saved = checkpoint.load_latest(tmp_path / "o" / "checkpoints")
    assert saved is not None
    moments = [value for name, value in saved.training.items() if name.startswith("exp_avg/")]
    norm = math.sqrt(sum(float((m / 0.1).double().pow(2).sum()) for m in moments))
    assert norm == pytest.approx(1e-3, rel=1e-3)
    assert json.loads(result.metrics.read_text())["grad_norm"] > 0.01  # the record is before clipping


def test_a_loss_that_is_not_a_number_stops_the_run(tiny_config: Make, tiny_data: TrainData, tmp_path: Path) -> None:
    config = tiny_config(learning_rate=1e30, min_learning_rate=0.0, warmup_steps=1)
    with pytest.raises(TrainingError, match=r"step \d+: the loss is .*lower learning_rate") as error:
        train(config, tiny_data, tmp_path / "o", progress=False)
    assert isinstance(error.value, PenstockError)


def test_tensorboard_draws_the_same_curves(tiny_config: Make, tiny_data: TrainData, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train(tiny_config(tensorboard=True, steps=4), tiny_data, tmp_path / "o", progress=False)
    events = EventAccumulator(str(result.tensorboard))
    events.Reload()
    drawn = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert drawn == [(i + 1, pytest.approx(loss, rel=1e-6)) for i, loss in enumerate(result.losses)]
    assert events.Scalars("validation/web")[-1].value == pytest.approx(result.validation["web"], rel=1e-6)
    assert {"train/lr", "train/grad_norm", "train/skipped", "train_domain/code"} <= set(events.Tags()["scalars"])
    assert {"speed/tokens_per_second", "speed/loader_share"} <= set(events.Tags()["scalars"])
    assert not any(tag.startswith(("mixture", "weighting", "target")) for tag in events.Tags()["scalars"])


def test_tensorboard_draws_mixture_target_and_weights(tiny_config: Make, tiny_data: TrainData, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny_config(
        tensorboard=True, mixture="proportional", weighting=WeightingConfig(warmup_steps=1), peak_tflops=1.0,
        policy=PolicyConfig(name="dga", target=("web",), every=2, lag=2, probe_sequences=2),
    )  # fmt: skip
    result = train(config, tiny_data, tmp_path / "o", progress=False)
    events = EventAccumulator(str(result.tensorboard))
    events.Reload()
    records = [json.loads(line) for line in result.metrics.read_text().splitlines()]
    drawn = [event.value for event in events.Scalars("mixture/web")]
    assert drawn == pytest.approx([record["mixture"]["web"] for record in records], rel=1e-6)
    assert drawn[0] != drawn[-1]
    assert events.Scalars("target/loss")[-1].value == pytest.approx(result.target_loss, rel=1e-6)
    assert [event.step for event in events.Scalars("weighting/effective_share")] == list(range(2, 11))
    assert len(events.Scalars("speed/mfu")) == 10


def test_progress_is_drawn_on_request_only(
    tiny_config: Make,
    tiny_data: TrainData,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal for rich: the line is drawn on nothing else
    train(tiny_config(steps=2), tiny_data, tmp_path / "quiet", progress=False)
    quiet = capsys.readouterr()
    assert (quiet.out, quiet.err) == ("", "")
    train(tiny_config(steps=2), tiny_data, tmp_path / "shown", progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "2/2" in shown.err
    assert "tokens/s" in shown.err


def test_training_without_validation_or_tokenizer(tiny_config: Make, tiny_data: TrainData, tmp_path: Path) -> None:
    data = dataclasses.replace(tiny_data, validation={}, tokenizer_file=None)
    result = train(tiny_config(steps=2), data, tmp_path / "o", progress=False)
    assert result.validation == {}
    assert not (result.model / "tokenizer.json").exists()


def test_the_callers_threads_and_generator_come_back(tiny_config: Make, tiny_data: TrainData, tmp_path: Path) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    train(tiny_config(steps=1, warmup_steps=1, threads=1), tiny_data, tmp_path / "o", progress=False)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_token_ids_beyond_the_vocabulary_are_named(tiny_config: Make, tiny_data: TrainData, tmp_path: Path) -> None:
    data = dataclasses.replace(tiny_data, vocab_size=20, validation={})
    with pytest.raises(ConfigError, match=r"domain \w+, row \d+: token id \d+, allowed below vocab_size = 20"):
        train(tiny_config(), data, tmp_path / "o", progress=False)


def test_special_tokens_must_be_in_the_tokenizer_file(tiny_config: Make, tiny_data: TrainData, tmp_path: Path) -> None:
    data = dataclasses.replace(tiny_data, vocab_size=40, eos_id=39)
    with pytest.raises(InputError, match="no token has the id 39 given as eos_token"):
        train(tiny_config(steps=1, warmup_steps=1), data, tmp_path / "o", progress=False)


def test_the_learning_rate_warms_up_and_falls_to_its_end(tiny_config: Make) -> None:
    config = tiny_config(steps=10, warmup_steps=4, learning_rate=1.0, min_learning_rate=0.1)
    rates = [config.learning_rate_at(i) for i in range(10)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[6] == pytest.approx(0.55)
    assert rates[9] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"steps": 0}, "steps: got 0, allowed a whole number >= 1"),
        ({"batch_size": 2.5}, "batch_size: got 2.5"),
        ({"micro_batch_size": 0}, "micro_batch_size: got 0"),
        ({"learning_rate": math.nan}, "learning_rate: got nan, allowed a finite number > 0"),
        ({"min_learning_rate": 1.0}, "min_learning_rate: got 1.0, allowed at most learning_rate"),
        ({"warmup_steps": 11}, "warmup_steps: got 11, allowed at most steps = 10"),
        ({"beta2": 1.0}, "beta2: got 1.0, allowed 0 <= number < 1"),
        ({"device": "tpu"}, "device: got 'tpu'"),
        ({"precision": "half"}, "precision: got 'half'"),
        ({"mixture": "natural"}, "mixture: got 'natural'"),
    ],
)
def test_impossible_parameters_are_refused(tiny_config: Make, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        tiny_config(**changes)
    assert text in str(error.value)


def test_data_is_checked_when_it_is_written_down(tiny_data: TrainData) -> None:
    with pytest.raises(ConfigError, match="eos_id: got 32, allowed a token id below vocab_size = 32"):
        dataclasses.replace(tiny_data, eos_id=32)
    with pytest.raises(ConfigError, match=r"train: got \{\}"):
        dataclasses.replace(tiny_data, train={})
