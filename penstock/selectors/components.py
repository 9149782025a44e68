"""Connected components of a graph too large for one memory, as passes over ranges of its nodes.

A node is a 64-bit integer, ``part << 40 | row``; a component's label is its least node. Groups are never spelled out
as pairs: n nodes of one key are n - 1 edges to the least of them.

    linked       rows of one range of keys -> each node and the least one it is joined to within the range
    components   edges that fit into memory -> node, label (union-find)
    small_star   a node's smaller neighbours, and the node, are joined to the least of them
    large_star   a node's larger neighbours are joined to the least of its neighbours and itself

Small and large star in turn keep the components, never add an edge, and end with every node joined to its label, in
about log n rounds (Kiveris et al., "Connected Components in MapReduce and Beyond", SoCC 2014). A round that changes
nothing has ended: no node has two smaller neighbours, and none with a larger one has a smaller one.

Price: a range sorts its edges. 14M rows of keys take 4 s and 40 bytes each, 5M edges 1.9 s and 100 bytes each. A node
with d neighbours lies in one range with all of them: 60 bytes × d.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Nodes = NDArray[np.uint64]
ROW_BITS = 40


def pack(part: NDArray[Any], row: NDArray[Any]) -> Nodes:
    """Node of each (part, row): shape (n,)."""
    return np.asarray(part).astype(np.uint64) << np.uint64(ROW_BITS) | np.asarray(row).astype(np.uint64)


def unpack(node: Nodes) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """(part, row) of each node."""
    row = node & np.uint64((1 << ROW_BITS) - 1)
    return (node >> np.uint64(ROW_BITS)).astype(np.int32), row.astype(np.int64)


def linked(key: NDArray[np.uint64], node: Nodes) -> tuple[Nodes, Nodes]:
    """Edges that join all nodes of equal key, those of several keys too.

    Args:
        key, node: (n,), in any order; a node may come with many keys, and with one more than once.

    Returns:
        ``member`` and ``least`` (edges,), each member once and greater than its least node.
    """
    order = np.argsort(key)
    key, node = key[order], node[order]
    same = key[1:] == key[:-1]
    nodes, labels = components(node[1:][same], node[:-1][same])
    joined = nodes != labels
    return nodes[joined], labels[joined]


def components(one: Nodes, other: Nodes) -> tuple[Nodes, Nodes]:
    """Every node of the edges (one[i], other[i]), ascending, and the least node of its component."""
    from penstock.selectors import component_kernels

    # numbered by a sort: np.unique and np.searchsorted take ten times as long on random nodes
    ends = np.concatenate([one, other])
    order = np.argsort(ends)
    ends = ends[order]
    first = np.ones(len(ends), dtype=bool)
    first[1:] = ends[1:] != ends[:-1]
    nodes = ends[first]
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(first) - 1
    return nodes, nodes[component_kernels.roots(len(nodes), number[: len(one)], number[len(one) :])]


def small_star(node: Nodes, smaller: Nodes) -> tuple[Nodes, Nodes, int]:
    """One small-star step over all edges of some nodes to their smaller neighbours.

    Returns:
        ``greater`` and ``least`` (edges,), no edge twice, and how many edges were moved.
    """
    node, smaller, least = _with_least(node, smaller)
    moved = smaller != least
    return *_distinct(np.concatenate([smaller[moved], node]), np.concatenate([least[moved], least])), int(moved.sum())


def large_star(node: Nodes, neighbour: Nodes) -> tuple[Nodes, Nodes, int]:
    """One large-star step over all edges of some nodes, each edge given at both of its ends. Returns as small_star."""
    node, neighbour, least = _with_least(node, neighbour)
    least = np.minimum(least, node)
    larger = neighbour > node
    moved = larger & (least != node)
    return *_distinct(neighbour[larger], least[larger]), int(moved.sum())


def _with_least(node: Nodes, neighbour: Nodes) -> tuple[Nodes, Nodes, Nodes]:
    """Distinct edges by node, each with the node's least neighbour."""
    node, neighbour = _distinct(node, neighbour)
    first = np.ones(len(node), dtype=bool)
    first[1:] = node[1:] != node[:-1]
    start = np.maximum.accumulate(np.where(first, np.arange(len(node)), 0))
    return node, neighbour, neighbour[start]


def _distinct(one: Nodes, other: Nodes) -> tuple[Nodes, Nodes]:
    """Distinct pairs in ascending order."""
    order = np.lexsort((other, one))
    one, other = one[order], other[order]
    new = np.ones(len(one), dtype=bool)
    new[1:] = (one[1:] != one[:-1]) | (other[1:] != other[:-1])
    return one[new], other[new]
