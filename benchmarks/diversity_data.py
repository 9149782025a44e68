"""The made-up sets of benchmarks/diversity.py, by NumPy alone, so that a peer's environment makes the same ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def features(kind: str, rows: int, dimensions: int) -> NDArray[np.float32]:
    """Unit vectors, float32: ``random`` directions, or ``clustered`` near 50 of them in very unequal numbers."""
    rng = np.random.default_rng(np.random.SeedSequence([rows, dimensions]))
    found = rng.standard_normal((rows, dimensions), dtype=np.float32)
    if kind == "clustered":
        centres = rng.standard_normal((50, dimensions), dtype=np.float32)
        found = centres[np.minimum(5 * rng.pareto(1.0, rows), 49).astype(int)] + np.float32(0.4) * found
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def likelihood(rows: int) -> NDArray[Any]:
    """An RBF kernel of points in three dimensions: full rank in exact arithmetic, eigenvalues over many decades."""
    points = np.random.default_rng(np.random.SeedSequence([rows])).standard_normal((rows, 3))
    squares = (points**2).sum(1)
    apart = squares[:, None] + squares[None, :] - 2 * points @ points.T
    kernel: NDArray[Any] = np.exp(-4.0 * np.maximum(apart, 0.0))
    return (kernel + kernel.T) / 2


def eigenvalues_of_5(rows: int) -> NDArray[np.float64]:
    return np.full(rows, 5.0)
