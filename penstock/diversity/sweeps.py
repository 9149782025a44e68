"""Sweeps over features in this machine's memory, by all cores that this process may use.

NumPy arrays and torch tensors on the CPU are swept by loops of ours (``_sweep_kernels``); for tensors on another device
``Sweeper.of`` is None. Threads follow ``OMP_NUM_THREADS`` as BLAS libraries do; no result depends on them.

Price: half a second to import numba at the first use, and some seconds to compile once a machine.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.diversity.arrays import Array, host, is_torch

_WORTH = 1 << 20  # numbers that a thread should have to read


@cache
def _kernels() -> Any:
    from penstock.diversity import _sweep_kernels

    return _sweep_kernels


def threads() -> int:
    """Threads that a sweep may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(asked))) if asked.isdecimal() else cores


@dataclass(frozen=True, eq=False)
class Sweeper:
    """Features (n, d) of float32 or float64 in C order."""

    features: NDArray[Any]

    @classmethod
    def of(cls, features: Array) -> Sweeper | None:
        """None where they are on another device; features in another order are copied into C order."""
        if is_torch(features) and features.device.type != "cpu":
            return None
        return cls(np.ascontiguousarray(host(features)))

    def lower_gains(self, vector: NDArray[Any], scale: NDArray[Any], gains: NDArray[Any]) -> None:
        """Subtract the squares of ``scale * (features @ vector)`` from ``gains`` (n,), in place."""
        self._over_rows(_kernels().lower_gains, np.ascontiguousarray(vector), scale, gains)

    def products(self, vector: NDArray[Any]) -> NDArray[np.float64]:
        """``features @ vector`` in float64: shape (n,)."""
        out = np.empty(len(self.features))
        self._over_rows(_kernels().products, np.ascontiguousarray(vector), out)
        return out

    def _over_rows(self, kernel: Any, *arguments: Any) -> None:
        count = len(self.features)
        parts = max(1, min(threads(), self.features.size // _WORTH))
        if parts == 1:
            kernel(self.features, *arguments, 0, count)
            return
        with ThreadPoolExecutor(parts) as pool:
            bounds = pairwise(count * part // parts for part in range(parts + 1))
            for job in [pool.submit(kernel, self.features, *arguments, *bound) for bound in bounds]:
                job.result()
