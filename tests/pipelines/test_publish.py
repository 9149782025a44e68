"""Publishing: exactly the selected rows, in order, in shards of a like size, whatever the parts of the build were."""

import itertools
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
from penstock.pipelines.publish import SPLITS, Published, card
from penstock.step import Settings, Silent, run_step
from penstock.storage import Folder

ROW = st.tuples(st.sampled_from(SPLITS), st.integers(0, 3), st.integers(1, 40))  # split, copies, length of the text


def tables(rows, cuts):
    """(documents, selection) of scored rows cut into parts, as the steps before publishing make them."""
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
            "score.quality": pa.array([i % 97 / 97 for i in range(n)], pa.float32()),
        }
    )
    chosen = documents.select(["doc_id", "split", "bytes", "tokens"])
    chosen = chosen.append_column("copies", pa.array([copies for _, copies, _ in rows], pa.int32()))
    edges = [0, *sorted({cut % n for cut in cuts} - {0}), n]
    parts = [slice(a, b - a) for a, b in itertools.pairwise(edges)]
    cut = lambda batch: [batch.slice(p.start, p.stop) for p in parts]  # noqa: E731
    return cut(documents), cut(chosen)


@pytest.fixture(scope="session")
def publish(commit_rows):
    def run(root, rows, cuts=(), *, shard_bytes=200, title="title", workers=0):
        documents, selection = tables(rows, cuts)
        commit_rows(root, "scored", {"documents": documents})
        commit_rows(root, "selection", {"selection": selection})
        step = Published("dataset", "scored", "selection", title, shard_bytes)
        with HomeEngine(workers) as engine:
            return run_step(step, Folder(str(root)), engine, Silent(), Settings()).manifest

    return run


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
        of = len(entry.files)
        assert [f.path for f in entry.files] == [f"data/{split}-{i:05d}-of-{of:05d}.parquet" for i in range(of)]
        sizes = np.add.reduceat(
            [length for s, copies, length in rows if s == split and copies],
            np.cumsum([0, *(f.rows for f in entry.files[:-1])]),
        )
        assert all(0.6 * shard_bytes <= size for size in sizes[:-1])
        assert all(size <= 1.4 * shard_bytes + 40 for size in sizes)  # 40: a row
    left = {f"d#{i}" for i, (_, copies, _) in enumerate(rows) if not copies}
    dropped = dataset.read("dropped")["doc_id"].to_pylist() if "dropped" in manifest.tables else []
    assert len(dropped) == len(left)
    assert set(dropped) == left
    expected = Counts(rows_in=len(rows), kept=len(rows) - len(left))
    expected.dropped.update({"selection": {"not_selected": len(left)}} if left else {})
    assert manifest.counts == expected


def test_published_bytes_do_not_depend_on_the_parts_or_the_workers(tmp_path, publish, published_bytes):
    rng = np.random.default_rng(0)
    rows = [(SPLITS[int(rng.integers(0, 3))], int(rng.integers(0, 2)), int(rng.integers(1, 40))) for _ in range(300)]
    publish(tmp_path / "a", rows)
    publish(tmp_path / "b", rows, range(10, 300, 7))
    publish(tmp_path / "c", rows, [299], workers=1)
    first = published_bytes(Folder(f"{tmp_path}/a/dataset"))
    assert first == published_bytes(Folder(f"{tmp_path}/b/dataset")) == published_bytes(Folder(f"{tmp_path}/c/dataset"))
    assert 3 <= sum(name.startswith("data/train-") for name in first) <= 7


@pytest.mark.parametrize("gone", ["first part", "last part", "middle", "all but one"])
def test_shards_are_of_a_like_size_zstd_with_a_page_index_and_no_empty_row_group(tmp_path, publish, gone):
    keep = {
        "first part": lambda i: i >= 100,
        "last part": lambda i: i < 300,
        "middle": lambda i: not 50 <= i < 350,
        "all but one": lambda i: i == 250,
    }[gone]
    rows = [("train", int(keep(i)), 30) for i in range(400)]
    manifest = publish(tmp_path, rows, (100, 200, 300), shard_bytes=1000)
    files = manifest.tables["train"].files
    assert sum(f.rows for f in files) == sum(map(keep, range(400)))
    assert all(20 <= f.rows <= 47 for f in files[:-1])  # of 30 bytes: three to seven fifths of a shard
    assert files[-1].rows <= 47
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


