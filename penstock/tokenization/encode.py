"""Turn text into token ids with a trained tokenizer.

Documents are hostile: text that spells a special token, such as ``<|endoftext|>``, is encoded as the
ordinary characters it is. ``tokenizers`` would turn it into the control token even with
``add_special_tokens=False``; only ``encode_special_tokens = True`` stops that, and it is not stored in
``tokenizer.json``, so it is set on every load. Truncation and padding that a file may ask for are switched off.

Every document ends with one end-of-document id. Without it the ids decode to exactly the text when the tokenizer is
byte-level without a normaliser, as ``bpe`` trains it.

A row with learned ranges (column ``learn``, see ``penstock.spans``) gives ``learn_tokens``: the runs of its tokens that
training learns. A token is learned when all its bytes are: one that a border cuts is not, since it shows a part of what
must not be learned. (The mask of ``apply_chat_template`` in transformers takes such a token in; a template whose
borders are special tokens has none.) The closing id is learned when the last byte of the text is. Such a row was
rendered from messages by a source that lets no message spell a marker (``sources._chat``), so there the tokenizer's own
special tokens, all but the end token and the padding, are tokens where the text spells them.

A tokenizer of ``bpe`` is run by the compiled loops of ``piece_encoder``, which give the same ids; any other by
``tokenizers``.

Where a token begins and ends in bytes follows from the vocabulary for a tokenizer of ``bpe``. For any other the
library's offsets are taken; they count characters, and a token of half a character spans the whole of it.

Price, on one core: 30 MB/s of English for a tokenizer of ``bpe``, in memory of a few times the longest document; 3 MB/s
for any other, and some 100 bytes of memory a token of the 1 MB in flight (6 GB for a single line of 50 MB).
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock import schema
from penstock.errors import ConfigError, DatasetError
from penstock.spans import LEARN, learn_ranges
from penstock.tokenization import bpe
from penstock.tokenization.piece_encoder import PieceEncoder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_Ints = NDArray[np.int64]

_BATCH_BYTES = 1 << 20  # text encoded in one call


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Annotator: ``token_ids`` with the end-of-document id at the end, and their number ``tokens``.

    When the batch has ``learn``, also ``learn_tokens``: ``list<int32>`` runs [start, stop, start, stop, …] of the
    tokens that are learned, rising and apart; null is all of them.

    Attributes:
        tokenizer_file: path or URL of a ``tokenizer.json``.
        sha256: hex digest of its bytes, checked when it is loaded.
        end_token: the token that closes a document; it must be in the vocabulary.

    ``token_ids`` is ``list<uint16>``, or ``list<uint32>`` for a vocabulary of more than 65,536 tokens.
    ``annotate`` raises InputError when the file cannot be read or the ranges of a row are none, DatasetError when it is
    not the file that was asked for or a text is null, ConfigError when the end token is unknown.
    """

    tokenizer_file: str
    sha256: str
    end_token: str = bpe.END

    name: ClassVar[str] = "encode"
    revision: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ("token_ids", "tokens", "learn_tokens")

    def __post_init__(self) -> None:
        if not self.tokenizer_file:
            raise ConfigError("tokenizer_file: got nothing, allowed the path of a tokenizer.json; train one first")
        if len(self.sha256) != 64 or set(self.sha256) - set("0123456789abcdef"):
            raise ConfigError(
                f"sha256: got {self.sha256!r}, allowed 64 lower-case hex digits; run: sha256sum {self.tokenizer_file}"
            )
        if not self.end_token:
            raise ConfigError(f"end_token: got nothing, allowed a token of the vocabulary such as {bpe.END}")

    def setup(self) -> None:
        _load(self.tokenizer_file, self.sha256, self.end_token)

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        loaded = _load(self.tokenizer_file, self.sha256, self.end_token)
        text = batch["text"]
        if text.null_count:
            raise DatasetError(f"encode: got {text.null_count} null texts, allowed none; drop them before this step")
        learned = _Learned.of(batch)
        lengths = np.zeros(len(text), dtype=np.int64)
        parts = [np.empty(0, loaded.dtype)]
        for start, stop in _runs(pc.binary_length(text).to_numpy(zero_copy_only=False)):
            texts = text[start:stop]
            if learned is None or not learned.rows[start:stop].any():
                flat, lengths[start:stop] = loaded.encode(texts)
            else:
                flat, lengths[start:stop], bounds = loaded.encode_rendered(texts, learned.rows[start:stop])
                learned.find(start, stop, lengths[start:stop], *bounds)
            parts.append(flat)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        if offsets[-1] > 2**31 - 1:
            raise ConfigError(f"encode: got a batch of {offsets[-1]} tokens, allowed 2**31 - 1; use smaller batches")
        ids = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(np.concatenate(parts)))
        out = {"token_ids": ids, "tokens": pa.array(lengths.astype(np.int32))}
        if "learn" in batch.schema.names:
            out["learn_tokens"] = pa.nulls(len(text), LEARN) if learned is None else learned.column()
        return out


