"""QuaDMix's theta: draws by Algorithm 1, its readings, and what evolution needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from penstock.errors import ConfigError
from penstock.seeding import stream
from penstock.selectors.quadmix_theta import sampling_value
from penstock.selectors.search.pool import Pool

Make = Callable[..., Any]


def test_a_draw_has_its_coordinates_named_within_the_unit_box_and_alpha_on_the_simplex(make_space: Make) -> None:
    space = make_space(26)
    points = space.draw(500, seed=1, name="x")
    assert points.shape == (500, (3 + 4) * 26) == (500, len(space.names))
    alpha, rest = [f"alpha.{c}" for c in "abc"], ["lam", "omega", "eta", "eps"]
    assert space.names[:8] == (*(f"d00.{name}" for name in alpha + rest), "d01.alpha.a")
    assert points.min() >= 0.0
    assert points.max() <= 1.0
    assert points.reshape(500, 26, 7)[:, :, :3].sum(axis=2) == pytest.approx(np.ones((500, 26)))
    assert len(make_space(26, domain_multiplier=True).names) == (3 + 5) * 26


def test_draws_are_seeded_and_named(make_space: Make) -> None:
    space = make_space(2)
    a, b, c, d = (space.draw(4, seed=s, name=n).tolist() for s, n in [(1, "x"), (1, "x"), (2, "x"), (1, "y")])
    assert a == b
    assert a != c
    assert a != d


def test_global_weights_let_one_criterion_lead_in_all_domains(make_space: Make) -> None:
    alpha = make_space(26).draw(20_000, seed=3, name="x").reshape(20_000, 26, 7)[:, :, :3]
    leading = alpha.mean(axis=1).max(axis=1)
    assert (leading > 0.6).mean() == pytest.approx(0.17, abs=0.015)
    assert (leading > 0.8).mean() == pytest.approx(0.016, abs=0.006)
    # a control: without the global step no criterion leads
    local = stream(3, "local").random((20_000, 26, 3))
    assert (local / local.sum(axis=2, keepdims=True)).mean(axis=1).max() < 0.5


@pytest.mark.parametrize(
    ("scale", "mode", "fraction"),
    [
        ("linear", "exponent", 0.070),
        ("linear", "product", 0.048),
        ("log", "exponent", 0.060),
        ("log", "product", 0.038),
    ],
)
def test_the_four_readings_of_the_paper_sample_different_fractions(
    make_space: Make, scale: str, mode: Any, fraction: float
) -> None:
    space = make_space(1, criteria=1, lambda_scale=scale, eta_mode=mode)
    r = (np.arange(400) + 0.5) / 4000  # up to the largest omega
    found = []
    for unit in space.draw(4000, seed=0, name="x"):
        own = space.parameters(unit).default
        s = sampling_value(r, lam=own.lam, omega=own.omega, eta=own.eta, eps=own.eps, eta_mode=mode)
        found.append(0.1 * s.mean() + 0.9 * own.eps)
    assert np.mean(found) == pytest.approx(fraction, abs=0.003)


def test_coordinates_stand_for_the_parameters_of_their_domain(make_space: Make) -> None:
    space = make_space(2, criteria=2, domain_multiplier=True, omega_max=0.5, eps_max=0.2, multiplier_max=4.0)
    unit = np.array([0.25, 0.75, 0.5, 0.5, 0.3, 0.1, 0.75, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    p = space.parameters(unit, target_tokens=7, copy_cap=2.0)
    first, second = p.of("d00"), p.of("d01")
    assert first.alpha == (0.25, 0.75)
    assert (first.lam, first.omega, first.eta, first.eps, first.multiplier) == pytest.approx(
        (1000**0.5, 0.25, 0.3, 0.02, 2.0)
    )
    assert (second.lam, second.omega, second.eta, second.eps, second.multiplier) == pytest.approx(
        (1000.0, 0.5, 1.0, 0.2, 0.25)
    )
    assert (p.target_tokens, p.copy_cap) == (7, 2.0)
    linear = make_space(2, criteria=2, domain_multiplier=True, omega_max=0.5, eps_max=0.2, lambda_scale="linear")
    assert linear.parameters(unit).of("d00").lam == pytest.approx(500.0)
    told = space.describe(unit)["domains"]["d00"]
    assert told["alpha"] == {"a": 0.25, "b": 0.75}
    assert told["omega"] == 0.25


def test_the_mean_over_values_is_arithmetic_and_over_units_geometric(make_space: Make) -> None:
    space = make_space(1, criteria=2, domain_multiplier=True)
    points = np.array([[0.5, 0.5, 0.0, 0.2, 0.2, 0.2, 0.5], [0.9, 0.1, 2 / 3, 0.6, 0.4, 0.4, 1.0]])
    unit, value = (space.parameters(space.mean(points, average=a)).default for a in ("unit", "value"))
    assert unit.lam == pytest.approx((1 * 100) ** 0.5)
    assert value.lam == pytest.approx((1 + 100) / 2)
    assert unit.multiplier == pytest.approx((1 * 10) ** 0.5)
    assert value.multiplier == pytest.approx((1 + 10) / 2)
    for own in (unit, value):
        assert own.alpha == pytest.approx((0.7, 0.3))
        assert (own.omega, own.eta, own.eps) == pytest.approx((0.04, 0.3, 0.0003))


def test_children_take_whole_blocks_and_mutants_take_fresh_coordinates(make_space: Make) -> None:
    space = make_space(3, criteria=2, domain_multiplier=True)
    a, b = np.zeros((400, 21)), np.ones((400, 21))
    child = space.cross(a, b, stream(1)).reshape(400, 3, 7)
    for block in (child[:, :, :2], child[:, :, 2:]):
        assert set(block.sum(axis=2).ravel().tolist()) == {0.0, float(block.shape[2])}
        assert block.mean() == pytest.approx(0.5, abs=0.05)
    # the two coins of a domain are independent of each other
    assert (child[:, :, 0] != child[:, :, 2]).mean() == pytest.approx(0.5, abs=0.06)
    points = space.draw(400, seed=2, name="x")
    mutant = space.mutate(points, 0.1, stream(3))
    assert (mutant != points).mean() == pytest.approx(0.1, abs=0.02)
    assert (space.mutate(points, 0.0, stream(3)) == points).all()


def test_repair_brings_alpha_back_to_the_simplex_and_the_rest_into_the_box(make_space: Make) -> None:
    space = make_space(1)
    broken = np.array([[2.0, 1.0, 1.0, -0.5, 1.5, 0.3, 0.4], [0.0, 0.0, 0.0, 0.1, 0.2, 0.3, 0.4]])
    assert space.repair(broken) == pytest.approx(
        np.array([[0.5, 0.25, 0.25, 0.0, 1.0, 0.3, 0.4], [1 / 3, 1 / 3, 1 / 3, 0.1, 0.2, 0.3, 0.4]])
    )
    fine = space.draw(50, seed=0, name="x")
    assert space.repair(fine) == pytest.approx(fine)


@pytest.mark.parametrize("mode", ["exponent", "product"])
@pytest.mark.parametrize("rank_at", ["inclusive", "exclusive"])
def test_the_baselines_ignore_quality_and_divide_tokens_as_they_say(
    make_space: Make, make_table: Make, mode: str, rank_at: str
) -> None:
    space = make_space(3, eta_mode=mode, rank_at=rank_at)
    table = make_table(space, 900).slice(0, 700)
    pool = Pool.of(table, space.parameters(space.draw(1, seed=0, name="x")[0]))
    for name, unit in space.baselines(pool).items():
        value = space.expected(pool, unit, target_tokens=20_000, copy_cap=None)
        for d in range(3):
            assert np.ptp(value[pool.domain == d]) == 0.0
        got = pool.domain_tokens(value)
        assert got.sum() == pytest.approx(20_000, rel=1e-5)
        wanted = {"uniform": np.ones(3) / 3, "natural": pool.domain_tokens() / pool.tokens.sum()}[name]
        assert got / got.sum() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: s(2, lambda_scale="ln"), "lambda_scale: got 'ln', allowed 'log' or 'linear'"),
        (lambda s: s(0), "domains: got [], allowed one or more"),
        (lambda s: s(2, eta_mode="power"), "eta_mode: got 'power'"),
        (lambda s: s(2, lam_max=1.0), "lam_max: got 1.0, allowed above 1"),
        (lambda s: s(2, multiplier_max=0.5), "multiplier_max: got 0.5, allowed above 1"),
        (lambda s: s(2, omega_max=1.5), "omega_max: got 1.5, allowed above 0 and at most 1"),
        (lambda s: s(2, criteria=0), "criteria: got []"),
        (lambda s: s(2).parameters(np.full(13, 0.5)), "got a theta of shape (13,), allowed (14,) = 2 domains x 7"),
        (lambda s: s(2).parameters(np.full((1, 14), 0.5)), "got a theta of shape (1, 14)"),
        (lambda s: s(2).parameters(np.full(14, 1.5)), "a coordinate outside [0, 1]"),
        (lambda s: s(2).parameters(np.full(14, np.nan)), "a coordinate outside [0, 1]"),
        (lambda s: s(2).parameters(np.full(14, 0.5)), "alpha [0.5, 0.5, 0.5], allowed 3 weights >= 0 that sum to 1"),
    ],
)
def test_spaces_and_points_that_are_none_are_refused(make_space: Make, make: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        make(make_space)
    assert message in str(error.value)
