"""Where shards end: every row once, sizes within bounds, borders that stay when rows come and go."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.pipelines.passes import add_numbers
from penstock.pipelines.shards import LEAST, MOST, Places, Shard, plan_shards
from penstock.seeding import stream

ROWS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 60)), max_size=80, unique_by=lambda row: row[0])


def counted(rows, shard_bytes, batch=7):
    """What the pass over one part counts; rows are (id, bytes)."""
    places, out = Places(shard_bytes), {}
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        add_numbers(out, places.add([i for i, _ in some], [size for _, size in some]))
    return out


def planned(parts, shard_bytes):
    """Shards as lists of ids."""
    shards = plan_shards("train", [counted(part, shard_bytes) for part in parts], shard_bytes)
    out = []
    for shard in shards:
        rows = [row for p in shard.pieces for row in parts[p.part][p.first : p.last]]
        assert (len(rows), sum(size for _, size in rows)) == (shard.rows, shard.bytes)
        out.append([i for i, _ in rows])
    return out


@given(ROWS, st.lists(st.integers(0, 80), max_size=6), st.sampled_from([30, 200, 1000, 10**6]))
def test_every_row_is_in_one_shard_in_order_whatever_the_parts(rows, cuts, shard_bytes):
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    parts = [rows[a:b] for a, b in itertools.pairwise(edges)]
    shards = planned(parts, shard_bytes)
    assert [i for shard in shards for i in shard] == [i for i, _ in rows]
    assert shards == planned([rows], shard_bytes)
    size = dict(rows)
    sizes = [sum(size[i] for i in shard) for shard in shards]
    assert all(LEAST * shard_bytes <= s for s in sizes[:-1])
    assert all(s <= MOST * shard_bytes + 60 for s in sizes)


@given(ROWS, st.lists(st.integers(0, 80), max_size=6))
def test_pieces_hold_every_place_between_rows_once(rows, cuts):
    """Rows left out stand between selected ones, at each end of a part too; none may fall between two shards."""
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    parts = [rows[a:b] for a, b in itertools.pairwise(edges)]
    found = [
        (piece.part, position)
        for shard in plan_shards("train", [counted(part, 100) for part in parts], 100)
        for piece in shard.pieces
        for position in range(piece.first, len(parts[piece.part]) + 1 if piece.last is None else piece.last)
    ]
    assert found == [(number, position) for number, part in enumerate(parts) for position in range(len(part) + 1)]


def corpus(rows=4000, seed=0):
    rng = stream(seed, "shards")
    return list(zip(rng.integers(0, 2**62, rows).tolist(), rng.integers(20, 200, rows).tolist(), strict=True))


@pytest.mark.parametrize(
    ("change", "most"),
    [
        (lambda rows, new: rows + new, 2),
        (lambda rows, new: new + rows, 8),
        (lambda rows, new: rows[:2000] + new + rows[2000:], 8),
        (lambda rows, new: rows[:2000] + rows[2040:], 8),
        (lambda rows, new: rows[:1] + rows[2:], 8),
    ],
    ids=["at the end", "at the beginning", "in the middle", "less in the middle", "one row less"],
)
def test_rows_that_come_or_go_change_a_few_shards_and_leave_the_others(change, most):
    rows, new = corpus(), corpus(40, seed=1)
    before = planned([rows], 5_000)
    after = planned([change(rows, new)], 5_000)
    assert 70 < len(before) < 110
    same = {tuple(shard) for shard in before} & {tuple(shard) for shard in after}
    assert len(after) - len(same) <= most


def test_sizes_lie_around_the_wanted_one():
    shards = plan_shards("train", [counted(corpus(), 5_000)], 5_000)
    sizes = np.array([shard.bytes for shard in shards[:-1]])
    assert sizes.min() >= 3_000
    assert sizes.max() <= 7_000
    assert 4_600 < sizes.mean() < 5_400


def test_row_groups_hold_eight_megabytes_and_no_more_rows_than_readers_like():
    assert Shard("train", (), rows=10, bytes=10 << 20).group_rows == 8
    assert Shard("train", (), rows=1000, bytes=1000).group_rows == 65_536
    assert Shard("train", (), rows=1, bytes=100 << 20).group_rows == 1


def test_nothing_makes_no_shard_and_rows_left_out_alone_make_one():
    assert plan_shards("train", [], 100) == []
    (shard,) = plan_shards("train", [{}, {}], 100)
    assert (shard.rows, [(p.part, p.first, p.last) for p in shard.pieces]) == (0, [(0, 0, None), (1, 0, None)])
