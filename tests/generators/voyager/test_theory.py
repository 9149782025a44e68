"""What may and may not be said of a set's Vendi score by its determinant (the paper's Lemma 1)."""

import numpy as np
import pytest

from penstock.diversity import Gram, vendi


def equal(n, r):
    return np.full((n, n), r) + (1 - r) * np.eye(n)


def by_determinant(matrix):
    return len(matrix) * np.linalg.det(matrix) ** (1 / len(matrix))


def test_n_times_the_root_of_the_determinant_is_no_floor_of_the_score():
    matrix = equal(10, 1 / 3)  # spectrum of K / n: 0.4, and nine times 1/15
    assert vendi(Gram(matrix)).value == pytest.approx(7.33, abs=5e-3)
    assert by_determinant(matrix) == pytest.approx(7.97, abs=5e-3)


def test_both_are_equal_for_a_flat_spectrum_but_not_only_there():
    assert vendi(Gram(np.eye(6))).value == pytest.approx(6.0)
    assert by_determinant(np.eye(6)) == pytest.approx(6.0)
    matrix = equal(3, 1 / 2)  # spectrum 2/3, 1/6, 1/6
    assert vendi(Gram(matrix)).value == pytest.approx(13.5 ** (1 / 3))
    assert by_determinant(matrix) == pytest.approx(13.5 ** (1 / 3))
