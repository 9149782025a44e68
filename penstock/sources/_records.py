"""Records of line-based files: JSONL, CSV, TSV and plain text. One bad record costs one record.

Every reader yields ``Record`` in file order with a row number that does not depend on where a split
begins: the line number for JSONL and for text by line (blank lines have a number and give nothing),
the record number for CSV (the header and blank lines are not counted), the paragraph number for text
by paragraph. A damaged file ends with one record of reason ``corrupt_file`` that stands for the rest;
its row is the first one lost.

Price a core on documents of 750 bytes: JSONL 130 MB/s of text (orjson), CSV 57 MB/s (the standard
library's parser, chosen because it goes on after a bad record and takes records of any length); the
hashes of each row are in these figures. Memory: one block and one record.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from penstock.sources._origin import origin_of
from penstock.sources._streams import CorruptFileError, Line, lines
from penstock.sources.base import Origin

if TYPE_CHECKING:
    from penstock.sources._chat import Rendering

CORRUPT = "corrupt_file"
MISSING_COLUMN = "missing_column"
_BOM = b"\xef\xbb\xbf"
_DIALECTS: dict[str, type[csv.Dialect]] = {"csv": csv.excel, "tsv": csv.excel_tab}


@dataclass(frozen=True)
class Columns:
    """Names in the file of the columns that become text, domain and the texts of an Origin.

    ``origin`` pairs names of ``_origin.NAMES`` with names in the file. What is not ``required`` may be missing. With
    ``chat`` the text is rendered from columns of messages, and ``text`` is the first of these.
    """

    text: str = "text"
    domain: str | None = None
    origin: tuple[tuple[str, str], ...] = ()
    required: tuple[str, ...] = ()
    chat: Rendering | None = None

    def found_in(self, names: Iterable[str]) -> Columns:
        """The same without the columns that are not there."""
        names = set(names)
        domain = self.domain if self.domain in names else None
        chat = self.chat and self.chat.found_in(names)
        return replace(self, domain=domain, origin=tuple(pair for pair in self.origin if pair[1] in names), chat=chat)

    @property
    def read(self) -> list[str]:
        """Every column to read, each once."""
        domain = () if self.domain is None else (self.domain,)
        chat = () if self.chat is None else self.chat.names
        return list(dict.fromkeys((self.text, *domain, *(name for _, name in self.origin), *chat)))


class Record(NamedTuple):
    """``text`` (valid UTF-8) of a good record, else ``reason``, and ``raw`` bytes for the sample."""

    row: int
    text: bytes | None
    domain: str | None = None
    reason: str | None = None
    detail: str | None = None
    raw: bytes | None = None
    origin: Origin | None = None


def is_blank(text: bytes) -> bool:
    """Whether valid UTF-8 is empty or all whitespace, without decoding more of it than needed."""
    if not text:
        return True
    head = text[:256].decode("utf-8", "ignore")
    return head.isspace() and text.decode().isspace()


def domain_text(value: Any) -> str | None:
    """A label as text; None for null, empty and nested values."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        # an escaped lone surrogate has no UTF-8 form
        return value if value.isascii() else value.encode("utf-8", "replace").decode() or None
    return str(value) if isinstance(value, (int, float)) else None


def text_record(row: int, value: Any, domain: str | None, origin: Origin | None = None) -> Record:
    """The record of a decoded text value of any type."""
    if value is None:
        return Record(row, None, domain, "missing_text")
    if not isinstance(value, str):
        return Record(
            row,
            None,
            domain,
            "not_text",
            f"got {type(value).__name__}",
            str(value).encode(),
        )
    try:
        raw = value.encode()
    except UnicodeEncodeError as error:
        raw = value.encode("utf-8", "surrogatepass")
        return Record(row, None, domain, "invalid_utf8", f"character {error.start}", raw)
    if not value or value.isspace():
        return Record(row, None, domain, "empty_text")
    return Record(row, raw, domain, origin=origin)


