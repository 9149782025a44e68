"""pytest tests/training/test_permutation.py"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.training.permutation import permute, shuffled_rows


@pytest.mark.parametrize("size", [*range(1, 70), 255, 256, 257, 1000, 5003])
def test_every_epoch_is_a_permutation_of_the_rows(size: int) -> None:
    rows = shuffled_rows(np.arange(3 * size), size, seed=5, domain="a").reshape(3, size)
    for epoch in rows:
        assert sorted(epoch.tolist()) == list(range(size))


def test_epochs_domains_and_seeds_have_orders_of_their_own() -> None:
    def order(seed: int, domain: str, epoch: int) -> tuple[int, ...]:
        return tuple(shuffled_rows(np.arange(50) + 50 * epoch, 50, seed=seed, domain=domain).tolist())

    assert len({order(s, d, e) for s in (0, 1) for d in ("a", "b") for e in (0, 1)}) == 8
    assert order(0, "a", 0) != tuple(range(50))


def test_the_permutation_has_no_visible_bias() -> None:
    # where position 0 lands over 6000 keys: each of 6 rows expects 1000, standard deviation 29
    landed = permute(np.zeros(6000, np.int64), 6, np.arange(6000).astype(np.uint64))
    assert np.abs(np.bincount(landed, minlength=6) - 1000).max() < 150
    # neighbours do not stay neighbours
    rows = shuffled_rows(np.arange(10_000), 10_000, seed=0, domain="a")
    assert abs(np.corrcoef(rows[:-1], rows[1:])[0, 1]) < 0.05


@settings(deadline=None)
@given(st.integers(2, 90), st.integers(1, 90), st.integers(0, 9))
def test_a_grouped_order_is_a_permutation_that_reads_group_by_group(size: int, group: int, seed: int) -> None:
    epochs = shuffled_rows(np.arange(3 * size), size, seed=seed, domain="a", group_rows=group).reshape(3, size)
    for rows in epochs:
        assert sorted(rows.tolist()) == list(range(size))
        groups = rows // group
        turns = groups[np.flatnonzero(np.diff(groups, prepend=-1))]
        # every group has one turn, however short it is
        assert sorted(turns.tolist()) == list(range(-(-size // group)))


def test_groups_their_turns_and_the_rows_inside_are_shuffled() -> None:
    epochs = shuffled_rows(np.arange(80 * 22), 22, seed=0, domain="a", group_rows=5).reshape(80, 22)
    # the short group of rows 20 and 21 has its turn at any place, like the others
    for place in (0, -1):
        assert {int(row) // 5 for row in epochs[:, place]} == {0, 1, 2, 3, 4}
    inside = {g: [tuple(epoch[epoch // 5 == g].tolist()) for epoch in epochs] for g in range(4)}
    # 80 draws of 120 orders
    assert all(len(set(orders)) > 40 for orders in inside.values())
    # and two groups do not share theirs
    assert [tuple(row % 5 for row in order) for order in inside[1]] != [
        tuple(row % 5 for row in order) for order in inside[2]
    ]


def test_groups_as_large_as_the_domain_are_the_flat_order() -> None:
    flat = shuffled_rows(np.arange(30), 10, seed=0, domain="a")
    for group in (10, 11, 1000):
        assert shuffled_rows(np.arange(30), 10, seed=0, domain="a", group_rows=group).tolist() == flat.tolist()


def test_every_generation_of_a_dataset_has_orders_of_its_own() -> None:
    orders = [shuffled_rows(np.arange(20), 20, seed=0, domain="a", generation=g).tolist() for g in (0, 1, 2)]
    assert orders[0] == shuffled_rows(np.arange(20), 20, seed=0, domain="a").tolist()
    assert len({tuple(order) for order in orders}) == 3
