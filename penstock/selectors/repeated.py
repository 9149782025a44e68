"""Lines and paragraphs that the corpus repeats: menus, footers, licences, cookie notices.

Every line (or paragraph: a run of lines that are not blank) of at least ``min_characters`` gets a 128-bit key, of its
folded words (``folded.py``; case, punctuation and spacing do not count) or of its exact bytes. Equal keys over the
whole corpus are one text. What becomes of it:

    keep "first"   the first occurrence in the order of (doc_id, place in the document) stays, all others are cut
    keep "rare"    texts that occur more than ``max_count`` times are cut everywhere, the others stay everywhere

Sources: CCNet (arXiv 1911.00359) removes paragraphs seen before by hash, RefinedWeb (arXiv 2306.01116) lines; neither
says which copy stays, here it is a function of the corpus alone. At 128 bits, 10^12 lines share a key by chance with
probability below 10^-14.

``keyed`` gives one row a different key of a batch, with its count, so a line repeated ten million times in a part
leaves it once, and the judge meets it once a part: no key is too common.

Price on one core: 66 MB/s of prose from text to keys by words, 270 MB/s by bytes; 42 and 100 MB/s with the rows that
leave a batch, 21 bytes a different line on disk and 60 in memory. The judge sorts numbers (n log n) and compares ids
only where a key occurs in more than one row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock import schema
from penstock.errors import ConfigError

KEYED = pa.schema(
    [
        pa.field("key", pa.uint64()),
        pa.field("key2", pa.uint64()),
        pa.field("doc_id", pa.string()),  # of the first occurrence
        pa.field("position", pa.int32()),  # of the first occurrence: its number in that document
        pa.field("bytes", pa.int32()),
        pa.field("count", pa.int64()),
    ]
)


class Units(NamedTuple):
    """Pieces of the rows of a batch, in order: arrays (units,). Starts and stops are bytes of their row."""

    row: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    cut_stop: NDArray[np.int64]  # where the next unit begins: what goes when the unit goes
    position: NDArray[np.int64]
    key: NDArray[np.uint64]
    key2: NDArray[np.uint64]


def keyed_units(units: Units, doc_id: pa.Array) -> pa.Table:
    """Units as rows of KEYED, each key once."""
    return combine(
        pa.table(
            [
                pa.array(units.key),
                pa.array(units.key2),
                doc_id.take(pa.array(units.row)),
                pa.array(units.position.astype(np.int32)),
                pa.array((units.stop - units.start).astype(np.int32)),
                pa.array(np.ones(len(units.row), np.int64)),
            ],
            schema=KEYED,
        )
    )


def combine(table: pa.Table) -> pa.Table:
    """One row of KEYED for each (key, key2), in their order: the first occurrence and the sum of the counts."""
    order, opens = grouped_order(table)
    rows = table.take(pa.array(order[opens]))
    total = np.add.reduceat(table["count"].to_numpy()[order], np.flatnonzero(opens)) if len(order) else np.empty(0)
    return rows.set_column(rows.column_names.index("count"), KEYED.field("count"), pa.array(total.astype(np.int64)))


def grouped_order(table: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Rows by (key, key2, doc_id, position), and which of them in this order open a new (key, key2)."""
    key, key2 = table["key"].to_numpy(), table["key2"].to_numpy()
    order = np.lexsort((key2, key))
    opens = _opens(key, key2, order)
    crowded = np.flatnonzero(~(opens & np.append(opens[1:], True)))  # rows with a neighbour of their key
    if len(crowded):
        rows = order[crowded]
        ids = table["doc_id"].take(pa.array(rows)).combine_chunks().dictionary_encode()
        codes = ids.indices.to_numpy()
        rank = np.empty(len(ids.dictionary), np.int64)
        rank[pc.sort_indices(ids.dictionary).to_numpy()] = np.arange(len(rank))
        position = table["position"].to_numpy()[rows]
        order[crowded] = rows[np.lexsort((position, rank[codes], key2[rows], key[rows]))]
    return order, opens