class _Learned:
    """The learned ranges of a batch in bytes, and what they are in tokens, run of rows by run of rows."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        from penstock import _span_kernels as kernels

        self.null = batch["learn"].is_null()
        self.rows = ~self.null.to_numpy(zero_copy_only=False)  # (rows,) which have ranges
        bounds, ranges = learn_ranges(batch)
        # ranges that touch are one: a token over their border is learned
        self._bounds, self._ranges = kernels.join_ranges(bounds // 2, ranges[::2], ranges[1::2])
        self._found: list[tuple[NDArray[np.int32], NDArray[np.int32]]] = []
        self._done = 0  # rows

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> _Learned | None:
        """None where no row has ranges."""
        if "learn" not in batch.schema.names or batch["learn"].null_count == batch.num_rows:
            return None
        return cls(batch)

    def find(self, start: int, stop: int, lengths: _Ints, row_bytes: _Ints, starts: _Ints, ends: _Ints) -> None:
        """Take in rows ``start`` to ``stop``.

        Args:
            lengths: (n,) tokens of each row with the closing id.
            row_bytes: (n + 1,) where each row begins in the bytes of these rows, one after another.
            starts, ends: (tokens,) of every token but the closing ids in these bytes.
        """
        from penstock import _span_kernels as kernels

        bounds = self._bounds[start : stop + 1].astype(np.int64)
        ranges = self._ranges[bounds[0] : bounds[-1]]
        row = np.repeat(np.arange(stop - start), np.diff(bounds) // 2)
        first_token = np.concatenate([[0], np.cumsum(lengths - 1)])
        low, high = ranges[::2] + row_bytes[row], ranges[1::2] + row_bytes[row]
        first = np.searchsorted(starts, low, side="left")
        last = np.maximum(np.searchsorted(ends, high, side="right"), first)
        # a range up to the end of the text holds the closing id
        last += high == row_bytes[row + 1]
        relative = (bounds - bounds[0]) // 2
        self._skip(start)
        self._found.append(kernels.join_ranges(relative, first - first_token[row], last - first_token[row]))
        self._done = stop

    def _skip(self, row: int) -> None:
        """Rows up to ``row`` have no ranges."""
        if row > self._done:
            self._found.append((np.zeros(row - self._done + 1, np.int32), np.zeros(0, np.int32)))

    def column(self) -> pa.Array:
        self._skip(len(self.rows))
        counts = np.concatenate([np.diff(bounds) for bounds, _ in self._found])
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        values = np.concatenate([runs for _, runs in self._found])
        mask = self.null if self.null.true_count else None
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), type=LEARN, mask=mask)


@dataclass(frozen=True)
class _Loaded:
    """A tokenizer ready for hostile text."""

    tokenizer: Tokenizer
    end_id: int
    dtype: np.dtype[Any]
    markers: dict[str, int]  # special tokens that rendered text may spell
    pieces: PieceEncoder | None  # where nothing but `bpe.PATTERN` and merges decides

    def encode(self, texts: pa.Array) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Ids of all texts, each closed by the end id: flat (tokens,), and how many of each text (n,)."""
        if self.pieces is not None:
            return self.pieces.encode(texts, self.dtype, self.end_id)
        # the fast variant tracks no offsets, which nothing here needs
        encodings = self.tokenizer.encode_batch_fast(texts.to_pylist(), add_special_tokens=False)
        ids = [encoding.ids for encoding in encodings]
        for row in ids:
            row.append(self.end_id)
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        return np.fromiter(chain.from_iterable(ids), self.dtype, int(lengths.sum())), lengths

    def encode_rendered(
        self, texts: pa.Array, rendered: NDArray[np.bool_]
    ) -> tuple[NDArray[Any], _Ints, tuple[_Ints, _Ints, _Ints]]:
        """Like ``encode``, with markers as tokens in rendered texts; then the last arguments of ``_Learned.find``."""
        pattern = bpe.special_pattern(self.markers)
        pieces: list[str] = []
        given: list[int] = []  # a marker's id or the end id, -1 for a piece of text
        sizes: list[int] = []  # bytes
        for text, marked in zip(texts.to_pylist(), rendered.tolist(), strict=True):
            for i, part in enumerate(pattern.split(text) if marked and pattern else [text]):
                if i % 2 == 0:
                    pieces.append(part)
                given.append(self.markers[part] if i % 2 else -1)
                sizes.append(len(part.encode()))
            given.append(self.end_id)
            sizes.append(0)
        ids, counts, starts, ends = self._located(pieces)
        kinds, widths = np.array(given), np.array(sizes)
        fixed = kinds >= 0
        tokens = np.ones(kinds.size, np.int64)
        tokens[~fixed] = counts
        at, base = np.cumsum(tokens) - tokens, np.cumsum(widths) - widths

        ordinary = np.ones(int(tokens.sum()), np.bool_)
        ordinary[at[fixed]] = False
        flat = np.empty(ordinary.size, self.dtype)
        flat[ordinary], flat[~ordinary] = ids, kinds[fixed]
        begins, stops = np.empty(flat.size, np.int64), np.empty(flat.size, np.int64)
        of_piece = np.repeat(base[~fixed], counts)
        begins[ordinary], stops[ordinary] = of_piece + starts, of_piece + ends
        begins[~ordinary], stops[~ordinary] = base[fixed], (base + widths)[fixed]

        closing = kinds == self.end_id
        lengths = np.diff(at[closing] + 1, prepend=0)
        row_bytes = np.concatenate([np.zeros(1, np.int64), base[closing]])
        return flat, lengths, (row_bytes, np.delete(begins, at[closing]), np.delete(stops, at[closing]))

    def _located(self, texts: list[str]) -> tuple[NDArray[Any], _Ints, _Ints, _Ints]:
        """Ids of all texts (tokens,), how many of each (n,), and where in its text's bytes each starts and ends."""
        if self.pieces is not None:
            flat, counts = self.pieces.encode(pa.array(texts, pa.large_string()), self.dtype)
            ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.pieces.widths[flat])])
            first = np.repeat(ends[np.cumsum(counts) - counts], counts)
            return flat, counts, ends[:-1] - first, ends[1:] - first
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        counts = np.fromiter(map(len, encodings), np.int64, len(encodings))
        spans = [np.zeros((0, 2), np.int64)]
        for text, encoding in zip(texts, encodings, strict=True):
            codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
            bytes_of = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
            place = np.concatenate([np.zeros(1, np.int64), np.cumsum(bytes_of)])
            spans.append(place[np.array(encoding.offsets, np.int64).reshape(-1, 2)])
        flat = np.fromiter(chain.from_iterable(e.ids for e in encodings), self.dtype, int(counts.sum()))
        bounds = np.concatenate(spans)
        return flat, counts, bounds[:, 0], bounds[:, 1]


def _runs(sizes: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Half-open row ranges whose text ends in the same ``_BATCH_BYTES`` of the batch."""
    block = np.cumsum(sizes) // _BATCH_BYTES
    edges = np.flatnonzero(np.diff(block, prepend=-1, append=-1))
    yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)


@functools.cache
def _load(tokenizer_file: str, sha256: str, end_token: str) -> _Loaded:
    from penstock.tokenization.loading import read_checked

    # passes run one process a core, so threads inside a worker would only fight; the variable is read on every call
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    content, tokenizer = read_checked(tokenizer_file, sha256)
    end_id = tokenizer.token_to_id(end_token)
    if end_id is None:
        raise ConfigError(
            f"end_token: got {end_token!r}, which {tokenizer_file} does not hold; "
            f"its special tokens are {', '.join(_special(tokenizer)) or 'none'}"
        )
    size = bpe.vocabulary_size(content)
    dtype = np.dtype(str(schema.token_type(size)))
    markers = {name: tokenizer.token_to_id(name) for name in _special(tokenizer) if name not in (end_token, bpe.PAD)}
    return _Loaded(tokenizer, end_id, dtype, markers, PieceEncoder.of(json.loads(content)))


def _special(tokenizer: Tokenizer) -> list[str]:
    return [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
