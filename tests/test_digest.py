"""Digests of tables: independent of batches and slices, sensitive to every value."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.digest import TableDigest, columns_of, row_hashes

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "text": st.none() | st.text(max_size=12),
            "number": st.none() | st.integers(-(2**63), 2**63 - 1),
            "flag": st.none() | st.booleans(),
            "ids": st.none() | st.lists(st.integers(0, 65535), max_size=4),
            "names": st.none() | st.lists(st.none() | st.text(max_size=3), max_size=3),
            "pair": st.none() | st.fixed_dictionaries({"a": st.none() | st.integers(0, 9), "b": st.text(max_size=2)}),
        }
    ),
    max_size=20,
)
SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("number", pa.int64()),
        ("flag", pa.bool_()),
        ("ids", pa.list_(pa.uint16())),
        ("names", pa.list_(pa.string())),
        ("pair", pa.struct([("a", pa.int8()), ("b", pa.string())])),
    ]
)


def table(rows):
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, cut=st.integers(0, 20))
def test_digest_of_a_table_is_the_merge_of_any_two_pieces_in_any_order(rows, cut):
    whole = table(rows)
    first, second = whole.slice(0, cut), whole.slice(cut)
    assert TableDigest.of(second).merge(TableDigest.of(first)) == TableDigest.of(whole)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS)
def test_rows_hash_equal_exactly_when_they_are_equal(rows):
    whole = table(rows)
    hashes = [tuple(h) for batch in whole.to_batches() for h in row_hashes(batch).T.tolist()]
    keys = [repr(row) for row in whole.to_pylist()]
    assert [hashes[i] == hashes[j] for i in range(len(hashes)) for j in range(i)] == [
        keys[i] == keys[j] for i in range(len(keys)) for j in range(i)
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.table({"a": ["ab", "c"]}), pa.table({"a": ["a", "bc"]})),
        (pa.table({"a": ["x"], "b": ["y"]}), pa.table({"a": ["y"], "b": ["x"]})),
        (pa.table({"a": [""]}), pa.table({"a": pa.array([None], pa.string())})),
        (pa.table({"a": [[1, 2], [3]]}), pa.table({"a": [[1], [2, 3]]})),
        (pa.table({"a": [1, 1]}), pa.table({"a": [1]})),
        (pa.table({"a": [b"\0"]}), pa.table({"a": [b"\0\0"]})),
    ],
)
def test_different_rows_have_different_digests(one, other):
    assert TableDigest.of(one) != TableDigest.of(other)


def test_column_names_and_types_enter_the_hex_digest():
    a, b, c = pa.table({"a": [1]}), pa.table({"b": [1]}), pa.table({"a": pa.array([1], pa.int32())})
    assert len({TableDigest.of(t).hex(columns_of(t.schema)) for t in (a, b, c)}) == 3


def test_dictionary_and_fixed_size_columns_hash_by_value_wherever_they_are_sliced():
    plain = pa.array(["x", "y", "x", None])
    fixed = pa.array([[1, 2], [3, 4], [5, 6], None], pa.list_(pa.uint16(), 2))
    binary = pa.array([b"0123456789abcdef"] * 4, pa.binary(16))
    one = pa.table({"d": plain.dictionary_encode(), "f": fixed, "b": binary})
    two = pa.table({"d": plain, "f": fixed, "b": binary})
    for first in range(4):
        assert TableDigest.of(one.slice(first)) == TableDigest.of(two.slice(first))


def test_a_column_that_cannot_be_digested_is_named_by_type():
    with pytest.raises(TypeError, match="map"):
        TableDigest.of(pa.table({"m": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8()))}))
