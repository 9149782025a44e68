"""Packed training sequences on disk, read in place.

Files are uncompressed Arrow IPC with the ``sequences`` schema. They are memory-mapped; the tokens of a
record batch are a NumPy view of the file's own bytes, so opening costs no memory for them and a gather
copies only the rows asked for. Segment lengths and document ids are read through Arrow the same way, and the
learned positions (``loss_mask``) of batches that have any.

Price: opening reads every segment length and learned run once (about 1 % of the bytes); a gather is one fancy index per
record batch touched, at memory speed once the pages are in the cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock import schema
from penstock.errors import ConfigError, DatasetError, InputError
from penstock.storage import Folder, storage_errors

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SequenceRows:
    """Rows read from a store, in the order asked for; S is the number of their segments together."""

    tokens: Ints  # (n, L)
    segment_counts: Ints  # (n,) segments per row
    segment_lengths: Ints  # (S,) tokens per segment
    segment_docs: pa.StringArray  # (S,) document of each segment
    learned: NDArray[np.bool_] | None = None  # (n, L) tokens to learn where they are predicted; None is all


@dataclass(frozen=True)
class _Chunk:
    """One record batch of a file."""

    tokens: NDArray[Any]  # (rows, L) view of the mapped file
    lengths: pa.ListArray
    docs: pa.ListArray
    mask: pa.ListArray | None  # learned runs of each row, null is all of it; None where that holds for every row


@dataclass(frozen=True)
class _Domain:
    chunks: tuple[_Chunk, ...]
    begins: Ints  # (chunks + 1,) first row of each chunk, then the number of rows
    tokens: int  # without padding


@dataclass(frozen=True)
class SequenceStore:
    """Sequences of equal length by domain, addressed by row number inside the domain."""

    domains: tuple[str, ...]
    length: int
    _parts: tuple[_Domain, ...]

    @classmethod
    def open(cls, files: Mapping[str, Sequence[str | Path]], *, cache: str | Path | None = None) -> SequenceStore:
        """Map the files of every domain.

        The key of ``files`` says the domain; the files' own ``domain`` column is not read. A URL is
        copied into the folder ``cache`` first, once per version of the remote file.

        Raises:
            InputError: a file is missing or is not Arrow IPC.
            DatasetError: other columns, another sequence length than the first file's, compressed
                buffers, or segments that do not fit their sequence.
            ConfigError: a URL without a ``cache`` folder, or no files at all.
        """
        length, parts = 0, []
        for paths in files.values():
            chunks: list[_Chunk] = []
            for path in paths:
                local = _local(str(path), cache)
                found, of_file = _open_file(local, str(path))
                length = length or found
                if found != length:
                    raise DatasetError(
                        f"{path}: sequences of {found} tokens, but the files before it have {length}; "
                        "pack all files with one sequence length"
                    )
                chunks.extend(of_file)
            begins = np.cumsum([0, *(len(chunk.tokens) for chunk in chunks)], dtype=np.int64)
            tokens = sum(int(np.sum(_flat(chunk.lengths)[1], dtype=np.int64)) for chunk in chunks)
            parts.append(_Domain(tuple(chunks), begins, tokens))
        if not length:
            raise ConfigError("no sequence files were given; list at least one file under a domain")
        return cls(tuple(files), length, tuple(parts))

    @property
    def rows(self) -> tuple[int, ...]:
        """Sequences of each domain."""
        return tuple(int(part.begins[-1]) for part in self._parts)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of each domain, padding apart."""
        return tuple(part.tokens for part in self._parts)

    def views(self, domain: str) -> list[NDArray[Any]]:
        """The tokens of each record batch as read-only views of the mapped file: shapes (rows, L)."""
        return [chunk.tokens for chunk in self._part(domain).chunks]

    def gather(self, domain: str, rows: Ints) -> NDArray[Any]:
        """Tokens of the given rows: shape (n, L), in the files' unsigned type."""
        part, rows = self._part(domain), np.asarray(rows, dtype=np.int64)
        chunk_of = self._chunks_of(domain, part, rows)
        kind = np.result_type(*(c.tokens.dtype for c in part.chunks)) if part.chunks else np.dtype(np.uint16)
        out = np.empty((len(rows), self.length), dtype=kind)
        for number in np.unique(chunk_of):
            here = chunk_of == number
            out[here] = part.chunks[number].tokens[rows[here] - part.begins[number]]
        return out

    def segments(self, domain: str, rows: Ints) -> tuple[Ints, Ints, pa.StringArray]:
        """Segments per row (n,), then lengths (S,) and documents (S,) of all segments in row order."""
        part, rows = self._part(domain), np.asarray(rows, dtype=np.int64)
        chunk_of = self._chunks_of(domain, part, rows)
        lengths, docs, places = [], [], []
        for number in np.unique(chunk_of):
            here = np.flatnonzero(chunk_of == number)
            take = pa.array(rows[here] - part.begins[number])
            lengths.append(part.chunks[number].lengths.take(take))
            docs.append(part.chunks[number].docs.take(take))
            places.append(here)
        if not places:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), pa.array([], pa.string())
        back = pa.array(np.argsort(np.concatenate(places)))
        counts, flat = _flat(pa.concat_arrays(lengths).take(back))
        return counts, flat.astype(np.int64), pa.concat_arrays(docs).take(back).flatten()

    def learned(self, domain: str, rows: Ints) -> NDArray[np.bool_] | None:
        """Which tokens of the given rows are learned where they are predicted: (n, L); None is all of them.

        A padding position of a row without a mask is True: it is never predicted.
        """
        part, rows = self._part(domain), np.asarray(rows, dtype=np.int64)
        if all(chunk.mask is None for chunk in part.chunks):
            return None
        chunk_of = self._chunks_of(domain, part, rows)
        out: NDArray[np.bool_] | None = None
        for number in np.unique(chunk_of):
            mask = part.chunks[number].mask
            here = np.flatnonzero(chunk_of == number)
            runs = None if mask is None else mask.take(pa.array(rows[here] - part.begins[number]))
            if runs is not None and runs.null_count < len(runs):
                out = np.ones((len(rows), self.length), np.bool_) if out is None else out
                out[here] = run_mask(runs, self.length)
        return out

    def read(self, domains: Ints, rows: Ints) -> SequenceRows:
        """Tokens and segments of rows of several domains; ``domains`` (n,) are indices into ``self.domains``."""
        tokens = np.empty((len(rows), self.length), dtype=np.int64)
        counts, lengths, docs, places = [], [], [], []
        learned: NDArray[np.bool_] | None = None
        for k in np.unique(domains):
            here = np.flatnonzero(domains == k)
            name = self.domains[int(k)]
            tokens[here] = self.gather(name, rows[here])
            of_rows, flat, names = self.segments(name, rows[here])
            counts.append(of_rows)
            lengths.append(flat)
            docs.append(names)
            places.append(np.repeat(here, of_rows))
            of_domain = self.learned(name, rows[here])
            if of_domain is not None:
                learned = np.ones((len(rows), self.length), np.bool_) if learned is None else learned
                learned[here] = of_domain
        if not places:
            empty = np.zeros(0, np.int64)
            return SequenceRows(tokens, empty, empty, pa.array([], pa.string()))
        row_of = np.concatenate(places)
        order = np.argsort(row_of, kind="stable")
        return SequenceRows(
            tokens=tokens,
            segment_counts=np.bincount(row_of, minlength=len(rows)).astype(np.int64),
            segment_lengths=np.concatenate(lengths)[order],
            segment_docs=pa.concat_arrays(docs).take(pa.array(order)),
            learned=learned,
        )

    def _part(self, domain: str) -> _Domain:
        return self._parts[self.domains.index(domain)]

    def _chunks_of(self, domain: str, part: _Domain, rows: Ints) -> Ints:
        if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < int(part.begins[-1]):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of domain {domain}, which has {part.begins[-1]}")
        return np.searchsorted(part.begins, rows, side="right").astype(np.int64) - 1


