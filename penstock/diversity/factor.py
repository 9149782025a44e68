"""How much new a row brings to a set of anchors: the ratio of determinants, for all candidates at once.

    gain(w | A) = K_ww - k_wA K_AA^-1 k_Aw = det K(A + w) / det K(A)

The lower Cholesky factor F of K_AA is kept: ``y = F^-1 k_Aw`` for all candidates in one triangular solve,
``gain = K_ww - |y|^2`` brought to at least 0, and a new anchor appends the row ``[y, sqrt(gain)]``. For a unit diagonal
gains lie in [0, 1]: 1 for a row unlike all anchors, 0 for one that they span. Sums of **log** gains are log
determinants.

Price: O(|A|^2) a candidate and O(|A|^2) an anchor; memory |A|^2, and |A| x candidates while gains are computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.diversity.arrays import Array, as_array, host, is_torch, like, namespace, solve_lower, wide, zeros
from penstock.diversity.kernels import Cosine, Kernel
from penstock.errors import ConfigError, InputError

TOLERANCE = 1e-10  # of K_ww: below, an anchor would make the factor noise


class CholeskyFactor:
    """The factor alone, for callers that bring kernel values: rows may come one after another from anywhere."""

    def __init__(self) -> None:
        self._lower: NDArray[np.float64] = np.zeros((8, 8))
        self.count = 0

    @property
    def lower(self) -> NDArray[np.float64]:
        """F: float64, (anchors, anchors)."""
        return self._lower[: self.count, : self.count]

    @property
    def log_determinant(self) -> float:
        """log det K_AA; 0 without anchors."""
        return 2.0 * math.fsum(np.log(np.diagonal(self.lower)))

    def gains(self, cross: Array, diagonal: Array) -> Array:
        """Gain of each candidate: float64, shape (c,).

        Args:
            cross: kernel between candidates and anchors, (c, anchors).
            diagonal: K_ww of each candidate, (c,).
        """
        xp, diagonal = namespace(diagonal), wide(diagonal)
        if not self.count:
            return xp.clip(diagonal, 0, None)
        solved = solve_lower(like(self.lower, diagonal), wide(cross).T)
        return xp.clip(diagonal - (solved * solved).sum(0), 0, None)

    def append(self, cross: Any, diagonal: float) -> float:
        """Make a row an anchor and return its gain.

        Args:
            cross: kernel between the row and the anchors so far, (anchors,).
            diagonal: K_ww.

        Raises:
            ConfigError: its gain is no more than 1e-10 of K_ww: the anchors span it already.
        """
        values = np.asarray(host(as_array(cross)), dtype=np.float64).reshape(-1)
        solved = solve_lower(self.lower, values[:, None])[:, 0] if self.count else values
        gain = max(float(diagonal) - float(solved @ solved), 0.0)
        if not gain > TOLERANCE * abs(diagonal):
            raise ConfigError(
                f"anchor {self.count}: got a gain of {gain:.3g}, allowed more than {TOLERANCE} x {diagonal:.3g}; the "
                "anchors span it already (numerical rank), so leave it out"
            )
        m = self.count
        if m == len(self._lower):
            self._lower = np.pad(self._lower, (0, m))
        self._lower[m, :m], self._lower[m, m] = solved, math.sqrt(gain)
        self.count += 1
        return gain


class AnchorFactor:
    """Anchors among the rows of a kernel."""

    def __init__(self, kernel: Kernel, anchors: Iterable[int] = ()) -> None:
        self.kernel, self.anchors = kernel, list[int]()
        self._factor = CholeskyFactor()
        self._diagonal = kernel.diagonal()
        for row in anchors:
            self.append(row)

    @property
    def fingerprint(self) -> str:
        return self.kernel.fingerprint

    @property
    def log_determinant(self) -> float:
        """log det K_AA."""
        return self._factor.log_determinant

    def gains(self, rows: Any) -> Array:
        """Gains of some rows given the anchors: float64, shape (rows,), where the kernel lives."""
        index = self.kernel.index(rows)
        cross = self.kernel.block(index, self.kernel.index(self.anchors)) if self.anchors else zeros((0,), index)
        return self._factor.gains(cross, self._diagonal[index])

    def append(self, row: int) -> float:
        """Make a row an anchor and return its gain; errors are those of ``CholeskyFactor.append``."""
        index = self.kernel.index([row])
        cross = self.kernel.block(index, self.kernel.index(self.anchors))[0] if self.anchors else zeros((0,), index)
        gain = self._factor.append(cross, float(self._diagonal[index][0]))
        self.anchors.append(int(row))
        return gain


def logdet_gain(candidates: Any, anchors: Any, kernel: Kernel | None = None) -> Array:
    """Gain of each candidate given the anchors: float64, shape (candidates,).

    Args:
        candidates: rows of ``kernel``; without one, embeddings (c, d), compared by cosine.
        anchors: rows of ``kernel``; without one, embeddings (a, d) of the same library.

    Raises:
        ConfigError: a row is not the kernel's, or the anchors are not independent (numerical rank).
        InputError: embeddings are zero, not finite or do not fit together.
    """
    if kernel is not None:
        return AnchorFactor(kernel, host(anchors).reshape(-1).tolist() if len(anchors) else ()).gains(candidates)
    new, old = as_array(candidates), as_array(anchors)
    if new.ndim != 2 or old.ndim != 2 or new.shape[1] != old.shape[1] or is_torch(new) != is_torch(old):
        raise InputError(
            f"embeddings: got candidates {tuple(new.shape)} and anchors {tuple(old.shape)}, allowed (c, d) and (a, d) "
            "of one library"
        )
    both = Cosine(namespace(new).concatenate([old, new]))
    return AnchorFactor(both, range(len(old))).gains(np.arange(len(old), both.n))