def too_large(row: int, size: int, limit: int) -> Record:
    return Record(row, None, None, "too_large", f"{size} bytes, allowed {limit}")


def _strip(line: Line) -> bytes:
    """The line's bytes without a carriage return at its end and without a byte order mark at the file's start."""
    data = line.data or b""
    return (data.removeprefix(_BOM) if line.number == 0 else data).removesuffix(b"\r")


def _parse_json(data: bytes) -> Any:
    """orjson, then for what it refuses the standard library, which takes NaN and lone surrogates."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data.decode())


def jsonl_records(stream: Iterator[bytes], columns: Columns, *, first: int, limit: int) -> Iterator[Record]:
    """One record per line that is not blank; ``limit`` is the bytes of the line as it lies in the file."""
    row = first
    try:
        for line in lines(stream, first=first, limit=limit):
            row = line.number + 1
            if line.data is None:
                yield too_large(line.number, line.size, limit)
                continue
            data = _strip(line)
            if not data.strip():
                continue
            try:
                value = _parse_json(data)
            except UnicodeDecodeError as error:
                yield Record(
                    line.number,
                    None,
                    None,
                    "invalid_utf8",
                    f"byte {error.start} of the line",
                    data,
                )
                continue
            # deep nesting and integers of thousands of digits are refused as RecursionError and ValueError
            except (ValueError, RecursionError) as error:
                yield Record(line.number, None, None, "invalid_json", str(error)[:200], data)
                continue
            if not isinstance(value, dict):
                yield Record(
                    line.number,
                    None,
                    None,
                    "invalid_json",
                    f"got {type(value).__name__}, not an object",
                    data,
                )
                continue
            domain = domain_text(value.get(columns.domain)) if columns.domain else None
            origin = origin_of({name: value[key] for name, key in columns.origin if key in value})
            if columns.chat is not None:
                yield columns.chat.record(line.number, value, domain, origin, limit)
            else:
                yield text_record(line.number, value.get(columns.text), domain, origin)
    except CorruptFileError as error:
        yield Record(row, None, None, CORRUPT, str(error))


def jsonl_keys(stream: Iterator[bytes], wanted: str, *, limit: int) -> list[str] | None:
    """Keys of the objects in a file of which none has the key ``wanted``; None where one has it or there is no object.

    It stops at the first object that has the key: usually the first line.
    """
    found: dict[str, None] = {}
    seen = False
    for line in lines(stream, first=0, limit=limit):
        try:
            value = _parse_json(_strip(line))
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            if wanted in value:
                return None
            seen = True
            if len(found) < 100:
                found.update(dict.fromkeys(value))
    return list(found) if seen else None


class _RecordTooLarge(Exception):
    pass


class _Feed:
    """Lines for csv.reader; it refuses to feed one record more than ``limit`` bytes.

    An exception makes the reader forget the open record and begin anew at the next line.
    """

    def __init__(self, source: Iterator[Line], limit: int) -> None:
        self._source = source
        self._limit = limit
        self.fed = 0

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = next(self._source)
        self.fed += line.size
        if line.data is None or self.fed > self._limit:
            raise _RecordTooLarge
        data = line.data.removeprefix(_BOM) if line.number == 0 else line.data
        return (data + b"\n").decode("utf-8", "surrogateescape")


def csv_records(stream: Iterator[bytes], kind: str, columns: Columns, *, limit: int) -> Iterator[Record]:
    """One record per row after the header; fields are UTF-8, quoted ones may hold newlines.

    A record longer than ``limit`` is ``too_large`` and reading goes on at the next line, so that a quote
    never closed costs ``limit`` bytes and not the file.
    """
    # the library's own limit is process-wide and 128 KiB; ours is checked as lines are fed
    csv.field_size_limit(max(csv.field_size_limit(), limit))
    feed = _Feed(lines(stream, first=0, limit=limit), limit)
    reader = csv.reader(feed, dialect=_DIALECTS[kind])
    row = 0
    header: list[str] | None = None
    try:
        while True:
            feed.fed = 0
            try:
                fields = next(reader)
            except StopIteration:
                return
            except _RecordTooLarge:
                yield too_large(row, feed.fed, limit)
                row += 1
                continue
            except csv.Error as error:
                yield Record(row, None, None, "invalid_csv", str(error))
                row += 1
                continue
            if not fields:
                continue
            if header is None:
                header = fields
                missing = missing_columns(columns, header)
                if missing:
                    yield Record(0, None, None, MISSING_COLUMN, missing)
                    return
                text_at = header.index(columns.text)
                domain_at = header.index(columns.domain) if columns.domain in header else None
                origin_at = [(name, header.index(key)) for name, key in columns.origin if key in header]
                continue
            if len(fields) != len(header):
                raw = ",".join(fields).encode("utf-8", "surrogateescape")
                yield Record(
                    row,
                    None,
                    None,
                    "invalid_csv",
                    f"got {len(fields)} fields, expected {len(header)}",
                    raw,
                )
            else:
                domain = domain_text(fields[domain_at]) if domain_at is not None else None
                origin = origin_of({name: _utf8(fields[at]) for name, at in origin_at})
                if columns.chat is not None:
                    yield columns.chat.record(row, dict(zip(header, fields, strict=True)), domain, origin, limit)
                else:
                    yield text_record(row, fields[text_at], domain, origin)
            row += 1
    except CorruptFileError as error:
        yield Record(row, None, None, CORRUPT, str(error))


def _utf8(field: str) -> str:
    """A field without the surrogates that stand for bytes that are no UTF-8."""
    return field.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def missing_columns(columns: Columns, found: Iterable[str]) -> str | None:
    """What to say where the text or a required column is not among those found; None where they are."""
    found = list(found)
    missing = [name for name in dict.fromkeys((columns.text, *columns.required)) if name not in found]
    if not missing:
        return None
    names = ", ".join(name.encode("utf-8", "backslashreplace").decode() for name in found[:50])
    return f"no column {', '.join(missing)}; found {names or 'none'}"


def text_records(stream: Iterator[bytes], unit: str, *, first: int, limit: int) -> Iterator[Record]:
    """Plain text and Markdown as one document (``file``), or one per ``paragraph`` or ``line``.

    Paragraphs are parted by blank lines. Newlines inside a document stay as they are in the file.
    """
    row = first
    try:
        for size, data in _units(stream, unit, first=first, limit=limit):
            row += 1
            if data is None:
                yield too_large(row - 1, size, limit)
            elif unit == "file" or data.strip():
                yield _decoded(row - 1, data)
    except CorruptFileError as error:
        yield Record(row, None, None, CORRUPT, str(error))


def _decoded(row: int, data: bytes) -> Record:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return Record(row, None, None, "invalid_utf8", f"byte {error.start}", data)
    return Record(row, None, None, "empty_text") if is_blank(data) else Record(row, data)


def _units(stream: Iterator[bytes], unit: str, *, first: int, limit: int) -> Iterator[tuple[int, bytes | None]]:
    """Size and bytes of each unit of text; bytes are None above the limit."""
    if unit == "line":
        for line in lines(stream, first=first, limit=limit):
            yield line.size, None if line.data is None else _strip(line)
        return
    held: list[bytes] = []
    size = 0
    if unit == "file":
        for block in stream:
            size += len(block)
            held.append(block)
            if size > limit:
                held.clear()
        if size:
            yield size, b"".join(held).removeprefix(_BOM) if size <= limit else None
        return
    for line in lines(stream, first=first, limit=limit):
        data = None if line.data is None else _strip(line)
        if data is not None and not data.strip():
            if size:
                yield size, b"\n".join(held) if size <= limit else None
            held, size = [], 0
            continue
        size += line.size + 1
        held.append(data or b"")
        if size > limit:
            held.clear()
    if size:
        yield size, b"\n".join(held) if size <= limit else None
