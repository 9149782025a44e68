"""Byte-pair merges: one engine for training, extending and replaying tokenizers and for merging a batch.

``Pairs`` holds units (words, or stretches of a batch) of symbols with weights, and the count of every adjacent pair. No
merge crosses the border of a unit. ``merge`` takes the most frequent pair again and again, ``apply`` one that is given,
``replay`` a list. Counts are 64-bit and follow every merge (BPE: Sennrich, Haddow, Birch 2016; occurrence lists as in
their script), so the work is proportional to what is merged, also in a unit of a million symbols.

What decides a merge, and nothing else does:

- the count, the sum over occurrences of the weight of their unit. Overlapping occurrences all count (``aaa`` holds
  ``aa`` twice), or with ``overlapping=False`` only those that merging from the left would take (once);
- of equal counts the lower pair: by ids, left first (``tie="ids"``), or by the bytes of the tokens, left first
  (``tie="bytes"``, which needs no ids and so does not depend on the order in which texts came).

Units are rewritten from the left: ``aaa`` becomes ``aa`` + ``a``. A symbol is its bytes: a merge whose bytes a token
has already gives that token, the lowest of several; else the next free id.

The four uses::

    # a trainer: words, how often each occurs, up to a vocabulary
    merged = Pairs(symbols, offsets, tokens, weights=counts).merge(max_tokens=32_000, minimum=2)

    # going on from merges that exist, with a say on every new one
    pairs = Pairs(symbols, offsets, tokens, weights=counts)
    pairs.replay(old_merges)                      # (k, 2) ids, in their order
    merged = pairs.merge(max_tokens=40_000, permit=lambda left, right: b":" not in left + right)

    # a batch: units of sequences, at most m merges; then the sequences in their new symbols
    pairs = Pairs(symbols, offsets, tokens)
    merged = pairs.merge(max_merges=m, minimum=2, tie="bytes")
    symbols, offsets = pairs.units()

    # counts by category along a given list: one column of weights for each category
    pairs = Pairs(symbols, offsets, tokens, weights=by_category)    # (units, categories)
    for left, right in merges:
        pairs.pairs, pairs.counts                                   # (p, 2) and (p, categories) before this merge
        pairs.apply(left, right)

Price: 28 bytes a symbol, of which 8 are touched only as merges happen, and some 50 a distinct pair. Numbers of cells
are 32-bit, so one engine takes 2**31 symbols at most (distinct words count once).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.errors import ConfigError, InputError

if TYPE_CHECKING:
    from penstock.tokenization._merge_kernels import State

Tie = Literal["ids", "bytes"]
Permit = Callable[[bytes, bytes], bool]

_MAX_CELLS = 2**31 - 1
_MAX_COUNT = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Merges:
    """Merges in the order in which they were made.

    Attributes:
        pairs: (m, 2) int32, ids of the two symbols.
        results: (m,) int32, id of the resulting symbol; -1 where a replayed pair occurred nowhere.
        counts: (m,) int64, count of the pair when it was chosen.
        applied: (m,) int64, occurrences merged, not weighted: the symbols of all units fall by so many.
    """

    pairs: NDArray[np.int32]
    results: NDArray[np.int32]
    counts: NDArray[np.int64]
    applied: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.results)


class Pairs:
    """Units of symbols and the counts of their adjacent pairs, kept exact through merges.

    Args:
        symbols: (n,) ids of all units, one unit after another.
        offsets: (units + 1,) where each unit begins in ``symbols``; a unit may be empty.
        tokens: bytes of every id from 0 on; None (or no bytes) for one that has none, such as a control token. New
            symbols get the ids that follow.
        weights: (units,) or (units, columns) int64, how often each unit counts, not negative; None is once. ``merge``
            takes one column.

    Raises:
        InputError: the arrays do not fit each other, an id has no bytes, or the sums of weights pass 2**63 - 1.
    """

    def __init__(
        self,
        symbols: ArrayLike,
        offsets: ArrayLike,
        tokens: Sequence[bytes | None],
        *,
        weights: ArrayLike | None = None,
    ) -> None:
        flat = np.ascontiguousarray(symbols, np.int32)
        bounds = np.ascontiguousarray(offsets, np.int64)
        self._units = len(bounds) - 1
        given = np.ones(max(self._units, 0), np.int64) if weights is None else np.ascontiguousarray(weights, np.int64)
        columns = given.reshape(len(given), -1) if given.size else np.zeros((len(given), 1), np.int64)
        sizes = np.array([len(token or b"") for token in tokens], np.int64)
        _check(flat, bounds, columns, sizes)
        self._state = _new_state(flat, bounds, columns, sizes, b"".join(token or b"" for token in tokens))

    @property
    def pairs(self) -> NDArray[np.int32]:
        """(p, 2) ids of all pairs met so far, also those that occur no longer; row i belongs to row i of ``counts``."""
        return _split(self._state.keys[: self._used])

    @property
    def counts(self) -> NDArray[np.int64]:
        """(p, columns) how often each of ``pairs`` occurs, weighted, overlapping; a view that ``apply`` changes."""
        out: NDArray[np.int64] = self._state.counts[: self._used]
        return out

    @property
    def tokens(self) -> list[bytes]:
        """Bytes of every id, the given ones and those that merges made."""
        from penstock.tokenization import _merge_kernels as kernels

        state = self._state
        data = state.token_bytes.tobytes()
        bounds = state.token_start[: int(state.scalars[kernels.TOKENS]) + 1].tolist()
        return [data[start:stop] for start, stop in pairwise(bounds)]

    def counts_of(self, pairs: ArrayLike) -> NDArray[np.int64]:
        """(k, columns) counts of the pairs (k, 2); zero for one that occurs nowhere."""
        where = self._find(pairs)
        out: NDArray[np.int64] = (
            np.where(where[:, None] >= 0, self.counts[where], 0)
            if self._used
            else (np.zeros((len(where), self._state.counts.shape[1]), np.int64))
        )
        return out

    def apply(self, left: int, right: int) -> int:
        """Merge every occurrence of one pair. Returns how many there were; 0 changes nothing."""
        return int(self.replay(np.array([[left, right]])).applied[0])

    def replay(self, pairs: ArrayLike) -> Merges:
        """Merge the pairs (m, 2) one after another; ``counts`` of the result are left at 0."""
        from penstock.tokenization import _merge_kernels as kernels

        keys = _joined(pairs)
        results, applied = np.empty(len(keys), np.int32), np.empty(len(keys), np.int64)
        done = 0
        while (done := kernels.replay(self._state, keys, results, applied, done)) < len(keys):
            left, right = int(keys[done]) >> 32, int(keys[done]) & 0xFFFFFFFF
            most = len(kernels.occurrences(self._state, self._find([[left, right]])[0]))
            self._make_room(left, right, most)
        return Merges(pairs=_split(keys), results=results, counts=np.zeros(len(keys), np.int64), applied=applied)

    def merge(
        self,
        *,
        max_merges: int | None = None,
        max_tokens: int | None = None,
        minimum: int = 1,
        tie: Tie = "ids",
        overlapping: bool = True,
        permit: Permit | None = None,
    ) -> Merges:
        """Merge the most frequent pair until a limit is met or none occurs ``minimum`` times.

        Args:
            max_merges: None is no limit.
            max_tokens: stop when there are so many ids, given ones included; None is no limit.
            minimum: least count of a merge.
            tie: which of equal counts comes first: the lower pair of ids or of byte strings.
            overlapping: whether overlapping occurrences all count.
            permit: asked with the bytes of both symbols before a merge; a pair it refuses is not asked for again.

        Raises:
            ConfigError: a limit below zero, ``minimum`` below 1, an unknown tie, or more than one column of weights.
        """
        from penstock.tokenization import _merge_heap_kernels as heap
        from penstock.tokenization import _merge_kernels as kernels

        self._check_merge(max_merges, max_tokens, minimum, tie)
        self._grow("heap_count", "heap_pair", to=self._used)
        heap.build_heap(self._state, minimum, tie == "bytes")
        # a merge takes one symbol away at least
        left = int((self._state.symbols >= 0).sum())
        size = left if max_merges is None else min(left, max_merges)
        log = (np.empty(size, np.int64), np.empty(size, np.int32), np.empty(size, np.int64), np.empty(size, np.int64))
        limit = _MAX_CELLS if max_tokens is None else max_tokens
        self._state.scalars[kernels.MERGED] = 0
        options = (limit, minimum, tie == "bytes", overlapping, permit is not None)
        while (status := heap.search(self._state, *log, *options)) != heap.DONE:
            pair = int(self._state.scalars[kernels.CANDIDATE])
            a, b = int(self._state.keys[pair]) >> 32, int(self._state.keys[pair]) & 0xFFFFFFFF
            if status == heap.GROW:
                self._make_room(a, b, len(kernels.occurrences(self._state, pair)))
            elif permit is not None and not permit(self._bytes(a), self._bytes(b)):
                self._state.banned[pair] = True
        made = int(self._state.scalars[kernels.MERGED])
        keys, results, counts, applied = log
        return Merges(
            pairs=_split(keys[:made]),
            results=results[:made].copy(),
            counts=counts[:made].copy(),
            applied=applied[:made].copy(),
        )

    def units(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The units in their symbols of now: ids (n',) and where each unit begins (units + 1,)."""
        cells = self._state.symbols
        live = cells >= 0
        sizes = np.bincount(self._state.unit[live], minlength=self._units)
        return cells[live], np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])

    @property
    def _used(self) -> int:
        from penstock.tokenization import _merge_kernels as kernels

        return int(self._state.scalars[kernels.PAIRS])

    def _find(self, pairs: ArrayLike) -> NDArray[np.int64]:
        from penstock.tokenization import _merge_kernels as kernels

        out: NDArray[np.int64] = kernels.find_pairs(self._state.slots, self._state.keys, _joined(pairs))
        return out

    def _bytes(self, token: int) -> bytes:
        start = self._state.token_start
        found: bytes = self._state.token_bytes[start[token] : start[token + 1]].tobytes()
        return found

    def _check_merge(self, max_merges: int | None, max_tokens: int | None, minimum: int, tie: str) -> None:
        for name, value in (("max_merges", max_merges), ("max_tokens", max_tokens)):
            if value is not None and value < 0:
                raise ConfigError(f"{name}: got {value}, allowed >= 0, or None for no limit")
        if minimum < 1:
            raise ConfigError(f"minimum: got {minimum}, allowed >= 1; a pair that does not occur cannot be merged")
        if tie not in ("ids", "bytes"):
            raise ConfigError(f"tie: got {tie!r}, allowed ids, bytes")
        if self._state.weights.shape[1] != 1:
            raise ConfigError(
                f"merge: got {self._state.weights.shape[1]} columns of weights, allowed 1; add the columns up, or "
                "replay a list of merges"
            )

    def _make_room(self, left: int, right: int, most: int) -> None:
        """Grow what ``kernels.room`` asks for."""
        from penstock.tokenization import _merge_kernels as kernels

        scalars = self._state.scalars
        tokens = int(scalars[kernels.TOKENS])
        new = min(2 * most, 2 * (tokens + 1))
        self._grow("heap_count", "heap_pair", to=int(scalars[kernels.HEAP]) + new)
        self._grow("segment_start", "segment_size", "segment_before", to=int(scalars[kernels.SEGMENTS]) + new)
        self._state = _more_pairs(self._state, self._used + new)
        length = len(self._bytes(left)) + len(self._bytes(right))
        self._grow("token_bytes", to=int(scalars[kernels.BYTES]) + length)
        if len(self._state.token_start) < tokens + 2:
            self._grow("token_start", to=tokens + 2)
            slots = np.full(_power(2 * len(self._state.token_start)), kernels.NONE, np.int32)
            kernels.add_tokens(slots, self._state.token_start, self._state.token_bytes, tokens)
            self._state = self._state._replace(token_slots=slots)

    def _grow(self, *names: str, to: int) -> None:
        if len(getattr(self._state, names[0])) < to:
            self._state = self._state._replace(**{name: _longer(getattr(self._state, name), to) for name in names})


