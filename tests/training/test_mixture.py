"""pytest tests/training/test_mixture.py"""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, DatasetError
from penstock.training.blocks import quotas, tie_ranks
from penstock.training.mixture import MixtureLog


def start(domains: Sequence[str], q: Sequence[int], **options: Any) -> MixtureLog:
    """A log over domains of 10 rows each."""
    return MixtureLog.start(domains, q, **({"seed": 0, "rows": [10] * len(domains)} | options))


def cursors_of(log: MixtureLog, numbers: np.ndarray) -> list[list[int]]:
    domain, cursor, _ = log.assign(numbers)
    return [cursor[domain == k].tolist() for k in range(len(log.domains))]


def test_four_versions_switched_inside_blocks_leave_no_gap_and_no_repeat() -> None:
    log = start(["a", "b", "c"], (7, 2, 1))
    log = log.append(37, (1, 1, 8)).append(101, (4, 4, 2)).append(105, (3, 0, 7))
    for found in cursors_of(log, np.arange(400)):
        assert found == list(range(len(found)))
    # 37 of 7:2:1, 64 of 1:1:8, 4 of 4:4:2, 295 of 3:0:7
    assert [len(found) for found in cursors_of(log, np.arange(105, 400))] == [88, 0, 207]


@st.composite
def logs(draw: st.DrawFn) -> MixtureLog:
    k = draw(st.integers(1, 4))
    some = st.lists(st.integers(0, 9), min_size=k, max_size=k).filter(lambda q: sum(q) > 0)
    log = start([f"d{i}" for i in range(k)], draw(some), seed=draw(st.integers(0, 9)))
    for step in draw(st.lists(st.integers(1, 60), max_size=5)):
        log = log.append(log.entries[-1].effective_from + step, draw(some))
    return log


@settings(max_examples=60, deadline=None)
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
    log = start(["a", "b", "c"], quotas([0.5, 0.3, 0.2], 1000))
    assert np.bincount(log.assign(np.arange(10_000))[0]).tolist() == [5000, 3000, 2000]


def test_versions_change_exactly_where_the_entry_says() -> None:
    log = start(["a"], (3,)).append(5, (2,))
    assert log.assign(np.array([4, 5, 6, 0]))[2].tolist() == [0, 1, 1, 0]


def test_an_entry_cannot_begin_before_the_last_one_or_have_other_domains() -> None:
    log = start(["a", "b"], (1, 1)).append(10, (2, 1))
    with pytest.raises(ConfigError, match="the last entry begins at 10"):
        log.append(10, (1, 1))
    with pytest.raises(ConfigError, match="2 whole numbers"):
        log.append(11, (1, 1, 1))


def test_a_tampered_log_is_refused() -> None:
    saved = start(["a", "b"], (1, 1)).append(10, (2, 1)).to_json()
    saved["entries"][1]["base"] = (4, 6)
    with pytest.raises(DatasetError, match="does not follow"):
        MixtureLog.from_json(saved)


def test_a_far_sequence_number_costs_nothing_special() -> None:
    log = start(["a", "b"], (3, 1))
    domain, cursor, _ = log.assign(np.array([4 * 10**12 + 1]))
    first_domain, first_cursor, _ = log.assign(np.array([1]))
    assert domain.tolist() == first_domain.tolist()
    assert cursor[0] == first_cursor[0] + 10**12 * (3, 1)[int(domain[0])]
    # nothing that was made grows with the number: a block and its phase
    assert len(log.phases) == len(log.entries) == 1


def by_hand(
    changes: list[tuple[int, tuple[int, ...]]],
    limits: Sequence[int | None],
    mode: str,
    ties: tuple[int, ...],
    count: int,
) -> list[tuple[int, int]]:
    """(domain, cursor) of sequences 0, 1, … one after the other; shorter than ``count`` where the order ends."""
    out: list[tuple[int, int]] = []
    read = [0] * len(limits)
    block: list[int] = []
    at, quota = 0, changes[0][1]

    def left(k: int) -> bool:
        limit = limits[k]
        return limit is None or read[k] < limit

    def begin() -> list[int]:
        live = [q if mode != "redistribute" or left(k) else 0 for k, q in enumerate(quota)]
        items = [(Fraction(2 * j + 1, 2 * q), ties[k], k) for k, q in enumerate(live) for j in range(q)]
        return [k for _, _, k in sorted(items)]

    while len(out) < count:
        for effective_from, q in changes:
            if effective_from == len(out):
                quota, at = q, 0
                block = begin()
        if block and not left(block[at % len(block)]):
            if mode == "stop":
                return out
            block, at = begin(), 0
        if not block:
            return out
        k = block[at % len(block)]
        out.append((k, read[k]))
        read[k], at = read[k] + 1, at + 1
    return out


