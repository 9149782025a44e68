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
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from penstock import work as rowwork
from penstock.checked import sealed, unsealed
from penstock.dataset import Counts, FileEntry, TableEntry, TableWriter
from penstock.digest import TableDigest, columns_of
from penstock.errors import DatasetError, StorageError
from penstock.storage import Folder, HashingFile


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
    # table -> bucket -> row groups of its part, or bytes of one of pieces
    buckets: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        # by hand: asdict copies every counter, and an increment writes the receipts of all parts
        parts = {
            name: {"file": vars(p.file), "digest": vars(p.digest), "columns": list(p.columns.items())}
            for name, p in self.parts.items()
        }
        return vars(self) | {"parts": parts, "counts": vars(self.counts)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Receipt:
        """The receipt that ``to_json`` gave; its files lie in their folder, whoever wrote it.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: the value is none.
        """
        parts = {
            name: Part(FileEntry.from_json(p["file"]), TableDigest(**p["digest"]), dict(p["columns"]))
            for name, p in value["parts"].items()
        }
        return cls(
            value["split"],
            parts,
            Counts.from_json(value["counts"]),
            value["rows"],
            value["seconds"],
            value["stats"],
            {table: {b: (g[0], g[1]) for b, g in groups.items()} for table, groups in value["buckets"].items()},
        )


RECEIPTS_AT_ONCE = 32  # that the driver asks a store for
PIECES = ".pieces"  # suffix of a part that is no Parquet file: pieces of it are read by their bytes


class PieceWriter:
    """A part whose buckets are Arrow streams of their own, one behind the other: each is read by its bytes alone.

    A reader of a row group fetches the footer of its file first, which lists the row groups of all buckets: a thousand
    readers of a thousand buckets in a thousand files would move a thousand times more of footers than of rows.
    """

    def __init__(self, file: HashingFile, schema: pa.Schema) -> None:
        self._file = file
        self.schema = schema.remove_metadata()
        self.digest = TableDigest()
        self.places: dict[str, tuple[int, int]] = {}
        self._bucket = ""
        self._pending: list[pa.RecordBatch] = []

    def write(self, bucket: str, rows: pa.RecordBatch) -> None:
        """Append rows to a bucket; raises DatasetError when the columns are not those of the file."""
        if rows.schema.names != self.schema.names:
            raise DatasetError(
                f"{self._file.name}: columns {rows.schema.names} do not match the table's {self.schema.names}"
            )
        if bucket != self._bucket:
            self.end_piece()
            assert bucket not in self.places, f"bucket {bucket} of {self._file.name} was closed"
            self._bucket = bucket
        rows = rows.replace_schema_metadata(None).cast(self.schema)
        self.digest = self.digest.merge(TableDigest.of(rows))
        self._pending.append(rows)

    def end_piece(self) -> None:
        """Write the bucket under construction, if it has rows."""
        if not self._pending:
            return
        sink = pa.BufferOutputStream()
        # combined, so that the bytes depend on the rows alone and not on how they arrived
        table = pa.Table.from_batches(self._pending, self.schema).combine_chunks()
        with pa.ipc.new_stream(sink, self.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
            stream.write_table(table)
        start = self._file.bytes
        self._file.write(sink.getvalue())
        self.places[self._bucket] = (start, self._file.bytes)
        self._pending = []

    def close(self) -> None:
        self.end_piece()
        self._file.close()

    def discard(self) -> None:
        self._file.discard()

    def entry(self, path: str) -> FileEntry:
        return FileEntry(path, self._file.bytes, self._file.sha256, self.digest.rows)


class PartWriter:
    """Where the work of one split puts its tables, files and counters."""

    def __init__(self, folder: Folder, prefix: str, split: Split) -> None:
        self._folder, self._prefix = folder, prefix
        # a name of its own for every attempt: a worker believed dead may still be writing
        self._stem = f"{prefix}/{split.id}.{uuid.uuid4().hex[:8]}"
        self._writers: dict[str, tuple[str, TableWriter]] = {}
        self._pieces: dict[str, tuple[str, PieceWriter]] = {}
        self.receipt = Receipt(split.id)

    def write(self, table: str, batch: pa.RecordBatch, **options: Any) -> None:
        """Append rows to a table; ``options`` of its ``TableWriter`` count on first use."""
        if batch.num_rows == 0:
            return
        if table not in self._writers:
            path = f"{self._stem}.{table}.parquet"
            self._writers[table] = (path, TableWriter(self._folder.open_write(path), batch.schema, **options))
        self._writers[table][1].write(batch)

    def piece(self, table: str, bucket: str, rows: pa.RecordBatch) -> None:
        """Write rows of one bucket of a shuffled table, so that they can be read alone.

        More of the same bucket may follow at once, but not after another bucket's rows.
        """
        if rows.num_rows == 0:
            return
        if table not in self._pieces:
            path = f"{self._stem}.{table}{PIECES}"
            self._pieces[table] = (path, PieceWriter(self._folder.open_write(path), rows.schema))
        self._pieces[table][1].write(bucket, rows)

    def bucket(self, table: str, bucket: str, rows: pa.RecordBatch) -> None:
        """As ``piece``, in row groups of a table that the dataset has: for few buckets.

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
        for table, (path, pieces) in self._pieces.items():
            pieces.close()
            self.receipt.parts[table] = Part(pieces.entry(path), pieces.digest, columns_of(pieces.schema))
            self.receipt.buckets[table] = pieces.places
        self._folder.write_json(f"{self._prefix}/{self.receipt.split}.json", sealed(self.receipt.to_json()))
        return self.receipt

    def discard(self) -> None:
        for _, writer in self._writers.values():
            writer.discard()
        for _, pieces in self._pieces.values():
            pieces.discard()


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
    """Receipts that are there and whole, with parts of the size they name, by split id."""
    sizes = {f"{job.prefix}/{name}": size for name, size in (job.folder / job.prefix).sizes().items()}
    found: dict[str, Receipt] = {}
    there = [split for split in splits if f"{job.prefix}/{split.id}.json" in sizes]
    for split, receipt in zip(there, _receipts_of(job, there), strict=True):
        if receipt is not None and all(sizes.get(p.file.path) == p.file.bytes for p in receipt.parts.values()):
            found[split.id] = receipt
    return found


def _receipts_of(job: Pass, splits: Sequence[Split]) -> list[Receipt | None]:
    read = functools.partial(_whole_receipt, job.folder)
    names = [f"{job.prefix}/{split.id}.json" for split in splits]
    if job.folder.is_local:
        return [read(name) for name in names]
    with ThreadPoolExecutor(RECEIPTS_AT_ONCE) as pool:  # a store answers late, but many at once
        return list(pool.map(read, names))


def _whole_receipt(folder: Folder, name: str) -> Receipt | None:
    """A receipt; None for a damaged one, whose split counts as not done."""
    try:
        return Receipt.from_json(unsealed(folder.read_json(name)))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


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
        lost = [split.id for split in todo if split.id not in have]
        if lost:
            raise StorageError(
                f"{job.folder.join(job.prefix)}: {len(lost):,} parts are not as they were written a moment ago, first "
                f"{lost[0]}; look after the disk or the store, then run again to resume"
            )
    return [have[s.id] for s in splits]


def add_numbers(into: dict[str, Any], more: dict[str, Any]) -> None:
    """Add nested dictionaries of numbers in place."""
    for name, value in more.items():
        if isinstance(value, dict):
            add_numbers(into.setdefault(name, {}), value)
        else:
            into[name] = into.get(name, 0) + value


@dataclass(frozen=True, eq=False)
class Slices:
    """Where the rows of every bucket of a shuffled table lie.

    Args:
        slices: by bucket, (pieces, 3) int64: the place of the split that wrote them, and a range of its file, of bytes
            in a file of pieces and of row groups in a Parquet file.
        files: by the place of the split, empty for one that wrote none.

    Price: 24 bytes a piece. All workers hold it, and pieces are as many as splits times buckets.
    """

    folder: Folder
    slices: dict[str, NDArray[np.int64]]
    files: tuple[str, ...] = ()

    @classmethod
    def of(cls, folder: Folder, receipts: Sequence[Receipt], table: str) -> Slices:
        found: dict[str, array[int]] = {}
        for place, receipt in enumerate(receipts):
            for bucket, (first, last) in receipt.buckets.get(table, {}).items():
                found.setdefault(bucket, array("q")).extend((place, first, last))
        files = tuple(receipt.parts[table].file.path if table in receipt.parts else "" for receipt in receipts)
        return cls(folder, {b: np.array(at, np.int64).reshape(-1, 3) for b, at in found.items()}, files)

    @functools.cached_property
    def layout(self) -> str:
        """Changes when the files do: a split that reads buckets carries it, so that its receipt is never stale."""
        digest = hashlib.blake2b(json.dumps(self.files).encode(), digest_size=16)
        for bucket, at in sorted(self.slices.items()):
            digest.update(f"{len(bucket)}:{bucket}:{len(at)}:".encode() + at.tobytes())
        return digest.hexdigest()

    def read(self, bucket: str, *, numbered: bool = False) -> pa.Table | None:
        """All rows of a bucket, in the order of the splits that wrote them; None when there are none.

        Args:
            numbered: add ``part`` (int32), the place of the split that wrote the row. Rows that a later build may
                take over do not hold it themselves, since it changes when parts come and go before theirs.
        """
        tables = []
        for part, first, last in self.slices[bucket].tolist() if bucket in self.slices else ():
            rows = self._read(self.files[part], first, last)
            if numbered:
                rows = rows.append_column("part", pa.repeat(pa.scalar(part, pa.int32()), rows.num_rows))
            tables.append(rows)
        return pa.concat_tables(tables) if tables else None

    def _read(self, path: str, first: int, last: int) -> pa.Table:
        if path.endswith(PIECES):
            alone = pa.ipc.IpcReadOptions(use_threads=False)
            with pa.ipc.open_stream(self.folder.read_range(path, first, last), options=alone) as stream:
                return stream.read_all()
        with self.folder.open_read(path) as file, pq.ParquetFile(file) as parquet:
            return parquet.read_row_groups(list(range(first, last)), use_threads=False)


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
