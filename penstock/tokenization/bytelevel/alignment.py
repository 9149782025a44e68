"""Two tokenizations of one text, cut into the smallest spans that hold the same bytes.

    "naïve idea"     first   na | ï | ve |  idea          spans  (0, 1, 0, 1)   na   = na
                     second  na | \\xc3 | \\xaf | ve idea           (1, 2, 1, 3)   ï    = \\xc3 \\xaf
                                                                  (2, 4, 3, 4)   ve idea

A span (i0, i1, j0, j1) says that tokens i0 to i1 (without i1) of the first hold the bytes that tokens j0 to j1 of the
second hold. Nothing is decoded, so a character that is split over tokens is no special case. Tokens without bytes, such
as a beginning or end of text, stand at a cut and are in no span, so it does not matter which side has them.

This is what distillation between models of different tokenizers compares: log P(span) of both is about the same bytes.
A span of one token on each side is a position where both predict from the same bytes.

``AlignTokenizers`` makes both token ids and the spans columns of a batch.

Price: O(n + m) for documents of n and m tokens; encoding the text twice is nearly all of it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from penstock import schema
from penstock.errors import ConfigError, DatasetError, InputError

SPANS = pa.list_(pa.list_(pa.field("item", pa.int32(), nullable=False), 4))


class ByteSpans(NamedTuple):
    """Spans of documents.

    Attributes:
        spans: (s, 4) int32, i0, i1, j0, j1 counted from the first token of the document.
        bounds: (documents + 1,) where those of each document begin.
        equal: (documents,) whether both tokenizations have the same number of bytes; a document where not has no spans.
    """

    spans: NDArray[np.int32]
    bounds: NDArray[np.int64]
    equal: NDArray[np.bool_]

    def column(self) -> pa.ListArray:
        """A row for each document, ``list<fixed_size_list<int32, 4>>``: null where the bytes differ."""
        values = pa.FixedSizeListArray.from_arrays(pa.array(self.spans.reshape(-1)), type=SPANS.value_type)
        mask = None if self.equal.all() else pa.array(~self.equal)
        return pa.ListArray.from_arrays(pa.array(self.bounds.astype(np.int32)), values, type=SPANS, mask=mask)


def align(
    first: ArrayLike,
    second: ArrayLike,
    first_bounds: ArrayLike | None = None,
    second_bounds: ArrayLike | None = None,
) -> ByteSpans:
    """Spans of two tokenizations of the same documents.

    Args:
        first, second: (n,) and (m,) bytes of every token, those of all documents one after another; 0 for a token that
            stands for no text.
        first_bounds, second_bounds: (documents + 1,) where each document begins in them; None is one document.

    Raises:
        InputError: a length is negative, or the bounds are no bounds of as many documents.
    """
    from penstock.tokenization.bytelevel._alignment_kernels import spans_of

    lengths = [_lengths(first, "first"), _lengths(second, "second")]
    bounds = [
        _bounds(given, len(of), name)
        for given, of, name in zip((first_bounds, second_bounds), lengths, ("first", "second"), strict=True)
    ]
    if len(bounds[0]) != len(bounds[1]):
        raise InputError(
            f"align: got {len(bounds[0]) - 1} documents in the first tokenization and {len(bounds[1]) - 1} in the "
            "second, allowed the same documents; give both bounds of every document"
        )
    return ByteSpans(*spans_of(lengths[0], bounds[0], lengths[1], bounds[1]))


def _lengths(given: ArrayLike, name: str) -> NDArray[np.int32]:
    lengths = np.asarray(given)
    if lengths.ndim != 1 or (lengths.size and (lengths.dtype.kind not in "iu" or lengths.min() < 0)):
        raise InputError(
            f"align: got {name} lengths of shape {lengths.shape} and type {lengths.dtype}, allowed one row of whole "
            "numbers >= 0; give the bytes of each token"
        )
    return lengths.astype(np.int32)


def _bounds(given: ArrayLike | None, tokens: int, name: str) -> NDArray[np.int64]:
    bounds = np.asarray([0, tokens] if given is None else given, np.int64)
    if bounds.ndim != 1 or not bounds.size or bounds[0] != 0 or bounds[-1] != tokens or (np.diff(bounds) < 0).any():
        raise InputError(
            f"align: got {name} bounds {bounds.tolist()[:8]} over {tokens} tokens, allowed rising numbers from 0 to "
            f"{tokens}, one more than documents"
        )
    return bounds


@dataclass(frozen=True, kw_only=True)
class AlignTokenizers:
    """Annotator: ids of two tokenizers and ``byte_spans`` between them.

    Attributes:
        first_file, second_file: paths or URLs of ``tokenizer.json`` files.
        first_sha256, second_sha256: hex digests of their bytes, checked when they are loaded.

    Adds ``first_ids`` and ``second_ids`` (lists of uint16 or uint32), without tokens that begin or end a text, and
    ``byte_spans`` (``SPANS``). Text that spells a special token is ordinary text, as in ``Encode``. A space that a
    tokenizer puts in front of a text counts no byte. ``byte_spans`` is null where a normaliser changed the bytes, as
    NFC does to text that is not in it.

    ``annotate`` raises InputError when a file cannot be read, ConfigError when its tokens cannot be read as bytes,
    DatasetError when it is another file or a text is null.
    """

    first_file: str
    first_sha256: str
    second_file: str
    second_sha256: str

    name: ClassVar[str] = "align_tokenizers"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ("first_ids", "second_ids", "byte_spans")

    def setup(self) -> None:
        for path, digest in self._files():
            _load(path, digest)

    def _files(self) -> tuple[tuple[str, str], tuple[str, str]]:
        return (self.first_file, self.first_sha256), (self.second_file, self.second_sha256)

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        text = batch["text"]
        if text.null_count:
            raise DatasetError(f"{self.name}: got {text.null_count} null texts, allowed none; drop them before")
        texts = text.to_pylist()
        (first, of_first, bounds), (second, of_second, other) = (
            _load(path, digest).encode(texts) for path, digest in self._files()
        )
        spans = align(of_first, of_second, bounds, other)
        return {
            "first_ids": pa.ListArray.from_arrays(pa.array(bounds.astype(np.int32)), pa.array(first)),
            "second_ids": pa.ListArray.from_arrays(pa.array(other.astype(np.int32)), pa.array(second)),
            "byte_spans": spans.column(),
        }


@dataclass(frozen=True)
class _Loaded:
    """A tokenizer and the bytes of its tokens."""

    tokenizer: Any
    widths: NDArray[np.int32]  # (V,)
    space_in_front: bool

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int64]]:
        """Ids and bytes of the tokens of all texts, (n,) each, and where each text begins in them."""
        # the fast variant tracks no offsets, which nothing here needs
        rows = [one.ids for one in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        bounds = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]).astype(np.int64)
        if bounds[-1] > 2**31 - 1:
            raise ConfigError(
                f"align_tokenizers: got {bounds[-1]} tokens in a batch, allowed 2**31 - 1; make it smaller"
            )
        dtype = np.dtype(str(schema.token_type(len(self.widths))))
        ids = np.fromiter(chain.from_iterable(rows), dtype, int(bounds[-1]))
        widths = self.widths[ids]
        if self.space_in_front:
            widths[bounds[:-1][np.diff(bounds) > 0]] -= 1
        return ids, widths, bounds


@functools.cache
def _load(path: str, sha256: str) -> _Loaded:
    from penstock.tokenization.bytelevel.reading import read_rules
    from penstock.tokenization.loading import read_checked

    _, tokenizer = read_checked(path, sha256)
    rules = read_rules(tokenizer)
    tokens = dict(rules.tokens) | {number: text.encode() for text, number in rules.added.items()}
    widths = np.zeros(1 + max((*tokens, *rules.special.values())), np.int32)
    widths[list(tokens)] = [len(token) for token in tokens.values()]
    return _Loaded(tokenizer, widths, rules.space_in_front)