@st.composite
def capped(draw: st.DrawFn) -> tuple[list[tuple[int, tuple[int, ...]]], list[int | None], Any, int]:
    k = draw(st.integers(1, 4))
    some = st.lists(st.integers(0, 5), min_size=k, max_size=k).filter(lambda q: sum(q) > 0).map(tuple)
    changes = [(0, draw(some))]
    for step in draw(st.lists(st.integers(1, 40), max_size=4)):
        changes.append((changes[-1][0] + step, draw(some)))
    limits = draw(st.lists(st.one_of(st.none(), st.integers(1, 30)), min_size=k, max_size=k))
    return changes, limits, draw(st.sampled_from(["redistribute", "stop"])), draw(st.integers(0, 5))


@settings(max_examples=300, deadline=None)
@given(capped())
def test_caps_hold_exactly_and_equal_the_order_made_one_by_one(
    history: tuple[list[tuple[int, tuple[int, ...]]], list[int | None], Any, int],
) -> None:
    changes, limits, mode, seed = history
    names = tuple(f"d{i}" for i in range(len(limits)))
    log = start(names, changes[0][1], limits=limits, on_exhausted=mode, seed=seed)
    for effective_from, q in changes[1:]:
        log = log.append(effective_from, q)
    wanted = by_hand(changes, limits, mode, tie_ranks(names, seed), 200)
    numbers = np.arange(len(wanted))
    domain, cursor, _ = log.assign(numbers)
    assert list(zip(domain.tolist(), cursor.tolist(), strict=True)) == wanted
    if len(wanted) < 200:
        assert log.end == len(wanted)
        with pytest.raises(DatasetError, match=f"the order ends at sequence {log.end}, where d"):
            log.assign(np.array([len(wanted)]))
    else:
        assert log.end is None or log.end >= 200
    for n in (0, len(wanted) // 2, len(wanted)):
        assert log.cursors(n) == tuple(sum(k == i for k, _ in wanted[:n]) for i in range(len(names)))
    again = MixtureLog.from_json(json.loads(json.dumps(log.to_json())))
    assert again == log
    # the part that a checkpoint keeps says the same about everything after it
    for n in (0, len(wanted) // 3, max(len(wanted) - 1, 0)):
        kept = MixtureLog.from_json(json.loads(json.dumps(log.trimmed(n).to_json())))
        for a, b in zip(kept.assign(numbers[n:]), log.assign(numbers[n:]), strict=True):
            assert a.tolist() == b.tolist()
        assert kept.end == log.end


def test_a_spent_domain_leaves_its_share_to_the_others_in_their_ratio() -> None:
    log = start(["a", "b", "c"], (5, 2, 1), limits=(10, None, None), on_exhausted="redistribute")
    domain, cursor, _ = log.assign(np.arange(16 + 30))
    assert cursor[domain == 0].tolist() == list(range(10))
    # two blocks hold a's ten; from then on b and c are two to one
    assert np.bincount(domain[:16]).tolist() == [10, 4, 2]
    assert np.bincount(domain[16:]).tolist() == [0, 20, 10]
    assert log.end is None


def test_the_order_stops_where_the_next_sequence_of_a_spent_domain_would_come() -> None:
    log = start(["a", "b"], (1, 4), limits=(2, None), on_exhausted="stop")
    # b b a b b is a block: the third a would be sequence 12
    assert log.assign(np.arange(12))[0].tolist() == [1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1]
    assert log.end == 12
    with pytest.raises(DatasetError, match=r"sequence 90: the order ends at sequence 12, where a \(2 sequences read\)"):
        log.assign(np.array([3, 90]))


def test_an_entry_after_the_end_never_comes_into_force() -> None:
    log = start(["a"], (1,), limits=(4,), on_exhausted="stop").append(9, (2,))
    assert (log.end, len(log.entries)) == (4, 2)
    with pytest.raises(DatasetError, match="sequence 9: the order ends at sequence 4"):
        log.assign(np.array([9]))


def test_an_entry_before_the_end_can_move_it() -> None:
    log = start(["a", "b"], (1, 1), limits=(5, None), on_exhausted="stop")
    assert log.end is not None
    assert log.end <= 11
    later = log.append(6, (0, 1))
    assert later.end is None
    assert np.bincount(later.assign(np.arange(100))[0]).tolist() == [3, 97]


def test_without_a_limit_a_small_domain_begins_anew() -> None:
    log = start(["a", "b"], (3, 1), rows=[2, 1])
    domain, row, _, _ = log.locate(np.arange(8))
    assert sorted(row[domain == 0].tolist()) == [0, 0, 0, 1, 1, 1]
    assert row[domain == 1].tolist() == [0, 0]


def test_a_replaced_dataset_begins_with_fresh_cursors_and_may_have_other_domains() -> None:
    log = start(["a", "b"], (1, 1), fingerprint="old").replace(
        7, ["c", "b"], (2, 1), rows=[6, 12], fingerprint="new", limits=(6, None), on_exhausted="redistribute"
    )
    assert log.domains == ("a", "b", "c")
    assert [d.fingerprint for d in log.datasets] == ["old", "new"]
    assert log.datasets[1].rows == (0, 12, 6)
    domain, cursor, version = log.assign(np.arange(40))
    assert version.tolist() == [0] * 7 + [1] * 33
    new = slice(7, 40)
    assert 0 not in domain[new]
    # c is read once and then left out, b goes on
    assert cursor[new][domain[new] == 2].tolist() == list(range(6))
    assert cursor[new][domain[new] == 1].tolist() == list(range(27))
    _, rows, _, generation = log.locate(np.arange(40))
    assert generation.tolist() == version.tolist()
    assert sorted(rows[new][domain[new] == 2].tolist()) == list(range(6))
    assert MixtureLog.from_json(json.loads(json.dumps(log.to_json()))) == log
    kept = MixtureLog.from_json(json.loads(json.dumps(log.trimmed(20).to_json())))
    assert (kept.first_version, len(kept.datasets), kept.domains) == (1, 1, log.domains)
    assert [x.tolist() for x in kept.locate(np.arange(20, 40))] == [x.tolist() for x in log.locate(np.arange(20, 40))]


def test_the_same_data_put_in_again_is_read_in_another_order() -> None:
    log = start(["a"], (1,), rows=[40]).replace(40, ["a"], (1,), rows=[40]).replace(80, ["a"], (1,), rows=[40])
    rows = log.locate(np.arange(120))[1].reshape(3, 40)
    assert [sorted(epoch.tolist()) for epoch in rows] == [list(range(40))] * 3
    assert len({tuple(epoch.tolist()) for epoch in rows}) == 3


def test_a_trimmed_log_keeps_its_numbers_and_knows_nothing_of_what_was_before() -> None:
    log = start(["a", "b"], (1, 1)).append(10, (2, 1)).append(20, (3, 1)).append(30, (1, 3))
    kept = log.trimmed(25)
    assert (kept.first_version, [e.effective_from for e in kept.entries]) == (2, [20, 30])
    assert kept.versions(np.array([25, 29, 30])).tolist() == [2, 2, 3]
    assert kept.append(40, (1, 1)).entry(4).effective_from == 40
    with pytest.raises(DatasetError, match="sequence 19: the mixture log was trimmed and begins at 20"):
        kept.assign(np.array([19]))
    with pytest.raises(ConfigError, match="mixture version 1: this log holds versions 2 to 3"):
        kept.entry(1)
    assert log.trimmed(25, keep=1).first_version == 1


def test_thousands_of_entries_cost_no_more_than_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry is unfolded when it is appended, never again."""
    from penstock.training import mixture

    seen: list[int] = []
    real = mixture.unfold

    def counted(entry: Any, version: int, ties: Any) -> Any:
        seen.append(version)
        return real(entry, version, ties)

    monkeypatch.setattr(mixture, "unfold", counted)
    log = start(["a", "b"], (1, 1))
    for i in range(1, 300):
        log = log.append(5 * i, (1 + i % 3, 1))
        log.assign(np.arange(5 * i, 5 * i + 5))
    assert seen == list(range(300))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s["entries"][0].update(base=[3, 4]), "10 sequences come before it"),
        (lambda s: s["entries"][1].update(quotas=[1, 1, 1]), "not all of its vectors"),
        (lambda s: s["entries"][1].pop("base"), "damaged or saved by another version"),
        (lambda s: s["entries"][1].update(limits=[5, 5]), "on_exhausted repeat with limits"),
        (lambda s: s.pop("datasets"), "damaged or saved by another version"),
        (lambda s: s.update(entries=[]), "damaged or saved by another version"),
    ],
)
def test_a_damaged_log_is_refused(change: Any, text: str) -> None:
    saved = start(["a", "b"], (1, 1)).append(10, (2, 1)).append(20, (3, 1)).trimmed(10).to_json()
    change(saved)
    with pytest.raises(DatasetError, match=text):
        MixtureLog.from_json(saved)
