"""Similarity kernels over the rows of a set, a block at a time; the n x n matrix is built only by ``dense``.

    Linear        x_i . x_j                                       rank <= d
    Cosine        x_i . x_j / (|x_i| |x_j|)                       unit diagonal
    RBF           exp(-gamma |x_i - x_j|^2)                       unit diagonal; gamma by the median heuristic
    TokenJaccard  |A_i and A_j| / |A_i or A_j|                    unit diagonal; positive semi-definite (Bouchard 2013)
    Mixture       sum of weights times kernels                    weights sum to 1
    Gram          a matrix that is given
    Weighted      q_i K_ij q_j                                    quality times similarity

All are symmetric and positive semi-definite. Entries are float64 whatever the features are. Features may be NumPy
arrays or torch tensors; float16 and bfloat16 are widened to float32 once, float32 and float64 are not copied. A row
that is zero or not finite is refused: in penstock the zero vector means that there was nothing to embed.

``fingerprint`` names the kernel in results: numbers of two kernels are not to be compared. It holds kind, parameters,
shape and type, and a hash of up to 1,024 rows spread over the set: a guard against accidents, not a proof.

Price: a column of n entries is one pass over the features; memory n float64 and a block of 2,048 widened rows.
"""

from __future__ import annotations

import functools
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from penstock.dataset import hash_json
from penstock.diversity.arrays import Array, Rows, as_array, host, is_torch, like, namespace, where_true, wide, zeros
from penstock.diversity.sweeps import Sweeper
from penstock.errors import ConfigError, InputError
from penstock.seeding import stream

BLOCK = 2048  # rows widened to float64 at a time
_SAMPLED = 1024  # rows that a fingerprint reads
_MEDIAN_ROWS = 1000
_NAMED = 8  # rows listed in a message


