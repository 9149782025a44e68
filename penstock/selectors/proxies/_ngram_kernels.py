"""Loops of the n-gram proxy: contexts one token longer, and counts of n-grams weighted by copies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.kernels import kernel


@kernel
def context_keys(
    tokens: NDArray[Any], offsets: NDArray[np.int64], before: NDArray[np.int32], start: int, width: int
) -> NDArray[np.int64]:
    """Of every token, a key of its context with one token more: (t,), -1 where the shorter one is unknown.

    Args:
        tokens, offsets: documents end to end.
        before: (t,) the shorter context of every token, -1 where unknown.
        start: the shorter context of what stands before a document.
        width: one above the largest token; that is also the token before a document.
    """
    out = np.empty(len(tokens), np.int64)
    for d in range(len(offsets) - 1):
        context, token = np.int64(start), np.int64(width - 1)
        for i in range(offsets[d], offsets[d + 1]):
            out[i] = -1 if context < 0 else context * width + token
            context, token = np.int64(before[i]), np.int64(tokens[i])
    return out


@kernel
def add_copies(
    offsets: NDArray[np.int64], grams: NDArray[Any], copies: NDArray[np.int32], count: NDArray[np.int64]
) -> None:
    """Add to ``count`` each document's n-grams, ``grams[offsets[d] : offsets[d + 1]]``, as often as it has copies."""
    for d in range(len(copies)):
        if copies[d] > 0:
            for e in range(offsets[d], offsets[d + 1]):
                count[grams[e]] += copies[d]


@kernel
def context_sums(
    context: NDArray[np.int32], count: NDArray[np.int64], total: NDArray[np.int64], distinct: NDArray[np.int64]
) -> None:
    """Add to each context the counts of its n-grams, and the number of those that occur."""
    for g in range(len(context)):
        if count[g] > 0:
            total[context[g]] += count[g]
            distinct[context[g]] += 1
