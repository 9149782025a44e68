"""Vendi score: how many different rows a set is worth (Friedman and Dieng 2023).

With K of unit diagonal and lambda the eigenvalues of K / n, whose sum is 1, the score of order q is the exponential of
their Renyi entropy: ``exp(-sum lambda log lambda)`` for q = 1, ``(sum lambda^q)^(1 / (1 - q))`` otherwise,
``1 / largest`` for q = inf. n equal rows score 1, n orthogonal ones n; it falls as q rises: rare kinds count less.

    primal      eigenvalues of the n x n matrix, up to 20,000 rows; above, q = 2 by ``1 / |K/n|_F^2`` and q = inf by
                power iteration, over blocks of the matrix
    dual        eigenvalues of the d x d matrix X^T X / n of a Cosine or Linear kernel: the same score, exactly
    truncated   the t largest eigenvalues, the rest spread over them evenly (Ospanov and Farnia, arXiv 2410.21719):
                unlike the score itself it converges with n = O(t) rows for any kernel; above 20,000 rows from
                Nystroem landmarks

**A score is at most min(n, rank)**, so never above d with features: compare numbers of one kernel (``fingerprint``),
one n and one order only.

``VendiSummary`` is the dual form of a corpus: X^T X and n of its parts, added in any order.

Price: dual O(n d^2) and d^2 memory; primal O(n^3) and n^2 memory; truncated above 20,000 rows O(n m (d + m)) for m
landmarks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.dataset import hash_json
from penstock.diversity.arrays import host, like, namespace, zeros
from penstock.diversity.kernels import BLOCK, Cosine, FeatureKernel, Kernel, kernel_of
from penstock.embedding.base import unit_vectors
from penstock.errors import ConfigError, DatasetError, InputError
from penstock.seeding import stream

PRIMAL_ROWS = 20_000  # 3.2 GB of matrix
_UNIT = 1e-5  # how far a diagonal may be from 1: unit vectors of float32 and float16 are
_LANDMARKS = 4  # times t
_ROUNDS = 1000  # of power iteration
_GRID = 2.0**30  # units of a summary: its sums are whole numbers, so their order does not matter

Form = Literal["auto", "primal", "dual", "truncated"]


@dataclass(frozen=True, kw_only=True)
class Vendi:
    """A score with what it can be compared by. ``estimator`` names how it was computed."""

    value: float
    q: float
    estimator: str
    rows: int
    bound: int  # no set of this size has a larger score under this kernel
    fingerprint: str


def vendi(
    kernel_or_features: Any, q: float = 1.0, form: Form = "auto", *, t: int | None = None, seed: int = 0
) -> Vendi:
    """Vendi score of order ``q`` of the rows of a kernel.

    Args:
        kernel_or_features: a kernel of unit diagonal, or embeddings (n, d), which stand for their ``Cosine``.
        q: order, above 0; ``math.inf`` is allowed.
        form: ``auto`` takes ``dual`` for features with d <= n, else ``primal``.
        t: eigenvalues that ``truncated`` keeps.
        seed: of the draw of landmarks.

    Raises:
        ConfigError: an argument is not acceptable, or the form does not fit the kernel or its size.
        InputError: the diagonal is not 1, or features are not acceptable.
    """
    kernel = kernel_of(kernel_or_features)
    if not isinstance(q, (int, float)) or not q > 0:
        raise ConfigError(f"q: got {q!r}, allowed a number above 0, or infinity")
    if form not in ("auto", "primal", "dual", "truncated"):
        raise ConfigError(f"form: got {form!r}, allowed auto, primal, dual, truncated")
    if (form == "truncated") != (t is not None) or (t is not None and t < 1):
        raise ConfigError(f"t: got {t!r} with form {form}, allowed >= 1 with form truncated, and only there")
    if not kernel.n:
        return _scored(kernel, 0.0, q, "none: no rows")
    apart = np.abs(host(kernel.diagonal()) - 1.0)
    if apart.max() > _UNIT:
        raise InputError(
            f"kernel: K_ii differs from 1 by {apart.max():.4g} for row {int(apart.argmax())}, allowed 1 for every row; "
            "use Cosine(features) in place of Linear, and no quality"
        )
    features = isinstance(kernel, FeatureKernel)
    if form == "dual" and not features:
        raise ConfigError(f"form: got dual for the kernel {kernel.describe()['kind']}, allowed primal and truncated")
    if t is not None:
        values, how = _leading(kernel, t, seed)
        return _scored(kernel, score(truncate(values, t), q), q, f"truncated, t = {t}, {how}")
    if form == "dual" or (form == "auto" and isinstance(kernel, FeatureKernel) and kernel.dimensions <= kernel.n):
        assert isinstance(kernel, FeatureKernel)
        return _scored(kernel, score(_eigenvalues(_scatter(kernel)), q), q, "dual")
    if kernel.n <= PRIMAL_ROWS:
        return _scored(kernel, score(_eigenvalues(kernel.dense()), q), q, "primal")
    if q == 2:
        squares = math.fsum(float((kernel.block(b, slice(None)) ** 2).sum()) for b in _row_blocks(kernel.n))
        return _scored(kernel, kernel.n**2 / squares, q, "primal, by the Frobenius norm")
    if q == math.inf:
        return _scored(kernel, kernel.n / _largest(kernel, seed), q, "primal, by power iteration")
    raise ConfigError(
        f"form: got {form} for {kernel.n:,} rows, allowed up to {PRIMAL_ROWS:,}; use form='truncated' with t, or q=2, "
        "or a Cosine kernel, and say which when the number is reported"
    )


def score(eigenvalues: NDArray[np.float64], q: float = 1.0) -> float:
    """The score of a spectrum: non-negative eigenvalues, brought to sum 1."""
    values = np.maximum(np.asarray(eigenvalues, dtype=np.float64), 0.0)
    values = values[values > 0] / values.sum()
    if q == math.inf:
        return float(1.0 / values.max())
    if q == 1:
        return math.exp(-math.fsum(values * np.log(values)))
    # by logarithms: a power of a small eigenvalue may be below the smallest float
    logs = q * np.log(values)
    return math.exp((logs.max() + math.log(math.fsum(np.exp(logs - logs.max())))) / (1.0 - q))


def truncate(eigenvalues: NDArray[np.float64], t: int) -> NDArray[np.float64]:
    """The t largest of eigenvalues that belong to a sum of 1, with what is missing spread over them evenly."""
    top = np.sort(np.maximum(eigenvalues, 0.0))[::-1][:t]
    out: NDArray[np.float64] = top + (1.0 - top.sum()) / max(len(top), 1)
    return out


def _scored(kernel: Kernel, value: float, q: float, estimator: str) -> Vendi:
    bound = min(kernel.n, kernel.dimensions) if isinstance(kernel, FeatureKernel) else kernel.n
    return Vendi(value=value, q=q, estimator=estimator, rows=kernel.n, bound=bound, fingerprint=kernel.fingerprint)


def _row_blocks(n: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def _eigenvalues(matrix: Any) -> NDArray[np.float64]:
    """Eigenvalues above rounding's height: what lies below is not of the matrix, and counts much where q < 1."""
    found: NDArray[np.float64] = host(namespace(matrix).linalg.eigvalsh(matrix))
    kept: NDArray[np.float64] = found[found > found.max(initial=0.0) * len(found) * 2.2e-16]
    return kept


