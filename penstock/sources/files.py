"""Rows from files: JSONL, Parquet, Arrow, CSV, TSV, plain text, Markdown, WARC and WET, local or in an object store.

JSONL and text by line that are not compressed are cut at line starts, Parquet at row groups, Arrow at record batches;
other files are read whole. Small files share a split, about ``target_bytes`` in the mean and at most four times that;
where one ends is a matter of the file there, so that a new file changes the splits beside it alone. Ids, texts and
drops do not depend on splits.

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
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

from penstock import seeding
from penstock.errors import ConfigError, InputError
from penstock.sources import _records as records
from penstock.sources import base
from penstock.sources._arrow import arrow_records, batch_ranges
from penstock.sources._entry import Reading
from penstock.sources._html import EXTRACTORS, check_extractor
from penstock.sources._locate import FORMATS, locate, readable, split_name
from penstock.sources._parquet import parquet_records, row_groups
from penstock.sources._records import CORRUPT, MISSING_COLUMN, Record
from penstock.sources._streams import (
    CorruptFileError,
    blocks,
    compression_of,
    cut_lines,
)
from penstock.sources._warc import warc_records
from penstock.sources.base import InputFile, Member, Origin, Rows, SourceSplit
from penstock.sources.hub import HubEntry
from penstock.storage import check_url

_KINDS = tuple(dict.fromkeys(FORMATS.values()))
# "-00003-of-00010", "_12", ".0001": the number of a shard says nothing about what is in it
_SHARD = re.compile(r"[-_.]*\d+([-_.]?of[-_.]?\d+)?$")
_UNITS = ("file", "paragraph", "line")
_WEB = ("warc", "wet")
_TABLES = ("jsonl", "parquet", "arrow", "csv", "tsv")
# bytes of text in one of gzip or zstd: else a split of small archives would be far more work than others
_EXPANSION = 4
_LARGEST_GROUP = 4  # times the size asked for


@dataclass(frozen=True, kw_only=True)
class FileEntry(Reading):
    """Some files of one kind.

    Attributes:
        path: a file, folder, pattern (``**`` for any depth) or URL.
        name: what a single file is called in ids, or what goes before the names of several.
        format: jsonl, parquet, arrow, csv, tsv, text, markdown, warc or wet; by extension when None.
        columns: see ``Reading``.
        domain: for records whose domain column is absent or null. When None, the file's stem without a shard number,
            for files that are one document each the name of their folder, and for pages of WARC and WET ``web``.
        license: see ``Reading``.
        text_unit: what one document is in text and Markdown: file, paragraph or line.
        extractor: what takes the main content out of the pages of WARC: resiliparse or trafilatura.
    """

    place: ClassVar[tuple[str, ...]] = ("path", "name", "format")

    path: str
    name: str | None = None
    format: str | None = None
    text_unit: str = "file"
    extractor: str = "resiliparse"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path:
            raise ConfigError("path: got an empty text; give a file, a folder, a pattern or a URL")
        check_url("path", self.path)
        if self.name is not None:
            base.check_name(self.name)
        if self.format is not None and self.format not in _KINDS:
            raise ConfigError(
                f"format: got {self.format!r}, allowed {', '.join(_KINDS)}; leave it out to go by extension"
            )
        if self.text_unit not in _UNITS:
            raise ConfigError(f"text_unit: got {self.text_unit!r}, allowed {', '.join(_UNITS)}; choose one")
        if self.extractor not in EXTRACTORS:
            raise ConfigError(f"extractor: got {self.extractor!r}, allowed {', '.join(EXTRACTORS)}; choose one")

    def locate(self) -> list[InputFile]:
        """The files that the path means, by name."""
        return locate(self.path, name=self.name, any_format=self.format is not None)

    def domain_of(self, file: InputFile, kind: str) -> str:
        """Domain of records that have none of their own."""
        if self.domain:
            return self.domain
        if kind in _WEB:
            return "web"
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
        if self.rendering is not None and kind not in _TABLES:
            raise ConfigError(f"{file.path}: {kind} has no columns of messages; leave chat out, or set format:")
        if kind in ("parquet", "arrow") and compression_of(file.path):
            raise ConfigError(f"{file.path}: {kind} inside gzip or zstd cannot be read in parts; decompress it")
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

    revision: ClassVar[int] = 2

    name: str
    entries: tuple[FileEntry | HubEntry, ...]
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
        templates = {file.name: file for entry in self.entries for file in entry.template()}
        return [*(file for _, file in self._located()), *templates.values()]

    def _located(self) -> list[tuple[int, InputFile]]:
        """(entry, file) by name; ConfigError where two files would share ids."""
        found = [(index, file) for index, entry in enumerate(self.entries) for file in entry.locate()]
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
        found = [(index, file) for index, file in self._located() if file.size]
        ends = _ends_group([file.name for _, file in found], [_weight(file) for _, file in found], target_bytes)
        out: list[SourceSplit] = []
        group: list[SourceSplit] = []
        size = 0

        def close() -> None:
            nonlocal size
            if group:
                out.append(_grouped(group))
            group.clear()
            size = 0

        for (index, file), end in zip(found, ends, strict=True):
            splits = self._plan_file(index, file, target_bytes)
            weight = _weight(file)
            joins = group and (group[0].entry, group[0].kind) == (splits[0].entry, splits[0].kind)
            if not joins or len(splits) > 1 or weight >= target_bytes or size + weight > _LARGEST_GROUP * target_bytes:
                close()
            if len(splits) > 1:
                out.extend(splits)
                continue
            group.append(splits[0])
            size += weight
            if end:
                close()
        close()
        return out

    def _plan_file(self, index: int, file: InputFile, target: int) -> list[SourceSplit]:
        entry = self.entries[index]
        kind = entry.kind_of(file)
        compression = compression_of(file.path)
        ranges = [(0, file.size, 0)]
        try:
            if kind == "parquet":
                ranges = _cut_row_groups(*row_groups(file.path, entry.wanted), target)
            elif kind == "arrow":
                ranges = batch_ranges(file.path, entry.wanted, file.size, target)
            elif kind in _WEB:
                check_extractor(entry.extractor)
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

    def _check_columns(self, entry: FileEntry | HubEntry, kind: str, file: InputFile) -> None:
        """LookupError where no record of the file can have the text column; usually reads one block."""
        stream = blocks(file.path, compression_of(file.path))
        if kind == "jsonl":
            keys = records.jsonl_keys(stream, entry.wanted.text, limit=self.max_document_bytes)
            if keys is not None:
                raise LookupError(records.missing_columns(replace(entry.wanted, required=()), keys))
        elif kind in ("csv", "tsv"):
            first = next(
                records.csv_records(stream, kind, entry.wanted, limit=self.max_document_bytes),
                None,
            )
            if first is not None and first.reason == MISSING_COLUMN:
                raise LookupError(first.detail)

    def identity(self, split: SourceSplit) -> Any:
        """All that decides the rows of a split besides the content of its files: not where they lie."""
        entry = self.entries[split.entry]
        options = {name: value for name, value in asdict(entry).items() if name not in entry.place}
        options["template"] = entry.template_digest
        files = [[part.name, part.domain, compression_of(part.file)] for part in _ungrouped(split)]
        cut = [split.kind, split.start, split.stop, split.first_row]
        return [self.name, options, self.on_bad_file, self.max_document_bytes, cut, files]

    def read(self, split: SourceSplit, *, dropped: str) -> Iterator[Rows]:
        builder = base.RowsBuilder(self.name, dropped)
        license = self.entries[split.entry].license
        for part in _ungrouped(split):
            domain = part.domain or ""
            for record in self._records(part):
                doc_id = f"{part.name}#{record.row}"
                if record.text is not None:
                    origin = record.origin
                    if license is not None and (origin is None or origin.license is None):
                        origin = (origin or Origin())._replace(license=license)
                    full = builder.add(doc_id, record.text, record.domain or domain, origin)
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
        if part.kind == "arrow":
            return arrow_records(
                part.file, entry.wanted, start=part.start, stop=part.stop, first=part.first_row, limit=limit
            )
        compression = compression_of(part.file)
        if part.kind in _WEB:
            return warc_records(part.file, compression, stop=part.stop, extractor=entry.extractor, limit=limit)
        stream = blocks(part.file, compression, part.start, None if compression else part.stop)
        if part.kind == "jsonl":
            return records.jsonl_records(stream, entry.wanted, first=part.first_row, limit=limit)
        if part.kind in ("csv", "tsv"):
            return records.csv_records(stream, part.kind, entry.wanted, limit=limit)
        return records.text_records(stream, entry.text_unit, first=part.first_row, limit=limit)

    def _bad_file(self, path: str, what: str) -> InputError:
        advice = "name the column with columns: {text: ...}" if what.startswith("no column") else "replace the file"
        return InputError(f"{path}: {what}; {advice}, or set on_bad_file: drop to go on without it")


def entries_of(value: Any) -> Any:
    """`files: a.jsonl`, `files: [a.jsonl, b.txt]` and full entries all mean a list of entries."""
    value = [value] if isinstance(value, (str, dict)) else value
    if isinstance(value, (list, tuple)):
        return [{"path": v} if isinstance(v, str) else v for v in value]
    return value


def _weight(file: InputFile) -> int:
    return file.size * (_EXPANSION if compression_of(file.path) else 1)


def _ends_group(names: list[str], weights: list[int], target: int) -> list[bool]:
    """Whether a group of files ends with each file, by a coin of its name that falls so once in ``target`` bytes.

    A border depends on one file alone, so a file that comes or goes changes the groups beside it and no others.
    """
    coins = seeding.coins(seeding.hash_ids(names), 0, "sources", "groups")
    return [bool(coin < weight / target) for coin, weight in zip(coins, weights, strict=True)]


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
