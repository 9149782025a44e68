"""Sequences of equal length out of token streams that somebody else wrote, by index arithmetic alone.

A stream is the documents of one domain in a fixed order, as places in arrays that lie in mapped files; nothing is
copied or rewritten before a batch is read. Two layouts:

``concatenated``: document follows document and every L tokens are a row, as Megatron-LM and the usual ``group_texts``
    do it. A row's pieces of documents are its segments, so positions and attention still end where a document
    does. The last row of a domain is padded; no token is lost.
``separate``: every document is a row, padded to L; a longer one is refused. For data that was packed before.

Price: 24 bytes a document in memory, and 24 more for each place where the stream jumps (none where documents lie one
behind the other). A read is one copy of the tokens and about a microsecond for every jump inside a row. Rows of
``concatenated`` hold neighbours of the file; where those are alike, penstock's own packing, which takes documents in
hash order, mixes better.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock import schema
from penstock.errors import ConfigError, DatasetError
from penstock.training.sequences import SequenceRows

Ints = NDArray[np.int64]
Layout = Literal["concatenated", "separate"]

# rows whose ids are looked at together: 16 MB of int32 at 4,096 tokens
_SCAN = 1 << 22
NOT_LEARNED = -100  # of ``labels``, the value that PyTorch's cross-entropy ignores


@dataclass(frozen=True, eq=False)
class TokenStream:
    """The documents of a domain in order: D of them that are not empty, T tokens, in P runs of adjacent places."""

    arrays: tuple[NDArray[Any], ...]  # flat integers: a file or a record batch each
    array: Ints  # (P,) which of them a run lies in
    start: Ints  # (P,) its first place there
    begins: Ints  # (P + 1,) its first place in the stream, then T
    borders: Ints  # (D + 1,) first place of every document, then T
    names: Callable[[Ints], list[str]]  # ids of documents 0 to D - 1
    labels: tuple[NDArray[Any], ...] | None = None  # at the places of ``arrays``: the token, or -100 where not learned

    @classmethod
    def of_spans(
        cls,
        arrays: Sequence[NDArray[Any]],
        array: Ints,
        start: Ints,
        size: Ints,
        first: Ints,
        names: Callable[[Ints], list[str]],
        labels: Sequence[NDArray[Any]] | None = None,
    ) -> TokenStream:
        """A stream of N spans, in order; empty documents drop out.

        Args:
            array, start, size: array, first place and number of tokens of every span: (N,).
            first: first span of every document, then N: (D0 + 1,).
            names: ids of documents 0 to D0 - 1.
        """
        ends = np.concatenate([[0], np.cumsum(size, dtype=np.int64)])
        borders = ends[first]
        kept = np.flatnonzero(np.diff(borders) > 0)
        full = size > 0
        array, start, size, at = array[full], start[full], size[full], ends[:-1][full]
        goes_on = np.zeros(len(array), np.bool_)
        goes_on[1:] = (array[1:] == array[:-1]) & (start[1:] == start[:-1] + size[:-1])
        return cls(
            arrays=tuple(arrays),
            array=array[~goes_on],
            start=start[~goes_on],
            begins=np.append(at[~goes_on], ends[-1]),
            borders=np.append(borders[kept], ends[-1]),
            names=names if len(kept) == len(borders) - 1 else lambda wanted: names(kept[wanted]),
            labels=None if labels is None else tuple(labels),
        )

    @property
    def tokens(self) -> int:
        return int(self.begins[-1])


class StreamStore:
    """A ``store.Store`` over one token stream a domain; ``build`` makes it."""

    def __init__(
        self, streams: Mapping[str, TokenStream], *, length: int, layout: Layout, limit: int, kind: np.dtype[Any]
    ) -> None:
        """Lay the domains' streams end to end, so that a batch of many domains is one look-up.

        Args:
            limit: ids are below it.
            kind: of the tokens that ``read`` gives.
        """
        given = tuple(streams.values())
        self.domains, self.length, self.layout = tuple(streams), length, layout
        self.limit, self.kind = limit, kind
        self._names = [stream.names for stream in given]
        self._arrays = [array for stream in given for array in stream.arrays]
        labelled = [stream.labels is not None for stream in given]
        # a domain without labels is learned whole: its tokens are their own labels
        self._labels = [labels for stream in given for labels in stream.labels or stream.arrays]
        self._labelled = np.array(labelled, dtype=np.bool_)
        before = np.cumsum([0, *(len(stream.arrays) for stream in given)])
        # (K + 1,) first place and first document of every domain
        self._places = np.cumsum([0, *(stream.tokens for stream in given)], dtype=np.int64)
        self._documents = np.cumsum([0, *(len(stream.borders) - 1 for stream in given)], dtype=np.int64)
        self._array = np.concatenate([stream.array + n for stream, n in zip(given, before[:-1], strict=True)])
        self._start = np.concatenate([stream.start for stream in given])
        self._begins, self._borders = (
            np.concatenate(
                [*(part[:-1] + n for part, n in zip(parts, self._places[:-1], strict=True)), self._places[-1:]]
            )
            for parts in ([stream.begins for stream in given], [stream.borders for stream in given])
        )
        if layout == "separate":
            self._rows = np.diff(self._documents)
        else:
            self._rows = -(-np.diff(self._places) // length)
        kinds = {array.dtype for array in self._arrays}
        self._widest = np.result_type(*kinds)
        self._safe = all(k.kind == "u" and _span(k) <= limit for k in kinds)

    @classmethod
    def build(
        cls,
        streams: Mapping[str, TokenStream],
        *,
        length: int | None,
        layout: Layout = "concatenated",
        vocab_size: int | None = None,
    ) -> StreamStore:
        """
        Args:
            length: tokens per row; None takes the length of the documents where ``separate`` ones all have one.
            vocab_size: ids must be below it; None allows what 32 bits hold.

        Raises:
            ConfigError: a bad argument, or no token at all.
            DatasetError: ``separate`` documents that are longer than ``length``, or unequal without a ``length``.
        """
        if layout not in ("concatenated", "separate"):
            raise ConfigError(f"layout: got {layout!r}, allowed 'concatenated' or 'separate'")
        if length is not None and length < 1:
            raise ConfigError(f"length: got {length}, allowed >= 1")
        if length is None and layout == "concatenated":
            raise ConfigError("length: concatenated documents are cut to it; give the tokens of a row")
        if not any(stream.tokens for stream in streams.values()):
            raise ConfigError(f"domains {', '.join(streams) or 'none'}: no token at all; name data that holds some")
        if layout == "separate":
            for domain, stream in streams.items():
                length = _fitting(domain, stream, length)
        assert length is not None
        size = vocab_size or max(_span(array.dtype) for stream in streams.values() for array in stream.arrays)
        kind = np.dtype(schema.token_type(min(size, 2**32)).to_pandas_dtype())
        return cls(streams, length=length, layout=layout, limit=vocab_size or 2**32, kind=kind)

    @property
    def rows(self) -> tuple[int, ...]:
        """Sequences of each domain."""
        return tuple(self._rows.tolist())

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of each domain, padding apart."""
        return tuple(np.diff(self._places).tolist())

    def check(self) -> None:
        """Look at every token once, at memory speed.

        Raises:
            DatasetError: an id that is negative or over the vocabulary, with its document, or a label that is neither
                its token nor -100.
        """
        runs = zip(self._array, self._start, self._begins[:-1], self._begins[1:], strict=True)
        for array, start, begin, end in runs:
            for low in range(int(begin), int(end), _SCAN):
                size = min(_SCAN, int(end) - low)
                place = int(start) + low - int(begin)
                ids = self._arrays[array][place : place + size]
                if int(ids.min()) < 0 or int(ids.max()) >= self.limit:
                    at = int(np.argmax((ids < 0) | (ids >= self.limit)))
                    raise self._refusal(low + at, int(ids[at]))
                if self._labels[array] is not self._arrays[array]:
                    self._check_labels(ids, self._labels[array][place : place + size], low)

    def _check_labels(self, ids: NDArray[Any], labels: NDArray[Any], place: int) -> None:
        wrong = (labels != NOT_LEARNED) & (labels != ids)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise DatasetError(
                f"{self._where(place + at)}: label {labels[at]} of token {ids[at]}, allowed the token itself or "
                f"{NOT_LEARNED}; give labels that are not shifted, or leave the column out"
            )

    def fingerprint(self, sample: int = 256) -> str:
        """A digest of the borders of all documents and of the ids of ``sample`` rows of each domain, for a loader.

        It tells another dataset, order, layout or length apart, not a single id that changed: for that, digest files.
        """
        hashed = hashlib.blake2b(digest_size=16)
        hashed.update(f"{self.layout} {self.length} {list(self.domains)} {self._places.tolist()}".encode())
        hashed.update(self._borders.astype("<i8").tobytes())
        for k, rows in enumerate(self.rows):
            at = np.unique(np.linspace(0, max(rows - 1, 0), min(rows, sample)).astype(np.int64))
            read = self.read(np.full(len(at), k, np.int64), at)
            hashed.update(read.tokens.astype("<i8").tobytes())
            if read.learned is not None:
                hashed.update(read.learned.tobytes())
        return hashed.hexdigest()

    def read(self, domains: Ints, rows: Ints) -> SequenceRows:
        """Tokens and segments of rows of several domains; ``domains`` (n,) are indices into ``self.domains``.

        Raises:
            DatasetError: a token id that is negative or over the vocabulary.
        """
        plan, n = self.plan(domains, rows), len(rows)
        return SequenceRows(
            tokens=plan.tokens(0, n),
            segment_counts=plan.counts,
            segment_lengths=plan.segment_lengths(0, n),
            segment_docs=plan.segment_docs(0, n),
            learned=plan.learned(0, n),
        )

    def plan(self, domains: Ints, rows: Ints) -> StreamPlan:
        """Find rows of several domains, to read them in slices; a thousand cost little more than eight."""
        domains, rows = np.asarray(domains, dtype=np.int64), np.asarray(rows, dtype=np.int64)
        return StreamPlan(self, domains, *self._bounds(domains, rows))

    def _bounds(self, domains: Ints, rows: Ints) -> tuple[Ints, Ints]:
        """First and last place (exclusive) of each row."""
        bad = (rows < 0) | (rows >= self._rows[domains])
        if bad.any():
            at = int(np.argmax(bad))
            k = int(domains[at])
            raise IndexError(f"row {rows[at]} of domain {self.domains[k]}, which has {self._rows[k]}")
        if self.layout == "separate":
            document = self._documents[domains] + rows
            return self._borders[document], self._borders[document + 1]
        begin = self._places[domains] + rows * self.length
        return begin, np.minimum(begin + self.length, self._places[domains + 1])

    def _ids(self, domains: Ints, documents: Ints) -> list[str]:
        """Names of documents, which are counted through all domains."""
        found = np.empty(len(documents), dtype=object)
        for k in np.unique(domains):
            here = domains == k
            found[here] = self._names[int(k)](documents[here] - self._documents[k])
        names: list[str] = found.tolist()
        return names

    def _where(self, place: int) -> str:
        document = np.searchsorted(self._borders, [place], side="right") - 1
        k = np.searchsorted(self._documents, document, side="right") - 1
        name = self._ids(k, document)[0]
        return f"domain {self.domains[int(k[0])]}, document {name}, token {place - int(self._borders[document[0]])}"

    def _refusal(self, place: int, found: int) -> DatasetError:
        advice = "tokenise again" if found < 0 else "give the tokenizer that the ids were made with"
        return DatasetError(f"{self._where(place)}: token id {found}, allowed 0 to {self.limit - 1}; {advice}")


