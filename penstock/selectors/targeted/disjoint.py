"""Keeps a pool and its target apart: a filter for rows whose text is a row of the target.

A selector that looks at a target ranks the target's own rows first, and a target that is also an evaluation set would
be trained on. Texts are compared by ``content_hash``, so exact copies are found; near-copies are for decontamination
(``selectors/decontaminate.py``).

Price: 16 bytes a target row in every worker, one look-up a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.selectors import artifact

REASON = "in_target"


@dataclass(frozen=True, kw_only=True)
class NotInTarget:
    """Filter: drops rows whose ``content_hash`` a target row has, with the reason ``in_target``."""

    path: str
    digest: str

    name: ClassVar[str] = "not_in_target"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("content_hash",)
    adds: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, target: pa.Table, folder: str) -> NotInTarget:
        """The filter of a target's rows (column ``content_hash``), saved under ``folder``."""
        hashes = sorted(set(target["content_hash"].to_pylist()))
        array = np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(len(hashes), 16)
        path, digest = artifact.save(folder, "target-hashes", {"hashes": array}, {})
        return cls(path=path, digest=digest)

    def decide(self, batch: pa.RecordBatch) -> pa.StringArray:
        there = pc.is_in(batch["content_hash"], value_set=_hashes(self.path, self.digest))
        return pc.if_else(there, pa.scalar(REASON), pa.scalar(None, pa.string()))


@lru_cache(maxsize=4)
def _hashes(path: str, digest: str) -> pa.Array:
    array = artifact.load(path, digest).arrays["hashes"]
    return pa.Array.from_buffers(pa.binary(16), len(array), [None, pa.py_buffer(array.tobytes())])
