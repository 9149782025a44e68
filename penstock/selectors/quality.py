"""A quality classifier trained from a positive and a negative set of domains.

Logistic regression on the mean of hashed word unigrams and bigrams, as in the fastText filters of GPT-3,
LLaMA and DCLM: a document resembles the positive set or the negative one. Training rows are a bottom-k
sample per side of split "train"; a fifth of each side, by hash, is held out and scored for the report.

Only the first ``prefix_bytes`` of a text are read, in training and in scoring, so a giant document costs
no more than a page. The solver (L-BFGS) runs on one thread from a fixed start over rows in hash order:
equal samples give equal weights on one machine.

Price: 2**18 float32 weights (1 MiB); training 5,000 rows a side takes seconds; scoring reads about
170 MB/s a core of what is inside the prefix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.seeding import rehash
from penstock.selectors import artifact
from penstock.selectors.histogram import train_rows
from penstock.selectors.sample import BottomK, Sampling
from penstock.selectors.scorers.base import Direction

BUCKET_BITS = 18
MINIMUM_ROWS = 20
_MAX_ITERATIONS = 500


@dataclass(frozen=True, kw_only=True)
class QualityClassifier:
    """Fitted: a sample of both sides -> ``QualityScore``.

    Args:
        positive, negative: domains of good and of poor documents.
        seed: of the sample and of the held-out fifth.
        rows_per_side: at most so many documents a side.
        prefix_bytes: bytes of a text that count.
        inverse_penalty: the C of logistic regression; larger fits the sample more closely.
    """

    positive: tuple[str, ...]
    negative: tuple[str, ...]
    seed: int
    rows_per_side: int = 5000
    prefix_bytes: int = 8192
    inverse_penalty: float = 1000.0

    name: ClassVar[str] = "quality_classifier"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("doc_id", "id_hash", "text", "domain", "split")
    adds: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for side, domains in (("positive", self.positive), ("negative", self.negative)):
            if not domains:
                raise ConfigError(f"quality {side}: got no domain, allowed one or more; name the {side} set")
        both = sorted(set(self.positive) & set(self.negative))
        if both:
            raise ConfigError(f"quality: got {both} on both sides, allowed on one; remove them from one side")
        if self.rows_per_side < MINIMUM_ROWS:
            raise ConfigError(f"quality rows_per_side: got {self.rows_per_side}, allowed >= {MINIMUM_ROWS}")
        if self.prefix_bytes < 1:
            raise ConfigError(f"quality prefix_bytes: got {self.prefix_bytes}, allowed >= 1")
        if not (self.inverse_penalty > 0 and math.isfinite(self.inverse_penalty)):
            raise ConfigError(f"quality inverse_penalty: got {self.inverse_penalty}, allowed above 0 and finite")

    @property
    def sampling(self) -> Sampling:
        """The sample that ``fit`` expects: ``label`` is 1 for positive rows and 0 for negative ones."""
        return Sampling(
            seed=self.seed,
            purpose="quality",
            columns=("id_hash", "domain", "label", "prefix"),
            stratum="label",
            rows=self.rows_per_side,
        )

    def summarise(self, batch: pa.RecordBatch) -> BottomK:
        """A sample of the batch's training rows of either side."""
        positive = pc.is_in(batch["domain"], pa.array(self.positive, pa.string()))
        negative = pc.is_in(batch["domain"], pa.array(self.negative, pa.string()))
        rows = pa.array(train_rows(batch) & pc.or_(positive, negative).to_numpy(zero_copy_only=False))
        chosen = batch.select(["doc_id", "id_hash", "domain", "text"]).filter(rows)
        prefix = pc.binary_slice(chosen["text"].cast(pa.binary()), 0, self.prefix_bytes)
        columns = {
            "doc_id": chosen["doc_id"],
            "id_hash": chosen["id_hash"],
            "domain": chosen["domain"],
            "label": positive.filter(rows).cast(pa.int8()),
            "prefix": prefix,
        }
        return self.sampling.of(pa.RecordBatch.from_pydict(columns))

    def fit(self, summary: BottomK, folder: str) -> QualityScore:
        """Train, measure on the held-out fifth, and save weights and report under ``folder``.

        Raises:
            ConfigError: a side has fewer than 20 rows.
        """
        rows = summary.rows
        label = rows["label"].to_numpy()
        for side, value, domains in (("positive", 1, self.positive), ("negative", 0, self.negative)):
            count = int((label == value).sum())
            if count < MINIMUM_ROWS:
                raise ConfigError(
                    f"quality {side}: got {count} training row(s) of {', '.join(domains)}, allowed >= {MINIMUM_ROWS}"
                    "; name domains that hold more documents"
                )
        held_out = self._held_out(rows["id_hash"].to_numpy(), label)
        features = _matrix(rows["prefix"].combine_chunks(), self.prefix_bytes)
        weights, intercept, iterations = _train(features[~held_out], label[~held_out], self.inverse_penalty)
        facts: dict[str, Any] = {
            "prefix_bytes": self.prefix_bytes,
            "bucket_bits": BUCKET_BITS,
            "intercept": intercept,
            "iterations": iterations,
            "converged": iterations < _MAX_ITERATIONS,
            "rows": {
                side: {
                    "train": int((~held_out & (label == value)).sum()),
                    "held_out": int((held_out & (label == value)).sum()),
                }
                for side, value in (("positive", 1), ("negative", 0))
            },
            "held_out": _measure(features[held_out] @ weights.astype(np.float64) + intercept, label[held_out]),
        }
        path, digest = artifact.save(folder, "quality", {"weights": weights}, facts)
        return QualityScore(path=path, digest=digest)

    def _held_out(self, id_hash: NDArray[np.uint64], label: NDArray[np.int8]) -> NDArray[np.bool_]:
        """A fifth of each side: the rows whose hash is smallest."""
        coin = rehash(id_hash, self.seed, "quality", "held_out")
        mask = np.zeros(len(label), dtype=bool)
        for side in (0, 1):
            rows = np.flatnonzero(label == side)
            mask[rows[np.argsort(coin[rows])][: len(rows) // 5]] = True
        return mask


@dataclass(frozen=True, kw_only=True)
class QualityScore:
    """Annotator: adds ``score.quality``, the probability of the positive side (float32, rounded to 1e-4).

    Higher is better. A text without a token has the probability that the intercept alone gives.
    """

    path: str
    digest: str

    name: ClassVar[str] = "quality"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ("score.quality",)
    directions: ClassVar[Mapping[str, Direction]] = {"score.quality": "higher"}

    def setup(self) -> None:
        artifact.load(self.path, self.digest)
        _kernels()

    def facts(self) -> dict[str, Any]:
        """What the fit found: ``rows`` per side, ``held_out`` AUC and accuracy, ``converged``."""
        return dict(artifact.load(self.path, self.digest).facts)

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        model = artifact.load(self.path, self.digest)
        data, starts = _buffers(batch["text"])
        mean = _kernels().mean_weight(
            data, starts, model.facts["prefix_bytes"], model.facts["bucket_bits"], model.arrays["weights"]
        )
        return {"score.quality": pa.array(_probability(mean + model.facts["intercept"]))}


def _probability(logit: NDArray[np.float64]) -> NDArray[np.float32]:
    """The logistic function rounded to 1e-4, so that equal documents rank equal on every machine."""
    score: NDArray[np.float32] = np.round(1.0 / (1.0 + np.exp(-np.clip(logit, -60.0, 60.0))), 4).astype(np.float32)
    return score


def _measure(logit: NDArray[np.float64], label: NDArray[np.int8]) -> dict[str, float]:
    from sklearn.metrics import roc_auc_score

    score = _probability(logit)
    return {"auc": float(roc_auc_score(label, score)), "accuracy": float(((score > 0.5) == (label == 1)).mean())}


def _train(features: Any, label: NDArray[np.int8], inverse_penalty: float) -> tuple[NDArray[np.float32], float, int]:
    """(weights, intercept, iterations) of logistic regression with balanced sides."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    model = LogisticRegression(
        C=inverse_penalty, class_weight="balanced", solver="lbfgs", max_iter=_MAX_ITERATIONS, random_state=0
    )
    # a bucket that no training row has would keep weight 0: the solver need not carry it
    seen = np.unique(features.indices)
    # a threaded dot product sums in an order that depends on the number of cores
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # recorded as `converged` instead
        model.fit(features[:, seen], label)
    weights = np.zeros(features.shape[1], dtype=np.float32)
    weights[seen] = model.coef_[0]
    return weights, float(model.intercept_[0]), int(model.n_iter_[0])


def _matrix(text: pa.Array, limit: int) -> Any:
    """Mean of the one-hot features of each document: CSR, shape (rows, 2**BUCKET_BITS), float64."""
    from scipy import sparse

    data, starts = _buffers(text)
    indptr, buckets = _kernels().count_features(data, starts, limit, BUCKET_BITS)
    sizes = np.diff(indptr)
    share = np.repeat(1.0 / np.maximum(sizes, 1), sizes)
    matrix = sparse.csr_matrix((share, buckets, indptr), shape=(len(text), 1 << BUCKET_BITS))
    matrix.sum_duplicates()
    return matrix


def _buffers(text: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(bytes, n + 1 offsets) of a string or binary array; a slice is read where it lies, a null is empty."""
    if text.null_count:
        text = text.cast(pa.binary()).fill_null(b"")
    text = text.cast(pa.large_binary())
    _, offsets, data = text.buffers()
    if offsets is None or data is None:
        return np.zeros(0, dtype=np.uint8), np.zeros(len(text) + 1, dtype=np.int64)
    starts = np.frombuffer(offsets, dtype=np.int64)[text.offset : text.offset + len(text) + 1]
    return np.frombuffer(data, dtype=np.uint8), starts


@cache
def _kernels() -> Any:
    from penstock.selectors import _feature_kernels

    return _feature_kernels
