"""Shuffled tables as pieces: each comes back by its bytes alone, as it was written."""

from __future__ import annotations

import uuid

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import DatasetError
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.passes import PIECES, Pass, Slices, read_receipts, run_pass, splits_of
from penstock.storage import Folder

LAYOUT = st.lists(st.lists(st.integers(0, 4), max_size=12), min_size=1, max_size=4)


def rows_of(split, numbers):
    """Rows of every kind of column that passes shuffle."""
    n = len(numbers)
    return pa.record_batch(
        {
            "name": pa.array([f"{split}:{i}" for i in range(n)], pa.string()),
            "key": pa.array([(i % 16) << 60 for i in range(n)], pa.uint64()),
            "hash": pa.array([bytes([i]) * 16 for i in range(n)], pa.binary(16)),
            "prefer": pa.array([None if i % 2 else float(i) for i in range(n)], pa.float64()),
            "token_ids": pa.array([list(range(i)) for i in range(n)], pa.list_(pa.uint16())),
            "old": pa.array([i % 3 == 0 for i in range(n)], pa.bool_()),
        }
    )


def shuffled(folder, layout, rows_at_once, method="piece"):
    """Row i of split s goes to bucket ``layout[s][i]``; buckets are written from the last to the first."""

    def write(split, out):
        numbers = np.array(layout[split.index], int)
        batch = rows_of(split.index, numbers)
        for bucket in np.unique(numbers)[::-1]:
            here = batch.take(pa.array(np.flatnonzero(numbers == bucket)))
            for first in range(0, here.num_rows, rows_at_once):
                getattr(out, method)("t", str(bucket), here.slice(first, rows_at_once))

    return run_pass(Pass(folder, f"0123456789ab/{method}", write), splits_of(range(len(layout))), HomeEngine(0))


@settings(max_examples=20, deadline=None)
@given(layout=LAYOUT, rows_at_once=st.integers(1, 5))
def test_pieces_are_what_row_groups_are_and_their_bytes_are_those_of_the_rows(tmp_path_factory, layout, rows_at_once):
    folder = Folder(str(tmp_path_factory.mktemp("pieces")))
    receipts = shuffled(folder, layout, rows_at_once)
    pieces = Slices.of(folder, receipts, "t")
    groups = Slices.of(folder, shuffled(folder, layout, rows_at_once, "bucket"), "t")
    assert set(pieces.slices) == set(groups.slices) == {str(b) for of in layout for b in of}
    for bucket in map(str, range(5)):
        for numbered in (False, True):
            found, wanted = (of.read(bucket, numbered=numbered) for of in (pieces, groups))
            assert (found is None) == (wanted is None)
            if found is not None:
                assert found.schema.equals(wanted.schema)
                assert found.to_pylist() == wanted.to_pylist()
    again = shuffled(Folder(str(tmp_path_factory.mktemp("again"))), layout, 100)
    for one, other, numbers in zip(receipts, again, layout, strict=True):
        assert ("t" in one.parts) == bool(numbers)
        if numbers:
            assert one.parts["t"].file.sha256 == other.parts["t"].file.sha256  # whatever the batches were
            assert one.parts["t"].file.rows == one.parts["t"].digest.rows == len(numbers)
            assert one.parts["t"].digest == other.parts["t"].digest


def test_a_piece_is_read_with_one_request_for_its_own_bytes(tmp_path, monkeypatch):
    folder = Folder(str(tmp_path))
    receipts = shuffled(folder, [[0, 1] * 50, [1, 2] * 50], 100)
    asked = []
    read = Folder.read_range

    def noted(own, name, start, stop):
        asked.append((name, start, stop))
        return read(own, name, start, stop)

    monkeypatch.setattr(Folder, "read_range", noted)
    monkeypatch.setattr(Folder, "open_read", None)  # no footer, nothing else
    assert Slices.of(folder, receipts, "t").read("1").num_rows == 100
    assert [name for name, _, _ in asked] == [receipt.parts["t"].file.path for receipt in receipts]
    assert all(name.endswith(PIECES) for name, _, _ in asked)
    assert [(start, stop) for _, start, stop in asked] == [receipt.buckets["t"]["1"] for receipt in receipts]
    of_all = sum(receipt.parts["t"].file.bytes for receipt in receipts)
    assert sum(stop - start for _, start, stop in asked) < 0.6 * of_all


def test_a_closed_bucket_and_other_columns_are_refused(tmp_path):
    def interleaved(split, out):
        for bucket in ("x", "y", "x"):
            out.piece("t", bucket, pa.record_batch({"n": [1]}))

    def other(split, out):
        out.piece("t", "x", pa.record_batch({"n": [1]}))
        out.piece("t", "x", pa.record_batch({"m": [1]}))

    folder = Folder(str(tmp_path))
    for work, error, message in (
        (interleaved, AssertionError, r"bucket x of .*t\.pieces was closed"),
        (other, DatasetError, r"columns \['m'\] do not match the table's \['n'\]"),
    ):
        with pytest.raises(error, match=message):
            run_pass(Pass(folder, "0123456789ab/refused", work), splits_of([0]), HomeEngine(0))
    assert folder.files() == []  # nothing half-written stays


def test_a_layout_changes_with_any_place_or_file_and_with_nothing_else(tmp_path):
    receipts = shuffled(Folder(str(tmp_path)), [[0, 1], [1, 1, 2]], 100)
    folder = Folder(str(tmp_path))
    slices = Slices.of(folder, receipts, "t")
    assert Slices.of(folder, receipts, "t").layout == slices.layout
    layouts = {
        slices.layout,
        Slices.of(folder, receipts[::-1], "t").layout,
        Slices.of(folder, receipts[:1], "t").layout,
    }
    receipts[1].buckets["t"]["2"] = tuple(at + 1 for at in receipts[1].buckets["t"]["2"])
    layouts.add(Slices.of(folder, receipts, "t").layout)
    renamed = Slices(folder, slices.slices, ("other", *slices.files[1:]))
    assert len(layouts | {renamed.layout}) == 5


def test_a_store_s_receipts_and_pieces_are_those_of_a_disk(tmp_path):
    layout = [[n % 5, (n + 1) % 5] for n in range(40)]
    store, disk = Folder(f"memory://{uuid.uuid4().hex}/step"), Folder(str(tmp_path))
    found = []
    for folder in (store, disk):
        receipts = shuffled(folder, layout, 100)
        job, splits = Pass(folder, "0123456789ab/piece", None), splits_of(range(len(layout)))
        assert list(read_receipts(job, splits).values()) == receipts  # in the order of splits
        slices = Slices.of(folder, receipts, "t")
        found.append([slices.read(str(bucket), numbered=True).to_pylist() for bucket in range(5)])
    assert found[0] == found[1]
