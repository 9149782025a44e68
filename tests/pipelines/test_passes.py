"""Passes: a split without a receipt is done, one with a receipt is not, and buckets come back as they went in."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.dataset import Counts, FileEntry, read_part
from penstock.digest import TableDigest
from penstock.errors import DatasetError
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.passes import (
    Pass,
    Receipt,
    Slices,
    Split,
    add_numbers,
    merge_counts,
    merge_parts,
    read_receipts,
    run_pass,
    run_split,
    splits_of,
)
from penstock.storage import Folder


class Recorder:
    """Row work that remembers which splits it did, and fails on those it is told to."""

    def __init__(self, *failing):
        self.did, self.failing = [], set(failing)

    def __call__(self, split, out):
        self.did.append(split.index)
        rows = pa.record_batch({"n": pa.array(range(split.payload["rows"]), pa.int64())})
        out.write("numbers", rows)
        out.count(rows_in=rows.num_rows, kept=rows.num_rows)
        if split.index in self.failing:
            raise ValueError(f"split {split.index}")


SPLITS = splits_of({"rows": rows} for rows in (3, 0, 2, 5))


@pytest.fixture
def folder(tmp_path):
    return Folder(str(tmp_path / "step"))


def job(folder, work, prefix="0123456789ab/pass"):
    return Pass(folder, prefix, work)


def run(folder, work, splits=SPLITS, progress=None):
    return run_pass(job(folder, work), splits, HomeEngine(0), progress)


def test_receipts_come_in_split_order_and_name_what_is_there(folder):
    receipts = run(folder, Recorder())
    assert [r.split for r in receipts] == [s.id for s in SPLITS]
    table = merge_parts(receipts, "numbers")
    assert [f.rows for f in table.files] == [3, 2, 5]  # a split without rows has no part
    assert table.rows == 10
    assert table.columns == {"n": "int64"}
    rows = [n for f in table.files for b in read_part(folder, f) for n in b["n"].to_pylist()]
    assert rows == [0, 1, 2, 0, 1, 0, 1, 2, 3, 4]
    assert merge_counts(receipts) == Counts(rows_in=10, kept=10)
    assert merge_parts(receipts, "other") is None


def test_a_second_run_does_nothing_and_returns_equal_receipts(folder):
    first = run(folder, Recorder())
    again = Recorder()
    assert run(folder, again) == first
    assert again.did == []


def test_only_splits_without_a_receipt_are_done(folder):
    first = run(folder, Recorder())
    folder.remove([f"0123456789ab/pass/{SPLITS[n].id}.json" for n in (0, 3)])
    again, seen = Recorder(), []
    second = run(folder, again, progress=lambda *progress: seen.append(progress))
    assert again.did == [0, 3]
    assert seen == [(2, 4), (3, 4), (4, 4)]
    assert second[1:3] == first[1:3]
    assert merge_parts(second, "numbers").digest == merge_parts(first, "numbers").digest


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_receipt_whose_part_is_gone_or_cut_does_not_count(folder, tmp_path, harm):
    first = run(folder, Recorder())
    harm(tmp_path / "step" / first[2].parts["numbers"].file.path)
    again = Recorder()
    run(folder, again)
    assert again.did == [2]


def test_a_failing_split_leaves_no_part_and_keeps_what_was_done(folder):
    with pytest.raises(ValueError, match="split 2"):
        run(folder, Recorder(2))
    assert set(read_receipts(job(folder, Recorder()), SPLITS)) == {SPLITS[0].id, SPLITS[1].id}
    assert sum(name.endswith(".parquet") for name in folder.files()) == 1
    again = Recorder()
    run(folder, again)
    assert again.did == [2, 3]


def test_receipts_of_another_key_or_payload_are_never_taken(folder):
    run(folder, Recorder())
    other = Recorder()
    run_pass(job(folder, other, "ba9876543210/pass"), SPLITS, HomeEngine(0))
    assert other.did == [0, 1, 2, 3]
    changed = Recorder()
    run(folder, changed, splits_of({"rows": rows} for rows in (3, 0, 2, 6)))
    assert changed.did == [3]


def test_every_attempt_writes_under_names_of_its_own(folder):
    one, two = (run_split(job(folder, Recorder()), SPLITS[0]).parts["numbers"].file for _ in range(2))
    assert one.path != two.path
    assert one.sha256 == two.sha256
    # the later receipt stands; the earlier part is still whole for whoever reads it
    assert read_receipts(job(folder, Recorder()), SPLITS)[SPLITS[0].id].parts["numbers"].file == two
    assert folder.size(one.path) == one.bytes


@dataclass(frozen=True)
class Piece:
    part: int
    file: FileEntry


def test_a_split_s_id_depends_on_its_place_and_all_of_its_payload_and_on_nothing_else():
    file = FileEntry("a.parquet", 10, "00", 3)
    ids = {
        Split(0, Piece(1, file)).id,
        Split(1, Piece(1, file)).id,
        Split(0, Piece(2, file)).id,
        Split(0, Piece(1, FileEntry("b.parquet", 10, "00", 3))).id,
        Split(0, {"a": 1, "b": 2}).id,
    }
    assert len(ids) == 5
    assert Split(0, {"b": 2, "a": 1}).id == Split(0, {"a": 1, "b": 2}).id
    assert Split(7, {"range": "0"}).id == "00007-" + Split(8, {"range": "0"}).id[6:]
    assert Split(7, {"range": "0"}).id == "00007-" + hashlib.blake2b(b'{"range": "0"}', digest_size=5).hexdigest()


def test_a_receipt_is_the_same_after_json(folder):
    def work(split, out):
        out.bucket("b", "x", pa.record_batch({"z": pa.array([1]), "a": pa.array(["é"])}))
        out.count(rows_in=2, kept=1, dropped={"work": {"reason": 1}})
        out.add_stats({"domains": {"d": {"rows": 1}}})

    receipt = run_split(job(folder, work), Split(0, 0))
    again = Receipt.from_json(folder.read_json(f"0123456789ab/pass/{receipt.split}.json"))
    assert again == receipt
    assert list(again.parts["b"].columns) == ["z", "a"]


def test_counts_add_up_over_batches_and_splits(folder):
    def work(split, out):
        out.count(rows_in=3, kept=1, dropped={"f": {"short": 1}})
        out.count(made=1, dropped={"f": {"short": 1, "long": 1}})

    total = merge_counts(run(folder, work))
    assert total == Counts(rows_in=12, made=4, kept=4, dropped={"f": {"short": 8, "long": 4}})
    assert total.balances
    assert total.dropped_total == 12


def test_nested_numbers_add_in_place():
    into = {"a": {"x": 1}, "n": 1}
    add_numbers(into, {"a": {"x": 2, "y": 3}, "b": {"z": {"w": 1}}, "n": 0.5})
    assert into == {"a": {"x": 3, "y": 3}, "b": {"z": {"w": 1}}, "n": 1.5}


# one list of bucket numbers a split: row i of split s goes to bucket layout[s][i]
layouts = st.lists(st.lists(st.integers(0, 4), max_size=12), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(layouts, st.integers(1, 12))
def test_buckets_come_back_whole_in_the_order_of_splits(tmp_path_factory, layout, batch_rows):
    folder = Folder(str(tmp_path_factory.mktemp("buckets")))

    def work(split, out):
        of_row = np.array(layout[split.index], dtype=np.int64)
        for bucket in np.unique(of_row)[::-1]:
            rows = np.flatnonzero(of_row == bucket)
            batch = pa.record_batch({"at": pa.array([f"{split.index}:{row}" for row in rows], pa.string())})
            for first in range(0, len(rows), batch_rows):
                out.bucket("t", str(bucket), batch.slice(first, batch_rows))

    receipts = run_pass(job(folder, work), splits_of(range(len(layout))), HomeEngine(0))
    slices = Slices.of(folder, receipts, "t")
    for bucket in range(5):
        expected = [f"{s}:{row}" for s, of in enumerate(layout) for row, b in enumerate(of) if b == bucket]
        found = slices.read(str(bucket))
        assert ([] if found is None else found["at"].to_pylist()) == expected
    assert set(slices.slices) == {str(b) for of in layout for b in of}


def test_rows_of_a_bucket_that_was_closed_are_never_lost_in_silence(folder):
    def work(split, out):
        for bucket in ("x", "y", "x"):
            out.bucket("t", bucket, pa.record_batch({"n": pa.array([1])}))

    with pytest.raises(AssertionError, match="bucket x of t was closed"):
        run_split(job(folder, work), Split(0, 0))


def test_the_layout_of_slices_changes_with_the_files(folder):
    def work(split, out):
        out.bucket("t", "x", pa.record_batch({"n": pa.array([1])}))

    layouts = [Slices.of(folder, [run_split(job(folder, work), Split(0, 0))], "t").layout for _ in range(2)]
    assert layouts[0] != layouts[1]


def test_a_part_is_one_zstd_file_whose_digest_is_that_of_its_rows(folder):
    rows = pa.record_batch({"n": pa.array([3, 1, 2]), "text": pa.array(["a", None, "é"])})

    def work(split, out):
        for first in range(3):
            out.write("t", rows.slice(first, 1))

    part = run_split(job(folder, work), Split(0, 0)).parts["t"]
    assert part.digest == TableDigest.of(rows)
    with pq.ParquetFile(folder.join(part.file.path)) as file:
        assert file.metadata.num_row_groups == 1
        assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert pa.Table.from_batches(read_part(folder, part.file)).to_pylist() == rows.to_pylist()


def test_columns_that_change_between_batches_are_refused(folder):
    def work(split, out):
        out.write("t", pa.record_batch({"a": pa.array([1])}))
        out.write("t", pa.record_batch({"b": pa.array([1])}))

    with pytest.raises(DatasetError, match=r"columns \['b'\] do not match the table's \['a'\]"):
        run_split(job(folder, work), Split(0, 0))
