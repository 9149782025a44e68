"""The loops behind ``PerplexityModel`` and ``PerplexityScore``: keys of n-grams, and log-probabilities by table.

A key holds the symbols of an n-gram, the last one in the lowest bits; a tagged key has the length in the three highest
bits. The table is open addressing over tagged keys, at most half full. An entry has the log-probability of its n-gram
and the log-weight that it gives the shorter context when it is a context.

Price: a look-up is one or two cache misses; a symbol takes two to four of them on text like the reference.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.kernels import inlined, kernel
from penstock.selectors._feature_kernels import _SPREAD, _token

WORD_BITS = 18
_LENGTH_SHIFT = np.uint64(61)
_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)  # the key of no n-gram: seven bytes are 56 bits
_BREAK = 0x0A


def tagged(keys: NDArray[np.uint64], length: int) -> NDArray[np.uint64]:
    """Keys of n-grams of one length with their tag."""
    out: NDArray[np.uint64] = keys | (np.uint64(length) << _LENGTH_SHIFT)
    return out


def keys(
    offsets: NDArray[np.int64], data: NDArray[np.uint8], limit: int, words: bool, order: int
) -> NDArray[np.uint64]:
    """Keys of all n-grams of ``order`` symbols that end in the first ``limit`` bytes of a row: shape (symbols,)."""
    found: NDArray[np.uint64] = (
        _word_keys(offsets, data, limit, order) if words else _byte_keys(offsets, data, limit, order)
    )
    return found


def log_likelihood(
    offsets: NDArray[np.int64],
    data: NDArray[np.uint8],
    limit: int,
    words: bool,
    order: int,
    slots: NDArray[np.uint64],
    logp: NDArray[np.float32],
    backoff: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(sum of log P, symbols) of the first ``limit`` bytes of each row: shape (n,)."""
    loop = _word_likelihood if words else _byte_likelihood
    total, symbols = loop(offsets, data, limit, order, slots, logp, backoff)
    return total, symbols


@inlined
def _slot(key: Any, mask: Any) -> Any:
    h = key * np.uint64(0x9FB21C651E98DF25)
    return np.int64((h ^ (h >> np.uint64(32))) & mask)


@kernel
def table(keys: Any, logp: Any, backoff: Any) -> Any:
    """(slots, logp, backoff) of tagged keys, by slot; an empty slot has the key ``_EMPTY``."""
    size = 16
    while size < 2 * keys.size:
        size *= 2
    mask = np.uint64(size - 1)
    slots = np.full(size, _EMPTY, np.uint64)
    p = np.zeros(size, np.float32)
    b = np.zeros(size, np.float32)
    for k in range(keys.size):
        at = _slot(keys[k], mask)
        while slots[at] != _EMPTY:
            at = (at + 1) & np.int64(mask)
        slots[at] = keys[k]
        p[at] = logp[k]
        b[at] = backoff[k]
    return slots, p, b


@kernel
def _find(slots: Any, mask: Any, key: Any) -> Any:
    """Slot of a tagged key, -1 if it is not there."""
    at = _slot(key, mask)
    while slots[at] != key:
        if slots[at] == _EMPTY:
            return -1
        at = (at + 1) & np.int64(mask)
    return at


@kernel
def log_probability(key: Any, order: Any, bits: Any, slots: Any, logp: Any, backoff: Any) -> Any:
    """log P of the last symbol of an n-gram of ``order`` symbols, given the others."""
    mask = np.uint64(slots.size - 1)
    total = 0.0
    for length in range(order, 0, -1):
        own = key & ((np.uint64(1) << np.uint64(length * bits)) - np.uint64(1))
        at = _find(slots, mask, own | np.uint64(length) << _LENGTH_SHIFT)
        if at >= 0 and not np.isnan(logp[at]):
            return total + logp[at]
        at = _find(slots, mask, (own >> np.uint64(bits)) | np.uint64(length - 1) << _LENGTH_SHIFT)
        if at >= 0:
            total += backoff[at]
    return total - bits * 0.6931471805599453


