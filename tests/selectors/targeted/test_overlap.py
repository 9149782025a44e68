"""What two selections share, what a selection does to domains, and rows of the pool that the target holds."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.selectors.targeted.disjoint import NotInTarget
from penstock.selectors.targeted.overlap import domain_shares, overlaps


def as_array(ids):
    return pa.array(sorted(ids), pa.string())


def test_the_index_is_the_shared_part_of_all_rows_of_both():
    found = overlaps({"x": as_array("abc"), "y": as_array("bcd"), "z": as_array("")}).to_pylist()
    by_pair = {(row["a"], row["b"]): (row["both"], row["jaccard"]) for row in found}
    assert by_pair == {
        ("x", "x"): (3, 1.0),
        ("x", "y"): (2, 0.5),
        ("x", "z"): (0, 0.0),
        ("y", "y"): (3, 1.0),
        ("y", "z"): (0, 0.0),
        ("z", "z"): (0, 1.0),
    }


@given(st.sets(st.sampled_from("abcdefgh")), st.sets(st.sampled_from("abcdefgh")))
def test_any_two_sets_share_what_sets_say(one, two):
    row = overlaps({"one": as_array(one), "two": as_array(two)}).to_pylist()[1]
    assert row["both"] == len(one & two)
    assert row["jaccard"] == (len(one & two) / len(one | two) if one | two else 1.0)


def test_domains_are_counted_before_and_after_with_copies_and_without_nulls():
    selection = pa.table(
        {
            "domain": ["b", "a", "b", None],
            "tokens": pa.array([10, 20, 30, None], pa.int64()),
            "selected": [True, False, True, True],
            "copies": pa.array([3, 0, 1, 1], pa.int32()),
        }
    )
    assert domain_shares("m", selection).to_pylist() == [
        {"method": "m", "domain": "", "rows": 1, "tokens": 0, "selected_rows": 1, "selected_tokens": 0},
        {"method": "m", "domain": "a", "rows": 1, "tokens": 20, "selected_rows": 0, "selected_tokens": 0},
        {"method": "m", "domain": "b", "rows": 2, "tokens": 40, "selected_rows": 4, "selected_tokens": 60},
    ]
    once = domain_shares("m", selection.drop_columns(["copies"])).to_pylist()
    assert [row["selected_rows"] for row in once] == [1, 0, 2]


def hashes(*texts):
    return pa.array([hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts], pa.binary(16))


@pytest.mark.parametrize("repeats", [1, 2])
def test_rows_that_the_target_holds_are_dropped_with_a_reason(repeats, tmp_path):
    target = pa.table({"content_hash": pa.chunked_array([hashes("x", "y")] * repeats)})
    work = NotInTarget.of(target, str(tmp_path))
    batch = pa.RecordBatch.from_pydict({"content_hash": hashes("a", "y", "x", "b")})
    assert work.decide(batch).to_pylist() == [None, "in_target", "in_target", None]
    assert NotInTarget.of(target.take([1, 0]), str(tmp_path)).digest == work.digest