def _joined(pairs: ArrayLike) -> NDArray[np.int64]:
    both = np.asarray(pairs, np.int64).reshape(-1, 2)
    if both.size and both.min() < 0:
        raise InputError(f"pairs: got the id {both.min()}, allowed ids from 0")
    return np.ascontiguousarray((both[:, 0] << 32) | both[:, 1])


def _split(keys: NDArray[np.int64]) -> NDArray[np.int32]:
    return np.stack([keys >> 32, keys & 0xFFFFFFFF], axis=1).astype(np.int32)


def _longer(array: NDArray[Any], size: int, fill: int = 0) -> NDArray[Any]:
    """A copy with room for ``size`` rows and as many again."""
    out = np.full((2 * size, *array.shape[1:]), fill, array.dtype)
    out[: len(array)] = array
    return out


def _more_pairs(state: State, size: int) -> State:
    from penstock.tokenization import _merge_kernels as kernels

    if size <= len(state.keys):
        return state
    keys = _longer(state.keys, size)
    slots = np.full(_power(2 * len(keys)), kernels.NONE, np.int32)
    kernels.fill_slots(slots, keys, state.scalars[kernels.PAIRS])
    return state._replace(
        keys=keys,
        slots=slots,
        counts=_longer(state.counts, size),
        banned=_longer(state.banned, size),
        fresh=_longer(state.fresh, size),
        segment_of=_longer(state.segment_of, size, kernels.NONE),
    )


