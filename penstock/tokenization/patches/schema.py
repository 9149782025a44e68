"""One Arrow table for every way of cutting bytes into patches: entropies, spaces, words, tokens, equal information.

``PATCHES``, a row a text:

    doc_id, bytes        the text
    patch_lengths        bytes of each patch; they sum to those of the text
    boundary             the same as a bit mask: bit i % 8 of byte i // 8 is set where position i begins a patch
    entropies            nats of each byte in 16 bits, null for rules without
    rule, params         the rule's name and its settings as JSON
    model_revision       digest of the byte language model, null for rules without one

The mask is no luxury: entropies in 16 bits fall on the other side of a threshold now and then, so a boundary must not
be worked out from them again.

Price: a text is copied once; the rest is a few bytes a patch and, with entropies, two a byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import DatasetError, InputError
from penstock.schema import require
from penstock.storage import Folder
from penstock.tokenization.patches.byte_lm import bytes_of

PATCHES = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("bytes", pa.binary(), nullable=False),
        pa.field("patch_lengths", pa.list_(pa.int32()), nullable=False),
        pa.field("boundary", pa.binary(), nullable=False),
        pa.field("entropies", pa.list_(pa.float16())),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("params", pa.string(), nullable=False),
        pa.field("model_revision", pa.string()),
    ]
)


def patches_batch(
    doc_ids: Sequence[str],
    texts: pa.Array,
    lengths: NDArray[np.int64],
    counts: NDArray[np.int64],
    *,
    rule: str,
    params: Mapping[str, Any],
    entropies: NDArray[np.float64] | None = None,
    model_revision: str | None = None,
) -> pa.RecordBatch:
    """A batch of ``PATCHES``.

    Args:
        texts: string or binary, one a row.
        lengths: bytes of every patch of all texts.
        counts: (rows,) patches of each text.
        entropies: (bytes of all texts,), or None.

    Raises:
        DatasetError: patches do not sum to the bytes of their text, or one of them is empty.
    """
    data, bounds = bytes_of(texts)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    reached = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    if ends[-1] != len(lengths) or (len(lengths) and lengths.min() < 1) or (reached[ends] != bounds).any():
        raise DatasetError(
            f"patches: got {len(lengths)} of {int(lengths.sum())} bytes for {len(counts)} texts of {data.size}, "
            "allowed lengths from 1 that sum to each text"
        )
    begins = np.zeros(data.size, np.bool_)
    begins[reached[:-1]] = True
    masks = [
        np.packbits(begins[start:stop], bitorder="little").tobytes()
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    ]
    n = len(counts)
    told = None if entropies is None else _lists(bounds, pa.array(entropies.astype(np.float16)))
    return pa.RecordBatch.from_arrays(
        [
            pa.array(doc_ids, pa.string()),
            texts.cast(pa.binary()),
            _lists(ends, pa.array(lengths.astype(np.int32))),
            pa.array(masks, pa.binary()),
            pa.nulls(n, PATCHES.field("entropies").type) if told is None else told,
            pa.array([rule] * n, pa.string()),
            pa.array([json.dumps(dict(params), sort_keys=True)] * n, pa.string()),
            pa.array([model_revision] * n, pa.string()),
        ],
        schema=PATCHES,
    )


def _lists(bounds: NDArray[np.int64], values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(bounds.astype(np.int32)), values)


def boundaries(batch: pa.RecordBatch) -> list[NDArray[np.bool_]]:
    """(bytes,) of each row: which positions begin a patch, read from the mask."""
    sizes = [len(raw) for raw in batch["bytes"].to_pylist()]
    masks = batch["boundary"].to_pylist()
    return [
        np.unpackbits(np.frombuffer(mask, np.uint8), count=size, bitorder="little").astype(np.bool_)
        for mask, size in zip(masks, sizes, strict=True)
    ]


def write_patches(path: str, batches: Iterable[pa.RecordBatch]) -> int:
    """Write batches of ``PATCHES`` as an Arrow IPC file, by path or URL, in one piece; how many rows there are."""
    sink = pa.BufferOutputStream()
    rows = 0
    with pa.ipc.new_file(sink, PATCHES) as writer:
        for batch in batches:
            require(batch.schema.names, PATCHES.names, where="patches")
            writer.write_batch(batch)
            rows += batch.num_rows
    folder, _, name = path.rpartition("/")
    Folder(folder or ("/" if path.startswith("/") else ".")).write_bytes(name, sink.getvalue().to_pybytes())
    return rows


def read_patches(path: str) -> Iterator[pa.RecordBatch]:
    """The batches of a file of ``write_patches``.

    Raises:
        InputError: it cannot be read or is no such file.
        DatasetError: patches and mask of a row do not fit its bytes.
    """
    try:
        with pa.OSFile(path) as file, pa.ipc.open_file(file) as reader:
            found = [reader.get_batch(i) for i in range(reader.num_record_batches)]
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a file that write_patches wrote") from error
    for batch in found:
        require(batch.schema.names, PATCHES.names, where=path)
        for i, begins in enumerate(boundaries(batch)):
            lengths = batch["patch_lengths"][i].values.to_numpy(zero_copy_only=False)
            if lengths.sum() != begins.size or not np.array_equal(np.cumsum(lengths) - lengths, np.flatnonzero(begins)):
                raise DatasetError(
                    f"{path}: patches of {batch['doc_id'][i]} do not fit its {begins.size} bytes; write the file again"
                )
        yield batch