def test_a_rebuild_with_fewer_shards_leaves_none_of_the_older(tmp_path, publish, published_bytes):
    rows = [("train", 1, 30)] * 100
    publish(tmp_path, rows, shard_bytes=300)
    manifest = publish(tmp_path, rows, shard_bytes=1500)
    entries = Dataset(f"{tmp_path}/dataset").entries()
    assert set(published_bytes(Folder(f"{tmp_path}/dataset"))) == {e.path for e in entries} | {
        "README.md",
        "croissant.json",
        "manifest.json",
    }
    assert 2 <= len(manifest.tables["train"].files) <= 3


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
        documents, selection = tables(rows, ())
        texts = pa.array([letters * 15] * 60, pa.string())
        documents = [d.set_column(d.schema.get_field_index("text"), "text", texts) for d in documents]
        commit_rows(tmp_path, "scored", {"documents": documents})
        commit_rows(tmp_path, "selection", {"selection": selection})
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


def test_an_interrupted_rebuild_leaves_the_older_dataset_whole(tmp_path, publish):
    rows = [("train", 1, 30)] * 60
    before = publish(tmp_path, rows, shard_bytes=600)
    step = Published("dataset", "scored", "selection", "title", 300)
    with pytest.raises(KeyboardInterrupt):
        run_step(step, Folder(str(tmp_path)), Stops(1), Silent(), Settings())
    dataset = Dataset(f"{tmp_path}/dataset")
    assert dataset.manifest == before
    dataset.verify()
    after = run_step(step, Folder(str(tmp_path)), HomeEngine(0), Silent(), Settings()).manifest
    assert len(after.tables["train"].files) > len(before.tables["train"].files)
    Dataset(f"{tmp_path}/dataset").verify()


def test_a_rebuild_cut_while_names_are_given_leaves_no_manifest_that_names_other_bytes(tmp_path, publish, monkeypatch):
    rows = [("train", 1, 30)] * 60
    publish(tmp_path, rows, shard_bytes=600)
    step = Published("dataset", "scored", "selection", "title", 300)
    copy, given = Folder.copy_from, []

    def interrupted(self, other, name, to=None):
        given.append(to)
        if len(given) == 2:
            raise KeyboardInterrupt
        copy(self, other, name, to)

    monkeypatch.setattr(Folder, "copy_from", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_step(step, Folder(str(tmp_path)), HomeEngine(0), Silent(), Settings())
    monkeypatch.undo()
    folder = Folder(f"{tmp_path}/dataset")
    assert not folder.exists("manifest.json")
    assert not folder.exists("README.md")
    assert (
        run_step(step, Folder(str(tmp_path)), HomeEngine(0), Silent(), Settings()).why == "resumes an unfinished build"
    )
    Dataset(folder).verify()


def test_a_rebuild_writes_only_the_shards_that_changed_and_gives_the_bytes_of_a_full_build(
    tmp_path, commit_rows, published_bytes
):
    """In one folder, where shards get other numbers, and in another."""
    rng = np.random.default_rng(0)
    rows = [(SPLITS[int(rng.integers(0, 20)) // 18], int(rng.integers(0, 4) > 0), 30) for _ in range(600)]
    more = rows + [("train", 1, 30)] * 60

    class Counting(HomeEngine):
        made = 0

        def map(self, job, splits, done):
            self.made += len(splits) * job.prefix.endswith("train")
            super().map(job, splits, done)

    def build(root, rows, cuts, since=None):
        documents, selection = tables(rows, cuts)
        commit_rows(root, "scored", {"documents": documents})
        commit_rows(root, "selection", {"selection": selection})
        step, engine = Published("dataset", "scored", "selection", "title", 600), Counting(0)
        settings = Settings(since=None if since is None else Folder(str(since)))
        return run_step(step, Folder(str(root)), engine, Silent(), settings).manifest, engine.made

    first, made = build(tmp_path / "a", rows, (300,))
    assert made == len(first.tables["train"].files) > 15
    elsewhere, made = build(tmp_path / "b", more, (300, 600), since=tmp_path / "a")
    assert 1 <= made <= len(elsewhere.tables["train"].files) - 12
    Dataset(f"{tmp_path}/a/dataset").verify()
    _, made_here = build(tmp_path / "a", more, (300, 600))
    assert made_here == made
    full, _ = build(tmp_path / "c", more, (300, 600))
    assert len(full.tables["train"].files) > len(first.tables["train"].files)  # so that all names changed
    found = [published_bytes(Folder(f"{tmp_path}/{name}/dataset")) for name in "abc"]
    assert found[0] == found[1] == found[2]
    for name in "abc":
        Dataset(f"{tmp_path}/{name}/dataset").verify()


def test_a_selection_of_other_parts_is_refused(tmp_path, commit_rows):
    rows = [("train", 1, 30)] * 10
    documents, _ = tables(rows, (3,))
    _, selection = tables(rows, (4,))
    commit_rows(tmp_path, "scored", {"documents": documents})
    commit_rows(tmp_path, "selection", {"selection": selection})
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
