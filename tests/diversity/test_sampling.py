"""The law of the k-DPP against enumeration. Run: pytest tests/diversity/test_sampling.py"""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from penstock.diversity import KDPP, RBF, Cosine, Gram, Linear, Mixture, TokenJaccard, kdpp
from penstock.diversity.sampling import log_elementary
from penstock.errors import ConfigError
from penstock.seeding import stream

DRAWS = 1500


def p_value(process, law, seed):
    """Of the frequencies of all sets in many draws, were they of this law."""
    source, found = stream(seed, "draws"), dict.fromkeys(law, 0)
    for _ in range(DRAWS):
        found[tuple(process.sample(source).rows.tolist())] += 1
    # sets that are expected fewer than five times are counted as one
    often = [s for s, p in law.items() if DRAWS * p >= 5]
    seen, wanted = [found[s] for s in often], [DRAWS * law[s] for s in often]
    if len(often) < len(law):
        seen, wanted = [*seen, DRAWS - sum(seen)], [*wanted, DRAWS - sum(wanted)]
    return chisquare(seen, wanted).pvalue


@given(st.lists(st.floats(0.01, 50), max_size=9), st.integers(0, 9))
@settings(max_examples=80, deadline=None)
def test_log_elementary_polynomials_are_the_sums_over_all_products(values, k):
    k = min(k, len(values))
    table = log_elementary(np.log(np.array(values, dtype=np.float64)), k)
    for j in range(k + 1):
        wanted = math.fsum(math.prod(some) for some in itertools.combinations(values, j))
        assert math.exp(table[j, -1]) == pytest.approx(wanted, rel=1e-10)
    assert (table[np.triu_indices(k + 1, 1)[::-1]] == -np.inf).all()  # e_j of fewer than j numbers is 0


def test_logarithms_do_not_overflow_where_numbers_would():
    table = log_elementary(np.full(3000, math.log(5)), 400)
    wanted = math.lgamma(3001) - math.lgamma(401) - math.lgamma(2601) + 400 * math.log(5)
    assert table[-1, -1] == pytest.approx(wanted, rel=1e-12)
    assert table[-1, -1] / math.log(10) == pytest.approx(789.5, abs=0.05)


@pytest.mark.parametrize("form", ["primal", "dual"])
def test_probabilities_are_determinants_over_their_sum(normal, law, form):
    x = normal(7, 5)
    process = KDPP(Linear(x), 3, form=form)
    assert process.rank == 5
    wanted = law(x @ x.T, 3)
    for rows, p in wanted.items():
        assert math.exp(process.log_probability(rows)) == pytest.approx(p, rel=1e-9)
    total = math.fsum(np.linalg.det((x @ x.T)[np.ix_(s, s)]) for s in wanted)
    assert process.log_normaliser == pytest.approx(math.log(total))


@pytest.mark.parametrize("form", ["primal", "dual"])
def test_draws_follow_the_law(normal, law, library, form):
    x = normal(7, 5, seed=2) * np.array([3, 2, 1, 1, 0.5])
    process = KDPP(Linear(library(x)), 3, form=form)
    assert p_value(process, law(x @ x.T, 3), seed=1) > 1e-3


@pytest.mark.parametrize("form", ["primal", "dual"])
def test_without_the_eigenvector_phase_draws_do_not_follow_it(normal, law, form, monkeypatch):
    # the mutant that takes the largest eigenvectors in place of drawing them
    x = normal(7, 5, seed=2) * np.array([3, 2, 1, 1, 0.5])
    monkeypatch.setattr(KDPP, "_eigenvectors", lambda self, source: list(range(self.rank - self.size, self.rank)))
    assert p_value(KDPP(Linear(x), 3, form=form), law(x @ x.T, 3), seed=1) < 1e-12


def test_draws_of_a_mixed_kernel_follow_its_law(law):
    x = stream(0, "mixed").normal(size=(6, 2))
    kernel = Mixture([(0.5, RBF(x)), (0.5, TokenJaccard([[0], [0], [0, 1], [1], [2], [1, 2]]))])
    process = KDPP(kernel, 2)
    assert (process.form, process.rank) == ("primal", 6)
    assert p_value(process, law(kernel.dense() + 1e-8 * np.eye(6), 2), seed=3) > 1e-3


