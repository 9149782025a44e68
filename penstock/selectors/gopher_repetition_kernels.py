"""The loops behind ``GopherRepetition``: the code of the first broken rule, row by row, over Arrow's UTF-8 buffers.

The words of a row are written one after another without spaces, so that every n-gram is a run of bytes. Bounds decide
most rows:

- top n-grams: bigrams are counted in hash buckets, which can only count too many. An n-gram occurs at most as often as
  the bigram it begins with, so if (bucket count x length) stays under the threshold everywhere, the rule holds.
- duplicated n-grams: two equal n-grams begin with the same bytes, so many as a prefix that grows with n, or are shorter
  than it. Only words whose prefix occurs twice, and the starts of short n-grams, are candidates: 8 % of the words of
  prose for n = 5, of which 1 % of the words are left for n = 10. If all the characters under candidates are too few,
  the rule holds.

Where a bound does not decide, n-grams are counted exactly; a hash only finds candidates, bytes decide equality.

Price: about 110 MB/s a core on prose. Scratch of the longest row: 1 byte a byte, 13 a word, 32 a line, and a hash table
of 12 to 24 bytes a word.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock import text
from penstock.errors import InputError
from penstock.kernels import kernel
from penstock.text import SPACE, count_codepoints, decode, equal_bytes, hash_bytes, load8, load64, mix

if TYPE_CHECKING:
    from penstock.selectors.gopher import GopherRepetition

_PAD = 16  # loads of 8 bytes reach past the last word
_SEED = np.uint64(0x243F6A8885A308D3)
_TAG = np.uint64(0xFFFFFFFF00000000)  # a slot of a hash table: upper half of the hash | index + 1
_INDEX = np.uint64(0x00000000FFFFFFFF)


def repetition(column: pa.Array, rules: GopherRepetition) -> NDArray[np.int8]:
    """0, or 1 + the index in ``rules.reasons`` of the first rule a row breaks: shape (rows,).

    Raises:
        InputError: a row of 2 GiB or more.
    """
    offsets, data = text.row_views(column)
    if np.diff(offsets).max(initial=0) >= 2**31:
        raise InputError("text: got a row of 2 GiB or more, allowed less; cut it into documents first")
    return _repetition(
        offsets,
        data,
        text.char_classes(),
        float(rules.max_duplicate_paragraphs),
        float(rules.max_duplicate_paragraph_chars),
        float(rules.max_duplicate_lines),
        float(rules.max_duplicate_line_chars),
        np.array([n for n, _ in rules.max_top_ngrams], np.int64),
        np.array([share for _, share in rules.max_top_ngrams], np.float64),
        np.array([n for n, _ in rules.max_duplicate_ngrams], np.int64),
        np.array([share for _, share in rules.max_duplicate_ngrams], np.float64),
    )


@kernel
def _cleared(slots: Any, items: Any) -> Any:
    """A zeroed table of a power of two of slots, at least 1.5 for each item, and the storage to reuse for the next."""
    size = 16
    while 2 * size < 3 * items:
        size *= 2
    if slots.size < size:
        slots = np.empty(size, np.uint64)
    table = slots[:size]
    table[:] = 0
    return table, slots


@kernel
def _seen(table: Any, data: Any, starts: Any, ends: Any, item: Any) -> Any:
    """Whether an equal item was seen before; remembers it if not. Item i is ``data[starts[i]:ends[i]]``."""
    start = np.int64(starts[item])
    length = np.int64(ends[item]) - start
    h = hash_bytes(data, start, start + length, _SEED)
    tag = h & _TAG
    mask = np.uint64(table.size - 1)
    slot = h & mask
    while table[slot]:
        if table[slot] & _TAG == tag:
            other = np.int64(table[slot] & _INDEX) - 1
            first = np.int64(starts[other])
            if np.int64(ends[other]) - first == length and equal_bytes(data, first, start, length):
                return True
        slot = (slot + np.uint64(1)) & mask
    table[slot] = tag | np.uint64(item + 1)
    return False


@kernel
def _broken_by_segments(
    table: Any, data: Any, starts: Any, ends: Any, characters: Any, share: Any, char_share: Any
) -> Any:
    """1 if too many of these lines or paragraphs were seen before, 2 if they hold too many characters, else 0."""
    repeated = 0
    repeated_characters = 0
    for item in range(starts.size):
        if _seen(table, data, starts, ends, item):
            repeated += 1
            repeated_characters += count_codepoints(data, starts[item], ends[item])
    if repeated / starts.size > share:
        return 1
    return 2 if repeated_characters / characters > char_share else 0


@kernel
def _top_ngram_characters(slots: Any, data: Any, at: Any, chars: Any, words: Any, n: Any, counts: Any) -> Any:
    """Characters of the commonest n-gram with its spaces, times its count; of the earliest if tied. Counts exactly."""
    grams = words - n + 1
    table, slots = _cleared(slots, grams)
    mask = np.uint64(table.size - 1)
    for i in range(grams):
        start = np.int64(at[i])
        length = np.int64(at[i + n]) - start
        h = hash_bytes(data, start, start + length, _SEED)
        tag = h & _TAG
        slot = h & mask
        counts[i] = 0
        while True:
            if table[slot] == 0:
                table[slot] = tag | np.uint64(i + 1)
                counts[i] = 1
                break
            j = np.int64(table[slot] & _INDEX) - 1
            if table[slot] & _TAG == tag and np.int64(at[j + n] - at[j]) == length:
                same = equal_bytes(data, np.int64(at[j]), start, length)
                # with spaces between them, the same letters cut at other places are other words
                for k in range(1, n):
                    same = same and at[i + k] - at[i] == at[j + k] - at[j]
                if same:
                    counts[j] += 1
                    break
            slot = (slot + np.uint64(1)) & mask
    top = 0
    for i in range(1, grams):
        if counts[i] > counts[top]:
            top = i
    return np.int64(chars[top + n] - chars[top] + n - 1) * np.int64(counts[top]), slots


@kernel
def _word_hash(packed: Any, start: Any, end: Any) -> Any:
    """A hash of a word's first 8 bytes and its length: equal for equal words, and now and then for others."""
    length = end - start
    word = load64(packed, start)
    if length < 8:
        word &= (np.uint64(1) << np.uint64(8 * length)) - np.uint64(1)
    return mix(_SEED ^ np.uint64(length), word)


