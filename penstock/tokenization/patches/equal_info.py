"""Equal-Info Windows: text as arithmetic codes of a fixed number of bits (arXiv 2404.03626).

Bytes are coded under a byte language model (``byte_lm``) until the next one would not fit into ``bits`` bits; that is a
window, and model and coder begin anew. So each window carries the same information in a code of the same length, which
a language model can learn, as it cannot a stream of codes without windows.

A code of 16 bits is two tokens of 256 or one of 65,536, one of 24 is three of 256; the ids follow those of the end and
padding tokens, 0 and 1. Every byte alone has at least 1 / 65,536 of the range, so a window is never empty. Codes
are whole numbers out of whole ranges (46 bits, frequencies that sum to at most 2**16): the same on every machine. To
decode one, its window's bytes must be counted: ``patch_lengths`` has them.

Price: about 1 MB/s a core to encode, and to decode codes of 16 bits; half of it to decode those of 24.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock import schema
from penstock.errors import ConfigError, DatasetError
from penstock.tokenization.bpe import END, PAD, SPECIAL
from penstock.tokenization.patches.byte_lm import ByteLM, bytes_of
from penstock.tokenization.patches.schema import patches_batch

END_ID, PAD_ID = SPECIAL.index(END), SPECIAL.index(PAD)
_FIRST = len(SPECIAL)  # id of the code 0
BITS = (16, 24)
VOCABULARIES = (256, 65_536)


@dataclass(frozen=True)
class Windows:
    """Codes and bytes of the windows of texts, and how many windows each text has."""

    codes: NDArray[np.int64]
    lengths: NDArray[np.int64]
    counts: NDArray[np.int64]


def encode_windows(model: ByteLM, texts: pa.Array, bits: int = 16) -> Windows:
    """The windows of texts (string or binary). Raises ConfigError unless ``bits`` is 16 or 24."""
    from penstock.tokenization.patches import _byte_kernels as kernels

    _check_bits(bits)
    data, bounds = bytes_of(texts)
    codes, lengths = np.empty(data.size, np.int64), np.empty(data.size, np.int64)
    counts = np.zeros(len(texts), np.int64)
    done = 0
    for i, (start, stop) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
        held = data[start:stop]
        counts[i] = kernels.encode_windows(model.tables, model.order, held, bits, codes[done:], lengths[done:])
        done += int(counts[i])
    return Windows(codes[:done].copy(), lengths[:done].copy(), counts)


def decode_windows(model: ByteLM, windows: Windows, bits: int = 16) -> list[bytes]:
    """The texts whose windows these are, by the model that they were made with.

    Raises:
        ConfigError: bits that there are not.
        DatasetError: a code of more bits, or an empty window.
    """
    from penstock.tokenization.patches import _byte_kernels as kernels

    _check_bits(bits)
    codes, lengths = windows.codes, windows.lengths
    if codes.size and (codes.min() < 0 or codes.max() >> bits or lengths.min() < 1):
        raise DatasetError(
            f"windows: got codes up to {codes.max()} and lengths from {lengths.min()}, allowed {bits} bits and 1 byte"
        )
    out = np.zeros(int(lengths.sum()), np.uint8)
    kernels.decode_windows(model.tables, model.order, codes, lengths, bits, out)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    of_text = ends[np.concatenate([np.zeros(1, np.int64), np.cumsum(windows.counts)])]
    return [out[start:stop].tobytes() for start, stop in pairwise(of_text.tolist())]


def window_patches(
    model: ByteLM, doc_ids: Sequence[str], texts: pa.Array, bits: int = 16, *, model_revision: str | None = None
) -> pa.RecordBatch:
    """The windows of texts as a batch of ``schema.PATCHES``, without their codes."""
    found = encode_windows(model, texts, bits)
    return patches_batch(
        doc_ids,
        texts,
        found.lengths,
        found.counts,
        rule="equal_info",
        params={"bits": bits},
        model_revision=model_revision,
    )


def _check_bits(bits: int) -> None:
    if bits not in BITS:
        raise ConfigError(f"bits: got {bits}, allowed {', '.join(map(str, BITS))}; 16 is usual")


@dataclass(frozen=True, kw_only=True)
class EncodeEqualInfo:
    """Annotator in place of ``encode.Encode``: ids of Equal-Info Windows with the end id behind.

    Adds ``token_ids`` (``list<uint16>``, or ``uint32`` for 65,536 codes), their number ``tokens``, and
    ``patch_lengths``, the bytes of each window. A code of several tokens has its high bits first.

    Attributes:
        model: path of a byte language model, as ``ByteLM.save`` gave it.
        digest: of it.
        bits: of a window's code: 16 or 24.
        vocabulary: codes of a token: 256, or 65,536 with 16 bits.

    ``annotate`` raises DatasetError when the model is another one or a text is null.
    """

    model: str
    digest: str
    bits: int = 16
    vocabulary: int = 256

    name: ClassVar[str] = "encode_equal_info"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ("token_ids", "tokens", "patch_lengths")

    def __post_init__(self) -> None:
        _check_bits(self.bits)
        if not self.model:
            raise ConfigError("model: got nothing, allowed the path of a byte language model; train one first")
        if self.vocabulary not in VOCABULARIES or (self.vocabulary == 65_536 and self.bits != 16):
            raise ConfigError(
                f"vocabulary: got {self.vocabulary} with {self.bits} bits, allowed 256, and 65536 with 16 bits"
            )

    @property
    def size(self) -> int:
        """Rows that an embedding table needs."""
        return self.vocabulary + _FIRST

    def setup(self) -> None:
        _loaded(self.model, self.digest)

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        found = encode_windows(_loaded(self.model, self.digest), batch["text"], self.bits)
        width = 1 if self.vocabulary == 65_536 else self.bits // 8
        shift = 8 * np.arange(width - 1, -1, -1)
        mask = self.vocabulary - 1
        of_code = ((found.codes[:, None] >> shift) & mask) + _FIRST
        kind: Any = np.dtype(str(schema.token_type(self.size)))
        tokens = found.counts * width + 1
        ends = np.cumsum(tokens)
        ids = np.empty(int(tokens.sum()), kind)
        closing = np.zeros(len(ids), np.bool_)
        closing[ends - 1] = True
        ids[closing], ids[~closing] = END_ID, of_code.ravel()
        return {
            "token_ids": _list(ends, pa.array(ids)),
            "tokens": pa.array(tokens.astype(np.int32)),
            "patch_lengths": _list(np.cumsum(found.counts), pa.array(found.lengths.astype(np.int32))),
        }


def _list(ends: NDArray[np.int64], values: pa.Array) -> pa.ListArray:
    if len(ends) and ends[-1] > 2**31 - 1:
        raise ConfigError(f"encode: got a batch of {ends[-1]} tokens, allowed 2**31 - 1; use smaller batches")
    return pa.ListArray.from_arrays(pa.array(np.concatenate([np.zeros(1), ends]).astype(np.int32)), values)


@lru_cache(maxsize=4)
def _loaded(model: str, digest: str) -> ByteLM:
    return ByteLM.load(model, digest)
