"""Which rows two tables share, by id and by text, in bounded memory.

Of every row a record of some 40 bytes is made (hashes of its id, its text and its other columns), records go to
buckets by ranges of the id's hash, and a bucket of one side is matched with that of the other by sorting. Where there
is more than one bucket they are files in a temporary folder. The text is read only where a table has no content hash.

Price: one read of the columns that are compared, n log n: 2 µs of one core a row, and 1 s for 100 MB of text where
texts are hashed. Memory: one row group of a part and one bucket of each side; 120 MB above the libraries' for 2 × 2
million rows of seven columns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from penstock import digest
from penstock import work as rowwork
from penstock.card import SPLITS
from penstock.dataset import Dataset, FileEntry, read_part
from penstock.errors import DatasetError

BUCKET_ROWS = 1 << 20
# of no use for a comparison, or compared in another way
_APART = ("doc_id", "text", "content_hash", "id_hash", "token_ids", "learn_tokens", "split")
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_Records = NDArray[Any]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Texts:
    """The rows of a dataset that have a ``doc_id``: a table, or one for each split."""

    dataset: Dataset
    tables: tuple[tuple[str, str | None], ...]  # name, and the split that all its rows are of

    @property
    def columns(self) -> dict[str, str]:
        """Columns that every table has."""
        all_ = [self.dataset.table(name).columns for name, _ in self.tables]
        return {c: kind for c, kind in all_[0].items() if all(of.get(c) == kind for of in all_)}

    @property
    def rows(self) -> int:
        return sum(self.dataset.table(name).rows for name, _ in self.tables)

    def files(self) -> Iterator[tuple[FileEntry, str | None]]:
        for name, split in self.tables:
            for file in self.dataset.table(name).files:
                yield file, split


def texts_of(dataset: Dataset) -> Texts | None:
    """The rows to compare of a dataset; None where it has none with ids of their own."""
    tables = dataset.manifest.tables
    splits = [name for name in SPLITS if name in tables]
    found: list[str] = splits or [name for name in ("documents", "selection") if name in tables]
    if not found or any("doc_id" not in tables[name].columns for name in found):
        return None
    return Texts(dataset, tuple((name, name if splits else None) for name in found))


@dataclass
class Group:
    """Sums over the rows of a domain or a split, of both sides: [A, B]."""

    rows: list[int] = field(default_factory=lambda: [0, 0])
    tokens: list[int] = field(default_factory=lambda: [0, 0])
    bytes: list[int] = field(default_factory=lambda: [0, 0])


@dataclass
class RowChanges:
    """What differs between the rows of A and B."""

    rows: tuple[int, int]
    same: int = 0  # same id, same text
    changed: int = 0  # same id, other text
    only: list[int] = field(default_factory=lambda: [0, 0])
    moved: int = 0  # same id, other split
    texts_only: list[int] | None = None  # texts that the other side has under no id; None where no text is compared
    columns: dict[str, int] = field(default_factory=dict)  # rows of the same id whose value differs
    domains: dict[str, Group] = field(default_factory=dict)
    splits: dict[str, Group] = field(default_factory=dict)
    found: dict[str, list[tuple[int, int]]] = field(default_factory=dict)  # kind -> row numbers (A, B); -1 is none


class _Buckets:
    """Records of one side, by ranges of their key; in memory where there is one range."""

    def __init__(self, folder: Path | None, bits: int, kind: np.dtype[Any]) -> None:
        self._folder, self._bits, self._kind = folder, bits, kind
        self._held: list[_Records] = []

    def add(self, records: _Records) -> None:
        if self._folder is None:
            self._held.append(records)
            return
        bucket = (records["key"] >> np.uint64(64 - self._bits)).astype(np.int64)
        order = np.argsort(bucket, kind="stable")
        records, bucket = records[order], bucket[order]
        starts = np.flatnonzero(np.diff(bucket, prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(records)], strict=True):
            with (self._folder / str(bucket[start])).open("ab") as file:
                records[start:stop].tofile(file)

    def read(self, bucket: int) -> _Records:
        if self._folder is None:
            held, self._held = self._held, []
            return np.concatenate(held) if held else np.zeros(0, self._kind)
        path = self._folder / str(bucket)
        return np.fromfile(path, self._kind) if path.exists() else np.zeros(0, self._kind)


def compare_rows(
    a: Texts,
    b: Texts,
    *,
    text: bool = True,
    sample: int = 0,
    bucket_rows: int = BUCKET_ROWS,
    progress: Progress | None = None,
) -> RowChanges:
    """Match the rows of two tables by ``doc_id``.

    Args:
        text: compare texts too; without, ids and the other columns alone.
        sample: how many rows of each kind to remember for ``read_samples``, those of the smallest hash of their id.
        bucket_rows: rows that are matched at a time; bounds memory.
        progress: hears (what, rows read, rows in all).
    """
    out = RowChanges((a.rows, b.rows))
    sides = (a, b)
    columns = [c for c, kind in a.columns.items() if b.columns.get(c) == kind and c not in _APART]
    text = text and all({"text", "content_hash"} & set(s.columns) for s in sides)
    content = None
    if text:
        content = "content_hash" if all("content_hash" in s.columns for s in sides) else "text"
    kind = np.dtype(
        [("key", "<u8"), ("content", "<u8"), ("at", "<i8"), ("split", "<u4"), ("columns", "<u4", (len(columns),))]
    )
    bits = max(0, (max(out.rows) - 1) // bucket_rows).bit_length()
    codes: dict[str, int] = {}
    with ExitStack() as stack:

        def buckets(of: np.dtype[Any]) -> list[_Buckets]:
            if not bits:
                return [_Buckets(None, 0, of) for _ in sides]
            made = [stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-diff-")) for _ in sides]
            return [_Buckets(Path(folder), bits, of) for folder in made]

        by_id = buckets(kind)
        done = 0
        for side, texts in enumerate(sides):
            for records in _records(texts, side, columns, content, kind, codes, out):
                by_id[side].add(records)
                done += len(records)
                if progress is not None:
                    progress("rows", done, sum(out.rows))
        rest = buckets(np.dtype([("key", "<u8")]))
        for bucket in range(1 << bits):
            _match(by_id[0].read(bucket), by_id[1].read(bucket), columns, sample, rest, out)
        if text:
            out.texts_only = [0, 0]
            for bucket in range(1 << bits):
                (x, nx), (y, ny) = (np.unique(of.read(bucket)["key"], return_counts=True) for of in rest)
                _, i, j = np.intersect1d(x, y, assume_unique=True, return_indices=True)
                common = int(np.minimum(nx[i], ny[j]).sum())
                out.texts_only[0] += int(nx.sum()) - common
                out.texts_only[1] += int(ny.sum()) - common
    return out


def _records(
    texts: Texts,
    side: int,
    columns: Sequence[str],
    content: str | None,
    kind: np.dtype[Any],
    codes: dict[str, int],
    out: RowChanges,
) -> Iterator[_Records]:
    """Records of a side's rows in order; the sums by domain and split are added on the way."""
    have = texts.columns
    extra = [c for c in ("domain", "tokens", "bytes", "split") if c in have]
    wanted = list(dict.fromkeys(["doc_id", *([content] if content else []), *columns, *extra]))
    at = 0
    for file, split in texts.files():
        for batch in read_part(texts.dataset.folder, file, wanted):
            n = batch.num_rows
            records = np.zeros(n, kind)
            records["key"] = digest.row_hashes(batch.select(["doc_id"]))[0]
            if content is not None:
                records["content"] = digest.row_hashes(batch.select([content]))[0]
            records["at"] = np.arange(at, at + n)
            for number, column in enumerate(columns):
                records["columns"][:, number] = digest.row_hashes(batch.select([column]))[0] >> np.uint64(32)
            splits = batch["split"] if "split" in have else pa.array([split], pa.string()).take(pa.array([0] * n))
            encoded = splits.dictionary_encode()
            names = [codes.setdefault(name, len(codes) + 1) for name in encoded.dictionary.to_pylist()]
            records["split"] = np.array([*names, 0])[encoded.indices.fill_null(len(names)).to_numpy()]
            size = batch["bytes"] if "bytes" in have else None
            if size is None and content == "text":
                size = pc.binary_length(batch["text"])
            tokens = batch["tokens"] if "tokens" in have else None
            if "domain" in have:
                _add(out.domains, side, batch["domain"], tokens, size)
            if splits.null_count < n:
                _add(out.splits, side, splits, tokens, size)
            at += n
            yield records


