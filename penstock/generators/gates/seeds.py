"""Drop copies of the seed set: the examples that a model was shown, or rows that one has already.

    copy_of_seed        equal but for case and white space
    near_copy_of_seed   Jaccard similarity of runs of ``ngram`` words of at least ``jaccard``

Candidates come from MinHash bands (``selectors.minhash``; 28 bands of 4 miss a similarity of 0.8 with a probability
below 10^-6, 0.7 with 0.0005 and 0.5 with 0.16), and each is verified by the exact similarity. Texts of fewer than
``ngram`` words are compared as a whole alone.

Price: the seeds are hashed once; an item costs some 20 µs and 1 µs for each candidate.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.generators.items import Item

_BANDS, _ROWS = 28, 4


@dataclass(frozen=True, kw_only=True)
class SeedCopies:
    """Gate: one of the reasons above.

    Args:
        seeds: texts that must not come again.
        jaccard: similarity from which on a text is a near copy.
        ngram: words of a run.

    Raises ConfigError for numbers out of range.
    """

    seeds: tuple[str, ...] = field(repr=False)
    jaccard: float = 0.7
    ngram: int = 3

    name: ClassVar[str] = "seeds"

    def __post_init__(self) -> None:
        if not 0.5 <= self.jaccard <= 1 or not 1 <= self.ngram <= 16:
            raise ConfigError(
                f"seeds: got jaccard {self.jaccard} and ngram {self.ngram}, allowed 0.5 to 1 and 1 to 16; texts less "
                "alike are not found by bands"
            )

    def setup(self) -> None:
        """Hash the seeds."""
        _index(self.seeds, self.ngram)

    def judge(self, items: Sequence[Item]) -> list[str | None]:
        index = _index(self.seeds, self.ngram)
        bands, sets = _hashed([item.text for item in items], self.ngram)
        out: list[str | None] = []
        for item, keys, own in zip(items, bands, sets, strict=True):
            if item.digest in index.digests:
                out.append("copy_of_seed")
                continue
            near = {row for key in keys.tolist() for row in index.rows.get(key, ())} if len(own) else set()
            alike = any(_jaccard(own, index.sets[row]) >= self.jaccard for row in near)
            out.append("near_copy_of_seed" if alike else None)
        return out


class _Index(NamedTuple):
    digests: frozenset[str]
    rows: dict[int, list[int]]  # band key to the seeds that have it
    sets: list[NDArray[Any]]


@functools.lru_cache(maxsize=8)
def _index(seeds: tuple[str, ...], ngram: int) -> _Index:
    bands, sets = _hashed(seeds, ngram)
    rows: dict[int, list[int]] = {}
    for row, keys in enumerate(bands):
        for key in keys.tolist() if len(sets[row]) else ():
            rows.setdefault(key, []).append(row)
    return _Index(frozenset(Item(text=seed).digest for seed in seeds), rows, sets)


def _hashed(texts: Sequence[str], ngram: int) -> tuple[NDArray[np.uint64], list[NDArray[Any]]]:
    """Band keys (n, bands) of texts, and the set of hashed runs of each."""
    import pyarrow as pa

    from penstock.selectors import minhash_kernels
    from penstock.selectors.minhash import MinHash

    column = pa.array(texts, pa.string())
    keys, _ = MinHash(ngram=ngram, bands=_BANDS, rows=_ROWS, min_shingles=1).keys(column)
    starts, hashes = minhash_kernels.shingles(column, ngram)
    return keys, [np.unique(hashes[start:stop]) for start, stop in pairwise(starts.tolist())]


def _jaccard(one: NDArray[Any], other: NDArray[Any]) -> float:
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)
