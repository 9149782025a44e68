"""One block of a mixture: how many sequences of each domain it holds, and in which order they come.

Quotas are the weights' largest remainders. The order sorts the items (k, j), j < q_k, by (2j + 1) / (2 q_k): every
domain is spread evenly, and any prefix is within half an item plus K q_k / (2Q) of its exact share.

Price: O(Q log Q) for a block of Q sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.seeding import hash_ids, rehash

Ints = NDArray[np.int64]

# float64 tells (2j + 1) / (2q) of unequal items apart as long as 1 / (4 q q') is far above 2**-53
MAX_BLOCK = 1 << 20


def quotas(weights: Sequence[float], block: int, *, min_quota: int = 1) -> tuple[int, ...]:
    """Whole numbers that sum to ``block`` in the ratio of ``weights``, by largest remainder.

    A domain of positive weight gets at least ``min_quota``, taken from the domains that are furthest
    above their exact share. Ties go to the earlier domain.

    Args:
        weights: finite numbers >= 0 with a positive sum, shape (K,).
        block: sequences in a block; the granularity of the mixture is 1 / block.
    """
    p = np.asarray(weights, dtype=np.float64)
    if p.ndim != 1 or not p.size or not np.isfinite(p).all() or (p < 0).any() or p.sum() <= 0:
        raise ConfigError(f"weights: got {list(weights)}, allowed finite numbers >= 0, at least one above 0")
    present = p > 0
    least = min_quota * int(present.sum())
    if not max(1, least) <= block <= MAX_BLOCK:
        raise ConfigError(
            f"block: got {block}, allowed {max(1, least)} to {MAX_BLOCK} for {int(present.sum())} domains of "
            f"positive weight; enlarge the block"
        )
    exact = p / p.sum() * block
    out = np.floor(exact).astype(np.int64)
    remainder = np.where(present, exact - out, -1.0)
    out[np.argsort(-remainder, kind="stable")[: block - int(out.sum())]] += 1
    out = np.where(present, np.maximum(out, min_quota), 0)
    while int(out.sum()) > block:
        surplus = np.where(out > min_quota, out - exact, -np.inf)
        out[int(np.argmax(surplus))] -= 1
    return tuple(int(q) for q in out)


@lru_cache(maxsize=64)
def tie_ranks(domains: tuple[str, ...], seed: int) -> tuple[int, ...]:
    """A seeded rank per domain, by its name, so that it does not depend on the order of the list."""
    by_hash = np.argsort(rehash(hash_ids(domains), seed, "block order"), kind="stable")
    ranks = np.empty(len(domains), dtype=np.int64)
    ranks[by_hash] = np.arange(len(domains))
    return tuple(int(r) for r in ranks)


@lru_cache(maxsize=16)
def block_order(quotas: tuple[int, ...], ties: tuple[int, ...]) -> tuple[Ints, Ints]:
    """Domain index and item index at each place of a block: two arrays of shape (Q,).

    The keys (2j + 1) / (2 q_k) are compared exactly: equal rationals round to the same float64, and
    unequal ones differ by at least 1 / (4 q q'), far above a rounding error for blocks up to MAX_BLOCK.
    """
    q = np.array(quotas, dtype=np.int64)
    domain = np.repeat(np.arange(len(q)), q)
    item = np.arange(len(domain)) - np.repeat(np.cumsum(q) - q, q)
    key = (2 * item + 1) / (2 * q[domain])
    order = np.lexsort((np.array(ties)[domain], key))
    domain, item = domain[order], item[order]
    # the arrays are shared by the cache
    domain.flags.writeable = item.flags.writeable = False
    return domain, item