def _add(groups: dict[str, Group], side: int, by: pa.Array, tokens: pa.Array | None, size: pa.Array | None) -> None:
    """Add sums of a batch to the groups of one side."""
    none = pa.nulls(len(by), pa.int64())
    table = pa.table({"by": by, "tokens": none if tokens is None else tokens, "bytes": none if size is None else size})
    sums = table.group_by("by", use_threads=False).aggregate([([], "count_all"), ("tokens", "sum"), ("bytes", "sum")])
    for row in sums.to_pylist():
        group = groups.setdefault(str(row["by"]), Group())
        group.rows[side] += row["count_all"]
        group.tokens[side] += row["tokens_sum"] or 0
        group.bytes[side] += row["bytes_sum"] or 0


def _keys(records: _Records) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """An order of the records, and a key of each in that order; the n-th record of an id has a key of its own."""
    order = np.lexsort((records["content"], records["key"]))
    ids = records["key"][order]
    first = np.r_[True, ids[1:] != ids[:-1]] if len(ids) else np.zeros(0, bool)
    position = np.arange(len(ids))
    nth = position - np.maximum.accumulate(np.where(first, position, 0))
    with np.errstate(over="ignore"):
        return order, ids + nth.astype(np.uint64) * _GOLDEN


def _match(
    a: _Records, b: _Records, columns: Sequence[str], sample: int, rest: Sequence[_Buckets], out: RowChanges
) -> None:
    """Match the records of one range of ids."""
    order_a, keys_a = _keys(a)
    order_b, keys_b = _keys(b)
    _, i, j = np.intersect1d(keys_a, keys_b, assume_unique=True, return_indices=True)
    x, y = a[order_a[i]], b[order_b[j]]
    gone = np.ones(len(a), bool)
    gone[i] = False
    come = np.ones(len(b), bool)
    come[j] = False
    removed, added = a[order_a[gone]], b[order_b[come]]
    other = x["content"] != y["content"]
    moved = x["split"] != y["split"]
    out.same += int((~other).sum())
    out.changed += int(other.sum())
    out.moved += int(moved.sum())
    out.only[0] += len(removed)
    out.only[1] += len(added)
    for name, number in zip(columns, (x["columns"] != y["columns"]).sum(axis=0).tolist(), strict=True):
        out.columns[name] = out.columns.get(name, 0) + number
    for buckets, records in ((rest[0], (x[other], removed)), (rest[1], (y[other], added))):
        for of in records:
            if len(of):
                loose = np.zeros(len(of), np.dtype([("key", "<u8")]))
                loose["key"] = of["content"]
                buckets.add(loose)
    none_a, none_b = np.full(len(added), -1), np.full(len(removed), -1)
    for name, pairs in (
        ("only_a", (removed["at"], none_b)),
        ("only_b", (none_a, added["at"])),
        ("changed", (x["at"][other], y["at"][other])),
    ):
        held = out.found.setdefault(name, [])
        room = sample - len(held)  # ranges come in the order of the hash
        held += list(zip(pairs[0][:room].tolist(), pairs[1][:room].tolist(), strict=True)) if room > 0 else []


