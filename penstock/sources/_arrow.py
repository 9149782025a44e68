"""Records of Arrow IPC files, both the file and the stream format, one record batch at a time.

Arrow trusts what it reads, so every batch is checked before a value is touched: a wrong offset would read foreign
memory. A damaged batch ends with one ``corrupt_file`` record; in the file format reading goes on after it, in a stream
the rest is lost.

Price: 130 MB/s of text a core on documents of 750 bytes, hashes included; planning reads the batches' headers, of a
local stream too (0.1 s for 10,000 batches); a stream in a store is one range.
Memory: one batch as stored (decompressed), and its records.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from penstock.sources._parquet import BATCH_ROWS, batch_records, damage
from penstock.sources._records import CORRUPT, MISSING_COLUMN, Columns, Record, missing_columns
from penstock.sources._streams import CorruptFileError, is_local, local_path, open_binary

_MAGIC = b"ARROW1"


class _Batches:
    """The batches of an open file, by number or one after the other."""

    def __init__(self, url: str) -> None:
        self._file = pa.memory_map(local_path(url)) if is_local(url) else pa.PythonFile(open_binary(url), "r")
        self.seekable = self._file.read(len(_MAGIC)) == _MAGIC
        self._file.seek(0)
        try:
            self._reader: Any = pa.ipc.open_file(self._file) if self.seekable else pa.ipc.open_stream(self._file)
        except BaseException:
            self._file.close()
            raise
        self.names: list[str] = self._reader.schema.names

    def __enter__(self) -> _Batches:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        """Of a file in the file format."""
        return int(self._reader.num_record_batches)

    def get(self, index: int) -> pa.RecordBatch:
        return self._reader.get_batch(index)

    def next(self) -> pa.RecordBatch:
        """The next batch of a stream; StopIteration at its end."""
        return self._reader.read_next_batch()


def _open(url: str) -> _Batches:
    try:
        return _Batches(url)
    except (pa.ArrowException, OSError) as error:
        raise damage(error) from error


def batch_ranges(url: str, columns: Columns, size: int, target: int) -> list[tuple[int, int, int]]:
    """Runs of batches that hold about ``target`` of the file's ``size`` bytes: (start, stop, first row).

    ``stop`` is -1 where it is not known: the end.

    Raises:
        CorruptFileError: it is no Arrow file.
        LookupError: the text or a required column is missing; the message names the columns found.
    """
    with _open(url) as batches:
        missing = missing_columns(columns, batches.names)
        if missing:
            raise LookupError(missing)
        if size <= target or not (batches.seekable or is_local(url)):
            return [(0, -1, 0)]
        rows: list[int] = []
        try:
            if batches.seekable:
                rows.extend(batches.get(i).num_rows for i in range(len(batches)))
            else:
                while True:
                    rows.append(batches.next().num_rows)
        except StopIteration:
            pass
        except (pa.ArrowException, OSError) as error:
            damage(error)
            return [(0, -1, 0)]  # the reader meets it again and counts it
    share = max(1, round(len(rows) * target / size))
    cuts = [(at, min(at + share, len(rows)), sum(rows[:at])) for at in range(0, len(rows), share)]
    return cuts or [(0, 0, 0)]


def arrow_records(url: str, columns: Columns, *, start: int, stop: int, first: int, limit: int) -> Iterator[Record]:
    """Records of batches ``start`` to ``stop`` (-1: to the end).

    Args:
        first: row number in the file of the first row of ``start``.
        limit: bytes of text in one row.
    """
    try:
        batches = _open(url)
    except CorruptFileError as error:
        yield Record(first, None, None, CORRUPT, str(error))
        return
    with batches:
        missing = missing_columns(columns, batches.names)
        if missing:
            yield Record(first, None, None, MISSING_COLUMN, missing)
            return
        columns = columns.found_in(batches.names)
        index, row = (start, first) if batches.seekable else (0, first)
        while stop < 0 or index < stop:
            rows = 0
            try:
                if batches.seekable and index >= len(batches):
                    return
                batch = batches.get(index) if batches.seekable else batches.next()
                if index >= start:
                    rows = batch.num_rows
                    batch = batch.select(columns.read)
                    _check(batch, columns)
                    for at in range(0, rows, BATCH_ROWS):
                        yield from batch_records(batch.slice(at, BATCH_ROWS), columns, row + at, limit)
            except StopIteration:
                return
            except (pa.ArrowException, OSError) as error:
                yield Record(row, None, None, CORRUPT, f"record batch {index}: {damage(error)}")
                if not batches.seekable and not rows:
                    return
            index += 1
            row += rows


def _check(batch: pa.RecordBatch, columns: Columns) -> None:
    """ArrowInvalid unless every offset and index is inside its data; whether text is UTF-8 is looked at later."""
    for name in columns.read:
        column = batch[name]
        if pa.types.is_string(column.type):
            column = column.view(pa.binary())
        elif pa.types.is_large_string(column.type):
            column = column.view(pa.large_binary())
        column.validate(full=True)
