"""The four shapes of row work, and the one loop that applies them to a batch.

Row work is a frozen, picklable configuration object over ``pa.RecordBatch``. It knows nothing about
files, workers or engines; a notebook can call it. Whatever its shape it declares

    name      key in the statistics and in ``dropped.step``
    revision  raised whenever the output may change
    reads     columns it needs
    adds      columns it adds or replaces
    setup()   by option: loads its models, once per process
    files()   by option: the files its output depends on besides the rows (``sources.base.InputFile``)

    Filter     decide(batch)    -> one reason per row, null keeps             (the reason is the statistics key)
    Annotator  annotate(batch)  -> columns to add or to replace; with edit(batch) also counts of what was edited
    Fitted     summarise(batch) -> a mergeable summary; fit(summary, folder) -> Filter | Annotator
    Grouped    keyed(batch)     -> key, row, small payload, never text; judge(rows of equal keys) -> verdicts

A filter in full::

    @dataclass(frozen=True, kw_only=True)
    class MinBytes:
        minimum: int = 200
        name = "min_bytes"; revision = 1; reads = ("text",); adds = ()

        def decide(self, batch):
            short = pc.less(pc.binary_length(batch["text"]), self.minimum)
            return pc.if_else(short, "too_few_bytes", None)

>>> apply([MinBytes(minimum=3)], batch).reasons
{'min_bytes': {'too_few_bytes': 1}}
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc

from penstock import schema


@runtime_checkable
class Filter(Protocol):
    def decide(self, batch: pa.RecordBatch) -> pa.StringArray: ...


@runtime_checkable
class Annotator(Protocol):
    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]: ...


@runtime_checkable
class Editor(Annotator, Protocol):
    """An annotator that changes text, and counts what it did by kind."""

    def edit(self, batch: pa.RecordBatch) -> tuple[dict[str, pa.Array], dict[str, int]]: ...


class Summary(Protocol):
    """A global fact under construction. Merging is associative, commutative and exact."""

    def merge(self, other: Any) -> Any: ...
    def to_table(self) -> pa.Table: ...
    @classmethod
    def from_table(cls, table: pa.Table) -> Any: ...


@runtime_checkable
class Fitted(Protocol):
    def summarise(self, batch: pa.RecordBatch) -> Any: ...
    def fit(self, summary: Any, folder: str) -> Any: ...  # artifacts it needs are written below `folder`


@runtime_checkable
class Grouped(Protocol):
    def keyed(self, batch: pa.RecordBatch) -> pa.Table: ...
    def judge(self, group: pa.Table) -> pa.Table: ...


@dataclass
class Applied:
    """A batch after a chain of row work."""

    batch: pa.RecordBatch
    dropped: list[pa.RecordBatch]
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)  # work name -> reason -> rows
    rows: dict[str, tuple[int, int]] = field(default_factory=dict)  # work name -> (rows in, rows out)
    seconds: dict[str, float] = field(default_factory=dict)
    edits: dict[str, dict[str, int]] = field(default_factory=dict)  # work name -> kind -> pieces of text


def describe(work: Any) -> dict[str, Any]:
    """Name, revision and parameters: what a step's key needs to know about its row work."""
    config = dataclasses.asdict(work) if dataclasses.is_dataclass(work) and not isinstance(work, type) else {}
    return {"name": work.name, "revision": work.revision, "config": config}


def apply(works: Sequence[Any], batch: pa.RecordBatch, *, dropped: str = "sample") -> Applied:
    """Run filters and annotators over ``batch`` in order.

    Args:
        works: Filters and Annotators.
        batch: rows with at least the columns the first work reads.
        dropped: what to keep of a dropped row's text: ``ids``, ``sample`` (masked) or ``full``.
    """
    out = Applied(batch=batch, dropped=[])
    for work in works:
        name: str = work.name
        started = time.perf_counter()
        before = out.batch.num_rows
        schema.require(out.batch.schema.names, work.reads, where=f"step {name}")
        if isinstance(work, Filter):
            reasons = work.decide(out.batch)
            if reasons.null_count < before:
                gone = out.batch.filter(pc.is_valid(reasons))
                gone_reasons = reasons.drop_null()
                merge_counts(out.reasons, {name: value_counts(gone_reasons)})
                out.dropped.append(drop_rows(gone, gone_reasons, step=name, keep=dropped))
                out.batch = out.batch.filter(pc.is_null(reasons))
        elif isinstance(work, Editor):
            columns, edits = work.edit(out.batch)
            out.batch = with_columns(out.batch, columns)
            if edits:
                merge_counts(out.edits, {name: edits})
        else:
            out.batch = with_columns(out.batch, work.annotate(out.batch))
        out.rows[name] = (before, out.batch.num_rows)
        out.seconds[name] = out.seconds.get(name, 0.0) + time.perf_counter() - started
    return out


def with_columns(batch: pa.RecordBatch, columns: dict[str, pa.Array]) -> pa.RecordBatch:
    """``batch`` with columns added at the end, or replaced where the name exists."""
    for name, column in columns.items():
        if name in batch.schema.names:
            # parts of one table have one schema, whether their rows were edited or not
            place = batch.schema.get_field_index(name)
            nullable = batch.schema.field(place).nullable or column.null_count > 0
            batch = batch.set_column(place, pa.field(name, column.type, nullable), column)
        else:
            batch = batch.append_column(name, column)
    return batch


SAMPLE_CHARACTERS = 240  # a sample of a dropped row is looked at by people


def drop_rows(
    rows: pa.RecordBatch, reasons: pa.Array, *, step: str, keep: str = "sample", detail: pa.Array | None = None
) -> pa.RecordBatch:
    """Rows of the ``dropped`` table for ``rows``, with as much text as ``keep`` allows."""
    n = rows.num_rows
    text = kept_text(rows["text"], keep) if "text" in rows.schema.names else pa.nulls(n, pa.string())

    def column(name: str) -> pa.Array:
        return rows[name] if name in rows.schema.names else pa.nulls(n, pa.string())

    return pa.RecordBatch.from_arrays(
        [
            rows["doc_id"],
            pa.array([step] * n, pa.string()),
            reasons.cast(pa.string()),
            column("source"),
            column("domain"),
            detail if detail is not None else pa.nulls(n, pa.string()),
            text,
        ],
        schema=schema.DROPPED,
    )


def kept_text(text: pa.Array, keep: str = "sample") -> pa.Array:
    """As much of each text as ``keep`` allows: null (``ids``), a masked beginning (``sample``) or all (``full``)."""
    if keep == "ids":
        return pa.nulls(len(text), pa.string())
    if keep == "full":
        return text
    from penstock.selectors.pii import masked

    # masked before the cut: half an address would no longer look like one
    text = masked(pc.utf8_slice_codeunits(text, 0, 8 * SAMPLE_CHARACTERS))
    return pc.utf8_slice_codeunits(text, 0, SAMPLE_CHARACTERS)


def value_counts(values: pa.Array) -> dict[Any, int]:
    """How often each value stands in an array."""
    return {item["values"]: item["counts"] for item in values.value_counts().to_pylist()}


def merge_counts(into: dict[str, dict[str, int]], more: dict[str, dict[str, int]]) -> None:
    """Add nested counters in place."""
    for name, counts in more.items():
        into[name] = dict(Counter(into.get(name, {})) + Counter(counts))
