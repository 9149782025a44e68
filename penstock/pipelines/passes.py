"""A pass: a function over splits that writes named parts, on any engine, resumable by part.

A split is a unit of input (a byte range of a file, a part of a parent, a hash range). The work is a
picklable callable ``work(split, out)``; ``out`` is a PartWriter. When a split is done its receipt is
written: one small JSON file that names the parts, their sha256 and digests, and the counters. A
rerun makes only splits without a receipt. Because work is a function of the split alone, any engine
and any number of workers make the same parts, and the output order is the order of splits.

Text goes straight from the split to its part; nothing but receipts returns to the driver.

A split may say by a ``memo`` what decides its output beside the settings of its pass: the content it
reads. Its receipt is then kept with the dataset, and a later build takes the parts over instead of
making them again (``step.Context.run``).

Price: one receipt a split (about 1 kB); a split in flight holds one row group of each of its tables.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from penstock import work as rowwork
from penstock.dataset import Counts, FileEntry, TableEntry, TableWriter, hash_json
from penstock.digest import TableDigest, columns_of
from penstock.storage import Folder


@dataclass(frozen=True)
class Split:
    """One unit of work; ``payload`` is what the work needs to find its input (JSON values or frozen dataclasses).

    ``memo`` is a digest of the content that the split reads and that may change its output; splits of equal memo
    make equal rows, wherever they stand. Empty where that is not known: such a split is never taken over.
    """

    index: int
    payload: Any
    memo: str = ""

    @functools.cached_property
    def id(self) -> str:
        """Names the split's parts: its place in the order and a hash of what it reads."""
        text = json.dumps(self.payload, sort_keys=True, default=asdict) + self.memo
        return f"{self.index:05d}-{hashlib.blake2b(text.encode(), digest_size=5).hexdigest()}"


def splits_of(payloads: Iterable[Any]) -> list[Split]:
    return [Split(i, p) for i, p in enumerate(payloads)]


@dataclass
class Part:
    """One table's file made by one split."""

    file: FileEntry
    digest: TableDigest
    columns: dict[str, str]


