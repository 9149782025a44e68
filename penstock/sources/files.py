"""Rows from files: JSONL, Parquet, CSV, TSV, plain text and Markdown, local or in an object store.

JSONL and text by line that are not compressed are cut at line starts, Parquet at row groups; other
files are read whole, and small files share a split. Ids, texts and drops do not depend on it.

A record that cannot be used is dropped with a reason and costs itself alone: ``invalid_json``,
``invalid_csv``, ``invalid_utf8``, ``missing_text`` (null or no such key), ``not_text``, ``empty_text``,
``too_large``. A file that cannot be used raises InputError, or under ``on_bad_file: drop`` keeps the
records before the damage and ends with one dropped row of reason ``corrupt_file`` (for Parquet one a
row group) whose row number is the first one lost; a file without the column is one ``missing_column``.
Gzip notices damage late: what it decodes between the damage and there is dropped record by record
where it is no valid record, and cannot be told from good text where it is.

Price: planning reads each cut file once to count its lines (3.5 GB/s), and of Parquet the footers.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import ClassVar

from penstock.errors import ConfigError, InputError
from penstock.sources import _records as records
from penstock.sources import base
from penstock.sources._locate import FORMATS, locate, readable, split_name
from penstock.sources._parquet import parquet_records, row_groups
from penstock.sources._records import CORRUPT, MISSING_COLUMN, Columns, Record
from penstock.sources._streams import (
    CorruptFileError,
    blocks,
    compression_of,
    cut_lines,
)
from penstock.sources.base import InputFile, Member, Rows, SourceSplit

_KINDS = tuple(dict.fromkeys(FORMATS.values()))
# "-00003-of-00010", "_12", ".0001": the number of a shard says nothing about what is in it
_SHARD = re.compile(r"[-_.]*\d+([-_.]?of[-_.]?\d+)?$")
_UNITS = ("file", "paragraph", "line")
_EXPANSION = (
    4  # bytes of text in one of gzip or zstd: else a split of small archives would be far more work than others
)


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Some files of one kind.

    Attributes:
        path: a file, folder, pattern (``**`` for any depth) or URL.
        name: what a single file is called in ids, or what goes before the names of several.
        format: jsonl, parquet, csv, tsv, text or markdown; by extension when None.
        columns: names in the file of ``text`` (default "text") and ``domain`` (default "domain", if it is there).
        domain: for records whose domain column is absent or null. When None, the file's stem without a shard
            number, or for files that are one document each, the name of their folder.
        text_unit: what one document is in text and Markdown: file, paragraph or line.
    """

    path: str
    name: str | None = None
    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    domain: str | None = None
    text_unit: str = "file"

    def __post_init__(self) -> None:
        if not self.path:
            raise ConfigError("path: got an empty text; give a file, a folder, a pattern or a URL")
        if self.name is not None:
            base.check_name(self.name)
        if self.format is not None and self.format not in _KINDS:
            raise ConfigError(
                f"format: got {self.format!r}, allowed {', '.join(_KINDS)}; leave it out to go by extension"
            )
        unknown = [key for key in self.columns if key not in ("text", "domain")]
        if unknown:
            raise ConfigError(f"columns: got {', '.join(unknown)}, allowed text, domain; map them to names in the file")
        if self.text_unit not in _UNITS:
            raise ConfigError(f"text_unit: got {self.text_unit!r}, allowed {', '.join(_UNITS)}; choose one")
        if self.domain == "":
            raise ConfigError("domain: got an empty text; leave it out to use the file's stem")

    @property
    def wanted(self) -> Columns:
        named = self.columns.get("domain")
        # a domain that the recipe states is not overruled by a column that it does not name
        domain = named or (None if self.domain else "domain")
        return Columns(self.columns.get("text", "text"), domain, required=named is not None)

    def domain_of(self, file: InputFile, kind: str) -> str:
        """Domain of records that have none of their own."""
        if self.domain:
            return self.domain
        if kind in ("text", "markdown") and self.text_unit == "file":
            return readable(posixpath.basename(posixpath.dirname(file.path)) or file.name)
        stem = split_name(file.path)[0]
        return readable(_SHARD.sub("", stem) or stem)

    def kind_of(self, file: InputFile) -> str:
        """Format of a file; ConfigError where its extension does not tell."""
        kind = self.format or FORMATS.get(split_name(file.path)[1])
        if kind is None:
            known = ", ".join(FORMATS)
            raise ConfigError(
                f"{file.path}: extension not known, allowed {known}; set format: to one of {', '.join(_KINDS)}"
            )
        if kind == "parquet" and compression_of(file.path):
            raise ConfigError(f"{file.path}: Parquet inside gzip or zstd cannot be read by row group; decompress it")
        return kind


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """Documents from files.

    Attributes:
        name: the source in the recipe; fills the ``source`` column.
        entries: which files, and how to read them; their order does not matter.
        on_bad_file: ``fail`` or ``drop``.
        max_document_bytes: of a record as it lies in the file (a JSON line, a CSV record), for Parquet of its text.
    """

    revision: ClassVar[int] = 1

    name: str
    entries: tuple[FileEntry, ...]
    on_bad_file: str = "fail"
    max_document_bytes: int = base.MAX_DOCUMENT_BYTES

    def __post_init__(self) -> None:
        base.check_name(self.name)
        if not self.entries:
            raise ConfigError(f"entries of source {self.name}: got none, allowed one or more; give a path")
        if self.on_bad_file not in ("fail", "drop"):
            raise ConfigError(f"on_bad_file: got {self.on_bad_file!r}, allowed fail, drop; choose one")
        if not 1 <= self.max_document_bytes <= 1 << 30:
            raise ConfigError(
                f"max_document_bytes: got {self.max_document_bytes}, allowed 1 to {1 << 30}; cut longer texts"
            )

    def inputs(self) -> list[InputFile]:
        return [file for _, file in self._located()]

    def _located(self) -> list[tuple[int, InputFile]]:
        """(entry, file) by name; ConfigError where two files would share ids."""
        found = [
            (index, file)
            for index, entry in enumerate(self.entries)
            for file in locate(entry.path, name=entry.name, any_format=entry.format is not None)
        ]
        found.sort(key=lambda pair: pair[1].name)
        for (_, one), (_, two) in pairwise(found):
            if one.name == two.name:
                raise ConfigError(
                    f"source {self.name}: {one.path} and {two.path} are both called {one.name!r} in ids; "
                    "give one of the entries a name:"
                )
        return found

    def plan(self, target_bytes: int) -> list[SourceSplit]:
        base.check_target(target_bytes)
        out: list[SourceSplit] = []
        group: list[SourceSplit] = []
        size = 0
        for index, file in self._located():
            if not file.size:
                continue
            splits = self._plan_file(index, file, target_bytes)
            whole = len(splits) == 1
            joins = whole and group and (group[0].entry, group[0].kind) == (splits[0].entry, splits[0].kind)
            weight = file.size * (_EXPANSION if compression_of(file.path) else 1)
            if group and not (joins and size + weight <= target_bytes):
                out.append(_grouped(group))
                group, size = [], 0
            if whole:
                group.append(splits[0])
                size += weight
            else:
                out.extend(splits)
        if group:
            out.append(_grouped(group))
        return out

    def _plan_file(self, index: int, file: InputFile, target: int) -> list[SourceSplit]:
        entry = self.entries[index]
        kind = entry.kind_of(file)
        compression = compression_of(file.path)
        ranges = [(0, file.size, 0)]
        try:
            if kind == "parquet":
                ranges = _cut_row_groups(*row_groups(file.path, entry.wanted), target)
            elif self.on_bad_file == "fail":
                self._check_columns(entry, kind, file)
            by_line = kind == "jsonl" or (kind in ("text", "markdown") and entry.text_unit == "line")
            if by_line and compression is None and file.size > target:
                ranges = cut_lines(blocks(file.path, None, 0, file.size), size=file.size, target=target)
        except (CorruptFileError, LookupError) as error:
            if self.on_bad_file == "fail":
                raise self._bad_file(file.path, str(error)) from error
            ranges = [(0, 0, 0)]  # the reader meets the same damage and counts it
        whole = SourceSplit(self.name, file.path, file.name, 0, 0, 0, kind, entry.domain_of(file, kind), index)
        return [replace(whole, start=start, stop=stop, first_row=row) for start, stop, row in ranges]

    def _check_columns(self, entry: FileEntry, kind: str, file: InputFile) -> None:
        """LookupError where no record of the file can have the text column; usually reads one block."""
        stream = blocks(file.path, compression_of(file.path))
        if kind == "jsonl":
            keys = records.jsonl_keys(stream, entry.wanted.text, limit=self.max_document_bytes)
            if keys is not None:
                raise LookupError(records.missing_columns(replace(entry.wanted, domain=None), keys))
        elif kind in ("csv", "tsv"):
            first = next(
                records.csv_records(stream, kind, entry.wanted, limit=self.max_document_bytes),
                None,
            )
            if first is not None and first.reason == MISSING_COLUMN:
                raise LookupError(first.detail)

    def read(self, split: SourceSplit, *, dropped: str) -> Iterator[Rows]:
        builder = base.RowsBuilder(self.name, dropped)
        for part in _ungrouped(split):
            domain = part.domain or ""
            for record in self._records(part):
                doc_id = f"{part.name}#{record.row}"
                if record.text is not None:
                    full = builder.add(doc_id, record.text, record.domain or domain)
                else:
                    if record.reason in (CORRUPT, MISSING_COLUMN) and self.on_bad_file == "fail":
                        raise self._bad_file(part.file, record.detail or "")
                    full = builder.drop(
                        doc_id,
                        record.reason or "",
                        record.domain or domain,
                        record.detail,
                        record.raw,
                    )
                if full and (rows := builder.take()):
                    yield rows
        if rows := builder.take():
            yield rows

    def _records(self, part: SourceSplit) -> Iterator[Record]:
        entry, limit = self.entries[part.entry], self.max_document_bytes
        if part.kind == "parquet":
            return parquet_records(
                part.file,
                entry.wanted,
                start=part.start,
                stop=part.stop,
                first=part.first_row,
                limit=limit,
            )
        compression = compression_of(part.file)
        stream = blocks(part.file, compression, part.start, None if compression else part.stop)
        if part.kind == "jsonl":
            return records.jsonl_records(stream, entry.wanted, first=part.first_row, limit=limit)
        if part.kind in ("csv", "tsv"):
            return records.csv_records(stream, part.kind, entry.wanted, limit=limit)
        return records.text_records(stream, entry.text_unit, first=part.first_row, limit=limit)

    def _bad_file(self, path: str, what: str) -> InputError:
        advice = "name the column with columns: {text: ...}" if what.startswith("no column") else "replace the file"
        return InputError(f"{path}: {what}; {advice}, or set on_bad_file: drop to go on without it")


def _grouped(splits: list[SourceSplit]) -> SourceSplit:
    """One split of several whole files; a single one stays as it is."""
    if len(splits) == 1:
        return splits[0]
    members = tuple(Member(split.file, split.name, split.stop, split.domain) for split in splits)
    return replace(splits[0], stop=0, domain=None, files=members)


def _ungrouped(split: SourceSplit) -> Iterator[SourceSplit]:
    if not split.files:
        yield split
    for file, name, stop, domain in split.files:
        yield replace(split, file=file, name=name, stop=stop, domain=domain, files=())


def _cut_row_groups(rows: list[int], sizes: list[int], target: int) -> list[tuple[int, int, int]]:
    """Runs of row groups of at least ``target`` bytes of text: (start, stop, first row)."""
    cuts: list[tuple[int, int, int]] = []
    start = first = held = 0
    for index, size in enumerate(sizes):
        held += size
        if held >= target or index == len(sizes) - 1:
            cuts.append((start, index + 1, first))
            first += sum(rows[start : index + 1])
            start, held = index + 1, 0
    return cuts
