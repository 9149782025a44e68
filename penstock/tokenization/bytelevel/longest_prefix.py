"""Which sequences of tokens greedy longest prefixes give to a pretoken (WordPiece and its like).

From the left, the longest token that the rest begins with is taken (Maximum Prefix Encoding; Phan et al. 2024,
arXiv:2406.16829). A sequence is such an encoding when no token, begun where one of the sequence begins, is longer and
fits as well. Where the vocabulary lacks some token's prefix, neighbours do not decide that alone: with a, b, c and abc,
``a b`` and ``b c`` are encodings and ``a b c`` is none. So a *segment* is the set of trie nodes that the beginnings so
far have come to, as long as a longer token lies beyond them; a token may follow unless it leads one of them to one.

Price: the tokens below the open nodes, some ten to a thousand for a segment; segments are kept.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from penstock.tokenization.bytelevel.vocabulary import ROOT, Vocabulary


class LongestPrefix:
    """The segmentation of pretokens by longest prefixes; tokens are places.

    Args:
        vocabulary: the tokens.
        goes_on: tokens that only follow others in a pretoken, where such are told apart (``##``): (V,). A token that
            begins a pretoken is then none that follows.
        alone: places that are pretokens of their own, such as added tokens: (V,).
    """

    forgets = False  # what an earlier token could have become counts as well

    def __init__(self, vocabulary: Vocabulary, goes_on: NDArray[np.bool_] | None, *, alone: NDArray[np.bool_]) -> None:
        self._vocabulary = vocabulary
        self._alone = alone
        apart = goes_on is not None
        self._goes_on = goes_on if goes_on is not None else ~alone
        self.first: NDArray[np.bool_] = ~self._goes_on | alone if apart else np.ones(vocabulary.size, dtype=bool)
        self._following: NDArray[np.bool_] = self._goes_on & ~alone
        self.doubtful = np.zeros(vocabulary.size, dtype=bool)
        # a segment: {(node, whether the token began the pretoken)}; the first is that of a token that stands alone
        self._segments: list[frozenset[tuple[int, bool]]] = [frozenset()]
        self._numbers: dict[frozenset[tuple[int, bool]], int] = {}
        self._longer = functools.cache(self._longer_tokens)
        self.inner = functools.lru_cache(maxsize=1024)(self._inner)

    def _longer_tokens(self, node: int, begins: bool) -> NDArray[np.int64]:
        """Places of the tokens below a node that could have been taken where its own was."""
        vocabulary = self._vocabulary
        places = np.arange(vocabulary.low[node] + vocabulary.exact[node], vocabulary.high[node])
        kind = self.first & ~self._alone if begins else self._following
        return places[kind[places]]

    def _number(self, nodes: frozenset[tuple[int, bool]]) -> int:
        found = self._numbers.get(nodes)
        if found is None:
            found = self._numbers[nodes] = len(self._segments)
            self._segments.append(nodes)
        return found

    def begin(self, token: int) -> int:
        """The segment of a pretoken's first token, one of ``first``."""
        if self._alone[token]:
            return 0
        return self._number(self._open({(int(self._vocabulary.node_of[token]), True)}))

    def _open(self, nodes: set[tuple[int, bool]]) -> frozenset[tuple[int, bool]]:
        return frozenset(one for one in nodes if len(self._longer(*one)))

    def extend(self, segment: int, token: int) -> int:
        """The segment with one more token; -1 where a longer one would have been taken before."""
        if not self._following[token]:
            return -1
        vocabulary = self._vocabulary
        moved: set[tuple[int, bool]] = {(int(vocabulary.node_of[token]), False)}
        for node, begins in self._segments[segment]:
            kind = self.first & ~self._alone if begins else self._following
            for byte in vocabulary.tokens[token]:
                node = vocabulary.child(node, byte)
                if node < 0:
                    break
                low = int(vocabulary.low[node])
                if kind[low : low + int(vocabulary.exact[node])].any():
                    return -1
            else:
                moved.add((node, begins))
        return self._number(self._open(moved))

    def _inner(self, segment: int) -> NDArray[np.bool_]:
        """Tokens that may follow in the same pretoken: (V,)."""
        vocabulary = self._vocabulary
        out = self._following.copy()
        for node, begins in self._segments[segment]:
            depth = len(self._path(node))
            for place in self._longer(node, begins).tolist():
                at = ROOT
                for byte in vocabulary.tokens[place][depth:]:
                    at = vocabulary.child(at, byte)
                    if at < 0:
                        break
                else:
                    # whatever begins with the rest of the longer token completes it
                    out[vocabulary.low[at] : vocabulary.high[at]] = False
        return out

    def _path(self, node: int) -> bytes:
        out = bytearray()
        while node != ROOT:
            out.append(self._vocabulary.labels[node])
            node = int(self._vocabulary.parents[node])
        return bytes(reversed(out))

    def may_end(self, segment: int) -> bool:
        """Always: what is open only matters for what follows in the pretoken."""
        return True

    def may_go_on(self, segment: int) -> bool:
        """Whether the pretoken may have more tokens."""
        return segment != 0
