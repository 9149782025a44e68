"""The vocabulary of a tokenizer in the order of its tokens' bytes, so that a node of the byte trie is a range.

Tokens are called by their *place* in that order here. All tokens that begin with some bytes are neighbours, and those
that are exactly these bytes come first (several where two tokens have the same bytes: a byte of a fallback and a
character). Nodes are numbered breadth first, so the children of a node are neighbours too, ordered by byte.

Price: a pass over the bytes per level of the trie; 0.1 s for 50,000 tokens, 40 bytes a node.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROOT = 0


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """V tokens and the N nodes of their trie; node 0 is the root.

    Attributes:
        ids: token id at each place: (V,).
        tokens: bytes at each place.
        node_of: node at which each token ends: (V,).
        low, high: places below each node: (N,); ``low[n] : low[n] + exact[n]`` are the tokens that end at it.
        exact: how many tokens end at each node: (N,).
        first_child: (N + 1,); the children of ``n`` are ``first_child[n] : first_child[n + 1]``.
        labels: byte that leads to each node; the root has 0.
        parents: (N,); the root is its own.
    """

    ids: NDArray[np.int64]
    tokens: tuple[bytes, ...]
    node_of: NDArray[np.int64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    exact: NDArray[np.int64]
    first_child: NDArray[np.int64]
    labels: bytes
    parents: NDArray[np.int64]

    @classmethod
    def of(cls, ids: Sequence[int], tokens: Sequence[bytes]) -> Vocabulary:
        """Sort the tokens and build the trie. ``tokens`` are not empty."""
        order = sorted(range(len(ids)), key=lambda i: (tokens[i], ids[i]))
        in_order = tuple(tokens[i] for i in order)
        lengths = np.array([len(token) for token in in_order], dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        data = np.frombuffer(b"".join(in_order), dtype=np.uint8)
        count = len(in_order)
        node_of = np.zeros(count, dtype=np.int64)
        low, high = [np.array([0])], [np.array([count])]
        exact, parents, labels = [np.array([0])], [np.array([0])], [np.array([0], dtype=np.uint8)]
        active, at = np.arange(count), np.zeros(count, dtype=np.int64)  # tokens longer than the depth, and their node
        numbered, depth = 1, 0
        while len(active):
            byte = data[offsets[active] + depth]
            new = np.ones(len(active), dtype=bool)
            new[1:] = (byte[1:] != byte[:-1]) | (at[1:] != at[:-1])
            child = np.cumsum(new) - 1
            starts = np.flatnonzero(new)
            ends = np.append(starts[1:], len(active)) - 1
            depth += 1
            done = lengths[active] == depth
            low.append(active[starts])
            high.append(active[ends] + 1)
            exact.append(np.bincount(child[done], minlength=len(starts)))
            parents.append(at[starts])
            labels.append(byte[starts])
            at = child + numbered
            node_of[active[done]] = at[done]
            numbered += len(starts)
            active, at = active[~done], at[~done]
        parent = np.concatenate(parents)
        first_child = 1 + np.searchsorted(parent[1:], np.arange(numbered + 1))
        return cls(
            ids=np.array([ids[i] for i in order], dtype=np.int64),
            tokens=in_order,
            node_of=node_of,
            low=np.concatenate(low).astype(np.int64),
            high=np.concatenate(high).astype(np.int64),
            exact=np.concatenate(exact).astype(np.int64),
            first_child=first_child.astype(np.int64),
            labels=np.concatenate(labels).tobytes(),
            parents=parent.astype(np.int64),
        )

    @property
    def size(self) -> int:
        """Tokens, V."""
        return len(self.tokens)

    @property
    def nodes(self) -> int:
        """Nodes, N."""
        return len(self.parents)

    def child(self, node: int, byte: int) -> int:
        """The node one byte further; -1 where no token goes on so."""
        first = self._first
        return self.labels.find(byte, first[node], first[node + 1])

    def children(self, node: int) -> tuple[int, int]:
        """The first child of a node, and the one after the last."""
        return self._first[node], self._first[node + 1]

    # a list is read much faster than an array, one element at a time
    @functools.cached_property
    def _first(self) -> list[int]:
        return self.first_child.tolist()  # type: ignore[no-any-return]

    @functools.cached_property
    def bounds(self) -> tuple[list[int], list[int], list[int]]:
        """``low``, ``exact`` and ``high`` as lists."""
        return self.low.tolist(), self.exact.tolist(), self.high.tolist()

    @functools.cached_property
    def label_array(self) -> NDArray[np.uint8]:
        """``labels`` as numbers: (N,)."""
        return np.frombuffer(self.labels, dtype=np.uint8)

    @functools.cached_property
    def depths(self) -> list[int]:
        """Bytes that lead to each node."""
        out = [0] * self.nodes
        for node, parent in enumerate(self.parents.tolist()):
            if node:
                out[node] = out[parent] + 1  # parents have smaller numbers
        return out
