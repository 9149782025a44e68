"""pytest tests/training/test_mixture.py"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, DatasetError
from penstock.training.mixture import MixtureLog, block_order, permute, quotas, shuffled_rows, tie_ranks


def test_quotas_are_the_largest_remainders() -> None:
    # exact shares 4.7, 3.2, 2.1: one is left after flooring and goes to .7
    assert quotas([0.47, 0.32, 0.21], 10) == (5, 3, 2)
    assert quotas([3, 1], 8) == (6, 2)
    assert quotas([1], 7) == (7,)


def test_a_small_weight_still_gets_one_sequence_a_block_and_zero_gets_none() -> None:
    assert quotas([0.999, 0.0005, 0.0005, 0.0], 1000) == (998, 1, 1, 0)
    assert quotas([0.999, 0.0005, 0.0005], 1000, min_quota=0) == (999, 1, 0)


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


def cursors_of(log: MixtureLog, numbers: np.ndarray) -> list[list[int]]:
    domain, cursor, _ = log.assign(numbers)
    return [cursor[domain == k].tolist() for k in range(len(log.domains))]


def test_four_versions_switched_inside_blocks_leave_no_gap_and_no_repeat() -> None:
    log = MixtureLog.start(["a", "b", "c"], (7, 2, 1), seed=0)
    log = log.append(37, (1, 1, 8)).append(101, (4, 4, 2)).append(105, (3, 0, 7))
    for found in cursors_of(log, np.arange(400)):
        assert found == list(range(len(found)))
    # 37 of 7:2:1, 64 of 1:1:8, 4 of 4:4:2, 295 of 3:0:7
    assert [len(found) for found in cursors_of(log, np.arange(105, 400))] == [88, 0, 207]


@st.composite
def logs(draw: st.DrawFn) -> MixtureLog:
    k = draw(st.integers(1, 4))
    some = st.lists(st.integers(0, 9), min_size=k, max_size=k).filter(lambda q: sum(q) > 0)
    log = MixtureLog.start([f"d{i}" for i in range(k)], draw(some), seed=draw(st.integers(0, 9)))
    for step in draw(st.lists(st.integers(1, 60), max_size=5)):
        log = log.append(log.entries[-1].effective_from + step, draw(some))
    return log


@settings(max_examples=60)
@given(logs(), st.randoms(use_true_random=False))
def test_random_logs_read_every_cursor_once_whatever_the_order_asked(log: MixtureLog, random: object) -> None:
    numbers = np.arange(350)
    whole = log.assign(numbers)
    for found in cursors_of(log, numbers):
        assert found == list(range(len(found)))
    shuffled = numbers.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for all_at_once, picked in zip(whole, log.assign(shuffled), strict=True):
        assert picked.tolist() == all_at_once[shuffled].tolist()
    for n in (0, 17, 349):
        assert log.cursors(n) == tuple(int(c) for c in np.bincount(whole[0][:n], minlength=len(log.domains)))
    assert MixtureLog.from_json(log.to_json()) == log


def test_ratios_over_ten_thousand_sequences_are_exact() -> None:
    log = MixtureLog.start(["a", "b", "c"], quotas([0.5, 0.3, 0.2], 1000), seed=1)
    assert np.bincount(log.assign(np.arange(10_000))[0]).tolist() == [5000, 3000, 2000]


def test_versions_change_exactly_where_the_entry_says() -> None:
    log = MixtureLog.start(["a"], (3,), seed=0).append(5, (2,))
    assert log.assign(np.array([4, 5, 6, 0]))[2].tolist() == [0, 1, 1, 0]


def test_an_entry_cannot_begin_before_the_last_one_or_have_other_domains() -> None:
    log = MixtureLog.start(["a", "b"], (1, 1), seed=0).append(10, (2, 1))
    with pytest.raises(ConfigError, match="the last entry begins at 10"):
        log.append(10, (1, 1))
    with pytest.raises(ConfigError, match="2 whole numbers"):
        log.append(11, (1, 1, 1))


def test_a_tampered_log_is_refused() -> None:
    saved = MixtureLog.start(["a", "b"], (1, 1), seed=0).append(10, (2, 1)).to_json()
    saved["entries"][1]["base"] = (4, 6)
    with pytest.raises(DatasetError, match="does not follow"):
        MixtureLog.from_json(saved)


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


def test_a_far_sequence_number_costs_nothing_special() -> None:
    log = MixtureLog.start(["a", "b"], (3, 1), seed=0)
    domain, cursor, _ = log.assign(np.array([4 * 10**12 + 1]))
    first_domain, first_cursor, _ = log.assign(np.array([1]))
    assert domain.tolist() == first_domain.tolist()
    assert cursor[0] == first_cursor[0] + 10**12 * (3, 1)[int(domain[0])]
