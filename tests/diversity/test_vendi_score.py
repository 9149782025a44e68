"""Vendi scores against closed forms and each other. Run: pytest tests/diversity/test_vendi_score.py"""

import math
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.diversity import RBF, Cosine, Gram, Linear, TokenJaccard, VendiSummary, vendi, weighted
from penstock.diversity import vendi_score as module
from penstock.embedding.base import embedding_array, normalised
from penstock.errors import ConfigError, DatasetError, InputError
from penstock.seeding import stream

ORDERS = (0.5, 1, 2, math.inf)


@pytest.mark.parametrize("q", ORDERS)
def test_closed_forms(q):
    assert vendi(Gram(np.eye(7)), q).value == pytest.approx(7)
    assert vendi(Gram(np.ones((7, 7))), q).value == pytest.approx(1)
    assert vendi(Gram(np.kron(np.eye(4), np.ones((3, 3)))), q).value == pytest.approx(4)
    n, r = 10, 0.485
    values = np.array([(1 + (n - 1) * r) / n] + [(1 - r) / n] * (n - 1))
    wanted = {1: math.exp(-(values * np.log(values)).sum()), math.inf: 1 / values.max()}.get(q)
    wanted = wanted or (values**q).sum() ** (1 / (1 - q))
    assert vendi(Gram(np.full((n, n), r) + (1 - r) * np.eye(n)), q).value == pytest.approx(wanted)
    if q == 1:
        assert wanted == pytest.approx(5.5228, abs=5e-5)


def test_the_score_of_a_spectrum():
    assert module.score(np.array([2 / 3, 1 / 6, 1 / 6]), 1) == pytest.approx(13.5 ** (1 / 3))
    assert module.score(np.array([0.5, 0.5, 0.0, -1e-18]), 1) == pytest.approx(2)
    assert module.score(np.array([1.0, 1e-300]), 40) == pytest.approx(1)


@given(st.integers(0, 10**6), st.integers(1, 25), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_primal_equals_dual_lies_between_1_and_its_bound_and_falls_as_the_order_rises(seed, n, d):
    x = np.random.default_rng(seed).normal(size=(n, d))
    before = math.inf
    for q in ORDERS:
        one, two = vendi(x, q, "primal"), vendi(x, q, "dual")
        assert one.value == pytest.approx(two.value, rel=1e-10)
        assert (one.estimator, two.estimator) == ("primal", "dual")
        assert one.bound == two.bound == min(n, d)
        assert 1 - 1e-12 <= one.value <= one.bound + 1e-9
        assert one.value <= before + 1e-9
        before = one.value
        assert vendi(np.concatenate([x, x]), q).value == pytest.approx(one.value, rel=1e-9)
        assert VendiSummary.of(x).result(q).value == pytest.approx(one.value, rel=1e-6)
    frobenius = n**2 / (np.asarray(Cosine(x).dense()) ** 2).sum()
    assert vendi(x, 2).value == pytest.approx(frobenius, rel=1e-10)


def test_both_libraries_give_one_score(normal, library):
    x = normal(30, 5)
    for kernel, q in ((Cosine, 1), (RBF, 1), (RBF, 0.5), (Cosine, math.inf)):
        one, two = vendi(kernel(library(x)), q), vendi(kernel(x), q)
        assert one.value == pytest.approx(two.value, rel=1e-12)
        assert one.fingerprint == two.fingerprint
    tokens = [[i % 3, i % 4] for i in range(12)]
    assert 1 < vendi(TokenJaccard(tokens)).value < 12


def test_large_sets_of_other_kernels_need_a_form_that_fits_them(normal, monkeypatch):
    x = normal(300, 3)
    small = {q: vendi(RBF(x), q).value for q in ORDERS}
    exact = vendi(RBF(x), 1, "truncated", t=20)
    assert exact.estimator == "truncated, t = 20, primal"
    monkeypatch.setattr(module, "PRIMAL_ROWS", 200)
    monkeypatch.setattr(module, "BLOCK", 64)
    for q, how in ((2, "primal, by the Frobenius norm"), (math.inf, "primal, by power iteration")):
        found = vendi(RBF(x), q)
        assert found.value == pytest.approx(small[q], rel=1e-6)
        assert found.estimator == how
    with pytest.raises(ConfigError, match=r"got auto for 300 rows, allowed up to 200; use form='truncated' with t"):
        vendi(RBF(x), 1)
    near = vendi(RBF(x), 1, "truncated", t=20, seed=4)
    assert near.estimator == "truncated, t = 20, Nystroem, 80 landmarks"
    assert near.value == pytest.approx(exact.value, rel=0.01)
    with pytest.raises(ConfigError, match="t: got 51, allowed up to 50 for 300 rows"):
        vendi(RBF(x), 1, "truncated", t=51)


def test_truncation_spreads_what_is_missing_over_what_is_kept(normal):
    values = np.array([0.05, 0.5, 0.25, 0.2])
    assert module.truncate(values, 2) == pytest.approx([0.625, 0.375])
    assert module.truncate(values, 9) == pytest.approx([0.5, 0.25, 0.2, 0.05])
    x = normal(40, 4)
    assert vendi(x, 1, "truncated", t=4).value == pytest.approx(vendi(x).value)
    assert vendi(x, 1, "truncated", t=2).value <= 2
    # unlike the score, it does not grow with the number of rows
    few, many = (RBF(stream(7, "sample").normal(size=(n, 6)), 0.2) for n in (400, 1600))
    assert vendi(many).value > 1.15 * vendi(few).value
    assert vendi(many, 1, "truncated", t=10).value == pytest.approx(vendi(few, 1, "truncated", t=10).value, rel=0.02)


@given(st.integers(0, 1000), st.permutations(range(5)), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_summaries_merged_in_any_order_are_one(seed, order, cut):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(rng.integers(1, 30), 6)).astype(np.float32) for _ in range(5)]
    parts[2][0] = 0
    made = [VendiSummary.of(p) for p in parts]
    straight = reduce(VendiSummary.merge, made)
    some = [made[i] for i in order]
    nested = reduce(VendiSummary.merge, some[:cut]).merge(reduce(VendiSummary.merge, some[cut:]))
    assert (straight.scatter == nested.scatter).all()
    assert straight.result() == nested.result()
    assert straight.zero == 1
    rows = np.concatenate(parts)
    rows = rows[rows.any(axis=1)]
    assert straight.rows == len(rows)
    assert straight.result(2).value == pytest.approx(vendi(rows, 2).value, rel=1e-7)


