"""Which sequences of tokens byte-pair encoding gives to a pretoken, without encoding anything.

A sequence is the encoding of its bytes exactly when every token is what its own bytes encode to and no merge joins two
neighbours (``pair_ok``; the argument is that of the ``bpe`` crate of rust-gems). A merge that joins them is found among
few: those of a piece on the right edge of the left token with a piece on the left edge of the right one, at a moment
when both are there. The other way round this gives all tokens that clash with a left token at once (``clashes``): a
minority, kept for the left tokens used last.

A merge list may hold several merges that make one token, as those converted from SentencePiece do. Only one of them
makes it of its own bytes; a token that none makes is never used, but for ``ignore_merges``: there a pretoken that is a
token as a whole becomes that token, whatever the merges say.

Price: 0.3 us a pair, some 50 us for all clashes of a token, half a second to prepare 50,000 tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.tokenization.bytelevel.vocabulary import Vocabulary

_KEPT = 4096  # left tokens whose clashes are kept; some 10 KB each


class BytePairs:
    """The segmentation of pretokens by merges; tokens are places.

    A *segment* is what counts of the tokens of a pretoken so far for those to come: the last one, and with
    ``ignore_merges`` whether together they spell a token that the merges do not make.

    Args:
        vocabulary: the tokens.
        atoms: for each place the places of the bytes or characters it consists of; empty for one that merges never use.
        merges: (left, right, made) places in order of rank.
        ignore_merges: whether a pretoken that is a token becomes it before any merge.
        alone: places that are pretokens of their own, such as added tokens: (V,).

    Raises:
        ConfigError: a token's own merge comes before one that makes a part of it.
    """

    forgets = True

    def __init__(
        self,
        vocabulary: Vocabulary,
        atoms: Sequence[Sequence[int]],
        merges: NDArray[np.int64],
        *,
        ignore_merges: bool = False,
        alone: NDArray[np.bool_] | None = None,
    ) -> None:
        from penstock.tokenization.bytelevel import _merge_kernels as kernels

        self._kernels: Any = kernels
        size = vocabulary.size
        self._size = size
        flat = np.fromiter((place for token in atoms for place in token), dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum([len(token) for token in atoms])]).astype(np.int64)
        left, right, made = (np.ascontiguousarray(merges[:, k]) for k in range(3))
        slots = 1 << max(4, int(2 * len(merges)).bit_length())
        self._keys, self._values = kernels.pair_table(left, right, slots)
        self._made = made
        by = kernels.built(flat, offsets, self._keys, self._values, made)
        self.reachable: NDArray[np.bool_] = by >= -1
        self._rank = np.maximum(by, -1)
        grown = by >= 0
        self._left = np.where(grown, left[self._rank] if len(left) else 0, -1)
        self._right = np.where(grown, right[self._rank] if len(right) else 0, -1)
        late = grown & (np.maximum(self._rank[self._left], self._rank[self._right]) >= self._rank)
        if late.any():
            token = vocabulary.tokens[int(np.flatnonzero(late)[0])]
            raise ConfigError(
                f"tokenizer: its merges make {token!r} of a part that a later merge makes, an order that no training "
                "gives and in which neighbours cannot be judged in pairs; allowed are merges whose parts come first"
            )
        # merges by their left part; those of a pair that stands twice, or of parts that never occur, left out
        current = np.flatnonzero(self.reachable[left] & self.reachable[right])
        current = current[[self._rank_of(int(left[m]), int(right[m])) == m for m in current]]
        current = current[np.argsort(left[current], kind="stable")]
        self._by_left = np.searchsorted(left[current], np.arange(size + 1))
        self._partner, self._merge_rank = right[current], current.astype(np.int64)
        tokens = np.flatnonzero(grown)
        tokens = tokens[np.lexsort((-self._rank[tokens], self._left[tokens]))]
        self._grown, self._built_on = tokens, np.searchsorted(self._left[tokens], np.arange(size + 1))
        self.clashes = functools.lru_cache(maxsize=_KEPT)(self._clashes)
        self._trie: list[dict[int, int]] = [{}, {}]  # 0: none of the tokens below; 1: the root
        self._spelled: set[int] = set()
        self.first = self.reachable.copy()
        self.doubtful = np.zeros(size, dtype=bool)
        if ignore_merges:
            for place in np.flatnonzero(~self.reachable).tolist():
                if len(atoms[place]):
                    self.first[place] = True
                    self._spell(flat[offsets[place] : offsets[place + 1]])
        if alone is not None:
            self.first |= alone
        self._whole = len(self._trie)

    def _spell(self, atoms: NDArray[np.int64]) -> None:
        """Enter the merges' own encoding of a token that they do not make."""
        symbols = atoms.copy()
        length, _ = self._kernels.merge(symbols, self._keys, self._values, self._made)
        node = 1
        for token in symbols[:length].tolist():
            if token not in self._trie[node]:
                self._trie[node][token] = len(self._trie)
                self._trie.append({})
            node = self._trie[node][token]
            self.doubtful[token] = True
        self._spelled.add(node)

    def _rank_of(self, left: int, right: int) -> int:
        mask = len(self._keys) - 1
        key = left << 32 | right
        mixed = (key * 0x9E3779B97F4A7C15) & (2**64 - 1)
        at = (mixed ^ (mixed >> 32)) & mask
        while self._keys[at] not in (-1, key):
            at = (at + 1) & mask
        return int(self._values[at])

    # ── pairs ────────────────────────────────────────────────────────────────────────────────────

    def pair_ok(self, left: int, right: int) -> bool:
        """Whether the two reachable tokens may be neighbours in a pretoken."""
        return bool(self._kernels.pair_ok(left, right, self._rank, self._left, self._right, self._keys, self._values))

    def _clashes(self, left: int) -> NDArray[np.int32]:
        found = self._kernels.clashes(
            left,
            self._rank,
            self._right,
            self._by_left,
            self._partner,
            self._merge_rank,
            self._built_on,
            self._grown,
        )
        return found.astype(np.int32)  # type: ignore[no-any-return]

    # ── segments ─────────────────────────────────────────────────────────────────────────────────

    def begin(self, token: int) -> int:
        """The segment of a pretoken's first token, one of ``first``."""
        if not self.reachable[token]:
            return self._whole * self._size + token
        return self._trie[1].get(token, 0) * self._size + token

    def extend(self, segment: int, token: int) -> int:
        """The segment with one more token; -1 where a merge would join it to the last."""
        node, last = divmod(segment, self._size)
        if not self.reachable[token] or not self.pair_ok(last, token):
            return -1
        return (self._trie[node].get(token, 0) if node else 0) * self._size + token

    def inner(self, segment: int) -> NDArray[np.bool_]:
        """Tokens that may follow in the same pretoken: (V,)."""
        out = self.reachable.copy()
        out[self.clashes(segment % self._size)] = False
        return out

    def may_end(self, segment: int) -> bool:
        """Whether the pretoken may be over."""
        return segment // self._size not in self._spelled

    def may_go_on(self, segment: int) -> bool:
        """Whether the pretoken may have more tokens."""
        return segment // self._size != self._whole
