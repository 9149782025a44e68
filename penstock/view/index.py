"""Rows to search and to filter: SQLite's full-text index (FTS5, BM25) over a sample, in a file that goes with it.

What is typed is words, all of which a row must hold, phrases in quotes, and beginnings (``turbin*``); everything else
that FTS5 would read as a command is a word. Case and accents do not count. Scripts without spaces between words are
searched by runs of letters from their beginning.

Price: twice the texts on the disk, 8 MB of text a second to build, 100 MB of memory; a search takes milliseconds, a
beginning that thousands of words share half a second.
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.view.corpus import Row

SEARCHED = 200_000  # characters of a text that are searched
ORDERS = ("relevance", "as stored", "longest", "shortest", "highest score", "lowest score")
_TERM = re.compile(r'"([^"]*)"?|([^\s"]+)')
_MARKS = ("\x02", "\x03")  # around a word that was found; texts are shown without control characters
_TOLD = ("doc_id", "problem_id", "text", "domain", "source", "url", "title", "learn", "content_hash", "id_hash")
SCORE = "score."


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is looked for."""

    words: str = ""
    domain: str | None = None
    table: str | None = None
    score: str | None = None  # that is bounded, and ordered by
    low: float | None = None
    high: float | None = None
    order: str = ORDERS[0]


@dataclass(frozen=True)
class Hit:
    """A row that was found; ``pieces`` are parts of its text and whether they were looked for."""

    number: int
    id: str
    table: str
    domain: str
    characters: int
    scores: dict[str, float | None]
    pieces: tuple[tuple[str, bool], ...]


