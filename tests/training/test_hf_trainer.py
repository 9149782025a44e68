"""``transformers.Trainer`` on the mixture: real steps on CPU, saves, kills, resumes, other numbers of processes."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from penstock.errors import ConfigError, DatasetError
from penstock.training.collate import CausalCollator
from penstock.training.loader import MixtureLoader
from penstock.training.mixing.base import Cadence, Mixture, Signal
from penstock.training.mixing.dga import DynamicGradientAlignment
from penstock.training.mixing.mixer import Mixer, starting_weights
from penstock.training.mixing.odm import OnlineDataMixing
from penstock.training.mixing.rule import Rule
from penstock.training.model import pack_inputs, segment_sums, token_losses
from penstock.training.sequences import SequenceStore

pytest.importorskip("accelerate")

from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from penstock.training.hf_trainer import MixtureCallback, MixtureDataset

BATCH, STEPS = 8, 12


def llama(dropout=0.1):
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=16, attention_dropout=dropout,
        )
    )  # fmt: skip


def open_store(data):
    return SequenceStore.open(data.train)


def open_loader(data, weights=None, **changes):
    settings = {"seed": 0, "fingerprint": data.fingerprint, "batch_size": BATCH, "block": 12, "lag": 2}
    return MixtureLoader(open_store(data), weights or {"code": 1, "web": 1}, **(settings | changes))


def odm_mixer(loader, seen=None):
    """A mixer of a rule that looks at losses, which notes the sequences that it is shown."""

    class Watching(Mixer):
        def observe(self, batch, sums, counts, **more):
            if seen is not None:
                seen.append((batch.numbers, batch.mixture_version, batch.domain, sums.sum(), counts.sum()))
            super().observe(batch, sums, counts, **more)

    return Watching(OnlineDataMixing(cadence=Cadence(every=3), form="smoothed_mean"), loader)


def arguments(out, **changes):
    settings = {
        "max_steps": STEPS, "per_device_train_batch_size": BATCH // 2, "gradient_accumulation_steps": 2,
        "train_sampling_strategy": "sequential", "ignore_data_skip": True, "save_steps": 4, "logging_steps": 1,
        "learning_rate": 3e-3, "report_to": [], "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    return TrainingArguments(str(out), **(settings | changes))


class Stop(TrainerCallback):
    """A kill after some step's end, when what was read ahead and noted is lost."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def train(data, out, *, mixed=True, stop=None, resume=None, steps=STEPS, loader=None, dropout=0.1, **changes):
    """One process's life: loader, mixer, model and Trainer from nothing; returns what it saw and its end."""
    seen = []
    loader = loader or open_loader(data)
    feed = MixtureCallback(loader, odm_mixer(loader, seen) if mixed else None)
    parts = feed.parts(steps)
    if stop is not None:
        parts["callbacks"].insert(0, Stop(stop))
    trainer = Trainer(llama(dropout), arguments(out, **changes), **parts)
    try:
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    except KeyboardInterrupt:
        assert stop is not None
    return seen, trainer, loader


def numbers_of(seen):
    return np.concatenate([numbers for numbers, *_ in seen]).tolist() if seen else []


