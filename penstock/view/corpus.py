"""What there is to look at in a folder: whose rows, the drops of all steps, clusters, a map, and a sample of the rows.

Of a published dataset and of a step its own rows are shown, of a run those of its last published dataset. Whatever lies
beside it and was made from it, or it from that, is there for the drops, the clusters, the map and the traces.

A table of more rows than are wanted is sampled by chance, the same way every time: rows from at most 64 of its row
groups, however many there are.

Price: the footers of all parts; the texts that are shown. Memory is one row group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.dataset import Dataset, FileEntry
from penstock.errors import DatasetError
from penstock.seeding import stream
from penstock.sources.base import READ_STEP
from penstock.storage import Folder
from penstock.tracing import connected
from penstock.tracing_rows import HEAVY, id_column, opened, rows_with

SPLITS = ("train", "validation", "test")
_TABLES = (SPLITS, ("documents",), ("problems", "alone"))  # of rows, the first that are there
_GROUPS = 64  # row groups that a sample is taken from
_CLUSTERS = 200  # the largest ones, listed
_BATCH = 16_384  # rows


@dataclass(frozen=True)
class Row:
    """A row as it is shown."""

    table: str
    file: str
    place: int  # in the file, from 0
    values: dict[str, Any]

    @property
    def id(self) -> str:
        """Its ``doc_id`` or ``problem_id``."""
        return str(self.values.get("doc_id") or self.values.get("problem_id"))

    @property
    def text(self) -> str:
        """Its text; question and answer of a problem."""
        if "text" in self.values:
            return str(self.values["text"])
        return f"{self.values['prompt']}\n\n{self.values['answer']}"


@dataclass(frozen=True)
class Sample:
    """How much of the rows is shown."""

    rows: int
    of: int
    groups: int  # row groups that they come from
    of_groups: int

    @property
    def whole(self) -> bool:
        return self.rows == self.of


class Corpus:
    """A folder that is looked at."""

    def __init__(self, url: str) -> None:
        """
        Raises:
            DatasetError: there is no dataset, or none with rows of text.
        """
        self.url = url
        self.datasets = connected(url)
        self.by_name = {dataset.manifest.step: dataset for dataset in self.datasets}
        self.dataset, self.tables = self._shown()

    def _shown(self) -> tuple[Dataset, tuple[str, ...]]:
        path = Folder(self.url).path
        given = [dataset for dataset in self.datasets if dataset.folder.path == path] or self.datasets
        for tables in _TABLES:
            for dataset in reversed(given):
                there = tuple(name for name in tables if _has_text(dataset, name))
                if there:
                    return dataset, there
        have = [d.manifest.step for d in self.datasets if any(_has_text(d, t) for of in _TABLES for t in of)]
        raise DatasetError(
            f"{self.url}: no rows of text to look at; "
            + (f"there are some in {', '.join(have)} beside it" if have else "give a dataset of texts, or a run")
        )

    def sample(self, most: int) -> tuple[Sample, Iterator[Row]]:
        """Rows to look at, at most ``most``, in their order."""
        return sample_of(self.dataset, self.tables, most)

    def drops(self) -> list[tuple[str, str, str, int]]:
        """Step, row work, reason and rows of everything that was dropped, as the manifests have it."""
        return [
            (dataset.manifest.step, by, reason, rows)
            for dataset in self.datasets
            for by, reasons in dataset.manifest.counts.dropped.items()
            for reason, rows in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        ]

    def dropped(self, step: str, by: str, reason: str, most: int) -> list[dict[str, Any]]:
        """The first rows that a step dropped for a reason; as much of their text as the recipe kept."""
        dataset = self.by_name.get(step)
        if dataset is None or "dropped" not in dataset.manifest.tables:
            return []
        out: list[dict[str, Any]] = []
        for file in dataset.table("dropped").files:
            with opened(dataset, file) as parquet:
                for group in range(parquet.num_row_groups):
                    names = parquet.read_row_group(group, ["step", "reason", "source"], use_threads=False)
                    mine = pc.equal(names["reason"], reason)
                    if by.startswith("source."):  # a record that never became a document
                        source = pc.fill_null(pc.equal(names["source"], by.removeprefix("source.")), False)
                        mine = pc.and_(mine, pc.and_(pc.equal(names["step"], READ_STEP), source))
                    else:
                        mine = pc.and_(mine, pc.equal(names["step"], by))
                    hit = pc.indices_nonzero(mine)
                    if len(hit):
                        hit = hit.slice(0, most - len(out))
                        out += parquet.read_row_group(group, use_threads=False).take(hit).to_pylist()
                    if len(out) >= most:
                        return out
        return out

    @cached_property
    def clustered(self) -> Dataset | None:
        """The step that lists clusters of duplicates."""
        return next((d for d in self.datasets if "cluster_size" in _columns(d, "clusters")), None)

    @cached_property
    def clusters(self) -> list[tuple[str, int]]:
        """The largest clusters of duplicates: the survivor's id and how many rows, the most first."""
        largest: dict[str, int] = {}
        if self.clustered is None:
            return []
        for batch in self.clustered.batches("clusters", ("cluster", "cluster_size"), _BATCH):
            table = pa.Table.from_batches([batch]).group_by("cluster").aggregate([("cluster_size", "max")])
            largest |= zip(table["cluster"].to_pylist(), table["cluster_size_max"].to_pylist(), strict=True)
            if len(largest) > 4 * _CLUSTERS:
                largest = dict(_largest(largest))
        return _largest(largest)

    def texts_of(self, ids: list[str]) -> dict[str, str | None]:
        """The texts of rows by id, as they were when duplicates were looked for; None where no step has it."""
        clustered = self.clustered
        before = [] if clustered is None else [self.by_name[n] for n in clustered.manifest.parents if n in self.by_name]
        return {name: self.text_of(name, [*before, *reversed(self.datasets)]) for name in ids}

    def text_of(self, name: str, datasets: list[Dataset] | None = None) -> str | None:
        """The text of a row, from the last step that has it, or what was kept of it when it was dropped."""
        given = datasets or [self.dataset, *reversed(self.datasets)]
        for tables in (tuple(table for of in _TABLES for table in of), ("dropped",)):
            for dataset in given:
                for table in tables:
                    column = id_column(dataset.manifest.tables[table]) if table in dataset.manifest.tables else None
                    for found in () if column is None else rows_with(dataset, table, column, name, most=1):
                        if table == "dropped":
                            kept: str | None = found.row["text"]
                            return kept
                        return Row(table, found.file.path, found.place, found.row).text
        return None


