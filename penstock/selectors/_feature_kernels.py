"""numba kernels that hash word unigrams and bigrams straight from UTF-8 buffers.

A token is a run of letters and digits (ASCII letters lower-cased, every digit read as 0), a single ASCII
punctuation mark, a line break, or one character of a script written without spaces (U+3000 to U+FFFF and
beyond). Blanks only separate. Other non-ASCII bytes belong to words, except the U+2000 block
(dashes, quotes, spaces), which separates. Each token and each pair of neighbours falls into one of
2**bits buckets.

Price: one multiplication per byte and one memory access per token and pair, no allocation per document.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.kernels import inlined, kernel

_PRIME = np.uint64(0x100000001B3)
_BASIS = np.uint64(0xCBF29CE484222325)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_PAIR = np.uint64(0xBF58476D1CE4E5B9)


def _byte_classes() -> tuple[Any, Any]:
    """(class, folded byte) of each byte: 0 blank, 1 word, 2 mark, 3 opens a character of its own (3 or 4 bytes)."""
    kind = np.full(256, 2, dtype=np.uint8)
    fold = np.arange(256, dtype=np.uint8)
    for byte in range(256):
        if byte <= 0x20 or byte == 0x7F:
            kind[byte] = 2 if byte == 0x0A else 0
        elif chr(byte).isascii() and chr(byte).isalnum():
            kind[byte] = 1
            fold[byte] = ord("0") if chr(byte).isdigit() else ord(chr(byte).lower())
        elif byte >= 0xE3:
            kind[byte] = 3
        elif byte >= 0x80:
            kind[byte] = 1
    return kind, fold


_KIND, _FOLD = _byte_classes()


@inlined
def _token(data: Any, at: Any, stop: Any) -> Any:
    """(hash, end) of the token at or after ``at``; the end is -1 when none is left."""
    while at < stop:
        byte = data[at]
        kind = _KIND[byte]
        if kind == 0:
            at += 1
        elif byte == 0xE2 and at + 1 < stop and (data[at + 1] == 0x80 or data[at + 1] == 0x81):
            at += 3
        else:
            h = (_BASIS ^ np.uint64(_FOLD[byte])) * _PRIME
            at += 1
            if kind == 3:
                end = min(stop, at + (3 if byte >= 0xF0 else 2))
                while at < end:
                    h = (h ^ np.uint64(data[at])) * _PRIME
                    at += 1
            elif kind == 1:
                while at < stop and _KIND[data[at]] == 1:
                    byte = data[at]
                    if byte == 0xE2 and at + 1 < stop and (data[at + 1] == 0x80 or data[at + 1] == 0x81):
                        break
                    h = (h ^ np.uint64(_FOLD[byte])) * _PRIME
                    at += 1
            return h, at
    return np.uint64(0), np.int64(-1)


@kernel
def count_features(data: Any, starts: Any, limit: Any, bits: Any) -> Any:
    """(indptr, buckets) of the first ``limit`` bytes of each document, repeats included.

    Document i is data[starts[i]:starts[i + 1]]; its buckets are buckets[indptr[i]:indptr[i + 1]].
    """
    n = starts.shape[0] - 1
    down = np.uint64(64 - bits)
    indptr = np.zeros(n + 1, dtype=np.int64)
    for i in range(n):
        stop = min(starts[i + 1], starts[i] + limit)
        at = starts[i]
        tokens = 0
        while True:
            _, at = _token(data, at, stop)
            if at < 0:
                break
            tokens += 1
        indptr[i + 1] = indptr[i] + max(2 * tokens - 1, 0)
    buckets = np.empty(indptr[n], dtype=np.int32)
    for i in range(n):
        stop = min(starts[i + 1], starts[i] + limit)
        at = starts[i]
        put = indptr[i]
        last = np.uint64(0)
        while True:
            h, at = _token(data, at, stop)
            if at < 0:
                break
            if put > indptr[i]:
                buckets[put] = np.int32(((last * _PAIR ^ h) * _SPREAD) >> down)
                put += 1
            buckets[put] = np.int32((h * _SPREAD) >> down)
            put += 1
            last = h
    return indptr, buckets


@kernel
def mean_weight(data: Any, starts: Any, limit: Any, bits: Any, weights: Any) -> Any:
    """Mean of ``weights`` over the buckets of each document, 0 without tokens: shape (n,), float64."""
    n = starts.shape[0] - 1
    down = np.uint64(64 - bits)
    out = np.zeros(n, dtype=np.float64)
    for i in range(n):
        stop = min(starts[i + 1], starts[i] + limit)
        at = starts[i]
        last = np.uint64(0)
        total = 0.0
        count = 0
        while True:
            h, at = _token(data, at, stop)
            if at < 0:
                break
            if count > 0:
                total += weights[np.int64(((last * _PAIR ^ h) * _SPREAD) >> down)]
                count += 1
            total += weights[np.int64((h * _SPREAD) >> down)]
            count += 1
            last = h
        if count > 0:
            out[i] = total / count
    return out