class StreamPlan:
    """n rows of a store, found, ready to be read in slices."""

    def __init__(self, store: StreamStore, domains: Ints, begin: Ints, end: Ints) -> None:
        """``domains``, first and last place (exclusive) of each row: (n,)."""
        self._store, self._domains, self._begin = store, domains, begin
        self.may_be_masked = bool(store._labelled.any())  # False: ``learned`` gives None
        row, self._document = _overlaps(store._borders, begin, end)
        low = np.maximum(store._borders[self._document], begin[row])
        self._lengths = np.minimum(store._borders[self._document + 1], end[row]) - low
        self.counts = np.bincount(row, minlength=len(begin)).astype(np.int64)
        self._segments = np.concatenate([[0], np.cumsum(self.counts)])
        # what to copy: row, array, first place there, first place in the row, tokens
        row, run = _overlaps(store._begins, begin, end)
        low = np.maximum(store._begins[run], begin[row])
        size = np.minimum(store._begins[run + 1], end[row]) - low
        self._copies = np.stack(
            [row, store._array[run], store._start[run] + low - store._begins[run], low - begin[row], size], axis=1
        )
        self._first_copy = np.searchsorted(row, np.arange(len(begin) + 1))

    def tokens(self, begin: int, stop: int) -> NDArray[Any]:
        """Tokens of rows ``begin`` to ``stop``: (stop - begin, L), 0 on padding, in the store's unsigned type.

        Raises:
            DatasetError: a token id that is negative or over the vocabulary.
        """
        store = self._store
        out = np.zeros((stop - begin, store.length), dtype=store.kind if store._safe else store._widest)
        for row, array, start, at, size in self._of(begin, stop):
            out[row - begin, at : at + size] = store._arrays[array][start : start + size]
        if store._safe or not out.size:
            return out
        if int(out.min()) < 0 or int(out.max()) >= store.limit:
            i, at = (int(x[0]) for x in np.nonzero((out < 0) | (out >= store.limit)))
            raise store._refusal(int(self._begin[begin + i]) + at, int(out[i, at]))
        return out.astype(store.kind)

    def learned(self, begin: int, stop: int) -> NDArray[np.bool_] | None:
        """Which of their tokens are learned where they are predicted: (stop - begin, L); None is all of them.

        A padding position is True: it is never predicted.
        """
        store = self._store
        if not store._labelled[self._domains[begin:stop]].any():
            return None
        out = np.ones((stop - begin, store.length), np.bool_)
        for row, array, start, at, size in self._of(begin, stop):
            out[row - begin, at : at + size] = store._labels[array][start : start + size] != NOT_LEARNED
        return out

    def segment_lengths(self, begin: int, stop: int) -> Ints:
        """Tokens of each of their segments, in order: (S,)."""
        lengths: Ints = self._lengths[self._segments[begin] : self._segments[stop]]
        return lengths

    def segment_docs(self, begin: int, stop: int) -> pa.StringArray:
        """Document of each of their segments: (S,)."""
        document = self._document[self._segments[begin] : self._segments[stop]]
        domain = np.repeat(self._domains[begin:stop], self.counts[begin:stop])
        return pa.array(self._store._ids(domain, document), pa.string())

    def _of(self, begin: int, stop: int) -> list[list[int]]:
        copies: list[list[int]] = self._copies[self._first_copy[begin] : self._first_copy[stop]].tolist()
        return copies