def _scatter(kernel: FeatureKernel) -> Any:
    """B^T B: float64, (d, d)."""
    out = zeros((kernel.dimensions, kernel.dimensions), kernel.template)
    for block in _row_blocks(kernel.n):
        rows = kernel.vectors(block)
        out += rows.T @ rows
    return out


def _leading(kernel: Kernel, t: int, seed: int) -> tuple[NDArray[np.float64], str]:
    """The largest eigenvalues of K / n, or estimates of them, and how they were found."""
    if isinstance(kernel, FeatureKernel) and kernel.dimensions <= kernel.n:
        return _eigenvalues(_scatter(kernel)) / kernel.n, "dual"
    if kernel.n <= PRIMAL_ROWS:
        return _eigenvalues(kernel.dense()) / kernel.n, "primal"
    count = min(_LANDMARKS * t, kernel.n)
    if count > PRIMAL_ROWS:
        raise ConfigError(f"t: got {t}, allowed up to {PRIMAL_ROWS // _LANDMARKS} for {kernel.n:,} rows")
    drawn = np.sort(stream(seed, "landmarks").choice(kernel.n, count, replace=False))
    at = kernel.index(drawn)
    xp = namespace(kernel.template)
    values, vectors = xp.linalg.eigh(kernel.dense(at))
    kept = like(np.flatnonzero(host(values) > float(values.max()) * count * 2.2e-16), vectors)
    root = vectors[:, kept] / xp.sqrt(values[kept])  # K_mm^(-1/2) on its range
    outer = zeros((int(root.shape[1]), int(root.shape[1])), kernel.template)
    for block in _row_blocks(kernel.n):
        rows = kernel.block(block, at) @ root
        outer += rows.T @ rows
    return _eigenvalues(outer) / kernel.n, f"Nystroem, {count} landmarks"


