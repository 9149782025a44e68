"""A dataset: tables of parts and named artifacts under one manifest, on a disk or in an object store.

The manifest is the only commit. Parts are written under names of their own; the manifest, written
last in one atomic operation, names exactly the files, rows and sha256 that make the dataset. No
manifest, no dataset. It holds no clock time and no machine name, so equal work gives equal bytes.

    manifest.json
    <key>/<pass>/<split>.<attempt>.<table>.parquet      parts of a step, or
    data/train-00000-of-00003.parquet                   shards of a published dataset
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from penstock import schema
from penstock.digest import TableDigest
from penstock.errors import DatasetError
from penstock.storage import Folder, HashingFile

FORMAT = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class FileEntry:
    """One file of a dataset; ``path`` is relative to the dataset's folder."""

    path: str
    bytes: int
    sha256: str
    rows: int = 0

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> FileEntry:
        entry = cls(**value)
        _inside(entry.path)
        _plain(entry.sha256)
        _count(entry.bytes)
        _count(entry.rows)
        return entry


@dataclass(frozen=True)
class TableEntry:
    """One table: its parts in row order, and the digest of its rows (independent of the parts)."""

    files: tuple[FileEntry, ...]
    rows: int
    digest: str
    columns: dict[str, str]

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> TableEntry:
        files = tuple(FileEntry.from_json(f) for f in value["files"])
        columns = {_text(name): _text(kind) for name, kind in value["columns"]}
        return cls(files, _count(value["rows"]), _plain(value["digest"]), columns)

    def to_json(self) -> dict[str, Any]:
        # keys of JSON objects are sorted when written; the order of columns matters, so they go as pairs
        return asdict(self) | {"columns": list(self.columns.items())}


@dataclass(frozen=True)
class Counts:
    """The accounting identity of a step: rows in + rows made = rows kept + rows dropped by reason."""

    rows_in: int = 0
    made: int = 0
    kept: int = 0
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)  # row work -> reason -> rows

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Counts:
        dropped = {work: {why: _count(rows) for why, rows in of.items()} for work, of in value["dropped"].items()}
        return cls(_count(value["rows_in"]), _count(value["made"]), _count(value["kept"]), dropped)

    @property
    def dropped_total(self) -> int:
        return sum(sum(reasons.values()) for reasons in self.dropped.values())

    @property
    def balances(self) -> bool:
        return self.rows_in + self.made == self.kept + self.dropped_total


@dataclass(frozen=True)
class Manifest:
    """What a dataset is: what it was built from (key), what came out (digest), and every file of it."""

    step: str
    revision: int
    key: str
    key_parts: dict[str, Any]
    digest: str
    parents: dict[str, dict[str, str]]
    counts: Counts
    tables: dict[str, TableEntry] = field(default_factory=dict)
    artifacts: dict[str, FileEntry] = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)
    passes: FileEntry | None = None  # receipts that the next build may take over; no part of what the dataset is
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"tables": {name: table.to_json() for name, table in self.tables.items()}}

    @classmethod
    def from_json(cls, value: dict[str, Any], where: str) -> Manifest:
        try:
            if value["format"] != FORMAT:
                raise DatasetError(
                    f"{where}: manifest format {value['format']}, this penstock reads {FORMAT}; "
                    "delete its folder to build it again, or install the penstock that made it"
                )
            return cls(
                step=_text(value["step"]),
                revision=_count(value["revision"]),
                key=_plain(value["key"]),
                key_parts=dict(value["key_parts"]),
                digest=_plain(value["digest"]),
                parents={_inside(name): _parent(of) for name, of in value["parents"].items()},
                counts=Counts.from_json(value["counts"]),
                tables={name: TableEntry.from_json(t) for name, t in value["tables"].items()},
                artifacts={name: FileEntry.from_json(f) for name, f in value["artifacts"].items()},
                stats=dict(value["stats"]),
                passes=FileEntry.from_json(value["passes"]) if value.get("passes") else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(
                f"{where}: not a penstock manifest ({error}); delete its folder to build it again"
            ) from error


# A manifest may come from elsewhere: what is read of it is of its kind, and its files lie in its folder.


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"got {type(value).__name__}, expected a text")
    return value


def _plain(value: Any) -> str:
    """A digest: printed as it is."""
    if not _text(value).isascii() or not value.isprintable() or len(value) > 200:
        raise ValueError(f"got {value[:50]!r}, expected a digest")
    return str(value)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"got {str(value)[:50]!r}, expected a number of 0 or more")
    return value