def segment_layout(counts: Ints, lengths: Ints, length: int) -> tuple[Ints, Ints]:
    """Where each token stands: segment index in its sequence and position in its segment.

    Args:
        counts: segments per sequence, shape (n,).
        lengths: tokens per segment of all sequences, shape (S,), each >= 1.
        length: L, tokens per sequence.

    Returns:
        ``segment_ids`` (n, L), -1 on padding, and ``positions`` (n, L), which restart at 0 at every
        segment and at the padding.
    """
    n = len(counts)
    row = np.repeat(np.arange(n), counts)
    ends = np.cumsum(lengths)
    of_row = np.concatenate([[0], np.cumsum(np.bincount(row, weights=lengths, minlength=n)).astype(np.int64)])
    starts = ends - lengths - of_row[row]
    used = np.diff(of_row)
    begins = np.zeros((n, length + 1), dtype=np.int64)
    begins[row, starts] = 1
    begins[np.arange(n), used] = 1
    begins = begins[:, :length]
    place = np.arange(length)
    ids = np.where(place < used[:, None], np.cumsum(begins, axis=1) - 1, -1)
    positions = place - np.maximum.accumulate(np.where(begins == 1, place, 0), axis=1)
    return ids, positions


def run_mask(runs: pa.ListArray, length: int) -> NDArray[np.bool_]:
    """Whether each position of ``length`` lies in one of its row's runs: (n, length); a null row is all True."""
    valid = runs.is_valid().to_numpy(zero_copy_only=False)
    counts, flat = _flat(runs.drop_null())
    # runs lie apart, so no position is two borders
    steps = np.zeros((len(counts), length + 1), np.int8)
    steps[np.repeat(np.arange(len(counts)), counts), flat] = 1 - 2 * (np.arange(len(flat)) % 2)
    out = np.ones((len(runs), length), np.bool_)
    out[valid] = np.cumsum(steps, axis=1, dtype=np.int8)[:, :length] == 1
    return out


