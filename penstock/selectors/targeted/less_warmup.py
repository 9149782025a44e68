"""The warm-up of LESS: factors trained on a small random part of the pool, kept after every epoch with Adam's moments.

    AdamW without decay, betas 0.9 and 0.999, gradients clipped to length 1; the rate rises over the first ``warmup`` of
    the steps and falls in a line to 0; a batch's loss is the mean over its learned tokens.

Every epoch is a checkpoint: ``factors``, ``first`` and ``second`` as vectors of all P factors in safetensors, with the
mean learning rate and loss of the epoch. Rows come in an order drawn anew for every epoch and dropout from a stream of
the epoch, so a run that was killed goes on from its last whole checkpoint and ends with the same bytes.

Price: ordinary training of ``epochs`` times the sampled rows; 12 P bytes a checkpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.checked import sealed, unsealed
from penstock.errors import ConfigError, TrainingError
from penstock.seeding import derive, stream
from penstock.selectors import artifact
from penstock.selectors.sample import BottomK, Sampling
from penstock.selectors.targeted.base import summary_of
from penstock.selectors.targeted.influence import BETAS, EPSILON, linear_decay, mean_rates
from penstock.selectors.targeted.less_features import Moments, Reader, Texts
from penstock.selectors.targeted.lora import LoraFactors
from penstock.selectors.targeted.lora_gradients import token_losses
from penstock.storage import Folder

_CLIP = 1.0


@dataclass(frozen=True, kw_only=True)
class WarmupConfig:
    """How the factors are trained; the defaults are those of LESS.

    Args:
        share: of the pool's rows that are trained on; allowed above 0 to 1. A small pool needs more.
        epochs: allowed >= 1.
        learning_rate: at its highest; allowed > 0.
        warmup: share of the steps over which the rate rises; allowed 0 to below 1.
        batch_size: rows of a step; allowed >= 1.
    """

    share: float = 0.05
    epochs: int = 4
    learning_rate: float = 2e-5
    warmup: float = 0.03
    batch_size: int = 32

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"warm-up share: got {self.share}, allowed above 0 to 1; 0.05 is the paper's")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"warm-up {name}: got {getattr(self, name)}, allowed >= 1; raise it")
        if not (0 < self.learning_rate < math.inf):
            raise ConfigError(f"warm-up learning_rate: got {self.learning_rate}, allowed > 0; 2e-5 is the paper's")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warm-up warmup: got {self.warmup}, allowed 0 to below 1; 0.03 is the paper's")


@dataclass(frozen=True)
class Stored:
    """A checkpoint as an artifact, with the mean learning rate of its epoch."""

    path: str
    digest: str
    rate: float

    def load(self, device: Any) -> Moments:
        """The vectors on a device; they are not held: all checkpoints of a large model together would fill memory."""
        from safetensors.torch import load as from_bytes

        arrays = json.loads(artifact.read_verified(self.path, self.digest))["arrays"]
        tensors = from_bytes(artifact.read_verified(self.path.removesuffix(".json") + ".safetensors", arrays))
        return Moments(*(tensors[name].to(device) for name in ("factors", "first", "second")))

    def facts(self) -> dict[str, Any]:
        """``epoch``, ``rate``, ``loss`` in nats a token, ``examples``."""
        found: dict[str, Any] = json.loads(artifact.read_verified(self.path, self.digest))["facts"]
        return found

    def copy_to(self, folder: str) -> Stored:
        """The same checkpoint under another folder."""
        name = self.path.rpartition("/")[2]
        here = Folder(self.path.rpartition("/")[0])
        for file in (name.removesuffix(".json") + ".safetensors", name):
            Folder(folder).write_bytes(file, here.read_bytes(file))
        return replace(self, path=f"{folder.rstrip('/')}/{name}")


@dataclass(frozen=True)
class RowCount:
    """Summary: how many rows."""

    rows: int

    def merge(self, other: RowCount) -> RowCount:
        return RowCount(self.rows + other.rows)

    def to_table(self) -> pa.Table:
        return pa.table({"rows": pa.array([self.rows], pa.int64())})

    @classmethod
    def from_table(cls, table: pa.Table) -> RowCount:
        return cls(sum(table["rows"].to_pylist()))


def count_rows(batch: pa.RecordBatch) -> RowCount:
    return RowCount(batch.num_rows)


def draw_rows(pool: Iterable[pa.RecordBatch], share: float, seed: int) -> pa.Table:
    """``share`` of the pool's rows (at least one) by the hash of their ids: ``doc_id``, ``text``, ``learn``.

    Raises:
        ConfigError: the pool has no rows.
    """
    counted: RowCount = summary_of(pool, "warmup-count", count_rows, RowCount)
    if counted.rows == 0:
        raise ConfigError("pool: got no rows, allowed one or more; look at what was dropped before")
    rows = max(1, math.floor(share * counted.rows + 0.5))
    sampling = Sampling(seed=seed, purpose="less warm-up", columns=("text", "learn"), rows=rows)
    sample: BottomK = summary_of(pool, "warmup-sample", sampling.of, BottomK)
    return sample.rows


def train(reader: Reader, rows: pa.Table, config: WarmupConfig, *, seed: int, folder: str) -> list[Stored]:
    """One checkpoint an epoch; those that ``folder`` holds already are kept and gone on from.

    Args:
        rows: ``text`` and ``learn`` of what is trained on.
        folder: path or URL that no other rows or settings have.

    Raises:
        ConfigError: no row has a token to learn.
        TrainingError: the loss is no finite number.
    """
    import torch

    texts = reader.texts(rows)
    texts = texts.take(np.flatnonzero(texts.predicted > 0).tolist())
    count = len(texts.learned)
    if not count:
        raise ConfigError(
            f"warm-up: got {rows.num_rows} row(s) without a token to learn, allowed texts of two tokens and more; "
            "raise the share, or look at the pool"
        )
    steps = [math.ceil(count / config.batch_size)] * config.epochs
    rates = mean_rates(steps, config.learning_rate, config.warmup)
    home, done = Folder(folder), _done(folder, config.epochs)
    reader.factors.assign(LoraFactors.new(reader.model, reader.reading.lora, seed=seed).vector())
    tensors = reader.factors.tensors()
    optimizer = torch.optim.AdamW(tensors, lr=config.learning_rate, betas=BETAS, eps=EPSILON, weight_decay=0.0)
    if done and len(done) < config.epochs:
        _restore(reader.factors, optimizer, done[-1].load(reader.model.device), sum(steps[: len(done)]))
    for epoch in range(len(done), config.epochs):
        loss = _epoch(reader, texts, config, optimizer, seed, epoch, sum(steps))
        moments = _moments(reader.factors, optimizer)
        arrays = {
            name: getattr(moments, name).cpu().numpy().astype(np.float32) for name in ("factors", "first", "second")
        }
        facts = {"epoch": epoch + 1, "rate": float(rates[epoch]), "loss": loss, "examples": count}
        path, digest = artifact.save(folder, f"less-epoch-{epoch + 1}", arrays, facts)
        done.append(Stored(path, digest, float(rates[epoch])))
        # written last: an epoch counts once this file is there
        home.write_json(f"epoch-{epoch + 1}.json", sealed({"digest": digest, "rate": float(rates[epoch])}))
    return done


def _done(folder: str, epochs: int) -> list[Stored]:
    """The checkpoints of epochs that are whole, from the first on."""
    home, found = Folder(folder), []
    for epoch in range(1, epochs + 1):
        try:
            said = unsealed(home.read_json(f"epoch-{epoch}.json"))
        except (FileNotFoundError, ValueError):  # a damaged one is trained again
            break
        path = f"{folder.rstrip('/')}/less-epoch-{epoch}-{said['digest'][:12]}.json"
        found.append(Stored(path, said["digest"], said["rate"]))
    return found


def _epoch(
    reader: Reader, texts: Texts, config: WarmupConfig, optimizer: Any, seed: int, epoch: int, steps: int
) -> float:
    """Train on every text once; the mean loss of its tokens in nats."""
    import torch

    order = stream(seed, "less order", epoch).permutation(len(texts.learned))
    tensors = reader.factors.tensors()
    device = reader.model.device
    total, tokens = 0.0, 0
    first = epoch * math.ceil(len(order) / config.batch_size)
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        torch.manual_seed(derive(seed, "less dropout", epoch))
        for tensor in tensors:
            tensor.requires_grad_()
        try:
            for number, begin in enumerate(range(0, len(order), config.batch_size)):
                some = texts.take(order[begin : begin + config.batch_size].tolist())
                predicted = int(some.predicted.sum())
                summed = 0.0
                for batch in some.packed.batches(reader.reading.batch_tokens):
                    with torch.enable_grad(), reader.factors.attached(reader.model, dropout=True):
                        examples = some.examples(batch, device)
                        losses = token_losses(reader.model, examples, plain_head=reader.gradients.plain_head)
                        (losses.sum() / predicted).backward()
                    summed += float(losses.detach().double().sum())
                if not math.isfinite(summed):
                    raise TrainingError(
                        f"warm-up: the loss of step {first + number + 1} is no finite number; lower the learning rate "
                        f"(got {config.learning_rate}), or take a model in float32"
                    )
                torch.nn.utils.clip_grad_norm_(tensors, _CLIP)
                for group in optimizer.param_groups:
                    group["lr"] = config.learning_rate * linear_decay(first + number, steps, config.warmup)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                total, tokens = total + summed, tokens + predicted
        finally:
            for tensor in tensors:
                tensor.requires_grad_(False)
                tensor.grad = None
    return total / tokens


def _moments(factors: LoraFactors, optimizer: Any) -> Moments:
    import torch

    states = [optimizer.state[tensor] for tensor in factors.tensors()]
    first, second = (torch.cat([state[name].flatten() for state in states]) for name in ("exp_avg", "exp_avg_sq"))
    return Moments(factors.vector(), first, second)


def _restore(factors: LoraFactors, optimizer: Any, moments: Moments, steps: int) -> None:
    """Put factors and optimiser back to where a checkpoint left them after ``steps``."""
    import torch

    factors.assign(moments.factors)
    at = 0
    for tensor in factors.tensors():
        here = slice(at, at + tensor.numel())
        optimizer.state[tensor] = {
            "step": torch.tensor(float(steps)),
            "exp_avg": moments.first[here].view_as(tensor).clone(),
            "exp_avg_sq": moments.second[here].view_as(tensor).clone(),
        }
        at = here.stop