def _largest(kernel: Kernel, seed: int) -> float:
    """The largest eigenvalue of K by power iteration over blocks.

    Raises:
        InputError: it did not settle.
    """
    xp = namespace(kernel.template)
    vector = like(np.abs(stream(seed, "power iteration").normal(size=kernel.n)) + 1.0, kernel.template)
    before = 0.0
    for _ in range(_ROUNDS):
        vector = vector / xp.sqrt((vector * vector).sum())
        image = xp.concatenate([kernel.block(block, slice(None)) @ vector for block in _row_blocks(kernel.n)])
        value = float(vector @ image)
        if abs(value - before) <= 1e-10 * value:
            return value
        vector, before = image, value
    raise InputError(f"kernel: its largest eigenvalue did not settle in {_ROUNDS} rounds; use form='truncated'")


# ── a corpus, part by part ───────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False)
class VendiSummary:
    """X^T X of unit rows and their number: mergeable, and the same whatever the order of merging.

    Sums are kept as whole multiples of 2^-30. Rows that are zero are left out and counted. ``parts`` are the batches
    whose sums were rounded: what rounding may have added is not read as an eigenvalue.
    """

    rows: int = 0
    zero: int = 0
    parts: int = 0
    scatter: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))  # (d, d)

    @classmethod
    def of(cls, vectors: Any) -> VendiSummary:
        """Of an ``embedding`` column, or of an array (n, d) of rows of any length.

        Raises:
            InputError: a row is not finite, or the column is not one of embeddings.
        """
        if isinstance(vectors, (pa.Array, pa.ChunkedArray)):
            vectors = unit_vectors(vectors)
        values = np.asarray(host(vectors))
        some = values.any(axis=1) if len(values) else np.zeros(0, bool)
        if not some.any():
            return cls(zero=len(values))
        scatter = np.rint(_scatter(Cosine(values[some])) * _GRID).astype(np.int64)
        return cls(int(some.sum()), int((~some).sum()), 1, scatter)

    def merge(self, other: VendiSummary) -> VendiSummary:
        """Raises: DatasetError: the rows are of other dimensions."""
        one, two = self.scatter, other.scatter
        if one.size and two.size and one.shape != two.shape:
            raise DatasetError(f"embeddings: got rows of {len(one)} and of {len(two)} dimensions, allowed one model's")
        both = one + two if one.size and two.size else one if one.size else two
        return VendiSummary(self.rows + other.rows, self.zero + other.zero, self.parts + other.parts, both)

    def result(self, q: float = 1.0) -> Vendi:
        """The score of all rows under the cosine kernel."""
        if not q > 0:
            raise ConfigError(f"q: got {q!r}, allowed a number above 0, or infinity")
        values = _eigenvalues(self.scatter / _GRID)
        values = values[values > self.parts * len(self.scatter) / _GRID]
        value = score(values, q) if self.rows else 0.0
        facts = {"kind": "cosine", "rows": self.rows, "scatter": self.scatter.ravel().tolist()}
        return Vendi(
            value=value,
            q=q,
            estimator="dual, merged",
            rows=self.rows,
            bound=min(self.rows, len(self.scatter)),
            fingerprint=hash_json(facts)[:16],
        )

    def to_table(self) -> pa.Table:
        table = pa.table({"scatter": self.scatter.ravel()})
        return table.replace_schema_metadata({"rows": str(self.rows), "zero": str(self.zero), "parts": str(self.parts)})

    @classmethod
    def from_table(cls, table: pa.Table) -> VendiSummary:
        facts = table.schema.metadata
        values = table["scatter"].to_numpy()
        d = math.isqrt(len(values))
        return cls(int(facts[b"rows"]), int(facts[b"zero"]), int(facts[b"parts"]), values.reshape(d, d))
