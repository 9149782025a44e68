"""Semantic duplicates against brute force and the paper's own rule. Run: pytest tests/selectors/test_semantic.py"""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.embedding.base import embedding_array, normalised, unit_vectors
from penstock.errors import ConfigError, DatasetError
from penstock.selectors import semantic
from penstock.selectors.kmeans import NO_GROUP, SIMILARITY
from penstock.selectors.semantic import REASON, SemanticDuplicates, pieces, survivors


def rows_of(vectors, groups=None, similarity=None, ids=None):
    n = len(vectors)
    columns = {
        "doc_id": pa.array(ids or [f"d#{i:03d}" for i in range(n)], pa.string()),
        "embedding": embedding_array(vectors),
        "group": pa.array(groups or ["g"] * n, pa.string()),
        SIMILARITY: pa.array(np.zeros(n) if similarity is None else similarity, pa.float32()),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def by_hand(vectors, threshold):
    """One row at a time, in float64: the rule as the module states it."""
    wide = vectors.astype(np.float64)
    kept, out = [], []
    for i, vector in enumerate(wide):
        found = [(float(wide[j] @ vector), -j) for j in kept]
        best = max(found, default=(-2.0, 0))
        if best[0] >= threshold:
            out.append(-best[1])
        else:
            kept.append(i)
            out.append(-1)
    return out


# directions in the plane, whole degrees: cosines are far from every threshold, or exactly equal
angles = st.lists(st.integers(0, 90), max_size=40)


def plane(degrees):
    turn = np.deg2rad(np.array(degrees, dtype=float))
    return np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32).reshape(-1, 2)


@settings(deadline=None)
@given(angles, st.integers(1, 60), st.sampled_from([1, 3, 7, 2048]))
def test_survivors_are_those_of_brute_force_in_any_tiles(degrees, width, tile):
    vectors, threshold = plane(degrees), float(np.cos(np.deg2rad(width + 0.5)))
    before = semantic.TILE
    semantic.TILE = tile
    try:
        found = survivors(vectors, threshold)
    finally:
        semantic.TILE = before
    wanted = by_hand(vectors, threshold)
    assert [f >= 0 for f in found] == [w >= 0 for w in wanted]
    for i, (f, w) in enumerate(zip(found, wanted, strict=True)):
        if w >= 0:  # equal angles may tie in one precision alone
            assert degrees[f] == degrees[w] or abs(degrees[f] - degrees[i]) == abs(degrees[w] - degrees[i])


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(0.3, 0.999))
def test_kept_rows_differ_and_dropped_rows_resemble_their_survivor(seed, threshold):
    rng = np.random.default_rng(seed)
    vectors = normalised(rng.normal(size=(12, 6))[rng.integers(0, 12, 60)] + rng.normal(0, 0.2, (60, 6)))
    found = survivors(vectors, threshold)
    kept = np.flatnonzero(found < 0)
    likeness = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    among = likeness[np.ix_(kept, kept)] - 2 * np.eye(len(kept))
    assert among.max(initial=-1) < threshold + 1e-5
    for row in np.flatnonzero(found >= 0):
        earlier = kept[kept < row]
        assert found[row] in earlier
        assert likeness[row, found[row]] == pytest.approx(likeness[row, earlier].max(), abs=1e-6)
        assert likeness[row, found[row]] >= threshold - 1e-5
    # SemDeDup's code: a row goes when it resembles any row before it, one that went itself among them
    upper = np.triu(likeness, k=1)
    assert set(np.flatnonzero(found >= 0)) <= set(np.flatnonzero(upper.max(axis=0) >= threshold - 1e-5))


def test_without_chains_the_drops_are_those_of_the_authors_code():
    rng = np.random.default_rng(3)
    centres = np.eye(40)[:25]
    label = rng.integers(0, 25, 300)
    vectors = normalised(centres[label] + rng.normal(0, 0.01, (300, 40)))
    upper = np.triu(vectors @ vectors.T, k=1)
    assert (survivors(vectors, 0.9) >= 0).tolist() == (upper.max(axis=0) > 0.9).tolist()


def test_a_chain_drops_every_second_row_where_the_authors_code_keeps_the_first_alone():
    vectors = plane([0, 10, 20, 30, 40])
    threshold = float(np.cos(np.deg2rad(15)))
    assert survivors(vectors, threshold).tolist() == [-1, 0, -1, 2, -1]
    assert (np.triu(vectors @ vectors.T, k=1).max(axis=0) > threshold).tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("tile", [1, 2, 2048])
def test_among_kept_rows_that_are_as_similar_the_first_is_the_survivor(monkeypatch, tile):
    monkeypatch.setattr(semantic, "TILE", tile)
    vectors = np.array([[1, 0], [0, 1], [0.5**0.5, 0.5**0.5]], dtype=np.float32)
    assert survivors(vectors, 0.7).tolist() == [-1, -1, 0]
    assert survivors(vectors, float(vectors[2, 0])).tolist() == [-1, -1, 0], "as similar as the threshold is enough"
    assert survivors(vectors, 0.708).tolist() == [-1, -1, -1]


