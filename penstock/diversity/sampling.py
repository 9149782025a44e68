"""Exact k-DPP: k rows drawn with probability ``det L_S / e_k(eigenvalues of L)`` (Kulesza and Taskar 2011).

    1  L = sum of lambda_n v_n v_n^T; eigenvalues at rounding's height are dropped, the rest are its rank
    2  k eigenvectors are drawn by elementary symmetric polynomials e_j of the eigenvalues, **in logarithms**:
       log e[j, n] = logaddexp(log e[j, n-1], log lambda_n + log e[j-1, n-1])
    3  with V the chosen eigenvectors, rows are drawn one at a time with probability proportional to what remains of
       them, by the update of greedy MAP on V V^T

Without logarithms step 2 overflows: 3,000 eigenvalues of 5 and k = 400 have log10 e_k = 789.5.

For L = B B^T with fewer dimensions than rows the **dual** form takes the eigenvectors w of B^T B (p x p) and lifts the
chosen ones, v = B w / sqrt(lambda): the same law.

Price: primal O(n^3) time and n^2 memory (not above 10,000 rows), dual O(n p^2); then n k for step 2 and n k^2 a sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from penstock.diversity.arrays import Array, host, like, namespace, zeros
from penstock.diversity.forms import FeatureForm
from penstock.diversity.kernels import BLOCK, FeatureKernel, Kernel, kernel_of
from penstock.errors import ConfigError

_EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Rows of one draw, ascending; ``stop`` is ``count``, or why there are fewer than were asked for."""

    rows: NDArray[np.int64]  # (min(k, rank),)
    log_probability: float
    stop: Literal["count", "rank", "all"]
    fingerprint: str


