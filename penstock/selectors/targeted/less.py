"""LESS: rows whose gradients pull where those of the target pull (Xia et al. 2024, arXiv 2402.04333).

    fit       a warm-up of LoRA factors on a random part of the pool, a checkpoint an epoch   (less_warmup)
              the target's plain gradients at every checkpoint, as a mean of each task          (less_features)
    annotate  every row's directions under Adam at every checkpoint -> influence                (influence)

The target's ``domain`` says which task a row stands for; a row's score is its largest influence on any of them.
Influences are sums of cosines with weights that sum to 1, so scores lie in [-1, 1]; below 0 a step on the row would
raise the loss of every task.

With a ``store`` the features of each (checkpoint, part) are kept on disk, and the warm-up with them: a run that was
killed makes what is missing, and another target of the same pool and settings costs its own gradients alone.

What it cannot do: it follows the target, and what looks like it, into everything that the pool holds, so the pool must
be decontaminated first. On some pools it was no better than random (arXiv 2503.15573); compare it with BM25.

Price: for every checkpoint a forward pass and half a backward pass of all rows; a store takes 2 D bytes a row and
checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from penstock.dataset import hash_json
from penstock.digest import TableDigest, columns_of
from penstock.errors import ConfigError
from penstock.scoring import model as models
from penstock.selectors import artifact
from penstock.selectors.targeted.base import check_target, scores_array
from penstock.selectors.targeted.influence import best_task, checkpoint_weights, influence, task_means
from penstock.selectors.targeted.less_features import Reading, reader_of
from penstock.selectors.targeted.less_store import Features, GradientStore, part_of
from penstock.selectors.targeted.less_warmup import Stored, WarmupConfig, draw_rows, train
from penstock.selectors.targeted.lora import ATTENTION, LoraConfig
from penstock.selectors.targeted.projection import Kind, Projection
from penstock.sources.base import InputFile

LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True, kw_only=True)
class LESS:
    """Gradient influence on a target. The defaults are those of the paper, except for the projection.

    Args:
        model: folder of a causal LM with safetensors weights, or a run of penstock that trained one.
        share, epochs, learning_rate, warmup, batch_size: see ``less_warmup.WarmupConfig``.
        rank, alpha, dropout, layers: see ``lora.LoraConfig`` (``layers`` are its ``modules``).
        projection, dimensions: ``count_sketch``, or ``rademacher`` as in the paper (for a GPU); see ``projection``.
        max_tokens, device, dtype, batch_tokens: see ``less_features.Reading``.
        store: folder or URL that keeps gradient features for the next target; without one nothing is kept.
        seed: of the sample, its order, the factors, dropout and the projection.
    """

    model: str
    share: float = 0.05
    epochs: int = 4
    learning_rate: float = 2e-5
    warmup: float = 0.03
    batch_size: int = 32
    rank: int = 128
    alpha: float = 512.0
    dropout: float = 0.1
    layers: tuple[str, ...] = ATTENTION
    projection: Kind = "count_sketch"
    dimensions: int = 8192
    max_tokens: int | None = None
    device: str = "auto"
    dtype: str = "float32"
    batch_tokens: int = 2048
    store: str | None = None
    seed: int = 0

    name: ClassVar[str] = "less"
    revision: ClassVar[int] = 1
    column: ClassVar[str] = "score.less"
    reads: ClassVar[tuple[str, ...]] = ("doc_id", "id_hash", "domain", "text", "learn")
    libraries: ClassVar[tuple[str, ...]] = LIBRARIES
    paths: ClassVar[tuple[str, ...]] = ("model", "store", "device", "batch_tokens")

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        _ = self._warmup, self._projected  # settings out of range are refused here
        if self.max_tokens is not None and self.max_tokens < 2:
            raise ConfigError(f"less max_tokens: got {self.max_tokens}, allowed >= 2, as a first token has no loss")
        if self.batch_tokens < 1:
            raise ConfigError(f"less batch_tokens: got {self.batch_tokens}, allowed >= 1; 2048 suits a processor")
        self._reading("")

    @property
    def _warmup(self) -> WarmupConfig:
        return WarmupConfig(
            share=self.share,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            warmup=self.warmup,
            batch_size=self.batch_size,
        )

    @property
    def _projected(self) -> Projection:
        return Projection(kind=self.projection, dimensions=self.dimensions, seed=self.seed)

    def _reading(self, digest: str) -> Reading:
        return Reading(
            model=self.model,
            digest=digest,
            lora=LoraConfig(rank=self.rank, alpha=self.alpha, dropout=self.dropout, modules=self.layers),
            max_tokens=self.max_tokens,
            device=self.device,
            dtype=self.dtype,
            batch_tokens=self.batch_tokens,
        )

    def files(self) -> list[InputFile]:
        """The model's files. Raises ConfigError when there is no model."""
        return models.input_files(self.model)

    def fit(self, target: pa.Table, pool: Iterable[pa.RecordBatch], folder: str) -> LessScore:
        """Warm the factors up (two passes over the pool's rows), read the target, and save both under ``folder``.

        Raises:
            ConfigError: the target is empty or none of its rows has a token to learn; no causal LM at ``model``, or one
                without the layers ``layers``.
            TrainingError: the warm-up's loss is no finite number.
        """
        check_target(target, self.reads, method=self.name)
        reader = reader_of(self._reading(models.fingerprint(self.model)))
        texts = reader.texts(target)
        usable = np.flatnonzero(texts.predicted > 0)
        if not len(usable):
            raise ConfigError(
                f"less target: got {target.num_rows} row(s) without a token to learn, allowed texts of two tokens and "
                "more; look at its files"
            )
        gradients = self.warm_up(pool, folder)
        checkpoints = gradients.checkpoints

        tasks, task = np.unique(np.array(target["domain"].fill_null("").to_pylist())[usable], return_inverse=True)
        some, means = texts.take(usable.tolist()), []
        for checkpoint in checkpoints:
            found = reader.features(some, checkpoint.load(reader.model.device), self._projected, adam=False)
            means.append(task_means(found, task, len(tasks)).astype(np.float32))
        weights = checkpoint_weights([checkpoint.rate for checkpoint in checkpoints])
        facts = {
            "tasks": {str(name): int((task == i).sum()) for i, name in enumerate(tasks)},
            "target_rows_unread": int(target.num_rows - len(usable)),
            "warmup": [checkpoint.facts() for checkpoint in checkpoints],
            "weights": weights.tolist(),
            "parameters": reader.factors.size,
        }
        path, digest = artifact.save(folder, self.name, {"target": np.stack(means), "weights": weights}, facts)
        return LessScore(path=path, digest=digest, gradients=gradients)

    def warm_up(self, pool: Iterable[pa.RecordBatch], folder: str) -> GradientFeatures:
        """Train the factors on a sample of the pool and save a checkpoint an epoch under ``folder``; no target is read.

        Raises:
            ConfigError: the pool has no row to learn from; no causal LM at ``model``, or one without the layers.
            TrainingError: the warm-up's loss is no finite number.
        """
        reading = self._reading(models.fingerprint(self.model))
        rows = draw_rows(pool, self.share, self.seed)
        key = self._warmup_key(reading, rows)
        home = f"{(folder if self.store is None else self.store).rstrip('/')}/warmup-{key[:16]}"
        checkpoints = train(reader_of(reading), rows, self._warmup, seed=self.seed, folder=home)
        if self.store is not None:
            checkpoints = [checkpoint.copy_to(folder) for checkpoint in checkpoints]
        return GradientFeatures(
            reading=reading,
            projection=self._projected,
            checkpoints=tuple(checkpoints),
            store=GradientStore(path=self.store),
        )

    def _warmup_key(self, reading: Reading, rows: pa.Table) -> str:
        """What decides the checkpoints."""
        sample = TableDigest.of(rows).hex(columns_of(rows.schema))
        return hash_json([_decides(reading), asdict(self._warmup), sample, self.seed, self.revision])