def _opens(key: NDArray[np.uint64], key2: NDArray[np.uint64], order: NDArray[np.int64]) -> NDArray[np.bool_]:
    opens = np.ones(len(order), np.bool_)
    a, b = key[order], key2[order]
    opens[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
    return opens


def judged(group: pa.Table, most: int, where: str) -> pa.Table:
    """The rows of keys that occur more than ``most`` times, each with its key's total count and first occurrence.

    Args:
        group: KEYED and any further columns, which are passed through; all rows of a key.

    Returns:
        The further columns, then KEYED, by (key, key2) and then by doc_id and position of the row that came in. Without
        further columns the rows of a key are equal, and it has one.
    """
    schema.require(group.column_names, KEYED.names, where=where)
    order, opens = grouped_order(group)
    which = np.cumsum(opens) - 1
    starts = np.flatnonzero(opens)
    total = np.add.reduceat(group["count"].to_numpy()[order], starts) if len(order) else np.empty(0, np.int64)
    chosen = np.flatnonzero(total[which] > most) if len(order) else which
    if len(group.column_names) == len(KEYED.names):
        chosen = chosen[opens[chosen]]
    rows = group.take(pa.array(order[chosen]))
    firsts = group.take(pa.array(order[starts[which[chosen]]]))
    columns: dict[str, Any] = {name: rows[name] for name in group.column_names if name not in KEYED.names}
    columns |= {name: firsts[name] for name in KEYED.names}
    columns["count"] = pa.array(total[which[chosen]].astype(np.int64))
    return pa.table(columns)


@dataclass(frozen=True, kw_only=True)
class RepeatedLines:
    """Grouped: lines that the corpus repeats. Raises ConfigError for settings out of range."""

    keep: str = "first"
    """Which copies stay: `first`, or of texts repeated more than `max_count` times none (`rare`)."""
    max_count: int = 100
    """`rare`: a text that occurs more often is cut everywhere."""
    min_characters: int = 20
    """Shorter ones are left alone, however often they occur."""
    match: str = "words"
    """`words` lets case, punctuation and spacing differ; `exact` compares bytes."""

    name: ClassVar[str] = "repeated_lines"
    paragraphs: ClassVar[bool] = False
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text", "doc_id")
    adds: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.keep not in ("first", "rare"):
            raise ConfigError(f"keep: got {self.keep!r}, allowed first, rare; choose which copies stay")
        if self.match not in ("words", "exact"):
            raise ConfigError(f"match: got {self.match!r}, allowed words, exact; choose what has to be equal")
        for field in ("max_count", "min_characters"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field}: got {getattr(self, field)}, allowed >= 1; the default is tried")

    @property
    def most(self) -> int:
        """Occurrences that may stay without a verdict."""
        return 1 if self.keep == "first" else self.max_count

    def setup(self) -> None:
        """Compile, or load what an earlier process compiled."""
        self.units(pa.array(["a"]))

    def units(self, text: pa.Array) -> Units:
        """The lines or paragraphs of a text column that count, with their keys."""
        from penstock.selectors import repeated_kernels as kernels
        from penstock.selectors.folded import folded_words
        from penstock.text import char_classes, row_views

        offsets, data = row_views(text)
        row, bounds = kernels.units(offsets, data, char_classes(), self.paragraphs, self.min_characters)
        if self.match == "words":
            words = folded_words(text)
            keys, some = kernels.word_keys(words.rows, words.starts, words.hashes, row, bounds)
        else:
            keys, some = kernels.byte_keys(offsets, data, row, bounds)
        row, bounds, keys = row[some], bounds[some], keys[:, some]
        return Units(row, bounds[:, 0], bounds[:, 1], bounds[:, 2], bounds[:, 3], keys[0], keys[1])

    def keyed(self, batch: pa.RecordBatch) -> pa.Table:
        """One row of KEYED for each different line of the batch."""
        return keyed_units(self.units(batch["text"]), batch["doc_id"])

    def judge(self, group: pa.Table) -> pa.Table:
        """The rows whose text is repeated too often, with total counts and first occurrences; see ``judged``."""
        return judged(group, self.most, f"step {self.name}")

    def cuts(
        self, units: Units, verdict: NDArray[np.int64], first: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(rows, starts, stops) of what goes.

        Args:
            verdict: (units,) -1 for units without one.
            first: (units,) whether a unit is the first occurrence of its verdict's text.
        """
        gone = verdict >= 0
        if self.keep == "first":
            gone &= ~first
        return units.row[gone], units.start[gone], units.cut_stop[gone]


@dataclass(frozen=True, kw_only=True)
class RepeatedParagraphs(RepeatedLines):
    """Grouped: paragraphs that the corpus repeats."""

    # its revision is that of the lines, whose code it runs
    name: ClassVar[str] = "repeated_paragraphs"
    paragraphs: ClassVar[bool] = True
