"""What was accepted before: exact and near-duplicates over the whole set, not over the anchors alone.

Anchors are pruned, so a copy of an item that is no anchor any more would have a large gain; here nothing is forgotten.

    exact   equal text, its case and white space folded
    near    Jaccard similarity of the sets of word 5-grams of at least ``near``; candidates by shared MinHash keys

A text of fewer than five 5-grams is compared as a whole alone, as everywhere in penstock (``selectors.minhash``).

Price: 14 keys and the hashes of its 5-grams an accepted item; one dictionary look-up a key of a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.generators.items import Item
from penstock.selectors.minhash import MinHash

EXACT, NEAR = "exact_duplicate", "near_duplicate"


class Print(NamedTuple):
    """What a text is recognised by."""

    digest: str
    keys: tuple[int, ...]  # none for a short text
    shingles: frozenset[int]


class Duplicate(NamedTuple):
    """Of which accepted item, and in which way."""

    item_id: str
    reason: str


def prints_of(items: Sequence[Item]) -> list[Print]:
    """Prints of items, all in one call of the compiled loops."""
    from penstock.selectors import minhash_kernels

    if not items:
        return []
    minhash = MinHash()
    texts = pa.array([item.text for item in items], pa.string())
    keys, long = minhash.keys(texts)
    ends, hashes = minhash_kernels.shingles(texts, minhash.ngram)
    return [
        Print(
            item.digest,
            tuple(keys[row].tolist()) if long[row] else (),
            frozenset(_slice(hashes, ends, row).tolist()) if long[row] else frozenset(),
        )
        for row, item in enumerate(items)
    ]


def _slice(hashes: NDArray[np.uint32], ends: NDArray[np.int64], row: int) -> NDArray[np.uint32]:
    return hashes[ends[row] : ends[row + 1]]


@dataclass
class Seen:
    """All accepted items, in the order they were added."""

    near: float
    _exact: dict[str, str] = field(default_factory=dict)  # digest -> item
    _long: list[tuple[str, frozenset[int]]] = field(default_factory=list)  # items that have keys, with their shingles
    _holders: dict[tuple[int, int], list[int]] = field(default_factory=dict)  # (band, key) -> places in _long

    def add(self, item_id: str, known: Print) -> None:
        self._exact.setdefault(known.digest, item_id)
        for key in enumerate(known.keys):
            self._holders.setdefault(key, []).append(len(self._long))
        if known.keys:
            self._long.append((item_id, known.shingles))

    def find(self, new: Print) -> Duplicate | None:
        """What a text duplicates; of several the most similar one, then the earliest."""
        if new.digest in self._exact:
            return Duplicate(self._exact[new.digest], EXACT)
        found, most = None, 0.0
        for place in sorted({place for key in enumerate(new.keys) for place in self._holders.get(key, ())}):
            item_id, other = self._long[place]
            common = len(new.shingles & other)
            similarity = common / (len(new.shingles) + len(other) - common)
            if similarity >= self.near and similarity > most:
                found, most = Duplicate(item_id, NEAR), similarity
        return found
