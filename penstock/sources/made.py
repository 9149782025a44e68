"""Problems that an earlier step of the run made, as documents: one part of its table, one split.

A problem is the text ``Question: …`` and ``Answer: …`` on lines of their own, as problems made on the spot are. Its
``doc_id`` is its ``problem_id``; the rows stand in the order of the table.

Price: that of reading the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from penstock.dataset import Dataset, FileEntry, read_part
from penstock.sources import base
from penstock.sources.base import InputFile, Rows, SourceSplit, problem_text
from penstock.storage import Folder


@dataclass(frozen=True, kw_only=True)
class MadeSource:
    """The rows of a step's ``problems`` table.

    Attributes:
        name: of the source and the domain.
        folder, files: of the table.
    """

    revision: ClassVar[int] = 1

    name: str
    folder: Folder
    files: tuple[FileEntry, ...]

    @classmethod
    def of(cls, dataset: Dataset, name: str) -> MadeSource:
        return cls(name=name, folder=dataset.folder, files=tuple(dataset.table("problems").files))

    def inputs(self) -> list[InputFile]:
        """None: the step is a parent, and its digest is part of the key."""
        return []

    def plan(self, target_bytes: int) -> list[SourceSplit]:
        """A split for each part; what a step makes is small, so its parts are splits of a fair size."""
        base.check_target(target_bytes)
        return [
            SourceSplit(self.name, file.path, f"{self.name}/{place}", place, place + 1, 0, "made", self.name)
            for place, file in enumerate(self.files)
        ]

    def identity(self, split: SourceSplit) -> Any:
        return [self.name, self.files[split.start].sha256]

    def read(self, split: SourceSplit, *, dropped: str) -> Iterator[Rows]:
        builder = base.RowsBuilder(self.name, dropped)
        for batch in read_part(self.folder, self.files[split.start]):
            for row in batch.select(["problem_id", "prompt", "answer"]).to_pylist():
                if builder.add(row["problem_id"], problem_text(row["prompt"], row["answer"]), self.name) and (
                    rows := builder.take()
                ):
                    yield rows
        if rows := builder.take():
            yield rows