def _inside(path: Any) -> str:
    """A name below the folder, that names nothing above it or elsewhere."""
    if not _text(path) or "\0" in path or path.startswith("/") or ".." in path.split("/"):
        raise ValueError(f"got the path {path[:200]!r}, expected one inside of the folder")
    return str(path)


def _parent(value: Any) -> dict[str, str]:
    _plain(value["digest"])
    return {str(name): _plain(of) for name, of in value.items()}


def hash_json(value: Any) -> str:
    """32 hex digits of a JSON value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def read_manifest(folder: Folder) -> Manifest | None:
    """The manifest of ``folder``, or None when there is none.

    Raises:
        DatasetError: the file is there but is no manifest of this format.
    """
    if not folder.exists(MANIFEST):
        return None
    try:
        value = folder.read_json(MANIFEST)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{folder.join(MANIFEST)}: not JSON ({error}); delete it and run again") from error
    return Manifest.from_json(value, folder.join(MANIFEST))


class Dataset:
    """A committed dataset, opened by path or URL."""

    def __init__(self, folder: Folder | str) -> None:
        self.folder = folder if isinstance(folder, Folder) else Folder(str(folder))

    def __repr__(self) -> str:
        return f"Dataset({self.folder.url!r}, digest={self.digest[:8]})"

    @cached_property
    def manifest(self) -> Manifest:
        found = read_manifest(self.folder)
        if found is None:
            raise DatasetError(
                f"{self.folder.url}: no {MANIFEST}, so no dataset; its build has not finished (run it again to resume) "
                "or the path is wrong"
            )
        return found

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def table(self, name: str) -> TableEntry:
        try:
            return self.manifest.tables[name]
        except KeyError:
            counts = self.manifest.counts
            if counts.dropped_total and not counts.kept:
                reasons = [(rows, f"{work}.{why}") for work, of in counts.dropped.items() for why, rows in of.items()]
                most = ", ".join(f"{why} {rows:,}" for rows, why in sorted(reasons, key=lambda r: (-r[0], r[1]))[:3])
                raise DatasetError(
                    f"{self.folder.url}: no row is left, all {counts.dropped_total:,} were dropped ({most}); loosen "
                    "what dropped them, or look at them with: penstock inspect --sample"
                ) from None
            if not self.manifest.tables and not self.manifest.artifacts:
                raise DatasetError(f"{self.folder.url}: its inputs hold no rows; look at the recipe's source") from None
            have = ", ".join(self.manifest.tables) or "none"
            raise DatasetError(f"{self.folder.url}: no table {name!r}; it has {have}") from None

    def batches(self, name: str, columns: Sequence[str] | None = None, rows: int = 16_384) -> Iterator[pa.RecordBatch]:
        """Rows of a table in order, in batches of at most ``rows``."""
        for entry in self.table(name).files:
            yield from read_part(self.folder, entry, columns, rows)

    def read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A whole table in memory."""
        batches = list(self.batches(name, columns))
        if batches:
            return pa.Table.from_batches(batches)
        kinds = self.table(name).columns
        return pa.table({c: pa.array([], pa.null()) for c in (columns or kinds)})

    def artifact(self, name: str) -> str:
        """Full path of a named artifact."""
        try:
            return self.folder.join(self.manifest.artifacts[name].path)
        except KeyError:
            have = ", ".join(self.manifest.artifacts) or "none"
            raise DatasetError(f"{self.folder.url}: no artifact {name!r}; it has {have}") from None

    def entries(self) -> list[FileEntry]:
        """Every file the manifest names."""
        files = [f for t in self.manifest.tables.values() for f in t.files]
        return files + list(self.manifest.artifacts.values())

    def missing(self) -> list[str]:
        """Files the manifest names that are gone or of another size."""
        sizes = self.folder.sizes()
        return [entry.path for entry in self.entries() if sizes.get(entry.path) != entry.bytes]

    def verify(self) -> None:
        """Read every file and compare its sha256.

        Raises:
            DatasetError: naming each file that is missing or damaged.
        """
        wrong = self.missing()
        for entry in self.entries():
            if entry.path not in wrong:
                digest = hashlib.sha256()
                with self.folder.open_read(entry.path) as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
                if digest.hexdigest() != entry.sha256:
                    wrong.append(entry.path)
        if wrong:
            raise DatasetError(f"{self.folder.url}: missing or damaged: {', '.join(wrong)}; run the build again")


