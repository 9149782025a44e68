"""What a store of answers holds, and taking answers out of it: by age, by model, or down to a size.

Other processes may read and write meanwhile; they wait for the moments in which rows are deleted and the file is packed
(``VACUUM``). An answer that is taken out is paid for again when it is next wanted.

Price: statistics read the whole file; packing writes what stays once more.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.errors import ConfigError
from penstock.generators.answers import AnswerStore

UNNAMED = "(unnamed)"  # model of answers that an earlier version kept
_OLDEST_FIRST = "coalesce(made, 0), rowid"
_ROUNDS = 8  # of packing, each of which comes at least near the size


@dataclass(frozen=True, kw_only=True)
class ModelAnswers:
    """Answers of one model. Times are seconds since 1970; None where no answer has one."""

    model: str
    answers: int
    bytes: int  # of the completions as JSON
    oldest: int | None
    newest: int | None


@dataclass(frozen=True, kw_only=True)
class StoreStats:
    """A store: its models, the largest first, and the bytes of its file."""

    models: tuple[ModelAnswers, ...]
    bytes: int

    @property
    def answers(self) -> int:
        return sum(one.answers for one in self.models)


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What was, or would be, taken out: answers, and bytes of the file before and after (None for a dry run)."""

    answers: int
    before: int
    after: int | None


def store_stats(store: AnswerStore) -> StoreStats:
    """What a store holds; nothing where there is no file.

    Raises:
        StorageError: the file cannot be used.
    """
    if not Path(store.path).exists():
        return StoreStats(models=(), bytes=0)
    with store.open() as connection:
        rows = connection.execute(
            "SELECT coalesce(model, ?), count(*), sum(length(CAST(body AS BLOB))), min(made), max(made) "
            "FROM answers GROUP BY 1 ORDER BY 3 DESC, 1",
            (UNNAMED,),
        )
        models = tuple(
            ModelAnswers(model=name, answers=count, bytes=size, oldest=oldest, newest=newest)
            for name, count, size, oldest, newest in rows
        )
        return StoreStats(models=models, bytes=_size(connection))


def prune(
    store: AnswerStore,
    *,
    older_than: float | None = None,
    model: str | None = None,
    to_bytes: int | None = None,
    dry_run: bool = False,
) -> Pruned:
    """Take answers out of a store and pack its file.

    Args:
        older_than: seconds; answers that were made before so long go. Those without a time are the oldest.
        model: answers of this model go; with ``older_than`` those of it that are so old.
        to_bytes: of what is left the oldest go until the file has at most so many bytes (an empty one has a few pages).
        dry_run: count only; ``to_bytes`` is then an estimate from the mean size of an answer.

    Raises:
        ConfigError: nothing says what should go.
        StorageError: the file cannot be used.
    """
    if older_than is None and model is None and to_bytes is None:
        raise ConfigError("prune: got nothing to go by, allowed an age, a model, a size; name one of them")
    if not Path(store.path).exists():
        return Pruned(answers=0, before=0, after=None if dry_run else 0)
    where, values = _condition(older_than, model)
    with store.open() as connection:
        before = _size(connection)
        if dry_run:
            gone = _count(connection, where, values) if where else 0
            if to_bytes is not None:
                all_ = _count(connection, "1", [])
                fitting = all_ if before <= to_bytes else int(all_ * to_bytes / before)
                gone = max(gone, all_ - fitting)
            return Pruned(answers=gone, before=before, after=None)
        gone = 0
        if where:
            gone += _delete(connection, where, values)
        if to_bytes is not None:
            gone += _shrink(connection, to_bytes)
        _pack(connection)
        return Pruned(answers=gone, before=before, after=_size(connection))


def _condition(older_than: float | None, model: str | None) -> tuple[str, list[Any]]:
    """(SQL, values) of the answers that go by age and model."""
    conditions, values = [], list[Any]()
    if older_than is not None:
        conditions.append("coalesce(made, 0) < ?")
        values.append(time.time() - older_than)
    if model is not None:
        conditions.append("coalesce(model, ?) = ?")
        values += [UNNAMED, model]
    return " AND ".join(conditions), values


def _count(connection: sqlite3.Connection, where: str, values: list[Any]) -> int:
    return int(connection.execute(f"SELECT count(*) FROM answers WHERE {where}", values).fetchone()[0])


def _delete(connection: sqlite3.Connection, where: str, values: list[Any]) -> int:
    with connection:
        return connection.execute(f"DELETE FROM answers WHERE {where}", values).rowcount


def _shrink(connection: sqlite3.Connection, to_bytes: int) -> int:
    """Delete the oldest until the packed file fits; how many."""
    gone = 0
    for _ in range(_ROUNDS):
        _pack(connection)
        size, left = _size(connection), _count(connection, "1", [])
        if size <= to_bytes or left == 0:
            break
        some = left - int(left * to_bytes / size)  # by the mean size: exact sizes need pages to be looked into
        oldest = f"rowid IN (SELECT rowid FROM answers ORDER BY {_OLDEST_FIRST} LIMIT ?)"
        gone += _delete(connection, oldest, [max(1, some)])
    return gone


def _pack(connection: sqlite3.Connection) -> None:
    connection.execute("VACUUM")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _size(connection: sqlite3.Connection) -> int:
    (pages,), (size,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    return int(pages * size)
