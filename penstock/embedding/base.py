"""Embeddings: what an embedder is, the row work that runs one, and vectors as an Arrow column.

An embedder turns texts into unit vectors of float32. A text without anything to embed (blank, no known token, or
refused by a server) is the **zero vector**: it is similar to nothing, belongs to no group and duplicates nothing.

Stored vectors are ``FixedSizeList<float16>[d]``: half the bytes, and rounding moves the cosine of two unit vectors by
less than 5e-4 (1e-4 typical at 256 dimensions); ``unit_vectors`` reads them back as float32 of unit length.

Price: that of the embedder; 2 bytes a dimension on disk (512 bytes a document with the static model).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.errors import ConfigError, InputError

_BLOCK = 8192  # rows brought to unit length at a time

Vectors = NDArray[np.float32]  # (n, d), each row of length 1 or 0


class Embedder(Protocol):
    """A frozen, picklable configuration of a model; the model itself is loaded once a process."""

    @property
    def dimensions(self) -> int: ...

    def setup(self) -> None:
        """Load the model, so that the first batch does not."""

    def embed(self, texts: list[str]) -> Vectors:
        """Vectors of texts, none of them blank: float32, shape (n, dimensions), rows of length 1 or 0."""


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Annotator: ``embedding``, the vector of the first ``characters`` characters of each text.

    ``annotate`` raises what the embedder raises: InputError or DatasetError when its model cannot be had.
    """

    embedder: Any  # an Embedder; a protocol would not survive dataclasses.asdict
    characters: int = 1024

    name: ClassVar[str] = "embed"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ("embedding",)

    def __post_init__(self) -> None:
        if self.characters < 1:
            raise ConfigError(f"embed.characters: got {self.characters}, allowed >= 1; 1024 is half a page")

    def setup(self) -> None:
        self.embedder.setup()

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        from penstock import text

        # cut before the scan: what follows is never looked at
        head = pc.utf8_slice_codeunits(text.without_nulls(batch["text"]), 0, self.characters)
        vectors = np.zeros((batch.num_rows, self.embedder.dimensions), dtype=np.float32)
        rows = np.flatnonzero(~text.blank(head))
        if len(rows):
            vectors[rows] = self.embedder.embed(head.take(pa.array(rows)).to_pylist())
        return {"embedding": embedding_array(vectors)}


def normalised(vectors: NDArray[Any]) -> Vectors:
    """Rows divided by their length, in float32; a row that is zero or holds a number that is not finite is zero."""
    vectors = np.asarray(vectors)
    out = np.zeros(vectors.shape, dtype=np.float32)
    for start in range(0, len(vectors), _BLOCK):  # a block, as float64 takes four times the bytes of float16
        wide = vectors[start : start + _BLOCK].astype(np.float64)
        length = np.sqrt(np.einsum("ij,ij->i", wide, wide))
        good = np.isfinite(length) & (length > 0)
        out[start : start + _BLOCK][good] = wide[good] / length[good, None]
    return out


def embedding_array(vectors: Vectors) -> pa.FixedSizeListArray:
    """Vectors (n, d) as the column that is stored: ``FixedSizeList<float16>[d]`` without nulls."""
    n, d = vectors.shape
    half = np.ascontiguousarray(vectors, dtype=np.float16).reshape(n * d)
    return pa.FixedSizeListArray.from_arrays(pa.array(half, pa.float16()), d)


def unit_vectors(column: pa.Array) -> Vectors:
    """The vectors of an ``embedding`` column: float32, shape (n, d), rows of length 1 or 0.

    Raises:
        InputError: the column is no fixed-size list of floats, or holds a null.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    kind = column.type
    if not pa.types.is_fixed_size_list(kind) or not pa.types.is_floating(kind.value_type) or column.null_count:
        raise InputError(
            f"embedding column: got {column.null_count} nulls of type {kind}, allowed a fixed-size list of float16, "
            "float32 or float64 without nulls; make it with embed.Embed"
        )
    return normalised(column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), kind.list_size))
