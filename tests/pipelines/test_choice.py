"""From scores to a selection and its documents, and selections beside each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import DatasetError
from penstock.pipelines.choice import Comparison, Selection
from penstock.seeding import hash_ids
from penstock.selectors.targeted.base import Budget, in_rank_order, with_facts, with_ranks

SCORES = [3.0, None, 1.0, 5.0, 4.0, 2.0]
PROVENANCE = {"provenance": {"method": "m", "target_fingerprint": "t", "state_fingerprint": "s"}, "without_score": 1}


@dataclass(frozen=True, kw_only=True)
class Plain:
    name: ClassVar[str] = "plain"
    revision: ClassVar[int] = 1


@dataclass(frozen=True, kw_only=True)
class Twice:
    """Takes the lowest row, twice."""

    name: ClassVar[str] = "twice"
    revision: ClassVar[int] = 1

    def choose(self, scores, budget):
        ordered = in_rank_order(scores)
        low = ordered["score"].to_numpy() == 1.0
        ordered = ordered.append_column("copies", pa.array(np.where(low, 2, 0), pa.int32()))
        return with_facts(with_ranks(ordered, low), taken_twice=1)


def given(lab, cut, sizes, method="m", domains=tuple("aabbbc"), scores=SCORES):
    ids = [f"d{i}" for i in range(6)]
    rows = pa.RecordBatch.from_pydict(
        {
            "doc_id": ids,
            "id_hash": hash_ids(ids),
            "domain": list(domains),
            "tokens": pa.array([10, 20, 30, 40, 50, 60], pa.int64()),
            "text": [f"text {i}" for i in range(6)],
        }
    )
    lab.given("pool", documents=cut(rows, sizes))
    scored = rows.drop_columns(["text"]).append_column("score", pa.array(scores, pa.float32()))
    lab.given(f"scores-{method}", stats=PROVENANCE, scores=cut(scored, sizes))


def test_ranks_are_of_the_whole_pool_and_documents_follow_their_parts(lab, cut):
    given(lab, cut, [2, 2])
    found = lab.run(Selection("m", Plain(), Budget(count=3)))
    rows = {row["doc_id"]: row for row in found.read("selection").to_pylist()}
    assert {name: row["rank"] for name, row in rows.items()} == {
        "d3": 1,
        "d4": 2,
        "d0": 3,
        "d5": 4,
        "d2": 5,
        "d1": None,
    }
    assert {row["method"] for row in rows.values()} == {"m"}
    assert {(row["target_fingerprint"], row["state_fingerprint"]) for row in rows.values()} == {("t", "s")}
    taken = found.read("documents")
    assert taken["doc_id"].to_pylist() == ["d0", "d3", "d4"]
    assert taken["rank"].to_pylist() == [3, 1, 2]
    assert taken["text"].to_pylist() == ["text 0", "text 3", "text 4"]
    counts = found.manifest.counts
    assert (counts.rows_in, counts.kept) == (6, 3)
    assert counts.dropped == {"selection": {"not_selected": 2, "no_score": 1}}
    facts = found.manifest.stats["choice"]
    assert facts == {"asked": 3, "distinct_scores": 5, "examples": 3, "tokens": 100}


def test_the_choice_is_the_same_however_the_pool_is_cut(new_lab, cut):
    digests = set()
    for sizes in ([], [1, 1, 1, 1, 1], [4]):
        lab = new_lab()
        given(lab, cut, sizes)
        digests.add(lab.run(Selection("m", Plain(), Budget(count=90, unit="tokens"))).digest)
    assert len(digests) == 1


def test_a_choice_of_the_methods_own_is_taken_as_it_is(lab, cut):
    given(lab, cut, [3])
    found = lab.run(Selection("m", Twice(), Budget(count=1)))
    assert found.read("documents").select(["doc_id", "copies"]).to_pylist() == [{"doc_id": "d2", "copies": 2}]
    facts = found.manifest.stats["choice"]
    assert (facts["examples"], facts["tokens"], facts["taken_twice"]) == (2, 60, 1)


def test_too_large_a_budget_takes_all_and_says_so(lab, cut):
    given(lab, cut, [])
    found = lab.run(Selection("m", Plain(), Budget(count=50)))
    assert found.read("documents").num_rows == 5
    assert lab.warnings == ["by-m: asked for 50 examples, the pool has 5; took all"]


def test_equal_scores_are_pointed_out(lab, cut):
    given(lab, cut, [2], scores=[1.0] * 6)
    found = lab.run(Selection("m", Plain(), Budget(count=2)))
    assert found.read("documents")["doc_id"].to_pylist() == ["d0", "d1"]
    assert lab.warnings == [
        "by-m: every row has the same score, so ranks are the order of their ids; look at the target"
    ]


def test_no_row_with_a_score_selects_none(lab, cut):
    given(lab, cut, [2], scores=[None] * 6)
    found = lab.run(Selection("m", Plain(), Budget(count=2)))
    assert found.manifest.counts.kept == 0
    assert found.read("selection")["selected"].to_pylist() == [False] * 6


def test_scores_of_another_pool_are_refused(lab, cut):
    given(lab, cut, [2])
    scored = lab.given(
        "scores-m", stats=PROVENANCE, scores=[pa.RecordBatch.from_pydict({"doc_id": ["x"], "score": [1.0]})]
    )
    assert scored.table("scores").rows == 1
    with pytest.raises(DatasetError, match="do not hold the same rows"):
        lab.run(Selection("m", Plain(), Budget(count=2)))


def test_selections_are_compared_row_by_row_and_domain_by_domain(lab, cut, hostile):
    domains = hostile[:6]
    given(lab, cut, [2, 2], "one", domains)
    given(lab, cut, [2, 2], "two", domains, scores=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    lab.run(Selection("one", Plain(), Budget(count=2)))  # d3, d4
    lab.run(Selection("two", Plain(), Budget(count=3)))  # d5, d4, d3
    found = lab.run(Comparison(["one", "two"]))
    pairs = {(row["a"], row["b"]): (row["both"], row["jaccard"]) for row in found.read("overlap").to_pylist()}
    assert pairs == {("one", "one"): (2, 1.0), ("one", "two"): (2, 2 / 3), ("two", "two"): (3, 1.0)}
    rows = [row for row in found.read("domains").to_pylist() if row["method"] == "two"]
    assert {row["domain"]: (row["rows"], row["selected_rows"], row["selected_tokens"]) for row in rows} == {
        domain: (1, int(i >= 3), 10 * (i + 1) if i >= 3 else 0) for i, domain in enumerate(domains)
    }
