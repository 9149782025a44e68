"""Publishing: exactly the selected rows, in order, in balanced shards, whatever the parts of the build were."""

import itertools
import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.dataset import Counts, Dataset, FileEntry, Manifest, TableEntry
from penstock.errors import DatasetError
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.publish import SPLITS, Published, card, plan_shards
from penstock.pipelines.select import selected
from penstock.step import Settings, Silent, run_step
from penstock.storage import Folder

ROW = st.tuples(st.sampled_from(SPLITS), st.integers(0, 3), st.integers(1, 40))  # split, copies, length of the text


def tables(rows, cuts):
    """(documents, selection, stats) of scored rows cut into parts, as the steps before publishing make them."""
    n = len(rows)
    texts = [chr(97 + i % 26) * length for i, (_, _, length) in enumerate(rows)]
    documents = pa.record_batch(
        {
            "doc_id": pa.array([f"d#{i}" for i in range(n)], pa.string()),
            "id_hash": pa.array(range(n), pa.uint64()),
            "text": pa.array(texts, pa.string()),
            "source": pa.array(["files"] * n, pa.string()),
            "domain": pa.array([("river", "<b>")[i % 2] for i in range(n)], pa.string()),
            "split": pa.array([split for split, _, _ in rows], pa.string()),
            "bytes": pa.array([length for _, _, length in rows], pa.int64()),
            "tokens": pa.array([length for _, _, length in rows], pa.int32()),
            "score.quality": pa.array([i / max(n, 1) for i in range(n)], pa.float32()),
        }
    )
    chosen = documents.select(["doc_id", "split", "bytes", "tokens"])
    chosen = chosen.append_column("copies", pa.array([copies for _, copies, _ in rows], pa.int32()))
    edges = [0, *sorted({cut % n for cut in cuts} - {0}), n]
    parts = [slice(a, b - a) for a, b in itertools.pairwise(edges)]
    cut = lambda batch: [batch.slice(p.start, p.stop) for p in parts]  # noqa: E731
    return cut(documents), cut(chosen), {"parts": {str(i): selected(b) for i, b in enumerate(cut(chosen))}}


@pytest.fixture(scope="session")
def publish(commit_rows):
    def run(root, rows, cuts=(), *, shard_bytes=200, title="title", workers=0):
        documents, selection, stats = tables(rows, cuts)
        commit_rows(root, "scored", {"documents": documents})
        commit_rows(root, "selection", {"selection": selection}, stats)
        step = Published("dataset", "scored", "selection", title, shard_bytes)
        with HomeEngine(workers) as engine:
            return run_step(step, Folder(str(root)), engine, Silent(), Settings()).manifest

    return run


def contents(folder):
    return {name: folder.read_bytes(name) for name in folder.files()}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(ROW, min_size=1, max_size=60).filter(lambda rows: any(s == "train" and c for s, c, _ in rows)), st.data()
)
def test_exactly_the_selected_rows_come_out_in_order_and_every_other_is_in_dropped(
    tmp_path_factory, publish, rows, data
):
    root = tmp_path_factory.mktemp("published")
    cuts = data.draw(st.lists(st.integers(0, 59), max_size=5))
    shard_bytes = data.draw(st.sampled_from([50, 300, 10_000]))
    manifest = publish(root, rows, cuts, shard_bytes=shard_bytes)
    dataset = Dataset(f"{root}/dataset")
    for split in SPLITS:
        expected = [f"d#{i}" for i, (s, copies, _) in enumerate(rows) if s == split and copies]
        if not expected:
            assert split not in manifest.tables
            continue
        entry = manifest.tables[split]
        assert dataset.read(split)["doc_id"].to_pylist() == expected
        size = sum(length for s, copies, length in rows if s == split and copies)
        of = min(math.ceil(size / shard_bytes), len(expected))
        assert [f.path for f in entry.files] == [f"data/{split}-{i:05d}-of-{of:05d}.parquet" for i in range(of)]
        assert max(f.rows for f in entry.files) - min(f.rows for f in entry.files) <= 1
    left = {f"d#{i}" for i, (_, copies, _) in enumerate(rows) if not copies}
    dropped = dataset.read("dropped")["doc_id"].to_pylist() if "dropped" in manifest.tables else []
    assert len(dropped) == len(left)
    assert set(dropped) == left
    expected = Counts(rows_in=len(rows), kept=len(rows) - len(left))
    expected.dropped.update({"selection": {"not_selected": len(left)}} if left else {})
    assert manifest.counts == expected


