"""The pool says of every theta what a selection with it would do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import ConfigError, DatasetError, InputError, PenstockError
from penstock.selectors.quadmix import CriterionHistograms, MergedHistograms, QuaDMixParameters
from penstock.selectors.search.pool import Pool
from penstock.selectors.search.space import ThetaSpace
from penstock.work import with_columns

Make = Callable[..., Any]


def selection(table: pa.Table, p: QuaDMixParameters, folder: Path, seed: int) -> pa.RecordBatch:
    """What the pipeline's own passes make of the rows."""
    batch = table.combine_chunks().to_batches()[0]
    criteria = CriterionHistograms(parameters=p)
    merge = criteria.fit(criteria.summarise(batch), str(folder))
    batch = with_columns(batch, merge.annotate(batch))
    ranks = MergedHistograms(parameters=p, seed=seed)
    return with_columns(batch, ranks.fit(ranks.summarise(batch), str(folder)).annotate(batch))


@pytest.mark.parametrize("scope", ["global", "domain"])
@pytest.mark.parametrize("rank_at", ["inclusive", "midpoint", "exclusive"])
@pytest.mark.parametrize(("target", "cap"), [(None, None), (9_000, None), (60_000, 1.5)])
def test_values_and_copies_equal_those_of_the_pipeline_bit_by_bit(
    tmp_path: Path, make_space: Make, make_table: Make, scope: str, rank_at: str, target: int | None, cap: float | None
) -> None:
    space = make_space(4, normalizer_scope=scope, rank_at=rank_at, domain_multiplier=True, omega_max=0.7, eps_max=0.3)
    table = make_table(space, 700)
    for unit in space.draw(3, seed=2, name="x"):
        p = space.parameters(unit, target_tokens=target, copy_cap=cap)
        pool = Pool.of(table, p)
        out = selection(table, p, tmp_path, seed=5)
        train = np.flatnonzero(np.array(table["split"].to_pylist()) == "train")
        assert sorted(pool.row.tolist()) == train.tolist()
        assert 0 < len(train) < 700
        expected = pool.expected(p)
        assert expected.tolist() == out["quadmix.value"].take(pa.array(pool.row)).to_pylist()
        assert pool.copies(expected, 5).tolist() == out["copies"].take(pa.array(pool.row)).to_pylist()
        assert [pool.domains[d] for d in pool.domain] == out["domain"].take(pa.array(pool.row)).to_pylist()


def test_rows_lie_domain_by_domain_in_the_order_of_the_table(make_space: Make, make_table: Make) -> None:
    space = make_space(3)
    table = make_table(space, 200)
    pool = Pool.of(table, space.parameters(space.draw(1, seed=0, name="x")[0]))
    assert len(pool) == len(pool.tokens) == len(pool.row)
    for d in range(3):
        rows = pool.row[pool.bounds[d] : pool.bounds[d + 1]]
        assert (np.diff(rows) > 0).all()
        assert set(table["domain"].take(pa.array(rows)).to_pylist()) == {pool.domains[d]}
    assert pool.tokens.tolist() == table["tokens"].take(pa.array(pool.row)).to_pylist()
    own = [int(pool.tokens[pool.domain == d].sum()) for d in range(3)]
    assert pool.domain_tokens().tolist() == own
    twice = pool.domain_tokens(np.full(len(pool), 2))
    assert twice.tolist() == [2 * v for v in own]


def test_the_coins_are_the_same_for_every_theta_so_selections_nest(make_space: Make, make_table: Make) -> None:
    space = make_space(3)
    pool = Pool.of(make_table(space, 500), space.parameters(space.draw(1, seed=0, name="x")[0]))
    low, high = pool.copies(np.full(len(pool), 0.3), 7), pool.copies(np.full(len(pool), 0.5), 7)
    assert (low <= high).all()
    assert 0 < low.sum() < high.sum()
    assert pool.copies(np.full(len(pool), 0.3), 8).tolist() != low.tolist()


