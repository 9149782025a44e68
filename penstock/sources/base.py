"""What every source of rows is: it lists its inputs, plans splits, and reads one split in a worker.

A split is the unit of parallelism and of resume. A row's id is ``<name>#<row>``, where the row is
counted from the start of its file, so ids, texts and drops are the same however the input is split.

Price of a batch: one blake2b-128 of each text and one blake2b-64 of each id, about 3 us a row and 1 ns a byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from penstock import schema, seeding, work
from penstock.errors import ConfigError
from penstock.sources._streams import blocks, is_local

BATCH_BYTES = 8 << 20  # text in one batch; a batch is closed by the document that passes it
BATCH_ROWS = 16384
MAX_DOCUMENT_BYTES = 64 << 20
READ_STEP = "read"  # `dropped.step` of records that never became documents


class Member(NamedTuple):
    """One whole file of a split that holds several."""

    file: str
    name: str
    stop: int
    domain: str | None


@dataclass(frozen=True)
class SourceSplit:
    """A part of a source that one worker reads from its beginning to its end; plain JSON inside.

    ``start`` and ``stop`` count bytes (lines of text), row groups (Parquet) or rows (procedural); for
    a file that cannot be cut they are 0 and its size. A split of several whole files lists them in
    ``files``; ``file`` and ``name`` are then those of the first.
    """

    source: str  # name of the source in the recipe
    file: str  # path or URL to open; "" where there is none
    name: str  # file name inside doc_ids, relative to the static root of the pattern
    start: int
    stop: int
    first_row: int  # row number in the file of the first record of the split
    kind: str
    domain: str | None = None
    entry: int = 0  # which entry of the source's list the file came from
    files: tuple[Member, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values; ``from_json`` gives an equal split back."""
        return {**self.__dict__, "files": [list(member) for member in self.files]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SourceSplit:
        return cls(**{**value, "files": tuple(Member(*member) for member in value["files"])})


@dataclass(frozen=True)
class InputFile:
    """A file that a source reads. ``stamp`` changes when the file does: mtime in ns, or the store's etag."""

    path: str
    name: str
    size: int
    stamp: str

    @classmethod
    def local(cls, path: Path, name: str | None = None) -> InputFile:
        """A file on disk as it is now, under its own name or another."""
        stat = path.stat()
        return cls(str(path), name or path.name, stat.st_size, str(stat.st_mtime_ns))


class Origin(NamedTuple):
    """What a source knows of a text beside it: the columns ``schema.ORIGIN``."""

    url: str | None = None
    title: str | None = None
    date: str | None = None
    license: str | None = None
    learn: Sequence[int] | None = None


class Rows(NamedTuple):
    """Some consecutive records of a split: those that became documents and those that did not."""

    documents: pa.RecordBatch  # schema.DOCUMENTS
    dropped: pa.RecordBatch  # schema.DROPPED


class Source(Protocol):
    """Where rows come from. Frozen and picklable; constructors touch no file."""

    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> int: ...
    def inputs(self) -> list[InputFile]:
        """Every file that the rows depend on, by name; empty where there is none. Runs in the main process."""
        ...

    def plan(self, target_bytes: int) -> list[SourceSplit]:
        """Splits of about ``target_bytes`` in the order of (file, offset). Runs in the main process."""
        ...

    def identity(self, split: SourceSplit) -> Any:
        """All that decides the rows of a split besides the content of its files, as JSON values."""
        ...

    def read(self, split: SourceSplit, *, dropped: str) -> Iterator[Rows]:
        """The rows of one split in order. ``dropped`` is what to keep of a bad record: ids, sample or full."""
        ...


def check_target(target_bytes: int) -> None:
    """Raise ConfigError unless a split may have this size."""
    if target_bytes < 1:
        raise ConfigError(f"target_bytes: got {target_bytes}, allowed >= 1; leave it out for the default")


def check_name(name: str) -> None:
    """Raise ConfigError unless this may name a source: it becomes part of ids and of the ``source`` column."""
    if not name or "#" in name or "\n" in name:
        raise ConfigError(f"name of a source: got {name!r}, allowed a non-empty text without '#'; give it a plain name")


def problem_text(question: str, answer: str) -> bytes:
    """A problem as the text of a document."""
    return f"Question: {question}\nAnswer: {answer}".encode("utf-8", "replace")


def documents_batch(
    doc_ids: Sequence[str],
    texts: Sequence[str | bytes],
    *,
    source: str,
    domains: Sequence[str],
    origins: Sequence[Origin | None] | None = None,
) -> pa.RecordBatch:
    """A batch of schema.DOCUMENTS; ``bytes`` among the texts must already be valid UTF-8.

    Args:
        doc_ids, texts, domains: one per row.
        source: name of the source, the same for all rows.
        origins: what the source knows of each text beside it; None where it knows nothing.
    """
    if origins is None or not any(origins):
        known = [pa.nulls(len(texts), schema.DOCUMENTS.field(name).type) for name in schema.ORIGIN]
    else:
        values = zip(*[origin or Origin() for origin in origins], strict=True)
        known = [pa.array(v, schema.DOCUMENTS.field(n).type) for n, v in zip(schema.ORIGIN, values, strict=True)]
    raw = [text.encode() if isinstance(text, str) else text for text in texts]
    hashes = b"".join([hashlib.blake2b(text, digest_size=16).digest() for text in raw])
    return pa.RecordBatch.from_arrays(
        [
            pa.array(doc_ids, pa.string()),
            pa.array(seeding.hash_ids(doc_ids), pa.uint64()),
            pa.Array.from_buffers(pa.binary(16), len(raw), [None, pa.py_buffer(hashes)]),
            _string_array(raw),
            pa.array([source] * len(raw), pa.string()),
            pa.array(domains, pa.string()),
            *known,
        ],
        schema=schema.DOCUMENTS,
    )


def _string_array(raw: list[bytes]) -> pa.StringArray:
    """UTF-8 values joined into one string column, without the validation that a cast would repeat."""
    offsets = np.zeros(len(raw) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, raw), dtype=np.int64, count=len(raw)), out=offsets[1:])
    if offsets[-1] >= 2**31:
        raise ValueError(f"{offsets[-1]} bytes of text in one batch, more than the 2 GiB an Arrow string column holds")
    return pa.StringArray.from_buffers(len(raw), pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(b"".join(raw)))


