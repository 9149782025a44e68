"""Union-find over numbered nodes, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.kernels import kernel


def roots(nodes: int, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Least node of the component of each node 0 … nodes - 1 under the edges (one[i], other[i]): shape (nodes,)."""
    return _roots(nodes, one, other)


@kernel
def _roots(nodes: Any, one: Any, other: Any) -> NDArray[np.int64]:
    parent = np.arange(nodes)
    for i in range(one.size):
        a = one[i]
        b = other[i]
        # path halving: every other node on the way is hung one higher
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        # the lesser root stays, so that a root is always the least of its component
        if a < b:
            parent[b] = a
        else:
            parent[a] = b
    for i in range(nodes):
        parent[i] = parent[parent[i]]  # parents are lesser nodes and already at their roots
    return parent