def read_samples(texts: Texts, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
    """``doc_id``, ``domain`` and ``text`` of some rows by their number, texts whole; other row groups are not read."""
    out: dict[int, dict[str, Any]] = {}
    wanted = np.array(sorted(rows), np.int64)
    columns = [c for c in ("doc_id", "domain", "text") if c in texts.columns]
    at = 0
    for entry, _ in texts.files():
        mine = wanted[(wanted >= at) & (wanted < at + entry.rows)]
        if len(mine):
            path = texts.dataset.folder.join(entry.path)
            try:
                with texts.dataset.folder.open_read(entry.path) as file, pq.ParquetFile(file) as parquet:
                    start = at
                    for group in range(parquet.num_row_groups):
                        stop = start + parquet.metadata.row_group(group).num_rows
                        inside = mine[(mine >= start) & (mine < stop)]
                        if len(inside):
                            table = parquet.read_row_group(group, columns).take(pa.array(inside - start))
                            out |= dict(zip(inside.tolist(), table.to_pylist(), strict=True))
                        start = stop
            except (OSError, pa.ArrowInvalid) as error:
                raise DatasetError(f"{path}: {error}; run the build again") from error
        at += entry.rows
    return out


def masked(texts: Sequence[str]) -> list[str]:
    """The beginnings of texts as samples of dropped rows are kept: without addresses and long numbers."""
    rows = pa.RecordBatch.from_pydict(
        {"doc_id": pa.array([""] * len(texts), pa.string()), "text": pa.array(texts, pa.string())}
    )
    reasons = pa.array([""] * len(texts), pa.string())
    shown: list[str] = rowwork.drop_rows(rows, reasons, step="diff", keep="sample")["text"].to_pylist()
    return shown
