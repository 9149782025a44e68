"""What training saw of a document, as a score of that document.

Reads an aggregate of the ``signals`` table, one row per document (``doc_id``, ``excess_loss``), and joins
it to documents by hash and id: sorted 64-bit hashes are searched, then the ids are compared, so two ids
that share a hash are told apart. A document that training never saw has null, which a selector takes as
neutral.

Price: the aggregate is held once per process (16 bytes and the id per document; about 1 us each to load
when it has no ``id_hash`` column); a join costs one binary search per row, about 3M rows/s.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from penstock import schema
from penstock.errors import DatasetError
from penstock.seeding import hash_ids
from penstock.selectors.artifact import read_verified


@dataclass(frozen=True, eq=False)
class _Signals:
    """Aggregated signals in order of id hash; ``longest`` is the longest run of equal hashes."""

    hashes: NDArray[np.uint64]
    doc_id: pa.Array
    excess_loss: pa.Array
    longest: int


@cache
def _load(path: str, digest: str) -> _Signals:
    table = pq.read_table(io.BytesIO(read_verified(path, digest)))
    schema.require(table.column_names, ("doc_id", "excess_loss"), where=path)
    doc_id = table["doc_id"].cast(pa.string()).combine_chunks()
    if doc_id.null_count:
        raise DatasetError(f"{path}: got {doc_id.null_count} null doc_id(s); aggregate the signals by document again")
    loss = table["excess_loss"].cast(pa.float32()).combine_chunks()
    if pc.any(pc.is_nan(loss)).as_py():
        raise DatasetError(f"{path}: got NaN in excess_loss; training diverged there, leave those documents out")
    hashes = table["id_hash"].to_numpy() if "id_hash" in table.column_names else hash_ids(doc_id.to_pylist())
    order = pc.sort_indices(
        pa.table({"hash": hashes, "doc_id": doc_id}), [("hash", "ascending"), ("doc_id", "ascending")]
    )
    hashes, doc_id = hashes[order.to_numpy()], doc_id.take(order)
    if len(doc_id) > 1 and pc.any(pc.equal(doc_id[1:], doc_id[:-1])).as_py():
        raise DatasetError(f"{path}: a doc_id occurs twice; aggregate the signals to one row per document")
    _, counts = np.unique(hashes, return_counts=True)
    return _Signals(hashes, doc_id, pc.round(loss.take(order), 4), int(counts.max(initial=0)))


@dataclass(frozen=True, kw_only=True)
class SignalScore:
    """Annotator: adds ``score.excess_loss`` (float32, rounded to 1e-4, null where training saw nothing).

    Args:
        path: Parquet file of the aggregate: ``doc_id``, ``excess_loss`` and, to load faster, ``id_hash``.
        digest: its sha256, so that the score's identity is the file's content and a changed file is refused.
    """

    path: str
    digest: str

    name: ClassVar[str] = "signal_score"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("doc_id", "id_hash")
    adds: ClassVar[tuple[str, ...]] = ("score.excess_loss",)

    def setup(self) -> None:
        _load(self.path, self.digest)

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        signals = _load(self.path, self.digest)
        wanted = batch["id_hash"].to_numpy(zero_copy_only=False)
        first = np.searchsorted(signals.hashes, wanted)
        found = np.full(batch.num_rows, -1, dtype=np.int64)
        for step in range(signals.longest):
            at = first + step
            rows = np.flatnonzero(at < len(signals.hashes))
            rows = rows[signals.hashes[at[rows]] == wanted[rows]]
            same = pc.equal(batch["doc_id"].take(pa.array(rows)), signals.doc_id.take(pa.array(at[rows])))
            rows = rows[same.to_numpy(zero_copy_only=False)]
            found[rows] = at[rows]
        return {"score.excess_loss": signals.excess_loss.take(pa.array(found, mask=found < 0))}
