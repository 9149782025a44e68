"""Observations as a mixer would hand them over, from means and counts by domain."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from penstock.training.mixing.base import Floats, Observation, Signal

Means = Mapping[Signal, Sequence[Any]]


def observation(
    means: Means,
    *,
    step: int = 1,
    weights: Sequence[float] | None = None,
    tokens: Sequence[int] | None = None,
    counts: Sequence[float] | None = None,
    domains: Sequence[str] | None = None,
) -> Observation:
    """Means of each signal, None where nothing was counted; 10 counts each unless told."""
    sums: dict[Signal, Floats] = {}
    numbers: dict[Signal, Floats] = {}
    k = 1
    for signal, values in means.items():
        mean = np.array(values, dtype=np.float64)
        seen = ~np.isnan(mean)
        given = np.full(mean.shape, 10.0) if counts is None else np.broadcast_to(np.asarray(counts, float), mean.shape)
        numbers[signal] = np.where(seen, given, 0.0)
        sums[signal] = np.where(seen, np.nan_to_num(mean) * given, 0.0)
        k = len(mean)
    k = len(weights) if weights is not None else k
    return Observation(
        step=step,
        domains=tuple(domains or [f"d{i}" for i in range(k)]),
        weights=np.full(k, 1 / k) if weights is None else np.array(weights, dtype=np.float64),
        mixture_version=0,
        tokens=np.zeros(k, np.int64) if tokens is None else np.array(tokens, dtype=np.int64),
        sums=sums,
        counts=numbers,
    )


def through_json(value: Any) -> Any:
    """As a log or a checkpoint would give it back; no nan, no infinity."""
    return json.loads(json.dumps(value, allow_nan=False))


@pytest.fixture
def observed() -> Callable[..., Observation]:
    return observation


@pytest.fixture
def as_json() -> Callable[[Any], Any]:
    return through_json
