"""Cut or replace pieces of text, and keep true what training learns from.

A row's column ``learn`` (``schema.DOCUMENTS``) lists the byte ranges of its text that training learns from, null where
that is all of it. Whoever changes text moves these ranges with it, and does so here.

``replace_spans`` takes byte spans and what comes in their place. Seen byte by byte:

- a byte that stays is learned if it was;
- a replacement is learned if every byte it stands for was. So one inside a learned range is, and one whose span
  crosses a border is not: the range ends, or begins, at its edge. What was no target never becomes one;
- text put between two bytes (an empty span) is learned if both of them are.

Ranges are then as few as say this: what a cut leaves of a range is one range, ranges that come to touch become one,
and one of no bytes is gone. A row without ranges left keeps an empty list: nothing of it is learned.

``map_pieces`` runs a text function on each stretch between borders apart and joins the results.

Price: ``replace_spans`` copies the text of the batch once, at 2 GB/s a core, and hashes the rows that changed, at
1 GB/s and 1 µs each; 70 ns a span. ``map_pieces`` copies nothing beside what the function makes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock import schema
from penstock.errors import InputError

LEARN = schema.DOCUMENTS.field("learn").type

_Int64s = NDArray[np.int64]


def replace_spans(
    batch: pa.RecordBatch,
    rows: NDArray[np.integer[Any]],
    starts: NDArray[np.integer[Any]],
    stops: NDArray[np.integer[Any]],
    replacements: pa.StringArray | None = None,
) -> dict[str, pa.Array]:
    """The columns of ``batch`` that change when spans of its text are cut or replaced.

    Args:
        batch: with ``text`` and, if there are any, ``content_hash`` and ``learn``. Null text reads as empty.
        rows: (spans,) row numbers, ascending.
        starts, stops: (spans,) byte offsets in the row's UTF-8 text, ascending and not overlapping within a row.
            An empty span is a place to insert.
        replacements: one text a span, null as empty; None cuts.

    Returns:
        ``text`` (of the type it had), ``content_hash`` (16 bytes) and, when the batch has it, ``learn``.

    Raises:
        InputError: a span does not fit its row, spans overlap or are out of order, one cuts a character, there is not
            one replacement a span, the ranges of a row are none, or the text would outgrow its type.
    """
    from penstock import _span_kernels as kernels
    from penstock import text

    column = text.without_nulls(batch["text"])
    offsets, data = text.row_views(column)
    rows, starts, stops = (_int64s(values) for values in (rows, starts, stops))
    if not rows.size == starts.size == stops.size:
        raise InputError(
            f"spans: got {rows.size} rows, {starts.size} starts and {stops.size} stops, allowed one of each a span"
        )
    _check_spans(offsets, data, rows, starts, stops)
    if replacements is None:
        new_offsets, new_data = _frozen(np.zeros(rows.size + 1, np.int64)), _frozen(np.zeros(0, np.uint8))
    else:
        if len(replacements) != rows.size:
            raise InputError(f"replacements: got {len(replacements)} for {rows.size} spans, allowed one a span")
        new_offsets, new_data = text.row_views(replacements)

    sizes = np.diff(new_offsets)
    lengths = np.diff(offsets)
    grown = np.zeros(len(column), np.int64)
    np.add.at(grown, rows, sizes - (stops - starts))
    out_offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths + grown)])
    content = kernels.assemble(offsets, data, rows, starts, stops, new_offsets, new_data, out_offsets[-1])
    out = {"text": _text_array(out_offsets, pa.py_buffer(content), column.type)}
    out["content_hash"] = _hashes(batch, out["text"], np.unique(rows))
    if "learn" in batch.schema.names:
        learn = batch["learn"]
        if learn.null_count < len(learn):
            bounds, ranges = learn_ranges(batch)
            learn = _learn_array(
                *kernels.move_ranges(bounds, ranges, lengths, rows, starts, stops, sizes), learn.is_null()
            )
        out["learn"] = learn
    return out


def map_pieces(batch: pa.RecordBatch, function: Callable[[pa.Array], pa.Array]) -> dict[str, pa.Array]:
    """``text`` and, when the batch has it, ``learn`` after ``function`` was applied to the text in pieces.

    Args:
        batch: with ``text`` and maybe ``learn``. Null text reads as empty.
        function: from texts (string or large_string) to as many texts of the same type. It sees the learned and the
            other stretches of a row one by one, so nothing it does reaches over a border; a row without ranges it sees
            whole.

    Learned stretches that come to touch become one range; one that comes out empty is gone.

    Raises:
        InputError: the ranges of a row are none, or ``function`` returns another number of texts.
    """
    from penstock import _span_kernels as kernels
    from penstock import text

    column = text.without_nulls(batch["text"])
    learn = batch["learn"] if "learn" in batch.schema.names else None
    if learn is None or learn.null_count == len(learn):
        whole = _applied(function, column)
        return {"text": whole} if learn is None else {"text": whole, "learn": learn}

    bounds, ranges = learn_ranges(batch)
    offsets, data = text.row_views(column)
    n = len(column)
    # a row of r ranges has 2r + 1 pieces, learned ones at odd places; they lie side by side in the buffer already
    counts = np.diff(bounds) + 1
    firsts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    edges = np.empty(firsts[-1] + 1, np.int64)
    opens = np.zeros(firsts[-1] + 1, np.bool_)
    opens[firsts] = True
    edges[firsts] = offsets
    edges[~opens] = ranges + np.repeat(offsets[:-1], np.diff(bounds))
    pieces = _text_array(edges, pa.py_buffer(data), column.type)
    made, made_data = text.row_views(text.without_nulls(_applied(function, pieces)))

    out_offsets = made[firsts]
    learned = np.ones(firsts[-1], np.bool_)
    learned[firsts[:-1]] = False
    within = np.arange(firsts[-1]) - np.repeat(firsts[:-1], counts)
    learned = np.flatnonzero(within % 2 == 1)
    base = np.repeat(out_offsets[:-1], np.diff(bounds) // 2)
    joined = kernels.join_ranges(bounds // 2, made[learned] - base, made[learned + 1] - base)
    return {
        "text": _text_array(out_offsets, pa.py_buffer(made_data), column.type),
        "learn": _learn_array(*joined, learn.is_null()) if n else learn,
    }


def learn_ranges(batch: pa.RecordBatch) -> tuple[_Int64s, _Int64s]:
    """The learned ranges of a batch with ``learn``, checked.

    Returns:
        ``bounds`` (rows + 1,) and ``ranges``: those of row i are ``ranges[bounds[i]:bounds[i + 1]]``, start, stop,
        start, stop, …; a row of null has none (``learn.is_null()`` tells it from an empty list).

    Raises:
        InputError: naming the row whose list has an odd length, is not sorted, reaches beyond the text or has a border
            inside a character.
    """
    from penstock import _span_kernels as kernels
    from penstock import text

    learn = batch["learn"].cast(LEARN)
    counts = pc.list_value_length(learn).fill_null(0).to_numpy()
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
    ranges = learn.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    offsets, data = text.row_views(batch["text"])
    wrong, row = kernels.bad_range(offsets, data, _frozen(bounds), _frozen(ranges))
    if wrong:
        found = ranges[bounds[row] : bounds[row + 1]]
        shown = ", ".join(str(position) for position in found[:8]) + (", …" if found.size > 8 else "")
        what = {
            kernels.ODD: "an even number of positions, start and stop of each range",
            kernels.UNSORTED: "positions from 0 up that do not fall",
            kernels.BEYOND_TEXT: f"positions up to the {offsets[row + 1] - offsets[row]} bytes of its text",
            kernels.IN_CHARACTER: "positions between characters",
        }[wrong]
        raise InputError(f"learn of row {row}: got [{shown}], allowed {what}; {_MEND_LEARN}")
    return bounds, ranges


_MEND_LEARN = "give ranges as byte offsets of the UTF-8 text"


def _check_spans(offsets: _Int64s, data: NDArray[np.uint8], rows: _Int64s, starts: _Int64s, stops: _Int64s) -> None:
    from penstock import _span_kernels as kernels

    wrong, i = kernels.bad_span(offsets, data, rows, starts, stops)
    if not wrong:
        return
    row = int(rows[i])
    length = int(offsets[row + 1] - offsets[row]) if 0 <= row < offsets.size - 1 else 0
    what = {
        kernels.NO_SUCH_ROW: f"rows 0 to {offsets.size - 2} of this batch",
        kernels.ROWS_FALL: f"rows that rise, and row {rows[i - 1]} came before; sort spans by row and start",
        kernels.BACKWARDS: "a start up to the stop",
        kernels.OUTSIDE: f"bytes 0 to {length} of its text",
        kernels.OVERLAPS: f"a start from {stops[i - 1]} on, where the span before it ends; sort them and join overlaps",
        kernels.CUTS_CHARACTER: "a start and a stop between characters; move them to the next character",
    }[wrong]
    raise InputError(f"span {i} of row {row}: got bytes {starts[i]} to {stops[i]}, allowed {what}")


def _applied(function: Callable[[pa.Array], pa.Array], texts: pa.Array) -> pa.Array:
    made = function(texts)
    if len(made) != len(texts) or made.type != texts.type:
        raise InputError(
            f"text function: got {len(made)} values of type {made.type} for {len(texts)} texts of type {texts.type}, "
            "allowed as many of the same type"
        )
    return made


def _hashes(batch: pa.RecordBatch, column: pa.Array, changed: _Int64s) -> pa.Array:
    """Content hashes of ``column``; only the changed rows are hashed where the batch knows the others."""
    from penstock.selectors.normalise import content_hashes

    if "content_hash" not in batch.schema.names:
        return content_hashes(column)
    if not changed.size:
        return batch["content_hash"]
    known = batch["content_hash"]
    start = known.offset * 16
    hashes = np.frombuffer(known.buffers()[1], np.uint8)[start : start + 16 * len(known)].reshape(-1, 16).copy()
    fresh = content_hashes(column.take(pa.array(changed)))
    hashes[changed] = np.frombuffer(fresh.buffers()[1], np.uint8)[: 16 * len(fresh)].reshape(-1, 16)
    return pa.FixedSizeBinaryArray.from_buffers(known.type, len(known), [None, pa.py_buffer(hashes)])


def _text_array(offsets: _Int64s, data: pa.Buffer, kind: pa.DataType) -> pa.Array:
    width: Any = np.int64 if pa.types.is_large_string(kind) else np.int32
    if offsets[-1] > np.iinfo(width).max:
        raise InputError(
            f"text: got {offsets[-1]} bytes in one batch of {kind}, allowed 2**31 - 1; use smaller batches"
        )
    return pa.Array.from_buffers(kind, offsets.size - 1, [None, pa.py_buffer(offsets.astype(width)), data])


def _learn_array(bounds: NDArray[np.int32], ranges: NDArray[np.int32], null: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(
        pa.array(bounds), pa.array(ranges), type=LEARN, mask=null if null.true_count else None
    )


def _int64s(values: NDArray[np.integer[Any]]) -> _Int64s:
    return _frozen(np.ascontiguousarray(values, dtype=np.int64))


def _frozen(values: NDArray[Any]) -> NDArray[Any]:
    """A view that cannot be written: numba compiles once more for writable arrays, and callers give both kinds."""
    view = values.view()
    view.flags.writeable = False
    return view
