"""Train a causal language model on packed sequences, resumable to the last bit.

One step: the loader's next ``batch_size`` sequences, forward and backward by micro-batches (each divided by
the whole step's tokens with a loss, so accumulation does not change the loss), clipping of the whole
gradient, AdamW with decoupled decay on tensors of two or more dimensions, linear warm-up and a cosine.
A token has a loss when it is predicted and learned: sequences with a ``loss_mask`` leave the others out of every loss,
mean and count, here and in ``evaluate``.

A run's folder::

    model/              weights as safetensors, config, tokenizer: transformers loads it
    checkpoints/        the newest ``keep_checkpoints``; a run started again continues from the last
    metrics.jsonl       step, loss, learning rate, gradient norm, tokens, loss by domain, validation loss
    timings.jsonl       seconds and tokens per second of each step, apart because they never repeat
    signals/            Parquet: what training saw of every segment
    policy_log/         Parquet: the mixture
    tensorboard/        the same curves as metrics.jsonl

Determinism: on CPU with the same number of threads a run that was killed at any point and started again
writes the same metrics, signals and weights, byte for byte, as one left alone. CUDA kernels do not
promise that; there the data order is exact and the losses agree closely.

Price: weights, gradients and two moments in float32 (16 bytes a parameter), activations of one micro-batch, a
synchronisation with the device once a step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.errors import ConfigError, DatasetError, TrainingError
from penstock.seeding import derive
from penstock.training import checkpoint
from penstock.training.config import ModelConfig, TrainConfig, TrainData, TrainResult
from penstock.training.export import check_identity, export_model, run_identity
from penstock.training.loader import Batch, MixtureLoader
from penstock.training.metrics import Curves, JsonLines, StepProgress
from penstock.training.model import (
    build_model,
    check_isolation,
    logits_function,
    pack_inputs,
    predicted_tokens,
    segment_sums,
    token_losses,
)
from penstock.training.sequences import SequenceStore, segment_layout
from penstock.training.signals import SignalWriter, write_policy_entry

if TYPE_CHECKING:
    import torch

__all__ = ["ModelConfig", "TrainConfig", "TrainData", "TrainResult", "TrainingError", "evaluate", "train"]


def train(config: TrainConfig, data: TrainData, out: str | Path, *, progress: bool = True) -> TrainResult:
    """Train until ``config.steps`` and write the model; continue from ``out``'s last checkpoint if it has one.

    Ctrl-C and kills lose only the steps after the last checkpoint. A finished run started again trains
    nothing and returns the same result.

    Args:
        out: a local folder that belongs to this run.
        progress: draw a progress bar on the terminal.

    Raises:
        ConfigError: a parameter does not fit the model or the data.
        DatasetError: ``out`` holds another run's checkpoints, or a file is damaged.
        TrainingError: the loss or the gradient became NaN or infinite.
        StorageError: the disk is full or read-only.
    """
    started = time.perf_counter()
    folder = Path(out)
    with ExitStack() as stack:
        run = _Run(config, data, folder, stack)
        resumed_from = run.step
        bar = stack.enter_context(StepProgress(config.steps, resumed_from, shown=progress))
        while run.step < config.steps:
            loss, tokens = run.advance()
            bar.update(run.step, loss, tokens)
        model = export_model(run.model, data, folder)
        losses = tuple(record["loss"] for record in run.metrics.read())
        return TrainResult(
            model=model,
            checkpoint=checkpoint.complete(run.checkpoints)[-1],
            metrics=run.metrics.path,
            signals=run.signals.folder,
            policy_log=folder / "policy_log",
            tensorboard=folder / "tensorboard" if config.tensorboard else None,
            device=str(run.device),
            steps=run.step,
            resumed_from=resumed_from,
            parameters=sum(p.numel() for p in run.model.parameters()),
            tokens=run.tokens,
            seconds=time.perf_counter() - started,
            losses=losses,
            validation=run.validation,
        )


class _Run:
    """The mutable state of one training run; ``advance`` is one step."""

    def __init__(self, config: TrainConfig, data: TrainData, folder: Path, stack: ExitStack) -> None:
        import torch

        self.config, self.data, self.folder = config, data, folder
        self.checkpoints = folder / "checkpoints"
        self.device = _device(config.device)
        stack.enter_context(_global_state_of_torch(config.threads, self.device))
        cache = folder / "cache"
        self.store = SequenceStore.open(data.train, cache=cache)
        self.held_out = SequenceStore.open(data.validation, cache=cache) if any(data.validation.values()) else None
        if self.held_out is not None and self.held_out.length != self.store.length:
            raise DatasetError(
                f"validation sequences have {self.held_out.length} tokens, training sequences {self.store.length}; "
                "pack both with one sequence length"
            )
        self.loader = MixtureLoader(
            self.store,
            config.mixture,
            seed=config.seed,
            fingerprint=data.fingerprint,
            batch_size=config.batch_size,
            temperature=config.temperature,
            block=config.mixture_block,
        )
        self.model: Any = build_model(
            config.model,
            vocab_size=data.vocab_size,
            length=self.store.length,
            seed=config.seed,
            pad_id=data.pad_id,
            eos_id=data.eos_id,
        ).to(self.device)
        self.logits_of = logits_function(self.model)
        if not config.cross_document_attention:
            check_isolation(self.model, self.logits_of)
        self.optimizer = _optimizer(self.model, config)
        precision = config.precision
        self.bfloat16 = precision == "bfloat16" or (precision == "auto" and self.device.type == "cuda")
        torch.manual_seed(derive(config.seed, "training"))

        self.step, self.tokens, self.validation = 0, 0, dict[str, float]()
        self.identity = run_identity(config, data, self.store, self.held_out)
        self.signals = SignalWriter(
            folder / "signals", self.loader.domains, decay=config.loss_mean_decay, every=config.signals_every
        )
        self.metrics, self.timings = JsonLines(folder / "metrics.jsonl"), JsonLines(folder / "timings.jsonl")
        self._resume()
        stack.callback(self.metrics.close)
        stack.callback(self.timings.close)
        self.curves = stack.enter_context(Curves(folder / "tensorboard" if config.tensorboard else None, self.step))

    def advance(self) -> tuple[float, int]:
        """One optimiser step with all its records; returns the loss and the tokens it is a mean of."""
        began = time.perf_counter()
        step, rate = self.step + 1, self.config.learning_rate_at(self.step)
        batch = self.loader.batch(self.step)
        sums, counts, norm = self._update(batch, rate, step)
        self.step = step
        self.loader.advance()
        tokens = int(counts.sum())
        self.tokens += tokens
        loss = float(sums.sum() / tokens)
        by_domain = self.signals.observe(step, batch, sums, counts)
        record: dict[str, Any] = {"step": step, "loss": loss, "lr": rate, "grad_norm": norm, "tokens": self.tokens}
        record["loss_by_domain"] = by_domain
        seconds = time.perf_counter() - began
        last = step == self.config.steps
        if self.held_out is not None and (last or step % self.config.eval_every == 0):
            self.validation = evaluate(
                self.model, self.held_out, self.config, logits_of=self.logits_of, bfloat16=self.bfloat16
            )
            record["val_loss_by_domain"] = self.validation
        self.metrics.append(record)
        self.timings.append({"step": step, "seconds": seconds, "tokens_per_second": tokens / seconds})
        self.curves.add(step, record)
        if last or step % self.config.checkpoint_every == 0:
            self._save()
        return loss, tokens

    def _update(self, batch: Batch, rate: float, step: int) -> tuple[Any, Any, float]:
        """Forward, backward and the optimiser: summed losses and their number by segment, gradient norm."""
        import torch

        self._check_ids(batch)
        self.model.train()
        total = int(np.maximum(batch.segment_lengths - 1, 0).sum())
        if not total:
            raise TrainingError(f"step {step}: no token to predict, every segment has one token; pack longer documents")
        if batch.learned is not None:
            total = int(predicted_tokens(batch.segment_ids, batch.learned).sum())
            if not total:
                raise TrainingError(
                    f"step {step}: none of the {batch.segment_lengths.sum()} tokens is learned; raise batch_size or "
                    "sequences.length, so that every step holds something to learn"
                )
        size = self.config.micro_batch_size or self.config.batch_size
        parts = []
        for begin in range(0, len(batch.numbers), size):
            rows = slice(begin, begin + size)
            learned = None if batch.learned is None else batch.learned[rows]
            inputs = pack_inputs(
                batch.tokens[rows], batch.segment_ids[rows], batch.positions[rows], learned, device=self.device
            )
            with _autocast(self.device, self.bfloat16):
                losses = token_losses(
                    self.logits_of, inputs, cross_document_attention=self.config.cross_document_attention
                )
            torch.autograd.backward(losses.sum() / total)
            parts.append(segment_sums(losses, inputs))
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm))
        sums = torch.cat([part[0] for part in parts]).cpu().numpy()
        counts = torch.cat([part[1] for part in parts]).cpu().numpy()
        loss = float(sums.sum())
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(
                f"step {step}: the loss is {loss / total} and the gradient norm {norm}, allowed finite numbers; "
                f"lower learning_rate ({rate:g} here), lengthen warmup_steps, or look at the sequences "
                f"{int(batch.numbers[0])} to {int(batch.numbers[-1])} of the training order"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return sums, counts, norm

    def _check_ids(self, batch: Batch) -> None:
        largest = int(batch.tokens.max(initial=0))
        if largest >= self.data.vocab_size:
            row = int(np.argmax(batch.tokens.max(axis=1)))
            name = self.loader.domains[int(batch.domain[row])]
            raise ConfigError(
                f"domain {name}, row {int(batch.rows[row])}: token id {largest}, allowed below vocab_size = "
                f"{self.data.vocab_size}; give the tokenizer the sequences were made with"
            )

    def _save(self) -> None:
        """Commit everything up to this step; parts and lines first, the checkpoint that vouches for them last."""
        import torch

        self.signals.flush(self.step)
        self.metrics.sync()
        self.timings.sync()
        moments = {}
        for name, parameter in self.model.named_parameters():
            for kind, value in self.optimizer.state[parameter].items():
                moments[f"{kind}/{name}"] = value
        moments["rng/cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            moments["rng/cuda"] = torch.cuda.get_rng_state(self.device)
        checkpoint.save(
            self.checkpoints,
            self.step,
            model=_weights(self.model),
            training=moments,
            state={
                "identity": self.identity,
                "loader": self.loader.state_dict(),
                "signals": self.signals.state_dict(),
                "tokens": self.tokens,
                "validation": self.validation,
            },
            keep=self.config.keep_checkpoints,
        )

    def _resume(self) -> None:
        """Take over the last checkpoint, if there is one, and remove every record of later steps."""
        import torch

        checkpoint.clean(self.checkpoints, self.config.keep_checkpoints)
        saved = checkpoint.load_latest(self.checkpoints)
        if saved is not None:
            check_identity(saved.path, saved.state["identity"], self.identity)
            self.loader.load_state_dict(saved.state["loader"])
            with torch.no_grad():
                for name, weight in _weights(self.model).items():
                    weight.copy_(saved.model[name])
            for name, parameter in self.model.named_parameters():
                self.optimizer.state[parameter] = {
                    kind: saved.training[f"{kind}/{name}"].to(self.device) for kind in ("step", "exp_avg", "exp_avg_sq")
                }
            torch.set_rng_state(saved.training["rng/cpu"])
            # a checkpoint of another device has no state for this one
            if self.device.type == "cuda" and "rng/cuda" in saved.training:
                torch.cuda.set_rng_state(saved.training["rng/cuda"], self.device)
            self.step, self.tokens = saved.step, int(saved.state["tokens"])
            self.validation = dict(saved.state["validation"])
        self.signals.restore(self.step, saved.state["signals"] if saved else None)
        self.metrics.open(self.step)
        self.timings.open(self.step)
        weights = self.loader.weights
        # the first entry replaces nothing: old and new are equal
        write_policy_entry(
            self.folder / "policy_log",
            step=0,
            effective_from=0,
            version=0,
            policy="static",
            domains=self.loader.domains,
            old=weights,
            new=weights,
        )


def evaluate(
    model: Any, store: SequenceStore, config: TrainConfig, *, logits_of: Any = None, bfloat16: bool = False
) -> dict[str, float]:
    """Validation loss by domain: nats per token over the first ``eval_sequences`` rows of each.

    A domain with nothing that is predicted and learned is left out.

    Args:
        logits_of: what ``logits_function(model)`` gave, when it is at hand.
        bfloat16: run the forward pass under autocast.
    """
    import torch

    logits_of = logits_of or logits_function(model)
    counts = [min(rows, config.eval_sequences) for rows in store.rows]
    domain = np.repeat(np.arange(len(counts)), counts)
    row = np.concatenate([np.arange(count) for count in counts])
    loss, tokens = np.zeros(len(counts)), np.zeros(len(counts))
    size = config.micro_batch_size or config.batch_size
    model.eval()
    with torch.no_grad():
        for begin in range(0, len(row), size):
            here = slice(begin, begin + size)
            read = store.read(domain[here], row[here])
            ids, positions = segment_layout(read.segment_counts, read.segment_lengths, store.length)
            inputs = pack_inputs(read.tokens, ids, positions, read.learned, device=model.device)
            with _autocast(model.device, bfloat16):
                losses = token_losses(logits_of, inputs, cross_document_attention=config.cross_document_attention)
            sums, predicted = segment_sums(losses, inputs)
            of_segment = np.repeat(domain[here], read.segment_counts)
            loss += np.bincount(of_segment, weights=sums.cpu().numpy(), minlength=len(counts))
            tokens += np.bincount(of_segment, weights=predicted.cpu().numpy(), minlength=len(counts))
    return {store.domains[k]: float(loss[k] / tokens[k]) for k in np.flatnonzero(tokens)}


def _weights(model: Any) -> dict[str, torch.Tensor]:
    """Parameters, tied ones once, and persistent buffers by name."""
    saved = model.state_dict().keys()
    weights = dict(model.named_parameters())
    weights.update((name, buffer) for name, buffer in model.named_buffers() if name in saved)
    return weights


def _optimizer(model: Any, config: TrainConfig) -> torch.optim.Optimizer:
    import torch

    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=True
    )


def _device(name: str) -> torch.device:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: got 'cuda', but PyTorch finds no CUDA device; use 'auto' or 'cpu'")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def _autocast(device: torch.device, bfloat16: bool) -> AbstractContextManager[Any]:
    import torch

    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16)


@contextmanager
def _global_state_of_torch(threads: int | None, device: torch.device) -> Iterator[None]:
    """Set PyTorch's thread count, and give it and the random generators back as they were."""
    import torch

    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        torch.set_num_threads(before)
