"""Pack documents into training sequences of one fixed length: concatenate and chop.

Documents are put in the order of a hash and laid end to end; every ``length`` tokens a sequence ends. A document
that crosses the end goes on in the next sequence, so a sequence is a row of segments, each a run of tokens of one
document. Every document brings its own end-of-document id. A document with ``copies = k`` takes part k times,
each copy at a hash position of its own.

Two options decide about leftovers, and every token is accounted for:
``copies × tokens = tokens packed + tokens cut``, with padding counted apart.

* ``tail``: the last, partial sequence is padded (``pad``) or dropped (``cut``).
* ``min_segment``: chopping leaves no fragment shorter than this. A document that would leave a shorter head at
  the end of a sequence starts the next one (the rest is padding, nothing is lost); a shorter rest that would open a
  sequence is cut. A document that fits whole is kept however short it is.

Of a document with learned runs (``learn_tokens``, see ``encode``) the runs go where its tokens go: cut at the end of a
sequence, once a copy. A sequence of which all is learned has no mask.

``hash_range`` splits the 64-bit keys into any number of ranges; packing each and joining them in order is
the order of the whole, so a giant domain can be packed in parts.

Price, on one core: 90M to 700M tokens/s (documents of 30 to 300 tokens; the first call compiles for a second, once a
machine) and 3M documents/s to order them. Memory is the input, the output and some 120 bytes a document.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock import schema, seeding
from penstock.errors import ConfigError, DatasetError, StorageError

_ALIGNMENT = 64  # bytes: a cache line, and what Arrow recommends


@dataclass(frozen=True, eq=False)
class Packed:
    """Sequences, what they are made of, and where every token went.

    Attributes:
        tokens: (sequences, length), unsigned 16 or 32 bit.
        segment_lengths: ``list<int32>`` a sequence; sums to ``length`` minus the padding at its end.
        segment_docs: ``list<string>`` a sequence; the document of each segment.
        tokens_in: tokens of all document copies.
        tokens_packed: those that are in ``tokens``.
        tokens_cut: those that are not.
        padding: pad ids in ``tokens``.
        tokens_learned: those of ``tokens_packed`` that are learned where they are predicted.
        loss_mask: ``list<int32>`` a sequence, see ``schema.sequences``; None where no sequence has one.
    """

    tokens: NDArray[Any]
    segment_lengths: pa.ListArray
    segment_docs: pa.ListArray
    tokens_in: int
    tokens_packed: int
    tokens_cut: int
    padding: int
    tokens_learned: int
    loss_mask: pa.ListArray | None = None


def pack(
    doc_ids: pa.Array,
    tokens: NDArray[Any],
    offsets: NDArray[np.int64],
    *,
    length: int,
    pad_id: int,
    order: NDArray[np.int64] | None = None,
    tail: Literal["pad", "cut"] = "pad",
    min_segment: int = 1,
    learn: pa.ListArray | None = None,
) -> Packed:
    """Pack documents into sequences of ``length`` tokens.

    Args:
        doc_ids: (documents,) strings.
        tokens: (tokens,) ids of all documents, uint16 or uint32.
        offsets: (documents + 1,) where each document starts and ends in ``tokens``.
        length: tokens a sequence.
        pad_id: what fills the end of a sequence.
        order: (copies,) document numbers as they follow each other, repeats allowed; None is each once, as given.
        tail: pad the last partial sequence, or cut it.
        min_segment: the shortest fragment that chopping may leave.
        learn: (documents,) the learned runs of each document, null is all of it; None is null for each.

    Raises:
        ConfigError: an option is out of range.
        DatasetError: ``offsets`` do not fit ``doc_ids`` and ``tokens``, or the runs of a document do not fit it.
    """
    _check(doc_ids, tokens, offsets, length, pad_id, tail, min_segment)
    if order is None:
        order = np.arange(len(doc_ids), dtype=np.int64)
    order = np.ascontiguousarray(order, dtype=np.int64)
    offsets = np.asarray(offsets, dtype=np.int64)
    starts, lengths = offsets[:-1][order], np.diff(offsets)[order]
    lay_out, fill = _compiled()
    layout, partial = lay_out(lengths, length, min_segment)
    if tail == "cut" and partial:
        layout = layout[:, : np.searchsorted(layout[2], layout[2, -1])]
    copy, within, sequence, place, size = layout
    rows = int(sequence[-1]) + 1 if len(sequence) else 0

    out = np.full((rows, length), pad_id, dtype=tokens.dtype)
    fill(out, tokens, sequence, place, starts[copy] + within, size)
    bounds = pa.array(np.searchsorted(sequence, np.arange(rows + 1)).astype(np.int32))
    tokens_in, tokens_packed = int(lengths.sum()), int(size.sum())
    mask = None
    if learn is not None and learn.null_count < len(learn):
        mask = _masks(doc_ids, learn, np.diff(offsets), order, layout, rows)
    return Packed(
        tokens=out,
        segment_lengths=pa.ListArray.from_arrays(bounds, pa.array(size.astype(np.int32))),
        segment_docs=pa.ListArray.from_arrays(bounds, doc_ids.take(pa.array(order[copy]))),
        tokens_in=tokens_in,
        tokens_packed=tokens_packed,
        tokens_cut=tokens_in - tokens_packed,
        padding=rows * length - tokens_packed,
        tokens_learned=tokens_packed if mask is None else _learned(mask, size, sequence),
        loss_mask=mask,
    )


def pack_table(
    table: pa.Table,
    *,
    seed: int,
    length: int,
    pad_id: int,
    tail: Literal["pad", "cut"] = "pad",
    min_segment: int = 1,
) -> Packed:
    """``pack`` the rows of an encoded table of one domain (or one hash range of it) in hash order.

    Args:
        table: columns ``doc_id``, ``id_hash``, ``token_ids``, ``copies`` if not every document is taken once, and
            ``learn_tokens`` if not all tokens are learned.
        seed: of the order.

    The result does not depend on the order of the rows. Raises what ``pack`` and ``packing_order`` raise.
    """
    schema.require(table.schema.names, ("doc_id", "id_hash", "token_ids"), where="packing")
    copies = table["copies"].to_numpy() if "copies" in table.schema.names else np.ones(table.num_rows, dtype=np.int64)
    order, _ = packing_order(table["id_hash"].to_numpy(), copies, seed)
    lists = table["token_ids"]
    if lists.null_count:
        raise DatasetError(f"packing: got {lists.null_count} null token lists, allowed none; encode them or drop them")
    empty = np.empty(0, np.dtype(str(lists.type.value_type)))
    tokens = [chunk.flatten().to_numpy() for chunk in lists.chunks]
    sizes = [np.diff(chunk.offsets.to_numpy()) for chunk in lists.chunks]
    return pack(
        table["doc_id"].combine_chunks(),
        tokens[0] if len(tokens) == 1 else np.concatenate([empty, *tokens]),
        np.cumsum(np.concatenate([[0], *sizes]), dtype=np.int64),
        length=length,
        pad_id=pad_id,
        order=order,
        tail=tail,
        min_segment=min_segment,
        learn=table["learn_tokens"].combine_chunks() if "learn_tokens" in table.schema.names else None,
    )


def packing_order(
    id_hash: NDArray[np.uint64], copies: NDArray[Any], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Rows in packing order, each as often as it has copies, and the sort key of each.

    Args:
        id_hash: (rows,) hash of the document's id.
        copies: (rows,) integers, 0 or more.
        seed: of the order.

    Equal keys are ordered by ``id_hash``, then by the number of the copy.
    Raises ConfigError when copies are not integers, or negative.
    """
    id_hash, copies = np.asarray(id_hash, dtype=np.uint64), np.asarray(copies)
    if copies.shape != id_hash.shape or copies.dtype.kind not in "iu" or (len(copies) and copies.min() < 0):
        raise ConfigError(
            f"copies: got {copies.dtype} of shape {copies.shape} for {id_hash.shape} documents, "
            "allowed one integer >= 0 a document; round the sampled weights first"
        )
    rows, keys = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
    for copy in range(int(copies.max(initial=0))):
        taken = np.flatnonzero(copies > copy)
        rows.append(taken)
        keys.append(seeding.rehash(id_hash[taken], seed, "pack", copy))
    row, key = np.concatenate(rows), np.concatenate(keys)
    order = np.lexsort((id_hash[row], key))  # stable, and copies come in the order of their number
    return row[order], key[order]


