"""Rows of a run's tables by id: which table holds one, what an unfinished id may mean, which ids are near a wrong one.

Ids stand in the order of their files, so the smallest and largest of a row group tell for most of them that a row is
not there.

Price: the footers of all parts, and the id column of the row groups that may hold the id. A wrong id costs one read of
all ids. Memory is one row group.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock.dataset import Dataset, FileEntry, TableEntry
from penstock.errors import ConfigError, DatasetError
from penstock.terminal import count

ID_COLUMNS = ("doc_id", "problem_id")
# long columns that nobody reads row by row
HEAVY = ("token_ids", "learn_tokens", "embedding")
_BEGIN = ("Documents", "Generated", "Transformed")  # steps in which rows come into a run
_POOL = 200  # ids among which the nearest are looked for
_MANY = 1000  # ids that begin alike; more are not counted
_SHOWN = 3


@dataclass(frozen=True)
class Found:
    """A row of a table, without its heavy columns."""

    file: FileEntry
    place: int  # row in its file, from 0
    row: dict[str, Any]


def id_column(table: TableEntry) -> str | None:
    """The column that names the rows of a table; None where they have no name."""
    return next((name for name in ID_COLUMNS if name in table.columns), None)


def rows_with(
    dataset: Dataset, table: str, column: str, value: str, *, most: int | None = None, heavy: Sequence[str] = HEAVY
) -> list[Found]:
    """Rows of a table whose ``column`` is ``value``, in order, without the columns ``heavy``.

    Args:
        most: stop after this many.

    Raises:
        DatasetError: a part is missing or damaged.
    """
    out: list[Found] = []
    for file in dataset.table(table).files:
        before = 0
        for parquet, group, rows in _groups(dataset, file, column, value):
            if parquet is not None:
                hit = pc.indices_nonzero(pc.equal(_ids(parquet, group, column), value))
                if len(hit):
                    wanted = [name for name in parquet.schema_arrow.names if name not in heavy]
                    found = parquet.read_row_group(group, wanted, use_threads=False).take(hit).to_pylist()
                    places = hit.to_pylist()
                    out += [Found(file, before + at, row) for at, row in zip(places, found, strict=True)]
                    if most is not None and len(out) >= most:
                        return out[:most]
            before += rows
    return out


def resolve(datasets: Sequence[Dataset], given: str) -> str:
    """The id that ``given`` is, or the only one that it is the beginning of.

    Args:
        datasets: parents before children.

    Raises:
        ConfigError: no id begins so, or several do; the message shows some.
    """
    if not given:
        raise ConfigError("id: got an empty one; give the id of a row, or its beginning")
    begun: set[str] = set()
    for dataset, table, column in _tables_of_ids(datasets):
        for file in dataset.table(table).files:
            for parquet, group, _ in _groups(dataset, file, column, given):
                if parquet is None:
                    continue
                ids = _ids(parquet, group, column)
                ids = ids.filter(pc.starts_with(ids, given))
                if pc.any(pc.equal(ids, given)).as_py():
                    return given
                begun.update(ids.slice(0, _MANY).to_pylist() if len(begun) < _MANY else ())
    if len(begun) == 1:
        return begun.pop()
    if begun:
        many = f"{_MANY:,} or more" if len(begun) >= _MANY else f"{len(begun):,}"
        some = ", ".join(sorted(begun, key=lambda name: (len(name), name))[:_SHOWN])
        raise ConfigError(f"id: got {given}, which {many} ids begin with, such as {some}; give more of it")
    near = _near(datasets, given)
    where = datasets[0].folder.url if len(datasets) == 1 else f"these {count(len(datasets), 'dataset')}"
    raise ConfigError(
        f"id: got {given}, which no row of {where} has"
        + (f"; near it: {', '.join(near)}" if near else "; there are no rows with ids")
    )


def _near(datasets: Sequence[Dataset], given: str) -> list[str]:
    """Ids that begin as ``given`` does for as long as any, or hold it, the most alike first."""
    shared, alike, holding = 0, dict[str, None](), dict[str, None]()
    for dataset, table, column in _tables_of_ids(datasets):
        for file in dataset.table(table).files:
            for parquet, group, _ in _groups(dataset, file, column, None):
                if parquet is None:
                    continue
                ids = _ids(parquet, group, column)
                length = shared
                while length < len(given) and pc.any(pc.starts_with(ids, given[: length + 1])).as_py():
                    length += 1
                if length > shared:
                    shared, alike = length, {}
                for pool, match in (
                    (alike, pc.starts_with(ids, given[:shared])),
                    (holding, pc.match_substring(ids, given, ignore_case=True)),
                ):
                    if len(pool) < _POOL:
                        pool.update(dict.fromkeys(ids.filter(match).slice(0, _POOL).to_pylist()))
    return difflib.get_close_matches(given, [*{**holding, **alike}], n=_SHOWN, cutoff=0.0)


def _tables_of_ids(datasets: Sequence[Dataset]) -> Iterator[tuple[Dataset, str, str]]:
    """Tables that hold, together, every id: those of the steps in which rows come into a run."""
    named = {
        dataset.manifest.step
        for dataset in datasets
        if any(id_column(table) is not None for table in dataset.manifest.tables.values())
    }
    for dataset in datasets:
        manifest = dataset.manifest
        if manifest.key_parts.get("step") not in _BEGIN and named.intersection(manifest.parents):
            continue
        for name, table in manifest.tables.items():
            column = id_column(table)
            if column is not None:
                yield dataset, name, column


def _groups(
    dataset: Dataset, file: FileEntry, column: str, value: str | None
) -> Iterator[tuple[pq.ParquetFile | None, int, int]]:
    """The open part, number and rows of each of its row groups; None for one that cannot hold ids like ``value``."""
    with opened(dataset, file) as parquet:
        leaf = [parquet.schema.column(i).path for i in range(len(parquet.schema))].index(column)
        for group in range(parquet.num_row_groups):
            facts = parquet.metadata.row_group(group)
            may = value is None or _may_hold(facts.column(leaf).statistics, value)
            yield (parquet if may else None), group, facts.num_rows


@contextmanager
def opened(dataset: Dataset, file: FileEntry) -> Iterator[pq.ParquetFile]:
    """One Parquet part of a dataset; DatasetError when it is missing or damaged, while it is read too."""
    try:
        with dataset.folder.open_read(file.path) as source, pq.ParquetFile(source) as parquet:
            yield parquet
    except (OSError, pa.ArrowInvalid) as error:  # a damaged page is an OSError
        raise DatasetError(f"{dataset.folder.join(file.path)}: {error}; run the build again") from error


def _may_hold(statistics: Any, value: str) -> bool:
    """Whether there may be a text that begins with ``value`` between the smallest and the largest one."""
    if statistics is None or not statistics.has_min_max or not isinstance(statistics.min, str):
        return True
    length = len(value)
    # to cut texts at one length keeps their order
    return bool(statistics.min[:length] <= value <= statistics.max[:length])


def _ids(parquet: pq.ParquetFile, group: int, column: str) -> Any:
    """The ids of a row group as one array."""
    return parquet.read_row_group(group, [column], use_threads=False)[column].combine_chunks()
