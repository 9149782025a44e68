"""Merged tokens as columns of a dataset, in batches that have a name.

    for batch in keyed_batches(table, rows=128):
        columns = DynamicTokens(tokenizer_file=…, sha256=…, merges=200).annotate(batch)

A row's merged tokens depend on the batch it is merged in, so a batch must not be what a runner happens to hand over.
``keyed_batches`` sorts rows by id and cuts them into batches of a fixed size; each row carries the key of its batch, a
hash of the batch's ids, and how many rows it has. ``DynamicTokens`` merges key by key, however many keys a record
batch holds and in whatever order their rows stand, and refuses a key that is not whole. So workers, splits and bundles
change nothing.

What is stored is the base ids and how many of them each merged token covers; the tokens' bytes follow from both.

Price: the table in memory to be sorted by id; one encoding and one merge a batch.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock import schema
from penstock.errors import ConfigError, DatasetError
from penstock.sources.base import InputFile
from penstock.tokenization.dynamic.batch import DynamicTokenizer
from penstock.tokenization.dynamic.boundaries import Boundary, Words, require_boundary
from penstock.tokenization.dynamic.vocabulary import BaseVocabulary
from penstock.tokenization.loading import load

KEY, ROWS = "dynamic_batch", "dynamic_batch_rows"


def keyed_batches(table: pa.Table, *, rows: int, ids: str = "doc_id") -> Iterator[pa.RecordBatch]:
    """A table in batches of ``rows`` rows (the last may have fewer) in the order of its ids, with their keys.

    Raises:
        ConfigError: ``rows`` below 1.
        DatasetError: no such column, or an id that is null or stands twice.
    """
    if rows < 1:
        raise ConfigError(f"rows: got {rows}, allowed >= 1; merges are learned on so many rows at once")
    schema.require(table.schema.names, (ids,), where="keyed batches")
    if table[ids].null_count or pc.count_distinct(table[ids]).as_py() < table.num_rows:
        raise DatasetError(f"keyed batches: got ids in {ids!r} that are null or stand twice, allowed one for each row")
    ordered = table.take(pc.sort_indices(table, sort_keys=[(ids, "ascending")])).combine_chunks()
    for start in range(0, ordered.num_rows, rows):
        part = ordered.slice(start, rows).combine_chunks()
        state = hashlib.sha256()
        for one in part[ids].to_pylist():
            name = str(one).encode()
            state.update(len(name).to_bytes(4, "little") + name)
        n = part.num_rows
        key = pa.array([state.hexdigest()[:32]] * n, pa.string())
        keyed = part.append_column(KEY, key).append_column(ROWS, pa.array(np.full(n, n, np.int32)))
        yield keyed.to_batches()[0]


@dataclass(frozen=True, kw_only=True)
class DynamicTokens:
    """Annotator: the merged tokens of every row, for rows of ``keyed_batches``.

    Adds ``token_ids`` (list<int32>, base ids), ``dynamic_spans`` (list<int32>, how many base ids each merged token
    covers), ``dynamic_tokens`` (int32, merged tokens of the row), and what they depend on: ``dynamic_merge_hash``,
    ``dynamic_boundary``, ``dynamic_tie`` and ``dynamic_merges`` (merges asked for; -1 is no limit).

    Attributes:
        tokenizer_file: path of the base tokenizer's ``tokenizer.json``.
        sha256: hex digest of its bytes, checked when it is loaded.
        merges: merges of a batch at most; None goes on while a pair occurs ``minimum`` times.
        boundary, words, minimum, per_sample: as ``DynamicTokenizer``.

    ``annotate`` raises DatasetError when a text is null, a key is not whole, or the file is another; InputError when it
    cannot be read.
    """

    tokenizer_file: str
    sha256: str
    merges: int | None
    boundary: Boundary = "word"
    words: Words = "whitespace"
    minimum: int = 2
    per_sample: bool = False

    name: ClassVar[str] = "dynamic_tokens"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text", KEY, ROWS)
    adds: ClassVar[tuple[str, ...]] = (
        "token_ids",
        "dynamic_spans",
        "dynamic_tokens",
        "dynamic_merge_hash",
        "dynamic_boundary",
        "dynamic_tie",
        "dynamic_merges",
    )

    def __post_init__(self) -> None:
        require_boundary(self.boundary, self.words)
        if self.merges is not None and self.merges < 0:
            raise ConfigError(f"merges: got {self.merges}, allowed >= 0, or None for no limit")
        if self.minimum < 1:
            raise ConfigError(f"minimum: got {self.minimum}, allowed >= 1")

    def setup(self) -> None:
        _load(self.tokenizer_file, self.sha256)

    def files(self) -> list[InputFile]:
        return [InputFile.local(Path(self.tokenizer_file))]

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        if batch["text"].null_count:
            raise DatasetError(
                f"{self.name}: got {batch['text'].null_count} null texts, allowed none; drop them before"
            )
        tokenizer = DynamicTokenizer(
            _load(self.tokenizer_file, self.sha256),
            boundary=self.boundary,
            words=self.words,
            minimum=self.minimum,
            per_sample=self.per_sample,
        )
        n = batch.num_rows
        ids: list[np.ndarray] = [np.zeros(0, np.int64)] * n
        spans = list(ids)
        hashes = [""] * n
        keys = np.array(batch[KEY].to_pylist(), dtype=object)
        whole = batch[ROWS].to_numpy(zero_copy_only=False)
        for key in dict.fromkeys(keys.tolist()):
            rows = np.flatnonzero(keys == key)
            if (whole[rows] != len(rows)).any():
                raise DatasetError(
                    f"{self.name}: got {len(rows)} rows of the batch {key}, allowed {whole[rows[0]]}, all of it; hand "
                    "over record batches of keyed_batches as they are, or several together"
                )
            made = tokenizer.encode([batch["text"][row].as_py() for row in rows.tolist()], self.merges)
            widths = made.stops - made.starts
            for number, row in enumerate(rows.tolist()):
                ids[row] = made.base_ids[made.base_offsets[number] : made.base_offsets[number + 1]]
                spans[row] = widths[made.offsets[number] : made.offsets[number + 1]]
                hashes[row] = made.merge_hash
        merges = -1 if self.merges is None else self.merges
        return {
            "token_ids": _lists(ids),
            "dynamic_spans": _lists(spans),
            "dynamic_tokens": pa.array([len(one) for one in spans], pa.int32()),
            "dynamic_merge_hash": pa.array(hashes, pa.string()),
            "dynamic_boundary": pa.array([f"{self.boundary}:{self.words}"] * n, pa.string()),
            "dynamic_tie": pa.array([tokenizer.tie] * n, pa.string()),
            "dynamic_merges": pa.array([merges] * n, pa.int32()),
        }


@functools.lru_cache(maxsize=2)
def _load(path: str, sha256: str) -> BaseVocabulary:
    loaded = load(path)
    if loaded.sha256 != sha256:
        raise DatasetError(
            f"tokenizer {path}: got sha256 {loaded.sha256}, expected {sha256}; restore the file or plan again"
        )
    return BaseVocabulary(loaded)


def _lists(rows: list[np.ndarray]) -> pa.ListArray:
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(row) for row in rows], dtype=np.int64)])
    flat = np.concatenate([np.zeros(0, np.int64), *rows]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(flat))