def hash_range(key: NDArray[np.uint64], ranges: int) -> NDArray[np.int64]:
    """The range, 0 to ``ranges - 1``, that each 64-bit key (n,) falls into: floor(key × ranges / 2**64).

    Ranges are of equal width and rise with the key, for any number of them.
    Raises ConfigError for a number of ranges outside 1 to 2**32 - 1.
    """
    if not 1 <= ranges < 2**32:
        raise ConfigError(f"ranges: got {ranges}, allowed 1 to 2**32 - 1")
    key, factor, half = np.asarray(key, dtype=np.uint64), np.uint64(ranges), np.uint64(32)
    # the high word of a 96-bit product, from two products of 32 × 32 bits that cannot overflow
    low = (key & np.uint64(0xFFFFFFFF)) * factor
    product: NDArray[np.uint64] = ((key >> half) * factor + (low >> half)) >> half
    return product.astype(np.int64)


def to_batch(packed: Packed, domain: str) -> pa.RecordBatch:
    """The sequences as one batch of ``schema.sequences``; the tokens are not copied."""
    rows, length = packed.tokens.shape
    target = schema.sequences(length, pa.from_numpy_dtype(packed.tokens.dtype))
    tokens = pa.FixedSizeListArray.from_arrays(pa.array(packed.tokens.reshape(-1)), type=target.field("tokens").type)
    domains = pa.array([domain], pa.string()).take(pa.array(np.zeros(rows, dtype=np.int32)))
    mask = packed.loss_mask if packed.loss_mask is not None else pa.nulls(rows, target.field("loss_mask").type)
    columns = [tokens, packed.segment_lengths, packed.segment_docs, domains, mask]
    return pa.RecordBatch.from_arrays(columns, schema=target)


