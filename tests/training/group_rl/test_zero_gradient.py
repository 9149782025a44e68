"""pytest tests/training/group_rl/test_zero_gradient.py: what pooling does to groups without gradient, and does not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.seeding import stream
from penstock.training.group_rl.advantages import group_advantages
from penstock.training.group_rl.zero_gradient import z_pool, z_single

# a question in one to eight phrasings, answered one to eight times each
chances = st.lists(st.floats(0, 1), min_size=2, max_size=8).map(np.array)
counts = st.integers(1, 8)
ROUNDING = 1 + 1e-12


@settings(max_examples=200, deadline=None)
@given(chances, counts)
def test_a_pool_has_no_gradient_less_often_than_the_answers_to_the_original_in_it(p: Any, g: int) -> None:
    assert z_pool(p, g) <= z_single(p[0], g) * ROUNDING


@settings(max_examples=200, deadline=None)
@given(chances, counts)
def test_at_equal_budget_it_beats_the_average_phrasing_strictly_where_phrasings_differ(p: Any, g: int) -> None:
    repeated = z_single(p.mean(), len(p) * g)
    assert z_pool(p, g) <= repeated * ROUNDING
    if np.ptp(p) > 0.05:
        # two that differ by d have a product at least d^2 / 4 below the square of their mean
        assert z_pool(p, g) < repeated * (1 - 1e-4)


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 1), st.integers(1, 8), counts)
def test_equal_phrasings_are_one_phrasing(p: float, phrasings: int, g: int) -> None:
    assert z_pool([p] * phrasings, g) == pytest.approx(float(z_single(p, phrasings * g)), rel=1e-9, abs=1e-300)


@settings(max_examples=200, deadline=None)
@given(chances, counts)
def test_at_equal_budget_it_beats_the_phrasings_each_for_itself(p: Any, g: int) -> None:
    assert z_pool(p, g) <= z_single(p, len(p) * g).mean() * ROUNDING


def test_at_equal_budget_it_does_not_always_beat_the_original() -> None:
    assert z_pool([0.5, 1.0], 2) == 0.25
    assert z_single(0.5, 4) == 0.125


def test_it_does_worse_than_the_original_for_a_ninth_of_questions() -> None:
    draw = stream(0, "zero gradient")
    worse = []
    for variants in range(1, 8):
        p = draw.beta(0.5, 0.5, size=(20_000, variants + 1))
        worse.append(z_pool(p, 2) > z_single(p[:, 0], 2 * (variants + 1)) * ROUNDING)
    assert np.mean(worse) == pytest.approx(0.11, abs=0.01)


@pytest.mark.parametrize("p", [[0.5, 1.0], [0.1, 0.2, 0.05], [0.9, 0.97], [0.5, 0.5, 0.5], [0.02, 0.98]])
@pytest.mark.parametrize("g", [1, 2, 4])
def test_groups_of_drawn_answers_are_flat_as_often_as_the_formulas_say(p: list[float], g: int) -> None:
    questions, phrasings = 4000, len(p)
    draw = stream(1, "answers", g, *(str(chance) for chance in p))
    right = draw.random((questions, phrasings, g)) < np.array(p)[None, :, None]
    question = np.broadcast_to(np.arange(questions)[:, None, None], right.shape)

    def measured(rewards: Any, ids: Any) -> tuple[float, float]:
        facts = group_advantages(rewards.ravel().astype(float), ids.ravel()).facts
        return facts.of_groups.zero_gradient, facts.of_groups.all_one

    flat, all_right = measured(right, question)
    for share, exact in ((flat, z_pool(p, g)), (all_right, np.prod(p) ** g)):
        assert abs(share - exact) <= 5 * math.sqrt(exact * (1 - exact) / questions)
    if g > 1:
        # the same answers, each phrasing for itself
        problem = question * phrasings + np.arange(phrasings)[None, :, None]
        exact = z_single(p, g)
        spread = math.sqrt((exact * (1 - exact)).sum() / questions) / phrasings
        assert abs(measured(right, problem)[0] - exact.mean()) <= 5 * spread


def test_formulas_take_many_questions_at_once() -> None:
    p = np.array([[0.2, 0.4], [0.5, 1.0], [0.0, 0.0]])
    assert z_pool(p, 2).tolist() == pytest.approx([0.08**2 + 0.48**2, 0.25, 1.0])
    assert z_single(p, 2).tolist() == [pytest.approx([x * x + (1 - x) ** 2 for x in row]) for row in p.tolist()]
    assert z_single(0.5, [1, 2, 3]).tolist() == [1.0, 0.5, 0.25]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: z_single(1.1, 2), "p: got 1.1"),
        (lambda: z_single(math.nan, 2), "p: got nan"),
        (lambda: z_pool([0.5, -0.1], 2), "p: got"),
        (lambda: z_pool(0.5, 2), "one probability a phrasing"),
        (lambda: z_pool([0.5], 0), "answers: got 0"),
    ],
)
def test_what_is_no_probability_is_refused(call: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        call()
