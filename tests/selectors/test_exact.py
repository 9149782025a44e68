"""Exact duplicates: who survives, and that nothing but the corpus decides it."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.selectors.exact import ExactDuplicates

WORK = ExactDuplicates()


def rows(texts: list[str], ids: list[str] | None = None) -> pa.RecordBatch:
    ids = ids or [f"file#{i}" for i in range(len(texts))]
    hashes = [hashlib.blake2b(t.encode(), digest_size=16).digest() for t in texts]
    return pa.RecordBatch.from_pydict(
        {"doc_id": pa.array(ids, pa.string()), "content_hash": pa.array(hashes, pa.binary(16))}
    )


def verdicts(group: pa.Table, work: ExactDuplicates = WORK) -> list[tuple[str, str]]:
    """(doc_id, survivor) of every row that goes; the rows that stay are those that lead a group."""
    if "prefer" not in group.column_names:
        group = group.append_column("prefer", pa.nulls(group.num_rows, pa.float64()))
    out = work.judge(group)
    assert set(out["reason"].to_pylist()) <= {"exact_duplicate", None}
    rows = out.select(["doc_id", "reason", "survivor", "leads"]).to_pylist()
    assert all(r["doc_id"] == r["survivor"] and r["reason"] is None for r in rows if r["leads"])
    return [(r["doc_id"], r["survivor"]) for r in rows if r["reason"]]


def test_keys_are_the_little_endian_halves_of_the_hash() -> None:
    raw = bytes(range(16))
    batch = pa.RecordBatch.from_pydict({"doc_id": ["a"], "content_hash": pa.array([raw], pa.binary(16))})
    keyed = WORK.keyed(batch)
    assert keyed.schema.names == ["key", "key2", "doc_id", "prefer"]
    assert keyed.schema.field("key").type == pa.uint64()
    assert keyed.to_pylist() == [
        {
            "key": int.from_bytes(raw[:8], "little"),
            "key2": int.from_bytes(raw[8:], "little"),
            "doc_id": "a",
            "prefer": None,
        }
    ]


def test_keys_of_a_slice_are_those_of_its_rows() -> None:
    batch = rows(["a", "b", "c", "d", "e"])
    assert WORK.keyed(batch.slice(2, 2)).equals(WORK.keyed(batch).slice(2, 2))


def test_the_smallest_id_in_byte_order_survives() -> None:
    batch = rows(["x", "y", "x", "x"], ["f#9", "f#1", "f#10", "e#5"])
    assert sorted(verdicts(WORK.keyed(batch))) == [("f#10", "e#5"), ("f#9", "e#5")]


def test_rows_that_share_only_half_of_the_hash_both_stay() -> None:
    group = pa.table(
        {"key": pa.array([7, 7, 7], pa.uint64()), "key2": pa.array([1, 2, 1], pa.uint64()), "doc_id": ["b", "a", "c"]}
    )
    assert verdicts(group) == [("c", "b")]
    assert WORK.judge(group.append_column("prefer", pa.nulls(3, pa.float64())))["doc_id"].to_pylist() == ["b", "c"]


def test_columns_of_the_pass_come_back_with_the_dropped_row() -> None:
    group = WORK.keyed(rows(["x", "x"], ["b", "a"]))
    group = group.append_column("part", pa.array([3, 4], pa.int32())).append_column("row", pa.array([10, 11]))
    out = WORK.judge(group)
    assert out.schema.names == ["part", "row", "old", "doc_id", "reason", "survivor", "leads", "copies"]
    same = {"old": False, "survivor": "a", "copies": 2}
    assert out.to_pylist() == [
        {"part": 4, "row": 11, "doc_id": "a", "reason": None, "leads": True, **same},
        {"part": 3, "row": 10, "doc_id": "b", "reason": "exact_duplicate", "leads": False, **same},
    ]


def test_rows_without_an_equal_are_not_judged() -> None:
    out = WORK.judge(WORK.keyed(rows(["x", "y", "x", "z"], ["d", "c", "b", "a"])))
    assert out["doc_id"].to_pylist() == ["b", "d"]


def test_a_score_decides_who_stays_and_the_length_cannot() -> None:
    batch = rows(["x"] * 4, ["a", "b", "c", "d"]).append_column("score.x", pa.array([None, 0.2, 0.9, 0.9]))
    work = ExactDuplicates(survivor="score.x")
    assert work.reads == ("content_hash", "doc_id", "score.x")
    assert sorted(verdicts(work.keyed(batch), work)) == [("a", "c"), ("b", "c"), ("d", "c")]
    longest = ExactDuplicates(survivor="longest")
    assert longest.reads == ("content_hash", "doc_id")
    assert sorted(verdicts(longest.keyed(batch), longest)) == [("b", "a"), ("c", "a"), ("d", "a")]


def test_a_row_of_an_earlier_dataset_stays_and_is_never_dropped_itself() -> None:
    group = WORK.keyed(rows(["x", "x", "x", "y", "y"], ["a", "z", "y", "old-1", "old-2"]))
    group = group.append_column("old", pa.array([False, True, True, True, True]))
    assert sorted(verdicts(group)) == [("a", "y")]
    out = WORK.judge(group).to_pylist()
    assert [(r["doc_id"], r["reason"], r["copies"]) for r in out if r["survivor"] == "y"] == [
        ("y", None, 3),
        ("z", None, 3),
        ("a", "exact_duplicate", 3),
    ]


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match="survivor: got 'newest', allowed first, longest or"):
        ExactDuplicates(survivor="newest")


def test_no_rows_give_no_verdicts_with_the_same_columns() -> None:
    out = WORK.judge(WORK.keyed(rows([]).slice(0, 0)).append_column("part", pa.array([], pa.int32())))
    assert out.num_rows == 0
    assert out.schema.names == ["part", "old", "doc_id", "reason", "survivor", "leads", "copies"]
    assert out.schema.field("survivor").type == pa.string()


@settings(max_examples=60, deadline=None)
@given(
    keys=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=3),
    seed=st.integers(0, 99),
)
def test_verdicts_equal_a_dictionary_of_minima_in_any_order_of_chunks(
    keys: list[tuple[int, int]], cuts: list[int], seed: int
) -> None:
    ids = [f"d{i}" for i in range(len(keys))]
    order = np.random.default_rng(seed).permutation(len(keys))
    table = pa.table(
        {
            "key": pa.array([k for k, _ in keys], pa.uint64()),
            "key2": pa.array([k for _, k in keys], pa.uint64()),
            "doc_id": pa.array(ids, pa.string()),
        }
    ).take(pa.array(order, pa.int64()))
    edges = sorted({0, len(keys), *(c for c in cuts if c < len(keys))})
    chunks = [table.slice(a, b - a) for a, b in itertools.pairwise(edges)]
    table = pa.concat_tables(chunks) if chunks else table

    best: dict[tuple[int, int], str] = {}
    for key, name in zip(keys, ids, strict=True):
        best[key] = min(best.get(key, name), name)
    expected = [(name, best[key]) for key, name in zip(keys, ids, strict=True) if best[key] != name]
    assert sorted(verdicts(table)) == sorted(expected)
