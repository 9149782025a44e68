"""Splits by hash of the content."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pytest

from penstock.errors import ConfigError
from penstock.selectors.splits import AssignSplit


def batch(texts: list[str]) -> pa.RecordBatch:
    hashes = [hashlib.blake2b(t.encode(), digest_size=16).digest() for t in texts]
    return pa.RecordBatch.from_pydict({"content_hash": pa.array(hashes, pa.binary(16))})


def split(work: AssignSplit, rows: pa.RecordBatch) -> list[str]:
    return work.annotate(rows)["split"].to_pylist()


TEXTS = [f"text {i}" for i in range(20_000)]


def test_shares_come_out_within_four_standard_errors() -> None:
    out = split(AssignSplit(seed=1, validation=0.1, test=0.05), batch(TEXTS))
    for name, share in (("train", 0.85), ("validation", 0.1), ("test", 0.05)):
        assert abs(out.count(name) / 20_000 - share) < 4 * (share * (1 - share) / 20_000) ** 0.5


def test_equal_texts_are_always_on_the_same_side() -> None:
    out = split(AssignSplit(seed=1, validation=0.3, test=0.3), batch(["a", "b", "a", "c", "b"] * 3))
    assert out[0:15:5] == out[2:15:5]
    assert out[1:15:5] == out[4:15:5]


def test_a_cluster_named_by_another_column_lies_on_one_side_whatever_its_texts_are() -> None:
    hashes = [hashlib.blake2b(bytes([i // 4]), digest_size=16).digest() for i in range(400)]
    rows = batch(TEXTS[:400]).append_column("cluster_hash", pa.array(hashes, pa.binary(16)))
    work = AssignSplit(seed=1, validation=0.3, test=0.3, column="cluster_hash")
    assert work.reads == ("cluster_hash",)
    out = split(work, rows)
    assert all(len(set(out[i : i + 4])) == 1 for i in range(0, 400, 4))
    assert len(set(out)) == 3
    own = split(AssignSplit(seed=1, validation=0.3, test=0.3), rows.set_column(0, "content_hash", rows["cluster_hash"]))
    assert own == out


def test_a_row_has_one_split_however_batches_are_cut() -> None:
    work = AssignSplit(seed=3, validation=0.2, test=0.2)
    rows = batch(TEXTS[:100])
    assert split(work, rows.slice(0, 33)) + split(work, rows.slice(33)) == split(work, rows)


def test_another_seed_draws_another_split() -> None:
    rows = batch(TEXTS[:1000])
    a, b = (split(AssignSplit(seed=s, validation=0.5, test=0.0), rows) for s in (0, 1))
    assert 400 < sum(x != y for x, y in zip(a, b, strict=True)) < 600


def test_larger_shares_only_take_rows_out_of_train() -> None:
    rows = batch(TEXTS[:2000])
    small = split(AssignSplit(seed=5, validation=0.05, test=0.05), rows)
    large = split(AssignSplit(seed=5, validation=0.2, test=0.05), rows)
    assert all(new == old for old, new in zip(small, large, strict=True) if old != "train")


def test_all_train_without_shares_and_nothing_from_an_empty_batch() -> None:
    work = AssignSplit(seed=0, validation=0.0, test=0.0)
    assert set(split(work, batch(TEXTS[:500]))) == {"train"}
    assert work.annotate(batch([]))["split"].equals(pa.array([], pa.string()))


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"validation": -0.1}, "validation: got -0.1, allowed a share from 0 to 1"),
        ({"test": 1.5}, "test: got 1.5, allowed a share from 0 to 1"),
        ({"validation": float("nan")}, "validation: got nan, allowed a share from 0 to 1"),
        ({"validation": 0.5, "test": 0.5}, "validation + test: got 1.0, allowed below 1"),
    ],
)
def test_impossible_shares_are_refused(shares: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        AssignSplit(seed=0, **shares)
    assert message in str(error.value)