class Index:
    """A searchable copy of some rows."""

    def __init__(self, folder: Path, rows: Iterable[Row]) -> None:
        """
        Args:
            folder: for the file, of this user alone.
        """
        self._lock = threading.Lock()  # pages are made in threads
        self._database = sqlite3.connect(folder / "rows.sqlite", check_same_thread=False)
        self.scores: tuple[str, ...] = ()
        with self._lock, self._database as database:
            database.executescript("PRAGMA journal_mode = off; PRAGMA synchronous = off; PRAGMA temp_store = file;")
            database.execute(
                'CREATE TABLE rows (number INTEGER PRIMARY KEY, id TEXT, "table" TEXT, domain TEXT, file TEXT, '
                "place INTEGER, characters INTEGER, url TEXT, title TEXT, text TEXT, more TEXT)"
            )
            self._fill(database, rows)
            database.execute("CREATE INDEX by_id ON rows (id)")
            database.execute(
                "CREATE VIRTUAL TABLE words USING fts5 (text, id, url, title, content='rows', content_rowid='number', "
                "tokenize='unicode61 remove_diacritics 2')"
            )
            database.execute("INSERT INTO words (words) VALUES ('rebuild')")
        self.domains = self._counts("domain")
        self.tables = self._counts('"table"')

    def _fill(self, database: sqlite3.Connection, rows: Iterable[Row]) -> None:
        columns: dict[str, str] = {}  # scores to columns, whose names are ours
        for number, row in enumerate(rows):
            values = row.values
            scores = {name: value for name, value in values.items() if name.startswith(SCORE)}
            for name in scores:
                if name not in columns:
                    columns[name] = f"s{len(columns)}"
                    database.execute(f"ALTER TABLE rows ADD COLUMN {columns[name]} REAL")
            told = {n: v for n, v in values.items() if n not in _TOLD and n not in scores and v is not None}
            cells = {
                "number": number, "id": row.id, '"table"': row.table, "domain": values.get("domain"),
                "file": row.file, "place": row.place, "characters": len(row.text), "url": values.get("url"),
                "title": values.get("title"), "text": row.text[:SEARCHED],
                "more": json.dumps(told, ensure_ascii=False, default=str),
                **{columns[name]: None if value is None else float(value) for name, value in scores.items()},
            }  # fmt: skip
            places = ", ".join("?" * len(cells))
            database.execute(f"INSERT INTO rows ({', '.join(cells)}) VALUES ({places})", tuple(cells.values()))
        self._columns = columns
        self.scores = tuple(name.removeprefix(SCORE) for name in columns)

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def _counts(self, column: str) -> dict[str, int]:
        """Rows by value of a column, the most first."""
        found = self._ask(f"SELECT {column}, count(*) FROM rows GROUP BY 1 ORDER BY 2 DESC, 1", ())
        return {value: count for value, count in found if value is not None}

    def range(self, score: str) -> tuple[float, float] | None:
        """The lowest and the highest value of a score; None where no row has one."""
        column = self._columns[SCORE + score]
        ((low, high),) = self._ask(f"SELECT min({column}), max({column}) FROM rows", ())
        return None if low is None else (low, high)

    def find(self, query: Query, *, first: int, most: int) -> tuple[int, list[Hit]]:
        """How many rows match, and some of them from place ``first`` on."""
        wanted = match(query.words)
        clauses, values = [], list[Any]()
        source = "rows"
        if wanted:
            source = "words JOIN rows ON rows.number = words.rowid"
            clauses.append("words MATCH ?")
            values.append(wanted)
        for column, value in (("domain", query.domain), ('"table"', query.table)):
            if value is not None:
                clauses.append(f"rows.{column} = ?")
                values.append(value)
        score = None if query.score is None else self._columns.get(SCORE + query.score)
        for bound, sign in ((query.low, ">="), (query.high, "<=")):
            if score is not None and bound is not None:
                clauses.append(f"rows.{score} {sign} ?")
                values.append(bound)
        where = f" WHERE {' AND '.join(clauses)}" if clauses else ""
        order = {
            "relevance": "words.rank, rows.number" if wanted else "rows.number",
            "longest": "rows.characters DESC, rows.number",
            "shortest": "rows.characters, rows.number",
            "highest score": f"rows.{score} IS NULL, rows.{score} DESC, rows.number",
            "lowest score": f"rows.{score} IS NULL, rows.{score}, rows.number",
        }.get(query.order if score is not None or "score" not in query.order else "", "rows.number")
        excerpt = f"snippet(words, 0, '{_MARKS[0]}', '{_MARKS[1]}', '…', 48)" if wanted else "substr(rows.text, 1, 400)"
        scores = "".join(f", rows.{column}" for column in self._columns.values())
        ((count,),) = self._ask(f"SELECT count(*) FROM {source}{where}", values)
        found = self._ask(
            f'SELECT rows.number, rows.id, rows."table", rows.domain, rows.characters, {excerpt}{scores} '
            f"FROM {source}{where} ORDER BY {order} LIMIT ? OFFSET ?",
            [*values, most, first],
        )
        return count, [
            Hit(number, name, table, domain or "", characters, dict(zip(self.scores, rest, strict=True)), marked(piece))
            for number, name, table, domain, characters, piece, *rest in found
        ]

    def row(self, name: str) -> dict[str, Any] | None:
        """All that is known of a row by its id; None where it is not in the sample."""
        found = self._ask(
            'SELECT "table", file, place, url, title, text, characters, more FROM rows WHERE id = ?', (name,)
        )
        if not found:
            return None
        table, file, place, url, title, text, characters, more = found[0]
        said = {"table": table, "file": file, "place": place, "url": url, "title": title}
        return said | {"text": text, "characters": characters, "more": json.loads(more)}

    def point(self, name: str, characters: int) -> dict[str, Any] | None:
        """Domain, scores and the beginning of the text of a row; None where it is not in the sample."""
        columns = "".join(f", {column}" for column in self._columns.values())
        found = self._ask(f"SELECT domain, substr(text, 1, ?){columns} FROM rows WHERE id = ?", (characters, name))
        if not found:
            return None
        domain, text, *scores = found[0]
        return {"domain": domain, "text": text, "scores": dict(zip(self.scores, scores, strict=True))}

    def _ask(self, sql: str, values: Any) -> list[Any]:
        with self._lock:
            return self._database.execute(sql, values).fetchall()


def match(words: str) -> str:
    """What FTS5 is asked for: every word or phrase in quotes, so that nothing is read as a command."""
    out = []
    for phrase, word in _TERM.findall(words):
        term = phrase or word
        begins = bool(word) and word.endswith("*")
        term = term.rstrip("*") if begins else term
        if any(character.isalnum() for character in term):  # marks alone are no word
            out.append('"' + term.replace('"', '""') + '"' + ("*" if begins else ""))
    return " ".join(out)


def marked(excerpt: str) -> tuple[tuple[str, bool], ...]:
    """An excerpt in pieces, and whether each is a word that was looked for."""
    pieces = re.split(f"[{_MARKS[0]}{_MARKS[1]}]", excerpt)
    return tuple((piece, place % 2 == 1) for place, piece in enumerate(pieces) if piece)
