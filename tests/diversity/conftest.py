"""Brute force, and small sets that are easy to reason about."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from penstock.seeding import stream


def brute_greedy(matrix, k):
    """Rows by the largest determinant of all, one at a time; ties to the lowest row."""
    chosen = []
    for _ in range(k):
        found = [
            -math.inf if i in chosen else np.linalg.slogdet(matrix[np.ix_([*chosen, i], [*chosen, i])])[1]
            for i in range(len(matrix))
        ]
        chosen.append(int(np.flatnonzero(np.array(found) >= max(found) - 1e-11)[0]))
    return chosen


def subset_law(matrix, k):
    """Probability of every set of k rows under the k-DPP, by enumeration."""
    found = {s: max(np.linalg.det(matrix[np.ix_(s, s)]), 0.0) for s in itertools.combinations(range(len(matrix)), k)}
    total = math.fsum(found.values())
    return {s: value / total for s, value in found.items()}


@pytest.fixture
def brute():
    return brute_greedy


@pytest.fixture
def law():
    return subset_law


@pytest.fixture
def normal():
    """``normal(n, d, seed)``: float64 rows of random directions."""
    return lambda n, d, seed=0: stream(seed, "rows", n, d).normal(size=(n, d))


@pytest.fixture(params=["numpy", "torch"])
def library(request):
    """Turns a NumPy array into one of the library."""
    return (lambda x: x) if request.param == "numpy" else torch.from_numpy