def _flat(lists: pa.ListArray) -> tuple[Ints, NDArray[Any]]:
    """Elements per list and all elements, offset and slice respected."""
    offsets = np.asarray(lists.offsets).astype(np.int64)
    return np.diff(offsets), np.asarray(lists.flatten())


def _open_file(path: str, name: str) -> tuple[int, list[_Chunk]]:
    """Sequence length and record batches of one file; ``name`` is what the user wrote."""
    try:
        source = pa.memory_map(path)
        reader = pa.ipc.open_file(source)
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file; list existing sequence files") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{name}: cannot be read as an Arrow IPC file ({error}); write it again") from error
    schema.require(reader.schema.names, ("tokens", "segment_lengths", "segment_docs"), where=name)
    kind = reader.schema.field("tokens").type
    if not pa.types.is_fixed_size_list(kind) or kind.value_type not in (pa.uint16(), pa.uint32()):
        raise DatasetError(f"{name}: tokens are {kind}, allowed a fixed-size list of uint16 or uint32; pack again")
    mapped = source.read_buffer()
    inside = range(mapped.address, mapped.address + mapped.size)
    chunks = []
    for number in range(reader.num_record_batches):
        try:
            batch = reader.get_batch(number)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{name}: record batch {number} is damaged ({error}); write the file again") from error
        if batch.num_rows:
            chunks.append(_chunk(batch, kind.list_size, inside, f"{name}, record batch {number}"))
    return int(kind.list_size), chunks


def _chunk(batch: pa.RecordBatch, length: int, inside: range, where: str) -> _Chunk:
    column = batch["tokens"]
    lengths, docs = batch["segment_lengths"], batch["segment_docs"]
    if column.null_count or column.flatten().null_count or lengths.null_count or docs.null_count:
        raise DatasetError(f"{where}: null tokens or segments; pack again")
    flat = column.flatten()
    if flat.buffers()[1].address not in inside:
        raise DatasetError(f"{where}: the tokens are compressed, allowed uncompressed Arrow IPC; write without codec")
    if lengths.type.value_type != pa.int32():
        raise DatasetError(f"{where}: segment_lengths are {lengths.type}, allowed list<int32>; pack again")
    counts, values = _flat(lengths)
    doc_counts, _ = _flat(docs)
    row = np.repeat(np.arange(len(counts)), counts)
    used = np.bincount(row, weights=values, minlength=len(counts))
    if (counts != doc_counts).any() or (values < 1).any() or (used > length).any():
        raise DatasetError(
            f"{where}: segments must be one document and one length >= 1 each and sum to at most {length}; pack again"
        )
    mask = batch["loss_mask"] if "loss_mask" in batch.schema.names else None
    if mask is not None and mask.null_count == len(mask):
        mask = None
    if mask is not None:
        _check_mask(mask, length, where)
    return _Chunk(flat.to_numpy(zero_copy_only=True).reshape(-1, length), lengths, docs, mask)


def _check_mask(mask: pa.ListArray, length: int, where: str) -> None:
    if not mask.type.equals(pa.list_(pa.int32())):
        raise DatasetError(f"{where}: loss_mask is {mask.type}, allowed list<int32>; pack again")
    counts, runs = _flat(mask.drop_null())
    before = np.concatenate([[-1], runs[:-1]])
    before[(np.cumsum(counts) - counts)[counts > 0]] = -1
    if (counts % 2).any() or (runs <= before).any() or (runs > length).any():
        raise DatasetError(
            f"{where}: loss_mask must hold start and stop of runs that rise, lie apart and end by {length}; pack again"
        )


def _local(path: str, cache: str | Path | None) -> str:
    """A local path for ``path``; a URL is downloaded into ``cache`` under a name made of URL and version."""
    folder, name = Folder(os.path.dirname(path)), os.path.basename(path)
    if folder.is_local:
        return path.removeprefix("file://")
    if cache is None:
        raise ConfigError(f"{path}: sequences are mapped from a local disk; name a cache folder to copy them into")
    try:
        info = folder.fs.info(folder.join(name))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; list existing sequence files") from error
    version = f"{path}|{info.get('size')}|{info.get('ETag') or info.get('etag') or info.get('md5Hash')}"
    target = Path(cache) / f"{hashlib.blake2b(version.encode(), digest_size=12).hexdigest()}-{name}"
    if not target.exists():
        with storage_errors(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".tmp-{os.getpid()}-{target.name}")
            with folder.open_read(name) as source, partial.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            partial.replace(target)
    return str(target)
