"""The loops behind ``UrlBlocklist`` and ``WordBlocklist``, over Arrow's UTF-8 buffers and folded words.

Price: a URL takes 0.3 µs, and 1 to 4 µs more for each list of a million entries; a word of a text 2 to 50 ns beside its
folding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock import text
from penstock.errors import InputError
from penstock.kernels import kernel
from penstock.selectors.line_kernels import lower8, phrase_at
from penstock.selectors.wordset_kernels import WordSet, find
from penstock.text import mix

DOMAIN, URL, HARD, SOFT, SUBWORD = range(1, 6)
_LONGEST_SUBWORD = 64
_WWW = (np.array([0, 4], np.int64), np.frombuffer(b"www.", np.uint8))
_SEED = np.uint64(0xA4093822299F31D0)


class UrlLists(NamedTuple):
    """Sets of normalised entries; ``lengths[n]`` says whether a subword has n bytes."""

    domains: WordSet
    urls: WordSet
    words: WordSet
    soft_words: WordSet
    subwords: WordSet
    lengths: NDArray[np.bool_]

    @classmethod
    def of(
        cls, *, domains: pa.Array, urls: pa.Array, words: pa.Array, soft_words: pa.Array, subwords: pa.Array
    ) -> UrlLists:
        """From entries as listed; words and subwords are letters and digits in small letters."""
        sizes = pc.unique(pc.binary_length(subwords)).to_numpy(zero_copy_only=False)
        if sizes.size and sizes.max() > _LONGEST_SUBWORD:
            raise InputError(f"subwords: got one of {sizes.max()} letters, allowed {_LONGEST_SUBWORD}; remove it")
        lengths = np.zeros(_LONGEST_SUBWORD + 1, np.bool_)
        lengths[sizes] = True
        lengths.flags.writeable = False
        hosts, addresses = _parts(domains, whole=False), _parts(urls, whole=True)
        sets = [WordSet.of(entries) for entries in (hosts, addresses, words, soft_words, subwords)]
        return cls(sets[0], sets[1], sets[2], sets[3], sets[4], lengths)


def judge_urls(urls: pa.Array, lists: UrlLists, soft_threshold: int) -> NDArray[np.int8]:
    """0, or the first of DOMAIN to SUBWORD that stops a URL: shape (rows,)."""
    offsets, data = text.row_views(urls)
    return _judge_urls(offsets, data, lists, soft_threshold)


def _parts(urls: pa.Array, *, whole: bool) -> pa.Array:
    """The compared part of each URL: its host, or with ``whole`` host and the rest."""
    offsets, data = text.row_views(urls)
    starts, ends, content = _normalised(offsets, data, whole)
    out = np.zeros(starts.size + 1, np.int64)
    np.cumsum(ends - starts, out=out[1:])
    return pa.Array.from_buffers(pa.large_string(), starts.size, [None, pa.py_buffer(out), pa.py_buffer(content)])


@kernel
def _host(data: Any, start: Any, end: Any) -> Any:
    """(start, end) of a URL's host without "www." and the byte where the path begins."""
    at = start
    i = start
    while i + 2 < end:
        byte = data[i]
        if byte == 0x3A and data[i + 1] == 0x2F and data[i + 2] == 0x2F:
            at = i + 3
            break
        if byte == 0x2F or byte == 0x3F or byte == 0x23:
            break
        i += 1
    if at == start and end - at > 2 and data[at] == 0x2F and data[at + 1] == 0x2F:
        at += 2
    path = at
    while path < end and data[path] != 0x2F and data[path] != 0x3F and data[path] != 0x23:
        path += 1
    for i in range(at, path):
        if data[i] == 0x40:  # user@host
            at = i + 1
    stop = at
    if at < path and data[at] == 0x5B:
        while stop < path and data[stop] != 0x5D:
            stop += 1
        stop = min(stop + 1, path)
    else:
        while stop < path and data[stop] != 0x3A:
            stop += 1
    while stop > at and data[stop - 1] == 0x2E:
        stop -= 1
    if stop - at > 4 and data[at + 3] == 0x2E and phrase_at(data, at, stop, _WWW[0], _WWW[1], 0):
        at += 4
    return at, stop, path


@kernel
def _write_url(data: Any, start: Any, end: Any, whole: Any, out: Any) -> Any:
    """Write the compared part of a URL to ``out`` and return its length: host in small letters, path up to "#"."""
    at, stop, path = _host(data, start, end)
    fill = 0
    for i in range(at, stop):
        out[fill] = lower8(data, i)
        fill += 1
    if whole:
        i = path
        while i < end and data[i] != 0x23:
            out[fill] = data[i]
            fill += 1
            i += 1
        while fill > 0 and out[fill - 1] == 0x2F:
            fill -= 1
    return fill


@kernel
def _normalised(offsets: Any, data: Any, whole: Any) -> Any:
    rows = offsets.size - 1
    starts = np.empty(rows, np.int64)
    ends = np.empty(rows, np.int64)
    out = np.empty(offsets[rows] - offsets[0] + 1, np.uint8)
    fill = 0
    for row in range(rows):
        starts[row] = fill
        fill += _write_url(data, offsets[row], offsets[row + 1], whole, out[fill:])
        ends[row] = fill
    return starts, ends, out[:fill]


