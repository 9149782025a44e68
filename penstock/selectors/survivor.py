"""Which row of a set of duplicates stays, by a rule that depends on the rows alone.

    first        the smallest doc_id in byte order
    longest      the longest text in bytes, then the smallest doc_id
    score.NAME   the highest value of that column (null and NaN are lowest), then the smallest doc_id

A row of an earlier dataset stays whatever the rule says, since it has been given away already; among several of those
the rule decides. No two rows share a doc_id, so the choice is the same however rows are split or arrive.

Price: a sort of the rows that have company, about 1M rows/s.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.errors import ConfigError

FIRST, LONGEST, SCORE = "first", "longest", "score."


def check_rule(rule: str) -> None:
    """Raises ConfigError for a rule that is none of those above."""
    if rule not in (FIRST, LONGEST) and not (rule.startswith(SCORE) and len(rule) > len(SCORE)):
        raise ConfigError(
            f"survivor: got {rule!r}, allowed {FIRST}, {LONGEST} or {SCORE}NAME; name a score column that the "
            "documents have"
        )


def score_columns(rule: str) -> tuple[str, ...]:
    """Columns besides ``doc_id`` and ``text`` that a rule looks at."""
    return (rule,) if rule.startswith(SCORE) else ()


def preference(rule: str, batch: pa.RecordBatch) -> pa.DoubleArray:
    """How much the rule prefers each row; more is better, null is least. ``longest`` reads ``text``."""
    if rule == FIRST:
        return pa.nulls(batch.num_rows, pa.float64())
    if rule == LONGEST:
        return pc.binary_length(batch["text"]).cast(pa.float64())
    value = batch[rule].cast(pa.float64())
    return pc.if_else(pc.is_nan(value), pa.scalar(None, pa.float64()), value)


def best_first(rows: pa.Table, group: Sequence[str]) -> tuple[pa.Table, NDArray[np.bool_]]:
    """``rows`` sorted by the columns ``group`` and, within a group, from the one that stays to the last.

    Args:
        rows: the columns of ``group``, ``doc_id``, ``prefer`` (float64) and ``old`` (bool: of an earlier dataset).

    Returns:
        The sorted table, and True where a group begins: at its survivor.
    """
    rank = pc.if_else(pc.is_null(rows["prefer"]), -np.inf, rows["prefer"])
    # a null preference comes last and the sort of booleans is ascending, hence both turned round
    rows = rows.append_column("_rank", pc.negate(rank)).append_column("_new", pc.invert(rows["old"]))
    keys = [(name, "ascending") for name in (*group, "_new", "_rank", "doc_id")]
    rows = rows.take(pc.sort_indices(rows, keys)).drop_columns(["_rank", "_new"])
    first = np.ones(rows.num_rows, dtype=bool)
    if rows.num_rows:
        first[1:] = False
        for name in group:
            value = rows[name].to_numpy()
            first[1:] |= value[1:] != value[:-1]
    return rows, first


def survivor_of(first: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Index of the survivor of each row of a table that ``best_first`` sorted: shape (n,)."""
    out: NDArray[np.int64] = np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))
    return out


def sizes_of(first: NDArray[np.bool_], weight: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Rows (or their summed ``weight``) of the group of each row of a table that ``best_first`` sorted: shape (n,)."""
    number = np.cumsum(first) - 1
    weight = np.ones(len(first), np.int64) if weight is None else weight
    sums = np.zeros(int(first.sum()), np.int64)
    np.add.at(sums, number, weight)
    out: NDArray[np.int64] = sums[number]
    return out
