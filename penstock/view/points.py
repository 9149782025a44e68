"""The points of a map: two coordinates a document, with what is told of it.

A map that a run drew (``groups``) is shown as it is. Where there are only embeddings, some of them are drawn by chance
and projected on their two directions of largest variance.

Price: a map is 3,000 rows; of embeddings as many are read and projected, in a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.dataset import Dataset
from penstock.view.corpus import Corpus, sample_of
from penstock.view.index import Index

POINTS = 3_000
EXCERPT = 300  # characters
SCORE_COLUMN = "score."
_EMBEDDINGS = {"embeddings": "doc_id", "vectors": "id"}  # tables, and the column that names their rows


@dataclass(frozen=True)
class Points:
    """What is drawn: ``id``, ``domain``, ``x``, ``y``, ``text``, scores, and ``group`` where a run has groups."""

    of: str  # the step and the table that they come from
    table: pa.Table


def points_of(corpus: Corpus, index: Index) -> Points | None:
    """The points to draw, with text and scores of the rows that the index has; None where there are no embeddings."""
    drawn = next((d for d in reversed(corpus.datasets) if _has(d, "map", "doc_id", "x", "y")), None)
    if drawn is None:
        found = _projected(corpus)
        return None if found is None else Points(found[0], _told(found[1], index))
    rows = drawn.read("map")
    columns = {
        "id": rows["doc_id"].to_pylist(),
        "domain": rows["domain"].to_pylist(),
        "group": rows["group"].to_pylist(),
        "x": rows["x"].to_numpy(),
        "y": rows["y"].to_numpy(),
    }
    return Points(f"{drawn.manifest.step}, map", _told(columns, index))


def _projected(corpus: Corpus) -> tuple[str, dict[str, Any]] | None:
    """The last embeddings of the run, or else the vectors of what it made."""
    from penstock.embedding.base import unit_vectors
    from penstock.selectors.projection import project

    for table, column in _EMBEDDINGS.items():
        for dataset in reversed(corpus.datasets):
            if not _has(dataset, table, column, "embedding"):
                continue
            rows = [row.values for row in sample_of(dataset, (table,), POINTS, heavy=())[1]]
            rows = [row for row in rows if row["embedding"] is not None]
            if rows:
                kind = pa.list_(pa.float32(), len(rows[0]["embedding"]))
                vectors = unit_vectors(pa.array([row["embedding"] for row in rows], kind))
                x, y = project(vectors, method="pca").T
                groups = {"group": [row["kind"] for row in rows]} if "kind" in rows[0] else {}
                said = f"{dataset.manifest.step}, {table}"
                return said, {"id": [row[column] for row in rows], **groups, "x": x, "y": y}
    return None


def _told(columns: dict[str, Any], index: Index) -> pa.Table:
    """The columns, with text and scores of the rows that the index has."""
    known = [index.point(name, EXCERPT) for name in columns["id"]]
    if "domain" not in columns:
        columns["domain"] = [None if row is None else row["domain"] for row in known]
    columns["text"] = ["" if row is None else row["text"] for row in known]
    for name in index.scores:
        values = [None if row is None else row["scores"][name] for row in known]
        columns[f"{SCORE_COLUMN}{name}"] = pa.array(values, pa.float64())
    columns["x"], columns["y"] = (np.asarray(columns[axis], dtype=np.float32) for axis in ("x", "y"))
    return pa.table(columns)


def _has(dataset: Dataset, table: str, *columns: str) -> bool:
    entry = dataset.manifest.tables.get(table)
    return entry is not None and set(columns) <= entry.columns.keys()
