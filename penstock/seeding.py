"""Randomness as an argument: streams from a seed and a path, and coins from a row's id.

Two rules keep every result independent of workers, splits and order. A stream is
``SeedSequence([seed, *path])``, never ``seed + i`` (seed 0, index 1 would be seed 1, index 0).
A decision about a row is a hash of the row's id and the seed, so the row carries its coin with it.

Price: one blake2b per id when it is made (about 1M ids/s); every later coin is vectorised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1


def _word(part: int | str) -> int:
    """One path element as an unsigned 64-bit integer; strings by blake2b, so equal on every machine."""
    if isinstance(part, str):
        return int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest(), "little")
    return int(part) & _MASK


def stream(seed: int, *path: int | str) -> np.random.Generator:
    """A generator of its own for every (seed, path)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([_word(seed), *map(_word, path)])))


def derive(seed: int, *path: int | str) -> int:
    """A 63-bit child seed for libraries that want one integer."""
    return int(stream(seed, *path).integers(0, 2**63 - 1))


def hash_ids(ids: Iterable[str]) -> NDArray[np.uint64]:
    """First 8 bytes (little-endian) of blake2b of each id: shape (n,), uint64."""
    return np.fromiter((_word(i) for i in ids), dtype=np.uint64)


def mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The splitmix64 finaliser, a bijection of 64-bit integers (Steele, Lea, Flood 2014)."""
    x = np.asarray(x, dtype=np.uint64)
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def rehash(id_hash: NDArray[np.uint64], seed: int, *path: int | str) -> NDArray[np.uint64]:
    """``id_hash`` (n,) mixed with a seed and a path: a new independent 64-bit hash per row."""
    out = np.asarray(id_hash, dtype=np.uint64)
    for part in (seed, *path):
        # the golden-ratio offset keeps seed 0 from being mix64(0) = 0, a no-op
        word = np.array([(_word(part) + 0x9E3779B97F4A7C15) & _MASK], dtype=np.uint64)
        out = mix64(out ^ mix64(word))
    return out


def coins(id_hash: NDArray[np.uint64], seed: int, *path: int | str) -> NDArray[np.float64]:
    """One uniform number in [0, 1) per row with 53 bits, never rounded up to 1.0: shape (n,)."""
    out: NDArray[Any] = rehash(id_hash, seed, *path) >> np.uint64(11)
    return out.astype(np.float64) * 2.0**-53
