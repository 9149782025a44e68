"""Packed training sequences on disk, read in place.

Files are uncompressed Arrow IPC with the ``sequences`` schema. They are memory-mapped; the tokens of a
record batch are a NumPy view of the file's own bytes, so opening costs no memory for them and a gather
copies only the rows asked for. Segment lengths and document ids are read through Arrow the same way, and the
learned positions (``loss_mask``) of batches that have any.

Price: opening reads every segment length and learned run once (about 1 % of the bytes); a gather is one copy a row, at
memory speed once the pages are in the cache (see ``gather``).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock import schema
from penstock.errors import ConfigError, DatasetError, InputError
from penstock.storage import Folder, storage_errors
from penstock.training.gather import Chunk, ChunkTable, RowPlan, flat_lists

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SequenceRows:
    """Rows read from a store, in the order asked for; S is the number of their segments together."""

    tokens: NDArray[Any]  # (n, L), unsigned as in the files
    segment_counts: Ints  # (n,) segments per row
    segment_lengths: Ints  # (S,) tokens per segment
    segment_docs: pa.StringArray  # (S,) document of each segment
    learned: NDArray[np.bool_] | None = None  # (n, L) tokens to learn where they are predicted; None is all


@dataclass(frozen=True)
class _Domain:
    chunks: tuple[Chunk, ...]
    rows: int
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
            chunks: list[Chunk] = []
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
            rows = sum(len(chunk.tokens) for chunk in chunks)
            tokens = sum(int(np.sum(flat_lists(chunk.lengths)[1], dtype=np.int64)) for chunk in chunks)
            parts.append(_Domain(tuple(chunks), rows, tokens))
        if not length:
            raise ConfigError("no sequence files were given; list at least one file under a domain")
        return cls(tuple(files), length, tuple(parts))

    @property
    def rows(self) -> tuple[int, ...]:
        """Sequences of each domain."""
        return tuple(part.rows for part in self._parts)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of each domain, padding apart."""
        return tuple(part.tokens for part in self._parts)

    def views(self, domain: str) -> list[NDArray[Any]]:
        """The tokens of each record batch as read-only views of the mapped file: shapes (rows, L)."""
        return [chunk.tokens for chunk in self._part(domain).chunks]

    def gather(self, domain: str, rows: Ints) -> NDArray[Any]:
        """Tokens of the given rows: shape (n, L), in the widest unsigned type of the store's files."""
        return self._plan_of(domain, rows).tokens(0, len(rows))

    def segments(self, domain: str, rows: Ints) -> tuple[Ints, Ints, pa.StringArray]:
        """Segments per row (n,), then lengths (S,) and documents (S,) of all segments in row order."""
        plan, n = self._plan_of(domain, rows), len(rows)
        return plan.segment_counts(0, n), plan.segment_lengths(0, n), plan.segment_docs(0, n)

    def learned(self, domain: str, rows: Ints) -> NDArray[np.bool_] | None:
        """Which tokens of the given rows are learned where they are predicted: (n, L); None is all of them.

        A padding position of a row without a mask is True: it is never predicted.
        """
        return self._plan_of(domain, rows).learned(0, len(rows))

    def read(self, domains: Ints, rows: Ints) -> SequenceRows:
        """Tokens and segments of rows of several domains; ``domains`` (n,) are indices into ``self.domains``."""
        plan, n = self.plan(domains, rows), len(rows)
        return SequenceRows(
            tokens=plan.tokens(0, n),
            segment_counts=plan.segment_counts(0, n),
            segment_lengths=plan.segment_lengths(0, n),
            segment_docs=plan.segment_docs(0, n),
            learned=plan.learned(0, n),
        )

    def plan(self, domains: Ints, rows: Ints) -> RowPlan:
        """Find rows of several domains, to read them in slices.

        Raises:
            IndexError: a row that its domain does not have.
        """
        domains, rows = np.asarray(domains, dtype=np.int64), np.asarray(rows, dtype=np.int64)
        bad = np.flatnonzero((rows < 0) | (rows >= self._sizes[domains]))
        if len(bad):
            k = int(domains[bad[0]])
            raise IndexError(f"row {rows[bad[0]]} of domain {self.domains[k]}, which has {self._sizes[k]}")
        return self._table.plan(self._firsts[domains] + rows)

    def _plan_of(self, domain: str, rows: Ints) -> RowPlan:
        return self.plan(np.full(len(rows), self.domains.index(domain), dtype=np.int64), rows)

    @cached_property
    def _table(self) -> ChunkTable:
        return ChunkTable([chunk for part in self._parts for chunk in part.chunks], self.length)

    @cached_property
    def _sizes(self) -> Ints:
        return np.array(self.rows, dtype=np.int64)

    @cached_property
    def _firsts(self) -> Ints:
        return np.cumsum(self._sizes) - self._sizes

    def _part(self, domain: str) -> _Domain:
        return self._parts[self.domains.index(domain)]


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
    from penstock.training._row_kernels import lay_out

    ids = np.empty((len(counts), length), dtype=np.int64)
    positions = np.empty_like(ids)
    # copies: to the compiler a read-only array is of another type
    lay_out(np.array(counts, dtype=np.int64), np.array(lengths, dtype=np.int64), ids, positions)
    return ids, positions


def _open_file(path: str, name: str) -> tuple[int, list[Chunk]]:
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


def _chunk(batch: pa.RecordBatch, length: int, inside: range, where: str) -> Chunk:
    column = batch["tokens"]
    lengths, docs = batch["segment_lengths"], batch["segment_docs"]
    if column.null_count or column.flatten().null_count or lengths.null_count or docs.null_count:
        raise DatasetError(f"{where}: null tokens or segments; pack again")
    flat = column.flatten()
    if flat.buffers()[1].address not in inside:
        raise DatasetError(f"{where}: the tokens are compressed, allowed uncompressed Arrow IPC; write without codec")
    if lengths.type.value_type != pa.int32():
        raise DatasetError(f"{where}: segment_lengths are {lengths.type}, allowed list<int32>; pack again")
    counts, values = flat_lists(lengths)
    doc_counts, _ = flat_lists(docs)
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
    return Chunk(flat.to_numpy(zero_copy_only=True).reshape(-1, length), lengths, docs, mask)


def _check_mask(mask: pa.ListArray, length: int, where: str) -> None:
    if not mask.type.equals(pa.list_(pa.int32())):
        raise DatasetError(f"{where}: loss_mask is {mask.type}, allowed list<int32>; pack again")
    counts, runs = flat_lists(mask.drop_null())
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
