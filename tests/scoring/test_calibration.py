"""Thresholds at a named rate and their controls: ``python -m pytest tests/scoring/test_calibration.py``."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from penstock.errors import ConfigError, DatasetError
from penstock.scoring.calibration import (
    SCREENED,
    Calibration,
    CalibrationSettings,
    calibrate,
    least_texts,
    order,
    p_values,
    pairs_won,
    suspicion,
    threshold_of,
)
from penstock.scoring.formulas import SCORES, column

MADE_WITH = {"model": "m" * 64, "tokenizer": "t" * 64, "max_tokens": 512, "reference": None}


def scores(n, *, domain="news", tokens=150, seed=0, shift=0.0, language=None, **given):
    """Rows of a table of scores: standard normal but for those that are given."""
    rng = np.random.default_rng(seed)
    columns = {
        "doc_id": [f"{domain}/{seed}#{i}" for i in range(n)],
        "content_hash": pa.array([rng.bytes(16) for _ in range(n)], pa.binary(16)),
        "domain": [domain] * n,
        "lm_tokens": pa.array(np.broadcast_to(tokens, n), pa.int32()),
    }
    if language is not None:
        columns["language"] = [language] * n
    for score in SCREENED:
        columns[column(score)] = pa.array(given.get(score, rng.normal(size=n) + shift), pa.float32(), from_pandas=True)
    return pa.table(columns)


def of(folder, reference, settings=None, **sets):
    path, digest = calibrate(reference, settings or CalibrationSettings(), MADE_WITH, str(folder), **sets)
    return Calibration.load(path, digest)


# ── order statistics ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("n", "rate", "k"),
    [(99, 0.01, 99), (98, 0.01, 99), (100, 0.01, 100), (199, 0.01, 198), (19, 0.05, 19), (9, 0.1, 9), (500, 0.05, 476)],
)
def test_the_threshold_is_the_order_statistic_of_n_plus_one(n, rate, k):
    assert order(n, rate) == k
    values = np.arange(1, n + 1, dtype=np.float32)
    assert threshold_of(values, rate) == (float(k) if k <= n else None)


@given(st.integers(0, 400), st.sampled_from([0.001, 0.01, 0.02, 0.05, 0.1, 0.3]))
def test_there_is_a_threshold_just_when_there_are_enough_texts(n, rate):
    assert (threshold_of(np.zeros(n, np.float32), rate) is not None) == (n >= least_texts(rate))


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=60), st.sampled_from([0.05, 0.1, 0.25]))
@settings(max_examples=200)
def test_a_value_is_beyond_the_threshold_just_when_its_p_value_is_within_the_rate(values, rate):
    reference = np.sort(np.array(values, np.float32))
    threshold = threshold_of(reference, rate)
    tested = np.arange(-6, 7, dtype=np.float32)
    if threshold is not None:
        assert ((p_values(reference, tested) <= rate + 1e-6) == (tested > threshold)).all()


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=40), st.lists(st.integers(-4, 4), min_size=1, max_size=40))
@settings(max_examples=100)
def test_the_area_under_the_curve_is_scikit_learn_s(one, other):
    a, b = np.array(one, np.float32), np.array(other, np.float32)
    labels = [0] * len(a) + [1] * len(b)
    assert pairs_won(a, b) / (len(a) * len(b)) == pytest.approx(roc_auc_score(labels, np.concatenate([a, b])))


def test_fresh_text_of_the_same_kind_is_flagged_at_the_rate(tmp_path):
    rate, n, fresh = 0.05, 500, 4000
    calibration = of(tmp_path, scores(n), CalibrationSettings(rate=rate))
    k = order(n, rate)
    # the rate that one calibration really has is itself random: Beta(n + 1 - k, k)
    low, high = stats.betabinom.ppf([0.005, 0.995], fresh, n + 1 - k, k)
    new = scores(fresh, seed=1)
    for score in SCREENED:
        threshold = calibration.thresholds[score, ("news", "", 100)]
        flagged = (suspicion(score, new[column(score)].to_numpy()) > threshold).sum()
        assert low <= flagged <= high, score
    # a threshold of another rate would not pass: the band is that narrow
    assert low > 0.02 * fresh
    assert high < 0.09 * fresh


def test_a_score_that_is_suspicious_when_small_has_its_threshold_below(tmp_path):
    values = np.arange(200.0)
    calibration = of(tmp_path, scores(200, zs=values, z=values), CalibrationSettings(rate=0.05))
    cell = ("news", "", 100)
    assert SCORES["zs"].suspicious == "small"
    k = math.ceil(201 * 0.95)
    assert calibration.thresholds["z", cell] == values[k - 1]
    assert calibration.thresholds["zs", cell] == -values[200 - k]


# ── cells ────────────────────────────────────────────────────────────────────────────────────────


def test_cells_are_domain_language_and_length_and_each_has_its_own_threshold(tmp_path):
    tokens = np.repeat([150, 300], 100)
    table = pa.concat_tables(
        [
            scores(200, tokens=tokens, language="en", z=np.repeat([1.0, 2.0], 100)),
            scores(200, tokens=tokens, language="de", seed=1, z=np.repeat([3.0, 4.0], 100)),
            scores(50, domain="law", language="en", seed=2),
        ]
    )
    calibration = of(tmp_path, table, CalibrationSettings(rate=0.05))
    found = {cell: value for (score, cell), value in calibration.thresholds.items() if score == "z"}
    assert found.pop(("law", "en", 100)) is not None
    assert found == {
        ("news", "en", 100): 1.0,
        ("news", "en", 200): 2.0,
        ("news", "de", 100): 3.0,
        ("news", "de", 200): 4.0,
    }


def test_too_few_texts_have_no_threshold_and_say_how_many_are_needed(tmp_path):
    calibration = of(tmp_path, scores(98))
    assert calibration.thresholds == {}
    assert {entry["why"] for entry in calibration.facts["thresholds"]} == {"98 texts, 99 needed"}
    assert of(tmp_path, scores(99)).thresholds.keys() == {(score, ("news", "", 100)) for score in SCREENED}


def test_machine_scores_have_no_threshold_for_short_texts_and_membership_scores_do(tmp_path):
    calibration = of(tmp_path, scores(200, tokens=99))
    assert {score for score, _ in calibration.thresholds} == {s for s in SCREENED if SCORES[s].kind == "membership"}


def test_texts_without_a_score_do_not_count_for_it(tmp_path):
    z = np.where(np.arange(120) < 30, np.nan, 1.0)
    calibration = of(tmp_path, scores(120, z=z))
    assert ("z", ("news", "", 100)) not in calibration.thresholds
    assert ("zs", ("news", "", 100)) in calibration.thresholds
    assert all(np.isfinite(values).all() for values in calibration.reference.values())


def test_length_buckets_begin_at_their_edges():
    made = CalibrationSettings(edges=(100, 200, 400))
    assert made.buckets(np.array([0, 99, 100, 199, 200, 399, 400, 9999])).tolist() == [
        0,
        0,
        100,
        100,
        200,
        200,
        400,
        400,
    ]
    assert [made.bucket_name(b) for b in (0, 100, 400)] == ["0-99", "100-199", "400+"]
    assert CalibrationSettings(edges=()).bucket_name(0) == "0+"


# ── controls ─────────────────────────────────────────────────────────────────────────────────────


def test_a_score_that_tells_two_innocent_sets_apart_is_not_usable_in_that_domain(tmp_path):
    reference = pa.concat_tables([scores(2000), scores(2000, domain="law", seed=1)])
    moved = np.random.default_rng(9).normal(size=2000)
    control = pa.concat_tables(
        [scores(2000, seed=2, z=moved + 0.5, mink=moved - 0.5), scores(2000, domain="law", seed=3)]
    )
    calibration = of(tmp_path, reference, control=control)
    assert calibration.unusable == {("z", "news"), ("mink", "news")}
    assert ("z", ("news", "", 100)) not in calibration.thresholds
    assert ("z", ("law", "", 100)) in calibration.thresholds
    found = {(c["score"], c["domain"]): c["auc"] for c in calibration.facts["controls"]}
    # normals half a standard deviation apart: Phi(0.5 / sqrt 2)
    assert found["z", "news"] == pytest.approx(stats.norm.cdf(0.5 / math.sqrt(2)), abs=0.02)
    assert found["mink", "news"] == pytest.approx(1 - stats.norm.cdf(0.5 / math.sqrt(2)), abs=0.02)


def test_another_mix_of_lengths_is_no_shift(tmp_path):
    def mixed(share, seed):
        long = np.random.default_rng(seed).random(2000) < share
        z = np.random.default_rng(seed + 100).normal(size=2000) + np.where(long, 5.0, 0.0)
        return scores(2000, tokens=np.where(long, 500, 150), seed=seed, z=z)

    calibration = of(tmp_path, mixed(0.2, 0), control=mixed(0.8, 1))
    assert ("z", "news") not in calibration.unusable


def test_the_positive_control_says_what_share_is_found(tmp_path):
    planted = scores(50, seed=5, z=np.where(np.arange(50) < 30, 100.0, -100.0))
    calibration = of(tmp_path, scores(200), positive=planted)
    found = {entry["score"]: entry["positive"] for entry in calibration.facts["thresholds"]}
    assert found["z"] == {"texts": 50, "found": 30}
    assert calibration.facts["controls"] == []
    assert calibration.facts["controlled"] is False


# ── identity ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "x" * 64}, "model xxxxxxxxxxxx there, mmmmmmmmmmmm here"),
        ({"tokenizer": "x" * 64}, "tokenizer xxxxxxxxxxxx there"),
        ({"max_tokens": 1024}, "max_tokens 1024 there, 512 here"),
        ({"reference": "abc"}, "reference abc there, None here"),
    ],
)
def test_scores_of_another_kind_are_refused_and_what_differs_is_named(tmp_path, changes, message):
    calibration = of(tmp_path, scores(200))
    calibration.check(MADE_WITH, "scores")
    with pytest.raises(DatasetError, match=message):
        calibration.check(MADE_WITH | changes, "scores")


def test_without_dcpdd_its_reference_does_not_matter(tmp_path):
    calibration = of(tmp_path, scores(200), CalibrationSettings(scores=("z",)))
    calibration.check(MADE_WITH | {"reference": "abc"}, "scores")


def test_a_calibration_that_was_changed_is_refused(tmp_path):
    path, digest = calibrate(scores(200), CalibrationSettings(), MADE_WITH, str(tmp_path))
    with open(path, "a") as file:
        file.write(" ")
    with pytest.raises(DatasetError, match="got sha256"):
        Calibration.load(path, digest)


def test_the_order_of_the_reference_changes_nothing(tmp_path):
    table = pa.concat_tables([scores(150), scores(150, domain="law", seed=1)])
    rows = np.random.default_rng(3).permutation(300)
    one = calibrate(table, CalibrationSettings(), MADE_WITH, str(tmp_path / "a"))
    other = calibrate(table.take(rows), CalibrationSettings(), MADE_WITH, str(tmp_path / "b"))
    assert one[1] == other[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rate": 0.0}, "rate: got 0.0, allowed above 0"),
        ({"rate": 1.0}, "rate: got 1.0"),
        ({"scores": ()}, "scores: got none"),
        ({"scores": ("loss",)}, "scores: got loss, allowed each of zlib"),
        ({"scores": ("z", "z")}, "scores: got z, z"),
        ({"edges": (200, 100)}, r"edges: got \[200, 100\]"),
        ({"edges": (0,)}, r"edges: got \[0\]"),
    ],
)
def test_settings_out_of_range_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        CalibrationSettings(**given)


def test_an_empty_reference_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="reference: got no text"):
        of(tmp_path, scores(0))