def _power(size: int) -> int:
    return 1 << max(4, (size - 1).bit_length())


def _check(flat: NDArray[np.int32], bounds: NDArray[np.int64], weights: NDArray[np.int64], sizes: NDArray[Any]) -> None:
    if bounds.ndim != 1 or not bounds.size or bounds[0] != 0 or bounds[-1] != flat.size or (np.diff(bounds) < 0).any():
        raise InputError(
            f"offsets: got {bounds[:3].tolist()} … for {flat.size} symbols, allowed numbers that rise from 0 to that"
        )
    if flat.size + bounds.size > _MAX_CELLS:
        raise InputError(f"symbols: got {flat.size} in {bounds.size - 1} units, allowed 2**31 together; use less text")
    if len(weights) != bounds.size - 1:
        raise InputError(f"weights: got {len(weights)} rows, allowed one for each of the {bounds.size - 1} units")
    if weights.size and weights.min() < 0:
        raise InputError(f"weights: got {weights.min()}, allowed >= 0")
    if flat.size:
        low, high = int(flat.min()), int(flat.max())
        if low < 0 or high >= sizes.size:
            raise InputError(f"symbols: got ids {low} to {high}, allowed 0 to {sizes.size - 1}, those of the tokens")
        bare = np.flatnonzero((np.bincount(flat, minlength=sizes.size) > 0) & (sizes == 0))
        if bare.size:
            raise InputError(f"symbols: got id {bare[0]}, a token without bytes; cut the units around such tokens")
    # no count passes the sum over all symbols
    rough = weights.astype(np.float64).T @ np.diff(bounds)
    if rough.size and rough.max() > 0.99 * _MAX_COUNT:
        raise InputError(f"weights: got {rough.max():.3g} symbols in all, allowed 2**63 - 1; scale the weights down")


