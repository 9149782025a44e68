"""Megatron-LM's indexed datasets: read them as a store, write them from one.

A dataset is two files. ``PREFIX.bin`` holds token ids, nothing else. ``PREFIX.idx`` (version 1, little-endian) holds::

    9 bytes   MMIDIDX 00 00
    uint64    version, 1
    uint8     type of the ids: 1 uint8, 2 int8, 3 int16, 4 int32, 5 int64, 8 uint16 (6 and 7 are floats)
    uint64    n, number of sequences
    uint64    m, number of document borders, one more than documents
    int32     n lengths of sequences, in tokens
    int64     n places of sequences in the .bin, in bytes
    int64     m document borders: first sequence of every document, then n
    int8      n modes of sequences, of multimodal datasets alone

(NVIDIA/Megatron-LM, megatron/core/datasets/indexed_dataset.py.)

Reading maps both files, checks the whole index and copies no token. What Megatron calls a blend is here the loader's
mixture: its weights are shares of tokens as well, but its own shuffle, seed and sample index are not taken over, and it
drops the last partial sample where the last row here is padded.

Price: reading 24 bytes a document and, while the index is checked, 36 a sequence; writing is one pass over the
rows with 8 bytes a document in memory, 28 while the index is written.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.errors import ConfigError, DatasetError, InputError
from penstock.storage import storage_errors
from penstock.training.sequences import SequenceRows, SequenceStore
from penstock.training.store import Store
from penstock.training.streams import Layout, StreamStore, TokenStream

Ints = NDArray[np.int64]

_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_INTEGERS = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}
_CODES = {name: code for code, name in _INTEGERS.items()}
_FLOATS = {6: "float64", 7: "float32"}
# rows that an export reads at a time
_ROWS = 1024


def open_megatron(
    prefixes: Mapping[str, str | Path | Sequence[str | Path]],
    *,
    length: int | None,
    layout: Layout = "concatenated",
    vocab_size: int | None = None,
    check_ids: bool = False,
) -> StreamStore:
    """Datasets of Megatron-LM as a store for ``MixtureLoader``, memory-mapped.

    >>> store = open_megatron({"code": "data/code_text_document", "web": ["data/web-0", "data/web-1"]}, length=2048)

    A document is named ``<name of the file>#<number in it>``, so signals lead back to it.

    Args:
        prefixes: by domain the path or paths without ``.bin`` and ``.idx``.
        length: tokens of a row; None with ``layout="separate"`` takes that of the documents.
        layout: ``concatenated`` cuts the documents of a domain, one behind the other, every ``length`` tokens, so files
            whose sequences all have that length are read sequence by sequence. ``separate`` gives every document a row.
        vocab_size: token ids must be below it; looked at when a row is read.
        check_ids: look at every id now, at the speed of the disk.

    Raises:
        InputError: a file is missing, or is no indexed dataset of version 1.
        DatasetError: the index contradicts itself or the .bin, or an id is out of bounds.
        ConfigError: a bad argument.
    """
    streams = {}
    for domain, given in prefixes.items():
        paths = [given] if isinstance(given, (str, Path)) else list(given)
        streams[domain] = _stream([_read(path) for path in paths])
    store = StreamStore.build(streams, length=length, layout=layout, vocab_size=vocab_size)
    if check_ids:
        store.check()
    return store


@dataclass(frozen=True, eq=False)
class _Indexed:
    """One dataset: ids (mapped), and by sequence and document where they stand."""

    name: str
    ids: NDArray[Any]
    sizes: Ints  # (n,) tokens
    starts: Ints  # (n,) first place in ``ids``
    first: Ints  # (m,) first sequence of each document, then n


def _stream(files: Sequence[_Indexed]) -> TokenStream:
    """The documents of several datasets, one after another."""
    sequences = np.cumsum([0, *(len(file.sizes) for file in files)])
    documents = np.cumsum([0, *(len(file.first) - 1 for file in files)])
    firsts = [file.first[:-1] + before for file, before in zip(files, sequences[:-1], strict=True)]

    def names(wanted: Ints) -> list[str]:
        of = np.searchsorted(documents, wanted, side="right") - 1
        return [f"{files[f].name}#{d - documents[f]}" for f, d in zip(of, wanted, strict=True)]

    return TokenStream.of_spans(
        [file.ids for file in files],
        np.repeat(np.arange(len(files)), np.diff(sequences)),
        np.concatenate([np.zeros(0, np.int64), *(file.starts for file in files)]),
        np.concatenate([np.zeros(0, np.int64), *(file.sizes for file in files)]),
        np.concatenate([*firsts, sequences[-1:]]),
        names,
    )


def _read(path: str | Path) -> _Indexed:
    """Map one dataset and check its index."""
    prefix = _prefix(path)
    index, ids = f"{prefix}.idx", f"{prefix}.bin"
    for name in (index, ids):
        if not os.path.isfile(name):
            raise InputError(f"{name}: no such file; name the path of a .bin and .idx without its ending")
    raw = _mapped(index, np.dtype(np.uint8))
    kind, n, m = _header(raw, index)
    at = _HEADER.size
    expected = at + 12 * n + 8 * m
    if len(raw) not in (expected, expected + n):
        raise DatasetError(
            f"{index}: {len(raw)} bytes, but {n} sequences and {m} document borders take {expected} (or {expected + n} "
            "with modes); the file was cut off or is damaged, copy it again"
        )
    sizes = raw[at : at + 4 * n].view("<i4").astype(np.int64)
    pointers = raw[at + 4 * n : at + 12 * n].view("<i8").astype(np.int64)
    first = raw[at + 12 * n : expected].view("<i8").astype(np.int64)
    if len(raw) > expected and raw[expected:].any():
        raise InputError(f"{index}: sequences of several modes, allowed text alone; export the text")
    _check(index, sizes, pointers, first, kind.itemsize, os.path.getsize(ids))
    return _Indexed(os.path.basename(prefix), _mapped(ids, kind), sizes, pointers // kind.itemsize, first)


def _header(raw: NDArray[np.uint8], name: str) -> tuple[np.dtype[Any], int, int]:
    """Type of the ids, sequences and document borders that the head of an index states."""
    begin = raw[: _HEADER.size].tobytes()
    if begin[: len(_MAGIC)] != _MAGIC:
        old = "; this is the older format without mapping, write it with Megatron-LM's preprocess_data.py again"
        raise InputError(
            f"{name}: begins with {begin[:9]!r}, an indexed dataset of Megatron-LM with {_MAGIC!r}"
            + (old if begin[:6] == b"TNTIDX" else "; name the .idx of one")
        )
    if len(begin) < _HEADER.size:
        raise DatasetError(f"{name}: {len(begin)} bytes, the head alone has {_HEADER.size}; copy the file again")
    _, version, code, n, m = _HEADER.unpack(begin)
    if version != 1:
        raise InputError(f"{name}: version {version}, allowed 1; write it with a current Megatron-LM")
    if code in _FLOATS:
        raise InputError(f"{name}: holds {_FLOATS[code]}, allowed integers; token ids are wanted")
    if code not in _INTEGERS:
        raise InputError(f"{name}: type code {code}, allowed {', '.join(f'{c} {t}' for c, t in _INTEGERS.items())}")
    return np.dtype(_INTEGERS[code]).newbyteorder("<"), int(n), int(m)


def _check(name: str, sizes: Ints, pointers: Ints, first: Ints, width: int, available: int) -> None:
    """Raise DatasetError where lengths, places and borders do not fit each other and the ``available`` bytes."""
    damaged = "the file is damaged, or belongs to another .bin"
    if sizes.size and int(sizes.min()) < 0:
        raise DatasetError(f"{name}: sequence {int(np.argmin(sizes))} has {sizes.min()} tokens; {damaged}")
    # a pointer near 2**63 must not overflow, so the bytes left are compared
    bad = (pointers < 0) | (pointers > available) | (pointers % width != 0)
    bad |= sizes > (available - np.where(bad, available, pointers)) // width
    if bad.any():
        at = int(np.argmax(bad))
        raise DatasetError(
            f"{name}: sequence {at} has {sizes[at]} tokens of {width} bytes at byte {pointers[at]}, the .bin has "
            f"{available} bytes; {damaged}"
        )
    rises = bool((np.diff(first) >= 0).all())
    if not len(first) or int(first[0]) != 0 or int(first[-1]) != len(sizes) or not rises:
        shown = f"from {first[0]} to {first[-1]}" if len(first) else "none"
        raise DatasetError(
            f"{name}: document borders {shown}{'' if rises else ', which fall'}; allowed from 0 to {len(sizes)}, the "
            f"number of sequences, without falling; {damaged}"
        )


def _prefix(path: str | Path) -> str:
    return str(path).removesuffix(".idx").removesuffix(".bin")


def _mapped(path: str, kind: np.dtype[Any]) -> NDArray[Any]:
    """The file as a read-only flat array, without the bytes behind the last whole number."""
    count = os.path.getsize(path) // kind.itemsize
    if not count:
        return np.zeros(0, kind)
    mapped: NDArray[Any] = np.memmap(path, dtype=kind, mode="r", shape=(count,))
    # a plain view: subclasses of ndarray cost a microsecond a slice
    return mapped.view(np.ndarray)


@dataclass(frozen=True, kw_only=True)
class MegatronFiles:
    """One domain that was written."""

    domain: str
    prefix: str  # of .bin and .idx: what Megatron's --data-path takes
    documents: int
    tokens: int
    dtype: str


def export_megatron(
    source: Store | Mapping[str, Sequence[str | Path]],
    prefix: str | Path,
    *,
    dtype: Literal["auto", "uint16", "int32", "int64"] = "auto",
    loss_mask: Literal["refuse", "drop"] = "refuse",
) -> tuple[MegatronFiles, ...]:
    """Write sequences as indexed datasets that Megatron-LM reads, one ``.bin`` and ``.idx`` a domain.

    Every document of the rows becomes one of Megatron's, in order of rows: the tokens as they are, with the id that
    packing put at its end. The pieces of a document that was cut at the end of a row and goes on in the next are
    joined. Files are ``<prefix>-<domain>.bin`` and ``.idx``, with the domain percent-encoded. The .idx comes last:
    where it is, both are whole.

    What does not carry over: where rows begin and end (Megatron cuts anew, to its own ``--seq-length``), ids of
    documents, padding, and the mixture, which Megatron takes as weights beside the prefixes.

    Args:
        source: a store, or its files by domain as ``SequenceStore.open`` takes them.
        dtype: type of the ids; "auto" is uint16 where the source has no larger ids than 16 bits hold, else int32.
        loss_mask: what happens to tokens that are not to be learned: the format has no place for it. "refuse" raises,
            "drop" writes them as ordinary tokens.

    Raises:
        ConfigError: a bad argument, or a loss mask that would be lost.
        DatasetError: an id that ``dtype`` does not hold.
        StorageError: the files cannot be written.
    """
    if dtype not in ("auto", "uint16", "int32", "int64"):
        raise ConfigError(f"dtype: got {dtype!r}, allowed 'auto', 'uint16', 'int32' or 'int64'")
    if loss_mask not in ("refuse", "drop"):
        raise ConfigError(f"loss_mask: got {loss_mask!r}, allowed 'refuse' or 'drop'")
    store: Store = SequenceStore.open(source) if isinstance(source, Mapping) else source
    Path(prefix).parent.mkdir(parents=True, exist_ok=True)
    written = []
    for k, domain in enumerate(store.domains):
        if store.rows[k]:
            base = f"{prefix}-{quote(domain, safe='')}"
            written.append(_export(store, k, base, dtype, loss_mask))
    return tuple(written)


def _export(store: Store, k: int, base: str, dtype: str, loss_mask: str) -> MegatronFiles:
    kind: np.dtype[Any] | None = None if dtype == "auto" else np.dtype(dtype)
    documents = _Documents()

    def write(file: Any) -> None:
        nonlocal kind
        for begin in range(0, store.rows[k], _ROWS):
            rows = np.arange(begin, min(begin + _ROWS, store.rows[k]), dtype=np.int64)
            read = store.read(np.full(len(rows), k, np.int64), rows)
            used = np.zeros(len(rows), np.int64)
            np.add.at(used, np.repeat(np.arange(len(rows)), read.segment_counts), read.segment_lengths)
            real = np.arange(store.length) < used[:, None]
            if loss_mask == "refuse" and read.learned is not None and not read.learned[real].all():
                raise ConfigError(
                    f"domain {store.domains[k]}: some tokens are not to be learned, which the format cannot say; "
                    "loss_mask='drop' writes them as ordinary tokens"
                )
            ids = read.tokens[real]
            if kind is None:
                kind = np.dtype(np.uint16 if np.iinfo(ids.dtype).max < 1 << 16 else np.int32)
            if ids.size and int(ids.max()) > np.iinfo(kind).max:
                raise DatasetError(
                    f"domain {store.domains[k]}: token id {ids.max()}, {kind} holds {np.iinfo(kind).max}; choose a "
                    "wider dtype"
                )
            file.write(ids.astype(kind.newbyteorder("<")).tobytes())
            documents.add(read, used == store.length)

    # an index of an older export would lead into the new ids
    with storage_errors(f"{base}.idx"):
        Path(f"{base}.idx").unlink(missing_ok=True)
    _whole(f"{base}.bin", write)
    assert kind is not None
    lengths = np.concatenate([np.zeros(0, np.int64), *documents.sizes])
    _whole(f"{base}.idx", lambda file: _write_index(file, lengths, kind))
    return MegatronFiles(
        domain=store.domains[k], prefix=base, documents=len(lengths), tokens=int(lengths.sum()), dtype=str(kind)
    )


class _Documents:
    """Sizes of documents from rows in order; a document cut at the end of a full row goes on in the next."""

    def __init__(self) -> None:
        self.sizes: list[Ints] = []
        self._open: str | None = None  # document at the end of the last row, where that row is full

    def add(self, rows: SequenceRows, full: NDArray[np.bool_]) -> None:
        """Take in the next rows; ``full`` (n,) says which have no padding."""
        counts, sizes, names = rows.segment_counts, rows.segment_lengths, rows.segment_docs
        last = np.cumsum(counts) - 1
        first = last - counts + 1
        joins = np.zeros(len(sizes), np.bool_)
        after = np.flatnonzero((counts[1:] > 0) & full[:-1]) + 1
        if len(after):
            same = pc.equal(names.take(pa.array(first[after])), names.take(pa.array(last[after - 1])))
            joins[first[after]] = same.to_numpy(zero_copy_only=False)
        if counts[0] and self._open is not None:
            joins[0] = names[0].as_py() == self._open
        if len(sizes):
            begins = np.flatnonzero(~joins)
            if joins[0]:
                self.sizes[-1][-1] += sizes[: begins[0] if len(begins) else len(sizes)].sum()
            if len(begins):
                self.sizes.append(np.add.reduceat(sizes, begins))
        self._open = names[int(last[-1])].as_py() if full[-1] else None


def _write_index(file: Any, sizes: Ints, kind: np.dtype[Any]) -> None:
    n = len(sizes)
    file.write(_HEADER.pack(_MAGIC, 1, _CODES[str(kind)], n, n + 1))
    file.write(sizes.astype("<i4").tobytes())
    file.write(((np.cumsum(sizes) - sizes) * kind.itemsize).astype("<i8").tobytes())
    file.write(np.arange(n + 1).astype("<i8").tobytes())


def _whole(path: str, write: Callable[[Any], None]) -> None:
    """Write a file that is either whole or not there."""
    temporary = Path(f"{path}.tmp-{os.getpid()}")
    with storage_errors(path):
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def documents_of(prefix: str | Path) -> Iterator[NDArray[Any]]:
    """The token ids of every document of one dataset, in order, as views of the mapped file where it lies in one piece.

    Raises:
        InputError, DatasetError: as ``open_megatron``.
    """
    file = _read(prefix)
    for begin, end in zip(file.first[:-1], file.first[1:], strict=True):
        pieces = [file.ids[s : s + n] for s, n in zip(file.starts[begin:end], file.sizes[begin:end], strict=True)]
        yield pieces[0] if len(pieces) == 1 else np.concatenate([np.zeros(0, file.ids.dtype), *pieces])