def test_published_bytes_do_not_depend_on_the_parts_or_the_workers(tmp_path, publish):
    rng = np.random.default_rng(0)
    rows = [(SPLITS[int(rng.integers(0, 3))], int(rng.integers(0, 2)), int(rng.integers(1, 40))) for _ in range(300)]
    publish(tmp_path / "a", rows)
    publish(tmp_path / "b", rows, range(10, 300, 7))
    publish(tmp_path / "c", rows, [299], workers=1)
    first = contents(Folder(f"{tmp_path}/a/dataset"))
    assert first == contents(Folder(f"{tmp_path}/b/dataset")) == contents(Folder(f"{tmp_path}/c/dataset"))
    assert sum(name.startswith("data/train-") for name in first) == 4


@pytest.mark.parametrize("gone", ["first part", "last part", "middle", "all but one"])
def test_shards_are_balanced_zstd_with_a_page_index_and_no_empty_row_group(tmp_path, publish, gone):
    keep = {
        "first part": lambda i: i >= 100,
        "last part": lambda i: i < 300,
        "middle": lambda i: not 50 <= i < 350,
        "all but one": lambda i: i == 250,
    }[gone]
    rows = [("train", int(keep(i)), 30) for i in range(400)]
    manifest = publish(tmp_path, rows, (100, 200, 300), shard_bytes=1000)
    files = manifest.tables["train"].files
    assert len(files) == (1 if gone == "all but one" else 9 if gone != "middle" else 3)
    assert max(f.rows for f in files) / min(f.rows for f in files) <= 1.1
    for file in (*files, *manifest.tables["dropped"].files):
        metadata = pq.read_metadata(tmp_path / "dataset" / file.path)
        assert metadata.num_rows == file.rows
        assert metadata.num_row_groups >= 1
        for group in range(metadata.num_row_groups):
            assert metadata.row_group(group).num_rows > 0
            for number in range(metadata.num_columns):
                column = metadata.row_group(group).column(number)
                assert column.compression == "ZSTD"
                assert column.has_offset_index
                assert column.has_column_index


counts = st.fixed_dictionaries({"rows": st.integers(0, 9), "selected": st.integers(0, 5), "bytes": st.integers(0, 99)})


@given(st.lists(counts, min_size=1, max_size=12), st.integers(1, 200))
def test_shards_cover_all_selected_rows_once_and_read_every_part_that_has_rows_for_them(parts, shard_bytes):
    shards = plan_shards({str(i): {"train": part} for i, part in enumerate(parts)}, shard_bytes, "layout")
    total = sum(part["selected"] for part in parts)
    assert [(s.first, s.last) for s in shards] == [(s.first, t.first) for s, t in itertools.pairwise(shards)] + [
        (shards[-1].first, total)
    ]
    assert shards[0].first == 0
    assert all(s.of == len(shards) for s in shards)
    starts = np.cumsum([0, *(part["selected"] for part in parts)])
    for shard in shards:
        read = dict(shard.parts)
        assert all(before == starts[part] for part, before in read.items())
        for part in range(len(parts)):
            if max(starts[part], shard.first) < min(starts[part + 1], shard.last):
                assert part in read


def test_a_rebuild_with_fewer_shards_leaves_none_of_the_older(tmp_path, publish):
    rows = [("train", 1, 30)] * 100
    publish(tmp_path, rows, shard_bytes=300)
    manifest = publish(tmp_path, rows, shard_bytes=1500)
    named = {entry.path for entry in Dataset(f"{tmp_path}/dataset").entries()}
    assert set(Folder(f"{tmp_path}/dataset").files()) == named | {"README.md", "croissant.json", "manifest.json"}
    assert [f.path for f in manifest.tables["train"].files][-1] == "data/train-00001-of-00002.parquet"


class Stops:
    """An engine that does some splits and is then interrupted."""

    def __init__(self, splits):
        self.splits = splits

    def map(self, job, splits, done):
        HomeEngine(0).map(job, splits[: self.splits], done)
        raise KeyboardInterrupt