def read_part(
    folder: Folder, entry: FileEntry, columns: Sequence[str] | None = None, rows: int = 16_384
) -> Iterator[pa.RecordBatch]:
    """Batches of one Parquet part, one row group in memory at a time.

    Raises:
        DatasetError: the part is missing or cannot be read, or lacks a column; it is named.
    """
    try:
        with folder.open_read(entry.path) as file, pq.ParquetFile(file) as parquet:
            if columns is not None:
                schema.require(parquet.schema_arrow.names, columns, where=folder.join(entry.path))
            for group in range(parquet.num_row_groups):
                # row groups are bounded in bytes, so this is what keeps memory flat
                table = parquet.read_row_group(group, columns, use_threads=False)
                yield from table.select(columns or table.column_names).combine_chunks().to_batches(rows)
    except (OSError, pa.ArrowInvalid) as error:  # a damaged page is an OSError
        raise DatasetError(f"{folder.join(entry.path)}: {error}; run the build again") from error


def side_by_side(
    batches: Iterator[pa.RecordBatch], others: Iterator[pa.RecordBatch]
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Each batch with the rows at the same places of another table, however that comes cut.

    Args:
        others: as many rows as ``batches`` have, or more.
    """
    rest: pa.RecordBatch | None = None
    for batch in batches:
        have: list[pa.RecordBatch] = []
        need = batch.num_rows
        while need:
            if rest is None or rest.num_rows == 0:
                rest = next(others)
            take = rest.slice(0, need)
            rest = rest.slice(take.num_rows)
            have.append(take)
            need -= take.num_rows
        if have:
            yield batch, pa.Table.from_batches(have).combine_chunks().to_batches()[0]


class TableWriter:
    """One Parquet file: zstd, page index, row groups bounded in bytes and rows, never an empty one.

    ``group_rows`` fixes the rows of every group (for byte-equal output whatever the batches);
    otherwise a group closes at ``group_bytes``.
    """

    def __init__(
        self,
        file: HashingFile,
        arrow_schema: pa.Schema,
        *,
        group_bytes: int = 16 << 20,
        group_rows: int | None = None,
    ) -> None:
        self._file = file
        self.schema = arrow_schema.remove_metadata()
        self._group_bytes, self._group_rows = group_bytes, group_rows
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = self._pending_bytes = self._groups = 0
        self.digest = TableDigest()
        self._writer = pq.ParquetWriter(
            file, self.schema, compression="zstd", compression_level=3, write_page_index=True, store_schema=True
        )

    @property
    def rows(self) -> int:
        return self.digest.rows

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows; raises DatasetError when the columns are not those of the file."""
        if batch.num_rows == 0:
            return
        if batch.schema.names != self.schema.names:
            raise DatasetError(
                f"{self._file.name}: columns {batch.schema.names} do not match the table's {self.schema.names}"
            )
        batch = batch.replace_schema_metadata(None).cast(self.schema) if batch.schema != self.schema else batch
        self.digest = self.digest.merge(TableDigest.of(batch))
        self._pending.append(batch)
        self._pending_rows += batch.num_rows
        self._pending_bytes += batch.nbytes
        if self._group_rows is not None:
            while self._pending_rows >= self._group_rows:
                self._flush(self._group_rows)
        elif self._pending_bytes >= self._group_bytes:
            self._flush(self._pending_rows)

    @property
    def groups(self) -> int:
        """Row groups written so far."""
        return self._groups

    def end_group(self) -> None:
        """Close the row group under construction, if it has rows."""
        if self._pending_rows:
            self._flush(self._pending_rows)

    def _flush(self, rows: int) -> None:
        table = pa.Table.from_batches(self._pending, self.schema)
        # combined, so that the encoded bytes depend on the rows alone and not on how they arrived
        group, rest = table.slice(0, rows).combine_chunks(), table.slice(rows)
        self._writer.write_table(group, row_group_size=max(rows, 1))
        self._groups += 1
        self._pending = rest.to_batches()
        self._pending_rows = rest.num_rows
        self._pending_bytes = rest.nbytes

    def close(self) -> None:
        self.end_group()
        self._writer.close()
        self._file.close()

    def discard(self) -> None:
        """Give up the file and close the encoder, which would otherwise complain when it is collected."""
        self._file.discard()
        with suppress(pa.ArrowException, OSError):
            self._writer.close()

    def entry(self, path: str) -> FileEntry:
        return FileEntry(path=path, bytes=self._file.bytes, sha256=self._file.sha256, rows=self.rows)
