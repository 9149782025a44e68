"""Words of bytes, for models that pool a word at a time (Learn Your Tokens, arXiv 2310.11628).

A word is the white space before it and the run of other characters that follows, so words tile a text; white space at
the end is a word of its own. White space is that of ASCII: bytes of longer characters never part a word.

    cut = word_patches(["a", "b"], pa.array(["two words", "one"]))          # PATCHES, rule "word"
    pooled = pool(cut, width=16)                                             # (words, width) bytes and their masks

Price: some 200 MB/s to find words; a pooled batch takes two bytes a place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.tokenization.patches.byte_lm import bytes_of
from penstock.tokenization.patches.schema import patches_batch

PAD = -1
_SPACE = np.isin(np.arange(256), np.frombuffer(b" \t\n\v\f\r", np.uint8))


def word_patches(doc_ids: Sequence[str], texts: pa.Array) -> pa.RecordBatch:
    """Texts (string or binary) cut into words: a batch of ``schema.PATCHES``."""
    data, bounds = bytes_of(texts)
    space = _SPACE[data]
    starts = np.zeros(data.size, np.bool_)
    starts[1:] = space[1:] & ~space[:-1]
    starts[bounds[:-1][np.diff(bounds) > 0]] = True
    at = np.flatnonzero(starts)
    counts = np.bincount(np.searchsorted(bounds, at, side="right") - 1, minlength=len(texts)).astype(np.int64)
    lengths = np.diff(at, append=data.size).astype(np.int64)
    return patches_batch(doc_ids, texts, lengths, counts, rule="word", params={})


@dataclass(frozen=True)
class Pooled:
    """Patches as rows.

    Attributes:
        values: (n, width) int16 bytes, ``PAD`` behind the end.
        lengths: (n,) int32 bytes of each row.
        text: (n,) int32 which text of the batch it is of.
        word: (n,) int32 which patch of its text; equal for rows that one patch was cut into.
        offset: (n,) int64 where it begins in its text's bytes.
    """

    values: NDArray[np.int16]
    lengths: NDArray[np.int32]
    text: NDArray[np.int32]
    word: NDArray[np.int32]
    offset: NDArray[np.int64]


def pool(batch: pa.RecordBatch, width: int) -> Pooled:
    """Patches of a batch of ``schema.PATCHES`` as rows of ``width`` bytes; a longer one takes several rows.

    Raises ConfigError for a width below 1.
    """
    from penstock.tokenization.patches import _byte_kernels as kernels

    if width < 1:
        raise ConfigError(f"width: got {width}, allowed 1 byte or more")
    data, bounds = bytes_of(batch["bytes"])
    lists = batch["patch_lengths"]
    per_text = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    whole = lists.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    lengths, pieces = kernels.split_long(whole, width)
    word = np.arange(len(whole)) - np.repeat(np.cumsum(per_text) - per_text, per_text)
    text = np.repeat(np.arange(len(per_text)), per_text)
    owner = np.repeat(text, pieces)
    begin = np.cumsum(lengths) - lengths
    values = np.full((len(lengths), width), PAD, np.int16)
    row = np.repeat(np.arange(len(lengths)), lengths)
    values[row, np.arange(data.size) - np.repeat(begin, lengths)] = data
    return Pooled(
        values,
        lengths.astype(np.int32),
        owner.astype(np.int32),
        np.repeat(word, pieces).astype(np.int32),
        begin - bounds[owner],
    )
