"""Rows by id: found without reading what cannot hold them, known by their beginning, near ones for a wrong one."""

from __future__ import annotations

import pyarrow as pa
import pytest

from penstock import tracing_rows
from penstock.dataset import Dataset
from penstock.errors import ConfigError, DatasetError
from penstock.tracing_rows import resolve, rows_with

IDS = ["a.txt#1", "a.txt#10", "a.txt#2", "b/long name.txt#0", "b/long name.txt#1", "b/other.txt#7", "é#3"]


def documents(ids):
    return pa.RecordBatch.from_pydict(
        {"doc_id": ids, "text": [f"text of {i}" for i in ids], "token_ids": [[1, 2]] * len(ids)}
    )


@pytest.fixture
def made(tmp_path, commit_rows):
    """A step of two parts, and a child of it with one id that it alone has."""
    commit_rows(tmp_path, "documents", {"documents": [documents(IDS[:3]), documents(IDS[3:])]})
    return Dataset(f"{tmp_path}/documents")


def test_a_row_is_found_in_its_part_and_place_without_its_heavy_columns(made):
    (found,) = rows_with(made, "documents", "doc_id", "b/long name.txt#1")
    assert (found.file, found.place) == (made.table("documents").files[1], 1)
    assert found.row == {"doc_id": "b/long name.txt#1", "text": "text of b/long name.txt#1"}
    assert rows_with(made, "documents", "doc_id", "b/long name.txt") == []


def test_no_more_rows_than_asked_for_are_found(tmp_path, commit_rows):
    commit_rows(tmp_path, "many", {"documents": [documents(["x#1"] * 5), documents(["x#1"] * 5)]})
    many = Dataset(f"{tmp_path}/many")
    assert len(rows_with(many, "documents", "doc_id", "x#1")) == 10
    places = [(f.file.path, f.place) for f in rows_with(many, "documents", "doc_id", "x#1", most=7)]
    files = [file.path for file in many.table("documents").files]
    assert places == [(files[0], n) for n in range(5)] + [(files[1], n) for n in range(2)]


@pytest.mark.parametrize("name", IDS)
def test_an_id_means_itself_even_where_others_begin_with_it(made, name):
    assert resolve([made], name) == name


@pytest.mark.parametrize(("given", "meant"), [("b/o", "b/other.txt#7"), ("é", "é#3"), ("a.txt#2", "a.txt#2")])
def test_the_beginning_of_one_id_is_enough(made, given, meant):
    assert resolve([made], given) == meant


def test_the_beginning_of_several_is_not(made):
    with pytest.raises(ConfigError, match=r"got a\.txt, which 3 ids begin with, such as a\.txt#1, a\.txt#2, a\.txt#10"):
        resolve([made], "a.txt")


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("b/long name.txt#8", "b/long name.txt#"),
        ("OTHER.TXT#7", "b/other.txt#7"),
        ("b/log name.txt#0", "b/long name.txt#0"),
    ],
)
def test_an_id_that_is_not_there_is_told_with_those_near_it(made, given, near):
    with pytest.raises(ConfigError) as raised:
        resolve([made], given)
    assert f"got {given}, which no row of {made.folder.url} has; near it: {near}" in str(raised.value)


def test_an_empty_id_is_refused(made):
    with pytest.raises(ConfigError, match="got an empty one"):
        resolve([made], "")


def test_row_groups_that_cannot_hold_an_id_are_not_read(made, monkeypatch):
    read = []
    ids = tracing_rows._ids

    def counted(parquet, group, column):
        read.append(ids(parquet, group, column).to_pylist())
        return ids(parquet, group, column)

    monkeypatch.setattr(tracing_rows, "_ids", counted)
    assert len(rows_with(made, "documents", "doc_id", "b/other.txt#7")) == 1
    assert read == [IDS[3:]]
    read.clear()
    assert resolve([made], "a.txt#10") == "a.txt#10"
    assert read == [IDS[:3]]


def test_ids_of_later_steps_are_those_of_the_first(tmp_path, commit_rows, made):
    commit_rows(tmp_path, "lone", {"problems": [pa.RecordBatch.from_pydict({"problem_id": ["p-1", "p-2"]})]})
    lone = Dataset(f"{tmp_path}/lone")
    assert resolve([made, lone], "p-2") == "p-2"
    assert resolve([made, lone], "b/ot") == "b/other.txt#7"


def test_a_damaged_part_is_named(made):
    file = made.table("documents").files[0]
    with open(made.folder.join(file.path), "r+b") as part:
        part.write(b"\0" * 100)
        part.truncate(200)
    with pytest.raises(DatasetError, match="run the build again"):
        rows_with(made, "documents", "doc_id", "a.txt#1")
