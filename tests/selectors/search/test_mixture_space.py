"""Shares of domains as a space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.seeding import stream
from penstock.selectors.search.mixture_space import MixtureSpace
from penstock.selectors.search.pool import Pool

Make = Callable[..., Any]
SPACE = MixtureSpace(domains=("a", "b", "c"), tokens=(9000, 900, 100))


def test_draws_are_different_mixtures_within_fifteen_token_shares() -> None:
    points = SPACE.draw(500, seed=1, name="x")
    assert points.shape == (500, 3)
    assert points.sum(axis=1) == pytest.approx(np.ones(500))
    assert (points <= np.array([1.0, 1.0, 0.15]) + 1e-12).all()
    assert points[points > 0].min() >= 2e-4
    assert len(np.unique(points, axis=0)) == 500
    assert SPACE.draw(5, seed=1, name="x").tolist() != SPACE.draw(5, seed=1, name="y").tolist()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 10_000), min_size=2, max_size=6).flatmap(
        lambda tokens: st.tuples(st.just(tokens), st.lists(st.floats(0, 1), min_size=len(tokens), max_size=len(tokens)))
    )
)
def test_repair_gives_a_mixture_within_its_bounds(given: tuple[list[int], list[float]]) -> None:
    tokens, shares = given
    space = MixtureSpace(domains=tuple(f"d{i}" for i in range(len(tokens))), tokens=tuple(tokens))
    out = space.repair(np.array([shares]))[0]
    bound = np.minimum(15 * np.array(tokens) / sum(tokens), 1.0)
    assert out.sum() == pytest.approx(1.0)
    assert out.min() >= 0.0
    assert (out <= bound + 1e-9).all()


def test_repair_leaves_draws_alone_and_gives_what_is_too_much_to_the_others() -> None:
    points = SPACE.draw(200, seed=2, name="x")
    assert SPACE.repair(points) == pytest.approx(points)
    # c may have 0.15: the other 0.35 goes to a and b as 3 : 2
    assert SPACE.repair(np.array([[0.3, 0.2, 0.5]]))[0] == pytest.approx([0.51, 0.34, 0.15])
    assert SPACE.repair(np.zeros((1, 3)))[0] == pytest.approx([0.9, 0.09, 0.01])


def test_children_come_from_both_parents_and_mutants_from_fresh_draws() -> None:
    a, b = np.zeros((300, 3)), np.ones((300, 3))
    child = SPACE.cross(a, b, stream(1))
    assert set(child.ravel().tolist()) == {0.0, 1.0}
    points = SPACE.draw(300, seed=3, name="x")
    assert (SPACE.mutate(points, 0.2, stream(4)) != points).mean() == pytest.approx(0.2, abs=0.05)


def test_every_row_of_a_domain_has_the_same_value_and_shares_come_out(make_space: Make, make_table: Make) -> None:
    theta = make_space(3)
    pool = Pool.of(make_table(theta, 600), theta.parameters(theta.draw(1, seed=0, name="x")[0]))
    space = MixtureSpace.of(pool)
    assert space.domains == pool.domains
    assert space.tokens == tuple(pool.domain_tokens().astype(int))
    unit = np.array([0.6, 0.4, 0.0])
    value = space.expected(pool, unit, target_tokens=10_000, copy_cap=None)
    assert pool.domain_tokens(value).tolist() == pytest.approx([6000, 4000, 0])
    assert all(np.ptp(value[pool.domain == d]) == 0.0 for d in range(3))
    natural = space.expected(pool, space.baselines(pool)["natural"], target_tokens=None, copy_cap=None)
    assert natural == pytest.approx(np.ones(len(pool)))
    uniform = space.expected(pool, space.baselines(pool)["uniform"], target_tokens=9_000, copy_cap=None)
    assert pool.domain_tokens(uniform) == pytest.approx(np.full(3, 3000.0))
    # a full domain hands on to the other one
    held = pool.domain_tokens()
    target = int(held[0] + held[1]) - 100
    capped = space.expected(pool, np.array([0.99, 0.01, 0.0]), target_tokens=target, copy_cap=1.0)
    assert pool.domain_tokens(capped) == pytest.approx([held[0], held[1] - 100, 0.0])
    assert space.describe(unit) == {"kind": "mixture", "shares": {"d00": 0.6, "d01": 0.4, "d02": 0.0}}


def test_mixtures_that_are_none_are_refused(make_space: Make, make_table: Make) -> None:
    theta = make_space(3)
    pool = Pool.of(make_table(theta, 100), theta.parameters(theta.draw(1, seed=0, name="x")[0]))
    space = MixtureSpace.of(pool)
    for unit, message in (
        (np.array([0.5, 0.5]), r"mixture of shape \(2,\), allowed \(3,\)"),
        (np.array([0.5, 0.5, 0.5]), "shares >= 0 that sum to 1"),
        (np.array([1.5, -0.5, 0.0]), "shares >= 0 that sum to 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            space.expected(pool, unit, target_tokens=100, copy_cap=None)
    with pytest.raises(ConfigError, match="the pool has no tokens of a, b"):
        SPACE.expected(pool, np.array([0.5, 0.5, 0.0]), target_tokens=100, copy_cap=None)
    with pytest.raises(ConfigError, match="a count above 0 for each of the 2 domains"):
        MixtureSpace(domains=("a", "b"), tokens=(1, 0))
    with pytest.raises(ConfigError, match="one or more, each once"):
        MixtureSpace(domains=("a", "a"), tokens=(1, 1))