class Kernel(ABC):
    """Similarities of ``n`` rows. ``template`` is an array of the library and device that its blocks come in."""

    n: int
    template: Array
    jitter: float = 0.0  # added to the diagonal before an eigendecomposition

    @abstractmethod
    def diagonal(self) -> Array:
        """K_ii: float64, shape (n,)."""

    @abstractmethod
    def block(self, rows: Rows, columns: Rows) -> Array:
        """K at rows and columns (slices or integer arrays): float64, shape (rows, columns)."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What decides the kernel, as JSON values."""

    def row(self, j: int) -> Array:
        """K_j: float64, shape (n,)."""
        return self.block(slice(None), self.index([j]))[:, 0]

    def dense(self, rows: Rows = slice(None)) -> Array:
        """The matrix of all or some rows, exactly symmetric: float64, shape (rows, rows)."""
        matrix = self.block(rows, rows)
        return (matrix + matrix.T) / 2

    def index(self, rows: Any) -> Array:
        """Row numbers as an integer array where the kernel lives.

        Raises:
            ConfigError: one is not a row of the set.
        """
        found = np.asarray(host(rows), dtype=np.int64).reshape(-1)
        outside = found[(found < 0) | (found >= self.n)]
        if outside.size:
            raise ConfigError(f"rows: got {_listed(outside)}, allowed 0 to {self.n - 1}; they count from 0")
        return like(found, self.template)

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits."""
        return hash_json(self.describe())[:16]


# ── kernels of feature vectors ───────────────────────────────────────────────────────────────────


class FeatureKernel(Kernel):
    """K = B B^T with B = scale * features, rows of shape (d,): the kernel that the low-memory forms know."""

    def __init__(self, kind: str, features: Array, scale: Array | None, diagonal: Array, facts: dict[str, Any]) -> None:
        self.features = self.template = features
        self.n, self.dimensions = (int(size) for size in features.shape)
        self.kind, self.scale, self.facts = kind, scale, facts
        self._diagonal = diagonal

    def diagonal(self) -> Array:
        return self._diagonal

    def vectors(self, rows: Rows) -> Array:
        """Rows of B: float64, shape (rows, d)."""
        found = wide(self.features[rows])
        return found if self.scale is None else found * self.scale[rows][:, None]

    def block(self, rows: Rows, columns: Rows) -> Array:
        right = self.vectors(columns).T
        found = _products(self.features, rows, right)
        return found if self.scale is None else found * self.scale[rows][:, None]

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, **_facts_of(self.features), **self.facts}


class Linear(FeatureKernel):
    """``x_i . x_j``: lengths count.

    Args:
        features: (n, d) array or tensor of floats.

    Raises:
        InputError: not a matrix of floats, or rows that are zero or not finite.
    """

    def __init__(self, features: Any) -> None:
        checked, squares = _checked(features)
        super().__init__("linear", checked, None, squares, {})


class Cosine(FeatureKernel):
    """Cosine of the angle between two rows; K_ii is 1 exactly. Arguments and errors are those of ``Linear``."""

    def __init__(self, features: Any) -> None:
        checked, squares = _checked(features)
        super().__init__("cosine", checked, 1.0 / namespace(checked).sqrt(squares), squares * 0 + 1.0, {})


def kernel_of(kernel_or_features: Any) -> Kernel:
    """A kernel as it is; an array of features as its ``Cosine``."""
    return kernel_or_features if isinstance(kernel_or_features, Kernel) else Cosine(kernel_or_features)


class RBF(Kernel):
    """``exp(-gamma |x_i - x_j|^2)``.

    Args:
        features: (n, d) array or tensor of floats.
        gamma: ``"median"`` takes 1 / (2 median |x_i - x_j|^2) over the pairs of at most 1,000 rows drawn by ``seed``;
            ``describe`` records the number. It is fitted once: a kernel refitted to a set that collapses would call
            it diverse.
        seed: of the draw.

    Raises:
        InputError: as ``Linear``; or more than half of the pairs are equal, so that there is no median.
        ConfigError: gamma is no positive number.
    """

    def __init__(self, features: Any, gamma: float | Literal["median"] = "median", *, seed: int = 0) -> None:
        self.features, self._squares = _checked(features)
        self.template, self.n = self.features, int(self.features.shape[0])
        self._fit: dict[str, Any] = {}
        if gamma == "median":
            gamma, self._fit = _median_gamma(host(self.features), seed)
        if not isinstance(gamma, (int, float)) or not (0 < gamma < math.inf):
            raise ConfigError(f"gamma: got {gamma!r}, allowed a positive number or 'median'")
        self.gamma = float(gamma)

    def diagonal(self) -> Array:
        return self._squares * 0 + 1.0

    def block(self, rows: Rows, columns: Rows) -> Array:
        xp = namespace(self.template)
        found = _products(self.features, rows, wide(self.features[columns]).T)
        apart = self._squares[rows][:, None] + self._squares[columns][None, :] - 2 * found
        # rounding may take the bracket of two equal rows below zero
        return xp.exp(-self.gamma * xp.clip(apart, 0, None))

    def describe(self) -> dict[str, Any]:
        return {"kind": "rbf", **_facts_of(self.features), "gamma": self.gamma, **self._fit}


def _median_gamma(features: NDArray[Any], seed: int) -> tuple[float, dict[str, Any]]:
    rows = np.arange(len(features))
    if len(rows) > _MEDIAN_ROWS:
        rows = np.sort(stream(seed, "median heuristic").choice(len(rows), _MEDIAN_ROWS, replace=False))
    fit: dict[str, Any] = {"gamma_by": "median", "median_rows": len(rows), "median_seed": seed}
    if len(rows) < 2:
        return 1.0, fit  # no pair: every gamma gives the same kernel
    drawn = features[rows].astype(np.float64)
    squares = np.einsum("ij,ij->i", drawn, drawn)
    apart = np.maximum(squares[:, None] + squares[None, :] - 2 * (drawn @ drawn.T), 0)
    median = float(np.median(apart[np.triu_indices(len(rows), 1)]))
    if median <= 1e-12 * squares.max():
        raise InputError(
            f"gamma: the median distance of {len(rows)} rows is 0, so more than half of all pairs are equal; drop "
            "duplicates first or give gamma as a number"
        )
    return 1.0 / (2.0 * median), fit


# ── other kernels ────────────────────────────────────────────────────────────────────────────────


class TokenJaccard(Kernel):
    """Jaccard similarity of sets of tokens; two empty sets have 1, an empty and another 0.

    Args:
        sets: for each row its tokens, of any hashable kind; repeats count once.
        like: an array whose library and device the blocks shall have, to mix with a kernel of torch features.
    """

    def __init__(self, sets: Sequence[Collection[Hashable]], *, like: Array | None = None) -> None:
        from scipy.sparse import csr_array

        vocabulary: dict[Hashable, int] = {}
        columns: list[int] = []
        starts = [0]
        for tokens in sets:
            columns += sorted({vocabulary.setdefault(token, len(vocabulary)) for token in tokens})
            starts.append(len(columns))
        shape = (len(starts) - 1, max(len(vocabulary), 1))
        self._members = csr_array((np.ones(len(columns)), np.array(columns, dtype=np.int64), starts), shape=shape)
        self._sizes = np.diff(starts).astype(np.float64)
        self.n, self.template = shape[0], np.zeros(0) if like is None else as_array(like)

    def diagonal(self) -> Array:
        return like(np.ones(self.n), self.template)

    def block(self, rows: Rows, columns: Rows) -> Array:
        # a slice stays one; scipy wants index arrays of NumPy
        left, right = (at if isinstance(at, slice) else host(at) for at in (rows, columns))
        common = (self._members[left] @ self._members[right].T).toarray()
        either = self._sizes[left][:, None] + self._sizes[right][None, :] - common
        return like(np.where(either > 0, common / np.maximum(either, 1), 1.0), self.template)

    def describe(self) -> dict[str, Any]:
        rows = self._members[_spread(self.n)]
        state = hashlib.blake2b(digest_size=16)
        for values in (rows.indptr, rows.indices):
            state.update(np.ascontiguousarray(values, dtype=np.int64).tobytes())
        return {"kind": "token_jaccard", "rows": self.n, "sample": state.hexdigest()}


class Gram(Kernel):
    """A kernel matrix that is given: (n, n), symmetric, positive semi-definite (the latter is not checked).

    Raises:
        InputError: not square, not symmetric, not finite, or a negative number on the diagonal.
    """

    def __init__(self, matrix: Any) -> None:
        found = as_array(matrix)
        if found.ndim != 2 or found.shape[0] != found.shape[1]:
            raise InputError(f"kernel matrix: got shape {tuple(found.shape)}, allowed (n, n)")
        self.matrix = self.template = wide(found)
        self.n = int(found.shape[0])
        values = host(self.matrix)
        reach = float(np.abs(values).max(initial=0.0))
        if not math.isfinite(reach):
            raise InputError(f"kernel matrix: rows {_listed(np.flatnonzero(~np.isfinite(values).all(1)))} not finite")
        if np.abs(values - values.T).max(initial=0.0) > 1e-8 * reach:
            raise InputError("kernel matrix: it is not symmetric; give (K + K.T) / 2 if that is what is meant")
        if (np.diagonal(values) < 0).any():
            raise InputError(f"kernel matrix: rows {_listed(np.flatnonzero(np.diagonal(values) < 0))} have K_ii < 0")

    def diagonal(self) -> Array:
        return namespace(self.matrix).diagonal(self.matrix) + 0.0

    def block(self, rows: Rows, columns: Rows) -> Array:
        return self.matrix[rows][:, columns]

    def describe(self) -> dict[str, Any]:
        return {"kind": "gram", **_facts_of(self.matrix)}


class Mixture(Kernel):
    """``sum of w_m K_m``: positive semi-definite, and of unit diagonal where all parts are.

    Args:
        parts: (weight, kernel), weights positive with sum 1; the kernels are of the same rows, library and device.

    Raises:
        ConfigError: weights or sizes do not fit.
    """

    jitter = 1e-8

    def __init__(self, parts: Sequence[tuple[float, Kernel]]) -> None:
        weights = [float(weight) for weight, _ in parts]
        if not parts or min(weights) <= 0 or abs(math.fsum(weights) - 1) > 1e-9:
            raise ConfigError(f"mixture: got weights {weights}, allowed positive numbers with sum 1")
        if len({kernel.n for _, kernel in parts}) != 1:
            raise ConfigError(
                f"mixture: got kernels of {[k.n for _, k in parts]} rows, allowed kernels of the same rows"
            )
        if len({(is_torch(k.template), str(getattr(k.template, "device", ""))) for _, k in parts}) != 1:
            raise ConfigError("mixture: the kernels are of different libraries or devices; see TokenJaccard(like=…)")
        self.parts, self.n, self.template = tuple(parts), parts[0][1].n, parts[0][1].template

    def diagonal(self) -> Array:
        return sum(weight * kernel.diagonal() for weight, kernel in self.parts)

    def block(self, rows: Rows, columns: Rows) -> Array:
        return sum(weight * kernel.block(rows, columns) for weight, kernel in self.parts)

    def describe(self) -> dict[str, Any]:
        return {"kind": "mixture", "parts": [[weight, kernel.describe()] for weight, kernel in self.parts]}


class Weighted(Kernel):
    """``q_i K_ij q_j``; made by ``weighted``."""

    def __init__(self, kernel: Kernel, quality: Array, facts: dict[str, Any]) -> None:
        self.kernel, self.quality, self.facts = kernel, quality, facts
        self.n, self.template, self.jitter = kernel.n, kernel.template, kernel.jitter

    def diagonal(self) -> Array:
        return self.quality**2 * self.kernel.diagonal()

    def block(self, rows: Rows, columns: Rows) -> Array:
        return self.quality[rows][:, None] * self.kernel.block(rows, columns) * self.quality[columns][None, :]

    def describe(self) -> dict[str, Any]:
        return self.kernel.describe() | self.facts


def weighted(kernel: Kernel, quality: Any) -> Kernel:
    """``q_i K_ij q_j``: choosing by it weighs a row's quality against how new it is.

    Args:
        quality: (n,) positive numbers, such as ``exp(beta * standardised score)``; equal ones change no choice.

    Raises:
        InputError: not one positive finite number a row.
    """
    values = np.asarray(host(as_array(quality)), dtype=np.float64)
    if values.shape != (kernel.n,):
        raise InputError(f"quality: got shape {values.shape}, allowed ({kernel.n},), one number a row")
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if bad.size:
        raise InputError(f"quality: rows {_listed(bad)} are not positive finite numbers; leave such rows out")
    at = like(values, kernel.template)
    facts = {"quality": hashlib.blake2b(values.tobytes(), digest_size=16).hexdigest()}
    if isinstance(kernel, FeatureKernel):
        scale = at if kernel.scale is None else kernel.scale * at
        return FeatureKernel(kernel.kind, kernel.features, scale, kernel.diagonal() * at**2, kernel.facts | facts)
    return Weighted(kernel, at, facts)


# ── shared ───────────────────────────────────────────────────────────────────────────────────────


def _checked(features: Any) -> tuple[Array, Array]:
    """Features in float32 or float64, and the squared length of each row: float64, (n,)."""
    found = as_array(features)
    kind = str(found.dtype)
    if found.ndim != 2 or "float" not in kind or (found.shape[0] and not found.shape[1]):
        raise InputError(f"features: got shape {tuple(found.shape)} of {kind}, allowed (n, d) of floats, d >= 1")
    if not kind.endswith(("float32", "float64")):
        found = found.float() if is_torch(found) else found.astype(np.float32)
    xp = namespace(found)
    squares = zeros((found.shape[0],), found)
    with np.errstate(over="ignore", invalid="ignore"):
        for place, part in _blocks(slice(None), int(found.shape[0])):
            rows = wide(found[part])
            squares[place] = xp.einsum("ij,ij->i", rows, rows)
    bad = where_true(~xp.isfinite(squares))
    if len(bad):
        raise InputError(f"features: rows {_listed(host(bad))} hold NaN or infinity; leave them out or mend them")
    zero = where_true(squares == 0)
    if len(zero):
        raise InputError(
            f"features: rows {_listed(host(zero))} are zero vectors, which resemble nothing; leave them out"
        )
    return found, squares


def _products(features: Array, rows: Rows, right: Array) -> Array:
    """``features[rows] @ right`` in float64: a block of rows widened at a time, or a sweep for one column of all."""
    if right.shape[1] == 1 and isinstance(rows, slice) and rows == slice(None):
        sweeper = Sweeper.of(features)
        if sweeper is not None:
            return like(sweeper.products(host(right[:, 0])), features)[:, None]
    n = int(features.shape[0])
    out = zeros((_length(rows, n), right.shape[1]), features)
    for place, part in _blocks(rows, n):
        out[place] = wide(features[part]) @ right
    return out


def _listed(rows: NDArray[Any]) -> str:
    more = f" and {len(rows) - _NAMED:,} more" if len(rows) > _NAMED else ""
    return ", ".join(str(row) for row in rows[:_NAMED].tolist()) + more


def _length(rows: Rows, n: int) -> int:
    return len(range(*rows.indices(n))) if isinstance(rows, slice) else int(rows.shape[0])


def _blocks(rows: Rows, n: int) -> list[tuple[slice, Rows]]:
    """Consecutive pieces of rows: where each goes in the result, and which rows it is."""
    count = _length(rows, n)
    places = [slice(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]
    if not isinstance(rows, slice):
        return [(place, rows[place]) for place in places]
    first, _, step = rows.indices(n)
    return [(place, slice(first + place.start * step, first + place.stop * step, step)) for place in places]


def _spread(n: int) -> NDArray[np.int64]:
    """Up to 1,024 rows spread evenly over the set."""
    return np.unique(np.linspace(0, n - 1, min(n, _SAMPLED)).astype(np.int64)) if n else np.zeros(0, np.int64)


def _facts_of(features: Array) -> dict[str, Any]:
    kind = str(features.dtype).rpartition(".")[2]
    sample = host(features[like(_spread(int(features.shape[0])), features)])
    digest = hashlib.blake2b(np.ascontiguousarray(sample).tobytes(), digest_size=16).hexdigest()
    return {"shape": [int(size) for size in features.shape], "type": kind, "sample": digest}
