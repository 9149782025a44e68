"""Integer token histograms: ranks of a whole corpus from sums that commute.

A value falls into a bin by its code, an unsigned integer that orders as the value does: the high bits of
a float32 (``float_codes``), or fixed steps of [0, 1] (``unit_codes``). A histogram counts the tokens and
the documents of each (criterion, domain, code) that occurs. Counts are int64, so merging in any order and
any split of the rows gives equal bytes, and a rank read from the bins is off by at most the token share
of the bin it falls into, which the histogram itself states.

Price: summarising sorts nothing per row (one hash aggregation per criterion, about 20M rows/s a core); memory is 28
bytes per occupied bin, bounded by criteria x domains x 2**bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock import schema
from penstock.errors import DatasetError

_INDEX_BITS = 22  # as fine as the codes of scores are: nothing is left to search
_INDEX_ENTRIES = 2**24  # 64 MiB of int32, shared by all groups of a table


def float_codes(values: NDArray[np.float32], bits: int) -> NDArray[np.uint32]:
    """Order-preserving codes of float32 values, their high ``bits`` bits: shape (n,); -0.0 counts as 0.0.

    With b bits, values of one sign that share a code differ by less than 2**(9 - b) of their size.
    """
    raw = (np.asarray(values, dtype=np.float32) + np.float32(0.0)).view(np.uint32)
    ordered = np.where(raw >> np.uint32(31), ~raw, raw | np.uint32(0x80000000))
    return ordered >> np.uint32(32 - bits)


def unit_codes(values: NDArray[np.float32], bits: int) -> NDArray[np.uint32]:
    """Codes of values in [0, 1] in 2**bits equal steps: shape (n,); 1.0 falls into the last one."""
    top = (1 << bits) - 1
    return np.minimum(np.asarray(values, dtype=np.float64) * (1 << bits), top).astype(np.uint32)


@dataclass(frozen=True, eq=False)
class TokenHistogram:
    """Summary: occupied bins of each (criterion, domain), sorted by (group, code).

    ``groups`` is sorted and each has a bin; the arrays have one entry per occupied bin.
    """

    groups: tuple[tuple[str, str], ...]
    group: NDArray[np.int32]
    code: NDArray[np.uint32]
    tokens: NDArray[np.int64]
    documents: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        groups: Sequence[tuple[str, str]],
        group: NDArray[np.integer[Any]],
        code: NDArray[np.uint32],
        tokens: NDArray[np.integer[Any]],
        documents: NDArray[np.integer[Any]] | None = None,
    ) -> TokenHistogram:
        """Sum rows (or bins, with their ``documents``) into bins; ``group`` indexes ``groups``, in any order."""
        ranked = tuple(sorted(set(groups)))
        place = {name: i for i, name in enumerate(ranked)}
        remap = np.array([place[name] for name in groups], dtype=np.uint64)
        key = (remap[group] << np.uint64(32)) | code if len(group) else np.zeros(0, dtype=np.uint64)
        count = np.ones(len(key), dtype=np.int64) if documents is None else documents.astype(np.int64, copy=False)
        rows = pa.table({"key": key, "tokens": tokens.astype(np.int64, copy=False), "documents": count})
        sums = rows.group_by("key", use_threads=False).aggregate([("tokens", "sum"), ("documents", "sum")])
        key = sums["key"].to_numpy()
        order = np.argsort(key)
        key = key[order]
        # a name without rows leaves no trace, so equal rows give an equal histogram however they were batched
        used, group = np.unique(key >> np.uint64(32), return_inverse=True)
        return cls(
            groups=tuple(ranked[i] for i in used),
            group=group.astype(np.int32),
            code=(key & np.uint64(0xFFFFFFFF)).astype(np.uint32),
            tokens=sums["tokens_sum"].to_numpy()[order],
            documents=sums["documents_sum"].to_numpy()[order],
        )

    @classmethod
    def concat(cls, parts: Iterable[TokenHistogram]) -> TokenHistogram:
        """The bins of all parts, summed."""
        parts = list(parts)
        groups = [name for part in parts for name in part.groups]
        base = np.cumsum([0, *(len(part.groups) for part in parts)])
        if not groups:
            return cls.of([], _none(np.int32), _none(np.uint32), _none(np.int64))
        return cls.of(
            groups,
            np.concatenate([part.group + base[i] for i, part in enumerate(parts)]),
            np.concatenate([part.code for part in parts]),
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.documents for part in parts]),
        )

    def merge(self, other: TokenHistogram) -> TokenHistogram:
        return TokenHistogram.concat([self, other])

    def bounds(self) -> NDArray[np.int64]:
        """Where each group's bins start, and the end: shape (groups + 1,)."""
        return np.searchsorted(self.group, np.arange(len(self.groups) + 1)).astype(np.int64)

    def to_table(self) -> pa.Table:
        """One row per occupied bin: criterion, domain, code, tokens, documents."""
        names = np.array([[*name] for name in self.groups], dtype=object).reshape(len(self.groups), 2)
        return pa.table(
            {
                "criterion": pa.array(names[self.group, 0], pa.string()),
                "domain": pa.array(names[self.group, 1], pa.string()),
                "code": pa.array(self.code),
                "tokens": pa.array(self.tokens),
                "documents": pa.array(self.documents),
            }
        )

    @classmethod
    def from_table(cls, table: pa.Table) -> TokenHistogram:
        """The histogram that ``to_table`` wrote, or the sum of several such tables concatenated."""
        schema.require(
            table.column_names, ("criterion", "domain", "code", "tokens", "documents"), where="token histogram"
        )
        criterion = table["criterion"].combine_chunks().dictionary_encode()
        domain = table["domain"].combine_chunks().dictionary_encode()
        width = max(len(domain.dictionary), 1)
        pair = criterion.indices.to_numpy().astype(np.int64) * width + domain.indices.to_numpy()
        seen, group = np.unique(pair, return_inverse=True)
        groups = [(criterion.dictionary[i // width].as_py(), domain.dictionary[i % width].as_py()) for i in seen]
        code, tokens, documents = (table[name].to_numpy() for name in ("code", "tokens", "documents"))
        return cls.of(groups, group, code, tokens, documents)


def _none(kind: type[np.generic]) -> NDArray[Any]:
    return np.zeros(0, dtype=kind)


@dataclass(frozen=True, eq=False)
class StepTable:
    """Runs of ascending codes, one per group, with a first-level index: finds the bin of (group, code)."""

    offsets: NDArray[np.int64]
    codes: NDArray[np.uint32]
    index: NDArray[np.int32]
    shift: int

    @classmethod
    def of(cls, offsets: NDArray[np.int64], codes: NDArray[np.uint32], bits: int) -> StepTable:
        room = _INDEX_ENTRIES // max(len(offsets) - 1, 1)
        shift = max(bits - min(_INDEX_BITS, max(room.bit_length() - 1, 1)), 0)
        width = 1 << (bits - shift)
        index = np.zeros((len(offsets) - 1, width + 1), dtype=np.int32)
        for g in range(len(offsets) - 1):
            run = codes[offsets[g] : offsets[g + 1]] >> np.uint32(shift)
            np.cumsum(np.bincount(run, minlength=width), out=index[g, 1:])
        return cls(offsets, codes, index, shift)

    def find(self, group: NDArray[np.int32], code: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Position of the last bin <= code of the row's group (its first bin if none is); -1 for group -1."""
        found: NDArray[np.int64] = _kernels().locate(
            self.offsets, self.codes, self.index, np.uint32(self.shift), group, code
        )
        return found

    def look_up(
        self, group: NDArray[np.int32], code: NDArray[np.uint32], pairs: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The two values of each row's bin (see ``find``), ``pairs`` being (bins, 2); 0 for group -1."""
        one, other = _kernels().look_up(self.offsets, self.codes, self.index, np.uint32(self.shift), group, code, pairs)
        return one, other

    def add_weighted(
        self,
        out: NDArray[np.float64],
        *,
        steps: NDArray[np.float32],
        run: NDArray[np.int32],
        weight: NDArray[np.float64],
        domain: NDArray[np.int32],
        code: NDArray[np.uint32],
        present: NDArray[np.bool_],
        neutral: float,
    ) -> None:
        """Add weight[d] * (the step of ``code`` in group run[d]) to each row, d being the row's ``domain``.

        Args:
            out: shape (n,), changed in place.
            steps: one value per bin.
            run, weight: one entry per domain; run -1 has no bins.
            domain, code, present: shape (n,); absent rows, and domains without bins, have the step ``neutral``.
        """
        _kernels().add_weighted(
            out,
            self.offsets,
            self.codes,
            self.index,
            np.uint32(self.shift),
            steps,
            run,
            weight,
            domain,
            code,
            present,
            neutral,
        )


@cache
def _kernels() -> Any:
    from penstock.selectors import _lookup_kernels

    return _lookup_kernels


# the domains that were encoded last: one batch passes several row works, each of which wants them
_last_encoded: tuple[Any, Any, Any] = (None, None, None)  # (what tells the column, the column, encoded)


def _encoded(column: pa.Array) -> pa.DictionaryArray:
    """The column as a dictionary array."""
    global _last_encoded
    if pa.types.is_dictionary(column.type):
        return column
    told = (column.offset, len(column), *(b.address if b is not None else 0 for b in column.buffers()))
    known, held, encoded = _last_encoded
    # the column is held with its result, so its buffers are not freed and no other column has their addresses
    if known != told or held.type != column.type:
        encoded = column.dictionary_encode()
        _last_encoded = (told, column, encoded)
    return encoded


def domain_index(column: pa.Array, names: Sequence[str]) -> NDArray[np.int32]:
    """Position of each row's domain in ``names``, -1 where it is not there or null: shape (n,)."""
    encoded = _encoded(column)
    place = {name: i for i, name in enumerate(names)}
    remap = np.array([*(place.get(name, -1) for name in encoded.dictionary.to_pylist()), -1], dtype=np.int32)
    place_of_row: NDArray[np.int32] = remap[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
    return place_of_row


def domains_of(batch: pa.RecordBatch) -> tuple[list[str], NDArray[np.int32]]:
    """(names, position of each row's domain among them) of one batch; a null counts as the domain ""."""
    encoded = _encoded(batch["domain"])
    names = [name or "" for name in encoded.dictionary.to_pylist()] + [""]
    index = encoded.indices.fill_null(len(names) - 1).to_numpy(zero_copy_only=False)
    return names, index.astype(np.int32, copy=False)


def train_rows(batch: pa.RecordBatch) -> NDArray[np.bool_]:
    """True where ``split`` is train: shape (n,)."""
    mask: NDArray[np.bool_] = pc.equal(batch["split"], "train").fill_null(False).to_numpy(zero_copy_only=False)
    return mask


def token_counts(column: pa.Array) -> NDArray[np.int64]:
    """Tokens per row: shape (n,).

    Raises:
        DatasetError: a null or a negative count.
    """
    if column.null_count:
        raise DatasetError(
            f"tokens: got {column.null_count} null(s), allowed a count >= 0; count tokens before selecting"
        )
    tokens: NDArray[np.int64] = column.to_numpy(zero_copy_only=False).astype(np.int64)
    if len(tokens) and tokens.min() < 0:
        raise DatasetError(f"tokens: got {tokens.min()}, allowed a count >= 0; count tokens again")
    return tokens


def criterion_values(column: pa.Array, name: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(values, present) of a score column, each of shape (n,); absent values are 0.

    Raises:
        DatasetError: a NaN. A document that was not scored must be null.
    """
    present = np.ones(len(column), dtype=bool)
    column = column.cast(pa.float32())
    if column.null_count:
        present = column.is_valid().to_numpy(zero_copy_only=False)
        column = column.fill_null(0.0)
    values: NDArray[np.float32] = column.to_numpy(zero_copy_only=False)
    if (lost := int(np.isnan(values).sum())) > 0:
        raise DatasetError(f"{name}: got NaN in {lost} row(s); write null where a row has no score")
    return values, present
