"""Edits that kernels name by row, applied to a batch through ``penstock.spans``.

Price: that of ``replace_spans``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from penstock.spans import replace_spans

if TYPE_CHECKING:
    from penstock.selectors.line_kernels import Edits


def apply_edits(batch: pa.RecordBatch, edits: Edits) -> dict[str, pa.Array]:
    """The columns of the batch that change: ``text``, ``content_hash`` and, where the batch has it, ``learn``."""
    if not edits.newlines.any():
        return replace_spans(batch, edits.rows, edits.starts, edits.stops)
    breaks = pa.array(["\n" * n for n in range(int(edits.newlines.max()) + 1)], pa.string())
    return replace_spans(batch, edits.rows, edits.starts, edits.stops, breaks.take(pa.array(edits.newlines)))
