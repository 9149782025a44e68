"""Answers kept in one SQLite file, so that none is paid for twice: ``complete_kept``.

    sha256(model identity, request) -> the completion as JSON

Answers are committed in small groups as soon as they are there. A run that is killed pays at most for the group that
was in flight, and another run over the same texts, whatever else changed in its recipe, asks only what is new. Failures
are not kept: the next run asks again. Several processes may use one file (write-ahead log, a busy writer is waited
for).

Price: about 30,000 look-ups/s and some 300 bytes an answer; of equal requests in one call one is asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import StorageError
from penstock.generators.base import Completion, LanguageModel, Request, digest

_WAIT = 60.0  # seconds for another process to finish its write
_LOOKUP = 500  # keys in one query; SQLite's own bound was 999 for long


def default_store() -> str:
    """``penstock/answers.sqlite`` of ``$XDG_CACHE_HOME``, which is ``~/.cache`` where it is not set."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return f"{cache}/penstock/answers.sqlite"


@dataclass(frozen=True, kw_only=True)
class AnswerStore:
    """Completions by digest, in a SQLite file on a local disk; made when first written to."""

    path: str

    def get(self, digests: Sequence[str]) -> dict[str, Completion]:
        """Those of the digests that are known."""
        found: dict[str, Completion] = {}
        if not Path(self.path).exists():
            return found
        with self._open() as connection:
            for start in range(0, len(digests), _LOOKUP):
                some = list(digests[start : start + _LOOKUP])
                marks = ",".join("?" * len(some))
                rows = connection.execute(f"SELECT digest, body FROM answers WHERE digest IN ({marks})", some)
                found |= {key: Completion.from_json(json.loads(body)) for key, body in rows}
        return found

    def put(self, answers: dict[str, Completion]) -> None:
        """Keep answers; an error is no answer and is left out."""
        rows = [(key, json.dumps(one.to_json())) for key, one in answers.items() if one.error is None]
        if rows:
            with self._open() as connection:
                connection.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own for each use: a forked worker must not inherit one."""
        try:
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=_WAIT)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("CREATE TABLE IF NOT EXISTS answers (digest TEXT PRIMARY KEY, body TEXT NOT NULL)")
                with connection:
                    yield connection
            finally:
                connection.close()
        except (sqlite3.Error, OSError) as error:
            raise StorageError(
                f"{self.path}: answers cannot be kept there ({error}); name another file, or remove it if it is broken"
            ) from error


async def complete_kept(
    model: LanguageModel, requests: Sequence[Request], store: AnswerStore, group: int = 64
) -> list[Completion]:
    """Completions in order of the requests; what the store has is not asked, what is asked is kept.

    Args:
        group: requests that are asked, and kept, together.
    """
    keys = [digest(model, request) for request in requests]
    known = store.get(list(dict.fromkeys(keys)))
    missing = list({key: request for key, request in zip(keys, requests, strict=True) if key not in known}.items())
    for start in range(0, len(missing), group):
        some = missing[start : start + group]
        answers = await model.complete([request for _, request in some])
        fresh = {key: answer for (key, _), answer in zip(some, answers, strict=True)}
        store.put(fresh)
        known |= fresh
    return [known[key] for key in keys]
