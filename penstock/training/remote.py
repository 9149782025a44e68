"""Sequence files in an object store: what is read of them, when, and where it is kept.

When a file is opened, all but its tokens is fetched by byte ranges (footer, segment lengths, document ids, learned
runs) into a sparse copy in which the tokens are a hole, the *frame*. It is mapped like a file of one's own, so it is
checked and read by the same code. While training, tokens are fetched in *blocks* of neighbouring rows:

    rows of a block                 where                                      fetched
    a group (``group_rows``)        at most 8 MiB                              once an epoch
    as many as make 1 MiB           no groups, and the cache holds the store   once
    one                             no groups, and it does not                 at every read, and not kept

What a batch needs and the cache lacks is fetched at once, 64 MiB in flight at most; the thread that reads ahead
(``prefetch``) does it while the model works. Failed requests are the store's client's to make again.

A block is a file of its own under a name made of address, version and rows, with a CRC at its end: a run that was
killed goes on with what is there, and a damaged block is fetched anew. The least recently used blocks go when the
cache is full. Several processes may share the folder.

Price: the frames, on top of the cache's bound, with up to 64 KiB that lie beside what was read of each record batch; a
tenth of a millisecond for each block that a batch touches.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import ConfigError, InputError, StorageError
from penstock.storage import Folder, storage_errors

if TYPE_CHECKING:
    from penstock.training.gather import Chunk

Ints = NDArray[np.int64]
Addresses = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

CACHE_BYTES = 20 << 30
_FRAME = "frame.arrow"
_OF_FRAME = ("segment_lengths", "segment_docs", "loss_mask")
_BLOCK_BYTES = 1 << 20
_GROUP_BYTES = 8 << 20  # of a block where rows are read in groups
_IN_FLIGHT = 64 << 20
_READ_AHEAD = 1 << 16  # of a frame: its small buffers lie side by side
_FILES_AT_ONCE = 16
_SHARE = 32  # a process looks at the whole cache when it has written this part of the bound
_CRC = 4


@dataclass(frozen=True)
class RemoteFile:
    """A version of a file in a store."""

    url: str
    size: int
    folder: Path  # in the cache, of this version alone

    @classmethod
    def find(cls, url: str, cache: Path) -> RemoteFile:
        """Ask the store for size and version.

        Raises:
            InputError: there is no such file.
            StorageError: the store refuses or is away.
        """
        above, name = _placed(url)
        try:
            with storage_errors(url, absent=True):
                info = above.fs.info(above.join(name))
        except FileNotFoundError as error:
            raise InputError(f"{url}: no such file; list existing sequence files") from error
        version = f"{url}|{info.get('size')}|{info.get('ETag') or info.get('etag') or info.get('md5Hash')}"
        digest = hashlib.blake2b(version.encode(), digest_size=12).hexdigest()
        return cls(url, int(info["size"]), cache / f"{digest}-{name}")

    def frame(self) -> Path:
        """The sparse copy without tokens; fetched where it is not there yet.

        Raises:
            InputError: the file is not Arrow IPC.
            StorageError: the store or the disk refuses.
        """
        path = self.folder / _FRAME
        if path.exists():
            return path
        with storage_errors(str(path)):
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{_own_name()}.part")
            with partial.open("wb+") as copy:
                copy.truncate(self.size)
                _read_frame(_Fetching(self, copy), self.url)
                copy.flush()
                os.fsync(copy.fileno())
            partial.replace(path)
        return path


def frames(urls: Sequence[str], cache: Path) -> dict[str, RemoteFile]:
    """The files at these addresses, each with its frame in the cache."""

    def framed(url: str) -> RemoteFile:
        file = RemoteFile.find(url, cache)
        file.frame()
        return file

    with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="penstock-frames") as pool:
        return dict(zip(urls, pool.map(framed, urls), strict=True))


class _Fetching(io.RawIOBase):
    """A file of a store to be read at any place; what was read stands in its copy."""

    def __init__(self, file: RemoteFile, copy: Any) -> None:
        self._file, self._copy, self._at = file, copy, 0
        self._have: list[tuple[int, int]] = []
        self._fetch(max(0, file.size - _READ_AHEAD), file.size)

    def read(self, size: int = -1, /) -> bytes:
        start = self._at
        self._at = stop = self._file.size if size < 0 else min(self._file.size, start + size)
        missing = start
        for low, high in self._have:
            if low <= missing < high:
                missing = high
        if missing < stop:
            self._fetch(missing, max(stop, min(missing + _READ_AHEAD, self._file.size)))
        self._copy.seek(start)
        return bytes(self._copy.read(stop - start))

    def _fetch(self, start: int, stop: int) -> None:
        if start == stop:  # an empty file
            return
        ((_, data),) = fetch([(self._file.url, start, stop)])
        self._copy.seek(start)
        self._copy.write(data)
        self._have.append((start, stop))

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _read_frame(source: Any, url: str) -> None:
    """Let Arrow read all that the frame shall hold."""
    try:
        names = pa.ipc.open_file(pa.PythonFile(source, "r")).schema.names
        wanted = [at for at, name in enumerate(names) if name in _OF_FRAME]
        reader = pa.ipc.open_file(
            pa.PythonFile(source, "r"), options=pa.ipc.IpcReadOptions(included_fields=wanted, use_threads=False)
        )
        for number in range(reader.num_record_batches):
            reader.get_batch(number)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{url}: cannot be read as an Arrow IPC file ({error}); write it again") from error


class TokenReader:
    """Reads blocks of rows of the files of one store, and keeps them."""

    def __init__(self, cache: Path, limit: int, group_rows: int | None) -> None:
        """
        Args:
            limit: bytes that the blocks of all files in the cache may take.
            group_rows: rows of a domain that the order reads from one place, as the loader's.
        """
        self._kept, self._group_rows = _BlockCache(cache, limit), group_rows
        self.limit = limit
        self.total = 0  # bytes of all tokens

    def rows(self, file: RemoteFile, chunk: Chunk, begin: int) -> RemoteRows:
        """The tokens of a record batch, the first of them row ``begin`` of its domain."""
        self.total += chunk.tokens.nbytes
        row_bytes = chunk.tokens.shape[1] * chunk.tokens.itemsize
        return RemoteRows(self, file, chunk.place, row_bytes, len(chunk.tokens), begin)

    def block_rows(self, row_bytes: int) -> int:
        """Rows that are fetched together."""
        if self._group_rows is not None:
            return min(self._group_rows, max(1, _GROUP_BYTES // row_bytes))
        return max(1, _BLOCK_BYTES // row_bytes) if self.total <= self.limit else 1

    def check(self, domains: int, row_bytes: int) -> None:
        """Refuse a cache that cannot hold the groups that the order reads by turns: each would be fetched many times.

        Raises:
            ConfigError: with the bytes that it takes.
        """
        least = 2 * domains * (self._group_rows or 0) * row_bytes
        if min(self.total, least) > self.limit:
            raise ConfigError(
                f"cache: got {self.limit:,} bytes, allowed at least {least:,}, two groups of each of {domains} "
                "domains; give more, or smaller groups (group_rows)"
            )

    def read(self, blocks: Sequence[tuple[RemoteRows, int, int]]) -> list[Bytes]:
        """The tokens of rows ``first`` to ``stop`` of each block, as bytes.

        Raises:
            StorageError: the store refuses or is away after its client has tried again, or the disk is full.
        """
        found = [
            self._kept.read(rows.path(first, stop), rows.row_bytes * (stop - first)) for rows, first, stop in blocks
        ]
        missing = [at for at, data in enumerate(found) if data is None]
        wanted = [rows.span(first, stop) for rows, first, stop in (blocks[at] for at in missing)]
        for number, data in fetch(wanted):
            at = missing[number]
            rows, first, stop = blocks[at]
            if self.block_rows(rows.row_bytes) > 1:
                self._kept.write(rows.path(first, stop), data)
            found[at] = np.frombuffer(data, np.uint8)
        return found  # type: ignore[return-value]  # nothing is missing any more


@dataclass(frozen=True)
class RemoteRows:
    """The tokens of one record batch of a file in a store."""

    reader: TokenReader
    file: RemoteFile
    offset: int  # of its first row in the file
    row_bytes: int
    rows: int
    begin: int  # its first row, counted in the domain

    def blocks(self, local: Ints) -> tuple[Ints, Ints]:
        """First and last row (exclusive), counted here, of the block that each row lies in."""
        # counted in the domain, as the order's groups are
        size = self.reader.block_rows(self.row_bytes)
        first = (local + self.begin) // size * size - self.begin
        return np.maximum(first, 0), np.minimum(first + size, self.rows)

    def span(self, first: int, stop: int) -> tuple[str, int, int]:
        """Address, first and last byte (exclusive) of rows."""
        return self.file.url, self.offset + first * self.row_bytes, self.offset + stop * self.row_bytes

    def path(self, first: int, stop: int) -> Path:
        """Where the cache keeps them."""
        _, begin, end = self.span(first, stop)
        return self.file.folder / f"{begin}-{end}.block"


def locate(
    remotes: Mapping[int, RemoteRows], chunk: Ints, local: Ints, addresses: Addresses
) -> tuple[Addresses, list[Bytes]]:
    """Where the tokens of n rows stand in memory, those in stores fetched.

    Args:
        remotes: of the record batches whose tokens are in a store.
        chunk, local: record batch of each row, and its place there.
        addresses: of rows that lie on a disk.

    Returns:
        addresses (n,), and what must be kept as long as they are read from.
    """
    addresses = addresses.copy()
    blocks: list[tuple[RemoteRows, int, int]] = []
    places: list[tuple[Ints, Ints, Addresses]] = []
    for number in np.unique(chunk).tolist():
        if number not in remotes:
            continue
        rows, here = remotes[number], np.flatnonzero(chunk == number)
        firsts, stops = rows.blocks(local[here])
        unique, at, of = np.unique(firsts, return_index=True, return_inverse=True)
        inside = ((local[here] - firsts) * rows.row_bytes).astype(np.uint64)
        places.append((here, of + len(blocks), inside))
        blocks += [(rows, first, stop) for first, stop in zip(unique.tolist(), stops[at].tolist(), strict=True)]
    if not blocks:
        return addresses, []
    held = blocks[0][0].reader.read(blocks)
    starts = np.array([data.ctypes.data for data in held], dtype=np.uint64)
    for here, of, inside in places:
        addresses[here] = starts[of] + inside
    return addresses, held


def fetch(spans: Sequence[tuple[str, int, int]]) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each span (address, first byte, last byte exclusive), some at a time.

    Raises:
        StorageError: the store refuses, is away, or gives fewer bytes than it was asked for.
    """

    def store(at: int) -> str:
        return spans[at][0].partition("://")[0]

    for _, of_store in groupby(sorted(range(len(spans)), key=store), key=store):
        for some in _in_flight(of_store, spans):
            here = [spans[at] for at in some]
            with storage_errors(here[0][0]):
                client = _placed(here[0][0])[0].fs
                got = client.cat_ranges(*(list(part) for part in zip(*here, strict=True)), on_error="raise")
            for at, (url, start, stop), data in zip(some, here, got, strict=True):
                if len(data) != stop - start:
                    raise StorageError(
                        f"{url}: got {len(data)} bytes from byte {start} on, asked for {stop - start}; the file was "
                        "changed while it was read, run again"
                    )
                yield at, data


