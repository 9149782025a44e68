"""Answers kept in one SQLite file, so that none is paid for twice.

    sha256(model identity, request) -> the completion as JSON, the model's name, when it was made (seconds since 1970)

Who asks through a store is a ``session.ModelSession``. Another run over the same texts, whatever else changed in its
recipe, asks only what is new. Several processes may use one file (write-ahead log, a busy writer is waited for). A file
that an earlier version wrote is taken on; its answers have neither name nor time.

What is committed survives the death of the process; a machine that loses power may lose the last moments.

Price: about 30,000 look-ups/s and some 300 bytes an answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import StorageError
from penstock.generators.base import Completion

_WAIT = 60.0  # seconds for another process to finish its write
_LOOKUP = 500  # keys in one query; SQLite's own bound was 999 for long
_TABLE = "CREATE TABLE IF NOT EXISTS answers (digest TEXT PRIMARY KEY, body TEXT NOT NULL, model TEXT, made INTEGER)"


def default_store() -> str:
    """``penstock/answers.sqlite`` of ``$XDG_CACHE_HOME``, which is ``~/.cache`` where it is not set."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return f"{cache}/penstock/answers.sqlite"


@dataclass(frozen=True, kw_only=True)
class AnswerStore:
    """Completions by digest, in a SQLite file on a local disk; made when first written to."""

    path: str

    def get(self, digests: Sequence[str]) -> dict[str, Completion]:
        """Those of the digests that are known.

        Raises:
            StorageError: the file cannot be used.
        """
        found: dict[str, Completion] = {}
        if not Path(self.path).exists():
            return found
        with self.open() as connection:
            for start in range(0, len(digests), _LOOKUP):
                some = list(digests[start : start + _LOOKUP])
                marks = ",".join("?" * len(some))
                rows = connection.execute(f"SELECT digest, body FROM answers WHERE digest IN ({marks})", some)
                found |= {key: Completion.from_json(json.loads(body)) for key, body in rows}
        return found

    @contextlib.contextmanager
    def writer(self, model: str) -> Iterator[AnswerWriter]:
        """Where answers of a model are put, as long as the context is open.

        Raises:
            StorageError: the file cannot be used.
        """
        with self.open() as connection:
            yield AnswerWriter(connection, model)

    @contextlib.contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own for each use: a forked worker must not inherit one."""
        try:
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=_WAIT)
        except (sqlite3.Error, OSError) as error:
            raise self._broken(error) from error
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            _prepare(connection)
            yield connection
        except sqlite3.Error as error:
            raise self._broken(error) from error
        finally:
            connection.close()

    def _broken(self, error: Exception) -> StorageError:
        return StorageError(
            f"{self.path}: answers cannot be kept there ({error}); name another file, or remove it if it is broken"
        )


class AnswerWriter:
    """Puts answers into an open store."""

    def __init__(self, connection: sqlite3.Connection, model: str) -> None:
        self._connection, self._model = connection, model

    def put(self, answers: Mapping[str, Completion]) -> None:
        """Keep answers by their digests, in one transaction; an error is no answer and is left out."""
        now = int(time.time())
        rows = [(key, json.dumps(one.to_json()), self._model, now) for key, one in answers.items() if one.error is None]
        if rows:
            with self._connection:
                self._connection.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", rows)


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the table, or give that of an earlier version the columns it lacks."""
    if len(_columns(connection)) == 4:
        return
    connection.execute("BEGIN IMMEDIATE")  # another process may be about to do the same
    with connection:
        connection.execute(_TABLE)
        for name, kind in (("model", "TEXT"), ("made", "INTEGER")):
            if name not in _columns(connection):
                connection.execute(f"ALTER TABLE answers ADD COLUMN {name} {kind}")


def _columns(connection: sqlite3.Connection) -> list[str]:
    return [name for _, name, *_ in connection.execute("PRAGMA table_info(answers)")]
