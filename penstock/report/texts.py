"""Texts of a few documents of a run. Price: the ids of the scored documents, and the row groups that hold one."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock.dataset import Dataset
from penstock.storage import Folder


def texts_of(root: Folder, ids: set[str]) -> dict[str, str]:
    """Text of a few documents; only row groups that hold one of them are read past their ids."""
    scored = Dataset(root / "scored")
    out: dict[str, str] = {}
    for entry in scored.table("documents").files:
        if len(out) == len(ids):
            break
        with scored.folder.open_read(entry.path) as file, pq.ParquetFile(file) as parquet:
            for group in range(parquet.num_row_groups):
                found = parquet.read_row_group(group, ["doc_id"])["doc_id"]
                rows = pc.is_in(found, pa.array(sorted(ids), pa.string()))
                if pc.any(rows).as_py():
                    texts = parquet.read_row_group(group, ["doc_id", "text"]).filter(rows)
                    out |= dict(zip(texts["doc_id"].to_pylist(), texts["text"].to_pylist(), strict=True))
    return out
