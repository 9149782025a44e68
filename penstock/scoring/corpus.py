"""Texts to be scored: tables of a penstock dataset, cut into ranges of rows.

    documents   files -> a dataset of their texts        (when a path means files)

Files are read into a dataset of their own first, as a run reads them: a compressed file cannot be cut, and a forward
pass over all of it would be lost when it is stopped. A dataset, or a run's last texts, is read where it lies. Cuts
change neither rows nor their order, so no score depends on them.

Price: the text of files is written once more, compressed; a split reads the row groups that hold its rows, so those of
a large row group read it several times, which a forward pass outweighs a thousandfold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.dataset import Dataset, FileEntry, hash_json, read_manifest
from penstock.errors import ConfigError, DatasetError
from penstock.inspect import datasets_below
from penstock.pipelines.documents import Documents
from penstock.pipelines.passes import Split
from penstock.sources.files import FileEntry as Files
from penstock.sources.files import FileSource
from penstock.storage import Folder

CARRIED = (
    "doc_id",
    "content_hash",
    "source",
    "domain",
    "language",
    "date",
    "split",
)  # columns that scores stand beside
TEXTS_PER_SPLIT = 1000  # a stopped run loses at most these, a minute or two of a processor
_READ_BATCH = 2048


@dataclass(frozen=True)
class Corpus:
    """Tables of one dataset that have ``doc_id``, ``domain`` and ``text``."""

    folder: Folder
    tables: tuple[str, ...]

    @property
    def digest(self) -> str:
        return Dataset(self.folder).digest

    @classmethod
    def of(cls, dataset: Dataset) -> Corpus:
        """Raises DatasetError when no table of a dataset holds texts."""
        tables = _tables(dataset)
        if not tables:
            if dataset.manifest.key_parts.get("step") == "Documents":
                dataset.table("documents")  # says why it has no row
            raise DatasetError(
                f"{dataset.folder.url}: no table of texts; give documents, scored or a published dataset, or files"
            )
        return cls(dataset.folder, tables)

    def splits(self, texts: int = TEXTS_PER_SPLIT) -> list[Split]:
        """Ranges of at most ``texts`` rows of one part, in order; their memo is the rows' content."""
        out: list[Split] = []
        for name in self.tables:
            for file in Dataset(self.folder).table(name).files:
                rows = file.rows or 0
                for start in range(0, rows, texts):
                    stop = min(start + texts, rows)
                    memo = hash_json([file.sha256, start, stop])
                    out.append(Split(len(out), RowRange(file, start, stop), memo=memo))
        return out


@dataclass(frozen=True)
class RowRange:
    """Rows [start, stop) of one part."""

    file: FileEntry
    start: int
    stop: int


def _tables(dataset: Dataset) -> tuple[str, ...]:
    needed = {"doc_id", "domain", "text"}
    tables = dataset.manifest.tables.items()
    return tuple(name for name, table in tables if name != "dropped" and needed <= set(table.columns))


def open_corpus(path: str) -> Corpus | None:
    """The dataset that a path or URL means, or the last texts of a run there; None where it means files.

    Of a run the published datasets are passed over: their rows come in copies.

    Raises:
        DatasetError: a dataset or run without texts.
    """
    folder = Folder(path)
    if folder.is_local and not folder.exists():
        return None
    if read_manifest(folder) is not None:
        return Corpus.of(Dataset(folder))
    if not folder.exists("run.json"):
        return None
    found = [dataset for dataset in datasets_below(folder) if dataset.manifest.key_parts.get("step") != "Published"]
    for dataset in reversed(found):
        if _tables(dataset):
            return Corpus.of(dataset)
    names = ", ".join(dataset.manifest.step for dataset in found) or "no dataset"
    raise DatasetError(f"{path}: a run that has {names}, none of them with texts; run its build first")


def read_files(name: str, path: str, *, text_column: str | None = None, text_unit: str = "file") -> Documents:
    """The step that reads files into a dataset of documents.

    Args:
        text_column: of files of tables; by default ``text``.
        text_unit: what one document is in files of plain text: file, paragraph or line.

    Raises:
        ConfigError: an empty path, or a unit that there is not.
    """
    if not path:
        raise ConfigError("corpus: got an empty path; give files, a dataset or a run")
    columns = {} if text_column is None else {"text": text_column}
    entry = Files(path=path, columns=columns, text_unit=text_unit)
    return Documents(name, (FileSource(name="files", entries=(entry,)),), ())


def read_range(folder: Folder, rows: RowRange, more: tuple[str, ...] = ()) -> Iterator[pa.RecordBatch]:
    """Rows of a part with their text and the columns that are carried, from the row groups that hold them.

    Args:
        more: further columns, where the part has them.

    Raises:
        DatasetError: the part is missing or damaged.
    """
    try:
        with folder.open_read(rows.file.path) as file, pq.ParquetFile(file) as parquet:
            columns = [name for name in parquet.schema_arrow.names if name in (*CARRIED, "text", *more)]
            begin = 0
            for group in range(parquet.num_row_groups):
                end = begin + parquet.metadata.row_group(group).num_rows
                first, last = max(rows.start, begin), min(rows.stop, end)
                if first < last:
                    table = parquet.read_row_group(group, columns, use_threads=False).slice(first - begin, last - first)
                    yield from table.combine_chunks().to_batches(_READ_BATCH)
                begin = end
    except (OSError, pa.ArrowInvalid) as error:
        raise DatasetError(f"{folder.join(rows.file.path)}: {error}; run the build again") from error


def carried(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The columns that stand beside scores, in one order; ``content_hash`` is made where a dataset left it out."""
    found = {name: batch[name] for name in CARRIED if name in batch.schema.names}
    if "content_hash" not in found:
        texts = batch["text"].fill_null("").to_pylist()
        hashes = [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts]
        found["content_hash"] = pa.array(hashes, pa.binary(16))
    names = [name for name in CARRIED if name in found]
    return pa.RecordBatch.from_arrays([found[name] for name in names], names)