def _new_state(
    flat: NDArray[np.int32], bounds: NDArray[np.int64], weights: NDArray[np.int64], sizes: NDArray[Any], data: bytes
) -> State:
    from penstock.tokenization import _merge_kernels as kernels

    cells = flat.size + bounds.size
    symbols, span, unit = (np.empty(cells, np.int32) for _ in range(3))
    kernels.lay_out(flat, bounds, symbols, span, unit)
    token_start = np.zeros(2 * sizes.size + 2, np.int64)
    np.cumsum(sizes, out=token_start[1 : sizes.size + 1])
    token_bytes = np.frombuffer(data + bytes(len(data) + 64), np.uint8).copy()
    token_slots = np.full(_power(4 * (sizes.size + 1)), kernels.NONE, np.int32)
    kernels.add_tokens(token_slots, token_start, token_bytes, sizes.size)
    scalars = np.zeros(kernels.SCALARS, np.int64)
    scalars[kernels.TOKENS], scalars[kernels.BYTES], scalars[kernels.CANDIDATE] = sizes.size, len(data), kernels.NONE
    room = min(flat.size, 1 << 12) + 1
    none = kernels.NONE
    state = kernels.State(
        scalars=scalars,
        symbols=symbols,
        span=span,
        unit=unit,
        pair_at=np.empty(cells, np.int32),
        weights=np.ascontiguousarray(weights),
        slots=np.full(_power(2 * room), none, np.int32),
        keys=np.zeros(room, np.int64),
        counts=np.zeros((room, weights.shape[1]), np.int64),
        banned=np.zeros(room, np.bool_),
        fresh=np.zeros(room, np.int32),
        segment_of=np.full(room, none, np.int32),
        segment_start=np.zeros(0, np.int64),
        segment_size=np.zeros(0, np.int32),
        segment_before=np.zeros(0, np.int32),
        # an occurrence for every pair of now, and two for each symbol that merging takes away
        pool=np.empty(3 * flat.size + 1, np.int32),
        token_slots=token_slots,
        token_start=token_start,
        token_bytes=token_bytes,
        heap_count=np.zeros(0, np.int64),
        heap_pair=np.zeros(0, np.int32),
    )
    at = 0
    while (at := kernels.count_all(state, at)) < cells:
        state = _more_pairs(state, len(state.keys) + 1)
    used = int(scalars[kernels.PAIRS])
    state = state._replace(
        segment_start=np.zeros(2 * used, np.int64),
        segment_size=np.zeros(2 * used, np.int32),
        segment_before=np.zeros(2 * used, np.int32),
    )
    kernels.place_all(state)
    return state