def _fitting(domain: str, stream: TokenStream, length: int | None) -> int | None:
    """The length of rows that hold a document each: the one given, or that of all documents."""
    sizes = np.diff(stream.borders)
    if not len(sizes):
        return length
    longest, shortest = int(sizes.max()), int(sizes.min())
    if length is None and longest != shortest:
        raise DatasetError(
            f"domain {domain}: rows of {shortest} to {longest} tokens; give length to pad them to, or "
            "layout='concatenated' to cut them"
        )
    length = length or longest
    if longest > length:
        name = stream.names(np.array([int(np.argmax(sizes))]))[0]
        raise DatasetError(
            f"domain {domain}, document {name}: {longest} tokens do not fit a row of {length}; raise length, or "
            "layout='concatenated' cuts documents"
        )
    return length


def _span(kind: np.dtype[Any]) -> int:
    """How many ids a type of integers holds: 0 to this."""
    return int(np.iinfo(kind).max) + 1


def _overlaps(borders: Ints, begin: Ints, end: Ints) -> tuple[Ints, Ints]:
    """Intervals between ``borders`` that each [begin, end) meets, in order: row and interval, shape (S,) both.

    No row is empty, and no interval is.
    """
    first = np.searchsorted(borders, begin, side="right") - 1
    last = np.searchsorted(borders, end, side="left") - 1
    counts = last - first + 1
    row = np.repeat(np.arange(len(begin)), counts)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts) + first[row]