def write_sequences(sink: str | os.PathLike[str] | Any, batch: pa.RecordBatch) -> None:
    """Write ``batch`` as an uncompressed Arrow IPC file of one record batch, ready to be memory-mapped.

    The tokens start at a multiple of 64 bytes in the file. ``sink`` is a path or a writable binary file.
    Raises StorageError when the bytes cannot be written.
    """
    # IPC aligns to 8 bytes and offers no choice. The tokens are the first bytes of the body, so a
    # message of the right length in front of it moves them; what it needs shows on one row.
    spaces = 0
    while True:
        sample = pa.BufferOutputStream()
        _write(sample, batch.slice(0, 1), spaces)
        start = _body_start(sample.getvalue())
        if start % _ALIGNMENT == 0:
            break
        spaces += _ALIGNMENT - start % _ALIGNMENT
    try:
        if isinstance(sink, str | os.PathLike):
            with pa.OSFile(os.fspath(sink), "wb") as file:
                _write(file, batch, spaces)
        else:
            _write(sink, batch, spaces)
    except OSError as error:
        raise StorageError(f"{sink}: {batch.num_rows} sequences cannot be written ({error})") from error


def _write(sink: Any, batch: pa.RecordBatch, spaces: int) -> None:
    with pa.ipc.new_file(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=None)) as writer:
        writer.write_batch(batch, custom_metadata={"alignment": " " * spaces})


def _body_start(file: pa.Buffer) -> int:
    """Where the body of the first record batch of an IPC file begins."""
    reader = pa.BufferReader(file)
    reader.seek(8)  # the magic bytes
    pa.ipc.read_message(reader)  # the schema
    message = reader.tell()
    # a message is a marker and the size of its header, four bytes each, then header and body
    header: int = np.frombuffer(file, "<i4", count=1, offset=message + 4).item()
    return int(message) + 8 + header


def _check(
    doc_ids: pa.Array,
    tokens: NDArray[Any],
    offsets: NDArray[np.int64],
    length: int,
    pad_id: int,
    tail: str,
    min_segment: int,
) -> None:
    if not 1 <= length <= 2**31 - 1:
        raise ConfigError(f"length: got {length}, allowed 1 to 2**31 - 1 tokens; 512 to 8192 are usual")
    if tail not in ("pad", "cut"):
        raise ConfigError(f"tail: got {tail!r}, allowed 'pad' (keep the last partial sequence) or 'cut' (drop it)")
    if not 1 <= min_segment <= length:
        raise ConfigError(f"min_segment: got {min_segment}, allowed 1 (no limit) to the sequence length {length}")
    if tokens.dtype not in (np.uint16, np.uint32):
        raise ConfigError(f"tokens: got {tokens.dtype}, allowed uint16 or uint32; see schema.token_type")
    if not 0 <= pad_id <= np.iinfo(tokens.dtype).max:
        raise ConfigError(f"pad_id: got {pad_id}, allowed 0 to {np.iinfo(tokens.dtype).max} for {tokens.dtype} tokens")
    if len(offsets) != len(doc_ids) + 1 or offsets[0] < 0 or offsets[-1] > len(tokens) or (np.diff(offsets) < 0).any():
        raise DatasetError(
            f"packing: {len(offsets)} offsets do not cut {len(tokens)} tokens into {len(doc_ids)} documents; "
            "offsets rise from the first document to the end of the last, one more than there are documents"
        )


