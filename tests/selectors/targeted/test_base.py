"""The one interface of selectors that look at a target: budgets, ranks, fingerprints, summaries."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, DatasetError
from penstock.selectors.targeted import METHODS, method
from penstock.selectors.targeted.base import (
    Budget,
    choose,
    facts_of,
    scores_array,
    state_fingerprint,
    summary_of,
    target_fingerprint,
    with_facts,
)


def scored(*scores, tokens=None):
    rows = {"doc_id": [f"d{i}" for i in range(len(scores))], "score": pa.array(scores, pa.float32())}
    return pa.table(rows | ({} if tokens is None else {"tokens": tokens}))


def chosen(table):
    return table["doc_id"].filter(table["selected"]).to_pylist()


def test_ranks_go_by_score_then_by_id_and_other_columns_come_along():
    rows = scored(1.0, 3.0, 1.0, 2.0).append_column("domain", pa.array(["a", "b", "c", "d"]))
    found = choose(rows, count=3)
    assert found["doc_id"].to_pylist() == ["d1", "d3", "d0", "d2"]
    assert found["rank"].to_pylist() == [1, 2, 3, 4]
    assert found["selected"].to_pylist() == [True, True, True, False]
    assert found["domain"].to_pylist() == ["b", "d", "a", "c"]


@pytest.mark.parametrize(("fraction", "rows", "expected"), [(0.05, 100, 5), (0.5, 5, 3), (0.01, 3, 1), (1.0, 4, 4)])
def test_a_fraction_is_the_nearest_number_of_examples_and_never_none(fraction, rows, expected):
    assert len(chosen(choose(scored(*range(rows)), fraction=fraction))) == expected


def test_a_budget_of_tokens_takes_the_longest_beginning_that_costs_no_more():
    rows = scored(4.0, 3.0, 2.0, 1.0, tokens=[10, 20, 5, 1])
    assert chosen(choose(rows, count=30, unit="tokens")) == ["d0", "d1"]
    # d2 does not fit, and d3 that would is not taken in its place
    assert chosen(choose(rows, count=34, unit="tokens")) == ["d0", "d1"]
    assert chosen(choose(rows, fraction=1.0, unit="tokens")) == ["d0", "d1", "d2", "d3"]


def test_more_than_there_is_takes_all_that_have_a_score():
    found = choose(scored(1.0, None, 2.0), count=10)
    assert chosen(found) == ["d2", "d0"]
    assert found["doc_id"].to_pylist() == ["d2", "d0", "d1"]
    assert found["rank"].to_pylist() == [1, 2, None]


def test_equal_scores_are_chosen_by_id():
    assert chosen(choose(scored(0.0, 0.0, 0.0, 0.0), count=2)) == ["d0", "d1"]


def test_the_first_row_alone_above_the_budget_is_an_error_not_an_empty_selection():
    with pytest.raises(ConfigError, match="got 5 tokens, and the first row alone has 10"):
        choose(scored(2.0, 1.0, tokens=[10, 1]), count=5, unit="tokens")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (scored(float("nan"), 1.0), "NaN in 1 row"),
        (pa.table({"doc_id": ["a", "a"], "score": [1.0, 2.0]}), "same id in more than one row"),
        (pa.table({"doc_id": ["a"]}), "missing column.*score"),
    ],
)
def test_scores_that_cannot_be_ranked_are_refused(rows, words):
    with pytest.raises(DatasetError, match=words):
        choose(rows, count=1)


def test_tokens_are_needed_only_when_the_budget_counts_them():
    assert chosen(choose(scored(1.0), count=1)) == ["d0"]
    for tokens in (None, pa.array([None], pa.int64())):
        with pytest.raises(DatasetError, match="without token counts"):
            choose(scored(1.0, tokens=tokens), count=1, unit="tokens")
    with pytest.raises(DatasetError, match="count of -3"):
        choose(scored(1.0, tokens=[-3]), count=1, unit="tokens")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "neither a fraction nor a count"),
        ({"fraction": 0.1, "count": 3}, "a fraction and a count"),
        ({"fraction": 0.0}, "0 < fraction <= 1"),
        ({"fraction": 1.5}, "0 < fraction <= 1"),
        ({"fraction": float("nan")}, "0 < fraction <= 1"),
        ({"count": 0}, "allowed >= 1"),
        ({"count": 1, "unit": "bytes"}, "allowed examples, tokens"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        Budget(**settings)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.none() | st.integers(-3, 3), st.integers(0, 9)), min_size=1, max_size=30),
    st.integers(1, 60),
    st.randoms(use_true_random=False),
)
def test_the_choice_does_not_depend_on_the_order_of_rows_and_never_costs_too_much(rows, count, rng):
    table = pa.table(
        {
            "doc_id": [f"d{i:02d}" for i in range(len(rows))],
            "score": pa.array([score for score, _ in rows], pa.float32()),
            "tokens": [tokens for _, tokens in rows],
        }
    )
    order = list(range(len(rows)))
    rng.shuffle(order)
    try:
        found = choose(table, count=count, unit="tokens")
    except ConfigError:
        with pytest.raises(ConfigError):
            choose(table.take(order), count=count, unit="tokens")
        return
    assert choose(table.take(order), count=count, unit="tokens").equals(found)
    spent = [t for t, s in zip(found["tokens"].to_pylist(), found["selected"].to_pylist(), strict=True) if s]
    assert sum(spent) <= count
    left = found.filter(pa.compute.and_(pa.compute.invert(found["selected"]), found["score"].is_valid()))
    assert left.num_rows == 0 or sum(spent) + left["tokens"][0].as_py() > count


def test_stored_scores_forget_the_last_bits_and_null_what_is_no_number():
    values = np.array([1 / 3, 1 / 3 + 1e-9, 1e-20 / 3, -0.0, np.nan, np.inf])
    found = scores_array(values)
    assert found[0] == found[1]
    assert found[2].as_py() == pytest.approx(1e-20 / 3, rel=1e-4)
    assert str(found[3].as_py()) == "0.0"
    assert found.null_count == 2
    assert scores_array(np.ones(2), np.array([True, False])).to_pylist() == [1.0, None]
    # five decimal digits count: an error of half a unit in the 16th bit
    wide = np.random.default_rng(0).normal(size=1000)
    assert np.abs(scores_array(wide).to_numpy() / wide - 1).max() < 2**-16


def test_a_target_is_known_by_its_texts_and_tasks_not_by_order_or_ids():
    target = pa.table({"doc_id": ["a", "b"], "text": ["one", "two"], "domain": ["x", None]})
    print_ = target_fingerprint(target)
    assert target_fingerprint(target.take([1, 0])) == print_
    assert target_fingerprint(target.set_column(0, "doc_id", pa.array(["p", "q"]))) == print_
    assert target_fingerprint(target.slice(0, 1)) != print_
    assert target_fingerprint(target.set_column(1, "text", pa.array(["one", "three"]))) != print_
    assert target_fingerprint(target.set_column(2, "domain", pa.array(["y", None]))) != print_


@dataclass(frozen=True, kw_only=True)
class State:
    path: str
    digest: str
    device: str = "cpu"
    inner: object = None
    name = "state"
    revision = 1


def test_a_state_is_known_by_digests_and_settings_not_by_where_it_lies_or_runs():
    one = State(path="/a", digest="1", inner=State(path="/b", digest="2"))
    moved = State(path="/c", digest="1", device="cuda", inner=State(path="/d", digest="2"))
    assert state_fingerprint(one) == state_fingerprint(moved)
    assert state_fingerprint(replace(one, digest="3")) != state_fingerprint(one)
    assert state_fingerprint(replace(one, inner=State(path="/b", digest="9"))) != state_fingerprint(one)


class Sum:
    def __init__(self, value):
        self.value = value

    def merge(self, other):
        return Sum(self.value + other.value)


def test_a_summary_is_merged_over_batches_or_made_by_the_pool_itself():
    batches = [pa.RecordBatch.from_pydict({"x": [1, 2]}), pa.RecordBatch.from_pydict({"x": [10]})]
    assert summary_of(batches, "sum", lambda b: Sum(sum(b["x"].to_pylist())), Sum).value == 13

    class Passes(list):
        def summarise(self, name, summarise, kind):
            return name, kind

    assert summary_of(Passes(), "sum", None, Sum) == ("sum", Sum)
    with pytest.raises(ConfigError, match="pool: got no rows"):
        summary_of([], "sum", None, Sum)


def test_facts_of_a_choice_travel_with_its_table():
    assert facts_of(with_facts(scored(1.0), layers=2)) == {"layers": 2}
    assert facts_of(scored(1.0)) == {}


def test_methods_are_found_by_name_and_others_refused():
    assert [method(name).name for name in ("random", "bm25", "importance", "loss", "diverse")] == [
        "random", "bm25", "importance", "loss", "diverse",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="got 'tfidf', allowed random, bm25"):
        method("tfidf")
    assert set(METHODS) >= {"less", "mona"}


def test_a_random_selection_is_a_coin_of_the_id_and_grows_with_the_budget():
    from penstock.seeding import hash_ids
    from penstock.selectors.targeted.baseline import Random

    ids = [f"d{i}" for i in range(400)]
    batch = pa.RecordBatch.from_pydict({"id_hash": hash_ids(ids)})
    target = pa.table({"text": ["x"]})
    scores = {seed: Random(seed=seed).fit(target, [], "").annotate(batch)["score.random"] for seed in (0, 1)}
    assert 0.4 < np.mean(scores[0].to_numpy()) < 0.6
    table = pa.table({"doc_id": ids, "score": scores[0]})
    few, many = (set(chosen(choose(table, count=n))) for n in (20, 40))
    assert few < many
    other = set(chosen(choose(pa.table({"doc_id": ids, "score": scores[1]}), count=40)))
    assert len(many & other) < 15  # 4 are expected
    shuffled = list(range(400))
    random.Random(0).shuffle(shuffled)
    again = Random().fit(target, [], "").annotate(batch.take(pa.array(shuffled)))["score.random"]
    assert again.equals(scores[0].take(pa.array(shuffled)))
    with pytest.raises(ConfigError, match="random target: got no rows"):
        Random().fit(target.slice(0, 0), [], "")
