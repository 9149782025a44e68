"""What remains of each row when the chosen rows are projected out: the update shared by greedy MAP and the k-DPP.

With rows S chosen, the gain of row i is ``L_ii - L_iS L_SS^-1 L_Si``, which is ``L_ii`` less the squares of one
coefficient for each chosen row (incremental Cholesky; Chen, Zhang and Zhou 2018). Two forms give the same coefficients:

    FeatureForm   L = B B^T: keeps one vector w of d numbers for each chosen row, e = B w.     O(n d) a row, m d memory
    RowForm       any kernel: keeps the coefficients, e_i = (L_ji - c_j . c_i) / sqrt(gain_j).  O(n m) a row, n m memory

``plus_identity`` is the same for L + I: the coefficients are those of the kernel alone, and gains start at L_ii + 1.

Coefficients are float64. On CUDA ``FeatureForm.sweep`` alone multiplies in the features' own type, and says how far it
may be off (``error``).
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

from penstock.diversity.arrays import Array, Rows, grown, host, like, roundoff, solve_lower, wide, zeros
from penstock.diversity.kernels import FeatureKernel, Kernel
from penstock.diversity.sweeps import Sweeper

_FIRST = 64  # chosen rows that there is room for at first


class Form(Protocol):
    """Coefficients of all rows on the rows chosen so far; ``count`` of them."""

    count: int
    error: float  # of one coefficient of ``sweep``, relative to the square root of the row's diagonal; 0 for float64

    def append(self, j: int) -> float:
        """Choose row j, whose coefficients up to here are known, and return its gain."""

    def coefficients(self, rows: Rows, since: int) -> Array:
        """Coefficients of some rows on the rows chosen from number ``since`` on: float64, (rows, count - since)."""

    def sweep(self, gains: Array) -> None:
        """Subtract from ``gains`` (n,) float64, in place, the squares of coefficients on the last chosen row."""


class FeatureForm:
    """A basis of what the chosen rows span; for L + I a root of ``I - (I + B_S^T B_S)^-1``."""

    def __init__(self, kernel: FeatureKernel, *, plus_identity: bool = False) -> None:
        self.kernel, self.plus_identity, self.count = kernel, plus_identity, 0
        self._basis = zeros((_FIRST, kernel.dimensions), kernel.template)
        self._sweeper = Sweeper.of(kernel.features)
        self.error = 0.0
        unit = roundoff(kernel.features)
        if self._sweeper is None and unit > 2.0**-53:
            # a dot product of d terms is off by at most 8 sqrt(d) units but for a chance of 2 d exp(-32) (Higham and
            # Mary 2019); rounding w to the features' type adds one
            self.error = (8 * math.sqrt(kernel.dimensions) + 1) * unit

    def append(self, j: int) -> float:
        row = self.kernel.vectors(slice(j, j + 1))[0]
        rest = self._without_chosen(row)
        if self.plus_identity:
            gain = 1.0 + float(row @ rest)
        else:
            rest = self._without_chosen(rest)  # twice is enough (Kahan; Parlett 1980)
            gain = float(rest @ rest)
        self._basis = grown(self._basis, self.count + 1)
        if gain > 0:
            self._basis[self.count] = rest / math.sqrt(gain)
        self.count += 1
        return gain

    def _without_chosen(self, row: Array) -> Array:
        basis = self._basis[: self.count]
        return row - basis.T @ (basis @ row)

    def coefficients(self, rows: Rows, since: int) -> Array:
        return self.kernel.vectors(rows) @ self._basis[since : self.count].T

    def sweep(self, gains: Array) -> None:
        vector, features = self._basis[self.count - 1], self.kernel.features
        if self._sweeper is not None:
            scale = np.ones(self.kernel.n) if self.kernel.scale is None else host(self.kernel.scale)
            self._sweeper.lower_gains(host(vector), scale, host(gains))
            return
        found = wide(features @ vector.to(features.dtype))
        gains -= (found if self.kernel.scale is None else found * self.kernel.scale) ** 2


class RowForm:
    """The Cholesky factor of the chosen rows and the coefficients of all rows, from columns of the kernel."""

    error = 0.0

    def __init__(self, kernel: Kernel, *, plus_identity: bool = False) -> None:
        self.kernel, self.count = kernel, 0
        self._shift = 1.0 if plus_identity else 0.0
        self._diagonal = host(kernel.diagonal())
        self._rows = zeros((_FIRST, kernel.n), kernel.template)  # coefficients, one chosen row after another
        self._factor = np.zeros((_FIRST, _FIRST))
        self._chosen: list[int] = []

    def append(self, j: int) -> float:
        m = self.count
        own = host(self._rows[:m, j])
        gain = max(float(self._diagonal[j] + self._shift - own @ own), 0.0)
        if m == len(self._factor):
            self._factor = np.pad(self._factor, (0, m))
        self._factor[m, :m], self._factor[m, m] = own, math.sqrt(gain)
        self._rows = grown(self._rows, m + 1)
        self._chosen.append(j)
        self.count += 1
        return gain

    def coefficients(self, rows: Rows, since: int) -> Array:
        factor = like(self._factor[since : self.count, : self.count].copy(), self.kernel.template)
        right = self.kernel.block(rows, self.kernel.index(self._chosen[since:])).T
        if since:
            right = right - factor[:, :since] @ self._rows[:since, rows]
        found = solve_lower(factor[:, since:], right)
        self._rows[since : self.count, rows] = found
        return found.T

    def sweep(self, gains: Array) -> None:
        gains -= self.coefficients(slice(None), self.count - 1)[:, 0] ** 2


def form_of(kernel: Kernel, name: str, **options: Any) -> Form:
    """``features`` or ``rows``; ``auto`` takes the low-memory form where the kernel has features."""
    features = name == "features" or (name == "auto" and isinstance(kernel, FeatureKernel))
    if features:
        assert isinstance(kernel, FeatureKernel), "the caller checks"
        return FeatureForm(kernel, **options)
    return RowForm(kernel, **options)
