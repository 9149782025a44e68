"""Train a causal language model on packed sequences, resumable to the last bit.

One step: the loader's next ``batch_size`` sequences, one update of the model on them (``update``), and, where the
recipe has a policy, what came of it told to the mixer, which may append a new mixture to the loader's log. Linear
warm-up and a cosine set the learning rate. A token has a loss when it is predicted and learned: sequences with a
``loss_mask`` leave the others out of every loss, mean and count, here and in ``evaluate``.

A run's folder::

    model/              weights as safetensors, config, tokenizer: transformers loads it
    checkpoints/        the newest ``keep_checkpoints``; a run started again continues from the last
    metrics.jsonl       step, loss, learning rate, gradient norm, tokens, loss by domain, validation loss
    timings.jsonl       seconds, tokens per second, MFU and the loader's share, apart because they never repeat
    signals/            Parquet: what training saw of every segment
    policy_log/         Parquet: the mixture, and what a policy saw when it was asked
    tensorboard/        the same curves

Determinism: on CPU with the same number of threads and processes a run that was killed at any point and started again
writes the same metrics, signals and weights, byte for byte, as one left alone. CUDA kernels do not
promise that; there the data order is exact and the losses agree closely. Another number of processes changes the
order of sums and nothing else.

With ``data.before`` a run goes on from the last checkpoint of another on other data: weights, moments, steps and random
generators go on, the mixture log gets a replacement entry, the learning rate rises and falls anew, and a policy begins
anew. Records hold the steps of this run alone.

Price: weights, gradients and two moments in float32 (16 bytes a parameter), activations of one micro-batch, a
synchronisation with the device once a step.
"""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from penstock.errors import DatasetError, TrainingError
from penstock.torch_threads import torch_threads
from penstock.training import checkpoint, launch, snapshot
from penstock.training.checkpoint import CheckpointWriter
from penstock.training.config import ModelConfig, TrainConfig, TrainData, TrainResult
from penstock.training.distributed import Ranks, device_of, join, share
from penstock.training.evaluation import evaluate, first_rows, held_out_sums, means_by_domain
from penstock.training.export import check_follows, check_identity, export_model, run_identity
from penstock.training.loader import Batch, MixtureLoader
from penstock.training.metrics import StepProgress
from penstock.training.model import build_model
from penstock.training.parallel import Spread, way_of
from penstock.training.records import Records
from penstock.training.sequences import SequenceStore
from penstock.training.signals import SignalWriter
from penstock.training.steering import Policy, open_mixer, open_reference
from penstock.training.throughput import flops_per_token, peak_flops
from penstock.training.update import Outcome, Update, finite

if TYPE_CHECKING:
    import torch

__all__ = ["ModelConfig", "TrainConfig", "TrainData", "TrainResult", "TrainingError", "evaluate", "train"]


def train(config: TrainConfig, data: TrainData, out: str | Path, *, progress: bool = True) -> TrainResult:
    """Train until ``config.steps`` and write the model; continue from ``out``'s last checkpoint if it has one.

    Ctrl-C and kills lose only the steps after the last checkpoint. A finished run started again trains
    nothing and returns the same result. Called in every process that ``torchrun`` started, it is one run of them all;
    with ``config.processes`` above 1 it starts them itself.

    Args:
        data: with ``before``, ``config.steps`` more steps from there.
        out: a folder that belongs to this run, on a disk that all its processes share.
        progress: draw a progress bar on the terminal.

    Raises:
        ConfigError: a parameter does not fit the model or the data.
        DatasetError: ``out`` holds another run's checkpoints, or a file is damaged.
        TrainingError: too many steps in a row with a loss or a gradient that is no finite number, or a spike; or
            another process of the run is gone.
        WorkerError: a process that was started here ended without saying why.
        StorageError: the disk is full or read-only.
    """
    started = time.perf_counter()
    folder = Path(out)
    if launch.needed(config):
        return launch.run(config, data, folder, progress=progress)
    with ExitStack() as stack:
        ranks = stack.enter_context(join(timeout=config.rank_timeout))
        run = _Run(config, data, folder, stack, ranks)
        resumed_from = run.step
        bar = stack.enter_context(StepProgress(run.last, resumed_from, shown=progress and ranks.first))
        while run.step < run.last:
            loss, tokens = run.advance()
            bar.update(run.step, loss, tokens)
        run.writer.wait()
        run.export()
        return run.result(resumed_from, time.perf_counter() - started)


