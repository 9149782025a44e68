"""url, title, date and license of any type become sensible text."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.errors import ConfigError, InputError
from penstock.sources._origin import date_text, origin_of, plain_text
from penstock.sources.base import Origin
from penstock.sources.files import FileEntry, FileSource


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("mit", "mit"),
        ("  a b \n", "a b"),
        (" ", None),
        (None, None),
        (7, "7"),
        (1.5, "1.5"),
        (float("nan"), None),
        (True, "true"),
        (b"by\xff", "by\ufffd"),
        ("\ud800x", "?x"),
        (["mit", "apache-2.0"], "mit, apache-2.0"),
        (["mit", None, "", ["nested"], {"a": 1}, 2], "mit, 2"),
        ([], None),
        ({"name": "mit"}, None),
        ([{"name": "mit"}], None),
        (dt.date(2024, 1, 2), "2024-01-02"),
        (dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "2024-01-02T03:04:05Z"),
        (dt.timedelta(seconds=3), None),
    ],
)
def test_values_become_text_and_what_has_no_meaning_null(value, expected):
    assert plain_text(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2024, "2024"),
        ("2024", "2024"),
        ("2024-05", "2024-05"),
        ("2024-05-06", "2024-05-06"),
        ("2024-05-06T07:08:09Z", "2024-05-06T07:08:09Z"),
        ("2024-05-06T07:08:09.5+02:00", "2024-05-06T07:08:09.5+02:00"),
        ("2024-05-06 07:08:09", "2024-05-06T07:08:09"),
        ("2024-05-06 07:08:09+00:00", "2024-05-06T07:08:09Z"),
        ("Tue, 02 Jan 2024 03:04:05 GMT", "2024-01-02T03:04:05Z"),
        ("2 Jan 2024 03:04:05 +0200", "2024-01-02T03:04:05+02:00"),
        (20240102, "2024-01-02"),
        (20241399, "20241399"),
        (1704164645, "2024-01-02T03:04:05Z"),
        (1704164645.0, "2024-01-02T03:04:05Z"),
        (1704164645250, "2024-01-02T03:04:05.250000Z"),
        (10**15, str(10**15)),
        (-5, "-5"),
        (7, "7"),
        ("March 2024", "March 2024"),
        ("2024-13-45 x", "2024-13-45 x"),
        ("1704164645", "1704164645"),
        (dt.date(2024, 1, 2), "2024-01-02"),
        (True, "true"),
        ({"year": 2024}, None),
    ],
)
def test_dates_become_iso_8601_where_their_form_is_known(value, expected):
    assert date_text(value) == expected


def test_an_origin_that_knows_nothing_is_none():
    assert origin_of({}) is None
    assert origin_of({"url": None, "title": " ", "license": {}}) is None
    assert origin_of({"title": "t", "date": 2024}) == Origin(title="t", date="2024")


# --- in files


def origins(path: Path, **entry: Any) -> list[tuple[Any, ...]]:
    src = FileSource(name="s", entries=(FileEntry(path=str(path), **entry),))
    parts = [part.documents for split in src.plan(1 << 30) for part in src.read(split, dropped="ids")]
    return [(r["url"], r["title"], r["date"], r["license"]) for part in parts for r in part.to_pylist()]


ROWS = [
    {"text": "a", "url": "http://a", "title": "A", "date": "2024-01-02", "license": "MIT"},
    {"text": "b", "url": None, "title": None, "date": None, "license": None},
]
OUT = [("http://a", "A", "2024-01-02", "MIT"), (None, None, None, None)]


def write_rows(folder: Path, kind: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"a.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "csv":
        names = list(rows[0])
        lines = [names, *([row[name] if row[name] is not None else "" for name in names] for row in rows)]
        path.write_text("".join(",".join(line) + "\n" for line in lines))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, pa.Table.from_pylist(rows).schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows))
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "arrow"])
def test_columns_of_these_names_are_taken_where_they_are_there(tmp_path, kind):
    assert origins(write_rows(tmp_path, kind, ROWS)) == OUT
    bare = [{"text": row["text"], "title": row["title"]} for row in ROWS]
    assert origins(write_rows(tmp_path, kind, bare)) == [(None, "A", None, None), (None, None, None, None)]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "arrow"])
def test_columns_are_mapped_and_a_stated_license_fills_what_is_null(tmp_path, kind):
    rows = [{"body": r["text"], "link": r["url"], "lic": r["license"], "license": "no", "title": "t"} for r in ROWS]
    path = write_rows(tmp_path, kind, rows)
    columns = {"text": "body", "url": "link", "license": "lic"}
    assert origins(path, columns=columns, license="CC0-1.0") == [
        ("http://a", "t", None, "MIT"),
        (None, "t", None, "CC0-1.0"),
    ]


@pytest.mark.parametrize("kind", ["csv", "parquet", "arrow"])
def test_a_column_that_is_named_must_be_there(tmp_path, kind):
    path = write_rows(tmp_path, kind, ROWS)
    with pytest.raises(InputError, match=r"a\.\w+: no column link; found text, url, title, date, license"):
        origins(path, columns={"url": "link"})


def test_the_text_may_be_the_title_as_well(tmp_path):
    path = write_rows(tmp_path, "parquet", ROWS)
    assert origins(path, columns={"title": "text"})[0] == ("http://a", "a", "2024-01-02", "MIT")


def test_parquet_columns_of_other_types_become_text(tmp_path):
    stamp = pa.array([1704164645123456789, None], pa.timestamp("ns", "UTC"))
    table = pa.table(
        {
            "text": ["a", "b"],
            "url": pa.array([b"http://a/\xff", None]),
            "title": pa.array(["T", None]).dictionary_encode(),
            "date": stamp,
            "license": pa.array([["mit", "x"], []]),
        }
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    assert origins(path) == [("http://a/\ufffd", "T", "2024-01-02T03:04:05.123456Z", "mit, x"), (None,) * 4]
    nested = table.set_column(4, "license", pa.array([{"id": "mit"}, None]))
    nested = nested.set_column(3, "date", pa.array([dt.date(2024, 1, 2), dt.date(9999, 12, 31)]))
    pq.write_table(nested, path)
    assert [row[2:] for row in origins(path)] == [("2024-01-02", None), ("9999-12-31", None)]
    late = table.set_column(3, "date", pa.array([2**60, 0], pa.timestamp("ms")))
    pq.write_table(late, path)
    assert [row[2] for row in origins(path)] == [None, "1970-01-01T00:00:00"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"license": ""}, "license: got an empty text"),
        ({"columns": {"licence": "x"}}, "columns: got licence, allowed text, domain, url, title, date, license"),
    ],
)
def test_a_wrong_entry_says_what_is_allowed(entry, message):
    with pytest.raises(ConfigError, match=message):
        FileEntry(path="a", **entry)
