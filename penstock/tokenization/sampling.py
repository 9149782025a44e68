"""Texts for tokenizers: a corpus read by domain or language, and a sample of it by weights.

    corpus = Texts(paths=("runs/web/scored", "extra/*.jsonl"))
    taken = sample(corpus, budget=256_000_000, domains={"web": 0.7, "code": 0.3}, seed=0)

The budget is in UTF-8 bytes, which no tokenizer decides. A *cell* is what has a share of its own: a domain, a language,
or a language inside a domain. Within a cell documents stand in order of a hash of their id, text and the seed and are
taken from the front until the cell's bytes are full; the last one is cut between two characters. So the sample depends
neither on the order of files nor on splits, and a larger budget only adds to it.

With domain weights alone a domain's languages come as they are; with language weights alone the same holds of domains.
With both, a domain has its share and is divided among those of the named languages that it has. What is not named has
no share. Where a cell has fewer bytes than its share asks for, the whole sample shrinks until the shares hold.

Price: texts are read twice (sizes, then the sample) at the speed of their source; memory is some four times
the sample.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock import seeding
from penstock.dataset import Dataset
from penstock.digest import TableDigest, columns_of, row_hashes
from penstock.errors import ConfigError, DatasetError
from penstock.pipelines.fit import merge_all
from penstock.seeding import rehash
from penstock.selectors.sample import BottomK, Sampling

ROWS = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("id_hash", pa.uint64(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("language", pa.string()),
        pa.field("text", pa.string(), nullable=False),
    ]
)
UNNAMED = ""  # language of documents that have none
_PURPOSE = "tokenizer"
_SHOWN = 20  # names in a message
_SPLIT_BYTES = 32 << 20

Cell = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Texts of penstock datasets and of files, in batches of ``ROWS``.

    Attributes:
        paths: datasets, runs (their last texts), or files, folders, patterns and URLs that ``sources`` read.
        text_columns: of files. One renames the column ``text``. Several are texts of their own, each in a domain named
            as its column: a file of translations side by side is read so.
        domain_column: of files; without one, a file's domain is that of ``sources.files``.
        text_unit: what one document is in files of plain text: file, paragraph or line.
        format: of files whose extension does not tell, as ``FileEntry`` has it.
        split: of datasets that have splits, the one to read; None reads all.
    """

    paths: tuple[str, ...]
    text_columns: tuple[str, ...] = ()
    domain_column: str | None = None
    text_unit: str = "file"
    format: str | None = None
    split: str | None = None
    dropped: Counter[str] = field(default_factory=Counter, compare=False)  # records of files by reason, last reading

    def __post_init__(self) -> None:
        if not self.paths or "" in self.paths:
            raise ConfigError("corpus: got no path, allowed datasets, runs and files; name one or more")
        if len(set(self.text_columns)) < len(self.text_columns):
            raise ConfigError(f"columns of text: got {', '.join(self.text_columns)}, allowed each once")
        if len(self.text_columns) > 1 and self.domain_column is not None:
            raise ConfigError("columns of text: several of them name the domains; leave the column of the domain out")

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows with text. Raises InputError, DatasetError or ConfigError as their source does."""
        from penstock.scoring.corpus import open_corpus

        self.dropped.clear()
        for path in self.paths:
            corpus = open_corpus(path)
            if corpus is None:
                yield from self._of_files(path)
                continue
            if self.text_columns or self.domain_column:
                raise ConfigError(f"{path}: a dataset of penstock has text and domain; name columns of files alone")
            dataset = Dataset(corpus.folder)
            for name in corpus.tables:
                yield from self._of_table(dataset, name)

    def _of_table(self, dataset: Dataset, name: str) -> Iterator[pa.RecordBatch]:
        have = dataset.table(name).columns
        wanted = [c for c in ("doc_id", "id_hash", "domain", "language", "text", "split") if c in have]
        for batch in dataset.batches(name, wanted):
            if self.split is not None and "split" in have:
                batch = batch.filter(pc.equal(batch["split"], self.split))
            if batch.num_rows:
                yield _rows(batch)

    def _of_files(self, path: str) -> Iterator[pa.RecordBatch]:
        from penstock.sources.files import FileEntry, FileSource

        columns: list[dict[str, str]] = [{"text": name} for name in self.text_columns] or [{}]
        if self.domain_column is not None:
            columns[0]["domain"] = self.domain_column
        several = len(columns) > 1
        for one in columns:
            entry = FileEntry(
                path=path,
                columns=one,
                domain=one["text"] if several else None,
                text_unit=self.text_unit,
                format=self.format,
            )
            source = FileSource(name="files", entries=(entry,))
            for split in source.plan(_SPLIT_BYTES):
                for rows in source.read(split, dropped="ids"):
                    self.dropped.update(rows.dropped["reason"].to_pylist())
                    if rows.documents.num_rows:
                        yield _rows(rows.documents)


def _rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    names = batch.schema.names
    language = batch["language"] if "language" in names else pa.nulls(batch.num_rows, pa.string())
    ids = batch["id_hash"] if "id_hash" in names else pa.array(seeding.hash_ids(batch["doc_id"].to_pylist()))
    # files of one name in two folders, and columns of one file, share their ids: the text sets them apart
    text = row_hashes(batch.select(["text"]))[0]
    hashes = pa.array(seeding.mix64(ids.to_numpy(zero_copy_only=False) ^ text))
    made = [batch["doc_id"], hashes, batch["domain"].cast(pa.string()), language.cast(pa.string()), batch["text"]]
    return pa.RecordBatch.from_arrays(made, schema=ROWS)


@dataclass(frozen=True)
class CellCount:
    """A cell: documents and bytes that the corpus has of it, and those taken. ``share`` is what was asked for."""

    name: Cell
    documents: int
    bytes: int
    share: float
    documents_taken: int = 0
    bytes_taken: int = 0

    @property
    def label(self) -> str:
        return " ".join(part or "(none)" for part in self.name) or "all"


@dataclass(frozen=True)
class Sample:
    """Texts to learn from.

    Attributes:
        table: columns of ``ROWS``, by cell and then in order of the hash; the last text of a cell may be cut.
        cells: by name.
        asked: bytes of the budget; None where there was none.
        limited_by: the cell that made the sample smaller than asked; None where it is as large.
        corpus: 32 hex digits of the domains and texts of the whole corpus, whatever their order.
        dropped: records of files that are no text, by reason.
    """

    table: pa.Table
    cells: tuple[CellCount, ...]
    asked: int | None
    limited_by: Cell | None
    corpus: str
    dropped: dict[str, int]

    @property
    def bytes(self) -> int:
        return sum(cell.bytes_taken for cell in self.cells)

    @property
    def documents(self) -> int:
        return sum(cell.documents_taken for cell in self.cells)

    def texts(self) -> Iterator[str]:
        for batch in self.table.to_batches(1024):
            yield from batch["text"].to_pylist()

    def to_json(self) -> dict[str, Any]:
        """What it was made of, without the texts."""
        return {
            "corpus": self.corpus,
            "asked_bytes": self.asked,
            "bytes": self.bytes,
            "documents": self.documents,
            "limited_by": None if self.limited_by is None else list(self.limited_by),
            "dropped": dict(sorted(self.dropped.items())),
            "cells": [
                {
                    "name": list(cell.name),
                    "share": cell.share,
                    "documents": cell.documents_taken,
                    "bytes": cell.bytes_taken,
                    "corpus_documents": cell.documents,
                    "corpus_bytes": cell.bytes,
                }
                for cell in self.cells
            ],
        }


def weights_of(given: Mapping[str, float] | None, what: str) -> dict[str, float]:
    """Weights as they were given, checked. Raises ConfigError unless they are finite, none below 0, one above."""
    found = dict(given or {})
    bad = [name for name, weight in found.items() if not (math.isfinite(weight) and weight >= 0)]
    if bad:
        raise ConfigError(f"{what} {bad[0]}: got {found[bad[0]]}, allowed a finite number, 0 or above")
    if found and not any(found.values()):
        raise ConfigError(f"{what}: got {', '.join(found)}, each with 0; give one of them a weight above 0")
    return {name: weight for name, weight in found.items() if weight}


def sample(
    corpus: Texts,
    *,
    budget: int | None = None,
    domains: Mapping[str, float] | None = None,
    languages: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Sample:
    """A sample whose cells have the shares that the weights say.

    Args:
        budget: UTF-8 bytes of all texts; None takes as much as the weights allow, without weights everything.
        domains, languages: weights; only their ratios matter. None leaves the corpus as it is in that respect.

    Raises:
        ConfigError: a weight that is no weight, a name that the corpus does not have, a budget below 1.
        DatasetError: no text, or languages asked of texts that have none.
    """
    by_domain, by_language = weights_of(domains, "weight"), weights_of(languages, "language weight")
    if budget is not None and budget < 1:
        raise ConfigError(f"sample: got a budget of {budget} bytes, allowed 1 or more")
    counts, digest = _count(corpus)
    dropped = dict(corpus.dropped)
    if not sum(size for _, size in counts.values()):
        told = f" and {sum(dropped.values())} records that are none" if dropped else ""
        raise DatasetError(
            f"corpus: got no text{told} in {', '.join(corpus.paths)}; name files or a dataset with texts"
        )
    shares = _shares(counts, by_domain, by_language)
    cells = _cells(counts, shares, bool(by_domain), bool(by_language))
    scarce = min(cells, key=lambda cell: (cell.bytes / cell.share, cell.name))
    most = scarce.bytes / scarce.share
    short = budget is not None and most < budget
    # half a byte against a quotient that fell just below the whole number it is
    total = most if budget is None else min(float(budget), most)
    limits = {cell.name: min(cell.bytes, math.floor(total * cell.share + 0.5)) for cell in cells}
    taken = _take(corpus, limits, bool(by_domain), bool(by_language), seed)
    parts, told_cells = [], []
    for cell in cells:
        rows = taken[cell.name]
        parts.append(rows)
        size = _size(rows)
        told_cells.append(CellCount(cell.name, cell.documents, cell.bytes, cell.share, rows.num_rows, size))
    table = pa.concat_tables([ROWS.empty_table(), *parts])
    return Sample(table, tuple(told_cells), budget, scarce.name if short else None, digest, dropped)


def grouped(corpus: Texts, by: str, *, limit: int | None = None, seed: int = 0) -> tuple[dict[str, pa.Table], str]:
    """Texts by group, each in order of its documents' ids, and the digest of the corpus.

    Args:
        by: ``domain`` or ``language``.
        limit: bytes of each group at most, taken by hash as ``sample`` does; None takes all.

    Raises:
        ConfigError: ``by`` is neither.
        DatasetError: no text, or texts without a language.
    """
    if by not in ("domain", "language"):
        raise ConfigError(f"by: got {by!r}, allowed domain, language")
    counts, digest = _count(corpus)
    if not sum(size for _, size in counts.values()):
        raise _empty(corpus)
    if by == "language":
        _has_languages(counts)
    sizes: Counter[str] = Counter()
    for (domain, language), (_, size) in counts.items():
        sizes[domain if by == "domain" else language] += size
    limits: dict[Cell, int] = {(name,): size if limit is None else min(size, limit) for name, size in sizes.items()}
    taken = _take(corpus, limits, by == "domain", by == "language", seed)
    return {name: taken[(name,)].sort_by("doc_id") for name in sorted(sizes)}, digest


def _empty(corpus: Texts) -> DatasetError:
    bad = sum(corpus.dropped.values())
    told = f" and {bad} records that are none" if bad else ""
    return DatasetError(f"corpus: got no text{told} in {', '.join(corpus.paths)}; name files or a dataset with texts")


def _count(corpus: Texts) -> tuple[dict[tuple[str, str], tuple[int, int]], str]:
    """(documents, bytes) of each (domain, language), and the digest of all domains and texts."""
    digest = TableDigest()
    found: dict[tuple[str, str], tuple[int, int]] = {}
    columns: dict[str, str] = {}
    for batch in corpus.batches():
        told = batch.select(["domain", "text"])
        columns = columns_of(told.schema)
        digest = digest.merge(TableDigest.of(told))
        rows = pa.table(
            {
                "domain": batch["domain"],
                "language": batch["language"].fill_null(UNNAMED),
                "bytes": pc.binary_length(batch["text"]).cast(pa.int64()),
            }
        )
        sums = rows.group_by(["domain", "language"]).aggregate([("bytes", "sum"), ("bytes", "count")])
        for one in sums.to_pylist():
            documents, size = found.get((one["domain"], one["language"]), (0, 0))
            found[one["domain"], one["language"]] = (documents + one["bytes_count"], size + one["bytes_sum"])
    return found, digest.hex(columns)


def _has_languages(counts: Mapping[tuple[str, str], Any]) -> None:
    if all(language == UNNAMED for _, language in counts):
        raise DatasetError(
            "corpus: its texts have no language; give a dataset whose recipe has filters.language, or name the column "
            "of the language as that of the domain"
        )


def _shares(
    counts: Mapping[tuple[str, str], tuple[int, int]], domains: Mapping[str, float], languages: Mapping[str, float]
) -> dict[Cell, float]:
    """Share of each cell; they sum to 1."""
    held = {key: size for key, (_, size) in counts.items() if size}
    if languages:
        _has_languages(held)
        _known(languages, {language for _, language in held} - {UNNAMED}, "language weight")
    if domains:
        _known(domains, {domain for domain, _ in held}, "weight")
    if not domains and not languages:
        return {(): 1.0}
    if not domains or not languages:
        weights = domains or languages
        return {(name,): weight / sum(weights.values()) for name, weight in weights.items()}
    out: dict[Cell, float] = {}
    for domain, weight in domains.items():
        here = {language: value for language, value in languages.items() if (domain, language) in held}
        if not here:
            raise ConfigError(
                f"weight {domain}: got a domain with none of the languages {', '.join(languages)}; leave it out or "
                "give one of its languages a weight"
            )
        for language, value in here.items():
            out[domain, language] = weight / sum(domains.values()) * value / sum(here.values())
    return out


def _known(weights: Mapping[str, float], have: set[str], what: str) -> None:
    for name in weights:
        if name in have:
            continue
        near = difflib.get_close_matches(name, sorted(have), n=1)
        hint = f"; did you mean {near[0]}?" if near else "; name one of them"
        names = sorted(have)
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise ConfigError(
            f"{what} {name}: the corpus has no such text, allowed {', '.join(names[:_SHOWN])}{more}{hint}"
        )


def _cells(
    counts: Mapping[tuple[str, str], tuple[int, int]], shares: Mapping[Cell, float], domains: bool, languages: bool
) -> list[CellCount]:
    documents: Counter[Cell] = Counter()
    sizes: Counter[Cell] = Counter()
    for (domain, language), (rows, size) in counts.items():
        cell = (domain,) * domains + (language,) * languages
        documents[cell] += rows
        sizes[cell] += size
    return [CellCount(cell, documents[cell], sizes[cell], shares[cell]) for cell in sorted(shares)]


def _take(corpus: Texts, limits: Mapping[Cell, int], domains: bool, languages: bool, seed: int) -> dict[Cell, pa.Table]:
    """Rows of each cell up to its limit of bytes, exactly, in order of the hash."""
    kept = {cell: _Kept(limit, seed) for cell, limit in limits.items() if limit}
    for batch in corpus.batches():
        for cell, rows in _by_cell(batch, domains, languages):
            if cell in kept:
                kept[cell].add(rows)
    return {cell: _cut(kept[cell].rows(), limit) if limit else ROWS.empty_table() for cell, limit in limits.items()}


class _Kept:
    """The first rows of a cell in order of the hash, up to a limit of bytes and the row that passes it.

    Rows wait until they are as many bytes as the limit, so each is copied a few times and not once a batch.
    """

    def __init__(self, limit: int, seed: int) -> None:
        columns = tuple(name for name in ROWS.names if name != "doc_id")
        self._sampling = Sampling(seed=seed, purpose=_PURPOSE, columns=columns, max_bytes=limit)
        self._held: BottomK | None = None
        self._last: np.uint64 | None = None  # hash of the last row held, once the limit is reached
        self._waiting: list[BottomK] = []
        self._bytes = 0

    def add(self, rows: pa.RecordBatch) -> None:
        if self._last is not None:
            hashes = rehash(rows["id_hash"].to_numpy(zero_copy_only=False), self._sampling.seed, _PURPOSE)
            rows = rows.filter(pa.array(hashes <= self._last))
        if not rows.num_rows:
            return
        self._waiting.append(self._sampling.of(rows))
        self._bytes += _size(self._waiting[-1].rows)
        if self._bytes >= (self._sampling.max_bytes or 0):
            self._merge()

    def rows(self) -> pa.Table:
        self._merge()
        return ROWS.empty_table() if self._held is None else self._held.rows.select(ROWS.names).cast(ROWS)

    def _merge(self) -> None:
        if not self._waiting:
            return
        held: BottomK = merge_all([*([] if self._held is None else [self._held]), *self._waiting])
        self._held, self._waiting, self._bytes = held, [], 0
        if _size(held.rows) >= (self._sampling.max_bytes or 0):
            last = held.rows["id_hash"].slice(held.num_rows - 1).to_numpy()
            self._last = rehash(last, self._sampling.seed, _PURPOSE)[0]


def _size(rows: pa.Table) -> int:
    return int(pc.sum(pc.binary_length(rows["text"])).as_py() or 0)


def _by_cell(batch: pa.RecordBatch, domains: bool, languages: bool) -> Iterator[tuple[Cell, pa.RecordBatch]]:
    columns = [batch["domain"]] * domains + [batch["language"].fill_null(UNNAMED)] * languages
    if not columns:
        yield (), batch
        return
    keys = pa.table(columns, names=[str(i) for i in range(len(columns))])
    keys = keys.append_column("row", pa.array(np.arange(batch.num_rows)))
    groups = keys.group_by([str(i) for i in range(len(columns))]).aggregate([("row", "list")])
    for one in groups.to_pylist():
        rows = np.sort(np.array(one["row_list"]))
        yield tuple(one[str(i)] for i in range(len(columns))), batch.take(pa.array(rows))


def _cut(rows: pa.Table, limit: int) -> pa.Table:
    """The rows with the last text cut so that all have ``limit`` bytes, less what a whole character needs."""
    over = _size(rows) - limit
    if over <= 0 or not rows.num_rows:
        return rows
    last = rows.num_rows - 1
    raw = rows["text"][last].as_py().encode()
    text = raw[: len(raw) - over].decode("utf-8", "ignore")  # a cut inside a character is the one error there can be
    texts = pa.concat_arrays([*(chunk for chunk in rows["text"].slice(0, last).chunks), pa.array([text], pa.string())])
    return rows.set_column(rows.schema.get_field_index("text"), ROWS.field("text"), texts)
