"""Distinct pieces of text (pretokens) and how often each occurs: what a BPE trainer learns from.

Pieces of ``bpe.PATTERN`` are cut and counted by compiled loops. Those of any other tokenizer are cut by
its own normalizer and pre-tokenizer, which is far slower. Counts are 64-bit. Texts come as an iterator and are taken a
few megabytes at a time, so the memory is that of the distinct pieces: their bytes and some 40 a piece.

Price: 40 MB/s on one core for ``bpe.PATTERN``, 1 to 3 MB/s for others.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BATCH = 1 << 22  # bytes of text counted in one call


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Distinct pieces.

    Attributes:
        data: (n,) uint8, the bytes of all pieces.
        offsets: (pieces + 1,) int64, where each begins in ``data``.
        counts: (pieces,) int64, how often each occurs.
        texts: how many texts were read.
        size: UTF-8 bytes read.
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    texts: int
    size: int


class PieceCounter:
    """Counts pieces, batch by batch.

    Args:
        from_right: whether digits are grouped from the right; for ``add_texts``.
    """

    def __init__(self, *, from_right: bool = False) -> None:
        from penstock.tokenization import _piece_kernels as kernels

        self._from_right = from_right
        self._scalars = np.zeros(kernels.SCALARS, np.int64)
        self._slots = np.full(1 << 17, kernels.NONE, np.int32)
        self._hashes = np.empty(1 << 16, np.uint64)
        self._starts = np.zeros((1 << 16) + 1, np.int64)
        self._counts = np.zeros(1 << 16, np.int64)
        self._pool = np.empty(1 << 20, np.uint8)

    def add_texts(self, texts: pa.Array) -> None:
        """Count the pieces of ``bpe.PATTERN`` in a string array without nulls."""
        from penstock.tokenization import _piece_kernels as kernels

        data, offsets = buffers(texts)
        classes = character_classes()
        while not kernels.count_texts(self._scalars, *self._table, data, offsets, classes, self._from_right):
            self._grow()

    def add_words(self, words: dict[bytes, int]) -> None:
        """Count pieces that were cut elsewhere."""
        from penstock.tokenization import _piece_kernels as kernels

        data, offsets = buffers(pa.array(list(words), pa.binary()))
        times = np.fromiter(words.values(), np.int64, len(words))
        while not kernels.count_words(self._scalars, *self._table, data, offsets, times):
            self._grow()

    def pieces(self, *, texts: int, size: int) -> Pieces:
        from penstock.tokenization import _piece_kernels as kernels

        words, used = int(self._scalars[kernels.WORDS]), int(self._scalars[kernels.BYTES])
        return Pieces(
            data=self._pool[:used],
            offsets=self._starts[: words + 1],
            counts=self._counts[:words],
            texts=texts,
            size=size,
        )

    @property
    def _table(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        return self._slots, self._hashes, self._starts, self._pool, self._counts

    def _grow(self) -> None:
        """Room for twice as many words, or for twice as many bytes where there is room for words."""
        from penstock.tokenization import _piece_kernels as kernels

        words = int(self._scalars[kernels.WORDS])
        if words < len(self._hashes):
            self._pool = _twice(self._pool)
            return
        self._hashes, self._counts = _twice(self._hashes), _twice(self._counts)
        self._starts = np.concatenate([self._starts, np.zeros(words, np.int64)])
        self._slots = np.full(2 * len(self._slots), kernels.NONE, np.int32)
        kernels.fill_slots(self._slots, self._hashes, words)


def count_pieces(texts: Iterable[str], *, from_right: bool = False) -> Pieces:
    """Distinct pieces of ``bpe.PATTERN``. Their order follows that of the texts; nothing learned from them does.

    Args:
        from_right: whether digits are grouped from the right.
    """
    counter = PieceCounter(from_right=from_right)
    number = size = 0
    for batch in text_batches(texts, _BATCH):
        array = pa.array(batch, pa.large_string())
        number += len(batch)
        size += len(buffers(array)[0])
        counter.add_texts(array)
    return counter.pieces(texts=number, size=size)


def count_pieces_of(tokenizer: Tokenizer, texts: Iterable[str]) -> Pieces:
    """Distinct pieces that a byte-level tokenizer's own normalizer and pre-tokenizer make."""
    counter = PieceCounter()
    number = size = 0
    to_bytes = {ord(letter): byte for byte, letter in enumerate(byte_letters())}
    normalizer, cutter = tokenizer.normalizer, tokenizer.pre_tokenizer
    for batch in text_batches(texts, _BATCH):
        found: Counter[str] = Counter()
        for text in batch:
            size += len(text.encode())
            plain = normalizer.normalize_str(text) if normalizer else text
            found.update(piece for piece, _ in cutter.pre_tokenize_str(plain))
        number += len(batch)
        counter.add_words({piece.translate(to_bytes).encode("latin-1"): n for piece, n in found.items()})
    return counter.pieces(texts=number, size=size)


def buffers(texts: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Bytes of a string or binary array and (n + 1,) where each row begins in them; without a copy of the bytes."""
    wide = pa.types.is_large_string(texts.type) or pa.types.is_large_binary(texts.type)
    _, places, data = texts.buffers()
    if places is None or len(texts) == 0:
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    offsets = np.frombuffer(places, np.int64 if wide else np.int32)[texts.offset : texts.offset + len(texts) + 1]
    first = int(offsets[0])
    flat = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)[first : int(offsets[-1])]
    return flat, offsets.astype(np.int64) - first


@functools.cache
def character_classes() -> NDArray[np.uint8]:
    """(0x110000,) class of every character in ``_piece_kernels``."""
    from penstock.tokenization import _character_classes as ranges
    from penstock.tokenization import _piece_kernels as kernels

    out = np.full(0x110000, kernels.OTHER, np.uint8)
    named = ((ranges.LETTERS, kernels.LETTER), (ranges.NUMBERS, kernels.NUMBER), (ranges.SPACES, kernels.SPACE))
    for text, number in named:
        for part in text.split():
            low, _, high = part.partition("-")
            out[int(low, 16) : int(high or low, 16) + 1] = number
    out[[10, 13]] = kernels.NEWLINE
    return out


@functools.cache
def byte_letters() -> tuple[str, ...]:
    """The letter that stands for each byte in a byte-level vocabulary (Radford et al. 2019)."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return tuple(chr(byte) if byte in shown else chr(next(hidden)) for byte in range(256))


def text_batches(texts: Iterable[str], characters: int) -> Iterator[list[str]]:
    """Texts in order, in lists of at least so many characters but for the last."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _twice(array: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([array, np.zeros_like(array)])