@kernel
def _judge_url(data: Any, start: Any, end: Any, lists: Any, soft_threshold: Any, scratch: Any, bounds: Any) -> Any:
    if lists.domains.offsets.size > 1 or lists.urls.offsets.size > 1:
        length = _write_url(data, start, end, True, scratch)
        host = 0
        at, stop, _ = _host(data, start, end)
        host = min(stop - at, length)
        label = 0
        while label < host and lists.domains.offsets.size > 1:
            if find(lists.domains.slots, lists.domains.offsets, lists.domains.data, scratch, label, host) >= 0:
                return DOMAIN
            while label < host and scratch[label] != 0x2E:
                label += 1
            label += 1
        if find(lists.urls.slots, lists.urls.offsets, lists.urls.data, scratch, 0, length) >= 0:
            return URL
    # letters and digits side by side, and where each word begins
    fill = 0
    words = 0
    inside = False
    for i in range(start, end):
        byte = lower8(data, i)
        if 0x61 <= byte <= 0x7A or 0x30 <= byte <= 0x39:
            if not inside:
                bounds[words] = fill
                words += 1
            scratch[fill] = byte
            fill += 1
            inside = True
        else:
            inside = False
    bounds[words] = fill
    if lists.words.offsets.size > 1:
        for word in range(words):
            if (
                find(lists.words.slots, lists.words.offsets, lists.words.data, scratch, bounds[word], bounds[word + 1])
                >= 0
            ):
                return HARD
    if lists.soft_words.offsets.size > 1:
        soft = lists.soft_words
        seen = np.empty(64, np.int64)
        different = 0
        for word in range(words):
            item = find(soft.slots, soft.offsets, soft.data, scratch, bounds[word], bounds[word + 1])
            if item < 0:
                continue
            known = False
            for k in range(different):
                known = known or seen[k] == item
            if not known:
                seen[different] = item
                different += 1
                if different >= soft_threshold:
                    return SOFT
    if lists.subwords.offsets.size > 1:
        for at in range(fill):
            for length in range(1, min(lists.lengths.size - 1, fill - at) + 1):
                if lists.lengths[length]:
                    sub = lists.subwords
                    if find(sub.slots, sub.offsets, sub.data, scratch, at, at + length) >= 0:
                        return SUBWORD
    return 0


@kernel
def _judge_urls(offsets: Any, data: Any, lists: Any, soft_threshold: Any) -> NDArray[np.int8]:
    out = np.zeros(offsets.size - 1, np.int8)
    longest: Any = 0
    for row in range(out.size):
        longest = max(longest, offsets[row + 1] - offsets[row])
    scratch = np.empty(longest + 1, np.uint8)
    bounds = np.empty(longest // 2 + 2, np.int64)
    for row in range(out.size):
        if offsets[row] < offsets[row + 1]:
            out[row] = _judge_url(data, offsets[row], offsets[row + 1], lists, soft_threshold, scratch, bounds)
    return out


class WordTable(NamedTuple):
    """Hashes of entries and of their beginnings: ``slots`` holds a hash or 0, ``flags`` what it stands for."""

    slots: NDArray[np.uint64]
    flags: NDArray[np.uint8]  # 1: an entry, 2: the beginning of a longer one

    @classmethod
    def of(cls, rows: NDArray[np.int64], hashes: NDArray[np.uint64]) -> WordTable:
        """From the folded words of entries: those of entry i are ``hashes[rows[i]:rows[i + 1]]``, one at least."""
        size = 16
        while 2 * size < 3 * hashes.size:
            size *= 2
        slots, flags = _build_words(rows, hashes, size)
        slots.flags.writeable = False
        flags.flags.writeable = False
        return cls(slots, flags)


@kernel
def _slot(slots: Any, h: Any) -> Any:
    """Where the hash is, or the empty slot where it would be."""
    mask = np.uint64(slots.size - 1)
    slot = h & mask
    while slots[slot] != 0 and slots[slot] != h:
        slot = (slot + np.uint64(1)) & mask
    return np.int64(slot)


@kernel
def _extended(h: Any, word: Any) -> Any:
    h = mix(h, word)
    return h if h != 0 else np.uint64(1)


@kernel
def _build_words(rows: Any, hashes: Any, size: Any) -> Any:
    slots = np.zeros(size, np.uint64)
    flags = np.zeros(size, np.uint8)
    for row in range(rows.size - 1):
        h = _SEED
        for word in range(rows[row], rows[row + 1]):
            h = _extended(h, hashes[word])
            slot = _slot(slots, h)
            slots[slot] = h
            flags[slot] |= 1 if word + 1 == rows[row + 1] else 2
    return slots, flags


def count_listed(rows: NDArray[np.int64], hashes: NDArray[np.uint64], table: WordTable) -> NDArray[np.int64]:
    """Places of each row of folded words where an entry begins: shape (rows,)."""
    return _count_listed(rows, hashes, table.slots, table.flags)


@kernel
def _count_listed(rows: Any, hashes: Any, slots: Any, flags: Any) -> NDArray[np.int64]:
    out = np.zeros(rows.size - 1, np.int64)
    for row in range(out.size):
        end = rows[row + 1]
        for first in range(rows[row], end):
            h = _SEED
            word = first
            while word < end:
                h = _extended(h, hashes[word])
                slot = _slot(slots, h)
                if slots[slot] == 0:
                    break
                if flags[slot] & 1:
                    out[row] += 1
                    break
                word += 1
    return out
