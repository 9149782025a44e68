"""Drop documents that say what another one says: SemDeDup (Abbas et al. 2023, arXiv 2303.09540).

Only documents of one k-means group are compared, by the cosine of their embeddings. Inside a group rows stand in order
of their similarity to the centroid, ties by ``doc_id``: the farthest first with ``keep: farthest``, which is the
paper's choice, or the closest first. A row is dropped when it is at least ``threshold`` (the paper's 1 - epsilon)
similar to a row that was **kept** before it; its survivor is the most similar of those, the earliest among equals. So
no two kept rows of a group are that similar, and every dropped row has a kept one that is. (The authors' code also
drops a row that is similar to a dropped row alone; its drops include all of ours.)

The result depends on the rows alone, not on their order or on splits. Rows without a vector stay.

Price: n * kept * d products a group, by blocks of ``TILE`` rows, so memory is the group's vectors and 16 MB. A group of
more than ``SPLIT_ROWS`` rows is cut by a k-means of its own first, as quadratic time would not end; duplicates across
that cut are missed, as they are across groups. 10,000 documents of 256 dimensions in one group: 0.5 s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock import schema
from penstock.embedding.base import Vectors, unit_vectors
from penstock.errors import ConfigError
from penstock.selectors.kmeans import NO_GROUP, SIMILARITY, nearest, spherical_kmeans

REASON = "semantic_duplicate"
TILE = 2048  # rows compared at a time
SPLIT_ROWS = 65_536  # larger groups are cut
PIECE_ROWS = 16_384  # into pieces of about this size
_POINTS = 64  # rows a piece that the cut is learned from
_ROW = "semantic_row"
_NOISE = 1e-6  # of a cosine in float32: equal vectors reach a threshold of 1


@dataclass(frozen=True, kw_only=True)
class SemanticDuplicates:
    """Grouped: keeps one row of every set of documents that mean the same.

    Args:
        threshold: cosine from which a row repeats another. What that means depends on the embedder and on how much
            text it reads (docs/embedding.md); 0.97 parts copies with a tenth of their words changed from pages of one
            book.
        keep: which of two stays: ``farthest`` from the group's centroid (the paper) or ``closest``.
    """

    threshold: float = 0.97
    keep: Literal["farthest", "closest"] = "farthest"

    name: ClassVar[str] = "semantic_duplicates"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("doc_id", "embedding", "group", SIMILARITY)
    adds: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ConfigError(
                f"deduplicate.semantic.threshold: got {self.threshold}, allowed above 0 to 1; 0.97 is a careful start"
            )
        if self.keep not in ("farthest", "closest"):
            raise ConfigError(f"deduplicate.semantic.keep: got {self.keep!r}, allowed farthest or closest")

    def keyed(self, batch: pa.RecordBatch) -> pa.Table:
        """``key`` (the group), ``doc_id``, ``similarity`` and ``embedding`` of each row that has a group."""
        rows = batch.filter(pc.not_equal(batch["group"], NO_GROUP))
        return pa.table(
            {
                "key": rows["group"],
                "doc_id": rows["doc_id"],
                "similarity": rows[SIMILARITY],
                "embedding": rows["embedding"],
            }
        )

    def judge(self, group: pa.Table) -> pa.Table:
        """The rows to drop, in order of (key, doc_id).

        Args:
            group: what ``keyed`` gives, and any further columns, which are passed through. Every row of a key must be
                here; the order of rows does not matter.

        Returns:
            The further columns, then ``doc_id``, ``reason`` and ``survivor`` (the ``doc_id`` that stays).
        """
        schema.require(group.column_names, ("key", "doc_id", "similarity", "embedding"), where=f"step {self.name}")
        small = group.drop_columns(["embedding"])
        small = small.append_column(_ROW, pa.array(np.arange(group.num_rows, dtype=np.int64)))
        small = small.sort_by([("key", "ascending"), ("doc_id", "ascending")]).combine_chunks()
        embedding = group["embedding"].combine_chunks()
        gone, kept = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for start, stop in _runs(small["key"]):
            rows = small.slice(start, stop - start)
            vectors = unit_vectors(embedding.take(rows[_ROW].combine_chunks()))
            dropped, survivor = self._of_group(vectors, rows["similarity"].to_numpy())
            gone.append(start + dropped)
            kept.append(start + survivor)
        lost = small.take(pa.array(np.concatenate(gone)))
        taken = ("key", "doc_id", "similarity", "embedding")
        columns: dict[str, Any] = {name: lost[name] for name in group.column_names if name not in taken}
        columns["doc_id"] = lost["doc_id"]
        columns["reason"] = pa.repeat(pa.scalar(REASON), lost.num_rows)
        columns["survivor"] = small["doc_id"].take(pa.array(np.concatenate(kept)))
        return pa.table(columns)

    def _of_group(
        self, vectors: Vectors, similarity: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows to drop, rising, and the survivor of each; rows come in order of ``doc_id``."""
        survivor = np.full(len(vectors), -1, dtype=np.int64)
        for piece in pieces(vectors):
            # a stable sort leaves equal similarities in order of doc_id
            rank = similarity[piece] if self.keep == "farthest" else -similarity[piece]
            order = piece[np.argsort(rank, kind="stable")]
            found = survivors(vectors[order], self.threshold)
            survivor[order] = np.where(found < 0, -1, order[found])
        dropped = np.flatnonzero(survivor >= 0)
        return dropped, survivor[dropped]


