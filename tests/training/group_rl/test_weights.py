"""pytest tests/training/group_rl/test_weights.py: hard questions weigh more, and the most varied answers are kept."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from penstock.errors import ConfigError, InputError
from penstock.training.group_rl.weights import largest_variance, question_weights

questions = st.lists(st.tuples(st.floats(-5, 5), st.booleans()), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(questions, st.floats(0.01, 10))
def test_weights_average_to_one_over_the_valid_questions(rows: list[tuple[float, bool]], temperature: float) -> None:
    means, valid = (np.array(part) for part in zip(*rows, strict=True))
    means[~valid] = math.nan
    weights = question_weights(means, valid, temperature=temperature)
    assert (weights[~valid] == 0.0).all()
    if valid.any():
        assert weights[valid].mean() == pytest.approx(1.0, rel=1e-12)
        assert weights[valid] == pytest.approx(valid.sum() * softmax(-means[valid] / temperature), rel=1e-9)


def test_a_harder_question_weighs_more_and_less_so_at_a_higher_temperature() -> None:
    means, valid = [0.25, 0.75, 1.0], [True, True, False]
    hard, easy, flat = question_weights(means, valid)
    assert hard / easy == pytest.approx(math.exp(0.5 / 2.0))
    assert flat == 0.0
    cold = question_weights(means, valid, temperature=0.1)
    assert cold[0] > hard > 1.0 > easy > cold[1]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from([0.0, 1.0]), st.floats(-10, 10)), min_size=1, max_size=8),
    st.sampled_from([0.0, 1e6]),
    st.data(),
)
def test_no_choice_of_answers_varies_more(rewards: list[float], far: float, data: Any) -> None:
    count = data.draw(st.integers(1, len(rewards)))
    values = np.array(rewards) + far
    kept = largest_variance(values, count)
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert len(kept) == count
    best = max(values[list(rows)].var() for rows in itertools.combinations(range(len(values)), count))
    assert values[kept].var() == pytest.approx(best, rel=1e-6, abs=1e-9)


def test_half_right_and_half_wrong_answers_are_kept_where_there_are_both() -> None:
    rewards = [1, 1, 0, 1, 1, 1, 0, 1]
    assert [rewards[i] for i in largest_variance(rewards, 4)].count(1) == 2
    assert largest_variance(rewards, 2).tolist() == [2, 7]


def test_of_choices_that_vary_alike_that_with_fewer_of_the_lowest_is_kept() -> None:
    assert largest_variance([0.3] * 5, 2).tolist() == [3, 4]
    # one 0 and two 1, or two 0 and one 1
    assert largest_variance([1, 1, 0, 1, 1, 1, 0, 1], 3).tolist() == [2, 5, 7]


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: largest_variance([0, 1], 3), ConfigError, "count: got 3"),
        (lambda: largest_variance([0, 1], 0), ConfigError, "count: got 0"),
        (lambda: largest_variance([0, math.nan], 1), InputError, "without a reward"),
        (lambda: largest_variance([[0, 1]], 1), InputError, r"shape \(1, 2\)"),
        (lambda: question_weights([0.5], [True], temperature=0.0), ConfigError, "temperature: got 0.0"),
        (lambda: question_weights([0.5, math.nan], [True, True]), InputError, "finite where valid"),
        (lambda: question_weights([0.5, 0.5], [True]), InputError, r"valid \(1,\)"),
        (lambda: question_weights([0.5], [1]), InputError, "of int64"),
    ],
)
def test_what_is_no_question_or_answer_is_refused(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()
