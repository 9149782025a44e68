"""Which of a set of duplicates stays."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.seeding import stream
from penstock.selectors.survivor import best_first, check_rule, preference, score_columns, sizes_of, survivor_of


def table(rows):
    """Rows of (label, doc_id, prefer, old)."""
    label, ids, prefer, old = zip(*rows, strict=True) if rows else ([], [], [], [])
    return pa.table(
        {
            "label": pa.array(label, pa.uint64()),
            "doc_id": pa.array(ids, pa.string()),
            "prefer": pa.array(prefer, pa.float64()),
            "old": pa.array(old, pa.bool_()),
        }
    )


def chosen(rows):
    """Label -> doc_id that stays."""
    ordered, first = best_first(table(rows), ("label",))
    return dict(
        zip(ordered["label"].filter(first).to_pylist(), ordered["doc_id"].filter(first).to_pylist(), strict=True)
    )


@pytest.mark.parametrize(
    ("rows", "stays"),
    [
        ([(1, "b", None, False), (1, "a", None, False)], "a"),
        ([(1, "f#9", None, False), (1, "f#10", None, False)], "f#10"),  # bytes, not numbers
        ([(1, "a", 1.0, False), (1, "b", 2.0, False)], "b"),
        ([(1, "b", 2.0, False), (1, "a", 2.0, False), (1, "0", 1.0, False)], "a"),
        ([(1, "a", None, False), (1, "b", -9.0, False)], "b"),
        ([(1, "a", 9.0, False), (1, "z", None, True)], "z"),
        ([(1, "y", 1.0, True), (1, "z", 2.0, True), (1, "a", 3.0, False)], "z"),
        ([(1, "é", None, False), (1, "z", None, False)], "z"),
    ],
)
def test_old_rows_come_first_then_the_preferred_then_the_smallest_id(rows, stays):
    assert chosen(rows) == {1: stays}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from([None, -1.5, 0.0, 2.0]), st.booleans()), max_size=25),
    st.integers(0, 99),
)
def test_the_choice_is_that_of_a_sort_whatever_the_order_of_rows(rows, seed):
    rows = [(label, f"d{i}", prefer, old) for i, (label, prefer, old) in enumerate(rows)]
    shuffled = [rows[i] for i in stream(seed, "order").permutation(len(rows))]

    def rank(row):
        return not row[3], math.inf if row[2] is None else -row[2], row[1].encode()

    wanted = {label: min((r for r in rows if r[0] == label), key=rank)[1] for label in {r[0] for r in rows}}
    assert chosen(shuffled) == wanted
    ordered, first = best_first(table(shuffled), ("label",))
    labels = ordered["label"].to_pylist()
    assert labels == sorted(labels)
    assert sizes_of(first).tolist() == [labels.count(label) for label in labels]
    assert [ordered["doc_id"][int(i)].as_py() for i in survivor_of(first)] == [wanted[label] for label in labels]


def test_sizes_add_up_weights():
    first = np.array([True, False, True])
    assert sizes_of(first, np.array([3, 4, 9])).tolist() == [7, 7, 9]


BATCH = pa.RecordBatch.from_pydict(
    {
        "doc_id": ["a", "b", "c"],
        "text": pa.array(["é", "", None]),
        "score.x": pa.array([0.5, math.nan, None], pa.float32()),
        "score.n": pa.array([3, -1, None], pa.int8()),
    }
)


def test_each_rule_prefers_by_what_it_names():
    assert preference("first", BATCH).to_pylist() == [None, None, None]
    assert preference("longest", BATCH).to_pylist() == [2.0, 0.0, None]
    assert preference("score.x", BATCH).to_pylist() == [0.5, None, None]
    assert preference("score.n", BATCH).to_pylist() == [3.0, -1.0, None]
    assert {preference(rule, BATCH).type for rule in ("first", "longest", "score.x", "score.n")} == {pa.float64()}


def test_a_rule_reads_its_score_column_alone():
    assert score_columns("score.x") == ("score.x",)
    assert score_columns("first") == score_columns("longest") == ()


@pytest.mark.parametrize("rule", ["", "best", "score.", "score", "shortest"])
def test_rules_that_are_not_known_are_refused(rule):
    with pytest.raises(ConfigError, match=r"survivor: got '.*', allowed first, longest or score\.NAME; name a score"):
        check_rule(rule)
