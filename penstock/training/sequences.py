"""Packed training sequences, read in place: on a disk, or in an object store.

Files are uncompressed Arrow IPC with the ``sequences`` schema. They are memory-mapped; the tokens of a
record batch are a NumPy view of the file's own bytes, so opening costs no memory for them and a gather
copies only the rows asked for. Segment lengths and document ids are read through Arrow the same way, and the
learned positions (``loss_mask``) of batches that have any. Of a file in a store everything but the tokens is copied
to a local disk when it is opened, and the tokens are fetched when they are read (``remote``).

Price: opening reads every segment length and learned run once (about 1 % of the bytes); a gather is one copy a row, at
memory speed once the pages are in the cache (see ``gather``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock import schema
from penstock.errors import ConfigError, DatasetError, InputError
from penstock.storage import Folder
from penstock.training.gather import Chunk, ChunkTable, RowPlan, flat_lists
from penstock.training.remote import CACHE_BYTES, RemoteFile, TokenReader, frames

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
    _again: tuple[Any, ...] = field(default=(), compare=False, repr=False)  # opens one with URLs in another process

    @classmethod
    def open(
        cls,
        files: Mapping[str, Sequence[str | Path]],
        *,
        cache: str | Path | None = None,
        cache_bytes: int = CACHE_BYTES,
        group_rows: int | None = None,
    ) -> SequenceStore:
        """Map the files of every domain.

        The key of ``files`` says the domain; the files' own ``domain`` column is not read.

        Args:
            cache: a local folder for what is read of URLs (``s3://…``); see ``remote``.
            cache_bytes: what the tokens kept there may take.
            group_rows: the loader's, so that what it reads from one place is fetched together.

        Raises:
            InputError: a file is missing or is not Arrow IPC.
            DatasetError: other columns, another sequence length than the first file's, compressed
                buffers, or segments that do not fit their sequence.
            ConfigError: a URL without a ``cache`` folder, a cache too small for the groups, or no files at all.
            StorageError: a store refuses or is away.
        """
        length, parts = 0, []
        remote = _remote(files, cache)
        reader = TokenReader(Path(cache or ""), cache_bytes, group_rows)
        for paths in files.values():
            chunks: list[Chunk] = []
            rows = 0
            for path in paths:
                file = remote.get(str(path))
                local = str(path).removeprefix("file://") if file is None else str(file.frame())
                found, of_file = _open_file(local, str(path))
                length = length or found
                if found != length:
                    raise DatasetError(
                        f"{path}: sequences of {found} tokens, but the files before it have {length}; "
                        "pack all files with one sequence length"
                    )
                for chunk in of_file:
                    chunks.append(chunk if file is None else replace(chunk, remote=reader.rows(file, chunk, rows)))
                    rows += len(chunk.tokens)
            tokens = sum(int(np.sum(flat_lists(chunk.lengths)[1], dtype=np.int64)) for chunk in chunks)
            parts.append(_Domain(tuple(chunks), rows, tokens))
        if not length:
            raise ConfigError("no sequence files were given; list at least one file under a domain")
        widest = max((chunk.tokens.itemsize for part in parts for chunk in part.chunks), default=0)
        reader.check(len(parts), length * widest)
        again = (files, cache, cache_bytes, group_rows) if remote else ()
        return cls(tuple(files), length, tuple(parts), again)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # not by value: the tokens are not here
        return (_open, self._again) if self._again else super().__reduce_ex__(protocol)

    @property
    def rows(self) -> tuple[int, ...]:
        """Sequences of each domain."""
        return tuple(part.rows for part in self._parts)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of each domain, padding apart."""
        return tuple(part.tokens for part in self._parts)

    def views(self, domain: str) -> list[NDArray[Any]]:
        """The tokens of each record batch as read-only views of the mapped file: shapes (rows, L).

        Raises:
            ConfigError: a file is in a store, where there is nothing to view; ``gather`` reads it.
        """
        chunks = self._part(domain).chunks
        for chunk in chunks:
            if chunk.remote is not None:
                raise ConfigError(f"{chunk.remote.file.url}: cannot be viewed in place; read its rows with gather")
        return [chunk.tokens for chunk in chunks]

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
            raise InputError(
                f"{name}: record batch {number} is damaged or compressed ({error}); write the file again without codec"
            ) from error
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
    place = flat.buffers()[1].address - inside.start + flat.offset * flat.type.bit_width // 8
    return Chunk(flat.to_numpy(zero_copy_only=True).reshape(-1, length), lengths, docs, mask, place)


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


def _remote(files: Mapping[str, Sequence[str | Path]], cache: str | Path | None) -> dict[str, RemoteFile]:
    """The files that lie in stores, by address."""
    urls = [str(path) for paths in files.values() for path in paths if not Folder(str(path)).is_local]
    if urls and cache is None:
        raise ConfigError(f"{urls[0]}: what is read of it is kept on a local disk; name a cache folder")
    return frames(urls, Path(cache or "")) if urls else {}


def _open(files: Any, cache: Any, cache_bytes: int, group_rows: int | None) -> SequenceStore:
    return SequenceStore.open(files, cache=cache, cache_bytes=cache_bytes, group_rows=group_rows)