def test_a_threshold_of_one_drops_equal_vectors_and_no_other():
    vectors = normalised(np.random.default_rng(0).normal(size=(50, 256)))
    both = unit_vectors(embedding_array(np.concatenate([vectors, vectors])))
    assert survivors(both, 1.0).tolist() == [-1] * 50 + list(range(50))


def drops(work, *batches):
    table = pa.concat_tables([work.keyed(b) for b in batches])
    return work.judge(table).to_pylist()


def test_the_row_that_stays_is_the_farthest_from_the_centre_or_the_closest():
    vectors, similarity = plane([0, 1, 2]), [0.5, 0.9, 0.1]
    far = drops(SemanticDuplicates(threshold=0.9), rows_of(vectors, similarity=similarity))
    near = drops(SemanticDuplicates(threshold=0.9, keep="closest"), rows_of(vectors, similarity=similarity))
    assert {r["survivor"] for r in far} == {"d#002"}
    assert {r["survivor"] for r in near} == {"d#001"}
    assert [r["doc_id"] for r in far] == ["d#000", "d#001"]
    assert {r["reason"] for r in far} == {REASON}


@pytest.mark.parametrize("keep", ["farthest", "closest"])
def test_among_rows_as_far_from_the_centre_the_smallest_id_stays(keep):
    ids = ["b#1", "a#10", "a#9", "c#0"]
    found = drops(SemanticDuplicates(threshold=0.9, keep=keep), rows_of(plane([0, 0, 0, 0]), ids=ids))
    assert [(r["doc_id"], r["survivor"]) for r in found] == [("a#9", "a#10"), ("b#1", "a#10"), ("c#0", "a#10")]


def test_the_survivor_is_the_most_similar_of_the_kept_rows():
    vectors, similarity = plane([0, 30, 20]), [0.1, 0.2, 0.3]
    (gone,) = drops(SemanticDuplicates(threshold=0.93), rows_of(vectors, similarity=similarity))
    assert (gone["doc_id"], gone["survivor"]) == ("d#002", "d#001")


def test_rows_of_different_groups_and_rows_without_one_are_not_compared():
    groups = ["g", "h", NO_GROUP, NO_GROUP, "g"]
    vectors = plane([0, 0, 0, 0, 0])
    vectors[2:4] = 0
    found = drops(SemanticDuplicates(), rows_of(vectors, groups))
    assert [(r["doc_id"], r["survivor"]) for r in found] == [("d#004", "d#000")]


@settings(deadline=None, max_examples=30)
@given(angles, st.randoms(use_true_random=False), st.sampled_from(["farthest", "closest"]))
def test_verdicts_do_not_depend_on_the_order_of_rows_and_further_columns_pass_through(degrees, rng, keep):
    work = SemanticDuplicates(threshold=0.97, keep=keep)
    similarity = [round(d / 90, 1) for d in degrees]
    given_rows = rows_of(plane(degrees), [["g", "h"][d % 2] for d in degrees], similarity)
    table = work.keyed(given_rows).append_column("row", pa.array(range(len(degrees)), pa.int64()))
    order = list(range(len(degrees)))
    rng.shuffle(order)
    found = work.judge(table)
    assert work.judge(table.take(pa.array(order, pa.int64()))).equals(found)
    assert found.column_names == ["row", "doc_id", "reason", "survivor"]
    assert [f"d#{r['row']:03d}" for r in found.to_pylist()] == found["doc_id"].to_pylist()


def test_a_giant_group_is_cut_and_duplicates_inside_a_piece_are_still_found(monkeypatch):
    monkeypatch.setattr(semantic, "SPLIT_ROWS", 100)
    monkeypatch.setattr(semantic, "PIECE_ROWS", 40)
    rng = np.random.default_rng(0)
    base = normalised(np.eye(16)[rng.integers(0, 6, 100)] + rng.normal(0, 0.15, (100, 16)))
    both = np.concatenate([base, base])
    cut = pieces(both)
    assert len(cut) == 5
    assert sorted(np.concatenate(cut).tolist()) == list(range(200))
    found = drops(SemanticDuplicates(threshold=0.999), rows_of(both))
    assert [(r["doc_id"], r["survivor"]) for r in found] == [(f"d#{i + 100:03d}", f"d#{i:03d}") for i in range(100)]
    assert len(pieces(base)) == 1


def test_what_lacks_a_column_is_refused():
    table = SemanticDuplicates().keyed(rows_of(plane([0]))).drop_columns(["similarity"])
    with pytest.raises(DatasetError, match="missing column"):
        SemanticDuplicates().judge(table)


@pytest.mark.parametrize(
    ("given_values", "message"),
    [
        ({"threshold": 0.0}, "threshold: got 0.0, allowed above 0 to 1"),
        ({"threshold": 1.01}, "threshold: got 1.01, allowed above 0 to 1"),
        ({"threshold": float("nan")}, "threshold: got nan"),
        ({"keep": "best"}, "keep: got 'best', allowed farthest or closest"),
    ],
)
def test_settings_that_cannot_be_are_refused(given_values, message):
    with pytest.raises(ConfigError, match=message):
        SemanticDuplicates(**given_values)
