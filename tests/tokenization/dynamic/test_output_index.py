"""The best of many output rows: exact logits, and how many of the best are found."""

import numpy as np
import pytest

from penstock.errors import ConfigError, InputError
from penstock.tokenization.dynamic.output_index import OutputIndex


def rows_and_states(n, width=16, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(50, width))
    rows = centres[rng.integers(0, 50, n)] + 0.4 * rng.normal(size=(n, width))
    # norms differ, so the best by cosine are not the best by logit
    rows *= rng.uniform(0.5, 2.0, (n, 1))
    states = rows[rng.integers(0, n, 40)] + 0.5 * rng.normal(size=(40, width))
    return rows.astype(np.float32), states.astype(np.float32)


def test_few_rows_are_searched_exactly():
    rows, states = rows_and_states(500)
    ids, logits = OutputIndex(rows).search(states, k=5)
    everything = states @ rows.T
    best = np.argsort(-everything, axis=1)[:, :5]
    assert (ids == best).all()
    np.testing.assert_allclose(logits, np.take_along_axis(everything, best, 1), rtol=1e-4)


def test_exact_search_over_blocks_is_the_search_over_all():
    rows, states = rows_and_states(70_000, width=4)
    ids, _ = OutputIndex(rows[:4000]).exact(states[:3], k=7)
    assert ids.shape == (3, 7)
    index = OutputIndex(rows, lists=16)
    ids, logits = index.exact(states[:3], k=7)
    everything = states[:3] @ rows.T
    np.testing.assert_allclose(logits, -np.sort(-everything, axis=1)[:, :7], rtol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(everything, ids, 1), logits, rtol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_logits_of_what_is_found_are_exact_and_most_of_the_best_are_found(dtype):
    rows, states = rows_and_states(20_000)
    rows = rows.astype(dtype)
    index = OutputIndex(rows, seed=3)
    ids, logits = index.search(states, k=20)
    own = np.einsum("nd,nkd->nk", states, rows[ids].astype(np.float32))
    np.testing.assert_allclose(logits, own, rtol=1e-5)
    assert (np.diff(logits, axis=1) <= 0).all()
    assert all(len(set(row)) == 20 for row in ids.tolist())
    assert index.recall(states, k=20) > 0.9
    assert index.index_bytes < 20_000 * (16 + 12) * 1.5


def test_recall_says_when_the_index_misses_the_best():
    rows, states = rows_and_states(20_000)
    narrow = OutputIndex(rows, probe=1, overfetch=1)
    assert narrow.recall(states, k=20) < OutputIndex(rows, probe=64).recall(states, k=20)


def test_where_too_few_are_found_the_rest_is_marked():
    rows, states = rows_and_states(20_000)
    ids, logits = OutputIndex(rows, lists=400, probe=1).search(states, k=400)
    assert (ids == -1).any()
    assert np.isneginf(logits[ids == -1]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"lists": 0}, "lists: got 0"), ({"probe": 0}, "probe: got 0"), ({"overfetch": 0}, "overfetch: got 0")],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        OutputIndex(np.zeros((3, 2), np.float32), **options)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="float64"):
        OutputIndex(np.zeros((3, 2)))
    index = OutputIndex(np.eye(3, dtype=np.float32))
    with pytest.raises(InputError, match=r"allowed \(n, 3\)"):
        index.search(np.zeros((1, 2), np.float32), 1)
    with pytest.raises(ConfigError, match="k: got 4, allowed 1 to 3"):
        index.search(np.zeros((1, 3), np.float32), 4)
