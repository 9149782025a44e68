"""pytest tests/training/group_rl/test_passk.py: the chance that k of n answers hold a right one."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.training.group_rl.passk import pass_at_k


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.data())
def test_it_is_one_less_the_share_of_choices_without_a_right_answer(n: int, data: Any) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
    assert pass_at_k(n, c, k) == pytest.approx(float(exact), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_it_is_the_share_of_all_choices_that_hold_a_right_answer(n: int) -> None:
    for c in range(n + 1):
        for k in range(1, n + 1):
            drawn = list(itertools.combinations([True] * c + [False] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, drawn)) / len(drawn), abs=1e-14)


def test_problems_and_ks_are_a_table_at_once() -> None:
    n, c, k = np.array([8, 32, 32]), np.array([3, 0, 32]), [1, 2, 8]
    table = pass_at_k(n[:, None], c[:, None], k)
    assert table.shape == (3, 3)
    assert table.tolist() == [[float(pass_at_k(i, j, m)) for m in k] for i, j in zip(n, c, strict=True)]
    assert table[1].tolist() == [0.0] * 3
    assert table[2].tolist() == [1.0] * 3


def test_of_all_answers_it_says_whether_any_is_right() -> None:
    assert pass_at_k([9] * 10, range(10), 9).tolist() == [0.0] + [1.0] * 9


def test_one_answer_is_right_as_often_as_answers_are() -> None:
    assert pass_at_k([16] * 17, range(17), 1) == pytest.approx(np.arange(17) / 16)


def test_it_rises_with_k_and_with_right_answers() -> None:
    table = pass_at_k(32, np.arange(33)[:, None], np.arange(1, 33))
    assert (np.diff(table[1:-1], axis=1) >= 0).all()
    assert (np.diff(table, axis=0) >= 0).all()
    # strictly, until it is certain
    assert (np.diff(table[1:8, :16], axis=1) > 0).all()
    assert (np.diff(table[:16, :16], axis=0) > 0).all()


@pytest.mark.parametrize(
    ("n", "c", "k", "says"),
    [
        (8, 2, 0, "got k = 0 with n = 8"),
        (8, 2, 9, "got k = 9 with n = 8"),
        (8, 9, 1, "got c = 9 with n = 8"),
        (8, -1, 1, "got c = -1"),
        (0, 0, 1, "got k = 1 with n = 0"),
        ([8, 8], [2, 9], 1, "got c = 9"),
        (8, 2.0, 1, "got c of float64"),
        (8, 2, True, "got k of bool"),
    ],
)
def test_what_cannot_be_drawn_is_refused(n: Any, c: Any, k: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        pass_at_k(n, c, k)


def test_no_problems_have_no_score() -> None:
    assert pass_at_k(np.zeros(0, int), np.zeros(0, int), 4).shape == (0,)
