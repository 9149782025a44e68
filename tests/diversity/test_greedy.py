"""Greedy MAP against brute force. Run: pytest tests/diversity/test_greedy.py"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.diversity import RBF, Cosine, Gram, Linear, Mixture, TokenJaccard, greedy_map, sweeps
from penstock.diversity import greedy as module
from penstock.diversity.sweeps import Sweeper
from penstock.errors import ConfigError, InputError
from penstock.seeding import stream

WAYS = [(form, lazy) for form in ("features", "rows") for lazy in (True, False, "auto")]


def clustered(n, d, kinds, seed=0, spread=0.05):
    """float32 unit rows near a few directions, so that most gains fall at once."""
    rng = stream(seed, "clusters")
    x = rng.normal(size=(kinds, d))[rng.integers(0, kinds, n)] + spread * rng.normal(size=(n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def normal_rows(n, d):
    return stream(9, "rows").normal(size=(n, d)).astype(np.float32)


@pytest.mark.parametrize(("form", "lazy"), WAYS)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_picks_are_those_of_brute_force_and_stop_at_the_rank(normal, brute, library, form, lazy, kind):
    x = normal(120, 10).astype(kind)
    wanted = brute(x.astype(np.float64) @ x.T.astype(np.float64), 10)
    assert wanted[0] == np.linalg.norm(x, axis=1).argmax()
    found = greedy_map(Linear(library(x)), 50, form=form, lazy=lazy)
    assert found.picks.tolist() == wanted
    assert found.stop == "rank"
    assert found.log_determinant == pytest.approx(
        np.linalg.slogdet(np.asarray(Linear(x).dense())[np.ix_(wanted, wanted)])[1]
    )
    assert found.fingerprint == Linear(x).fingerprint
    assert greedy_map(Linear(library(x)), 4, form=form, lazy=lazy).picks.tolist() == wanted[:4]


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 12), st.integers(0, 45))
@settings(max_examples=60, deadline=None)
def test_all_ways_agree_on_random_sets_with_copies(seed, n, d, k):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    x[rng.integers(0, n, n // 3)] = x[rng.integers(0, n, n // 3)]
    found = [greedy_map(x, k, form=form, lazy=lazy) for form, lazy in WAYS]
    found.append(greedy_map(torch.from_numpy(x), k))
    found.append(greedy_map(Gram(Cosine(x).dense()), k))
    for other in found:
        assert other.picks.tolist() == found[0].picks.tolist()
        assert other.gains == pytest.approx(found[0].gains, rel=1e-5, abs=1e-9)
        assert other.stop == found[0].stop
    assert len(set(found[0].picks.tolist())) == len(found[0].picks) <= min(k, n, d)


def crowded():
    """64 kinds in 32 dimensions, 40 near copies of each: float32 alone puts some gains in another order."""
    x = np.repeat(clustered(64, 32, 64), 40, axis=0)
    return x + 2e-7 * stream(1, "noise").normal(size=x.shape).astype(np.float32)


@pytest.fixture
def product(monkeypatch):
    """Sweeps as they are on CUDA: a product in the features' type."""
    monkeypatch.setattr(Sweeper, "of", classmethod(lambda cls, features: None))


@pytest.mark.parametrize("lazy", [True, False])
def test_float32_features_are_chosen_from_as_in_float64(library, lazy):
    x = crowded()
    wide, narrow = greedy_map(x.astype(np.float64), 32), greedy_map(library(x), 32, lazy=lazy)
    assert narrow.picks.tolist() == wide.picks.tolist()
    assert narrow.gains == pytest.approx(wide.gains, rel=1e-6)


def test_a_product_in_float32_narrows_the_choice_and_float64_makes_it(product, normal):
    x = crowded()
    found = greedy_map(torch.from_numpy(x), 32)
    assert found.picks.tolist() == greedy_map(torch.from_numpy(x).double(), 32).picks.tolist()
    assert 0 < found.products < 1
    rows = torch.from_numpy(normal(300, 40).astype(np.float32))
    quality = np.exp(8 * stream(2, "q").normal(size=300))
    for objective in ("logdet", "logdet_plus_identity"):
        one = greedy_map(Linear(rows), 60, quality=quality, objective=objective)
        two = greedy_map(Linear(rows.double()), 60, quality=quality, objective=objective)
        assert one.picks.tolist() == two.picks.tolist()
        assert one.stop == two.stop


def test_without_float64_the_product_would_choose_otherwise(product, monkeypatch):
    # the mutant of the test above: products taken at their word
    def believe(self, rows):
        self.exact[rows], self.stamp[rows] = self.gains[rows], len(self.picks)

    tensor = torch.from_numpy(crowded())
    wanted = greedy_map(tensor.double(), 32).picks.tolist()
    monkeypatch.setattr(module._Search, "doubt", property(lambda self: 0.0))
    monkeypatch.setattr(module._Search, "_refresh", believe)
    assert greedy_map(tensor, 32).picks.tolist() != wanted


