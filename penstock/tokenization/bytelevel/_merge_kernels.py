"""numba kernels of the byte-pair merges: which merge builds a token, which neighbours a merge would join.

Tokens are places of the vocabulary. A table of pairs is open addressing over ``left << 32 | right``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.kernels import inlined, kernel

NEVER = np.int64(1) << np.int64(62)  # the rank of a pair that has no merge
_EMPTY = np.int64(-1)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


@inlined
def _slot(key: Any, mask: Any) -> Any:
    mixed = np.uint64(key) * _SPREAD
    return np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(mask))


@kernel
def pair_table(left: Any, right: Any, size: Any) -> Any:
    """(keys, ranks) of pairs given in order of rank; of one that stands twice the last counts. ``size`` is 2**k."""
    keys = np.full(size, _EMPTY, dtype=np.int64)
    values = np.zeros(size, dtype=np.int64)
    mask = size - 1
    for rank in range(len(left)):
        key = (left[rank] << np.int64(32)) | right[rank]
        at = _slot(key, mask)
        while keys[at] != _EMPTY and keys[at] != key:
            at = (at + 1) & mask
        keys[at] = key
        values[at] = rank
    return keys, values


@inlined
def _rank(keys: Any, values: Any, left: Any, right: Any) -> Any:
    mask = len(keys) - 1
    key = (left << np.int64(32)) | right
    at = _slot(key, mask)
    found = NEVER
    while keys[at] != _EMPTY:
        if keys[at] == key:
            found = values[at]
            break
        at = (at + 1) & mask
    return found


@kernel
def merge(symbols: Any, keys: Any, values: Any, made: Any) -> Any:
    """Merge in place by rank, the leftmost first; returns (length, the last merge's number or -1)."""
    length = len(symbols)
    last = np.int64(-1)
    while length > 1:
        best = NEVER
        place = 0
        for i in range(length - 1):
            rank = _rank(keys, values, symbols[i], symbols[i + 1])
            if rank < best:
                best = rank
                place = i
        if best == NEVER:
            break
        symbols[place] = made[best]
        for i in range(place + 1, length - 1):
            symbols[i] = symbols[i + 1]
        length -= 1
        last = best
    return length, last


@kernel
def built(atoms: Any, offsets: Any, keys: Any, values: Any, made: Any) -> Any:
    """The merge that makes each token of its own atoms: its number, -1 for an atom, -2 for a token no merge makes."""
    count = len(offsets) - 1
    out = np.full(count, -2, dtype=np.int64)
    for token in range(count):
        symbols = atoms[offsets[token] : offsets[token + 1]].copy()
        if len(symbols) == 0:
            continue
        length, last = merge(symbols, keys, values, made)
        if length == 1 and symbols[0] == token:
            out[token] = last
    return out


@kernel
def pair_ok(left: Any, right: Any, rank_of: Any, left_of: Any, right_of: Any, keys: Any, values: Any) -> Any:
    """Whether no merge joins the two tokens: the merges at their boundary, replayed in the order of their ranks.

    The right edge of ``left`` and the left edge of ``right`` grow piece by piece; at equal rank the leftmost merge
    fires first, so one across the boundary comes before one inside ``right`` and after one inside ``left``.
    """
    depth_l = 0
    piece = left
    while rank_of[piece] >= 0:
        piece = right_of[piece]
        depth_l += 1
    depth_r = 0
    other = right
    while rank_of[other] >= 0:
        other = left_of[other]
        depth_r += 1
    # pieces from the boundary outwards
    edge_l = np.empty(depth_l + 1, dtype=np.int64)
    edge_r = np.empty(depth_r + 1, dtype=np.int64)
    piece = left
    for i in range(depth_l, -1, -1):
        edge_l[i] = piece
        piece = right_of[piece]
    other = right
    for i in range(depth_r, -1, -1):
        edge_r[i] = other
        other = left_of[other]
    i = 0
    j = 0
    while True:
        next_l = rank_of[edge_l[i + 1]] if i < depth_l else NEVER
        next_r = rank_of[edge_r[j + 1]] if j < depth_r else NEVER
        cross = _rank(keys, values, edge_l[i], edge_r[j])
        if next_l <= next_r:
            if cross < next_l:
                return False
            if next_l == NEVER:
                return True
            i += 1
        else:
            if cross <= next_r:
                return False
            j += 1


@kernel
def clashes(
    left: Any, rank_of: Any, right_of: Any, by_left: Any, partner: Any, merge_rank: Any, built_on: Any, grown: Any
) -> Any:
    """Places of all tokens that a merge would join to ``left`` on their left.

    Args:
        left: the token on the left.
        by_left, partner, merge_rank: the merges by their left part (CSR): right part and rank.
        built_on, grown: the tokens whose own merge has a token as left part (CSR), the latest first.

    Returns:
        unsorted, may hold one twice.
    """
    out = np.empty(64, dtype=np.int64)
    found = 0
    depth = 0
    piece = left
    while rank_of[piece] >= 0:
        piece = right_of[piece]
        depth += 1
    edge = np.empty(depth + 1, dtype=np.int64)
    piece = left
    for i in range(depth, -1, -1):
        edge[i] = piece
        piece = right_of[piece]
    stack = np.empty(256, dtype=np.int64)
    for i in range(depth + 1):
        a = edge[i]
        born = rank_of[a]
        gone = rank_of[edge[i + 1]] if i < depth else NEVER
        for m in range(by_left[a], by_left[a + 1]):
            cross = merge_rank[m]
            b = partner[m]
            # both have to be there before ``a`` grows into the next piece of the edge
            if cross >= gone or rank_of[b] >= gone:
                continue
            top = 1
            stack[0] = b
            first = True
            while top > 0:
                top -= 1
                node = stack[top]
                if found == len(out):
                    larger = np.empty(2 * found, dtype=np.int64)
                    larger[:found] = out
                    out = larger
                out[found] = node
                found += 1
                for k in range(built_on[node], built_on[node + 1]):
                    grown_node = grown[k]
                    # tokens that outgrow ``b`` before the merge fires, or before ``a`` is there, are not touched
                    if first and (rank_of[grown_node] < cross or rank_of[grown_node] < born):
                        break
                    if top == len(stack):
                        longer = np.empty(2 * top, dtype=np.int64)
                        longer[:top] = stack
                        stack = longer
                    stack[top] = grown_node
                    top += 1
                first = False
    return out[:found]
