"""What a selection by a target chooses from."""

from __future__ import annotations

import pyarrow as pa
import pytest

from penstock.dataset import Dataset
from penstock.errors import ConfigError, DatasetError
from penstock.pipelines.candidates import Pool, pool_dataset
from penstock.pipelines.documents import Documents

TEXTS = [("one", "a"), ("two", "b"), ("one", "a"), ("three", "c"), ("four", "c")]


@pytest.fixture
def lab(lab):
    """The lab with rows of documents from texts, and the target committed by sources of its own."""

    def read_rows(rows):
        source = lab.files(target=rows)
        (split,) = source.plan(1 << 20)
        (found,) = source.read(split, dropped="ids")
        (lab.base / "corpus" / "target.jsonl").unlink()
        return found.documents

    lab.read_rows = read_rows
    return lab


def commit_target(lab, *texts):
    source = lab.files(target=[(text, "t") for text in texts])
    dataset = lab.run(Documents("target", (source,), ()))
    (lab.base / "corpus" / "target.jsonl").unlink()
    return dataset


def test_rows_of_the_target_are_dropped_and_counted_whatever_the_splits(lab):
    commit_target(lab, "one", "four")
    source = lab.files(x=TEXTS[:2], y=TEXTS[2:])
    found = []
    for size in (1 << 20, 30):
        pool = lab.run(Pool(sources=(source,)), split_bytes=size)
        rows = pool.read("documents")
        found.append((pool.digest, rows["text"].to_pylist(), rows["tokens"].null_count, rows["bytes"].to_pylist()))
        assert pool.manifest.counts.dropped == {"not_in_target": {"in_target": 3}}
    assert found[0] == found[1]
    assert found[0][1:] == (["two", "three"], 2, [3, 5])


def test_the_dropped_rows_say_which_they_were(lab):
    commit_target(lab, "one")
    dropped = lab.run(Pool(sources=(lab.files(x=[*TEXTS, "{bad"]),))).read("dropped").to_pylist()
    assert sorted((row["reason"], row["doc_id"]) for row in dropped) == [
        ("in_target", "x.jsonl#0"),
        ("in_target", "x.jsonl#2"),
        ("invalid_json", "x.jsonl#5"),
    ]
    assert any("2 row(s) that the target holds" in note for note in lab.notes)


def test_a_dataset_is_a_pool_part_by_part_with_its_token_counts(lab, cut):
    commit_target(lab, "four")
    rows = lab.read_rows(TEXTS).append_column("tokens", pa.array([5, 6, 7, 8, 9], pa.int32()))
    rows = rows.append_column("score.quality", rows["tokens"])
    given = lab.given("scored", documents=cut(rows, [2]))
    pool = lab.run(Pool(dataset=given))
    assert pool.read("documents")["tokens"].to_pylist() == [5, 6, 7, 8]
    assert "score.quality" not in pool.table("documents").columns
    assert [file.rows for file in pool.table("documents").files] == [2, 2]
    assert pool.manifest.key_parts["inputs"] == {"dataset": given.digest}


def test_a_dataset_without_hashes_of_its_texts_is_refused(lab):
    commit_target(lab, "four")
    given = lab.given("scored", documents=[lab.read_rows(TEXTS).drop_columns(["content_hash"])])
    with pytest.raises(DatasetError, match=r"missing column.*content_hash"):
        lab.run(Pool(dataset=given))


def test_overlap_may_be_refused_and_an_empty_pool_always_is(lab):
    commit_target(lab, "one", "two")
    source = lab.files(x=TEXTS[:3])
    with pytest.raises(ConfigError, match=r"3 row.s. of the pool are rows of the target"):
        lab.run(Pool(sources=(source,), overlap="refuse"))
    with pytest.raises(ConfigError, match=r"no row is left to choose from .3 of 3 are rows of the target"):
        lab.run(Pool(sources=(source,)))


def test_a_target_without_rows_is_refused(lab):
    commit_target(lab, "")
    with pytest.raises(ConfigError, match=r"target: got no rows .1 records could not be used"):
        lab.run(Pool(sources=(lab.files(x=TEXTS),)))


def test_a_pool_has_one_origin(lab):
    source = lab.files(x=TEXTS)
    with pytest.raises(ConfigError, match="neither a dataset nor sources"):
        Pool()
    with pytest.raises(ConfigError, match="a dataset and sources"):
        Pool(dataset=Dataset(str(lab.root)), sources=(source,))


def test_a_path_means_a_dataset_a_run_or_files(lab, tmp_path):
    rows = lab.read_rows(TEXTS)
    assert pool_dataset(str(tmp_path / "nowhere")) is None
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.jsonl").write_text('{"text": "x"}\n')
    assert pool_dataset(str(tmp_path / "files")) is None
    assert pool_dataset(str(tmp_path / "files" / "a.jsonl")) is None
    first = lab.given("documents", documents=[rows])
    assert pool_dataset(str(lab.root)).digest == pool_dataset(first.folder.url).digest == first.digest
    scored = lab.given("scored", documents=[rows.append_column("tokens", pa.array([1] * 5))])
    lab.given("zz", documents=[rows.slice(0, 2)])
    assert pool_dataset(str(lab.root)).digest == scored.digest
    other = lab.given("vocabulary", words=[rows])
    with pytest.raises(DatasetError, match="no dataset of documents among vocabulary"):
        pool_dataset(other.folder.url)