def sample_of(
    dataset: Dataset, tables: tuple[str, ...], most: int, heavy: tuple[str, ...] = HEAVY
) -> tuple[Sample, Iterator[Row]]:
    """Rows of some tables in their order, all of them or ``most`` drawn by chance, without the columns ``heavy``."""
    groups = list(_groups(dataset, tables))
    rows = np.array([n for *_, n in groups], dtype=np.int64)
    total = int(rows.sum())
    if total <= most:
        everything = [np.arange(n) for n in rows.tolist()]
        return Sample(total, total, len(groups), len(groups)), _read(dataset, groups, everything, heavy)
    chance = stream(0, "view", dataset.digest)
    order = chance.permutation(len(groups))
    enough = int(np.searchsorted(np.cumsum(rows[order]), most)) + 1
    chosen = np.sort(order[: max(enough, _GROUPS)])
    ends = np.cumsum(rows[chosen])
    drawn = np.sort(chance.choice(int(ends[-1]), most, replace=False))
    cut = np.split(drawn, np.searchsorted(drawn, ends[:-1]))
    places = [here - (end - n) for here, end, n in zip(cut, ends, rows[chosen], strict=True)]
    found = Sample(most, total, len(chosen), len(groups))
    return found, _read(dataset, [groups[int(i)] for i in chosen], places, heavy)


def _groups(dataset: Dataset, tables: tuple[str, ...]) -> Iterator[tuple[str, FileEntry, int, int, int]]:
    """Table, file, number, first row in the file and rows of each row group."""
    for table in tables:
        for file in dataset.table(table).files:
            with opened(dataset, file) as parquet:
                sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
            first = 0
            for group, rows in enumerate(sizes):
                yield table, file, group, first, rows
                first += rows


def _read(
    dataset: Dataset, groups: list[tuple[str, FileEntry, int, int, int]], places: list[Any], heavy: tuple[str, ...]
) -> Iterator[Row]:
    for (table, file, group, first, _), wanted in zip(groups, places, strict=True):
        if not len(wanted):
            continue
        with opened(dataset, file) as parquet:
            columns = [name for name in parquet.schema_arrow.names if name not in heavy]
            found = parquet.read_row_group(group, columns, use_threads=False).take(pa.array(wanted))
        at = iter((wanted + first).tolist())
        for batch in found.to_batches(max_chunksize=1024):
            for row in batch.to_pylist():
                yield Row(table, file.path, next(at), row)


def _columns(dataset: Dataset, table: str) -> dict[str, str]:
    entry = dataset.manifest.tables.get(table)
    return {} if entry is None else entry.columns


def _has_text(dataset: Dataset, table: str) -> bool:
    columns = _columns(dataset, table)
    return ("text" in columns and "doc_id" in columns) or {"problem_id", "prompt", "answer"} <= columns.keys()


def _largest(sizes: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(((n, s) for n, s in sizes.items() if s > 1), key=lambda item: (-item[1], item[0]))[:_CLUSTERS]
