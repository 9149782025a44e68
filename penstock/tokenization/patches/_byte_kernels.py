"""Loops of the byte language model, of its entropies, of patch rules that look back, and of Equal-Info windows.

Probabilities are whole numbers in units of 2**-30, so they are the same on every machine: an arithmetic coder that met
a last bit of difference would decode something else. A model is a tuple of arrays:

    base     (256,) int64      probabilities without any context
    slots    (power of two,) int32     hash table of contexts, NONE where empty
    keys     (c,) int64        a context: its length << 56 | its bytes, the latest lowest
    starts   (c + 1,) int64    where its bytes begin in the next two
    symbols  uint8             bytes that followed it
    counts   int64             how often
    totals   (c,) int64        how often it occurred

``order`` is the most bytes of a context.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.kernels import inlined, kernel

NONE = -1
ONE = 30  # bits of a probability
RANGE = 46  # bits of the coder's range: times 2**16 it stays below 2**63
TOTAL = 16  # bits of the sum of frequencies at most


@inlined
def _slot(key: Any, mask: Any) -> Any:
    value = np.uint64(key)
    value = (value ^ (value >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
    return (value ^ (value >> np.uint64(29))) & mask


@kernel
def fill(slots: Any, keys: Any) -> None:
    """Enter contexts, all different, into an empty table."""
    mask = np.uint64(slots.size - 1)
    for i in range(keys.size):
        at = _slot(keys[i], mask)
        while slots[at] != NONE:
            at = (at + np.uint64(1)) & mask
        slots[at] = i


@inlined
def _find(slots: Any, keys: Any, key: Any) -> Any:
    mask = np.uint64(slots.size - 1)
    at = _slot(key, mask)
    while slots[at] != NONE and keys[slots[at]] != key:
        at = (at + np.uint64(1)) & mask
    return slots[at]


@kernel
def predict(model: Any, order: Any, data: Any, start: Any, at: Any, out: Any) -> None:
    """Probabilities of byte ``at`` after data[start:at], of which the last ``order`` count: into out (256,), sum <= 1.

    Witten-Bell: a context of N occurrences and T different followers leaves T / (N + T) to the one a byte shorter.
    """
    base, slots, keys, starts, symbols, counts, totals = model
    rows = np.empty(8, np.int64)
    key = np.int64(0)
    rows[0] = NONE
    longest = min(order, at - start)
    for k in range(1, longest + 1):
        key |= np.int64(data[at - k]) << (8 * (k - 1))
        rows[k] = _find(slots, keys, key | (np.int64(k) << 56))
        if rows[k] == NONE:
            longest = k - 1
            break
    out[:] = 0
    left = np.int64(1) << ONE
    for k in range(longest, 0, -1):
        row = rows[k]
        first, last = starts[row], starts[row + 1]
        whole = totals[row] + (last - first)
        for i in range(first, last):
            out[symbols[i]] += left * counts[i] // whole
        left = left * (last - first) // whole
    for b in range(256):
        out[b] += (left * base[b]) >> ONE


@kernel
def entropies(model: Any, order: Any, data: Any, bounds: Any, reset: Any, out: Any) -> None:
    """Entropy in nats of the distribution of every byte given those before it in its text: into out (bytes,).

    ``reset`` is a byte after which the context starts anew, or NONE.
    """
    p = np.empty(256, np.int64)
    for text in range(bounds.size - 1):
        start = bounds[text]
        for i in range(bounds[text], bounds[text + 1]):
            predict(model, order, data, start, i, p)
            total = 0
            sum_plogp = 0.0
            for b in range(256):
                if p[b] > 0:
                    total += p[b]
                    sum_plogp += p[b] * np.log(np.float64(p[b]))
            out[i] = np.log(np.float64(total)) - sum_plogp / total
            if data[i] == reset:
                start = i + 1


@kernel
def combined(values: Any, bounds: Any, least: Any, rise: Any, starts: Any) -> None:
    """Starts of patches where the entropy is above ``least``, has risen by more than ``rise``, and no patch just began.

    ``starts`` (bytes,) has the first two positions of every text set.
    """
    for text in range(bounds.size - 1):
        for i in range(bounds[text] + 2, bounds[text + 1]):
            starts[i] = values[i] > least and values[i] - values[i - 1] > rise and not starts[i - 1]


@kernel
def split_long(lengths: Any, most: Any) -> Any:
    """Lengths with those above ``most`` cut into pieces of that length and a rest, and how many each became."""
    pieces = np.empty(lengths.size, np.int64)
    total = 0
    for i in range(lengths.size):
        pieces[i] = (lengths[i] + most - 1) // most
        total += pieces[i]
    out = np.empty(total, np.int64)
    at = 0
    for i in range(lengths.size):
        left = lengths[i]
        while left > 0:
            out[at] = min(left, most)
            left -= out[at]
            at += 1
    return out, pieces


@inlined
def _frequencies(p: Any) -> Any:
    """Whole frequencies of at least 1 from probabilities, in place, and their sum, at most 2**TOTAL."""
    total = np.int64(0)
    for b in range(256):
        p[b] = 1 + ((p[b] * ((1 << TOTAL) - 256)) >> ONE)
        total += p[b]
    return total


@kernel
def encode_windows(model: Any, order: Any, data: Any, bits: Any, codes: Any, lengths: Any) -> Any:
    """Cut bytes into the longest windows whose arithmetic code has ``bits`` bits; how many there are.

    Args:
        codes, lengths: (bytes,) int64, filled from the front. A window is one byte at least, as each byte by itself has
            a share of 2**-TOTAL of the range and ``bits`` is not below TOTAL.
    """
    grid = np.int64(1) << (RANGE - bits)
    p = np.empty(256, np.int64)
    found = 0
    i = 0
    while i < data.size:
        low, width = np.int64(0), np.int64(1) << RANGE
        code = np.int64(0)
        j = i
        while j < data.size and width >= (1 << TOTAL):
            predict(model, order, data, i, j, p)
            total = _frequencies(p)
            under = np.int64(0)
            for b in range(data[j]):
                under += p[b]
            bottom = low + width * under // total
            top = low + width * (under + p[data[j]]) // total
            point = (bottom + grid - 1) // grid
            if point * grid >= top:
                break
            low, width, code = bottom, top - bottom, point
            j += 1
        codes[found], lengths[found] = code, j - i
        found += 1
        i = j
    return found


@kernel
def decode_windows(model: Any, order: Any, codes: Any, lengths: Any, bits: Any, out: Any) -> None:
    """The bytes of windows, one after another: into out (sum of lengths,)."""
    grid = np.int64(1) << (RANGE - bits)
    p = np.empty(256, np.int64)
    at = 0
    for window in range(codes.size):
        low, width = np.int64(0), np.int64(1) << RANGE
        value = codes[window] * grid
        start = at
        for _ in range(lengths[window]):
            predict(model, order, out, start, at, p)
            total = _frequencies(p)
            under = np.int64(0)
            for b in range(256):
                bottom = low + width * under // total
                top = low + width * (under + p[b]) // total
                if value < top:
                    low, width = bottom, top - bottom
                    out[at] = b
                    break
                under += p[b]
            at += 1
