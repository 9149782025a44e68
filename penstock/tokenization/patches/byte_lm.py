"""A small language model of bytes: n-grams with Witten-Bell smoothing, in whole numbers.

    model = train_byte_lm(texts, order=5)
    nats = entropies(model, pa.array(["one text", "another"]))        # (bytes of all,)
    path, digest = model.save("models/bytes")
    model = ByteLM.load(path, digest)

P(b | c) = (n(c b) + T(c) P(b | c without its first byte)) / (n(c) + T(c)), where T(c) counts the different bytes that
followed context c (Witten and Bell 1991, method C); without context, one is added to every byte's count. Every byte has
a probability after every context. Contexts end at the beginning of a text.

It stands where others train a transformer: boundaries of entropy patches and windows of equal information need no more
than a fair idea of what surprises, and whole numbers make an arithmetic code decode on any machine.

Price: training sorts 8 bytes an order for each byte of text, 1 to 2 s a MB at order 5, and holds some 16 bytes for each
distinct n-gram; entropies come at some 500 kB/s a core.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import ConfigError, DatasetError
from penstock.selectors import artifact

MOST_ORDER = 7  # bytes of a context that fit beside its length into 64 bits
_MOST_BYTES = 2**31 - 1
_FACTS = "byte-lm"
NEWLINE = 10


@dataclass(frozen=True, eq=False)
class ByteLM:
    """Counts of n-grams.

    Attributes:
        order: bytes of the longest context.
        base: (256,) int64, how often each byte occurs.
        keys: (c,) int64 contexts, ``length << 56 | bytes``, the latest byte lowest; rising.
        starts: (c + 1,) int64, where the followers of each begin in the next two.
        symbols: uint8 followers.
        counts: int64, how often each followed.
    """

    order: int
    base: NDArray[np.int64]
    keys: NDArray[np.int64]
    starts: NDArray[np.int64]
    symbols: NDArray[np.uint8]
    counts: NDArray[np.int64]

    @cached_property
    def tables(self) -> tuple[NDArray[Any], ...]:
        """What the kernels read (``_byte_kernels``)."""
        from penstock.tokenization.patches import _byte_kernels as kernels

        slots = np.full(1 << max(4, (2 * len(self.keys)).bit_length()), kernels.NONE, np.int32)
        kernels.fill(slots, self.keys.copy())
        sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts)])
        totals = sums[self.starts[1:]] - sums[self.starts[:-1]]
        base = ((self.base + 1) << kernels.ONE) // (int(self.base.sum()) + 256)
        # arrays of an artifact are read-only, which to the kernels is another type, compiled once more
        return base, slots, *(array.copy() for array in (self.keys, self.starts, self.symbols, self.counts)), totals

    @property
    def trained_bytes(self) -> int:
        """Of the text it was trained on."""
        return int(self.base.sum())

    def probabilities(self, context: bytes) -> NDArray[np.float64]:
        """(256,) of the next byte after a context; they sum to 1 less what rounding took, under a millionth."""
        from penstock.tokenization.patches import _byte_kernels as kernels

        out = np.empty(256, np.int64)
        data = np.frombuffer(context, np.uint8).copy()
        kernels.predict(self.tables, self.order, data, 0, len(data), out)
        return out / float(1 << kernels.ONE)

    def save(self, folder: str) -> tuple[str, str]:
        """Write it into a folder: its path, and the digest that ``load`` wants, which is its revision."""
        arrays = {name: getattr(self, name) for name in ("base", "keys", "starts", "symbols", "counts")}
        return artifact.save(folder, _FACTS, arrays, {"order": self.order})

    @classmethod
    def load(cls, path: str, digest: str) -> ByteLM:
        """The model that ``save`` wrote. Raises DatasetError when it is another one, or none."""
        found = artifact.load(path, digest)
        if set(found.arrays) != {"base", "keys", "starts", "symbols", "counts"} or "order" not in found.facts:
            raise DatasetError(f"{path}: no byte language model; give what ByteLM.save wrote")
        return cls(order=int(found.facts["order"]), **found.arrays)


def train_byte_lm(texts: Iterable[str | bytes], order: int = 5) -> ByteLM:
    """Count n-grams of up to ``order`` bytes of context.

    Raises:
        ConfigError: an order out of 1 to 7.
        DatasetError: no byte of text, or 2 GiB of it.
    """
    if not 1 <= order <= MOST_ORDER:
        raise ConfigError(f"order: got {order}, allowed 1 to {MOST_ORDER} bytes of context; 5 is usual")
    raw = [text.encode() if isinstance(text, str) else text for text in texts]
    data = np.frombuffer(b"".join(raw), np.uint8)
    if not 0 < data.size <= _MOST_BYTES:
        raise DatasetError(f"byte language model: got {data.size} bytes of text, allowed 1 to {_MOST_BYTES}")
    sizes = np.fromiter(map(len, raw), np.int64, len(raw))
    before = np.arange(data.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # bytes of the text before each
    context = np.zeros(data.size, np.int64)
    parts = []
    for k in range(1, order + 1):
        context[k:] |= data[:-k].astype(np.int64) << (8 * (k - 1)) if k < data.size else 0
        there = before >= k
        keys = context[there] | (k << 56)
        followers = data[there]
        # two stable passes instead of a key of nine bytes
        by_follower = np.argsort(followers, kind="stable")
        order_of = by_follower[np.argsort(keys[by_follower], kind="stable")]
        keys, followers = keys[order_of], followers[order_of]
        new = np.ones(keys.size, np.bool_)
        new[1:] = (keys[1:] != keys[:-1]) | (followers[1:] != followers[:-1])
        at = np.flatnonzero(new)
        parts.append((keys[at], followers[at], np.diff(np.r_[at, keys.size])))
    keys, followers, counts = (np.concatenate([part[i] for part in parts]) for i in range(3))
    first = np.ones(keys.size, np.bool_)
    first[1:] = keys[1:] != keys[:-1]
    starts = np.r_[np.flatnonzero(first), keys.size].astype(np.int64)
    base = np.bincount(data, minlength=256).astype(np.int64)
    return ByteLM(order, base, keys[starts[:-1]], starts, followers, counts.astype(np.int64))


def entropies(model: ByteLM, texts: pa.Array, *, reset_at_newline: bool = False) -> NDArray[np.float64]:
    """Entropy in nats of the next byte before each byte of texts, one text after another: (bytes,).

    Args:
        reset_at_newline: a line is predicted from itself alone, so that entropies do not drift along a document
            that repeats itself.
    """
    from penstock.tokenization.patches import _byte_kernels as kernels

    data, bounds = bytes_of(texts)
    out = np.empty(data.size)
    kernels.entropies(model.tables, model.order, data, bounds, NEWLINE if reset_at_newline else kernels.NONE, out)
    return out


def bytes_of(texts: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All bytes of a string or binary array, one row after another, and where each row begins (rows + 1,).

    Raises DatasetError where a row is null.
    """
    if texts.null_count:
        raise DatasetError(f"texts: got {texts.null_count} null, allowed none; drop them before")
    flat = texts.cast(pa.large_binary())
    buffers = flat.buffers()
    offsets = np.frombuffer(buffers[1], np.int64)[flat.offset : flat.offset + len(flat) + 1]
    if not len(flat) or buffers[2] is None:
        return np.zeros(0, np.uint8), np.zeros(len(flat) + 1, np.int64)
    return np.frombuffer(buffers[2], np.uint8)[offsets[0] : offsets[-1]].copy(), offsets - offsets[0]