def test_the_multiplier_moves_the_share_of_its_domain_and_keeps_the_budget(make_space: Make, make_table: Make) -> None:
    space: ThetaSpace = make_space(3, domain_multiplier=True, omega_max=0.6)
    table = make_table(space, 3000)
    unit = space.draw(1, seed=4, name="x")[0]
    at = [space.names.index(f"d0{d}.multiplier") for d in range(3)]
    unit[at] = 0.5
    pool = Pool.of(table, space.parameters(unit))
    plain = pool.domain_tokens(pool.expected(space.parameters(unit, target_tokens=50_000)))
    # g = 10 ** (2 v - 1): a step of log10(3) / 2 multiplies by 3
    unit[at[1]] += np.log10(3.0) / 2
    moved = pool.domain_tokens(pool.expected(space.parameters(unit, target_tokens=50_000)))
    assert plain.sum() == pytest.approx(50_000, rel=1e-6)
    assert moved.sum() == pytest.approx(50_000, rel=1e-6)
    assert (moved[1] / moved[0]) / (plain[1] / plain[0]) == pytest.approx(3.0, rel=1e-5)
    assert moved[2] / moved[0] == pytest.approx(plain[2] / plain[0], rel=1e-5)


def test_parameters_of_other_criteria_are_refused(make_space: Make, make_table: Make) -> None:
    space = make_space(3)
    pool = Pool.of(make_table(space, 100), space.parameters(space.draw(1, seed=0, name="x")[0]))
    other = make_space(3, criteria=2)
    with pytest.raises(ConfigError, match=r"parameters of \['score.a', 'score.b'\].* the pool has"):
        pool.expected(other.parameters(other.draw(1, seed=0, name="x")[0]))
    scoped = make_space(3, normalizer_scope="domain")
    with pytest.raises(ConfigError, match=r"in domain scope, the pool has .* in global"):
        pool.expected(scoped.parameters(scoped.draw(1, seed=0, name="x")[0]))


def test_more_tokens_than_the_cap_allows_are_refused_with_the_numbers(make_space: Make, make_table: Make) -> None:
    space = make_space(3)
    table = make_table(space, 100)
    unit = space.draw(1, seed=0, name="x")[0]
    pool = Pool.of(table, space.parameters(unit))
    held = int(pool.tokens.sum())
    with pytest.raises(ConfigError, match=rf"got {3 * held:,}, allowed at most {2 * held:,} = copy_cap 2 x {held:,}"):
        space.expected(pool, unit, target_tokens=3 * held, copy_cap=2.0)


def test_a_constant_criterion_is_warned_of(make_space: Make, make_table: Make) -> None:
    space = make_space(2)
    table = make_table(space, 100)
    at = table.column_names.index("score.b")
    table = table.set_column(at, "score.b", pa.array([0.5] * 100, pa.float32()))
    pool = Pool.of(table, space.parameters(space.draw(1, seed=0, name="x")[0]))
    assert len(pool.warnings) == 1
    assert pool.warnings[0].startswith("score.b: all scored training tokens have one value, so it ranks nothing")
    assert set(pool.sigma[:, 1].tolist()) == {0.5}


@pytest.mark.parametrize(
    ("column", "values", "kind", "message"),
    [
        ("score.a", pa.nulls(50, pa.float32()), DatasetError, "score.a: no training row has a score"),
        ("score.a", pa.array([float("nan")] * 50, pa.float32()), DatasetError, "score.a: got NaN in 50 row"),
        ("tokens", pa.array([0] * 50, pa.int32()), DatasetError, "no training row has a score|has tokens"),
        ("domain", pa.nulls(50, pa.string()), DatasetError, "without a domain"),
    ],
)
def test_pools_that_cannot_be_searched_are_refused(
    make_space: Make, make_table: Make, column: str, values: pa.Array, kind: type[PenstockError], message: str
) -> None:
    space = make_space(2)
    table = make_table(space, 50)
    table = table.set_column(table.column_names.index(column), column, values)
    with pytest.raises(kind, match=message):
        Pool.of(table, space.parameters(space.draw(1, seed=0, name="x")[0]))


def test_a_column_that_is_absent_and_an_empty_table_are_refused(make_space: Make, make_table: Make) -> None:
    space = make_space(2)
    p = space.parameters(space.draw(1, seed=0, name="x")[0])
    table = make_table(space, 50)
    with pytest.raises((DatasetError, InputError), match=r"score\.c"):
        Pool.of(table.drop_columns(["score.c"]), p)
    with pytest.raises(DatasetError, match="empty table"):
        Pool.of(table.slice(0, 0), p)
