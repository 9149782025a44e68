"""Records of Parquet files, one row group at a time.

Text columns may be strings, large strings, string views, dictionaries of them, or binary; Parquet
does not validate UTF-8, so every batch is checked at once and only a bad batch row by row.

Price: 150 MB/s of text a core on documents of 750 bytes, hashes included.
Memory: one column chunk as stored, and a decoded batch of about 8 MB.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from penstock.sources._origin import origin_of
from penstock.sources._records import (
    CORRUPT,
    MISSING_COLUMN,
    Columns,
    Record,
    domain_text,
    is_blank,
    missing_columns,
    too_large,
)
from penstock.sources._streams import (
    CorruptFileError,
    is_local,
    local_path,
    open_binary,
)
from penstock.sources.base import Origin

if TYPE_CHECKING:
    from penstock.sources._chat import Rendering

_BATCH_BYTES = 8 << 20
BATCH_ROWS = 8192


class RowGroups(NamedTuple):
    """What a plan needs of a file: per row group its rows and the stored bytes of its text column."""

    rows: list[int]
    sizes: list[int]


def _open(url: str) -> Any:
    import pyarrow.parquet as pq

    source = local_path(url) if is_local(url) else open_binary(url)
    return pq.ParquetFile(source, pre_buffer=False)


def damage(error: Exception) -> CorruptFileError:
    """Arrow's complaint about the file's content; an error of the system or the network is raised again."""
    if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
        raise error
    return CorruptFileError(str(error).splitlines()[0][:200])


def row_groups(url: str, columns: Columns) -> RowGroups:
    """Row groups as the footer lists them.

    Raises:
        CorruptFileError: there is no readable footer.
        LookupError: the text or a required column is missing; the message names the columns found.
    """
    try:
        file = _open(url)
    except (pa.ArrowException, OSError) as error:
        raise damage(error) from error
    with file:
        missing = missing_columns(columns, file.schema_arrow.names)
        if missing:
            raise LookupError(missing)
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        return RowGroups([g.num_rows for g in groups], [_text_bytes(g, columns.text) for g in groups])


def _text_bytes(group: Any, name: str) -> int:
    """Uncompressed bytes of the column's chunks; a nested column has several."""
    chunks = (group.column(i) for i in range(group.num_columns))
    return sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.split(".", 1)[0] == name)


def parquet_records(url: str, columns: Columns, *, start: int, stop: int, first: int, limit: int) -> Iterator[Record]:
    """Records of row groups ``start`` to ``stop``; a damaged row group ends with one ``corrupt_file`` record.

    Args:
        first: row number in the file of the first row of ``start``.
        limit: bytes of text in one row.
    """
    try:
        file = _open(url)
    except (pa.ArrowException, OSError) as error:
        yield Record(first, None, None, CORRUPT, str(damage(error)))
        return
    with file:
        missing = missing_columns(columns, file.schema_arrow.names)
        if missing:
            yield Record(first, None, None, MISSING_COLUMN, missing)
            return
        columns = columns.found_in(file.schema_arrow.names)
        for index in range(start, stop):
            group = file.metadata.row_group(index)
            row = first
            try:
                for batch in _batches(file, index, columns):
                    yield from batch_records(batch, columns, row, limit)
                    row += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                detail = f"{damage(error)}; {first + group.num_rows - row} rows of row group {index} lost"
                yield Record(row, None, None, CORRUPT, detail)
            first += group.num_rows


def _batches(file: Any, index: int, columns: Columns) -> Iterator[pa.RecordBatch]:
    group = file.metadata.row_group(index)
    mean = _text_bytes(group, columns.text) / max(1, group.num_rows)
    size = max(1, min(BATCH_ROWS, int(_BATCH_BYTES / max(1.0, mean))))
    yield from file.iter_batches(batch_size=size, row_groups=[index], columns=columns.read, use_threads=False)


def batch_records(batch: pa.RecordBatch, columns: Columns, first: int, limit: int) -> Iterator[Record]:
    """Records of the rows of a batch, of which ``first`` is the number of the first."""
    if columns.chat is not None:
        yield from _chat_records(batch, columns, columns.chat, first, limit)
        return
    texts, is_text = _as_bytes(batch[columns.text])
    domains: list[str | None] = [None] * batch.num_rows
    if columns.domain is not None:
        domains = [domain_text(value) for value in _values(batch[columns.domain])]
    origins = _origins(batch, columns)
    valid = is_text and _all_utf8(texts)
    for i, (value, domain) in enumerate(zip(texts.to_pylist(), domains, strict=True)):
        row = first + i
        if value is None:
            yield Record(row, None, domain, "missing_text")
        elif not is_text:
            kind = batch.schema.field(columns.text).type
            yield Record(row, None, domain, "not_text", f"got {kind}", str(value).encode())
        elif len(value) > limit:
            yield too_large(row, len(value), limit)._replace(domain=domain)
        elif not valid and (position := _bad_byte(value)) is not None:
            yield Record(row, None, domain, "invalid_utf8", f"byte {position}", value)
        elif is_blank(value):
            yield Record(row, None, domain, "empty_text")
        else:
            yield Record(row, value, domain, origin=None if origins is None else origins[i])


def _chat_records(batch: pa.RecordBatch, columns: Columns, chat: Rendering, first: int, limit: int) -> Iterator[Record]:
    domains = itertools.repeat(None) if columns.domain is None else map(domain_text, _values(batch[columns.domain]))
    origins = _origins(batch, columns) or itertools.repeat(None)
    rows = zip(*(_values(batch[name]) for name in chat.names), strict=True)
    for row, (values, domain, origin) in enumerate(zip(rows, domains, origins, strict=False), first):
        yield chat.record(row, dict(zip(chat.names, values, strict=True)), domain, origin, limit)


def _origins(batch: pa.RecordBatch, columns: Columns) -> list[Origin | None] | None:
    if not columns.origin:
        return None
    names = [name for name, _ in columns.origin]
    values = zip(*(_values(batch[key]) for _, key in columns.origin), strict=True)
    return [origin_of(dict(zip(names, row, strict=True))) for row in values]


def _values(column: pa.Array) -> list[Any]:
    """Python values; bytes where text may not be UTF-8, null where a value has no Python form."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if pa.types.is_timestamp(kind):
        # nanoseconds have no Python form
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        column, _ = _as_bytes(column)
    out: list[Any] = []
    try:
        out = column.to_pylist()
    except (UnicodeDecodeError, OverflowError, ValueError):
        # a list that holds text of no encoding, or a date beyond the year 9999
        for value in column:
            try:
                out.append(value.as_py())
            except (UnicodeDecodeError, OverflowError, ValueError):
                out.append(None)
    return out


def _as_bytes(column: pa.Array) -> tuple[pa.Array, bool]:
    """The column as large_binary and True, or as it is and False where it holds no text."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        # views have no direct cast to the large form
        column = column.cast(pa.binary_view()).cast(pa.binary())
        kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        return column.cast(pa.large_binary()), True
    return column, pa.types.is_large_binary(kind)


def _all_utf8(texts: pa.Array) -> bool:
    try:
        texts.cast(pa.large_string())
    except pa.ArrowInvalid:
        return False
    return True


def _bad_byte(value: bytes) -> int | None:
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return error.start
    return None