class _Run:
    """The mutable state of one training run on this rank; ``advance`` is one step."""

    def __init__(self, config: TrainConfig, data: TrainData, folder: Path, stack: ExitStack, ranks: Ranks) -> None:
        self.config, self.data, self.folder, self.ranks = config, data, folder, ranks
        share(config.batch_size, ranks)
        self.device = device_of(config.device, ranks)
        stack.enter_context(_global_state_of_torch(config.threads, self.device))
        self.store, self.held_out = open_stores(data, folder / "cache", config)
        self.before = _before(data, ranks)
        self.begins = 0 if self.before is None else self.before.step
        self.last = self.begins + config.steps
        whole = dataclasses.replace(config, steps=self.last)  # as policies count steps
        policy = Policy.of(whole)
        self.loader = MixtureLoader(
            self.store,
            config.mixture if policy is None else policy.starting_weights(self.store, config),
            seed=config.seed,
            fingerprint=data.fingerprint,
            batch_size=config.batch_size,
            temperature=config.temperature,
            block=config.mixture_block,
            max_epochs=config.max_epochs,
            on_exhausted=config.on_exhausted,
            group_rows=config.group_rows,
            lag=config.prefetch if config.policy is None else config.policy.lag,
        )
        if self.before is not None:
            self.loader.follow(self.before.state["loader"], narrow=True)
        self.spread = Spread(
            self._fresh_model(),
            ranks=ranks,
            device=self.device,
            way=way_of(config.parallel, ranks),
            cross_document_attention=config.cross_document_attention,
            loss_chunk=config.loss_chunk,
            compile_layers=config.compile,
            activation_checkpointing=config.activation_checkpointing,
        )
        self.model = self.spread.model
        precision = config.precision
        self.bfloat16 = precision == "bfloat16" or (precision == "auto" and self.device.type == "cuda")
        self.update = Update(
            self.spread,
            config,
            domains=self.loader.domains,
            vocab_size=data.vocab_size,
            bfloat16=self.bfloat16,
            reference=open_reference(config, vocab_size=data.vocab_size, length=self.store.length, device=self.device),
        )
        self.mixer, self.target = None, None
        if policy is not None:
            self.mixer, self.target = open_mixer(
                policy, whole, self.loader, self.spread, self.held_out, bfloat16=self.bfloat16
            )
        self.flops = flops_per_token(self.model, self.store.length)
        self.peak = peak_flops(self.device, bfloat16=self.bfloat16, peak_tflops=config.peak_tflops)
        snapshot.seed_generators(ranks, seed=config.seed)

        self.step, self.tokens, self.validation = 0, 0, dict[str, float]()
        self.target_loss: float | None = None
        self.identity = run_identity(config, data, self.store, self.held_out)
        self.writer = CheckpointWriter(
            folder / "checkpoints", keep=config.keep_checkpoints, ranks=ranks, background=config.async_checkpoints
        )
        stack.callback(self.writer.close)
        self.signals = SignalWriter(
            folder / "signals",
            self.loader.domains,
            decay=config.loss_mean_decay,
            every=config.signals_every,
            rank=ranks.rank,
            world_size=ranks.world_size,
            begins=self.begins,
        )
        self.records = Records(folder, ranks, tensorboard=config.tensorboard, begins=self.begins)
        self._resume(stack)
        batches = self.loader.stream(
            self.last - self.step,
            ranks.rank,
            ranks.world_size,
            prefetch=config.prefetch,
            pin=self.device.type == "cuda",
        )
        self.batches = stack.enter_context(closing(cast("Generator[Batch]", batches)))

    def _fresh_model(self) -> Any:
        return build_model(
            self.config.model,
            vocab_size=self.data.vocab_size,
            length=self.store.length,
            seed=self.config.seed,
            pad_id=self.data.pad_id,
            eos_id=self.data.eos_id,
        )

    def advance(self) -> tuple[float, int]:
        """One optimiser step with all its records; returns the loss and the tokens it is a mean of."""
        began = time.perf_counter()
        step, rate = self.step + 1, self.config.learning_rate_at(self.step - self.begins)
        in_force = self.loader.weights
        batch = next(self.batches)  # counts as consumed
        waited = time.perf_counter() - began
        outcome = self.update(step, batch, rate, multipliers=None if self.mixer is None else self.mixer.multipliers)
        self.step = step
        self.tokens += outcome.tokens
        record: dict[str, Any] = {
            "step": step,
            "loss": finite(outcome.loss),
            "lr": rate,
            "grad_norm": finite(outcome.norm),
            "tokens": self.tokens,
            "loss_by_domain": self._note(step, batch, outcome),
        }
        if outcome.skipped is not None:
            record["skipped"] = outcome.skipped
        if outcome.facts:
            record["weighting"] = dict(outcome.facts)
            warning = self.update.weighter.warning()
            if warning is not None:
                record["warning"] = warning
                if self.ranks.first:
                    warnings.warn(warning, stacklevel=3)
        if self.mixer is not None:
            record["mixture"] = dict(zip(self.loader.domains, map(float, in_force), strict=True))
        timing = self._timing(step, time.perf_counter() - began, waited, outcome)
        last = step == self.last
        if self.held_out is not None and (last or step % self.config.eval_every == 0):
            self._validate(record)
        self._steer(step)
        self.records.step(record, timing)
        if last or step % self.config.checkpoint_every == 0:
            self._save()
        return outcome.loss, outcome.tokens

    def _note(self, step: int, batch: Batch, outcome: Outcome) -> dict[str, float]:
        """Signals of a step, for the table and the policy; its mean loss by domain."""
        if outcome.skipped is not None:
            self.signals.skip(step)
            return {}
        if self.mixer is not None:
            self.mixer.observe(batch, outcome.sums, outcome.counts, excess=outcome.excess)
        by_domain = (outcome.domain_sums, outcome.domain_counts)
        return self.signals.observe(step, batch, outcome.sums, outcome.counts, over_ranks=by_domain)

    def _steer(self, step: int) -> None:
        """Ask the policy when it is due, and write down what it said."""
        update = None if self.mixer is None else self.mixer.after_step(step)
        if update is None or self.mixer is None:
            return
        effect = (step + self.loader.lag) * self.config.batch_size
        self.records.policy(
            step=step,
            effective_from=effect if update.effective_from is None else update.effective_from,
            version=self.loader.newest_version if update.version is None else update.version,
            name=self.mixer.policy.name,
            domains=self.loader.domains,
            old=update.old,
            new=update.new,
            seen={**update.facts, **({} if update.refused is None else {"refused": update.refused})},
        )

    def _validate(self, record: dict[str, Any]) -> None:
        assert self.held_out is not None, "validation without sequences"
        sums, counts = self._held_out(*first_rows(self.held_out, self.config.eval_sequences))
        self.validation = means_by_domain(self.held_out, sums, counts)
        record["val_loss_by_domain"] = self.validation
        if self.mixer is not None:
            tokens = dict(zip(self.held_out.domains, map(int, counts), strict=True))
            self.mixer.observe_validation(self.validation, tokens)
        if self.target is not None and len(self.target.held_out[0]):
            sums, counts = self._held_out(*self.target.held_out)
            if counts.sum():
                self.target_loss = record["target_loss"] = float(sums.sum() / counts.sum())

    def _held_out(self, domain: Any, row: Any) -> Any:
        assert self.held_out is not None, "validation without sequences"
        return held_out_sums(
            self.model,
            self.spread.bare_losses,
            self.held_out,
            domain,
            row,
            size=self.config.micro_batch_size or self.config.batch_size,
            bfloat16=self.bfloat16,
            ranks=self.ranks,
        )

    def _timing(self, step: int, seconds: float, waited: float, outcome: Outcome) -> dict[str, Any]:
        rate = outcome.tokens_read / seconds
        return {
            "step": step,
            "seconds": seconds,
            "tokens_per_second": outcome.tokens / seconds,
            "loader_seconds": waited,
            "loader_share": waited / seconds,
            "mfu": None if self.peak is None else rate * self.flops / (self.peak * self.ranks.world_size),
        }

    def _save(self) -> None:
        """Commit everything up to this step; parts and lines first, the checkpoint that vouches for them last."""
        self.signals.flush(self.step)
        self.records.sync()
        self.ranks.barrier()  # every rank's parts are on the disk
        self.writer.save(
            self.step,
            model=snapshot.owned(snapshot.weights_of(self.model), self.ranks),
            training=snapshot.owned(snapshot.moments_of(self.model, self.update.optimizer), self.ranks)
            | snapshot.generator_states(self.device, self.ranks),
            state={
                "identity": self.identity,
                "loader": self.loader.state_dict(),
                "signals": self.signals.state_dict(),
                "guard": self.update.guard.state_dict(),
                "weighter": self.update.weighter.state_dict(),
                "mixer": None if self.mixer is None else self.mixer.state_dict(),
                "tokens": self.tokens,
                "validation": self.validation,
                "target_loss": self.target_loss,
            },
        )

    def _resume(self, stack: ExitStack) -> None:
        """Take over the last checkpoint, if there is one, and remove every record of later steps."""
        if self.ranks.first:
            checkpoint.clean(self.writer.folder, self.config.keep_checkpoints)
        self.ranks.barrier()
        saved = checkpoint.load_latest(self.writer.folder, ranks=self.ranks)
        self.ranks.require_equal("the checkpoint to go on from", "none" if saved is None else saved.path.name)
        if saved is not None:
            check_identity(saved.path, saved.state["identity"], self.identity)
            self.loader.load_state_dict(saved.state["loader"])
            if self.mixer is not None:
                self.mixer.load_state_dict(saved.state["mixer"])
            self.validation, self.target_loss = dict(saved.state["validation"]), saved.state["target_loss"]
        elif self.before is not None:
            check_follows(self.before.path, self.before.state["identity"], self.identity)
        state = saved or self.before
        if state is not None:
            snapshot.load_weights(self.model, state.model, self.ranks)
            snapshot.load_moments(self.model, self.update.optimizer, state.training, self.ranks)
            snapshot.load_generators(state.training, self.device, self.ranks, seed=self.config.seed, step=state.step)
            self.update.guard.load_state_dict(state.state["guard"])
            self.update.weighter.load_state_dict(state.state["weighter"])
            self.step, self.tokens = state.step, int(state.state["tokens"])
        self.signals.restore(self.step, state.state["signals"] if state else None)
        self.records.open(self.step, stack)
        if self.step == self.begins:
            weights = self.loader.weights
            # the first entry replaces no other of this run: old and new are equal
            self.records.policy(
                step=self.step,
                effective_from=self.loader.consumed,
                version=self.loader.newest_version,
                name="static" if self.mixer is None else self.mixer.policy.name,
                domains=self.loader.domains,
                old=weights,
                new=weights,
            )
        self.ranks.barrier()

    def export(self) -> None:
        """Write the model's folder; under FSDP2 the first rank puts the whole together."""
        whole = self.model
        if self.spread.way == "fsdp":
            import torch

            whole = self._fresh_model() if self.ranks.first else None
            places = dict(whole.named_parameters()) if whole is not None else {}
            with torch.no_grad():
                for name, value in self.spread.whole_parameters():
                    if name in places:
                        places[name].copy_(value)
        if self.ranks.first:
            export_model(whole, self.data, self.folder)
        self.ranks.barrier()

    def result(self, resumed_from: int, seconds: float) -> TrainResult:
        config, folder = self.config, self.folder
        records = self.records.metrics.read()
        return TrainResult(
            model=folder / "model",
            checkpoint=checkpoint.complete(self.writer.folder)[-1],
            metrics=self.records.metrics.path,
            signals=self.signals.folder,
            policy_log=folder / "policy_log",
            tensorboard=folder / "tensorboard" if config.tensorboard else None,
            device=str(self.device),
            steps=self.step,
            resumed_from=resumed_from,
            parameters=sum(p.numel() for p in self.model.parameters()),
            tokens=self.tokens,
            seconds=seconds,
            losses=tuple(math.nan if record["loss"] is None else record["loss"] for record in records),
            validation=self.validation,
            target_loss=self.target_loss,
            skipped=self.update.guard.skipped,
        )