@dataclass(frozen=True, kw_only=True)
class GradientFeatures:
    """What turns rows into gradient features; made by ``LESS.warm_up``."""

    reading: Reading
    projection: Projection
    checkpoints: tuple[Stored, ...]
    store: GradientStore

    def of(self, batch: pa.RecordBatch) -> list[Features]:
        """Features (n, D) of a batch's rows, one array a checkpoint: from the store, or made and put there.

        Rows need ``doc_id`` and ``text``, and ``learn`` where only ranges of a text are learned. A row without a
        gradient has NaN.
        """
        part, texts, found = part_of(batch), None, []
        for number, checkpoint in enumerate(self.checkpoints, 1):
            key = hash_json([_decides(self.reading), asdict(self.projection), checkpoint.digest, LessScore.revision])
            kept = self.store.read(key, number, part, rows=batch.num_rows, dimensions=self.projection.dimensions)
            if kept is None:
                reader = reader_of(self.reading)
                texts = texts or reader.texts(batch)
                kept = reader.features(texts, checkpoint.load(reader.model.device), self.projection, adam=True)
                self.store.write(key, number, part, batch["doc_id"], kept)
            found.append(kept)
        return found


@dataclass(frozen=True, kw_only=True)
class LessScore:
    """Annotator: ``score.less``, the influence of a row on the task of the target that it serves best.

    A text of fewer than two tokens, or with nothing to learn, has no score.
    """

    path: str
    digest: str
    gradients: GradientFeatures

    name: ClassVar[str] = "less"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("doc_id", "text", "learn")
    adds: ClassVar[tuple[str, ...]] = (LESS.column,)

    def setup(self) -> None:
        artifact.load(self.path, self.digest)

    def artifacts(self) -> tuple[str, ...]:
        """Files that belong to the scores."""
        return (self.path, *(checkpoint.path for checkpoint in self.gradients.checkpoints))

    def facts(self) -> dict[str, Any]:
        """``tasks`` with their examples, ``target_rows_unread``, ``warmup`` (rate and loss by epoch), ``weights``."""
        return dict(artifact.load(self.path, self.digest).facts)

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        arrays = artifact.load(self.path, self.digest).arrays
        if not batch.num_rows:
            return {LESS.column: scores_array(np.zeros(0))}
        features = self.gradients.of(batch)
        found = best_task(influence(features, list(arrays["target"]), arrays["weights"]))
        return {LESS.column: scores_array(found, ~np.isnan(found))}


def _decides(reading: Reading) -> dict[str, Any]:
    """What a reading decides: not where or in which batches it runs."""
    said = asdict(reading)
    for name in ("model", "device", "batch_tokens"):
        said.pop(name)
    return said