class RowsBuilder:
    """Collects records into ``Rows`` of bounded size.

    ``add`` and ``drop`` return True when ``take`` should be called; ``take`` on nothing returns None.
    Memory: up to BATCH_BYTES of text plus one document.
    """

    def __init__(self, source: str, dropped: str) -> None:
        if dropped not in ("ids", "sample", "full"):
            raise ConfigError(
                f"dropped: got {dropped!r}, allowed ids, sample, full; choose what to keep of bad records"
            )
        self.source = source
        self.keep = dropped
        self._reset()

    def _reset(self) -> None:
        self._ids: list[str] = []
        self._texts: list[bytes] = []
        self._domains: list[str] = []
        self._origins: list[Origin | None] = []
        self._bad: list[tuple[str, str, str | None, str | None, str | None]] = []
        self._bytes = 0

    def _full(self) -> bool:
        return self._bytes >= BATCH_BYTES or len(self._ids) + len(self._bad) >= BATCH_ROWS

    def add(self, doc_id: str, text: bytes, domain: str, origin: Origin | None = None) -> bool:
        """A document; ``text`` is valid UTF-8."""
        self._origins.append(origin)
        self._ids.append(doc_id)
        self._texts.append(text)
        self._domains.append(domain)
        self._bytes += len(text)
        # `_full`, spelt out where a call a row would be felt
        return self._bytes >= BATCH_BYTES or len(self._ids) + len(self._bad) >= BATCH_ROWS

    def drop(
        self,
        doc_id: str,
        reason: str,
        domain: str | None,
        detail: str | None,
        raw: bytes | None,
    ) -> bool:
        """A record that becomes no document; of its bytes as much is kept as ``dropped`` allows."""
        text = None
        if raw is not None and self.keep != "ids":
            # a character takes at most 4 bytes, so this prefix holds a whole sample
            raw = raw if self.keep == "full" else raw[: 4 * work.SAMPLE_CHARACTERS]
            text = raw.decode("utf-8", "replace")
            self._bytes += len(raw)
        self._bad.append((doc_id, reason, domain, detail, text))
        return self._full()

    def take(self) -> Rows | None:
        """What was collected since the last call, or None."""
        if not self._ids and not self._bad:
            return None
        documents = documents_batch(
            self._ids, self._texts, source=self.source, domains=self._domains, origins=self._origins
        )
        ids, reasons, domains, details, texts = zip(*self._bad, strict=True) if self._bad else ((),) * 5
        bad = pa.RecordBatch.from_arrays(
            [pa.array(c, pa.string()) for c in (ids, [self.source] * len(ids), domains, texts)],
            names=["doc_id", "source", "domain", "text"],
        )
        out = Rows(
            documents,
            work.drop_rows(
                bad,
                pa.array(reasons, pa.string()),
                step=READ_STEP,
                keep=self.keep,
                detail=pa.array(details, pa.string()),
            ),
        )
        self._reset()
        return out


def store_stamp(info: dict[str, Any]) -> str:
    """What the store's listing says that changes with the content: an etag or checksum, else the time, else ""."""
    for key in (
        "ETag",
        "etag",
        "md5Hash",
        "md5",
        "content_md5",
        "crc32c",
        "generation",
    ):
        if info.get(key):
            return f"{key.lower()}:{str(info[key]).strip(chr(34))}"
    for key in (
        "LastModified",
        "last_modified",
        "updated",
        "mtime",
        "modified",
        "created",
    ):
        if info.get(key):
            return f"time:{info[key]}"
    return ""


def fingerprint(file: InputFile) -> str:
    """A digest of the file's content: xxh3-128 of the bytes, or the store's own etag or checksum.

    A local file, and one in a store that keeps neither, is read once in full (several GB/s from memory).
    """
    if not is_local(file.path) and file.stamp and not file.stamp.startswith("time:"):
        return f"{file.stamp}:{file.size}"
    import xxhash

    digest = xxhash.xxh3_128()
    for block in blocks(file.path, None):
        digest.update(block)
    return f"xxh3:{digest.hexdigest()}"
