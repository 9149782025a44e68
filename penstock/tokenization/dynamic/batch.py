"""Merge the frequent pairs of a batch: the same text in fewer tokens, some of them new.

    tokenizer = DynamicTokenizer(BaseVocabulary.load("tokenizer.json"), boundary="word")
    batch = tokenizer.encode(["low lower", "lower lowest"], merges=3)
    tokenizer.row_tokens(batch, 0)                 # [b'low', b' lower']
    batch.lengths, batch.base_lengths              # tokens of each row, after and before
    batch.merges                                   # the pairs, in the order in which they were merged

Byte-pair merges on top of a fixed tokenizer, learned on the batch that they are applied to (Feher, Vulić and
Minixhofer 2025, arXiv:2411.18553): the most frequent pair of adjacent tokens within a unit
(``boundaries``) is joined, again and again. Differences from the published code: of equally frequent pairs the lower
pair of byte strings is taken, so the order of the rows decides nothing; a pair has to occur ``minimum`` times; units
are places of the text. ``tie="first_met"`` gives the published rules by the published algorithm, slowly.

**A row's tokens depend on the whole batch.** Compare only equal batches; ``row_work`` makes and names them.
``per_sample`` makes every row a batch of its own.

A token is its bytes: however "abc" was joined, it is one token, and if the base vocabulary has it, it is that id. New
tokens get the ids after the base vocabulary's, which mean something in their batch only.

Price: one pass of NumPy over the batch and the compiled engine of ``tokenization.merges``: some 10 µs a merge.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.errors import ConfigError, InputError
from penstock.tokenization.dynamic.boundaries import Boundary, Words, require_boundary, unit_starts, valid_pair
from penstock.tokenization.dynamic.recount import recount_merges
from penstock.tokenization.dynamic.vocabulary import BaseVocabulary, Ints, require_ids

Tie = Literal["lexical", "first_met"]


@dataclass(frozen=True, kw_only=True)
class DynamicBatch:
    """Rows of merged tokens and the base tokens that they cover. T merged tokens, B base tokens, n rows.

    Attributes:
        ids: (T,) int64; below ``vocabulary`` a base id, else ``new_tokens[id - vocabulary]``.
        offsets: (n + 1,) where each row begins in ``ids``.
        starts: (T,) the first base token of each token, counted over all rows; it covers those up to the next start.
        base_ids: (B,) ids of the base tokenizer.
        base_offsets: (n + 1,) where each row begins in ``base_ids``.
        new_tokens: bytes of tokens that the base vocabulary has not.
        merges: the pairs in the order in which they were merged; of ``per_sample`` batches, row after row.
        counts: how often each pair occurred when it was merged.
        applied: how many tokens each merge saved.
        units: (n,) units of each row with special tokens: the least tokens that merging could leave.
        vocabulary: ids of the base tokenizer.
    """

    ids: Ints
    offsets: Ints
    starts: Ints
    base_ids: Ints
    base_offsets: Ints
    new_tokens: tuple[bytes, ...]
    merges: tuple[tuple[bytes, bytes], ...]
    counts: tuple[int, ...]
    applied: tuple[int, ...]
    units: Ints
    vocabulary: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Ints:
        """(n,) tokens of each row."""
        return np.diff(self.offsets)

    @property
    def base_lengths(self) -> Ints:
        """(n,) base tokens of each row."""
        return np.diff(self.base_offsets)

    @property
    def stops(self) -> Ints:
        """(T,) one past the last base token of each token."""
        return np.append(self.starts[1:], len(self.base_ids))

    @cached_property
    def merge_hash(self) -> str:
        """32 hex digits of sha256 over the list of merges."""
        state = hashlib.sha256()
        for pair in self.merges:
            for token in pair:
                state.update(len(token).to_bytes(4, "little") + token)
        return state.hexdigest()[:32]

    @property
    def reduction(self) -> float:
        """Percent of the base tokens saved; nothing here is padding."""
        return 100.0 * (1 - len(self.ids) / len(self.base_ids)) if len(self.base_ids) else 0.0

    def new_bytes(self, token: int) -> bytes:
        """Bytes of a new token by its id."""
        return self.new_tokens[token - self.vocabulary]


class DynamicTokenizer:
    """A base tokenizer whose tokens are merged batch by batch.

    Args:
        base: the base tokenizer.
        boundary: what no merge crosses, see ``boundaries``.
        words: ``whitespace``, or ``unicode`` for languages without spaces.
        minimum: least count of a pair that is merged. The published rule is 1.
        tie: ``lexical``, or ``first_met`` for the published rules (slow; the order of rows matters).
        per_sample: every row is a batch of its own.
        markers: add what the base tokenizer puts around a text.
        parse_special: text that spells a special token becomes it. Special tokens are never merged.

    Raises:
        ConfigError: an unknown name, ``minimum`` below 1, ``unicode`` words with ``first_met``, or ``pretoken`` for a
            tokenizer without a pre-tokenizer.
    """

    def __init__(
        self,
        base: BaseVocabulary,
        *,
        boundary: Boundary = "word",
        words: Words = "whitespace",
        minimum: int = 2,
        tie: Tie = "lexical",
        per_sample: bool = False,
        markers: bool = False,
        parse_special: bool = False,
    ) -> None:
        require_boundary(boundary, words)
        if tie not in get_args(Tie):
            raise ConfigError(f"tie: got {tie!r}, allowed {', '.join(get_args(Tie))}")
        if tie == "first_met" and words != "whitespace":
            raise ConfigError(
                "words: got 'unicode' with tie 'first_met', allowed whitespace, as the published rules have"
            )
        if minimum < 1:
            raise ConfigError(f"minimum: got {minimum}, allowed >= 1; 1 merges up to whole units")
        if boundary == "pretoken":
            base.pieces("")
        self.base = base
        self.boundary, self.words, self.minimum, self.tie = boundary, words, minimum, tie
        self.per_sample, self.markers, self.parse_special = per_sample, markers, parse_special

    def encode(self, texts: Sequence[str], merges: int | None) -> DynamicBatch:
        """Texts as one batch. See ``merge``."""
        ids, offsets = self.base.encode(texts, markers=self.markers, parse_special=self.parse_special)
        return self.merge(ids, offsets, merges)

    def merge(self, ids: ArrayLike, offsets: ArrayLike, merges: int | None) -> DynamicBatch:
        """Rows of base ids as one batch.

        Args:
            ids: (B,) base ids of all rows.
            offsets: (n + 1,) where each row begins; a row may be empty.
            merges: how many merges at most (of each row when ``per_sample``); 0 changes nothing, None goes on while a
                pair occurs ``minimum`` times.

        Raises:
            ConfigError: ``merges`` below 0.
            InputError: an id that the base tokenizer has not, or offsets that do not fit.
        """
        if merges is not None and merges < 0:
            raise ConfigError(f"merges: got {merges}, allowed >= 0, or None for as many as there are")
        base_ids, bounds = np.asarray(ids, np.int64).reshape(-1), np.asarray(offsets, np.int64)
        require_ids(base_ids, len(self.base))
        ends = (bounds[0], bounds[-1]) if bounds.ndim == 1 and bounds.size else None
        if ends != (0, base_ids.size) or (np.diff(bounds) < 0).any():
            raise InputError(
                f"offsets: got {bounds[:3].tolist()} … for {base_ids.size} ids, allowed rising, from 0 to that"
            )
        begins = self.unit_starts_of(base_ids, bounds)
        units = np.concatenate([np.zeros(1, np.int64), np.cumsum(begins)])
        made = _Made(self.base)
        # rows of a batch: all of them, or one
        edges = bounds if self.per_sample else bounds[[0, -1]]
        for low, high in pairwise(edges.tolist()):
            if self.tie == "first_met":
                rows = np.array([low, high]) if self.per_sample else bounds
                self._recount(base_ids, rows, merges, made)
            else:
                self._merge(base_ids[low:high], begins[low:high], merges, made, low)
        starts = np.concatenate([np.zeros(0, np.int64), *made.starts])
        return DynamicBatch(
            ids=np.concatenate([np.zeros(0, np.int64), *made.ids]),
            offsets=np.searchsorted(starts, bounds),
            starts=starts,
            base_ids=base_ids,
            base_offsets=bounds,
            new_tokens=tuple(made.new),
            merges=tuple(made.merges),
            counts=tuple(made.counts),
            applied=tuple(made.applied),
            units=units[bounds[1:]] - units[bounds[:-1]],
            vocabulary=len(self.base),
        )

    def row_tokens(self, batch: DynamicBatch, row: int) -> list[bytes]:
        """The tokens of a row as bytes; a special token as b''."""
        ids = batch.ids[batch.offsets[row] : batch.offsets[row + 1]].tolist()
        return [self.base.tokens[i] or b"" if i < batch.vocabulary else batch.new_bytes(i) for i in ids]

    def unit_starts_of(self, ids: Ints, bounds: Ints) -> NDArray[np.bool_]:
        """Which base tokens begin a unit: (B,)."""
        sizes = self.base.sizes[ids]
        alone = sizes == 0
        # runs of tokens with bytes, within a row, are the texts that boundaries are looked for in
        edge = np.zeros(len(ids) + 1, np.bool_)
        edge[bounds] = True
        edge[:-1] |= alone
        edge[1:] |= alone
        places = np.flatnonzero(edge)
        ends = np.cumsum(sizes)
        first = ends - sizes
        data = self.base.join(ids)
        bytes_at = np.append(first, len(data))[places]
        texts = [data[low:high] for low, high in pairwise(bytes_at.tolist()) if high > low]
        cut = unit_starts(texts, self.boundary, self.words, self.base.pieces)
        # cuts after a token's first byte and before its end: it crosses a border, so it stands alone
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(cut)])
        crossing = (before[ends] - before[np.minimum(first + 1, ends)] > 0) & ~alone
        out: NDArray[np.bool_] = cut[first] | alone | crossing
        out[1:] |= alone[:-1] | crossing[:-1]
        return out

    def _merge(self, ids: Ints, begins: NDArray[np.bool_], merges: int | None, made: _Made, shift: int) -> None:
        """One batch by the engine; what comes out is added to ``made``, ``shift`` base tokens on."""
        from penstock.tokenization.merges import Pairs

        sizes = self.base.sizes[ids]
        kept = np.flatnonzero(sizes > 0)
        # the engine gets the tokens of this batch only
        used, local = np.unique(ids[kept], return_inverse=True)
        tokens: list[bytes | None] = [self.base.tokens[i] for i in used.tolist()]
        unit_of = np.flatnonzero(begins[kept])
        engine = Pairs(local, np.append(unit_of, len(kept)) if len(kept) else np.zeros(1), tokens)
        done = engine.merge(max_merges=merges, minimum=self.minimum, tie="bytes")
        symbols, _ = engine.units()
        known = engine.tokens
        number = np.concatenate([used, np.zeros(len(known) - len(used), np.int64)])
        for symbol in np.unique(symbols[symbols >= len(used)]).tolist():
            number[symbol] = made.id_of(known[symbol])
        width = np.array([len(token) for token in known], np.int64)[symbols]
        # a token covers the base tokens that begin at its bytes and before its end
        starts = kept[np.searchsorted(np.cumsum(sizes[kept]) - sizes[kept], np.cumsum(width) - width)]
        special = np.flatnonzero(sizes == 0)
        where = np.concatenate([starts, special])
        order = np.argsort(where, kind="stable")
        made.ids.append(np.concatenate([number[symbols], ids[special]])[order])
        made.starts.append(where[order] + shift)
        made.merges += [(known[left], known[right]) for left, right in done.pairs.tolist()]
        made.counts += done.counts.tolist()
        made.applied += done.applied.tolist()

    def _recount(self, ids: Ints, bounds: Ints, merges: int | None, made: _Made) -> None:
        """One batch, rows between ``bounds``, by the published algorithm and its rule for pairs."""
        rows = [[self.base.tokens[i] for i in ids[low:high].tolist()] for low, high in pairwise(bounds.tolist())]
        valid = partial(valid_pair, boundary=self.boundary, pieces=self.base.pieces)
        merged, found = recount_merges(rows, merges, minimum=self.minimum, tie="first_met", valid=valid)
        for row, tokens, low in zip(rows, merged, bounds.tolist(), strict=False):
            at = 0
            starts, numbers = [], []
            for token in tokens:
                starts.append(at)
                left, at = len(token or b"") - len(row[at] or b""), at + 1
                while left > 0:
                    left, at = left - len(row[at] or b""), at + 1
                whole = at - starts[-1] == 1
                numbers.append(int(ids[low + starts[-1]]) if whole or token is None else made.id_of(token))
            made.ids.append(np.array(numbers, np.int64))
            made.starts.append(np.array(starts, np.int64) + low)
        for one in found:
            made.merges.append(one.pair)
            made.counts.append(one.occurrences)
            made.applied.append(one.applied)


class _Made:
    """A batch under construction."""

    def __init__(self, base: BaseVocabulary) -> None:
        self._base = base
        self.ids: list[Ints] = []
        self.starts: list[Ints] = []
        self.merges: list[tuple[bytes, bytes]] = []
        self.counts: list[int] = []
        self.applied: list[int] = []
        self.new: dict[bytes, int] = {}

    def id_of(self, token: bytes) -> int:
        """A base id, or one after them."""
        known = self._base.ids.get(token)
        return self.new.setdefault(token, len(self._base) + len(self.new)) if known is None else known
