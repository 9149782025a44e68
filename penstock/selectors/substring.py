"""Passages that the corpus repeats inside documents that are otherwise their own.

Runs of ``size = min_words - window + 1`` folded words (``folded.py``) get 128-bit keys; of any ``window`` such runs one
after the other, that with the least key is a fingerprint (winnowing: Schleimer, Wilkerson, Aiken, SIGMOD 2003). A
passage of ``min_words`` words holds a whole window of runs, so wherever it stands the same fingerprint is selected.
Fingerprints are compared over the whole corpus; the first occurrence in the order of (doc_id, place) stays, the others
are cut.

What is guaranteed:

    found    every passage of at least ``min_words`` words that occurs twice, in one document or two
    cut      of its later copies all but up to ``window - 1`` words at each end, and but for words that are themselves
             the first occurrence of another fingerprint that repeats
    sound    every word cut belongs to a run of ``size`` words that stays in full where it occurs first; nothing
             shorter is ever cut (keys of 128 bits are taken for the words themselves)

The task is that of Lee et al. (arXiv 2107.06499), who cut repeats of 50 tokens by a suffix array. A suffix array finds
every repeat to the byte but holds the whole corpus in memory (8 bytes a byte and more) or shards it and loses repeats
across shards; fingerprints are rows of a table that is judged in hash ranges of bounded size, take part in incremental
builds, and see through case, punctuation and line breaks.

Price on one core: 70 MB/s of prose from text to fingerprints, 37 MB/s with the rows that leave a batch. Two
fingerprints in ``window + 1`` words, 21 bytes each on disk: with the defaults 0.42 of the text's bytes, as much as the
text takes compressed. A smaller ``window`` cuts nearer to the ends of a repeat and makes a larger table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.selectors.folded import Words, folded_words
from penstock.selectors.repeated import Units, judged, keyed_units


@dataclass(frozen=True, kw_only=True)
class RepeatedSubstrings:
    """Grouped: passages that occur more than once. Raises ConfigError for sizes that cannot be guaranteed."""

    min_words: int = 50
    """Every repeated passage of this many words is found."""
    window: int = 16
    """Runs of which one is compared: larger is cheaper, and leaves longer ends."""

    name: ClassVar[str] = "repeated_substrings"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text", "doc_id")
    adds: ClassVar[tuple[str, ...]] = ()
    keep: ClassVar[str] = "first"

    def __post_init__(self) -> None:
        if not 8 <= self.min_words <= 10_000:
            raise ConfigError(f"min_words: got {self.min_words}, allowed 8 to 10000; shorter runs are common phrases")
        if not 1 <= self.window <= (self.min_words + 1) // 2:
            raise ConfigError(
                f"window: got {self.window}, allowed 1 to half of min_words ({(self.min_words + 1) // 2}); with more, "
                "parts of a repeat between two fingerprints would stay"
            )

    @property
    def size(self) -> int:
        """Words of a run."""
        return self.min_words - self.window + 1

    def setup(self) -> None:
        """Compile, or load what an earlier process compiled."""
        self.units(pa.array(["a"]))

    def units(self, text: pa.Array) -> Units:
        """The fingerprints of a text column; ``position`` is a run's first word, and runs overlap."""
        return self._units(folded_words(text))

    def _units(self, words: Words) -> Units:
        from penstock.selectors import substring_kernels as kernels

        row, word, keys = kernels.selected(words.rows, words.hashes, self.size, self.window)
        at = words.rows[row] + word
        stop = words.ends[at + self.size - 1]
        return Units(row, words.starts[at], stop, stop, word, keys[0], keys[1])

    def keyed(self, batch: pa.RecordBatch) -> pa.Table:
        """One row of KEYED for each different fingerprint of the batch."""
        return keyed_units(self.units(batch["text"]), batch["doc_id"])

    def judge(self, group: pa.Table) -> pa.Table:
        """The rows of fingerprints that occur twice, with total counts and first occurrences; see ``judged``."""
        return judged(group, 1, f"step {self.name}")

    def cuts(
        self, text: pa.Array, verdict: NDArray[np.int64], first: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """(rows, starts, stops) of what goes from a text column.

        Args:
            verdict: of each of the column's units, -1 for those without one.
            first: whether a unit is the first occurrence of its verdict's text.
        """
        from penstock.selectors import substring_kernels as kernels
        from penstock.text import row_views

        words = folded_words(text)
        units = self._units(words)
        found = verdict >= 0
        rows, starts, stops = kernels.cut_spans(
            *row_views(text),
            words.rows,
            words.starts,
            words.ends,
            units.row,
            units.position,
            self.size,
            found & ~first,
            found & first,
        )
        return rows, starts, stops