def _runs(keys: pa.ChunkedArray) -> Iterator[tuple[int, int]]:
    """Half-open ranges of equal values in a sorted column."""
    code = keys.combine_chunks().dictionary_encode()
    edges = np.flatnonzero(np.diff(code.indices.to_numpy(zero_copy_only=False), prepend=-1, append=-1))
    yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)


def pieces(vectors: Vectors) -> list[NDArray[np.int64]]:
    """Row numbers of the pieces a group is compared in: one, or those of a k-means of its own."""
    rows = len(vectors)
    if rows <= SPLIT_ROWS:
        return [np.arange(rows, dtype=np.int64)]
    count = math.ceil(rows / PIECE_ROWS)
    sample = vectors[np.linspace(0, rows, min(rows, count * _POINTS), endpoint=False).astype(np.int64)]
    index, _ = nearest(vectors, spherical_kmeans(sample, count, seed=0))
    return [np.flatnonzero(index == piece) for piece in range(count)]


def survivors(vectors: Vectors, threshold: float) -> NDArray[np.int64]:
    """For each row, in order, the most similar kept row before it if that is similar enough, else -1: it is kept.

    Args:
        vectors: (n, d) float32 of unit length, the row to prefer first.
    """
    from threadpoolctl import threadpool_limits

    from penstock.selectors import _group_kernels

    rows = len(vectors)
    bar = np.float32(threshold - _NOISE)
    out = np.full(rows, -1, dtype=np.int64)
    kept_rows = np.zeros(0, dtype=np.int64)
    # a product on several threads may differ in the last bit
    with threadpool_limits(limits=1):
        for first in range(0, rows, TILE):
            block = vectors[first : first + TILE]
            best = np.full(len(block), -2.0, dtype=np.float32)
            survivor = np.full(len(block), -1, dtype=np.int64)
            for start in range(0, len(kept_rows), TILE):
                before = kept_rows[start : start + TILE]
                product = block @ vectors[before].T
                top = product.argmax(axis=1)
                value = product[np.arange(len(block)), top]
                better = value > best
                best[better] = value[better]
                survivor[better] = before[top[better]]
            kept = np.zeros(len(block), dtype=np.bool_)
            _group_kernels.choose(block @ block.T, bar, best, survivor, kept, first)
            out[first : first + len(block)] = survivor
            kept_rows = np.concatenate([kept_rows, first + np.flatnonzero(kept)])
    return out
