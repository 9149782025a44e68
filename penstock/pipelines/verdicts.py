"""What passes that judge rows of all parts share: bucketed writing, hash ranges, verdicts by part and their digests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.dataset import hash_json
from penstock.digest import TableDigest
from penstock.pipelines.passes import PartWriter, Receipt, Split


def ranges_for(rows: int, per_range: int) -> int:
    """How many hash ranges hold ``per_range`` rows each; a power of two, so that growth rarely changes it."""
    return 1 << max(0, (max(rows, 1) - 1) // per_range).bit_length()


def rows_by_bucket(
    out: PartWriter, table: str, number: NDArray[Any], rows: pa.Table, name: Callable[[int], str]
) -> None:
    """Write ``rows`` to the buckets ``name(number)``, in their order within each.

    Args:
        number: bucket of each row, (n,) integers from 0 on.
    """
    order = np.argsort(number, kind="stable")
    number = number[order]
    rows = rows.take(pa.array(order)).combine_chunks()
    edges = np.flatnonzero(np.diff(number, prepend=-1, append=-1))
    for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        for batch in rows.slice(first, last - first).to_batches():
            out.piece(table, name(int(number[first])), batch)


def write_verdicts(out: PartWriter, verdicts: pa.Table, table: str = "verdicts") -> None:
    """Write verdicts by the part they apply to, and count a digest of each part's into the statistics.

    Args:
        verdicts: ``part``, ``row`` and whatever says what becomes of the row.
    """
    part = verdicts["part"].to_numpy()
    order = np.lexsort((verdicts["row"].to_numpy(), part))
    rows = verdicts.drop_columns(["part"]).take(pa.array(order))
    part = part[order]
    rows_by_bucket(out, table, part, rows, str)
    count_digests(out, table, part, rows)


def count_digests(out: PartWriter, name: str, part: NDArray[Any], rows: pa.Table) -> None:
    """Count a digest of each part's rows into the statistics; ``part`` (n,) is ascending."""
    edges = np.flatnonzero(np.diff(part, prepend=-1, append=-1))
    for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        digest = TableDigest.of(rows.slice(first, last - first))
        out.add_stats({name: {str(part[first]): {"first": digest.first, "second": digest.second}}})


def judged_splits(splits: Sequence[Split], *digests: dict[str, list[int]]) -> list[Split]:
    """Splits that read a part and what was judged of it: their memos hold both.

    Args:
        digests: of each kind of verdict, ``digests_of`` the receipts that judged.
    """
    return [replace(s, memo=hash_json([s.memo, *(of_part.get(str(s.index)) for of_part in digests)])) for s in splits]


def digests_of(receipts: Sequence[Receipt], name: str = "verdicts") -> dict[str, list[int]]:
    """What each part's verdicts are, by part number, summed over the ranges that judged."""
    found: dict[str, list[int]] = {}
    for receipt in receipts:
        for part, digest in receipt.stats.get(name, {}).items():
            have = found.setdefault(part, [0, 0])
            have[0] += digest["first"]
            have[1] += digest["second"]
    return found
