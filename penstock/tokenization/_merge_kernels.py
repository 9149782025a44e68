"""Loops of ``merges``: pair counts that follow every merge.

Positions. Units lie one after another in ``symbols``, each between two cells of BORDER. A merged symbol stays at its
first cell; ``span`` holds its width at its first and its last cell, so both neighbours of a symbol are one step away
and no lists of pointers are kept. The other cells of a merged symbol are dead.

Pairs. Pair i of ``keys`` is left << 32 | right. ``pair_at`` names the pair that begins at a cell, so the occurrences
that a pair was once given (segments of ``pool``, in the order of positions) are checked by one look. A pair gets its
occurrences in one go, when the newer of its symbols is made; a second segment is needed only where a merge makes a
symbol that was there before.

Loops take the arrays of the state into local names, and small functions take arrays, not the state: handing it over
costs a reference count for each of its arrays.

Nothing grows in here: a kernel that needs room says so and is called again where it stopped.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from penstock.kernels import inlined, kernel

BORDER = -1
NONE = -1

# places in `State.scalars`
PAIRS = 0  # pairs in use
SEGMENTS = 1
POOL = 2
TOKENS = 3
BYTES = 4
HEAP = 5
MERGED = 6  # merges in the log
CANDIDATE = 7  # pair taken from the heap, not merged yet
SCALARS = 8


class State(NamedTuple):
    """All arrays of a table of pairs. n cells, p pairs, s segments, t tokens, h entries of the heap, c columns."""

    scalars: Any  # (SCALARS,) int64
    symbols: Any  # (n,) int32
    span: Any  # (n,) int32
    unit: Any  # (n,) int32
    pair_at: Any  # (n,) int32
    weights: Any  # (units, c) int64
    slots: Any  # (power of two,) int32: hash table of pairs
    keys: Any  # (p,) int64
    counts: Any  # (p, c) int64
    banned: Any  # (p,) bool
    fresh: Any  # (p,) int32: scratch, zero between merges
    segment_of: Any  # (p,) int32: last segment of a pair
    segment_start: Any  # (s,) int64
    segment_size: Any  # (s,) int32
    segment_before: Any  # (s,) int32: an earlier segment of the same pair
    pool: Any  # (3 n,) int32: cells
    token_slots: Any  # (power of two,) int32: hash table of byte strings
    token_start: Any  # (t + 1,) int64
    token_bytes: Any  # uint8
    heap_count: Any  # (h,) int64
    heap_pair: Any  # (h,) int32


# ---- tables


@inlined
def mixed(key: Any) -> Any:
    value = np.uint64(key)
    value = (value ^ (value >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    return value ^ (value >> np.uint64(29))


@inlined
def find_pair(slots: Any, keys: Any, key: Any) -> Any:
    """Number of a pair, NONE where there is none."""
    mask = np.uint64(slots.size - 1)
    at = mixed(key) & mask
    while slots[at] != NONE and keys[slots[at]] != key:
        at = (at + np.uint64(1)) & mask
    return slots[at]


@inlined
def _pair(scalars: Any, slots: Any, keys: Any, left: Any, right: Any) -> Any:
    """Number of a pair, which is made where there is none."""
    key = (np.int64(left) << 32) | np.int64(right)
    mask = np.uint64(slots.size - 1)
    at = mixed(key) & mask
    found = slots[at]
    while found != NONE and keys[found] != key:
        at = (at + np.uint64(1)) & mask
        found = slots[at]
    if found == NONE:
        found = np.int32(scalars[PAIRS])
        scalars[PAIRS] += 1
        slots[at] = found
        keys[found] = key
    return found


@kernel
def fill_slots(slots: Any, keys: Any, used: Any) -> None:
    """Put the pairs in use into an empty hash table."""
    mask = np.uint64(slots.size - 1)
    for i in range(used):
        at = mixed(keys[i]) & mask
        while slots[at] != NONE:
            at = (at + np.uint64(1)) & mask
        slots[at] = i


@kernel
def find_pairs(slots: Any, keys: Any, wanted: Any) -> Any:
    """Numbers of many pairs, NONE where there is none."""
    out = np.empty(wanted.size, np.int64)
    for i in range(wanted.size):
        out[i] = find_pair(slots, keys, wanted[i])
    return out


@kernel
def add_token(token_slots: Any, token_start: Any, token_bytes: Any, number: Any) -> Any:
    """Token with the same bytes as token ``number``: an earlier one, else ``number`` itself, which is entered."""
    start, stop = token_start[number], token_start[number + 1]
    value = np.uint64(14695981039346656037)
    for i in range(start, stop):
        value = (value ^ np.uint64(token_bytes[i])) * np.uint64(1099511628211)
    mask = np.uint64(token_slots.size - 1)
    at = (value ^ (value >> np.uint64(32))) & mask
    while token_slots[at] != NONE:
        other = token_slots[at]
        begin = token_start[other]
        if token_start[other + 1] - begin == stop - start:
            same = True
            for i in range(stop - start):
                if token_bytes[begin + i] != token_bytes[start + i]:
                    same = False
                    break
            if same:
                return other
        at = (at + np.uint64(1)) & mask
    token_slots[at] = number
    return np.int32(number)


@kernel
def add_tokens(token_slots: Any, token_start: Any, token_bytes: Any, used: Any) -> None:
    """Enter all tokens of at least one byte, the lower of two that are equal."""
    for number in range(used):
        if token_start[number + 1] > token_start[number]:
            add_token(token_slots, token_start, token_bytes, number)


@kernel
def _joined(state: Any, left: Any, right: Any) -> Any:
    """Token whose bytes are those of two, made where there is none."""
    number = state.scalars[TOKENS]
    start, data = state.token_start, state.token_bytes
    at = state.scalars[BYTES]
    for i in range(start[left], start[left + 1]):
        data[at] = data[i]
        at += 1
    for i in range(start[right], start[right + 1]):
        data[at] = data[i]
        at += 1
    start[number + 1] = at
    found = add_token(state.token_slots, start, data, number)
    if found == number:
        state.scalars[TOKENS] += 1
        state.scalars[BYTES] = at
    return found


# ---- counting


@kernel
def lay_out(symbols: Any, offsets: Any, cells: Any, span: Any, unit: Any) -> None:
    """Units between borders. ``cells``, ``span``, ``unit``: (symbols + units + 1,), filled."""
    cells[0] = BORDER
    span[0] = 1
    unit[0] = 0
    at = 1
    for u in range(offsets.size - 1):
        for i in range(offsets[u], offsets[u + 1]):
            cells[at] = symbols[i]
            span[at] = 1
            unit[at] = u
            at += 1
        cells[at] = BORDER
        span[at] = 1
        unit[at] = u
        at += 1


@inlined
def _add(counts: Any, weights: Any, pair: Any, unit: Any, sign: Any) -> None:
    for c in range(weights.shape[1]):
        counts[pair, c] += sign * weights[unit, c]


@kernel
def count_all(state: Any, start: Any) -> Any:
    """Count the pairs from cell ``start`` on. Returns the cell to go on from after growing, or the end."""
    scalars, slots, keys, counts, fresh = state.scalars, state.slots, state.keys, state.counts, state.fresh
    symbols, unit, pair_at, weights = state.symbols, state.unit, state.pair_at, state.weights
    for p in range(start, symbols.size - 1):
        if scalars[PAIRS] >= keys.size:
            return p
        left, right = symbols[p], symbols[p + 1]
        if left < 0 or right < 0:
            pair_at[p] = NONE
            continue
        i = _pair(scalars, slots, keys, left, right)
        pair_at[p] = i
        fresh[i] += 1
        _add(counts, weights, i, unit[p], 1)
    pair_at[symbols.size - 1] = NONE
    return symbols.size


@kernel
def place_all(state: Any) -> None:
    """Give every pair its first segment; after ``count_all``."""
    start, size, pool, pair_at = state.segment_start, state.segment_size, state.pool, state.pair_at
    at = 0
    for i in range(state.scalars[PAIRS]):
        start[i] = at
        size[i] = 0
        state.segment_before[i] = NONE
        state.segment_of[i] = i
        at += state.fresh[i]
        state.fresh[i] = 0
    state.scalars[SEGMENTS] = state.scalars[PAIRS]
    state.scalars[POOL] = at
    for p in range(pair_at.size):
        i = pair_at[p]
        if i >= 0:
            pool[start[i] + size[i]] = p
            size[i] += 1


@kernel
def occurrences(state: Any, pair: Any) -> Any:
    """Cells where a pair begins now, rising."""
    start, sizes, before = state.segment_start, state.segment_size, state.segment_before
    pool, pair_at = state.pool, state.pair_at
    size = 0
    segment = state.segment_of[pair]
    while segment != NONE:
        size += sizes[segment]
        segment = before[segment]
    out = np.empty(size, np.int32)
    used = 0
    segment = state.segment_of[pair]
    while segment != NONE:
        for k in range(start[segment], start[segment] + sizes[segment]):
            p = pool[k]
            if pair_at[p] == pair:
                out[used] = p
                used += 1
        segment = before[segment]
    out = out[:used]
    # rising within a segment; what a merge makes of them must rise too
    if before[state.segment_of[pair]] != NONE:
        out.sort()
    return out


@kernel
def apart(state: Any, pair: Any) -> Any:
    """How often a pair of equal symbols occurs when no two occurrences overlap, as merging takes them."""
    total = 0
    free = 0  # the first cell that no counted occurrence covers
    for p in occurrences(state, pair):
        if p >= free:
            total += state.weights[state.unit[p], 0]
            q = p + state.span[p]
            free = q + state.span[q]
    return total


# ---- merging


@kernel
def room(state: Any, left: Any, right: Any, most: Any) -> Any:
    """Whether a merge of at most ``most`` occurrences fits."""
    scalars = state.scalars
    # new pairs have the new symbol on one side and any symbol on the other
    new = min(2 * most, 2 * (scalars[TOKENS] + 1))
    start = state.token_start
    length = start[left + 1] - start[left] + start[right + 1] - start[right]
    return (
        scalars[PAIRS] + new <= state.keys.size
        and scalars[SEGMENTS] + new <= state.segment_start.size
        and scalars[HEAP] + new <= state.heap_count.size
        and scalars[TOKENS] + 2 <= state.token_start.size
        and scalars[BYTES] + length <= state.token_bytes.size
    )


@kernel
def apply(state: Any, pair: Any, found: Any) -> Any:
    """Merge the occurrences ``found`` of a pair left to right, where there is ``room``.

    Returns:
        The resulting token, how many were merged, and the pairs that gained occurrences.
    """
    key = state.keys[pair]
    left, right = np.int32(key >> 32), np.int32(key & 0xFFFFFFFF)
    new = _joined(state, left, right)
    scalars, slots, keys, counts, fresh = state.scalars, state.slots, state.keys, state.counts, state.fresh
    symbols, span, unit, pair_at, weights = state.symbols, state.span, state.unit, state.pair_at, state.weights
    made_pair = np.empty(2 * found.size, np.int32)
    made_at = np.empty(2 * found.size, np.int32)
    touched = np.empty(2 * found.size, np.int32)
    made = 0
    gained = 0
    merged = 0
    for p in found:
        # an occurrence that overlapped the one before is gone
        if pair_at[p] != pair:
            continue
        merged += 1
        u = unit[p]
        q = p + span[p]
        after = q + span[q]
        before = p - span[p - 1]
        _add(counts, weights, pair, u, -1)
        symbols[q] = BORDER
        if pair_at[q] != NONE:
            _add(counts, weights, pair_at[q], u, -1)
            pair_at[q] = NONE
        symbols[p] = new
        span[p] = span[after - 1] = after - p
        pair_at[p] = NONE
        if symbols[before] >= 0:
            _add(counts, weights, pair_at[before], u, -1)
        for side in range(2):
            # the new symbol with what stands before it, then with what stands after it
            begin = p if side else before
            end = after if side else p
            if symbols[begin] < 0 or symbols[end] < 0:
                continue
            i = _pair(scalars, slots, keys, symbols[begin], symbols[end])
            _add(counts, weights, i, u, 1)
            pair_at[begin] = i
            made_pair[made] = i
            made_at[made] = begin
            made += 1
            if fresh[i] == 0:
                touched[gained] = i
                gained += 1
            fresh[i] += 1
    touched = touched[:gained]

    # every pair that gained occurrences gets a segment of them
    start, size, pool, segment_of = state.segment_start, state.segment_size, state.pool, state.segment_of
    at = scalars[POOL]
    segment = scalars[SEGMENTS]
    for i in touched:
        start[segment] = at
        size[segment] = 0
        state.segment_before[segment] = segment_of[i]
        segment_of[i] = segment
        at += fresh[i]
        fresh[i] = 0
        segment += 1
    scalars[POOL] = at
    scalars[SEGMENTS] = segment
    for k in range(made):
        segment = segment_of[made_pair[k]]
        pool[start[segment] + size[segment]] = made_at[k]
        size[segment] += 1
    return new, merged, touched


@kernel
def replay(state: Any, pairs: Any, results: Any, applied: Any, start: Any) -> Any:
    """Apply given merges in their order, from number ``start`` on; those that occur nowhere are passed over.

    Args:
        pairs: (m,) keys.
        results: (m,) gets the resulting tokens, NONE for a pair that does not occur.
        applied: (m,) gets how many occurrences were merged.

    Returns:
        The merge to go on from after growing; m when all is done.
    """
    for k in range(start, pairs.size):
        results[k] = NONE
        applied[k] = 0
        pair = find_pair(state.slots, state.keys, pairs[k])
        if pair == NONE:
            continue
        found = occurrences(state, pair)
        if found.size == 0:
            continue
        if not room(state, pairs[k] >> 32, pairs[k] & 0xFFFFFFFF, found.size):
            return k
        results[k], applied[k], _ = apply(state, pair, found)
    return pairs.size