def _before(data: TrainData, ranks: Ranks) -> checkpoint.Checkpoint | None:
    """The checkpoint to go on from with other data; DatasetError when there is none where one is named."""
    if data.before is None:
        return None
    folder = Path(data.before)
    checkpoint.latest_digest(folder)
    return checkpoint.load_latest(folder, ranks=ranks)


def open_stores(data: TrainData, cache: Path, config: TrainConfig) -> tuple[SequenceStore, SequenceStore | None]:
    """Training sequences and validation sequences, which may be none; DatasetError when their lengths differ."""
    limit = int(config.cache_gb * (1 << 30))
    store = SequenceStore.open(data.train, cache=cache, cache_bytes=limit, group_rows=config.group_rows)
    held_out = None
    if any(data.validation.values()):
        held_out = SequenceStore.open(data.validation, cache=cache, cache_bytes=limit)
    if held_out is not None and held_out.length != store.length:
        raise DatasetError(
            f"validation sequences have {held_out.length} tokens, training sequences {store.length}; "
            "pack both with one sequence length"
        )
    return store, held_out


@contextmanager
def _global_state_of_torch(threads: int | None, device: torch.device) -> Iterator[None]:
    """Set PyTorch's thread count, and give it and the random generators back as they were."""
    import torch

    with torch_threads(threads), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