@dataclass
class Receipt:
    """What a split made; its existence means that the split is done."""

    split: str
    parts: dict[str, Part] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    rows: dict[str, list[int]] = field(default_factory=dict)  # row work -> [rows in, rows out]
    seconds: dict[str, float] = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)  # nested counters; those of all splits are summed
    buckets: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)  # table -> bucket -> row groups

    def to_json(self) -> dict[str, Any]:
        # by hand: asdict copies every counter, and an increment writes the receipts of all parts
        parts = {
            name: {"file": vars(p.file), "digest": vars(p.digest), "columns": list(p.columns.items())}
            for name, p in self.parts.items()
        }
        return vars(self) | {"parts": parts, "counts": vars(self.counts)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Receipt:
        parts = {
            name: Part(FileEntry(**p["file"]), TableDigest(**p["digest"]), dict(p["columns"]))
            for name, p in value["parts"].items()
        }
        return cls(
            value["split"],
            parts,
            Counts(**value["counts"]),
            value["rows"],
            value["seconds"],
            value["stats"],
            {table: {b: (g[0], g[1]) for b, g in groups.items()} for table, groups in value["buckets"].items()},
        )


class PartWriter:
    """Where the work of one split puts its tables, files and counters."""

    def __init__(self, folder: Folder, prefix: str, split: Split) -> None:
        self._folder, self._prefix = folder, prefix
        # a name of its own for every attempt: a worker believed dead may still be writing
        self._stem = f"{prefix}/{split.id}.{uuid.uuid4().hex[:8]}"
        self._writers: dict[str, tuple[str, TableWriter]] = {}
        self.receipt = Receipt(split.id)

    def write(self, table: str, batch: pa.RecordBatch, **options: Any) -> None:
        """Append rows to a table; ``options`` of its ``TableWriter`` count on first use."""
        if batch.num_rows == 0:
            return
        if table not in self._writers:
            path = f"{self._stem}.{table}.parquet"
            self._writers[table] = (path, TableWriter(self._folder.open_write(path), batch.schema, **options))
        self._writers[table][1].write(batch)

    def bucket(self, table: str, bucket: str, rows: pa.RecordBatch) -> None:
        """Write rows of one bucket as row groups of their own, so that they can be read alone.

        More of the same bucket may follow at once, but not after another bucket's rows.
        """
        if rows.num_rows == 0:
            return
        self.write(table, rows)
        writer = self._writers[table][1]
        writer.end_group()
        groups = self.receipt.buckets.setdefault(table, {})
        end = max((last for _, last in groups.values()), default=0)
        first, last = groups.get(bucket, (end, end))
        assert last == end, f"bucket {bucket} of {table} was closed"
        groups[bucket] = (first, writer.groups)

    def add_stats(self, more: dict[str, Any]) -> None:
        """Add nested counters to the split's statistics; equal paths sum."""
        add_numbers(self.receipt.stats, more)

    def file(self, table: str, data: Callable[[Any], TableDigest], suffix: str, rows: int, schema: pa.Schema) -> None:
        """Write one file of another format: ``data(sink)`` writes it and returns the digest of its rows."""
        path = f"{self._stem}.{table}.{suffix}"
        with self._folder.open_write(path) as sink:
            digest = data(sink)
        entry = FileEntry(path, sink.bytes, sink.sha256, rows)
        self.receipt.parts[table] = Part(entry, digest, columns_of(schema))

    def count(
        self, *, rows_in: int = 0, made: int = 0, kept: int = 0, dropped: dict[str, dict[str, int]] | None = None
    ) -> None:
        """Add to the split's side of the accounting identity."""
        now = self.receipt.counts
        reasons = {name: dict(counts) for name, counts in now.dropped.items()}
        rowwork.merge_counts(reasons, dropped or {})
        self.receipt.counts = Counts(now.rows_in + rows_in, now.made + made, now.kept + kept, reasons)

    def drop(
        self,
        rows: pa.RecordBatch,
        reasons: pa.Array,
        *,
        step: str,
        keep: str,
        detail: pa.Array | None = None,
        **options: Any,
    ) -> None:
        """Write rows to the table ``dropped`` and count them by reason; ``options`` as for ``write``."""
        if rows.num_rows:
            self.write("dropped", rowwork.drop_rows(rows, reasons, step=step, keep=keep, detail=detail), **options)
            self.count(dropped={step: rowwork.value_counts(reasons)})

    def applied(self, result: rowwork.Applied) -> None:
        """Record what a chain of row work did to a batch and write the rows it dropped."""
        for batch in result.dropped:
            self.write("dropped", batch)
        self.count(dropped=result.reasons)
        for name, (before, after) in result.rows.items():
            known = self.receipt.rows.setdefault(name, [0, 0])
            known[0] += before
            known[1] += after
        for name, seconds in result.seconds.items():
            self.receipt.seconds[name] = self.receipt.seconds.get(name, 0.0) + seconds

    def close(self) -> Receipt:
        for table, (path, writer) in self._writers.items():
            writer.close()
            self.receipt.parts[table] = Part(writer.entry(path), writer.digest, columns_of(writer.schema))
        self._folder.write_json(f"{self._prefix}/{self.receipt.split}.json", self.receipt.to_json())
        return self.receipt

    def discard(self) -> None:
        for _, writer in self._writers.values():
            writer.discard()


Work = Callable[[Split, PartWriter], None]


@dataclass(frozen=True)
class Pass:
    """A pass ready to run: where its parts go and what happens to a split."""

    folder: Folder
    prefix: str  # "<key>/<name>": parts of another key are never taken for this one's
    work: Work


def run_split(job: Pass, split: Split) -> Receipt:
    """Do one split and write its receipt; the one function that every engine runs."""
    with ExitStack() as stack:
        out = PartWriter(job.folder, job.prefix, split)
        stack.callback(out.discard)
        job.work(split, out)
        receipt = out.close()
        stack.pop_all()
    give_back_memory()
    return receipt


def give_back_memory() -> None:
    """Return freed memory to the system: allocators put it off, and every worker and the driver would hold its own."""
    pa.default_memory_pool().release_unused()
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """The C library's ``malloc_trim``, which only glibc has."""
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return found


class Engine(Protocol):
    """Runs a pass over splits; afterwards every split has a receipt, or an error was raised."""

    def map(self, job: Pass, splits: Sequence[Split], done: Callable[[int], None]) -> None: ...


def read_receipts(job: Pass, splits: Sequence[Split]) -> dict[str, Receipt]:
    """Receipts that are there, with parts of the size they name, by split id."""
    sizes = {f"{job.prefix}/{name}": size for name, size in (job.folder / job.prefix).sizes().items()}
    names = [f"{job.prefix}/{split.id}.json" for split in splits]
    receipts = [Receipt.from_json(job.folder.read_json(name)) for name in names if name in sizes]
    return {
        receipt.split: receipt
        for receipt in receipts
        if all(sizes.get(part.file.path) == part.file.bytes for part in receipt.parts.values())
    }


def run_pass(
    job: Pass,
    splits: Sequence[Split],
    engine: Engine,
    progress: Callable[[int, int], None] | None = None,
    known: Mapping[str, Receipt] | None = None,
) -> list[Receipt]:
    """Run the splits that have no receipt yet and return all receipts in split order.

    Args:
        progress: called with (splits done, splits in all).
        known: receipts of an earlier build that hold here, by split id; their parts are in the folder.
    """
    have = dict(known or {})
    have |= read_receipts(job, [split for split in splits if split.id not in have])
    todo = [s for s in splits if s.id not in have]
    done = len(have)

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if progress:
            progress(done, len(splits))

    advance(0)
    if todo:
        give_back_memory()  # what the steps before left in this process
        engine.map(job, todo, advance)
        have |= read_receipts(job, todo)
    return [have[s.id] for s in splits]


def add_numbers(into: dict[str, Any], more: dict[str, Any]) -> None:
    """Add nested dictionaries of numbers in place."""
    for name, value in more.items():
        if isinstance(value, dict):
            add_numbers(into.setdefault(name, {}), value)
        else:
            into[name] = into.get(name, 0) + value


@dataclass(frozen=True)
class Slices:
    """Where the rows of every bucket of a shuffled table lie: a file, a range of row groups and the split's place."""

    folder: Folder
    slices: dict[str, tuple[tuple[str, int, int, int], ...]]

    @classmethod
    def of(cls, folder: Folder, receipts: Sequence[Receipt], table: str) -> Slices:
        found: dict[str, list[tuple[str, int, int, int]]] = {}
        for part, receipt in enumerate(receipts):
            for bucket, (first, last) in receipt.buckets.get(table, {}).items():
                found.setdefault(bucket, []).append((receipt.parts[table].file.path, first, last, part))
        return cls(folder, {bucket: tuple(where) for bucket, where in found.items()})

    @property
    def layout(self) -> str:
        """Changes when the files do: a split that reads buckets carries it, so that its receipt is never stale."""
        return hash_json(self.slices)

    def read(self, bucket: str, *, numbered: bool = False) -> pa.Table | None:
        """All rows of a bucket, in the order of the splits that wrote them; None when there are none.

        Args:
            numbered: add ``part`` (int32), the place of the split that wrote the row. Rows that a later build may
                take over do not hold it themselves, since it changes when parts come and go before theirs.
        """
        tables = []
        for path, first, last, part in self.slices.get(bucket, ()):
            with self.folder.open_read(path) as file, pq.ParquetFile(file) as parquet:
                rows = parquet.read_row_groups(list(range(first, last)), use_threads=False)
            if numbered:
                rows = rows.append_column("part", pa.repeat(pa.scalar(part, pa.int32()), rows.num_rows))
            tables.append(rows)
        return pa.concat_tables(tables) if tables else None


def merge_parts(receipts: Sequence[Receipt], table: str) -> TableEntry | None:
    """The table that the parts of all splits make together; None when no split wrote to it."""
    parts = [r.parts[table] for r in receipts if table in r.parts]
    if not parts:
        return None
    total = TableDigest()
    for part in parts:
        total = total.merge(part.digest)
    kinds = parts[0].columns
    return TableEntry(tuple(p.file for p in parts), total.rows, total.hex(kinds), kinds)


def merge_counts(receipts: Sequence[Receipt]) -> Counts:
    """The sum of the splits' counters."""
    dropped: dict[str, dict[str, int]] = {}
    for receipt in receipts:
        rowwork.merge_counts(dropped, receipt.counts.dropped)
    return Counts(
        sum(r.counts.rows_in for r in receipts),
        sum(r.counts.made for r in receipts),
        sum(r.counts.kept for r in receipts),
        dropped,
    )