@inlined
def _begin(order: Any, bits: Any, symbol: Any) -> Any:
    """The key of an n-gram of one symbol alone, which is what stands before a text."""
    key = np.uint64(0)
    for _ in range(order):
        key = key << np.uint64(bits) | np.uint64(symbol)
    return key


@inlined
def _keep(order: Any, bits: Any) -> Any:
    """The bits of a key."""
    return (np.uint64(1) << np.uint64(order * bits)) - np.uint64(1)


@kernel
def _break_symbol() -> Any:
    """The bucket of a line break as a word."""
    line = np.full(1, np.uint8(_BREAK), np.uint8)
    h, _ = _token(line, np.int64(0), np.int64(1))
    return (h * _SPREAD) >> np.uint64(64 - WORD_BITS)


@kernel
def _byte_keys(offsets: Any, data: Any, limit: Any, order: Any) -> Any:
    total = 0
    for row in range(offsets.size - 1):
        total += min(offsets[row + 1] - offsets[row], limit)
    out = np.empty(total, np.uint64)
    keep = _keep(order, 8)
    put = 0
    for row in range(offsets.size - 1):
        key = _begin(order, 8, _BREAK)
        for i in range(offsets[row], min(offsets[row + 1], offsets[row] + limit)):
            key = (key << np.uint64(8) | np.uint64(data[i])) & keep
            out[put] = key
            put += 1
    return out


@kernel
def _word_keys(offsets: Any, data: Any, limit: Any, order: Any) -> Any:
    total = 0
    for row in range(offsets.size - 1):
        total += min(offsets[row + 1] - offsets[row], limit)
    out = np.empty(total, np.uint64)  # at most one word a byte
    keep = _keep(order, WORD_BITS)
    before = _begin(order, WORD_BITS, _break_symbol())
    put = 0
    for row in range(offsets.size - 1):
        at = offsets[row]
        stop = min(offsets[row + 1], at + limit)
        key = before
        while True:
            h, at = _token(data, at, stop)
            if at < 0:
                break
            key = (key << np.uint64(WORD_BITS) | (h * _SPREAD) >> np.uint64(64 - WORD_BITS)) & keep
            out[put] = key
            put += 1
    return out[:put]


@kernel
def _byte_likelihood(offsets: Any, data: Any, limit: Any, order: Any, slots: Any, logp: Any, backoff: Any) -> Any:
    n = offsets.size - 1
    total = np.zeros(n)
    symbols = np.zeros(n, np.int64)
    keep = _keep(order, 8)
    for row in range(n):
        key = _begin(order, 8, _BREAK)
        stop = min(offsets[row + 1], offsets[row] + limit)
        for i in range(offsets[row], stop):
            key = (key << np.uint64(8) | np.uint64(data[i])) & keep
            total[row] += log_probability(key, order, 8, slots, logp, backoff)
        symbols[row] = stop - offsets[row]
    return total, symbols


@kernel
def _word_likelihood(offsets: Any, data: Any, limit: Any, order: Any, slots: Any, logp: Any, backoff: Any) -> Any:
    n = offsets.size - 1
    total = np.zeros(n)
    symbols = np.zeros(n, np.int64)
    keep = _keep(order, WORD_BITS)
    before = _begin(order, WORD_BITS, _break_symbol())
    for row in range(n):
        at = offsets[row]
        stop = min(offsets[row + 1], at + limit)
        key = before
        while True:
            h, at = _token(data, at, stop)
            if at < 0:
                break
            key = (key << np.uint64(WORD_BITS) | (h * _SPREAD) >> np.uint64(64 - WORD_BITS)) & keep
            total[row] += log_probability(key, order, WORD_BITS, slots, logp, backoff)
            symbols[row] += 1
    return total, symbols
