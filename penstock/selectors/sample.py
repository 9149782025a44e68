"""Bottom-k-by-hash: a uniform sample of rows that merges in any order to the same bytes.

Every row has a hash of its id, the seed and the purpose. A stratum keeps the k rows whose
(hash, ``doc_id``) are smallest, and so does a union of samples: the k smallest of the union are among
the k smallest of its parts (Cohen and Kaplan 2007, bottom-k sketches). Hashes do not look at the text,
so the sample is uniform within a stratum. It trains tokenizers, clusterings and classifiers.

With ``max_bytes`` a row stays while the text of the rows *before* it, in order of (hash, ``doc_id``), is
under the budget. Both limits keep a prefix of that order. A row once dropped would be dropped with more
rows in front of it too, and the row that crosses the budget is kept, so what it displaced stays displaced
after a merge; that is why the result does not depend on merge order, and why a stratum holds up to one
document more than its budget.

Price: O(rows log rows) per batch on 8-byte hashes; memory is the kept rows. Text is copied only for
rows that are kept.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock import schema
from penstock.errors import ConfigError, DatasetError
from penstock.seeding import rehash

_HASH = "sample_hash"
_STRATUM = "sample_stratum"
_BYTES = "sample_bytes"
_OWN = (_STRATUM, _HASH, _BYTES, "doc_id")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What a bottom-k sample keeps.

    ``purpose`` separates samples of one seed: a tokenizer's and a classifier's are independent.
    ``stratum`` names a string column (a null counts as ""); None samples all rows as one stratum.
    ``rows`` and ``max_bytes`` (of column ``text``) bound each stratum; at least one is needed.
    ``columns`` are kept beside ``doc_id``.
    """

    seed: int
    purpose: str
    columns: tuple[str, ...] = ("text",)
    stratum: str | None = None
    rows: int | None = None
    max_bytes: int | None = None
    text: str = "text"

    def __post_init__(self) -> None:
        if self.rows is None and self.max_bytes is None:
            raise ConfigError("sample: got neither rows nor max_bytes; give one of them to bound it")
        for name, value in (("rows", self.rows), ("max_bytes", self.max_bytes)):
            if value is not None and value < 1:
                raise ConfigError(f"sample {name}: got {value}, allowed >= 1; leave it out for no bound")
        taken = [name for name in self.columns if name in _OWN]
        if taken or len(set(self.columns)) < len(self.columns):
            raise ConfigError(
                f"sample columns: got {list(self.columns)}, allowed distinct names other than {list(_OWN)}"
            )

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns a batch must have."""
        extra = [self.text] if self.max_bytes is not None else []
        extra += [self.stratum] if self.stratum is not None else []
        return tuple(dict.fromkeys(("id_hash", "doc_id", *self.columns, *extra)))

    def of(self, batch: pa.RecordBatch) -> BottomK:
        """The sample of one batch."""
        schema.require(batch.schema.names, self.reads, where=f"sample for {self.purpose}")
        n = batch.num_rows
        hashes = rehash(batch["id_hash"].to_numpy(zero_copy_only=False), self.seed, self.purpose)
        stratum = pa.repeat(pa.scalar(""), n)
        if self.stratum is not None:
            stratum = batch[self.stratum].cast(pa.string()).fill_null("")
        size = pa.nulls(n, pa.int64())
        if self.max_bytes is not None:
            size = pc.binary_length(batch[self.text]).cast(pa.int64()).fill_null(0)
        keys = pa.table({_STRATUM: stratum, _HASH: hashes, _BYTES: size, "doc_id": batch["doc_id"]})
        kept = _kept(self, keys)
        table = keys.take(kept)
        rows = pa.Table.from_batches([batch.select(list(self.columns))]).take(kept)
        for name in self.columns:
            table = table.append_column(name, rows[name])
        return BottomK(self, table)


class BottomK:
    """Summary: the sampled rows in order of (stratum, hash, ``doc_id``). Made by ``Sampling.of``; never changed."""

    def __init__(self, sampling: Sampling, table: pa.Table) -> None:
        self.sampling = sampling
        self._table = table

    @property
    def num_rows(self) -> int:
        return int(self._table.num_rows)

    @property
    def rows(self) -> pa.Table:
        """``doc_id`` and the chosen columns, in order of (stratum, hash, ``doc_id``)."""
        return self._table.select(["doc_id", *self.sampling.columns])

    def strata(self) -> Iterator[tuple[str, pa.Table]]:
        """(stratum, its rows), by name."""
        if self.num_rows == 0:
            return
        names = self._table[_STRATUM].to_numpy(zero_copy_only=False)
        starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
        for start, stop in zip(starts, np.r_[starts[1:], len(names)], strict=True):
            yield str(names[start]), self.rows.slice(start, stop - start)

    def merge(self, other: BottomK) -> BottomK:
        """The sample of the rows of both; in any order of merging the same rows."""
        if other.sampling != self.sampling:
            raise DatasetError(f"samples of different settings cannot merge: {self.sampling} and {other.sampling}")
        both = pa.concat_tables([self._table, other._table])
        return BottomK(self.sampling, both.take(_kept(self.sampling, both.select(list(_OWN)))).combine_chunks())

    def to_table(self) -> pa.Table:
        """All of it as a table; the settings travel in the schema's metadata."""
        settings = json.dumps(dataclasses.asdict(self.sampling), sort_keys=True)
        return self._table.replace_schema_metadata({"sampling": settings})

    @classmethod
    def from_table(cls, table: pa.Table) -> BottomK:
        """The sample that ``to_table`` wrote."""
        metadata = table.schema.metadata or {}
        if b"sampling" not in metadata:
            raise DatasetError("sample table: its schema has no 'sampling' metadata; pass what BottomK.to_table wrote")
        settings: dict[str, Any] = json.loads(metadata[b"sampling"])
        sampling = Sampling(**settings | {"columns": tuple(settings["columns"])})
        return cls(sampling, table.replace_schema_metadata(None))


def _kept(sampling: Sampling, keys: pa.Table) -> pa.Array:
    """Indices of the rows to keep, in order of (stratum, hash, doc_id)."""
    order = pc.sort_indices(keys, [(name, "ascending") for name in (_STRATUM, _HASH, "doc_id")])
    if len(order) == 0:
        return order
    stratum = keys[_STRATUM].combine_chunks().take(order).dictionary_encode()
    code = stratum.indices.to_numpy(zero_copy_only=False)
    start = np.flatnonzero(np.r_[True, code[1:] != code[:-1]])
    group = np.repeat(np.arange(len(start)), np.diff(np.r_[start, len(code)]))
    keep = np.ones(len(code), dtype=bool)
    if sampling.rows is not None:
        keep &= np.arange(len(code)) - start[group] < sampling.rows
    if sampling.max_bytes is not None:
        size = keys[_BYTES].combine_chunks().take(order).to_numpy(zero_copy_only=False)
        before = np.cumsum(size) - size
        keep &= before - before[start[group]] < sampling.max_bytes
    return order.filter(pa.array(keep))
