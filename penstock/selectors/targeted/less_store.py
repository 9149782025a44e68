"""Gradient features on disk: one Parquet file for every (checkpoint, part of the pool), found by what decides it.

    STORE/3f2a…/checkpoint-2/9c01….parquet      doc_id, has_gradient, features: FixedSizeList<float16>[D]

The folder is named by a digest of the model, the checkpoint and the settings, the file by one of the part's ids, texts
and learned ranges in their order. A file is written in one atomic operation, so after a kill there are whole files and
missing ones, and only the missing ones are made again. Another target of the same pool makes none: features do not
depend on the target.

Features are float16 whether or not they are stored, so scores are the same with a store and without.

Price: 2 D bytes an example and checkpoint: 16 KiB at 8,192 dimensions, 4.4 GB for 270,000 examples and one checkpoint.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from penstock.digest import row_hashes
from penstock.errors import DatasetError
from penstock.storage import Folder

Features = NDArray[np.float16]


@dataclass(frozen=True, kw_only=True)
class GradientStore:
    """Features of parts of a pool under ``path``, a folder or URL; without one nothing is kept."""

    path: str | None = None

    def read(self, key: str, checkpoint: int, part: str, *, rows: int, dimensions: int) -> Features | None:
        """Features (rows, dimensions), NaN in rows without a gradient; None where they are not there.

        Args:
            key: digest of what decides the features besides the rows.
            checkpoint: its number, from 1.
            part: ``part_of`` the rows.

        Raises:
            DatasetError: the file is damaged, or of another shape.
        """
        if self.path is None:
            return None
        home, name = Folder(self.path), _name(key, checkpoint, part)
        try:
            table = pq.read_table(pa.BufferReader(home.read_bytes(name)))
            column, there = table["features"].combine_chunks(), table["has_gradient"].to_numpy()
        except FileNotFoundError:
            return None
        except (pa.ArrowException, KeyError, OSError) as error:
            raise DatasetError(f"{home.join(name)}: cannot be read ({error}); delete it and run again") from error
        if len(column) != rows or column.type != pa.list_(pa.float16(), dimensions):
            raise DatasetError(
                f"{home.join(name)}: got {len(column)} rows of {column.type}, expected {rows} of {dimensions} float16; "
                "delete it and run again"
            )
        features: Features = column.flatten().to_numpy().reshape(-1, dimensions)
        return np.where(there[:, None], features, np.float16(np.nan))

    def write(self, key: str, checkpoint: int, part: str, ids: pa.Array, features: Features) -> None:
        """Keep the features (n, D) of the rows ``ids``, in their order; a row that begins with NaN has none."""
        if self.path is None:
            return
        there = ~np.isnan(features[:, 0])
        # a list that is null does not come back from Parquet with the size of the others
        values = pa.array(np.where(there[:, None], features, np.float16(0)).ravel(), pa.float16())
        column = pa.FixedSizeListArray.from_arrays(values, type=pa.list_(pa.float16(), features.shape[1]))
        out = io.BytesIO()
        # gradients hold noise in every bit: packing them costs time and saves nothing
        table = pa.table({"doc_id": ids, "has_gradient": pa.array(there), "features": column})
        pq.write_table(table, out, compression="none", use_dictionary=False)
        Folder(self.path).write_bytes(_name(key, checkpoint, part), out.getvalue())


def part_of(batch: pa.RecordBatch) -> str:
    """Digest of a batch's ids, texts and learned ranges in their order."""
    names = [name for name in ("doc_id", "text", "learn") if name in batch.schema.names]
    lanes = row_hashes(batch.select(names))
    return hashlib.blake2b(",".join(names).encode() + lanes.tobytes(), digest_size=16).hexdigest()


def _name(key: str, checkpoint: int, part: str) -> str:
    return f"{key[:16]}/checkpoint-{checkpoint}/{part}.parquet"
