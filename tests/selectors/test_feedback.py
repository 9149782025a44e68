"""Signals joined back to documents by hash and id."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.errors import DatasetError
from penstock.seeding import hash_ids
from penstock.selectors.feedback import SignalScore


def score(path: Path, columns: dict[str, object]) -> SignalScore:
    pq.write_table(pa.table(columns), path)
    return SignalScore(path=str(path), digest=hashlib.sha256(path.read_bytes()).hexdigest())


def batch(ids: list[str], hashes: list[int] | None = None) -> pa.RecordBatch:
    values = hash_ids(ids) if hashes is None else hashes
    return pa.RecordBatch.from_pydict({"doc_id": pa.array(ids, pa.string()), "id_hash": pa.array(values, pa.uint64())})


def test_rows_get_the_loss_of_their_document_and_null_where_training_saw_nothing(tmp_path: Path) -> None:
    work = score(tmp_path / "s.parquet", {"doc_id": ["c", "a", "b"], "excess_loss": [0.25, -1.5, 0.123456]})
    out = work.annotate(batch(["b", "zz", "a", "a"]))["score.excess_loss"]
    assert out.equals(pa.array([0.1235, None, -1.5, -1.5], pa.float32()))


def test_ids_that_share_a_hash_are_told_apart(tmp_path: Path) -> None:
    work = score(
        tmp_path / "s.parquet",
        {
            "doc_id": ["x", "y", "z"],
            "excess_loss": pa.array([1.0, 2.0, 3.0]),
            "id_hash": pa.array([5, 5, 9], pa.uint64()),
        },
    )
    out = work.annotate(batch(["y", "x", "w", "z", "z"], [5, 5, 5, 9, 2**64 - 1]))["score.excess_loss"]
    assert out.to_pylist() == [2.0, 1.0, None, 3.0, None]


def test_slices_give_the_rows_of_the_whole(tmp_path: Path) -> None:
    ids = [f"d#{i}" for i in range(50)]
    work = score(tmp_path / "s.parquet", {"doc_id": ids[::2], "excess_loss": [i / 8 for i in range(25)]})
    rows = batch(ids)
    parts = [work.annotate(rows.slice(a, 7))["score.excess_loss"] for a in range(0, 50, 7)]
    assert pa.concat_arrays(parts).to_pylist() == [i / 16 if i % 2 == 0 else None for i in range(50)]


def test_empty_batches_and_empty_signals_give_nulls(tmp_path: Path) -> None:
    work = score(
        tmp_path / "s.parquet", {"doc_id": pa.array([], pa.string()), "excess_loss": pa.array([], pa.float32())}
    )
    assert work.annotate(batch(["a"]))["score.excess_loss"].equals(pa.array([None], pa.float32()))
    assert work.annotate(batch([]))["score.excess_loss"].equals(pa.array([], pa.float32()))


def test_the_work_pickles_without_its_table(tmp_path: Path) -> None:
    work = score(tmp_path / "s.parquet", {"doc_id": ["a"], "excess_loss": [1.0]})
    work.setup()
    assert len(pickle.dumps(work)) < 400
    assert pickle.loads(pickle.dumps(work)) == work  # noqa: S301


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"doc_id": ["a", "a"], "excess_loss": [1.0, 2.0]}, "a doc_id occurs twice"),
        ({"doc_id": ["a"], "excess_loss": [float("nan")]}, "NaN in excess_loss"),
        ({"doc_id": ["a", None], "excess_loss": [1.0, 1.0]}, "1 null doc_id"),
        ({"doc_id": ["a"], "loss": [1.0]}, r"missing column\(s\) excess_loss; found doc_id, loss"),
    ],
)
def test_a_bad_aggregate_is_refused(tmp_path: Path, columns: dict[str, object], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        score(tmp_path / "s.parquet", columns).setup()


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    work = score(tmp_path / "s.parquet", {"doc_id": ["a"], "excess_loss": [1.0]})
    score(tmp_path / "s.parquet", {"doc_id": ["a"], "excess_loss": [2.0]})
    with pytest.raises(DatasetError, match="got sha256"):
        work.setup()
