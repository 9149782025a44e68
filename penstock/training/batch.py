"""What a loader hands out for one step: numbers, tokens and segments at once, everything else when it is looked at.

Price: the eager parts are those that every step reads; ``segment_ids`` and ``positions`` cost 16 bytes a token and
are made on first use, as are the document ids and the learned positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.training.sequences import SequenceRows, segment_layout

Ints = NDArray[np.int64]
Learned = NDArray[np.bool_]


class Batch:
    """n sequences of L tokens with S segments together; all integers but the tokens are int64.

    numbers: (n,) position in the training order.
    domain: (n,) index into the loader's domains.
    rows: (n,) row inside the domain.
    mixture_version: (n,) log entry the sequence was drawn under.
    tokens: (n, L), unsigned as in the files.
    segment_counts: (n,) segments per sequence.
    segment_lengths: (S,) tokens per segment.
    """

    __slots__ = (
        "_docs",
        "_ids",
        "_learned",
        "_positions",
        "domain",
        "mixture_version",
        "numbers",
        "rows",
        "segment_counts",
        "segment_lengths",
        "tokens",
    )

    def __init__(
        self,
        *,
        numbers: Ints,
        domain: Ints,
        rows: Ints,
        mixture_version: Ints,
        tokens: NDArray[Any],
        segment_counts: Ints,
        segment_lengths: Ints,
        segment_docs: pa.StringArray | Callable[[], pa.StringArray],
        learned: Learned | Callable[[], Learned | None] | None = None,
        segment_ids: Ints | None = None,
        positions: Ints | None = None,
    ) -> None:
        """``segment_docs`` and ``learned`` may be given as functions, which are called once, on first use."""
        self.numbers = numbers
        self.domain = domain
        self.rows = rows
        self.mixture_version = mixture_version
        self.tokens = tokens
        self.segment_counts = segment_counts
        self.segment_lengths = segment_lengths
        self._docs = segment_docs
        self._learned = learned
        self._ids = segment_ids
        self._positions = positions

    @classmethod
    def of(
        cls, read: SequenceRows, *, domain: Ints, rows: Ints, numbers: Ints | None = None, version: Ints | None = None
    ) -> Batch:
        """Rows that a store has read; without ``numbers`` and ``version`` they stand in no training order: -1."""
        nowhere = np.full(len(rows), -1, dtype=np.int64)
        return cls(
            numbers=nowhere if numbers is None else numbers,
            domain=domain,
            rows=rows,
            mixture_version=nowhere.copy() if version is None else version,
            tokens=read.tokens,
            segment_counts=read.segment_counts,
            segment_lengths=read.segment_lengths,
            segment_docs=read.segment_docs,
            learned=read.learned,
        )

    @property
    def segment_docs(self) -> pa.StringArray:
        """Document of each segment: (S,)."""
        if callable(self._docs):
            self._docs = self._docs()
        return self._docs

    @property
    def learned(self) -> Learned | None:
        """(n, L) tokens to learn where they are predicted; None is all of them."""
        if callable(self._learned):
            self._learned = self._learned()
        return self._learned

    @property
    def segment_ids(self) -> Ints:
        """(n, L) segment in its sequence, -1 on padding."""
        if self._ids is None:
            self._lay_out()
        assert self._ids is not None
        return self._ids

    @property
    def positions(self) -> Ints:
        """(n, L) position in its segment; it restarts at 0 at every segment and at the padding."""
        if self._positions is None:
            self._lay_out()
        assert self._positions is not None
        return self._positions

    def _lay_out(self) -> None:
        self._ids, self._positions = segment_layout(self.segment_counts, self.segment_lengths, self.tokens.shape[1])

    def __len__(self) -> int:
        return len(self.numbers)

    def __repr__(self) -> str:
        n, length = self.tokens.shape
        return f"Batch({n} sequences of {length} tokens, {len(self.segment_lengths)} segments)"