@kernel
def _repetition(
    offsets: Any,
    data: Any,
    classes: Any,
    max_paragraphs: Any,
    max_paragraph_chars: Any,
    max_lines: Any,
    max_line_chars: Any,
    top_n: Any,
    top_share: Any,
    duplicate_n: Any,
    duplicate_share: Any,
) -> NDArray[np.int8]:
    out = np.zeros(offsets.size - 1, np.int8)
    longest: Any = 0
    for row in range(out.size):
        longest = max(longest, offsets[row + 1] - offsets[row])
    # words of one row: bytes without spaces; where each begins in them, in bytes and in characters
    packed = np.empty(longest + _PAD, np.uint8)
    at = np.empty(longest // 2 + 2, np.int32)
    chars = np.empty(longest // 2 + 2, np.int32)
    counts = np.empty(longest // 2 + 2, np.int32)
    marked = np.empty(longest // 2 + 2, np.bool_)
    line_starts = np.empty(longest // 2 + 2, np.int64)
    line_ends = np.empty(longest // 2 + 2, np.int64)
    slots = np.empty(1024, np.uint64)

    for row in range(out.size):
        begin = offsets[row]
        end = offsets[row + 1]
        if begin == end:
            out[row] = 1
            continue

        words = 0
        fill = 0
        characters = 0  # of the whole row
        in_words = 0  # of its words
        lines = 0  # finished ones
        line_start = begin
        first = end  # the row without whitespace around it
        last = begin
        i = begin
        while i < end:
            character, width = decode(data, i)
            kind = load8(classes, character)
            if kind & SPACE:
                if character == 0x0A:
                    line_starts[lines] = line_start
                    line_ends[lines] = i
                    lines += 1
                    while i < end and data[i] == 0x0A:
                        i += 1
                        characters += 1
                    line_start = i
                else:
                    i += width
                    characters += 1
                continue
            first = min(first, i)
            at[words] = fill
            chars[words] = in_words
            shift = i - fill
            continued = 0  # bytes that begin no character
            while not kind & SPACE:
                packed[i - shift] = data[i]
                i += 1
                if i >= end:
                    break
                character = load8(data, i)
                if character >= 0x80:
                    if character < 0xC0:
                        continued += 1
                        continue
                    character, _ = decode(data, i)
                kind = load8(classes, character)
            in_words += i - shift - fill - continued
            fill = i - shift
            last = i
            words += 1
        at[words] = fill
        chars[words] = in_words
        characters += in_words
        line_starts[lines] = line_start
        line_ends[lines] = end
        lines += 1

        # paragraphs are lines joined across single newlines, within the stripped row
        starts = line_starts[:lines].copy()
        ends = line_ends[:lines].copy()
        paragraphs = 0
        start = first
        if words:
            for k in range(lines - 1):
                if line_starts[k + 1] - line_ends[k] >= 2 and line_ends[k] > first and line_starts[k + 1] <= last:
                    starts[paragraphs] = start
                    ends[paragraphs] = line_ends[k]
                    paragraphs += 1
                    start = line_starts[k + 1]
            starts[paragraphs] = start
            ends[paragraphs] = last
            paragraphs += 1
            table, slots = _cleared(slots, paragraphs)
            broken = _broken_by_segments(
                table, data, starts[:paragraphs], ends[:paragraphs], characters, max_paragraphs, max_paragraph_chars
            )
            if broken:
                out[row] = 1 + broken
                continue
        table, slots = _cleared(slots, lines)
        broken = _broken_by_segments(
            table, data, line_starts[:lines], line_ends[:lines], characters, max_lines, max_line_chars
        )
        if broken:
            out[row] = 3 + broken
            continue

        code, slots = _top_rules(slots, packed, at, chars, words, characters, top_n, top_share, counts)
        if code:
            out[row] = 5 + code
            continue
        code, slots = _duplicate_rules(
            slots, packed, at, chars, words, characters, duplicate_n, duplicate_share, marked, counts
        )
        if code:
            out[row] = 5 + top_n.size + code
    return out


@kernel
def _top_rules(
    slots: Any,
    packed: Any,
    at: Any,
    chars: Any,
    words: Any,
    characters: Any,
    top_n: Any,
    top_share: Any,
    buckets_of: Any,
) -> Any:
    """1 + the index of the first top n-gram rule broken, or 0; and the table storage."""
    if words < 2 or top_n.size == 0:
        return 0, slots
    table, slots = _cleared(slots, words)
    mask = np.uint64(table.size - 1)
    left = _word_hash(packed, np.int64(at[0]), np.int64(at[1]))
    for i in range(words - 1):
        right = _word_hash(packed, np.int64(at[i + 1]), np.int64(at[i + 2]))
        bucket = mix(left, right) & mask
        table[bucket] += np.uint64(1)
        buckets_of[i] = np.int32(bucket)
        left = right
    # the exact counts below overwrite the table and the bucket numbers: find all bounds first
    undecided = np.zeros(top_n.size, np.bool_)
    for rule in range(top_n.size):
        n = top_n[rule]
        bound = np.int64(0)
        for i in range(words - n + 1):
            bound = max(bound, np.int64(table[buckets_of[i]]) * np.int64(chars[i + n] - chars[i] + n - 1))
        undecided[rule] = bound / characters > top_share[rule]
    for rule in range(top_n.size):
        if undecided[rule]:
            total, slots = _top_ngram_characters(slots, packed, at, chars, words, top_n[rule], buckets_of)
            if total / characters > top_share[rule]:
                return rule + 1, slots
    return 0, slots


@kernel
def _narrow(slots: Any, packed: Any, at: Any, words: Any, n: Any, candidates: Any, found: Any, marked: Any) -> Any:
    """Keep, in place, the candidates at which an n-gram equal to another may start; their number, and the storage.

    Equal n-grams share their first ``prefix`` bytes or are shorter than that. Prefixes are compared by hash alone.
    """
    prefix = _prefix(n)
    table, slots = _cleared(slots, found)
    mask = np.uint64(table.size - 1)
    for k in range(found):
        i = candidates[k]
        marked[k] = False
        if i + n > words:
            continue
        start = np.int64(at[i])
        marked[k] = np.int64(at[i + n]) - start < prefix
        if at[words] - start < prefix:
            continue
        h = mix(_SEED, load64(packed, start + prefix - 8))
        for p in range(0, prefix - 8, 8):
            h = mix(h, load64(packed, start + p))
        tag = h & _TAG
        slot = h & mask
        while True:
            if table[slot] == 0:
                table[slot] = tag | np.uint64(k + 1)
                break
            if table[slot] & _TAG == tag:
                marked[k] = True
                marked[np.int64(table[slot] & _INDEX) - 1] = True
                break
            slot = (slot + np.uint64(1)) & mask
    kept = 0
    for k in range(found):
        candidates[kept] = candidates[k]
        kept += marked[k]
    return kept, slots


@kernel
def _prefix(n: Any) -> Any:
    """Bytes to compare for n-grams: few n-grams of prose are shorter, few differ later. Grows with n."""
    return max(8, 4 * n - 8)


@kernel
def _duplicate_rules(
    slots: Any,
    packed: Any,
    at: Any,
    chars: Any,
    words: Any,
    characters: Any,
    duplicate_n: Any,
    duplicate_share: Any,
    marked: Any,
    candidates: Any,
) -> Any:
    """1 + the index of the first duplicated n-gram rule broken, or 0; and the table storage."""
    found = words
    for i in range(words):
        candidates[i] = i
    for rule in range(duplicate_n.size):
        n = duplicate_n[rule]
        found, slots = _narrow(slots, packed, at, words, n, candidates, found, marked)
        # characters under any candidate n-gram: repeats cannot hold more
        bound = 0
        covered = 0
        for k in range(found):
            i = candidates[k]
            bound += chars[i + n] - max(chars[i], covered)
            covered = chars[i + n]
        if bound / characters <= duplicate_share[rule]:
            continue
        table, slots = _cleared(slots, found)
        starts = at[: words - n + 1]
        ends = at[n : words + 1]
        repeated = 0
        free = 0  # words before this one are in a counted repeat
        for k in range(found):
            i = candidates[k]
            if i < free:
                continue
            if _seen(table, packed, starts, ends, i):
                repeated += chars[i + n] - chars[i]
                free = i + n
        if repeated / characters > duplicate_share[rule]:
            return rule + 1, slots
    return 0, slots