def test_sweeps_by_many_threads_are_those_by_one(monkeypatch, normal):
    x = normal(5000, 7).astype(np.float32)
    vector, scale = np.arange(7.0), np.linspace(1, 2, 5000)
    one, many = np.ones(5000), np.ones(5000)
    Sweeper.of(x).lower_gains(vector, scale, one)
    monkeypatch.setattr(sweeps, "_WORTH", 100)
    monkeypatch.setattr(sweeps, "threads", lambda: 7)
    Sweeper.of(x).lower_gains(vector, scale, many)
    assert (one == many).all()
    assert one == pytest.approx(1 - (scale * (x.astype(np.float64) @ vector)) ** 2)
    assert Sweeper.of(x).products(vector) == pytest.approx(x.astype(np.float64) @ vector)
    # features in another order are swept as well
    assert Sweeper.of(np.asfortranarray(x)).products(vector) == pytest.approx(x.astype(np.float64) @ vector)
    for asked, wanted in (("1", 1), ("none", None), ("0", 1)):
        monkeypatch.undo()
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert wanted is None or sweeps.threads() == wanted
        assert sweeps.threads() >= 1


def test_equal_gains_are_a_tie_that_the_lowest_row_wins():
    assert greedy_map(Gram(np.eye(6)), 6).picks.tolist() == [0, 1, 2, 3, 4, 5]
    blocks = np.kron(np.eye(3), np.ones((2, 2)))
    found = greedy_map(Gram(blocks), 6)
    assert (found.picks.tolist(), found.stop) == ([0, 2, 4], "rank")
    # rounding of 1e-13 does not decide, a difference of 1e-11 does
    assert greedy_map(Gram(np.diag([1, 1 + 1e-13, 1])), 1).picks.tolist() == [0]
    assert greedy_map(Gram(np.diag([1, 1 + 1e-11, 1])), 1).picks.tolist() == [1]


def test_lazy_computes_little_on_redundant_data_and_is_gone_over_to_by_itself():
    # three kinds of long rows, chosen first, after which 3,900 rows have nothing to say
    x = 20 * clustered(4000, 64, 3, spread=1e-3)
    x[stream(5, "few").choice(4000, 100, replace=False)] = normal_rows(100, 64)
    sweep, lazy, auto = (greedy_map(Linear(x), 60, lazy=way) for way in (False, True, "auto"))
    assert sweep.picks.tolist() == lazy.picks.tolist() == auto.picks.tolist()
    assert (sweep.lazy, lazy.lazy) == (0, 59)
    assert lazy.products < 0.2
    assert 20 < auto.lazy < 40
    # random directions: every row has to be looked at again and again
    random = normal_rows(2000, 64)
    assert greedy_map(random, 60, lazy=True).products > 0.7
    assert greedy_map(random, 60).lazy == 0


@pytest.mark.parametrize("swept", [True, False])
def test_going_over_to_lazy_and_back_changes_no_pick(monkeypatch, normal, swept):
    x = normal(500, 60).astype(np.float32)
    wanted = greedy_map(x, 60, lazy=False).picks.tolist()
    for kind in (np.float32, np.float64):
        for form in ("features", "rows"):
            monkeypatch.setattr(module, "_LOOK", 4)
            monkeypatch.setattr(module, "_LAZY_BELOW", 2.0)  # always goes over
            monkeypatch.setattr(module, "_SWEEP_ABOVE", 1e-9)  # and always back
            if not swept:  # as on CUDA
                monkeypatch.setattr(Sweeper, "of", classmethod(lambda cls, features: None))
            found = greedy_map(torch.from_numpy(x.astype(kind)), 60, form=form)
            assert found.picks.tolist() == wanted
            assert 0 < found.lazy < 59


@pytest.mark.parametrize("factor", [1e-6, 0.3, 1e6])
def test_scaling_the_kernel_changes_no_pick_of_logdet(normal, factor):
    matrix = np.asarray(RBF(normal(60, 5)).dense())
    one, two = greedy_map(Gram(matrix), 30), greedy_map(Gram(factor * matrix), 30)
    assert one.picks.tolist() == two.picks.tolist()
    assert two.gains == pytest.approx(factor * one.gains, rel=1e-9)


def test_permuting_rows_permutes_picks(normal):
    x = normal(80, 12)
    order = stream(0, "order").permutation(80)
    assert order[greedy_map(Linear(x[order]), 12).picks].tolist() == greedy_map(Linear(x), 12).picks.tolist()


