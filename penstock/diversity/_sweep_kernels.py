"""Loops of sweeps: the product of every row with one vector, in float64 whatever the rows are.

Each row is read once and widened in registers, so float32 features give float64 sums at the speed of reading them. A
product of a BLAS library does neither: it sums in float32, and on one core it is held up by its own arithmetic. A row's
sum is its own, so no result depends on threads; it is taken in an order that suits the processor, so its last bit may
differ between kinds of processors.

Price: 28 GB/s of features on one core where a plain read does 31 and OpenBLAS' float32 product 12.
"""

from __future__ import annotations

from typing import Any

from penstock.kernels import summing


@summing
def lower_gains(features: Any, vector: Any, scale: Any, gains: Any, first: int, last: int) -> None:
    """Subtract from ``gains`` (n,) the squares of ``scale[i] * (features[i] . vector)``, for rows first to last.

    ``features`` is (n, d) float32 or float64 in C order, ``vector`` (d,) and ``scale`` (n,) float64.
    """
    for i in range(first, last):
        total = 0.0
        for j in range(features.shape[1]):
            total += features[i, j] * vector[j]
        total *= scale[i]
        gains[i] -= total * total


@summing
def products(features: Any, vector: Any, out: Any, first: int, last: int) -> None:
    """Write ``features[i] . vector`` into ``out`` (n,) float64, for rows first to last."""
    for i in range(first, last):
        total = 0.0
        for j in range(features.shape[1]):
            total += features[i, j] * vector[j]
        out[i] = total
