"""pytest tests/training/test_blocks.py"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.training.blocks import block_order, quotas, tie_ranks


def test_quotas_are_the_largest_remainders() -> None:
    # exact shares 4.7, 3.2, 2.1: one is left after flooring and goes to .7
    assert quotas([0.47, 0.32, 0.21], 10) == (5, 3, 2)
    assert quotas([3, 1], 8) == (6, 2)
    assert quotas([1], 7) == (7,)


def test_a_small_weight_still_gets_one_sequence_a_block_and_zero_gets_none() -> None:
    assert quotas([0.999, 0.0005, 0.0005, 0.0], 1000) == (998, 1, 1, 0)
    assert quotas([0.999, 0.0005, 0.0005], 1000, min_quota=0) == (999, 1, 0)


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=8).filter(lambda w: sum(w) > 1e-3),
    st.integers(8, 400),
)
def test_quotas_sum_to_the_block_and_are_within_one_of_their_share(weights: list[float], block: int) -> None:
    found = quotas(weights, block, min_quota=0)
    exact = np.array(weights) / sum(weights) * block
    assert sum(found) == block
    assert np.all(np.abs(np.array(found) - exact) < 1 + 1e-9)
    assert all(q > 0 for q, w in zip(quotas(weights, block), weights, strict=True) if w > 0)


@pytest.mark.parametrize(
    ("weights", "block", "text"),
    [
        ([0.0, 0.0], 10, "at least one above 0"),
        ([1.0, -1.0], 10, "got [1.0, -1.0]"),
        ([1.0, float("nan")], 10, "finite"),
        ([1.0, 1.0, 1.0], 2, "block: got 2, allowed 3 to"),
    ],
)
def test_impossible_quotas_are_refused(weights: list[float], block: int, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        quotas(weights, block)
    assert text in str(error.value)


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(lambda q: sum(q) > 0), st.integers(0, 5))
def test_a_block_is_sorted_by_exact_rationals_with_seeded_ties(q: list[int], seed: int) -> None:
    names = tuple(f"d{k}" for k in range(len(q)))
    ties = tie_ranks(names, seed)
    domain, item = block_order(tuple(q), ties)
    wanted = sorted(
        ((k, j) for k in range(len(q)) for j in range(q[k])),
        key=lambda x: (Fraction(2 * x[1] + 1, 2 * q[x[0]]), ties[x[0]]),
    )
    assert list(zip(domain.tolist(), item.tolist(), strict=True)) == wanted


def test_the_tie_order_follows_the_seed_and_the_names_not_the_list() -> None:
    orders = {tie_ranks(("a", "b", "c"), seed) for seed in range(40)}
    assert len(orders) == 6
    assert tie_ranks(("a", "b", "c"), 3) == tie_ranks(("c", "b", "a"), 3)[::-1]


@pytest.mark.parametrize("q", [(7, 2, 1), (512, 256, 128, 64, 32, 16, 8, 8), (1000, 17, 5, 2)])
def test_every_prefix_of_a_block_is_near_its_exact_share(q: tuple[int, ...]) -> None:
    domain, _ = block_order(q, tuple(range(len(q))))
    for k, share in enumerate(q):
        taken = np.cumsum(domain == k)
        exact = np.arange(1, sum(q) + 1) * share / sum(q)
        assert np.abs(taken - exact).max() <= 0.5 + len(q) * share / (2 * sum(q)) + 1e-9