@pytest.mark.parametrize(("form", "lazy"), WAYS)
def test_with_the_identity_it_goes_on_beyond_the_rank_and_gains_are_its_determinants(normal, brute, form, lazy):
    x = normal(40, 6).astype(np.float32)
    matrix = np.asarray(Linear(x).dense())
    found = greedy_map(Linear(x), 15, objective="logdet_plus_identity", form=form, lazy=lazy)
    assert found.picks.tolist() == brute(matrix + np.eye(40), 15)
    assert (found.gains >= 1).all()
    own = matrix[np.ix_(found.picks, found.picks)] + np.eye(15)
    assert found.log_determinant == pytest.approx(np.linalg.slogdet(own)[1])
    assert found.objective == "logdet_plus_identity"


def test_log_gains_of_the_monotone_objective_reach_the_greedy_bound(normal):
    from itertools import combinations

    x = normal(10, 5)
    matrix = np.asarray(Cosine(x).dense()) + np.eye(10)
    best = max(np.linalg.slogdet(matrix[np.ix_(s, s)])[1] for s in combinations(range(10), 4))
    found = greedy_map(x, 4, objective="logdet_plus_identity").log_determinant
    assert (1 - 1 / math.e) * best <= found <= best + 1e-12


def test_quality_of_no_weight_is_ignored_and_of_much_weight_decides(normal):
    x, score = normal(50, 20), stream(3, "score").normal(size=50)
    plain = greedy_map(x, 8).picks.tolist()
    assert greedy_map(x, 8, quality=np.exp(0 * score)).picks.tolist() == plain
    assert greedy_map(x, 8, quality=np.full(50, 7.0)).picks.tolist() == plain
    top = np.argsort(-score)[:8].tolist()
    assert greedy_map(x, 8, quality=np.exp(20 * score)).picks.tolist() == top
    # a copy of a chosen row is not chosen, whatever its quality
    x[1] = x[0]
    quality = np.ones(50)
    quality[:2] = 1e3
    found = greedy_map(x, 20, quality=quality).picks.tolist()
    assert found[0] == 0
    assert 1 not in found


@pytest.mark.parametrize("objective", ["logdet", "logdet_plus_identity"])
def test_quality_gives_the_same_by_features_and_by_rows(normal, brute, objective):
    x, q = normal(30, 12).astype(np.float32), np.exp(stream(4, "q").normal(size=30))
    matrix = q[:, None] * np.asarray(Cosine(x).dense()) * q + (objective != "logdet") * np.eye(30)
    for kernel in (Cosine(x), Gram(Cosine(x).dense()), Mixture([(1.0, Cosine(x))])):
        for lazy in (True, False):
            found = greedy_map(kernel, 9, quality=q, objective=objective, lazy=lazy)
            assert found.picks.tolist() == brute(matrix, 9)


def test_any_kernel_is_chosen_from(normal, brute):
    x = normal(25, 3)
    sets = [[int(v > 0) + 2 * i for i, v in enumerate(row)] + [int(row[0] * 3)] for row in x]
    mixed = Mixture([(0.6, RBF(x)), (0.4, TokenJaccard(sets))])
    found = greedy_map(mixed, 12)
    assert found.picks.tolist() == brute(mixed.dense(), 12)
    assert found.fingerprint == mixed.fingerprint


def test_edges(normal):
    x = normal(3, 5)
    assert greedy_map(x, 0).picks.tolist() == []
    assert greedy_map(x, 0).log_determinant == 0
    assert greedy_map(np.zeros((0, 4)), 3).stop == "all"
    assert greedy_map(Gram(np.zeros((0, 0))), 3).picks.tolist() == []
    assert greedy_map(x[:1], 1).gains.tolist() == pytest.approx([1])
    found = greedy_map(x, 9)
    assert (sorted(found.picks.tolist()), found.stop) == ([0, 1, 2], "all")
    assert greedy_map(x, 3).stop == "count"
    assert greedy_map(Gram(np.zeros((3, 3))), 2).picks.tolist() == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: greedy_map(x, -1), "k: got -1, allowed a whole number >= 0"),
        (lambda x: greedy_map(x, 2.5), "k: got 2.5"),
        (
            lambda x: greedy_map(x, 2, objective="volume"),
            "objective: got 'volume', allowed logdet, logdet_plus_identity",
        ),
        (lambda x: greedy_map(x, 2, lazy="yes"), "lazy: got 'yes', allowed True, False, auto"),
        (lambda x: greedy_map(RBF(x), 2, form="features"), "got features for the kernel rbf, allowed rows"),
        (lambda x: greedy_map(x, 2, tolerance=0), "tolerance: got 0"),
        (lambda x: greedy_map(x, 2, quality=-np.ones(5)), "quality: rows 0, 1, 2, 3, 4 are not positive"),
        (lambda x: greedy_map(x * [[1], [0], [1], [math.nan], [1]], 2), "rows 3 hold NaN"),
        (lambda x: greedy_map(x * [[1], [0], [1], [1], [1]], 2), "rows 1 are zero vectors"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused_in_words(normal, call, message):
    with pytest.raises((ConfigError, InputError), match=message):
        call(normal(5, 3))