def _masks(
    doc_ids: pa.Array,
    learn: pa.ListArray,
    lengths: NDArray[np.int64],
    order: NDArray[np.int64],
    layout: NDArray[np.int64],
    sequences: int,
) -> pa.ListArray | None:
    """``Packed.loss_mask`` from the learned runs of the documents; ``lengths`` (documents,) are their tokens."""
    from penstock.tokenization._mask_kernels import carry_runs

    counts = pc.list_value_length(learn).fill_null(0).to_numpy()
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
    runs = learn.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    row = np.repeat(np.arange(len(learn)), counts)
    previous = np.concatenate([np.zeros(1, np.int64), runs[:-1]])
    previous[bounds[:-1][counts > 0]] = 0
    wrong = (counts % 2 != 0)[row] | (runs < previous) | (runs > lengths[row])
    if wrong.any():
        number = int(row[np.argmax(wrong)])
        raise DatasetError(
            f"packing: document {doc_ids[number]} of {lengths[number]} tokens has the learned runs "
            f"{learn[number].as_py()}, allowed start and stop of each, rising, up to its tokens; encode it again"
        )
    valid = learn.is_valid().to_numpy(zero_copy_only=False)
    size = 2 * layout.shape[1] + int(counts[order].sum())
    out_bounds, out, whole = carry_runs(valid, bounds, runs, order, layout, sequences, size)
    if whole.all():
        return None
    mask = pa.array(whole) if whole.any() else None
    return pa.ListArray.from_arrays(pa.array(out_bounds), pa.array(out), type=pa.list_(pa.int32()), mask=mask)


def _learned(mask: pa.ListArray, size: NDArray[np.int64], sequence: NDArray[np.int64]) -> int:
    """Learned tokens of sequences with a mask and all tokens of those without."""
    runs = mask.flatten().to_numpy(zero_copy_only=False)
    whole = mask.is_null().to_numpy(zero_copy_only=False)
    return int((runs[1::2] - runs[::2]).sum(dtype=np.int64) + size[whole[sequence]].sum())


def _layout(lengths: NDArray[np.int64], length: int, min_segment: int) -> tuple[NDArray[np.int64], bool]:
    """Where every segment goes, and whether the last sequence is partial.

    Args:
        lengths: (copies,) tokens of each document copy, in packing order.

    Returns:
        (5, segments): number of the copy, first token within it, sequence, place in the sequence, tokens.
    """
    # a segment opens a document, or goes on with one after a sequence that is full
    out = np.empty((5, len(lengths) + lengths.sum() // length), dtype=np.int64)
    segments, sequence, place = 0, 0, 0
    for copy in range(len(lengths)):
        start, left = 0, lengths[copy]
        while left > 0:
            room = length - place
            if left > room and room < min_segment:
                sequence, place = sequence + 1, 0
                continue
            if start > 0 and left < min_segment:
                break
            size = min(left, room)
            out[0, segments], out[1, segments], out[2, segments] = copy, start, sequence
            out[3, segments], out[4, segments] = place, size
            segments, start, left, place = segments + 1, start + size, left - size, place + size
            if place == length:
                sequence, place = sequence + 1, 0
    return out[:, :segments], place > 0


def _fill(
    out: NDArray[Any],
    tokens: NDArray[Any],
    sequence: NDArray[np.int64],
    place: NDArray[np.int64],
    start: NDArray[np.int64],
    size: NDArray[np.int64],
) -> None:
    """Copy every segment from ``tokens`` to its place in ``out`` (sequences, length)."""
    for s in range(len(size)):
        to = out[sequence[s], place[s] : place[s] + size[s]]
        source = tokens[start[s] : start[s] + size[s]]
        # four times faster than indexing `out` itself: the loop becomes plain vector moves
        for i in range(len(to)):
            to[i] = source[i]


@functools.cache
def _compiled() -> tuple[Any, Any]:
    """``_layout`` and ``_fill`` as machine code; numba is imported here because it takes half a second."""
    from penstock.kernels import kernel

    return kernel(_layout), kernel(_fill)
