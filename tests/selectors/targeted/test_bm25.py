"""BM25 against numbers worked out by hand, an independent library, and itself in other cuts."""

from __future__ import annotations

import math
import pickle
import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.selectors.targeted.bm25 import BM25

POOL = ["the cat sat", "the dog sat on the mat", "a bird", "cats and dogs and the the the"]


def batches(texts, parts=1):
    size = -(-len(texts) // parts)
    return [pa.RecordBatch.from_pydict({"text": texts[i : i + size]}) for i in range(0, len(texts), size)]


def scores(texts, target, tmp_path, *, parts=1, **settings):
    scorer = BM25(**settings).fit(pa.table({"text": target}), batches(texts, parts), str(tmp_path))
    return np.concatenate([scorer.annotate(batch)["score.bm25"].to_numpy() for batch in batches(texts)])


def by_hand(texts, query, k1=1.5, b=0.75):
    """The formula as it is written, over words parted by spaces."""
    documents = [text.split() for text in texts]
    mean = sum(map(len, documents)) / len(documents)
    out = []
    for words in documents:
        total = 0.0
        for word, times in Counter(query.split()).items():
            holding = sum(word in other for other in documents)
            idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
            tf = words.count(word)
            if tf:
                total += times * idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * len(words) / mean))
        out.append(total)
    return out


def test_scores_are_those_worked_out_by_hand(tmp_path):
    # N = 4, avgdl = (3 + 6 + 2 + 7) / 4 = 4.5; "cat" is in 1 document, "the" in 3
    idf_cat, idf_the = math.log(1 + 3.5 / 1.5), math.log(1 + 1.5 / 3.5)
    slow = 1.5 * (0.25 + 0.75 * 3 / 4.5)
    expected = idf_cat * 2.5 / (1 + slow) + idf_the * 2.5 / (1 + slow)
    found = scores(POOL, ["the cat"], tmp_path)
    assert found[0] == pytest.approx(expected, rel=1e-4)
    assert found == pytest.approx(by_hand(POOL, "the cat"), rel=1e-4, abs=1e-9)
    assert found[2] == 0


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.0, 0.5), (2.0, 0.0), (0.9, 1.0)])
def test_parameters_mean_what_the_formula_says(k1, b, tmp_path):
    assert scores(POOL, ["the mat mat"], tmp_path, k1=k1, b=b) == pytest.approx(
        by_hand(POOL, "the mat mat", k1, b), rel=1e-4, abs=1e-9
    )


def test_a_word_that_every_document_has_still_counts_for_something(tmp_path):
    found = scores(["x y", "x z", "x x"], ["x"], tmp_path)
    assert (found > 0).all()


def test_the_mean_over_examples_is_one_query_and_the_maximum_is_the_nearest_one(tmp_path):
    target = ["the cat", "a bird bird", "dogs and the mat"]
    each = np.array([by_hand(POOL, query) for query in target])
    assert scores(POOL, target, tmp_path) == pytest.approx(each.mean(axis=0), rel=1e-4, abs=1e-6)
    nearest = scores(POOL, target, tmp_path, aggregate="max")
    assert nearest == pytest.approx(each.max(axis=0), rel=1e-4, abs=1e-6)


def test_another_library_gives_the_same_scores(tmp_path):
    bm25s = pytest.importorskip("bm25s")
    rng = random.Random(0)
    words = [f"w{i}" for i in range(40)]
    texts = [" ".join(rng.choices(words, weights=range(40, 0, -1), k=rng.randint(1, 30))) for _ in range(200)]
    query = " ".join(rng.choices(words, k=6))
    # its "lucene" leaves the factor k1 + 1 out and takes each word of a query once
    library = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
    library.index([text.split() for text in texts], show_progress=False)
    expected = library.get_scores(sorted(set(query.split()))) * 2.5
    found = scores(texts, [" ".join(sorted(set(query.split())))], tmp_path)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.text("abc ", max_size=12), min_size=1, max_size=12),
    st.lists(st.text("abc ", max_size=8), min_size=1, max_size=4).filter(lambda rows: any(r.split() for r in rows)),
    st.sampled_from(["mean", "max"]),
)
def test_any_texts_score_as_the_formula_says(tmp_path_factory, texts, target, aggregate):
    folder = tmp_path_factory.mktemp("bm25")
    if any(text.split() for text in texts):
        each = np.array([by_hand(texts, query) for query in target])
        expected = each.mean(axis=0) if aggregate == "mean" else each.max(axis=0)
        found = scores(texts, target, folder, aggregate=aggregate)
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-9)
    else:
        assert scores(texts, target, folder, aggregate=aggregate).tolist() == [0] * len(texts)


@pytest.mark.parametrize("aggregate", ["mean", "max"])
def test_scores_and_state_are_the_same_for_1_3_and_8_shards_and_any_order(aggregate, tmp_path):
    rng, words = random.Random(1), ["the", "a", "cat", "dog", "bird", "sat", "mat", "on", "off"]
    texts = [" ".join(rng.choices(words, k=rng.randint(0, 9))) for _ in range(50)]
    target = ["the cat sat", "a bird off"]
    order = list(range(50))
    rng.shuffle(order)
    shuffled = [texts[i] for i in order]
    whole = pa.RecordBatch.from_pydict({"text": texts})
    found = []
    for place, (rows, parts, wanted) in enumerate(
        [(texts, 1, target), (texts, 3, target), (texts, 8, target[::-1]), (shuffled, 3, target)]
    ):
        scorer = BM25(aggregate=aggregate).fit(
            pa.table({"text": wanted}), batches(rows, parts), str(tmp_path / str(place))
        )
        found.append((scorer.digest, pickle.loads(pickle.dumps(scorer)).annotate(whole)["score.bm25"].to_pylist()))  # noqa: S301
    assert len({digest for digest, _ in found}) == 1
    assert all(values == found[0][1] for _, values in found)


def test_case_width_and_punctuation_do_not_part_words(tmp_path):
    found = scores(["The CAT, sat!", "dog"], ["the ｃａｔ"], tmp_path)
    assert found[0] > 0
    assert found[1] == 0


def test_a_row_without_words_scores_zero(tmp_path):
    assert scores(["", " \n", "cat", None], ["cat"], tmp_path)[[0, 1, 3]].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("target", "pool", "words"),
    [
        ([], ["a"], "got no rows"),
        (["", "?!"], ["a"], "2 row.s. without a word"),
        (["a"], [], "pool: got no rows"),
    ],
)
def test_an_empty_target_and_an_empty_pool_are_refused(target, pool, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        BM25().fit(pa.table({"text": pa.array(target, pa.string())}), batches(pool) if pool else [], str(tmp_path))


@pytest.mark.parametrize("settings", [{"k1": -1.0}, {"k1": math.inf}, {"b": 1.5}, {"aggregate": "sum"}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=f"bm25.{next(iter(settings))}"):
        BM25(**settings)
