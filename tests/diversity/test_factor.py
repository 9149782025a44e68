"""Gains against ratios of determinants and closed forms. Run: pytest tests/diversity/test_factor.py"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.diversity import AnchorFactor, CholeskyFactor, Cosine, Gram, Linear, logdet_gain
from penstock.errors import ConfigError, InputError


def constant(n, r):
    """Unit diagonal, r everywhere else."""
    return Gram(np.full((n, n), r) + (1 - r) * np.eye(n))


def test_a_gain_is_the_ratio_of_determinants(normal, library):
    x = normal(12, 6)
    matrix = np.asarray(Cosine(x).dense())
    anchors = [3, 7, 1]
    below = np.linalg.det(matrix[np.ix_(anchors, anchors)])
    wanted = [np.linalg.det(matrix[np.ix_([*anchors, w], [*anchors, w])]) / below for w in range(12)]
    factor = AnchorFactor(Cosine(library(x)), anchors)
    found = factor.gains(np.arange(12))
    assert type(found) is type(library(x))
    assert np.asarray(found) == pytest.approx(wanted, abs=1e-12)
    assert factor.log_determinant == pytest.approx(math.log(below))
    assert factor.fingerprint == Cosine(x).fingerprint
    rest = [w for w in range(12) if w not in anchors]
    assert np.asarray(logdet_gain(library(x[rest]), library(x[anchors]))) == pytest.approx(np.array(wanted)[rest])
    assert np.asarray(logdet_gain(rest, anchors, Cosine(x))) == pytest.approx(np.array(wanted)[rest])


@given(st.integers(0, 500), st.permutations(range(6)))
@settings(max_examples=50, deadline=None)
def test_gains_fall_as_anchors_are_added_and_their_logs_sum_to_the_determinant_in_any_order(seed, order):
    x = np.random.default_rng(seed).normal(size=(9, 8))
    kernel = Cosine(x)
    factor, total, before = AnchorFactor(kernel), 0.0, np.ones(9)
    assert factor.gains(range(9)) == pytest.approx(1)
    for row in order:
        total += math.log(factor.append(row))
        gains = factor.gains(np.arange(9))
        assert (gains >= 0).all()
        assert (gains <= before + 1e-12).all()
        before = gains
    wanted = np.linalg.slogdet(kernel.dense(kernel.index(range(6))))[1]
    assert total == pytest.approx(wanted, abs=1e-9)
    assert factor.log_determinant == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(("k", "gain"), [(1, 0.7648), (5, 0.6000), (10, 0.5616), (50, 0.5251)])
def test_gain_among_rows_of_equal_similarity(k, gain):
    kernel, r = constant(60, 0.485), 0.485
    (found,) = AnchorFactor(kernel, range(k)).gains([k])
    assert found == pytest.approx(1 - k * r * r / (1 + (k - 1) * r), abs=1e-12)
    assert found == pytest.approx(gain, abs=5e-5)
    whole = AnchorFactor(kernel, range(k)).log_determinant
    assert whole == pytest.approx((k - 1) * math.log(1 - r) + math.log(1 + (k - 1) * r), abs=1e-10)


def test_orthogonal_rows_gain_1_and_copies_gain_nothing():
    assert AnchorFactor(Gram(np.eye(5)), [0, 1]).gains([2, 3]).tolist() == [1, 1]
    assert AnchorFactor(Gram(np.ones((5, 5))), [0]).gains([1, 2]).tolist() == [0, 0]
    blocks = Gram(np.kron(np.eye(3), np.ones((2, 2))))
    assert AnchorFactor(blocks, [0, 2]).gains([1, 3, 4]).tolist() == [0, 0, 1]


def test_an_anchor_that_is_spanned_already_is_refused_and_leaves_the_factor_as_it_was(normal):
    x = normal(6, 3)
    factor = AnchorFactor(Linear(x), [0, 1, 2])
    lower = factor._factor.lower.copy()
    with pytest.raises(ConfigError, match=r"anchor 3: got a gain of .*the anchors span it already \(numerical rank\)"):
        factor.append(4)
    assert factor.anchors == [0, 1, 2]
    assert (factor._factor.lower == lower).all()
    assert factor.gains([3, 4, 5]) == pytest.approx(0, abs=1e-12)


def test_values_may_come_one_after_another_without_a_kernel(normal):
    matrix = np.asarray(Linear(normal(20, 25)).dense())
    factor = CholeskyFactor()
    for i in range(20):
        found = factor.gains(matrix[i:, :i], np.diagonal(matrix)[i:])
        assert found[0] == pytest.approx(factor.append(matrix[i, :i], matrix[i, i]))
    assert factor.lower == pytest.approx(np.linalg.cholesky(matrix))


def test_embeddings_that_do_not_fit_are_refused(normal):
    with pytest.raises(InputError, match=r"got candidates \(2, 3\) and anchors \(2, 4\)"):
        logdet_gain(normal(2, 3), normal(2, 4))
    assert logdet_gain(normal(2, 3), np.zeros((0, 3))) == pytest.approx(1)
    assert logdet_gain([1, 2], [], Cosine(normal(3, 3))) == pytest.approx(1)
