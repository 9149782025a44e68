"""Components against scipy: union-find, and small and large star in turn; neither writes out pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from penstock.seeding import stream
from penstock.selectors.components import components, large_star, linked, pack, small_star, unpack


def by_scipy(one, other):
    """Node -> least node of its component."""
    nodes, number = np.unique(np.concatenate([one, other]), return_inverse=True)
    a, b = number[: len(one)], number[len(one) :]
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(len(nodes), len(nodes)))
    _, of = connected_components(graph, directed=False)
    least = np.full(len(nodes), 2**64 - 1, np.uint64)
    np.minimum.at(least, of, nodes)
    return dict(zip(nodes.tolist(), least[of].tolist(), strict=True))


def by_union(one, other):
    nodes, labels = components(one, other)
    assert (np.diff(nodes.astype(object)) > 0).all()
    return dict(zip(nodes.tolist(), labels.tolist(), strict=True))


def stars(one, other, ranges=1):
    """Labels by small and large star in turn, and the rounds it took; edges never grow in number."""
    node, smaller = np.maximum(one, other), np.minimum(one, other)
    rounds, moved, most = 0, 1, len(one)
    while moved:
        rounds, moved = rounds + 1, 0
        for large, step in ((False, small_star), (True, large_star)):
            if large:
                node, smaller = np.concatenate([node, smaller]), np.concatenate([smaller, node])
            made = []
            for number in range(ranges):  # as passes do: each sees the nodes of its range alone
                here = node % np.uint64(ranges) == number
                *edges, count = step(node[here], smaller[here])
                made.append(edges)
                moved += count
            node, smaller = (np.concatenate(column) for column in zip(*made, strict=True))
            assert (smaller < node).all()
            assert len(node) <= most
    out = dict(zip(node.tolist(), smaller.tolist(), strict=True))
    return out | {least: least for least in out.values()}, rounds


def uint(values):
    return np.asarray(values, np.uint64)


@settings(max_examples=150, deadline=None)
@given(
    edges=st.lists(
        st.tuples(st.integers(0, 25), st.integers(0, 25)).filter(lambda e: e[0] != e[1]), min_size=1, max_size=40
    ),
    ranges=st.integers(1, 4),
)
def test_union_find_and_stars_find_the_components_that_scipy_finds(edges, ranges):
    one, other = uint([a for a, _ in edges]), uint([b for _, b in edges])
    wanted = by_scipy(one, other)
    assert by_union(one, other) == wanted
    assert stars(one, other, ranges)[0] == wanted


@pytest.mark.parametrize("nodes", [2_000, 60_000])
@pytest.mark.parametrize("density", [0.4, 1.0, 3.0])
def test_random_graphs_of_nodes_that_fill_64_bits(nodes, density):
    rng = stream(nodes, "graph", int(density * 10))
    names = rng.integers(0, 2**64, nodes, np.uint64)
    one, other = (names[rng.integers(0, nodes, int(nodes * density))] for _ in range(2))
    one, other = one[one != other], other[one != other]
    wanted = by_scipy(one, other)
    assert by_union(one, other) == wanted
    assert stars(one, other, 8)[0] == wanted


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_path_of_a_hundred_thousand_nodes_ends_in_few_rounds(shuffled):
    nodes = np.arange(100_000, dtype=np.uint64)
    if shuffled:
        nodes = stream(1, "path").permutation(nodes)
    found, rounds = stars(nodes[:-1], nodes[1:])
    assert set(found.values()) == {0}
    assert len(found) == 100_000
    assert rounds <= 2 * 17  # log2 of the nodes, twice
    assert set(by_union(nodes[:-1], nodes[1:]).values()) == {0}


def test_a_star_of_a_million_ends_in_one_round():
    leaves = np.arange(1, 1_000_001, dtype=np.uint64)
    hub = np.zeros(1_000_000, np.uint64)
    node, least, moved = small_star(leaves, hub)
    assert (moved, len(node)) == (0, 1_000_000)
    node, least, moved = large_star(np.concatenate([node, least]), np.concatenate([least, node]))
    assert moved == 0
    assert (np.array_equal(node, leaves), least.max()) == (True, 0)


def test_a_million_documents_of_one_key_become_a_star_and_never_pairs():
    key = np.concatenate([np.full(1_000_000, 7, np.uint64), uint([1, 2, 2])])
    node = np.concatenate([stream(2, "clique").permutation(1_000_000).astype(np.uint64), uint([5, 6, 2_000_000])])
    member, least = linked(key, node)
    # 5 shares key 1 with no one; 6 brings 2,000,000 along
    assert len(member) == 1_000_000
    assert set(member.tolist()) == {*range(1, 1_000_000), 2_000_000}
    assert not least.any()


def test_cliques_that_touch_in_one_node_are_one_component():
    pairs = [(a, b) for base in range(0, 50, 10) for a in range(base, base + 11) for b in range(base, a)]
    one, other = uint([a for a, _ in pairs]), uint([b for _, b in pairs])
    assert by_union(one, other) == dict.fromkeys(range(51), 0) == stars(one, other, 3)[0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 12)), max_size=40), st.integers(0, 9))
def test_nodes_linked_by_keys_are_those_that_a_graph_of_nodes_and_keys_connects(rows, seed):
    order = stream(seed, "rows").permutation(len(rows))
    key, node = uint([rows[i][0] for i in order]), uint([rows[i][1] for i in order])
    member, least = linked(key, node)
    assert (least < member).all()
    assert len(set(member.tolist())) == len(member)
    found = dict(zip(member.tolist(), least.tolist(), strict=True))
    # keys as nodes beyond all others, so that they are nobody's least
    wanted = by_scipy(node, key + np.uint64(100)) if len(rows) else {}
    wanted = {n: label for n, label in wanted.items() if n < 100 and n != label}
    assert found == wanted


def test_one_step_by_hand():
    # 5 has smaller neighbours 1 and 3: 3 and 5 go to 1
    node, least, moved = small_star(uint([5, 5, 9]), uint([3, 1, 8]))
    assert (list(zip(node.tolist(), least.tolist(), strict=True)), moved) == ([(3, 1), (5, 1), (9, 8)], 1)
    # at 5 (neighbours 1, 7) the larger, 7, goes to 1; at 7 (5) nothing is larger; at 1 (5) the edge stays
    node, least, moved = large_star(uint([5, 5, 7, 1]), uint([1, 7, 5, 5]))
    assert (list(zip(node.tolist(), least.tolist(), strict=True)), moved) == ([(5, 1), (7, 1)], 1)


def test_edges_given_twice_are_one():
    node, least, moved = small_star(uint([4, 4, 4]), uint([2, 2, 2]))
    assert (node.tolist(), least.tolist(), moved) == ([4], [2], 0)


def test_no_edges_are_no_components():
    none = uint([])
    assert [a.tolist() for a in components(none, none)] == [[], []]
    assert [a.tolist() for a in linked(none, none)] == [[], []]
    assert small_star(none, none)[2] == large_star(none, none)[2] == 0


def test_a_node_is_its_part_and_row_and_sorts_by_them():
    part, row = np.array([0, 3, 2**23], np.int32), np.array([2**40 - 1, 0, 5], np.int64)
    node = pack(part, row)
    assert node.tolist() == [2**40 - 1, 3 << 40, (2**63) + 5]
    back = unpack(node)
    assert (back[0].tolist(), back[1].tolist()) == (part.tolist(), row.tolist())