def test_inclusions_sum_to_k_and_are_those_of_the_eigenvectors(normal):
    x = normal(9, 4)
    process = KDPP(Cosine(x), 3)
    source, count = stream(5, "inclusion"), np.zeros(9)
    for _ in range(DRAWS):
        rows = process.sample(source).rows
        assert len(set(rows.tolist())) == 3
        count[rows] += 1
    assert count.sum() == 3 * DRAWS
    # P(i) = sum over eigenvectors of P(eigenvector) v_in^2
    values, vectors = np.linalg.eigh(np.asarray(Cosine(x).dense()))
    values, vectors = values[-4:], vectors[:, -4:]
    sets = list(itertools.combinations(range(4), 3))
    weights = np.array([math.prod(values[list(s)]) for s in sets])
    chance = [weights[[n in s for s in sets]].sum() / weights.sum() for n in range(4)]
    wanted = (vectors**2) @ chance
    assert wanted.sum() == pytest.approx(3)
    assert count / DRAWS == pytest.approx(wanted, abs=5 * 0.5 / math.sqrt(DRAWS))


def test_equal_streams_give_equal_rows_in_both_libraries(normal, library):
    x = normal(200, 12)
    found = [kdpp(Cosine(library(x)), 6, stream(1, "anchors", i)) for i in range(5)]
    again = [kdpp(x, 6, stream(1, "anchors", i)) for i in range(5)]
    assert [s.rows.tolist() for s in found] == [s.rows.tolist() for s in again]
    assert len({tuple(s.rows.tolist()) for s in found}) > 1
    assert found[0].fingerprint == Cosine(x).fingerprint
    assert found[0].log_probability == pytest.approx(KDPP(x, 6).log_probability(found[0].rows))


def test_at_the_rank_a_maximal_set_is_drawn_and_said_and_beyond_n_all(normal):
    x = normal(20, 4)
    found = kdpp(x, 7, stream(0, "s"))
    assert (len(found.rows), found.stop) == (4, "rank")
    assert np.linalg.matrix_rank(x[found.rows]) == 4
    assert kdpp(x, 4, stream(0, "s")).stop == "count"
    for k in (20, 30):
        found = kdpp(x, k, stream(0, "s"))
        assert (found.rows.tolist(), found.stop, found.log_probability) == (list(range(20)), "all", 0)
    copies = kdpp(Gram(np.ones((5, 5))), 2, stream(0, "s"))
    assert (len(copies.rows), copies.stop) == (1, "rank")


def test_edges(normal):
    assert kdpp(np.zeros((0, 3)), 2, stream(0, "s")).rows.tolist() == []
    found = kdpp(normal(4, 3), 0, stream(0, "s"))
    assert (found.rows.tolist(), found.log_probability, found.stop) == ([], 0, "count")
    assert kdpp(normal(1, 3), 1, stream(0, "s")).rows.tolist() == [0]
    assert kdpp(Gram(np.diag([1.0, 0, 0])), 1, stream(0, "s")).rows.tolist() == [0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: KDPP(x, -1), "k: got -1"),
        (lambda x: KDPP(x, 2, form="both"), "form: got 'both', allowed auto, primal, dual"),
        (lambda x: KDPP(RBF(x), 2, form="dual"), "got dual for the kernel rbf"),
        (lambda x: KDPP(x, 2).log_probability([1, 1]), r"got \[1, 1\], allowed 2 different rows"),
        (lambda x: KDPP(x, 2).log_probability([1]), "allowed 2 different rows"),
        (lambda x: KDPP(x, 2).log_probability([1, 9]), "rows: got 9, allowed 0 to 5"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_words(normal, call, message):
    with pytest.raises(ConfigError, match=message):
        call(normal(6, 3))


@pytest.mark.parametrize("form", ["primal", "dual"])
def test_a_hundred_of_a_thousand_rows_are_drawn_without_overflow(form):
    x = 50 * stream(0, "large").normal(size=(1000, 150))
    found = kdpp(Linear(x), 120, stream(0, "s"), form=form)
    assert len(found.rows) == 120
    assert math.isfinite(found.log_probability)
    assert found.log_probability < 0