def test_a_shard_overwritten_by_another_key_is_not_believed_by_the_first(tmp_path, commit_rows):
    """Shards have fixed names: two builds that interrupt each other write the same files with other rows."""

    def step(letters, engine):
        rows = [("train", 1, 30)] * 60
        documents, selection, stats = tables(rows, ())
        texts = pa.array([letters * 15] * 60, pa.string())
        documents = [d.set_column(d.schema.get_field_index("text"), "text", texts) for d in documents]
        commit_rows(tmp_path, "scored", {"documents": documents})
        commit_rows(tmp_path, "selection", {"selection": selection}, stats)
        published = Published("dataset", "scored", "selection", "title", 600)
        return run_step(published, Folder(str(tmp_path)), engine, Silent(), Settings())

    for letters in ("ab", "cd", "ab", "cd"):
        with pytest.raises(KeyboardInterrupt):
            step(letters, Stops(2))
        # the files are of equal size under both keys, so only the receipts tell
        assert len([n for n in Folder(f"{tmp_path}/dataset").files() if re.search(r"/shards/.*json", n)]) <= 2
    step("ab", HomeEngine(0))
    assert set(Dataset(f"{tmp_path}/dataset").read("train")["text"].to_pylist()) == {"ab" * 15}
    Dataset(f"{tmp_path}/dataset").verify()


def test_an_interrupted_rebuild_leaves_no_manifest_that_names_other_bytes(tmp_path, publish):
    rows = [("train", 1, 30)] * 60
    publish(tmp_path, rows, shard_bytes=600)
    step = Published("dataset", "scored", "selection", "title", 300)
    with pytest.raises(KeyboardInterrupt):
        run_step(step, Folder(str(tmp_path)), Stops(1), Silent(), Settings())
    folder = Folder(f"{tmp_path}/dataset")
    assert not folder.exists("manifest.json")
    assert not folder.exists("README.md")
    assert (
        run_step(step, Folder(str(tmp_path)), HomeEngine(0), Silent(), Settings()).why == "resumes an unfinished build"
    )
    Dataset(folder).verify()


def test_a_selection_of_other_parts_is_refused(tmp_path, commit_rows):
    rows = [("train", 1, 30)] * 10
    documents, _, _ = tables(rows, (3,))
    _, selection, stats = tables(rows, (4,))
    commit_rows(tmp_path, "scored", {"documents": documents})
    commit_rows(tmp_path, "selection", {"selection": selection}, stats)
    step = Published("dataset", "scored", "selection", "title", 300)
    with pytest.raises(DatasetError, match=r"parts of scored and selection .*delete the folder of selection and run"):
        run_step(step, Folder(str(tmp_path)), HomeEngine(0), Silent(), Settings())


def test_a_selection_without_training_rows_is_refused(tmp_path, publish):
    with pytest.raises(
        DatasetError, match=r"dataset: the selection takes none of 5 documents for training; raise select"
    ):
        publish(tmp_path, [("train", 0, 30)] * 4 + [("test", 1, 30)])
    assert not Folder(f"{tmp_path}/dataset").exists("manifest.json")


def test_the_card_s_numbers_are_the_manifest_s(tmp_path, publish):
    publish(tmp_path, [("train", 1, 10)] * 7 + [("test", 2, 5)] * 3 + [("train", 0, 9)], shard_bytes=20, title="A: b")
    front, body = (tmp_path / "dataset" / "README.md").read_text().split("---\n")[1:]
    value = yaml.safe_load(front)
    assert value["pretty_name"] == "A: b"
    assert value["size_categories"] == ["n<1K"]
    assert value["dataset_info"]["splits"] == [
        {"name": "train", "num_examples": 7, "num_bytes": 70},
        {"name": "test", "num_examples": 3, "num_bytes": 15},
    ]
    assert value["configs"][0]["data_files"] == [
        {"split": "train", "path": "data/train-*"},
        {"split": "test", "path": "data/test-*"},
    ]
    assert "| train | 7 | 4 | 70 |" in body
    assert "| test | 3 | 1 | 15 |" in body
    assert "| river | 4 | 40 |" in body


def test_names_from_data_are_shown_on_the_card_and_not_obeyed():
    file = FileEntry("data/train-00000-of-00001.parquet", 1, "0", 1)
    stats = {"domains": {"train": {"<script>|x\n[a](b)": {"rows": 1, "bytes": 3, "lengths": {}}}}, "tokens": {}}
    manifest = Manifest(
        "dataset", 1, "k", {}, "d", {}, Counts(), {"train": TableEntry((file,), 1, "0", {})}, stats=stats
    )
    text = card("# <img src=x>", manifest)
    body = text.split("---\n")[2]
    assert "<script>" not in body
    assert "<img" not in body
    (line,) = (line for line in body.splitlines() if "script" in line)
    assert line == "| &#60;script&#62;&#124;x\ufffd&#91;a&#93;(b) | 1 | 0 |"
    assert yaml.safe_load(text.split("---\n")[1])["pretty_name"] == "# <img src=x>"
