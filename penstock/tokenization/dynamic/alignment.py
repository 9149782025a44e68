"""Labels of base tokens, moved to the merged tokens that cover them.

Labels live in the base vocabulary, inputs are merged: a merged token covers ``batch.starts`` to ``batch.stops`` of the
base tokens. ``IGNORED`` is the label that losses of torch and transformers leave out.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.errors import ConfigError, InputError
from penstock.tokenization.dynamic.batch import DynamicBatch
from penstock.tokenization.dynamic.vocabulary import BaseVocabulary, Ints

IGNORED = -100
Take = Literal["first", "last"]


def next_token_labels(batch: DynamicBatch) -> Ints:
    """(T,) for a causal model: the base token after each merged token, ``IGNORED`` at the end of a row.

    The labels stand at the places they are predicted from; a loss that shifts them itself must not be given these.
    """
    out = np.full(len(batch.ids), IGNORED, np.int64)
    inner = np.ones(len(batch.ids), np.bool_)
    inner[batch.offsets[1:][batch.lengths > 0] - 1] = False
    out[inner] = batch.base_ids[batch.stops[inner]]
    return out


def merged_labels(batch: DynamicBatch, labels: ArrayLike, take: Take = "first") -> NDArray[np.int64]:
    """(T,) labels of merged tokens from those of base tokens (B,): that of the first or the last token covered.

    Raises:
        InputError: not one label for each base token.
        ConfigError: an unknown ``take``.
    """
    if take not in get_args(Take):
        raise ConfigError(f"take: got {take!r}, allowed {', '.join(get_args(Take))}")
    given = np.asarray(labels, np.int64).reshape(-1)
    if given.size != len(batch.base_ids):
        raise InputError(
            f"labels: got {given.size}, allowed {len(batch.base_ids)}, one for each base token of the batch"
        )
    return given[batch.starts] if take == "first" else given[batch.stops - 1]


def byte_spans(batch: DynamicBatch, base: BaseVocabulary) -> Ints:
    """(T, 2) where each merged token begins and ends in the bytes of its row; a special token has none."""
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(base.sizes[batch.base_ids])])
    row_start = np.repeat(ends[batch.base_offsets[:-1]], batch.lengths)
    out: Ints = np.stack([ends[batch.starts], ends[batch.stops]], axis=1) - row_start[:, None]
    return out