def test_a_summary_survives_its_table_and_reads_an_embedding_column():
    vectors = normalised(stream(0, "v").normal(size=(40, 8)))
    vectors[3] = 0
    made = VendiSummary.of(embedding_array(vectors))
    read = VendiSummary.from_table(made.to_table())
    assert (read.rows, read.zero, read.result()) == (39, 1, made.result())
    empty = VendiSummary.from_table(VendiSummary.of(np.zeros((2, 8))).to_table())
    assert (empty.rows, empty.zero, empty.result().value) == (0, 2, 0)
    assert empty.merge(made).result() == made.result()
    with pytest.raises(DatasetError, match="got rows of 8 and of 5 dimensions"):
        made.merge(VendiSummary.of(np.ones((2, 5))))


def test_edges_and_what_is_refused(normal):
    x = normal(6, 3)
    assert vendi(np.zeros((0, 3))).value == 0
    assert vendi(x[:1], 2).value == pytest.approx(1)
    for call, kind, message in (
        (lambda: vendi(Linear(x)), InputError, "allowed 1 for every row; use Cosine"),
        (lambda: vendi(weighted(Cosine(x), np.arange(1.0, 7))), InputError, "K_ii differs from 1 by 35 for row 5"),
        (lambda: vendi(x, 0), ConfigError, "q: got 0, allowed a number above 0"),
        (lambda: vendi(x, math.nan), ConfigError, "q: got nan"),
        (lambda: vendi(x, form="fast"), ConfigError, "form: got 'fast'"),
        (lambda: vendi(RBF(x), form="dual"), ConfigError, "got dual for the kernel rbf"),
        (lambda: vendi(x, form="truncated"), ConfigError, "t: got None with form truncated"),
        (lambda: vendi(x, t=3), ConfigError, "t: got 3 with form auto"),
        (lambda: VendiSummary.of(x).result(-1), ConfigError, "q: got -1"),
        (lambda: VendiSummary.of(x * math.nan), InputError, "rows 0, 1, 2, 3, 4, 5 hold NaN"),
    ):
        with pytest.raises(kind, match=message):
            call()
