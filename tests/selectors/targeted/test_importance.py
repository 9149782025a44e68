"""Cluster importance sampling: weights, copies, caps, and the mistakes of its users."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.embedding.base import embedding_array, normalised
from penstock.errors import ConfigError
from penstock.seeding import hash_ids
from penstock.selectors import artifact
from penstock.selectors.targeted.base import Budget, facts_of
from penstock.selectors.targeted.importance import (
    CLUSTER,
    EXPECTED,
    SHARE,
    ClusterSizes,
    Importance,
    effective_sample_size,
    expected_copies,
    target_shares,
    weights_of,
)

pytest.importorskip("faiss")
CENTRES = np.eye(6, dtype=np.float32)[:4]


def rows(groups, *, seed=0, name="d", tokens=None):
    """Rows near the centre that each number of ``groups`` names; -1 is a row without a vector."""
    rng = np.random.default_rng(seed)
    vectors = np.array([CENTRES[g] if g >= 0 else np.zeros(6) for g in groups]) + 0.0
    noise = rng.normal(scale=0.05, size=vectors.shape)
    vectors = normalised(np.where(vectors.any(axis=1)[:, None], vectors + noise, 0))
    ids = [f"{name}{i:04d}" for i in range(len(groups))]
    return pa.RecordBatch.from_pydict(
        {
            "doc_id": ids,
            "id_hash": hash_ids(ids),
            "domain": [f"g{g}" for g in groups],
            "tokens": pa.array(tokens or [10] * len(groups), pa.int64()),
            "embedding": embedding_array(vectors),
        }
    )


def table(batch):
    return pa.Table.from_batches([batch])


def scored(scorer, batch):
    found = scorer.annotate(batch)
    columns = {name: batch[name] for name in ("doc_id", "id_hash", "domain", "tokens")}
    return pa.table(columns | {"score": found["score.importance"], CLUSTER: found[CLUSTER], SHARE: found[SHARE]})


POOL = [0] * 400 + [1] * 300 + [2] * 200 + [3] * 100
TARGET = [1] * 10 + [3] * 30


def test_weights_are_the_targets_share_over_the_pools_and_average_to_one(tmp_path):
    pool = rows(POOL)
    scorer = Importance(clusters=4, smoothing=0.0).fit(table(rows(TARGET, seed=1)), [pool], str(tmp_path))
    weight = scorer.annotate(pool)["score.importance"].to_numpy()
    expected = {0: 0.0, 1: 0.25 / 0.3, 2: 0.0, 3: 0.75 / 0.1}
    assert weight == pytest.approx([expected[g] for g in POOL], rel=1e-4)
    # the sum of w P_g over clusters is the mean of w over rows
    assert weight.mean() == pytest.approx(1.0, rel=1e-4)
    facts = scorer.facts()
    assert facts["clusters_with_examples"] == 2
    assert facts["pool_without_examples"] == pytest.approx(0.6)
    assert facts["share_out_of_reach"] == 0


def test_smoothing_gives_clusters_without_an_example_some_weight(tmp_path):
    pool = rows(POOL)
    scorer = Importance(clusters=4, smoothing=1.0).fit(table(rows(TARGET, seed=1)), [pool], str(tmp_path))
    weight = scorer.annotate(pool)["score.importance"].to_numpy()
    assert weight[0] == pytest.approx(1 / 44 / 0.4, rel=1e-4)
    assert weight[-1] == pytest.approx(31 / 44 / 0.1, rel=1e-4)
    assert weight.mean() == pytest.approx(1.0, rel=1e-4)


def test_a_target_like_the_pool_has_weights_of_one_within_sampling_error(tmp_path):
    rng = random.Random(0)
    pool = rows(POOL)
    target = rows(rng.choices(POOL, k=2000), seed=1)
    scorer = Importance(clusters=4).fit(table(target), [pool], str(tmp_path))
    weight = scorer.annotate(pool)["score.importance"].to_numpy()
    # a share p of 2,000 examples has a standard error of sqrt((1 - p) / (2000 p)) of itself
    assert np.abs(weight - 1).max() < 4 * np.sqrt(0.9 / (2000 * 0.1))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20)), min_size=1, max_size=40),
    st.integers(1, 400),
    st.sampled_from([0.5, 1.0, 4.0]),
)
def test_expected_copies_spend_the_budget_under_the_cap_or_all_that_it_allows(pairs, amount, cap):
    weights = np.array([w for w, _ in pairs], dtype=float)
    sizes = np.array([s for _, s in pairs])
    expected, _ = expected_copies(weights, sizes, amount, cap)
    reach = (np.where(weights > 0, cap, 0) * sizes).sum()
    assert (expected <= cap).all()
    assert (expected[weights == 0] == 0).all()
    assert (expected * sizes).sum() == pytest.approx(min(amount, reach), rel=1e-6)
    free = expected < cap * (1 - 1e-9)
    if reach > amount and (weights[free] > 0).any():
        ratio = expected[free & (weights > 0)] / weights[free & (weights > 0)]
        assert ratio == pytest.approx(np.full(len(ratio), ratio[0]), rel=1e-6)


def test_the_epoch_cap_hands_what_it_takes_to_the_other_clusters(tmp_path):
    pool = rows(POOL)
    scorer = Importance(clusters=4, smoothing=0.0).fit(table(rows(TARGET, seed=1)), [pool], str(tmp_path))
    for cap, share in ((100.0, 0.75), (2.0, 0.5)):
        chosen = Importance(clusters=4, epochs=cap).choose(scored(scorer, pool), Budget(count=400))
        expected = chosen[EXPECTED].to_numpy().astype(float)
        assert expected.sum() == pytest.approx(400, rel=1e-5)
        in_three = np.array(chosen["domain"].to_pylist()) == "g3"
        # 100 rows: 3 epochs without a cap, 2 with it, so half of the budget in place of three quarters
        assert expected[in_three].sum() / 400 == pytest.approx(share, rel=1e-5)
        assert facts_of(chosen)["rows_at_the_cap"] == (0 if cap == 100 else 100)


def test_copies_follow_coins_of_ids_and_come_out_near_the_budget(tmp_path):
    pool = rows(POOL)
    scorer = Importance(clusters=4).fit(table(rows(TARGET, seed=1)), [pool], str(tmp_path))
    found = scored(scorer, pool)
    chosen = Importance(clusters=4).choose(found, Budget(fraction=0.2))
    copies = chosen["copies"].to_numpy()
    assert copies.sum() == pytest.approx(200, abs=40)
    assert (chosen["selected"].to_numpy() == (copies > 0)).all()
    assert np.abs(copies - chosen[EXPECTED].to_numpy()).max() < 1
    order = np.random.default_rng(3).permutation(len(POOL))
    assert Importance(clusters=4).choose(found.take(order), Budget(fraction=0.2)).equals(chosen)
    other = Importance(clusters=4, seed=1).choose(found, Budget(fraction=0.2))
    assert other["selected"].to_pylist() != chosen["selected"].to_pylist()


def test_a_budget_in_tokens_weighs_clusters_by_their_tokens(tmp_path):
    long = [30 if g == 1 else 10 for g in POOL]
    pool = rows(POOL, tokens=long)
    scorer = Importance(clusters=4, smoothing=0.0).fit(table(rows(TARGET, seed=1)), [pool], str(tmp_path))
    chosen = Importance(clusters=4, epochs=100.0).choose(scored(scorer, pool), Budget(count=4000, unit="tokens"))
    spent = chosen[EXPECTED].to_numpy().astype(float) * chosen["tokens"].to_numpy()
    one = np.array(chosen["domain"].to_pylist()) == "g1"
    assert spent.sum() == pytest.approx(4000, rel=1e-5)
    assert spent[one].sum() / 4000 == pytest.approx(0.25, rel=1e-5)


def test_state_and_scores_are_the_same_for_1_3_and_8_shards_and_any_order(tmp_path):
    pool, target = rows(POOL + [-1] * 5), table(rows(TARGET, seed=1))
    order = np.random.default_rng(0).permutation(pool.num_rows)
    digests, values = set(), []
    for parts, batch, wanted in ((1, pool, target), (3, pool, target), (8, pool.take(pa.array(order)), target[::-1])):
        size = -(-batch.num_rows // parts)
        cut = [batch.slice(i, size) for i in range(0, batch.num_rows, size)]
        scorer = pickle.loads(pickle.dumps(Importance(clusters=4).fit(wanted, cut, str(tmp_path / str(parts)))))  # noqa: S301
        digests.add(scorer.digest)
        values.append(scorer.annotate(pool)["score.importance"].to_pylist())
    assert len(digests) == 1
    assert values[0] == values[1] == values[2]


def test_rows_without_a_vector_have_no_score_and_are_never_selected(tmp_path):
    pool = rows([*POOL, -1, -1])
    scorer = Importance(clusters=4).fit(table(rows(TARGET, seed=1)), [pool], str(tmp_path))
    found = scored(scorer, pool)
    assert found["score"].null_count == 2
    chosen = Importance(clusters=4).choose(found, Budget(count=5000))
    assert chosen["selected"].to_pylist()[-2:] == [False, False]
    assert chosen["rank"].to_pylist()[-2:] == [None, None]
    # more than the cap allows gives every other row the cap
    assert set(chosen["copies"].to_pylist()[:-2]) == {4}


@pytest.mark.parametrize(
    ("target", "clusters", "words"),
    [
        ([], 4, "got no rows"),
        ([-1, -1], 4, "2 row.s. without a vector"),
        ([0], 2000, "allowed at most 1000, the documents of the pool"),
    ],
)
def test_a_target_or_a_pool_that_cannot_be_clustered_is_refused(target, clusters, words, tmp_path):
    wanted = table(rows(target or [0]))
    with pytest.raises(ConfigError, match=words):
        Importance(clusters=clusters).fit(wanted if target else wanted.slice(0, 0), [rows(POOL)], str(tmp_path))


@pytest.mark.parametrize("settings", [{"clusters": 0}, {"smoothing": -1.0}, {"epochs": 0.0}, {"iterations": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=f"importance.{next(iter(settings))}"):
        Importance(**settings)


def test_pieces_of_the_formula():
    assert target_shares(np.array([3, 0, 1]), 0.0).tolist() == [0.75, 0.0, 0.25]
    assert target_shares(np.array([3, 0, 1]), 1.0) == pytest.approx([4 / 7, 1 / 7, 2 / 7])
    assert weights_of(np.array([0.5, 0.5]), np.array([0.25, 0.0])).tolist() == [2.0, 0.0]
    assert effective_sample_size(np.array([1.0, 1.0, 1.0, 1.0])) == 4
    assert effective_sample_size(np.array([3.0, 1.0])) == pytest.approx(16 / 10)
    assert effective_sample_size(np.zeros(3)) == 0
    one, two = ClusterSizes(np.array([1, 2])), ClusterSizes(np.array([10, 0]))
    assert ClusterSizes.from_table(one.merge(two).to_table()).documents.tolist() == [11, 2]


def test_the_centroids_are_kept_with_the_weights(tmp_path):
    scorer = Importance(clusters=4).fit(table(rows(TARGET)), [rows(POOL)], str(tmp_path))
    arrays = artifact.load(scorer.path, scorer.digest).arrays
    assert arrays["centroids"].shape == (4, 6)
    assert arrays["share"].sum() == pytest.approx(1)
