"""What an earlier step of the run made, as documents: one part of its tables, one split.

    problems, alone    ``Question: …`` and ``Answer: …`` on lines of their own, as problems made on the spot are
    documents          the text

A row's ``doc_id`` is that which it was made with; the rows stand in the order of the tables. Documents have the column
``split_key`` besides, the hash of their group: a question and its variants belong on one side of train and validation,
however unlike their texts are.

Price: that of reading the table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from penstock.dataset import Dataset, FileEntry, read_part
from penstock.sources import base
from penstock.sources.base import InputFile, Rows, SourceSplit, problem_text
from penstock.storage import Folder

SPLIT_KEY = "split_key"  # rows with equal keys go into one split; null where a row's own cluster decides
# id and text, or id, group, question and answer
COLUMNS = {
    "problems": ("problem_id", "group_id", "prompt", "answer"),
    "alone": ("problem_id", "group_id", "prompt", "answer"),
    "documents": ("doc_id", "doc_id", "text"),
}


def with_split_key(batch: pa.RecordBatch, groups: Sequence[str] | None = None) -> pa.RecordBatch:
    """Documents with the column ``split_key``: of their groups, or nulls."""
    hashes = None if groups is None else [hashlib.blake2b(g.encode(), digest_size=16).digest() for g in groups]
    keys = pa.nulls(batch.num_rows, pa.binary(16)) if hashes is None else pa.array(hashes, pa.binary(16))
    return batch.append_column(pa.field(SPLIT_KEY, pa.binary(16)), keys)


@dataclass(frozen=True, kw_only=True)
class MadeSource:
    """The rows of a step's tables.

    Attributes:
        name: of the source and the domain.
        folder: of the step.
        parts: table and file.
    """

    revision: ClassVar[int] = 1

    name: str
    folder: Folder
    parts: tuple[tuple[str, FileEntry], ...]

    @classmethod
    def of(cls, dataset: Dataset, name: str) -> MadeSource:
        tables = [table for table in COLUMNS if table in dataset.manifest.tables]
        parts = tuple((table, file) for table in tables for file in dataset.table(table).files)
        return cls(name=name, folder=dataset.folder, parts=parts)

    def inputs(self) -> list[InputFile]:
        """None: the step is a parent, and its digest is part of the key."""
        return []

    def plan(self, target_bytes: int) -> list[SourceSplit]:
        """A split for each part; what a step makes is small, so its parts are splits of a fair size."""
        base.check_target(target_bytes)
        return [
            SourceSplit(self.name, file.path, f"{self.name}/{place}", place, place + 1, 0, "made", self.name)
            for place, (_, file) in enumerate(self.parts)
        ]

    def identity(self, split: SourceSplit) -> Any:
        table, file = self.parts[split.start]
        return [self.name, table, file.sha256]

    def read(self, split: SourceSplit, *, dropped: str) -> Iterator[Rows]:
        builder, groups = base.RowsBuilder(self.name, dropped), list[str]()
        table, file = self.parts[split.start]
        for batch in read_part(self.folder, file, tuple(dict.fromkeys(COLUMNS[table]))):
            for doc_id, group, *made in zip(*(batch[name].to_pylist() for name in COLUMNS[table]), strict=True):
                text = made[0].encode() if len(made) == 1 else problem_text(*made)
                groups.append(group)
                if builder.add(doc_id, text, self.name) and (rows := builder.take()):
                    yield rows._replace(documents=with_split_key(rows.documents, groups))
                    groups = []
        if rows := builder.take():
            yield rows._replace(documents=with_split_key(rows.documents, groups))