def log_elementary(log_values: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """log e_j of the first n of some positive numbers, given by their logarithms: float64, shape (k + 1, n + 1).

    e_j is the sum over all products of j of the numbers; e_0 = 1, and e_j of fewer than j is 0 (-inf here).
    """
    table = np.full((k + 1, len(log_values) + 1), -np.inf)
    table[0] = 0.0
    for n, log_value in enumerate(log_values, 1):
        top = min(k, n)
        table[1 : top + 1, n] = np.logaddexp(table[1 : top + 1, n - 1], log_value + table[:top, n - 1])
    return table


class KDPP:
    """A k-DPP ready to draw from: the eigendecomposition is made once.

    Args:
        kernel_or_features: a kernel, or embeddings (n, d), which stand for their ``Cosine``.
        k: rows in a sample. At or above the rank a sample is a maximal independent set, and says so; at or above n it
            is all rows.
        form: ``dual`` needs a Linear or Cosine kernel; ``auto`` takes it where there are fewer dimensions than rows.

    Raises:
        ConfigError: k or form is not acceptable.
        InputError: features are not acceptable, with the rows.
    """

    def __init__(self, kernel_or_features: Any, k: int, *, form: Literal["auto", "primal", "dual"] = "auto") -> None:
        self.kernel: Kernel = kernel_of(kernel_or_features)
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 0:
            raise ConfigError(f"k: got {k!r}, allowed a whole number >= 0")
        if form not in ("auto", "primal", "dual"):
            raise ConfigError(f"form: got {form!r}, allowed auto, primal, dual")
        features = isinstance(self.kernel, FeatureKernel)
        if form == "dual" and not features:
            raise ConfigError(f"form: got dual for the kernel {self.kernel.describe()['kind']}, allowed primal")
        if form == "auto":
            form = "dual" if features and self.kernel.dimensions < self.kernel.n else "primal"  # type: ignore[attr-defined]
        self.form, self.asked = form, int(k)
        values, self._vectors = self._eigen()
        kept = values > (values.max() * self.kernel.n * _EPSILON if len(values) else 0.0)
        self.eigenvalues: NDArray[np.float64] = values[kept]
        self._vectors = self._vectors[:, like(np.flatnonzero(kept), self._vectors)]
        self.size = min(self.asked, self.rank)
        self._table = log_elementary(np.log(self.eigenvalues), self.size)

    @property
    def rank(self) -> int:
        """Eigenvalues above rounding's height, ``largest * n * 2.2e-16``."""
        return len(self.eigenvalues)

    @property
    def log_normaliser(self) -> float:
        """log e_k of the eigenvalues."""
        return float(self._table[-1, -1])

    def _eigen(self) -> tuple[NDArray[np.float64], Array]:
        """Eigenvalues on the host, clamped at 0, and eigenvectors as columns: of L, or of B^T B in the dual form."""
        kernel = self.kernel
        if not kernel.n:
            return np.zeros(0), zeros((0, 0), kernel.template)
        if self.form == "dual":
            assert isinstance(kernel, FeatureKernel)
            matrix = zeros((kernel.dimensions, kernel.dimensions), kernel.template)
            for start in range(0, kernel.n, BLOCK):
                rows = kernel.vectors(slice(start, start + BLOCK))
                matrix += rows.T @ rows
        else:
            matrix = kernel.dense()
            if kernel.jitter:
                matrix = matrix + kernel.jitter * like(np.eye(kernel.n), matrix)
        values, vectors = namespace(matrix).linalg.eigh(matrix)
        return np.maximum(host(values), 0.0), vectors

    def sample(self, stream: np.random.Generator) -> Sample:
        """One draw; equal streams give equal rows.

        Args:
            stream: such as ``penstock.seeding.stream(seed, "anchors", round)``.
        """
        if self.asked >= self.kernel.n:
            rows = np.arange(self.kernel.n, dtype=np.int64)
            return Sample(rows=rows, log_probability=0.0, stop="all", fingerprint=self.kernel.fingerprint)
        rows = self._rows(self._lifted(self._eigenvectors(stream)), stream)
        return Sample(
            rows=rows,
            log_probability=self.log_probability(rows),
            stop="count" if self.size == self.asked else "rank",
            fingerprint=self.kernel.fingerprint,
        )

    def _eigenvectors(self, stream: np.random.Generator) -> list[int]:
        """Which eigenvectors span the sample: a set J of size k with probability proportional to its eigenvalues."""
        table, logs, left = self._table, np.log(self.eigenvalues), self.size
        chosen: list[int] = []
        for n in range(self.rank, 0, -1):
            if not left:
                break
            chance = math.exp(min(logs[n - 1] + table[left - 1, n - 1] - table[left, n], 0.0))
            if left == n or stream.random() < chance:
                chosen.append(n - 1)
                left -= 1
        return chosen

    def _lifted(self, chosen: list[int]) -> Array:
        """The chosen eigenvectors of L as orthonormal columns: float64, (n, k)."""
        vectors = self._vectors[:, like(np.array(chosen, dtype=np.int64), self._vectors)]
        if self.form == "primal":
            return vectors
        assert isinstance(self.kernel, FeatureKernel)
        vectors = vectors / like(np.sqrt(self.eigenvalues[chosen]), vectors)
        out = zeros((self.kernel.n, len(chosen)), vectors)
        for start in range(0, self.kernel.n, BLOCK):
            rows = slice(start, start + BLOCK)
            out[rows] = self.kernel.vectors(rows) @ vectors
        return out

    def _rows(self, vectors: Array, stream: np.random.Generator) -> NDArray[np.int64]:
        """Rows of the projection DPP of orthonormal columns (n, k)."""
        remaining = (vectors * vectors).sum(1)
        form = FeatureForm(FeatureKernel("projection", vectors, None, remaining, {}))
        picks: list[int] = []
        for _ in range(vectors.shape[1]):
            reach = np.cumsum(np.maximum(host(remaining), 0.0))
            # below the total even when the product is rounded up, so that the row found has weight
            at = min(float(stream.random()) * reach[-1], np.nextafter(reach[-1], 0.0))
            j = int(np.searchsorted(reach, at, side="right"))
            picks.append(j)
            form.append(j)
            form.sweep(remaining)
            remaining[like(np.array(picks), remaining)] = 0.0
        return np.sort(np.array(picks, dtype=np.int64))

    def log_probability(self, rows: Any) -> float:
        """log of the probability that a sample is exactly these rows; -inf where it cannot be.

        Raises:
            ConfigError: a row is not the kernel's, named twice, or there are not as many as a sample has.
        """
        index = self.kernel.index(rows)
        count = int(index.shape[0])
        if len(set(host(index).tolist())) != count or count != self.size:
            raise ConfigError(f"rows: got {host(index).tolist()}, allowed {self.size} different rows, as a sample has")
        if not count:
            return 0.0
        matrix = self.kernel.dense(index)
        if self.form == "primal" and self.kernel.jitter:
            matrix = matrix + self.kernel.jitter * like(np.eye(count), matrix)
        sign, log_det = np.linalg.slogdet(host(matrix))
        return float(log_det) - self.log_normaliser if sign > 0 else -math.inf


def kdpp(
    kernel_or_features: Any, k: int, stream: np.random.Generator, *, form: Literal["auto", "primal", "dual"] = "auto"
) -> Sample:
    """One draw of a k-DPP; arguments and errors are those of ``KDPP``, which is for more than one draw."""
    return KDPP(kernel_or_features, k, form=form).sample(stream)
