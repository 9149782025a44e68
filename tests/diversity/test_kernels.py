"""Kernels against their formulas, and what they refuse. Run: pytest tests/diversity/test_kernels.py"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from penstock.diversity import RBF, Cosine, Gram, Linear, Mixture, TokenJaccard, weighted
from penstock.diversity import kernels as module
from penstock.errors import ConfigError, InputError

SETS = [[], ["a"], ["a", "b"], ["b", "c", "c"], [], ["a", "b", "c", "d"]]


def test_each_kernel_is_its_formula(normal, library):
    x = normal(7, 3)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    at = library(x)
    for kernel, wanted in (
        (Linear(at), x @ x.T),
        (Cosine(at), unit @ unit.T),
        (RBF(at, 0.3), np.exp(-0.3 * cdist(x, x, "sqeuclidean"))),
        (Gram(library(x @ x.T)), x @ x.T),
    ):
        dense = kernel.dense()
        assert type(dense) is type(at)
        assert np.asarray(dense) == pytest.approx(wanted, abs=1e-12)
        assert np.asarray(kernel.row(2)) == pytest.approx(wanted[2], abs=1e-12)
        assert np.asarray(kernel.diagonal()) == pytest.approx(np.diagonal(wanted), abs=1e-12)
        some = np.asarray(kernel.block(kernel.index([5, 0]), kernel.index([1, 5, 6])))
        assert some == pytest.approx(wanted[np.ix_([5, 0], [1, 5, 6])], abs=1e-12)


def test_jaccard_of_token_sets_by_hand():
    wanted = [
        [1, 0, 0, 0, 1, 0],
        [0, 1, 1 / 2, 0, 0, 1 / 4],
        [0, 1 / 2, 1, 1 / 3, 0, 1 / 2],
        [0, 0, 1 / 3, 1, 0, 1 / 2],
        [1, 0, 0, 0, 1, 0],
        [0, 1 / 4, 1 / 2, 1 / 2, 0, 1],
    ]
    assert TokenJaccard(SETS).dense() == pytest.approx(np.array(wanted))


@given(st.lists(st.lists(st.integers(0, 6), max_size=5), min_size=1, max_size=12), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_kernels_are_symmetric_positive_semi_definite_and_of_unit_diagonal(sets, seed):
    x = np.random.default_rng(seed).normal(size=(len(sets), 4)) + 2
    parts = [Cosine(x), RBF(x, 0.7), TokenJaccard(sets)]
    for kernel in (*parts, Mixture(list(zip((0.2, 0.3, 0.5), parts, strict=True)))):
        matrix = kernel.dense()
        assert (matrix == matrix.T).all()
        assert np.diagonal(matrix) == pytest.approx(1, abs=1e-12)
        assert kernel.diagonal() == pytest.approx(1)
        assert np.linalg.eigvalsh(matrix).min() >= -1e-8


def test_a_mixture_of_tokens_and_torch_embeddings_is_the_weighted_sum(normal):
    x = torch.from_numpy(normal(6, 4))
    tokens = TokenJaccard(SETS, like=x)
    mixed = Mixture([(0.25, tokens), (0.75, Cosine(x))])
    assert isinstance(mixed.row(1), torch.Tensor)
    assert mixed.dense().numpy() == pytest.approx(0.25 * tokens.dense().numpy() + 0.75 * Cosine(x).dense().numpy())
    with pytest.raises(ConfigError, match=r"different libraries or devices; see TokenJaccard\(like"):
        Mixture([(0.5, TokenJaccard(SETS)), (0.5, Cosine(x))])


@pytest.mark.parametrize("make", [Cosine, Linear, lambda x: RBF(x, 0.5), lambda x: Mixture([(1.0, RBF(x, 0.5))])])
def test_quality_scales_rows_and_columns(normal, make):
    x, q = normal(5, 3), np.array([1.0, 2, 0.5, 3, 1])
    kernel = weighted(make(x), q)
    assert kernel.dense() == pytest.approx(q[:, None] * make(x).dense() * q)
    assert kernel.diagonal() == pytest.approx(np.diagonal(kernel.dense()))
    assert kernel.fingerprint != make(x).fingerprint


def test_the_median_heuristic_is_one_over_twice_the_median_and_is_recorded(normal):
    x = normal(50, 4)
    kernel = RBF(x)
    apart = cdist(x, x, "sqeuclidean")[np.triu_indices(50, 1)]
    assert kernel.gamma == pytest.approx(1 / (2 * np.median(apart)))
    facts = kernel.describe()
    assert (facts["gamma"], facts["gamma_by"], facts["median_rows"]) == (kernel.gamma, "median", 50)
    assert RBF(torch.from_numpy(x)).gamma == kernel.gamma
    # a thousand rows of more are drawn by the seed, and nearly agree
    large = normal(3000, 4)
    one, two = RBF(large, seed=1), RBF(large, seed=2)
    assert one.describe()["median_rows"] == 1000
    assert one.gamma != two.gamma
    assert one.gamma == pytest.approx(two.gamma, rel=0.1)
    assert RBF(large, seed=1).fingerprint == one.fingerprint


def test_blocks_cut_anywhere_give_one_matrix(normal, monkeypatch):
    x = normal(11, 3)
    whole = [kernel.dense() for kernel in (Cosine(x), RBF(x, 0.3))]
    monkeypatch.setattr(module, "BLOCK", 4)
    for kernel, wanted in zip((Cosine(x), RBF(x, 0.3)), whole, strict=True):
        assert kernel.dense() == pytest.approx(wanted, abs=1e-15)
        assert kernel.block(slice(3, 9), kernel.index([0])) == pytest.approx(wanted[3:9, :1], abs=1e-15)


def test_narrow_features_are_widened_not_rounded(normal):
    x = normal(6, 3).astype(np.float16)
    assert Cosine(x).dense() == pytest.approx(Cosine(x.astype(np.float64)).dense(), abs=1e-15)
    tensor = torch.from_numpy(x).to(torch.bfloat16)
    assert Cosine(tensor).dense().numpy() == pytest.approx(Cosine(tensor.double()).dense().numpy(), abs=1e-15)


def test_a_fingerprint_tells_kernels_apart_and_libraries_not(normal):
    x = normal(9, 3)
    other = x.copy()
    other[4, 1] += 1e-9
    kernels = [Cosine(x), Linear(x), RBF(x, 0.5), RBF(x, 0.25), Cosine(x[:8]), Cosine(other), TokenJaccard(SETS)]
    assert len({kernel.fingerprint for kernel in kernels}) == len(kernels)
    assert Cosine(torch.from_numpy(x)).fingerprint == Cosine(x).fingerprint
    assert TokenJaccard(SETS).fingerprint == TokenJaccard([list(reversed(s)) for s in SETS[:2]] + SETS[2:]).fingerprint


@pytest.mark.parametrize("make", [Cosine, Linear, RBF])
def test_rows_that_cannot_be_compared_are_named(normal, make, library):
    for value, message in ((math.nan, "rows 3, 12 hold NaN or infinity"), (0.0, "rows 3, 12 are zero vectors")):
        x = normal(20, 4)
        x[[3, 12]] = value
        with pytest.raises(InputError, match=message):
            make(library(x))
    x = normal(40, 4)
    x[10:30] = 0
    with pytest.raises(InputError, match=r"rows 10, 11, 12, 13, 14, 15, 16, 17 and 12 more are zero"):
        make(library(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Cosine(np.ones(3)), r"got shape \(3,\) of float64, allowed \(n, d\)"),
        (lambda: Cosine(np.ones((3, 2), int)), r"got shape \(3, 2\) of int64"),
        (lambda: RBF(np.ones((5, 2))), "median distance of 5 rows is 0"),
        (lambda: RBF(np.ones((5, 2)), -1), "gamma: got -1, allowed a positive number"),
        (lambda: Gram(np.ones((2, 3))), r"got shape \(2, 3\)"),
        (lambda: Gram([[1.0, 0.5], [0.2, 1.0]]), "not symmetric"),
        (lambda: Gram([[1.0, math.nan], [math.nan, 1.0]]), "rows 0, 1 not finite"),
        (lambda: Gram([[1.0, 0.0], [0.0, -1.0]]), "rows 1 have K_ii < 0"),
        (lambda: Mixture([]), "allowed positive numbers with sum 1"),
        (lambda: Mixture([(0.7, Gram(np.eye(2)))]), r"got weights \[0.7\]"),
        (lambda: Mixture([(0.5, Gram(np.eye(2))), (0.5, Gram(np.eye(3)))]), r"got kernels of \[2, 3\] rows"),
        (lambda: weighted(Gram(np.eye(3)), [1.0, 0.0, math.nan]), "quality: rows 1, 2 are not positive"),
        (lambda: weighted(Gram(np.eye(3)), [1.0, 1.0]), r"quality: got shape \(2,\), allowed \(3,\)"),
        (lambda: Gram(np.eye(3)).index([1, 3, -1]), "rows: got 3, -1, allowed 0 to 2"),
    ],
)
def test_what_is_no_kernel_is_refused_in_words(call, message):
    with pytest.raises((ConfigError, InputError), match=message):
        call()
