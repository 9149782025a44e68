"""Small language models trained by the project's own loop, as proxies.

A proxy packs its copies domain by domain in the order of their hashes, as a real run does, and trains a Llama of a few
hundred thousand parameters through ``penstock.training`` for a number of steps that is the same for all, so every
proxy spends the same tokens; a selection that is smaller than these is read again, and ``passes`` says how often. Its
loss is nats per token of the target after the last step, over the sequences that the target makes when it is packed
alone. The seed sets the first weights and the order of the data.

Documents of which training learns a part only (conversations) are learned whole here.

Price: 17 s of one core with the defaults (360,000 parameters at a vocabulary of 4,096, 307,200 tokens) and a target of
60,000 tokens, a quarter of which is the evaluation; seconds to load torch in each worker; temporary files of some MB.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import ConfigError, TrainingError
from penstock.selectors.proxies.data import Losses, ProxyData, TokenDocuments
from penstock.training.config import ModelConfig, TrainConfig, TrainData

_DIGITS = 6  # losses are rounded, so that they rank alike on every machine
_HOPELESS = 2.0  # times the nats of a uniform guess


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """A small language model and its training, the same for every proxy.

    Args:
        steps, batch_size, length: updates, sequences of one, tokens of a sequence; their product is the tokens that
            every proxy spends.
        learning_rate: highest, after ``warmup_steps``; a cosine takes it to a tenth.
        device: ``cpu`` is the same for any number of workers; a GPU is shared by all of them.
    """

    steps: int = 150
    batch_size: int = 16
    length: int = 128
    learning_rate: float = 3e-3
    warmup_steps: int = 15
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    model: ModelConfig = field(
        default_factory=lambda: ModelConfig(hidden_size=64, layers=2, heads=2, kv_heads=2, ffn_size=176)
    )

    def __post_init__(self) -> None:
        if isinstance(self.length, bool) or not isinstance(self.length, int) or self.length < 8:
            raise ConfigError(
                f"loop.length: got {self.length!r}, allowed a whole number >= 8; 128 is usual for proxies"
            )
        if self.model.path is not None:
            raise ConfigError(
                f"loop.model.path: got {self.model.path!r}, allowed none; all proxies start from random weights"
            )
        self.training(seed=0, target_sequences=1)  # checks the rest

    def training(self, *, seed: int, target_sequences: int) -> TrainConfig:
        """The settings of the loop: one evaluation and one checkpoint at the end, one thread, nothing in between."""
        return TrainConfig(
            steps=self.steps,
            seed=seed,
            model=self.model,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            min_learning_rate=0.1 * self.learning_rate,
            warmup_steps=self.warmup_steps,
            eval_every=self.steps,
            eval_sequences=target_sequences,
            checkpoint_every=self.steps,
            keep_checkpoints=1,
            signals_every=self.steps,
            device=self.device,
            precision="float32",
            threads=1,
            prefetch=0,
            tensorboard=False,
        )


@dataclass(frozen=True, kw_only=True)
class LoopProxy:
    """Proxy: a language model trained on the selected copies."""

    config: LoopConfig
    data: str
    data_digest: str

    name: ClassVar[str] = "loop"
    revision: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers")

    @classmethod
    def of(cls, data: ProxyData, config: LoopConfig, folder: str) -> LoopProxy:
        """Keep the data below ``folder``."""
        path, digest = data.save(folder)
        return cls(config=config, data=path, data_digest=digest)

    def identity(self) -> dict[str, Any]:
        settings = {name: value for name, value in asdict(self.config).items() if name != "device"}
        return {"name": self.name, "revision": self.revision, "data": self.data_digest, "config": settings}

    def measure(self, copies: NDArray[np.int32], *, seed: int) -> Losses:
        """Train on the copies and evaluate.

        A run whose loss or gradient is no finite number, or that ends twice as bad as a guess, has a flag in place of
        its losses.
        """
        from penstock.training.loop import train

        data, length = ProxyData.load(self.data, self.data_digest), self.config.length
        digest = hashlib.blake2b(np.asarray(copies, dtype=np.int32).tobytes(), digest_size=16).hexdigest()
        with tempfile.TemporaryDirectory(prefix="penstock-proxy-") as folder:
            home = Path(folder)
            learned = _pack(data.pool, data.id_hash, copies, seed, length, data.pad_id, home / "pool")
            whole = np.ones(len(data.target), np.int32)
            order = np.arange(len(data.target), dtype=np.uint64)
            held_out = _pack(data.target, order, whole, 0, length, data.pad_id, home / "target")
            files = TrainData(
                train=learned.files,
                validation=held_out.files,
                tokenizer_file=None,
                fingerprint=f"{self.data_digest}/{digest}",
                vocab_size=data.vocabulary,
                pad_id=data.pad_id,
            )
            config = self.config.training(seed=seed, target_sequences=max(held_out.rows.values()))
            try:
                result = train(config, files, home / "run", progress=False)
            except TrainingError as error:
                return Losses(loss=None, losses={}, flag=f"diverged: {error}")
        by_name = {name: float(loss) for name, loss in result.validation.items()}
        tokens = {name: held_out.predicted[name] for name in by_name}
        loss = sum(by_name[name] * tokens[name] for name in by_name) / sum(tokens.values())
        if not loss < _HOPELESS * math.log(data.vocabulary):  # nor is it when it is no number
            return Losses(loss=None, losses={}, flag=f"diverged: {loss:.4g} nats a token after training")
        return Losses(
            loss=round(loss, _DIGITS),
            losses={name: round(value, _DIGITS) for name, value in by_name.items()},
            passes=self.config.steps * self.config.batch_size / sum(learned.rows.values()),
        )


@dataclass(frozen=True)
class _Packed:
    """Sequence files by group, their sequences, and the tokens of these that have a loss."""

    files: dict[str, list[Path]]
    rows: dict[str, int]
    predicted: dict[str, int]


def _pack(
    documents: TokenDocuments,
    id_hash: NDArray[np.uint64],
    copies: NDArray[np.int32],
    seed: int,
    length: int,
    pad_id: int,
    folder: Path,
) -> _Packed:
    """Pack the copies of each group below ``folder``."""
    from penstock.tokenization.packing import pack, packing_order, to_batch, write_sequences

    folder.mkdir()
    out = _Packed({}, {}, {})
    names = pa.array([str(i) for i in range(len(documents))], pa.string())
    for group, name in enumerate(documents.names):
        here = np.flatnonzero((documents.group == group) & (copies > 0))
        order, _ = packing_order(id_hash[here], copies[here], seed)
        packed = pack(names, documents.tokens, documents.offsets, length=length, pad_id=pad_id, order=here[order])
        if not len(packed.tokens):
            continue
        file = folder / f"{group}.arrow"
        write_sequences(file, to_batch(packed, name))
        out.files[name], out.rows[name] = [file], len(packed.tokens)
        out.predicted[name] = packed.tokens_packed - len(packed.segment_lengths.flatten())
    return out
