"""What there is to look at: the rows, the sample, drops, clusters and texts of a run's folders."""

from __future__ import annotations

import pyarrow as pa
import pytest

from penstock.errors import DatasetError
from penstock.view import corpus as module
from penstock.view.corpus import Corpus


def test_of_a_run_the_last_published_dataset_is_shown(seen):
    corpus = Corpus(seen.root)
    assert (corpus.dataset.manifest.step, corpus.tables) == ("dataset-1", ("train", "validation"))
    taken, rows = corpus.sample(1000)
    assert taken.whole
    assert [(row.table, row.id) for row in rows] == [
        (name, seen.ids[i]) for name, of in seen.splits.items() for i in of
    ]


def test_of_a_step_its_own_rows_are_shown_and_what_lies_beside_it_is_known(seen):
    corpus = Corpus(f"{seen.root}/deduplicated")
    _, rows = corpus.sample(1000)
    assert [row.text for row in rows] == [seen.texts[i] for i in seen.kept]
    assert [d.manifest.step for d in corpus.datasets] == ["documents", "deduplicated", "dataset-1", "groups"]


def test_a_step_without_texts_is_refused_with_those_that_have_some(seen, tmp_path):
    with pytest.raises(
        DatasetError, match="no rows of text to look at; there are some in documents, deduplicated, dataset-1"
    ):
        Corpus(f"{seen.root}/groups")
    with pytest.raises(DatasetError, match="so no dataset"):
        Corpus(str(tmp_path))


def test_problems_are_shown_with_question_and_answer(tmp_path, commit_rows):
    rows = pa.RecordBatch.from_pydict({"problem_id": ["p"], "prompt": ["1 + 1?"], "answer": ["2"]})
    commit_rows(tmp_path, "generated", {"problems": [rows]})
    ((row,),) = [list(Corpus(str(tmp_path)).sample(9)[1])]
    assert (row.id, row.text) == ("p", "1 + 1?\n\n2")


@pytest.fixture
def many(tmp_path, commit_rows):
    """900 rows in 30 parts."""
    parts = [
        pa.RecordBatch.from_pydict({"doc_id": [f"f#{p}.{i}" for i in range(30)], "text": ["t"] * 30}) for p in range(30)
    ]
    commit_rows(tmp_path, "documents", {"documents": parts})
    return Corpus(str(tmp_path))


def test_a_sample_has_the_rows_that_are_asked_for_in_their_order_and_is_the_same_every_time(many):
    ids = [f"f#{p}.{i}" for p in range(30) for i in range(30)]
    taken, rows = many.sample(100)
    found = [(row.id, row.file, row.place) for row in rows]
    assert (taken.rows, taken.of, taken.groups, taken.of_groups) == (100, 900, 30, 30)
    assert [ids.index(name) for name, _, _ in found] == sorted(ids.index(name) for name, _, _ in found)
    assert len({name for name, _, _ in found}) == 100
    assert found == [(row.id, row.file, row.place) for row in many.sample(100)[1]]
    files = [file.path for file in many.dataset.table("documents").files]
    assert all((files.index(file), place) == tuple(map(int, name[2:].split("."))) for name, file, place in found)


def test_a_sample_of_a_large_table_reads_few_row_groups_but_enough_of_them(many, monkeypatch):
    monkeypatch.setattr(module, "_GROUPS", 4)
    taken, rows = many.sample(50)
    assert len({row.file for row in rows}) <= taken.groups == 4
    taken, rows = many.sample(500)
    assert (len(list(rows)), taken.groups) == (500, 17)


def test_drops_are_those_of_the_manifests(seen):
    told = {(step, by, reason): rows for step, by, reason, rows in Corpus(seen.root).drops()}
    assert told == {
        (step, by, reason): rows
        for step, of in seen.drops.items()
        for by, reasons in of.items()
        for reason, rows in reasons.items()
    }


def test_rows_of_a_reason_are_those_that_were_dropped_for_it(seen, attack):
    corpus = Corpus(seen.root)
    few = corpus.dropped("documents", "gopher", "too_few_words", 3)
    assert [row["doc_id"] for row in few] == ["file.txt#62", "file.txt#63", "file.txt#64"]
    (bad,) = corpus.dropped("documents", "source.files", "invalid_json", 9)
    assert (bad["doc_id"], bad["detail"], bad["text"]) == ("file.txt#60", "byte 7", "{not json")
    assert [row["text"] for row in corpus.dropped("documents", "gopher", attack, 9)] == ["short"]
    assert corpus.dropped("documents", "source.other", "invalid_json", 9) == []
    assert corpus.dropped("dataset-1", "selection", "not_selected", 9) == []
    assert corpus.dropped("nothing", "gopher", "too_few_words", 9) == []


def test_the_largest_clusters_come_first(seen, tmp_path, commit_rows, monkeypatch):
    assert Corpus(seen.root).clusters == [(seen.ids[40], 3)]
    sizes = {f"c{n}": n for n in range(1, 40)}
    rows = [
        pa.RecordBatch.from_pydict(
            {
                "doc_id": [f"{name}.{i}" for i in range(n)],
                "cluster": [name] * n,
                "cluster_size": pa.array([n] * n, pa.int64()),
            }
        )
        for name, n in sizes.items()
    ]
    documents = pa.RecordBatch.from_pydict({"doc_id": ["x"], "text": ["t"]})
    commit_rows(tmp_path, "deduplicated", {"documents": [documents] * len(rows), "clusters": rows})
    monkeypatch.setattr(module, "_CLUSTERS", 5)
    assert Corpus(str(tmp_path)).clusters == [(f"c{n}", n) for n in range(39, 34, -1)]


def test_a_cluster_is_shown_as_it_was_before_duplicates_went(seen):
    corpus = Corpus(seen.root)
    ids = [seen.ids[i] for i in (40, 41, 42)]
    assert corpus.texts_of(ids) == {seen.ids[i]: seen.texts[i] for i in (40, 41, 42)}


def test_the_text_of_a_row_is_whole_where_any_step_has_it_whole(seen):
    corpus = Corpus(seen.root)
    assert corpus.text_of(seen.ids[41]) == seen.texts[41]
    assert corpus.text_of("file.txt#61") == "short"
    assert corpus.text_of("file.txt#999") is None
