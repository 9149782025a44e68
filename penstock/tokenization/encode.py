"""Turn text into token ids with a trained tokenizer.

Documents are hostile: text that spells a special token, such as ``<|endoftext|>``, is encoded as the
ordinary characters it is. ``tokenizers`` would turn it into the control token even with
``add_special_tokens=False``; only ``encode_special_tokens = True`` stops that, and it is not stored in
``tokenizer.json``, so it is set on every load. Truncation and padding that a file may ask for are switched off.

Every document ends with one end-of-document id. Without it the ids decode to exactly the text when the tokenizer is
byte-level without a normaliser, as ``bpe`` trains it.

A document longer than ``_WINDOW`` characters is encoded in windows. The last pieces of a window are thrown away
and the next window starts where they began; a piece that starts ``bpe.LOOK_AHEAD`` characters before
the end of a window cannot depend on what follows, so the ids equal those of the whole document. That holds for
the pre-tokenizer of ``bpe`` only: with any other tokenizer a long document is encoded in one go.

Price, on one core: 3 MB/s of English, and some 100 bytes of memory a token of the 1 MB in flight. A single line
of 50 MB adds 0.2 to 0.4 GB in windows and 6 GB in one go.
"""

from __future__ import annotations

import functools
import hashlib
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
from penstock.errors import ConfigError, DatasetError, InputError
from penstock.tokenization import bpe

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WINDOW = 1 << 18  # characters
_BATCH_BYTES = 1 << 20  # text encoded in one call


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Annotator: ``token_ids`` with the end-of-document id at the end, and their number ``tokens``.

    Attributes:
        tokenizer_file: path or URL of a ``tokenizer.json``.
        sha256: hex digest of its bytes, checked when it is loaded.
        end_token: the token that closes a document; it must be in the vocabulary.

    ``token_ids`` is ``list<uint16>``, or ``list<uint32>`` for a vocabulary of more than 65,536 tokens.
    ``annotate`` raises InputError when the file cannot be read, DatasetError when it is not the file that was
    asked for or a text is null, ConfigError when the end token is unknown.
    """

    tokenizer_file: str
    sha256: str
    end_token: str = bpe.END

    name: ClassVar[str] = "encode"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ("token_ids", "tokens")

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
        lengths = np.zeros(len(text), dtype=np.int64)
        parts = [np.empty(0, loaded.dtype)]
        for start, stop in _runs(pc.binary_length(text).to_numpy(zero_copy_only=False)):
            flat, lengths[start:stop] = loaded.encode(text[start:stop].to_pylist())
            parts.append(flat)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        if offsets[-1] > 2**31 - 1:
            raise ConfigError(f"encode: got a batch of {offsets[-1]} tokens, allowed 2**31 - 1; use smaller batches")
        ids = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(np.concatenate(parts)))
        return {"token_ids": ids, "tokens": pa.array(lengths.astype(np.int32))}


@dataclass(frozen=True)
class _Loaded:
    """A tokenizer ready for hostile text."""

    tokenizer: Tokenizer
    end_id: int
    dtype: np.dtype[Any]
    windowed: bool  # its pieces end where `bpe.PATTERN` says, so long documents may go in windows

    def encode(self, texts: list[str]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Ids of all texts, each closed by the end id: flat (tokens,), and how many of each text (n,)."""
        if self.windowed and max(map(len, texts)) > _WINDOW:
            end = np.array([self.end_id], self.dtype)
            rows = [np.concatenate([*self._windows(text), end]) for text in texts]
            return np.concatenate(rows), np.fromiter(map(len, rows), np.int64, len(rows))
        # the fast variant tracks no offsets, which nothing here needs
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        for row in ids:
            row.append(self.end_id)
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        return np.fromiter(chain.from_iterable(ids), self.dtype, int(lengths.sum())), lengths

    def _windows(self, text: str) -> Iterator[NDArray[Any]]:
        start = 0
        while len(text) - start > _WINDOW:
            encoding = self.tokenizer.encode(text[start : start + _WINDOW], add_special_tokens=False)
            piece = encoding.char_to_word(_WINDOW - bpe.LOOK_AHEAD)
            yield np.array(encoding.ids[: encoding.word_to_tokens(piece)[0]], self.dtype)
            start += encoding.word_to_chars(piece)[0]
        yield np.array(self.tokenizer.encode(text[start:], add_special_tokens=False).ids, self.dtype)


def _runs(sizes: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Half-open row ranges whose text ends in the same ``_BATCH_BYTES`` of the batch."""
    block = np.cumsum(sizes) // _BATCH_BYTES
    edges = np.flatnonzero(np.diff(block, prepend=-1, append=-1))
    yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)


@functools.cache
def _load(tokenizer_file: str, sha256: str, end_token: str) -> _Loaded:
    import fsspec

    # passes run one process a core, so threads inside a worker would only fight; the variable is read on every call
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Tokenizer

    try:
        with fsspec.open(tokenizer_file, "rb") as file:
            content: bytes = file.read()
    except OSError as error:
        raise InputError(f"tokenizer {tokenizer_file}: cannot be read ({error}); check the path") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DatasetError(
            f"tokenizer {tokenizer_file}: got sha256 {found}, expected {sha256}; "
            "the file changed since the step was planned, so plan again or restore it"
        )
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # tokenizers raises nothing narrower
        raise InputError(
            f"tokenizer {tokenizer_file}: not a tokenizer.json ({error}); train one or export it"
        ) from error
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    end_id = tokenizer.token_to_id(end_token)
    if end_id is None:
        raise ConfigError(
            f"end_token: got {end_token!r}, which {tokenizer_file} does not hold; "
            f"its special tokens are {', '.join(_special(tokenizer)) or 'none'}"
        )
    dtype = np.dtype(str(schema.token_type(bpe.vocabulary_size(content))))
    return _Loaded(tokenizer, end_id, dtype, _is_ours(json.loads(content)))


def _special(tokenizer: Tokenizer) -> list[str]:
    return [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]


def _is_ours(state: dict[str, Any]) -> bool:
    """Whether nothing but ``bpe.pre_tokenizer()`` decides where a piece ends."""
    from tokenizers import Tokenizer, models

    ours = Tokenizer(models.BPE())
    ours.pre_tokenizer = bpe.pre_tokenizer()
    same = state.get("pre_tokenizer") == json.loads(ours.to_str())["pre_tokenizer"]
    plain = state.get("normalizer") is None and all(token["special"] for token in state.get("added_tokens") or ())
    return same and plain