def _in_flight(numbers: Iterable[int], spans: Sequence[tuple[str, int, int]]) -> Iterator[list[int]]:
    """The spans that are fetched together, by their numbers."""
    some, size = list[int](), 0
    for at in numbers:
        _, start, stop = spans[at]
        if some and size + stop - start > _IN_FLIGHT:
            yield some
            some, size = [], 0
        some.append(at)
        size += stop - start
    if some:
        yield some


class _BlockCache:
    """Small files on a local disk, the least recently used of which go when they take too much."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._room = 0  # bytes that may be written before the whole cache is looked at
        self._checked: set[Path] = set()

    def read(self, path: Path, size: int) -> Bytes | None:
        """The bytes of a block; None where it is not there or damaged."""
        try:
            data = np.memmap(path, np.uint8, "r")
        except (FileNotFoundError, ValueError):  # or it is empty
            return None
        if len(data) != size + _CRC:
            return None
        if path not in self._checked:  # what a power cut left behind
            if zlib.crc32(data.data[:size]) != int.from_bytes(data[size:].tobytes(), "little"):
                return None
            self._checked.add(path)
        with suppress(FileNotFoundError):  # another process may just have taken it away
            os.utime(path)
        return data[:size]

    def write(self, path: Path, data: bytes) -> None:
        size = len(data) + _CRC
        if size > self._limit:
            return
        with storage_errors(str(path)):
            if size > self._room:
                self._room = self._make_room(size)
            partial = path.with_name(f".{_own_name()}.tmp")
            partial.write_bytes(data + zlib.crc32(data).to_bytes(_CRC, "little"))
            partial.replace(path)
        self._room -= size
        self._checked.add(path)

    def _make_room(self, least: int) -> int:
        """Take blocks away until a share of the bound is free; the bytes that may be written then."""
        share = max(least, self._limit // _SHARE)
        blocks = []
        for path in (*self._folder.glob("*/*.block"), *self._folder.glob("*/*.tmp")):  # .tmp: of a process killed
            with suppress(FileNotFoundError):
                found = path.stat()
                blocks.append((found.st_mtime_ns, found.st_size, path))
        blocks.sort()
        total = sum(size for _, size, _ in blocks)
        for _, size, path in blocks:
            if total <= self._limit - share:
                break
            path.unlink(missing_ok=True)
            self._checked.discard(path)
            total -= size
        return share


def _placed(url: str) -> tuple[Folder, str]:
    """Folder and name of a file."""
    above, _, name = url.rpartition("/")
    return Folder(above), name


def _own_name() -> str:
    """A name that no other thread or process writes to."""
    return f"{os.getpid()}-{threading.get_ident()}"
