"""The heap of ``merges`` that finds the next pair, and the loop that merges pair after pair.

An entry is a count and a pair. Counts of pairs fall without the heap being told, so an entry at the top whose count is
too high gets the right one and sinks; none is too low, since pairs that gain occurrences are pushed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.kernels import inlined, kernel
from penstock.tokenization._merge_kernels import (
    CANDIDATE,
    HEAP,
    MERGED,
    NONE,
    PAIRS,
    TOKENS,
    apart,
    apply,
    occurrences,
    room,
)

# what `search` returns
DONE = 0
GROW = 1
ASK = 2


@kernel
def _below(start: Any, data: Any, left: Any, right: Any) -> Any:
    """-1, 0 or 1: how the bytes of one token compare with those of another."""
    if left == right:
        return 0
    a, b = start[left], start[right]
    size_a, size_b = start[left + 1] - a, start[right + 1] - b
    for i in range(min(size_a, size_b)):
        if data[a + i] != data[b + i]:
            return -1 if data[a + i] < data[b + i] else 1
    return 0 if size_a == size_b else (-1 if size_a < size_b else 1)


@kernel
def _lower(keys: Any, start: Any, data: Any, pair: Any, other: Any, by_bytes: Any) -> Any:
    """Whether a pair comes before another with the same count."""
    key, than = keys[pair], keys[other]
    if by_bytes:
        sign = _below(start, data, key >> 32, than >> 32)
        if sign == 0:
            sign = _below(start, data, key & 0xFFFFFFFF, than & 0xFFFFFFFF)
        if sign != 0:
            return sign < 0
    return key < than


@inlined
def _first(state: Any, count: Any, pair: Any, other_count: Any, other: Any, by_bytes: Any) -> Any:
    """Whether an entry of the heap comes before another."""
    first = count > other_count
    if count == other_count:
        first = _lower(state.keys, state.token_start, state.token_bytes, pair, other, by_bytes)
    return first


@kernel
def _sink(state: Any, at: Any, size: Any, by_bytes: Any) -> None:
    counts, pairs = state.heap_count, state.heap_pair
    count, pair = counts[at], pairs[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _first(
            state, counts[child + 1], pairs[child + 1], counts[child], pairs[child], by_bytes
        ):
            child += 1
        if not _first(state, counts[child], pairs[child], count, pair, by_bytes):
            break
        counts[at], pairs[at] = counts[child], pairs[child]
        at = child
    counts[at], pairs[at] = count, pair


@kernel
def _push(state: Any, count: Any, pair: Any, by_bytes: Any) -> None:
    counts, pairs = state.heap_count, state.heap_pair
    at = state.scalars[HEAP]
    state.scalars[HEAP] += 1
    while at:
        parent = (at - 1) // 2
        if not _first(state, count, pair, counts[parent], pairs[parent], by_bytes):
            break
        counts[at], pairs[at] = counts[parent], pairs[parent]
        at = parent
    counts[at], pairs[at] = count, pair


@kernel
def build_heap(state: Any, minimum: Any, by_bytes: Any) -> None:
    """A heap of all pairs that occur often enough. ``heap_count`` has room for all pairs."""
    size = 0
    for i in range(state.scalars[PAIRS]):
        if state.counts[i, 0] >= minimum and not state.banned[i]:
            state.heap_count[size] = state.counts[i, 0]
            state.heap_pair[size] = i
            size += 1
    state.scalars[HEAP] = size
    state.scalars[CANDIDATE] = NONE
    for at in range(size // 2 - 1, -1, -1):
        _sink(state, at, size, by_bytes)


@kernel
def search(
    state: Any,
    log_pairs: Any,
    log_results: Any,
    log_counts: Any,
    log_applied: Any,
    max_tokens: Any,
    minimum: Any,
    by_bytes: Any,
    overlapping: Any,
    ask: Any,
) -> Any:
    """Merge the most frequent pair until the log or the vocabulary is full or no pair is frequent enough.

    Args:
        log_pairs, log_results, log_counts, log_applied: (m,) get the merges, from number ``scalars[MERGED]`` on.
        max_tokens: stop when there are so many.
        minimum: least count of a merge.
        by_bytes, overlapping: see ``Pairs.merge``.
        ask: return ASK before every merge; a pair that is banned then is passed over.

    Returns:
        DONE, or what the caller must do before it calls again: GROW or ASK, for the pair ``scalars[CANDIDATE]``.
    """
    scalars = state.scalars
    while scalars[MERGED] < log_pairs.size and scalars[TOKENS] < max_tokens:
        if scalars[CANDIDATE] == NONE:
            if scalars[HEAP] == 0:
                return DONE
            count, pair = state.heap_count[0], state.heap_pair[0]
            key = state.keys[pair]
            current = state.counts[pair, 0]
            if not overlapping and key >> 32 == key & 0xFFFFFFFF and current >= minimum:
                current = apart(state, pair)
            if current != count or state.banned[pair]:
                if current >= minimum and not state.banned[pair]:
                    state.heap_count[0] = current
                else:
                    scalars[HEAP] -= 1
                    last = scalars[HEAP]
                    state.heap_count[0], state.heap_pair[0] = state.heap_count[last], state.heap_pair[last]
                if scalars[HEAP]:
                    _sink(state, 0, scalars[HEAP], by_bytes)
                continue
            scalars[CANDIDATE] = pair
            if ask:
                return ASK
        pair = scalars[CANDIDATE]
        if state.banned[pair]:
            scalars[CANDIDATE] = NONE
            continue
        found = occurrences(state, pair)
        key = state.keys[pair]
        if not room(state, key >> 32, key & 0xFFFFFFFF, found.size):
            return GROW
        count = state.heap_count[0]
        k = scalars[MERGED]
        scalars[MERGED] += 1
        log_pairs[k] = key
        log_counts[k] = count
        log_results[k], log_applied[k], touched = apply(state, np.int32(pair), found)
        scalars[CANDIDATE] = NONE
        for i in touched:
            if state.counts[i, 0] >= minimum and not state.banned[i]:
                _push(state, state.counts[i, 0], i, by_bytes)
    return DONE
