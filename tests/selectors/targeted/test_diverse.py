"""A diverse subset: what beta weighs, when copies are chosen, layers beyond numerical rank."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from penstock.embedding.base import embedding_array, normalised, unit_vectors
from penstock.errors import ConfigError, DatasetError
from penstock.seeding import hash_ids
from penstock.selectors.targeted.base import Budget, facts_of
from penstock.selectors.targeted.diverse import Diverse


def scored(vectors, scores, *, tokens=None, ids=None):
    n = len(vectors)
    return pa.table(
        {
            "doc_id": ids or [f"d{i:03d}" for i in range(n)],
            "id_hash": hash_ids(ids or [f"d{i:03d}" for i in range(n)]),
            "tokens": pa.array(tokens or [1] * n, pa.int64()),
            "score": pa.array(scores, pa.float32()),
            "embedding": embedding_array(normalised(np.asarray(vectors, dtype=np.float32))),
        }
    )


def chosen(table):
    return table["doc_id"].filter(table["selected"]).to_pylist()


RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(60, 8))
SCORES = RNG.normal(size=60)


def test_beta_0_ignores_the_score():
    one = Diverse(beta=0.0).choose(scored(VECTORS, SCORES), Budget(count=6))
    other = Diverse(beta=0.0).choose(scored(VECTORS, SCORES[::-1]), Budget(count=6))
    assert chosen(one) == chosen(other)
    # and it is the greedy choice of largest determinants, counted here one by one
    unit = unit_vectors(scored(VECTORS, SCORES)["embedding"]).astype(np.float64)
    gram, picks = unit @ unit.T, []
    np.fill_diagonal(gram, 1.0)  # lengths of stored vectors are 1 within rounding, and the first choice is a tie
    for _ in range(6):
        gains = [0.0 if i in picks else np.linalg.det(gram[np.ix_([*picks, i], [*picks, i])]) for i in range(60)]
        picks.append(int(np.argmax(gains)))
    assert chosen(one) == [f"d{i:03d}" for i in picks]


def test_the_selection_is_worth_more_rows_than_one_by_chance():
    facts = facts_of(Diverse(beta=0.0).choose(scored(VECTORS, SCORES), Budget(count=6)))
    assert 6 >= facts["vendi_1_selection"] > facts["vendi_1_random"] > 1
    assert facts["vendi_1_selection"] >= facts["vendi_2_selection"] > facts["vendi_2_random"]


def test_a_large_beta_chooses_by_score_alone():
    found = Diverse(beta=1e4).choose(scored(VECTORS, SCORES), Budget(count=12))
    best = [f"d{i:03d}" for i in np.argsort(-SCORES)[:12]]
    assert sorted(chosen(found)) == sorted(best)
    assert facts_of(found)["layers"] >= 1


def test_a_copy_of_a_chosen_row_is_not_chosen_before_nothing_new_is_left():
    base = np.eye(5)
    vectors = np.concatenate([base, base[:3]])  # d005 to d007 are copies
    scores = [5.0, 4.0, 3.0, 2.0, 1.0, 5.0, 4.0, 3.0]
    found = Diverse(beta=0.5).choose(scored(vectors, scores), Budget(count=5))
    assert sorted(chosen(found)) == ["d000", "d001", "d002", "d003", "d004"]
    assert facts_of(found)["layers"] == 1
    more = Diverse(beta=0.5).choose(scored(vectors, scores), Budget(count=7))
    assert chosen(more)[:5] == chosen(found)
    assert facts_of(more)["layers"] == 2


def test_ties_go_to_the_smaller_id_whatever_the_order_of_rows():
    rows = scored(np.eye(6), [1.0] * 6)
    for order in (np.arange(6), np.array([3, 5, 1, 0, 4, 2])):
        assert chosen(Diverse().choose(rows.take(order), Budget(count=3))) == ["d000", "d001", "d002"]


def test_the_choice_does_not_depend_on_the_order_of_rows():
    rows = scored(VECTORS, SCORES)
    found = Diverse().choose(rows, Budget(count=20))
    again = Diverse().choose(rows.take(np.random.default_rng(1).permutation(60)), Budget(count=20))
    assert found.equals(again)
    assert found["rank"].to_pylist() == list(range(1, 61))
    # below the selection, ranks go by score
    rest = found["score"].to_numpy()[20:]
    assert (np.diff(rest) <= 0).all()


def test_everything_is_selected_when_the_budget_takes_it():
    assert len(chosen(Diverse().choose(scored(VECTORS, SCORES), Budget(count=500)))) == 60
    assert len(chosen(Diverse().choose(scored(VECTORS, SCORES), Budget(fraction=1.0)))) == 60


def test_rows_without_a_vector_or_a_score_are_never_selected():
    vectors = VECTORS[:10].copy()
    vectors[0] = 0
    scores = [9.0, None, *SCORES[2:10]]
    found = Diverse().choose(scored(vectors, scores), Budget(count=10))
    assert len(chosen(found)) == 8
    assert not {"d000", "d001"} & set(chosen(found))
    assert found["rank"].to_pylist()[8:] == [None, None]
    assert facts_of(found)["without_vector"] == 2


def test_only_the_highest_scores_are_searched():
    found = Diverse(candidates=2.0).choose(scored(VECTORS, SCORES), Budget(count=5))
    best = {f"d{i:03d}" for i in np.argsort(-SCORES)[:10]}
    assert set(chosen(found)) <= best
    assert facts_of(found)["candidates"] == 10


def test_a_budget_of_tokens_is_kept():
    tokens = [1 + i % 7 for i in range(60)]
    found = Diverse().choose(scored(VECTORS, SCORES, tokens=tokens), Budget(count=40, unit="tokens"))
    spent = sum(t for t, s in zip(found["tokens"].to_pylist(), found["selected"].to_pylist(), strict=True) if s)
    assert 40 - 7 < spent <= 40
    with pytest.raises(ConfigError, match="the first row alone has 9"):
        Diverse().choose(scored(VECTORS, SCORES, tokens=[9] * 60), Budget(count=5, unit="tokens"))
    with pytest.raises(DatasetError, match="same id in more than one row"):
        Diverse().choose(scored(VECTORS[:2], SCORES[:2], ids=["a", "a"]), Budget(count=1))


def test_equal_scores_are_no_reason_to_stop():
    assert len(chosen(Diverse().choose(scored(VECTORS, [2.0] * 60), Budget(count=7)))) == 7


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta": -1.0}, "diverse.beta"),
        ({"candidates": 0.5}, "diverse.candidates"),
        ({"quality": "diverse"}, "diverse.quality"),
        ({"quality": "less"}, "diverse.quality"),
        ({"quality": "tfidf"}, "method: got 'tfidf'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        Diverse(**settings)
