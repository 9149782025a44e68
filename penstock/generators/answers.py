"""Answers kept in one SQLite file, so that none is paid for twice.

    sha256(model identity, request) -> the completion as JSON, the model's name, when it was made (seconds since 1970),
                                       a hash of both

Who asks through a store is a ``session.ModelSession``. Another run over the same texts, whatever else changed in its
recipe, asks only what is new. Several processes may use one file (write-ahead log, a busy writer is waited for). A file
that an earlier version wrote is taken on; its answers have neither name nor time nor hash. An answer that is not what
was written is removed and asked again.

What is committed survives the death of the process; a machine that loses power may lose the last moments.

Price: about 30,000 look-ups/s and some 300 bytes an answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.errors import StorageError
from penstock.generators.base import Completion

_WAIT = 60.0  # seconds for another process to finish its write
_LOOKUP = 500  # keys in one query; SQLite's own bound was 999 for long
_ADDED = (("model", "TEXT"), ("made", "INTEGER"), ("body_hash", "TEXT"))  # to the first version's columns
_TABLE = "CREATE TABLE IF NOT EXISTS answers (digest TEXT PRIMARY KEY, body TEXT NOT NULL)"


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
            connection.text_factory = lambda data: data.decode(errors="replace")  # damage is no error of SQLite's
            damaged: list[tuple[str]] = []
            for start in range(0, len(digests), _LOOKUP):
                some = list(digests[start : start + _LOOKUP])
                marks = ",".join("?" * len(some))
                query = f"SELECT digest, body, body_hash FROM answers WHERE digest IN ({marks})"
                for key, body, told in connection.execute(query, some):
                    answer = _answer(key, body, told)
                    if answer is None:
                        damaged.append((key,))
                    else:
                        found[key] = answer
            if damaged:
                with connection:
                    connection.executemany("DELETE FROM answers WHERE digest = ?", damaged)
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
        except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter where a message quotes a damaged file
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
        bodies = {key: json.dumps(one.to_json()) for key, one in answers.items() if one.error is None}
        rows = [(key, body, self._model, now, _hash(key, body)) for key, body in bodies.items()]
        if rows:
            with self._connection:
                self._connection.executemany(
                    "INSERT OR IGNORE INTO answers (digest, body, model, made, body_hash) VALUES (?, ?, ?, ?, ?)", rows
                )


def _hash(key: str, body: str) -> str:
    return hashlib.blake2b(f"{key} {body}".encode(), digest_size=8).hexdigest()


def _answer(key: str, body: Any, told: Any) -> Completion | None:
    """A kept completion; None where its bytes or its digest are not those that were kept."""
    try:
        if told is not None and told != _hash(key, body):
            return None
        return Completion.from_json(json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the table, or give that of an earlier version the columns it lacks."""
    if len(_columns(connection)) == 2 + len(_ADDED):
        return
    connection.execute("BEGIN IMMEDIATE")  # another process may be about to do the same
    with connection:
        connection.execute(_TABLE)
        for name, kind in _ADDED:
            if name not in _columns(connection):
                connection.execute(f"ALTER TABLE answers ADD COLUMN {name} {kind}")


def _columns(connection: sqlite3.Connection) -> list[str]:
    return [name for _, name, *_ in connection.execute("PRAGMA table_info(answers)")]