def weights_of(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def losses_of(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.fixture
def whole(tiny_data, tmp_path):
    """An uninterrupted run."""
    return train(tiny_data, tmp_path / "whole")


def test_every_sequence_is_trained_on_once_in_order(whole):
    seen, trainer, loader = whole
    assert numbers_of(seen) == list(range(STEPS * BATCH))
    assert loader.consumed == STEPS * BATCH
    assert trainer.state.global_step == STEPS
    losses = losses_of(trainer)
    assert len(losses) == STEPS
    assert losses[-1] < losses[0] - 0.1


def test_the_mixture_changes_at_the_stated_sequence(whole):
    seen, _, loader = whole
    versions = np.concatenate([version for _, version, *_ in seen])
    # the rule is asked after steps 3, 6, 9 and 12; the lag is 2 steps
    begins = [0, *((step + loader.lag) * BATCH for step in (3, 6, 9, 12))]
    expected = np.searchsorted(begins, np.arange(STEPS * BATCH), side="right") - 1
    assert versions.tolist() == expected.tolist()
    assert loader.newest_version == 4
    weights = [loader.weights_of(version) for version in range(5)]
    assert len(set(weights)) >= 3
    domain = np.concatenate([domain for _, _, domain, *_ in seen])
    known, _, _, _ = loader.log.locate(np.arange(STEPS * BATCH))
    assert domain.tolist() == known.tolist()


@pytest.mark.parametrize("skip", [True, False], ids=["places the dataset", "counts through it"])
def test_a_run_killed_with_an_update_pending_ends_as_if_left_alone(tiny_data, tmp_path, whole, skip):
    _, left_alone, whole_loader = whole
    # saved after steps 4 and 8, killed before step 11: the update of step 9 is lost and made again
    first, _, _ = train(tiny_data, tmp_path / "run", stop=10)
    assert numbers_of(first) == list(range(10 * BATCH))
    second, trainer, loader = train(
        tiny_data, tmp_path / "run", resume=tmp_path / "run" / "checkpoint-8", ignore_data_skip=skip
    )
    assert numbers_of(second) == list(range(8 * BATCH, STEPS * BATCH))
    for name, value in weights_of(left_alone).items():
        assert torch.equal(value, trainer.model.state_dict()[name]), name
    assert losses_of(trainer) == losses_of(left_alone)
    assert loader.log.entry(4) == whole_loader.log.entry(4)


def test_a_checkpoint_that_the_trainer_finds_itself_resumes_with_an_update_in_the_lag(tiny_data, tmp_path, whole):
    # the update of step 3 takes effect after step 5: the save of step 4 lies between
    train(tiny_data, tmp_path / "run", stop=6)
    seen, trainer, _ = train(tiny_data, tmp_path / "run", resume=tmp_path / "run" / "checkpoint-4")
    assert numbers_of(seen) == list(range(4 * BATCH, STEPS * BATCH))
    assert [version for _, versions, *_ in seen for version in versions][: BATCH + 1] == [0] * BATCH + [1]
    assert losses_of(trainer) == losses_of(whole[1])


def test_micro_batches_may_be_cut_otherwise_after_a_resume(tiny_data, tmp_path):
    train(tiny_data, tmp_path / "run", stop=5)
    seen, _, _ = train(
        tiny_data, tmp_path / "run", resume=tmp_path / "run" / "checkpoint-4",
        per_device_train_batch_size=BATCH // 4, gradient_accumulation_steps=4,
    )  # fmt: skip
    assert numbers_of(seen) == list(range(4 * BATCH, STEPS * BATCH))
    assert {len(numbers) for numbers, *_ in seen} == {BATCH // 4}


def test_two_trainings_in_a_row_go_on_with_the_order(tiny_data, tmp_path):
    loader = open_loader(tiny_data)
    first, _, _ = train(tiny_data, tmp_path / "one", loader=loader, steps=4, max_steps=4)
    second, _, _ = train(tiny_data, tmp_path / "two", loader=loader, steps=4, max_steps=4, stop=3)
    assert numbers_of(first) == list(range(4 * BATCH))
    assert numbers_of(second) == list(range(4 * BATCH, 7 * BATCH))
    third, _, _ = train(tiny_data, tmp_path / "two", loader=loader, steps=4, max_steps=4)
    assert numbers_of(third) == list(range(7 * BATCH, 11 * BATCH))


def test_losses_shown_to_the_mixer_are_those_of_the_model_and_their_mean_is_trained_on(tiny_data, tmp_path):
    seen, trainer, _ = train(tiny_data, tmp_path / "run", max_steps=1, learning_rate=0.0)
    model = llama().eval()
    batch = open_loader(tiny_data).batch(0)
    inputs = pack_inputs(batch.tokens, batch.segment_ids, batch.positions, device=torch.device("cpu"))
    with torch.no_grad():
        losses = token_losses(lambda given, at: model(**given).logits.flatten(0, 1)[at], inputs)
    by_hand, counted = segment_sums(losses, inputs)
    sums, tokens = sum(s for *_, s, _ in seen), sum(n for *_, n in seen)
    assert tokens == int(counted.sum())
    # dropout of 0.1 in one layer moves the loss a little
    assert sums / tokens == pytest.approx(float(by_hand.sum() / counted.sum()), abs=0.02)
    assert losses_of(trainer)[0] == pytest.approx(sums / tokens, rel=1e-5)


def test_the_loss_function_gives_the_gradient_of_the_trainers_own(tiny_data, tmp_path):
    """Same steps with the model's own loss: the mean over accumulation steps of unequal token counts is the same."""
    ours = train(tiny_data, tmp_path / "ours", mixed=False, max_steps=3)[1]
    feed = MixtureCallback(open_loader(tiny_data))
    parts = {name: value for name, value in feed.parts(STEPS).items() if name != "compute_loss_func"}
    theirs = Trainer(llama(), arguments(tmp_path / "theirs", max_steps=3), **parts)
    theirs.train()
    assert losses_of(ours) == pytest.approx(losses_of(theirs), rel=1e-5)
    for name, value in weights_of(ours).items():
        torch.testing.assert_close(value, theirs.model.state_dict()[name], atol=1e-5, rtol=1e-4)


class Constant(Rule):
    """Multiplies the losses of the two domains by 3 and 0.5."""

    name = "constant"
    cadence = Cadence(every=100)
    needs = frozenset({Signal.TRAIN_LOSS})
    kept = ()

    def start(self, domains, tokens):
        self.begin(domains, tokens)
        return Mixture(weights=np.array([0.5, 0.5]), multipliers=np.array([3.0, 0.5]))

    def update(self, seen):
        return None


def test_multipliers_weigh_the_loss_and_are_divided_by_their_own_sum(tiny_data, tmp_path):
    loader = open_loader(tiny_data)
    seen = []

    class Watching(Mixer):
        def observe(self, batch, sums, counts, **more):
            first = np.cumsum(batch.segment_counts) - batch.segment_counts
            seen.append((batch.domain, np.add.reduceat(sums, first), np.add.reduceat(counts, first)))
            super().observe(batch, sums, counts, **more)

    feed = MixtureCallback(loader, Watching(Constant(), loader))
    trainer = Trainer(llama(), arguments(tmp_path / "run", max_steps=1), **feed.parts(1))
    trainer.train()
    domain, sums, counts = (np.concatenate([part[i] for part in seen]) for i in range(3))
    factors = np.array([3.0, 0.5])[domain]
    expected = (factors * sums).sum() / (factors * counts).sum()
    assert losses_of(trainer)[0] == pytest.approx(expected, rel=1e-5)
    assert losses_of(trainer)[0] != pytest.approx(sums.sum() / counts.sum(), rel=1e-4)


def test_evaluation_between_steps_is_not_observed_and_changes_nothing(tiny_data, tmp_path):
    # the Trainer's evaluation draws from PyTorch's generator, so dropout would differ
    whole = train(tiny_data, tmp_path / "whole", dropout=0.0)
    held_out = MixtureLoader(
        SequenceStore.open(tiny_data.validation), "uniform", seed=1, fingerprint="v", batch_size=4, block=12
    )
    seen, evaluations = [], []

    class Evaluated(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            evaluations.append(metrics["eval_loss"])

    loader = open_loader(tiny_data)
    feed = MixtureCallback(loader, odm_mixer(loader, seen))
    parts = feed.parts(STEPS)
    parts["callbacks"].append(Evaluated())
    trainer = Trainer(
        llama(dropout=0.0),
        arguments(tmp_path / "run", eval_strategy="steps", eval_steps=5, per_device_eval_batch_size=3),
        eval_dataset=MixtureDataset(held_out, 3), **parts,
    )  # fmt: skip
    trainer.train()
    assert numbers_of(seen) == list(range(STEPS * BATCH))
    assert losses_of(trainer) == losses_of(whole[1])
    model = trainer.model.eval()
    with torch.no_grad():
        given = CausalCollator()([held_out.__getitems__(range(12))])
        expected = float(model(**given).loss)
    assert len(evaluations) == 2
    assert evaluations[-1] == pytest.approx(expected, rel=0.05)  # of step 10 and of step 12


def test_gradient_alignment_runs_its_probes_inside_the_trainer(tiny_data, tmp_path):
    from penstock.training.probes import GradientProbe, Target

    store, target = open_store(tiny_data), SequenceStore.open(tiny_data.validation)
    rule = DynamicGradientAlignment(cadence=Cadence(every=4))
    loader = open_loader(tiny_data, starting_weights(rule, store))
    model = llama()

    def loss(batch):
        return model(**CausalCollator()(batch)).loss

    probe = GradientProbe(model, loss, store, target=Target.split(target, domains=["code"]), sequences=4)
    feed = MixtureCallback(loader, Mixer(rule, loader, probe=probe), policy_log=tmp_path / "policy_log")
    trainer = Trainer(model, arguments(tmp_path / "run"), **feed.parts(STEPS))
    trainer.train()
    log = pq.read_table(tmp_path / "policy_log")
    assert log["step"].to_pylist() == [4, 8, 12]
    assert log["effective_from_sequence"].to_pylist() == [6 * BATCH, 10 * BATCH, 14 * BATCH]
    dots = json.loads(log["signals"][0].as_py())["signals"]["target_dot"]["sums"]
    assert all(np.isfinite(dots))
    assert any(dots)
    assert np.allclose(loader.weights_of(1), log["new_weights"][0].as_py())
    assert loader.weights_of(1) != loader.weights_of(0)
    assert feed.last_update.step == 12


def test_the_policy_log_of_a_resumed_run_is_that_of_one_left_alone(tiny_data, tmp_path):
    def once(name, **more):
        loader = open_loader(tiny_data)
        feed = MixtureCallback(loader, odm_mixer(loader), policy_log=tmp_path / name / "log")
        parts = feed.parts(STEPS)
        if "stop" in more:
            parts["callbacks"].append(Stop(more.pop("stop")))
        trainer = Trainer(llama(), arguments(tmp_path / name), **parts)
        with contextlib.suppress(KeyboardInterrupt):
            trainer.train(**more)

    once("whole")
    once("run", stop=10)
    once("run", resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-8"))
    files = sorted(path.name for path in (tmp_path / "whole" / "log").iterdir())
    assert len(files) == 4
    assert sorted(path.name for path in (tmp_path / "run" / "log").iterdir()) == files
    for name in files:
        assert (tmp_path / "run" / "log" / name).read_bytes() == (tmp_path / "whole" / "log" / name).read_bytes()


TWO = """
import json, sys
sys.path.insert(0, {folder!r})
import test_hf_trainer as t
from penstock.training.config import TrainData
from pathlib import Path
from types import SimpleNamespace
data = SimpleNamespace(train={train!r}, fingerprint="f00d")
seen, trainer, loader = t.train(data, {out!r}, resume={resume!r}, max_steps={steps}, **{more!r})
rank = trainer.args.process_index
Path({out!r}, f"seen-{{trainer.args.world_size}}-{{rank}}.json").write_text(json.dumps(
    dict(numbers=t.numbers_of(seen), losses=t.losses_of(trainer), weights=loader.weights_of(loader.newest_version))
))
"""


def processes(number, data, out, *, resume=None, steps=STEPS, **more):
    """Train in ``number`` gloo processes; returns what each wrote."""
    out.mkdir(exist_ok=True)
    script = out / "script.py"
    script.write_text(
        TWO.format(
            folder=str(Path(__file__).parent), train=data.train, out=str(out),
            resume=None if resume is None else str(resume), steps=steps, more=more,
        )
    )  # fmt: skip
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # what torchrun sets, without a third process that imports PyTorch
    common = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(script)], env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(number)
    ]  # fmt: skip
    said = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0] * number, "\n".join(said)[-3000:]
    return [json.loads((out / f"seen-{number}-{rank}.json").read_text()) for rank in range(number)]


def test_two_processes_share_the_order_and_one_may_go_on(tiny_data, tmp_path):
    same = {"dropout": 0.0, "lr_scheduler_type": "constant"}
    _, trainer, loader = train(tiny_data, tmp_path / "alone", **same)
    out = tmp_path / "two"
    found = processes(2, tiny_data, out, steps=8, per_device_train_batch_size=BATCH // 4, **same)
    assert sorted(found[0]["numbers"] + found[1]["numbers"]) == list(range(8 * BATCH))
    assert not set(found[0]["numbers"]) & set(found[1]["numbers"])
    assert found[0]["weights"] == found[1]["weights"]
    assert found[0]["losses"] == pytest.approx(losses_of(trainer)[:8], rel=1e-4)
    assert found[0]["weights"] == pytest.approx(loader.weights_of(2), rel=1e-4)
    seen, resumed, _ = train(tiny_data, out, resume=out / "checkpoint-8", **same)
    assert numbers_of(seen) == list(range(8 * BATCH, STEPS * BATCH))
    assert losses_of(resumed)[8:] == pytest.approx(losses_of(trainer)[8:], rel=1e-4)


BAD_ARGUMENTS = {
    "shuffled": ({"train_sampling_strategy": "random"}, "train_sampling_strategy: got 'random', allowed 'sequential'"),
    "grouped": ({"train_sampling_strategy": "group_by_length"}, "got 'group_by_length', allowed 'sequential'"),
    "workers": ({"dataloader_num_workers": 2}, "dataloader_num_workers: got 2, allowed 0: worker processes"),
    "finds its batch": ({"auto_find_batch_size": True}, "auto_find_batch_size: got True, allowed False"),
    "restores": ({"restore_callback_states_from_checkpoint": True}, "allowed False: MixtureCallback takes its state"),
    "smoothed": ({"label_smoothing_factor": 0.1}, "label_smoothing_factor: got 0.1, allowed 0.0"),
    "split": ({"accelerator_config": {"split_batches": True}}, "accelerator_config: split_batches is on, allowed off"),
    "batch": ({"gradient_accumulation_steps": 3}, "is 8, the Trainer's global batch 4 x 3 accumulation steps x 1"),
    "steps": ({"max_steps": 13}, "max_steps: got 13, but the dataset has 12 steps"),
    "epochs": ({"max_steps": -1, "num_train_epochs": 2}, "max_steps: got 24, but the dataset has 12 steps"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_arguments_that_would_change_the_order_are_refused(tiny_data, tmp_path, name):
    changes, message = BAD_ARGUMENTS[name]
    with pytest.raises(ConfigError, match=message):
        train(tiny_data, tmp_path / "run", **changes)


def test_epochs_may_give_the_length_of_the_run(tiny_data, tmp_path):
    seen, _, _ = train(tiny_data, tmp_path / "run", steps=3, max_steps=-1, num_train_epochs=1)
    assert numbers_of(seen) == list(range(3 * BATCH))


def test_a_dataset_that_is_not_the_callbacks_is_refused(tiny_data, tmp_path):
    loader = open_loader(tiny_data)
    parts = MixtureCallback(loader).parts(STEPS) | {"train_dataset": MixtureDataset(loader, STEPS)}
    with pytest.raises(ConfigError, match=r"train_dataset: the Trainer's is not this callback's"):
        Trainer(llama(), arguments(tmp_path / "run"), **parts).train()


def test_a_mixer_without_losses_is_refused(tiny_data, tmp_path):
    loader = open_loader(tiny_data)
    parts = MixtureCallback(loader, odm_mixer(loader)).parts(STEPS)
    del parts["compute_loss_func"]
    with pytest.raises(ConfigError, match="compute_loss_func: it was not called"):
        Trainer(llama(), arguments(tmp_path / "run"), **parts).train()


def test_an_order_that_is_not_the_callbacks_is_noticed(tiny_data, tmp_path):
    class Other(Trainer):
        def get_train_dataloader(self):
            order = list(range(STEPS * BATCH))[::-1]
            return torch.utils.data.DataLoader(
                self.train_dataset, sampler=order, batch_size=BATCH // 2, collate_fn=self.data_collator
            )

    feed = MixtureCallback(open_loader(tiny_data))
    with pytest.raises(ConfigError, match=r"step 1: the labels are not those of the sequences 0 to 3"):
        Other(llama(), arguments(tmp_path / "run"), **feed.parts(STEPS)).train()


def test_a_checkpoint_without_the_mixtures_state_is_refused(tiny_data, tmp_path):
    train(tiny_data, tmp_path / "run", stop=5)
    path = tmp_path / "run" / "checkpoint-4" / "trainer_state.json"
    state = json.loads(path.read_text())
    del state["stateful_callbacks"]["MixtureCallback"]
    path.write_text(json.dumps(state))
    with pytest.raises(DatasetError, match="the checkpoint of step 4 holds no state of the mixture"):
        train(tiny_data, tmp_path / "run", resume=path.parent)


def test_a_checkpoint_of_another_kind_of_run_is_refused(tiny_data, tmp_path):
    train(tiny_data, tmp_path / "run", mixed=False, stop=5)
    checkpoint = tmp_path / "run" / "checkpoint-4"
    with pytest.raises(DatasetError, match="saved without a mixer, this run is with one"):
        train(tiny_data, tmp_path / "run", resume=checkpoint)
    with pytest.raises(DatasetError, match="saved for data f00d, this data is beef"):
        train(
            tiny_data, tmp_path / "run", mixed=False, resume=checkpoint,
            loader=open_loader(tiny_data, fingerprint="beef"),
        )  # fmt: skip
    with pytest.raises(DatasetError, match="32 sequences were consumed, with batches of 16 it would be 64; keep"):
        train(
            tiny_data, tmp_path / "run", mixed=False, resume=checkpoint, per_device_train_batch_size=8,
            loader=open_loader(tiny_data, batch_size=16),
        )  # fmt: skip


def test_an_order_that_ends_before_the_last_step_is_refused_and_one_that_ends_with_it_is_not(tiny_data, tmp_path):
    ends = {"max_epochs": 1, "on_exhausted": "stop", "weights": {"code": 3, "web": 5}, "block": 8}
    left = open_loader(tiny_data, **ends).steps_left
    with pytest.raises(
        DatasetError, match=f"the order of sequences has {left} steps left, the Trainer wants {left + 1}"
    ):
        train(
            tiny_data, tmp_path / "run", mixed=False, steps=left + 1, max_steps=left + 1,
            loader=open_loader(tiny_data, **ends),
        )  # fmt: skip
    train(
        tiny_data, tmp_path / "run", mixed=False, steps=left, max_steps=left, stop=left - 1,
        save_steps=1, loader=open_loader(tiny_data, **ends),
    )  # fmt: skip
    # the resumed run reads a micro-batch ahead, of which nothing is there after the last step
    _, trainer, loader = train(
        tiny_data, tmp_path / "run", mixed=False, steps=left, max_steps=left,
        resume=tmp_path / "run" / f"checkpoint-{left - 1}", loader=open_loader(tiny_data, **ends),
    )  # fmt: skip
    assert trainer.state.global_step == left
    assert loader.consumed == left * BATCH


def test_a_mixer_of_another_loader_and_a_loader_without_lag_are_refused(tiny_data):
    loader = open_loader(tiny_data)
    with pytest.raises(ConfigError, match="mixer: it belongs to another loader"):
        MixtureCallback(open_loader(tiny_data), odm_mixer(loader))
    without = open_loader(tiny_data, lag=0)
    with pytest.raises(ConfigError, match="lag: got 0, allowed >= 1: the Trainer reads a micro-batch ahead"):
        MixtureCallback(without, odm_mixer(without))


def test_a_model_that_mixes_documents_is_refused_before_the_first_step(tiny_data, tmp_path):
    model = llama()
    model.config._attn_implementation = "eager"
    feed = MixtureCallback(open_loader(tiny_data), attention="mask")
    with pytest.raises(ConfigError, match="lets documents of a row see each other"):
        Trainer(model, arguments(tmp_path / "run"), **feed.parts(STEPS)).train()


@pytest.mark.parametrize("attention", ["mask", "flat"])
def test_other_ways_to_keep_documents_apart_give_the_same_losses(tiny_data, tmp_path, attention):
    def losses(way):
        feed = MixtureCallback(open_loader(tiny_data), attention=way)
        trainer = Trainer(llama(dropout=0.0), arguments(tmp_path / way, max_steps=3), **feed.parts(3))
        trainer.train()
        return losses_of(trainer)

    assert losses(attention) == pytest.approx(losses("positions"), rel=1e-4)
