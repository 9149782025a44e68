"""Loops of ``pieces``: where the pieces of ``bpe.PATTERN`` end in UTF-8, counting them, and encoding them.

``piece_end`` is that pattern written out; its branches are the alternatives of the pattern in their order. All runs are
bounded, so a byte is looked at a constant number of times.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.kernels import inlined, kernel

NONE = -1

# classes of characters
OTHER = 0
LETTER = 1
NUMBER = 2
SPACE = 3
NEWLINE = 4

# places in `scalars`
WORDS = 0
BYTES = 1
TEXT = 2  # where to go on: text,
PLACE = 3  # byte in the data,
DIGITS = 4  # and what is left of a run of digits
SCALARS = 5


@inlined
def _width(byte: Any) -> Any:
    if byte < 0x80:
        return 1
    if byte < 0xE0:
        return 2
    return 3 if byte < 0xF0 else 4


@inlined
def _class(data: Any, i: Any, classes: Any) -> Any:
    a = np.int64(data[i])
    if a < 0x80:
        return classes[a]
    b = np.int64(data[i + 1]) & 0x3F
    if a < 0xE0:
        return classes[(a & 0x1F) << 6 | b]
    c = np.int64(data[i + 2]) & 0x3F
    if a < 0xF0:
        return classes[(a & 0x0F) << 12 | b << 6 | c]
    return classes[(a & 0x07) << 18 | b << 12 | c << 6 | (np.int64(data[i + 3]) & 0x3F)]


@kernel
def _run(data: Any, i: Any, end: Any, classes: Any, wanted: Any, most: Any) -> Any:
    """End of a run of at most so many characters of a class that begins at byte ``i``."""
    count = 0
    while i < end and count < most and _class(data, i, classes) == wanted:
        i += _width(data[i])
        count += 1
    return i


@kernel
def _contraction(data: Any, i: Any, end: Any) -> Any:
    """End of one of 's 't 're 've 'm 'll 'd at an apostrophe, in either case; ``i`` where there is none."""
    if i + 1 >= end:
        return i
    a = data[i + 1] | 0x20
    if a == 0x73 or a == 0x74 or a == 0x6D or a == 0x64:
        return i + 2
    # the long s is an s to an expression that ignores case
    if i + 2 < end and data[i + 1] == 0xC5 and data[i + 2] == 0xBF:
        return i + 3
    if i + 2 < end:
        b = data[i + 2] | 0x20
        if (b == 0x65 and (a == 0x72 or a == 0x76)) or (b == 0x6C and a == 0x6C):
            return i + 3
    return i


@kernel
def _white(data: Any, i: Any, end: Any, classes: Any) -> Any:
    """End of a piece of white space that begins at byte ``i``."""
    at = i
    count = 0
    last = i  # where the last character of the run begins
    newline = NONE  # end of the last newline
    while at < end and count < 64:
        kind = _class(data, at, classes)
        if kind != SPACE and kind != NEWLINE:
            break
        last = at
        at += _width(data[at])
        count += 1
        if kind == NEWLINE:
            newline = at
    if count == 64 and at < end and _class(data, at, classes) == NEWLINE:
        return _run(data, at, end, classes, NEWLINE, 8)
    if newline != NONE:
        return newline
    if at == end or count == 1:
        return at
    kind = _class(data, at, classes)
    # the last space stays with what follows it
    return at if kind in (SPACE, NEWLINE) else last


@kernel
def piece_end(data: Any, i: Any, end: Any, classes: Any, from_right: Any, digits: Any) -> Any:
    """End of the piece that begins at byte ``i`` of a text that ends at ``end``.

    Args:
        classes: (0x110000,) class of every character.
        from_right: whether digits are grouped from the right.
        digits: what the call before returned with its end; 0 at the begin of a text.

    Returns:
        The end, and how many characters of a run of digits are left there (0 where they are grouped from the left).
    """
    kind = _class(data, i, classes)
    if data[i] == 0x27:
        at = _contraction(data, i, end)
        if at > i:
            return at, 0
    if kind == LETTER:
        return _run(data, i, end, classes, LETTER, 64), 0
    if kind == NUMBER:
        if not from_right:
            return _run(data, i, end, classes, NUMBER, 3), 0
        if digits == 0:
            at = i
            while at < end and _class(data, at, classes) == NUMBER:
                at += _width(data[at])
                digits += 1
        size = digits % 3
        if size == 0:
            size = 3
        return _run(data, i, end, classes, NUMBER, size), digits - size
    after = i + _width(data[i])
    if kind != NEWLINE and after < end and _class(data, after, classes) == LETTER:
        return _run(data, after, end, classes, LETTER, 64), 0
    if data[i] == 0x20 and after < end and _class(data, after, classes) == OTHER:
        at = _run(data, after, end, classes, OTHER, 64)
        return _run(data, at, end, classes, NEWLINE, 8), 0
    if kind == OTHER:
        at = _run(data, i, end, classes, OTHER, 64)
        return _run(data, at, end, classes, NEWLINE, 8), 0
    return _white(data, i, end, classes), 0


@kernel
def ends(data: Any, classes: Any, from_right: Any) -> Any:
    """Where each piece of one text ends: (pieces,)."""
    out = np.empty(data.size, np.int64)
    count = 0
    at = 0
    digits = 0
    while at < data.size:
        at, digits = piece_end(data, at, data.size, classes, from_right, digits)
        out[count] = at
        count += 1
    return out[:count].copy()


# ---- distinct pieces


@inlined
def hashed(data: Any, start: Any, stop: Any) -> Any:
    value = np.uint64(14695981039346656037)
    for i in range(start, stop):
        value = (value ^ np.uint64(data[i])) * np.uint64(1099511628211)
    return value ^ (value >> np.uint64(32))


@inlined
def _same(data: Any, start: Any, pool: Any, first: Any, size: Any) -> Any:
    same = True
    for k in range(size):
        if data[start + k] != pool[first + k]:
            same = False
            break
    return same


@kernel
def slot_of(slots: Any, hashes: Any, starts: Any, pool: Any, data: Any, start: Any, stop: Any, value: Any) -> Any:
    """Slot of a word in a hash table, or the free one where it belongs."""
    mask = np.uint64(slots.size - 1)
    at = value & mask
    while slots[at] != NONE:
        word = slots[at]
        alike = hashes[word] == value and starts[word + 1] - starts[word] == stop - start
        if alike and _same(data, start, pool, starts[word], stop - start):
            return at
        at = (at + np.uint64(1)) & mask
    return at


@kernel
def _enter(
    scalars: Any,
    slots: Any,
    hashes: Any,
    starts: Any,
    pool: Any,
    counts: Any,
    data: Any,
    start: Any,
    stop: Any,
    count: Any,
) -> Any:
    """Add to the count of a word. Returns whether there was room."""
    value = hashed(data, start, stop)
    at = slot_of(slots, hashes, starts, pool, data, start, stop, value)
    if slots[at] != NONE:
        counts[slots[at]] += count
        return True
    word = scalars[WORDS]
    used = scalars[BYTES]
    if word >= hashes.size or used + stop - start > pool.size:
        return False
    for k in range(stop - start):
        pool[used + k] = data[start + k]
    slots[at] = word
    hashes[word] = value
    starts[word + 1] = used + stop - start
    counts[word] = count
    scalars[WORDS] = word + 1
    scalars[BYTES] = used + stop - start
    return True


@kernel
def count_texts(
    scalars: Any,
    slots: Any,
    hashes: Any,
    starts: Any,
    pool: Any,
    counts: Any,
    data: Any,
    offsets: Any,
    classes: Any,
    from_right: Any,
) -> Any:
    """Count the pieces of texts, going on at the place in ``scalars``. Returns False where the table must grow first.

    Args:
        slots: (power of two,) int32 hash table; hashes: (w,) uint64; starts: (w + 1,) int64 in ``pool``; counts: (w,).
        data, offsets: UTF-8 of the texts, and (texts + 1,) where each begins in it.
    """
    place = scalars[PLACE]
    digits = scalars[DIGITS]
    for text in range(scalars[TEXT], offsets.size - 1):
        end = offsets[text + 1]
        place = max(place, offsets[text])
        while place < end:
            stop, left = piece_end(data, place, end, classes, from_right, digits)
            if not _enter(scalars, slots, hashes, starts, pool, counts, data, place, stop, 1):
                scalars[TEXT], scalars[PLACE], scalars[DIGITS] = text, place, digits
                return False
            place, digits = stop, left
        digits = 0
    scalars[TEXT], scalars[PLACE], scalars[DIGITS] = 0, 0, 0
    return True


@kernel
def count_words(
    scalars: Any,
    slots: Any,
    hashes: Any,
    starts: Any,
    pool: Any,
    counts: Any,
    data: Any,
    offsets: Any,
    times: Any,
) -> Any:
    """Add words with their counts, going on at the place in ``scalars``. Returns False where the table must grow."""
    for word in range(scalars[TEXT], offsets.size - 1):
        if not _enter(
            scalars, slots, hashes, starts, pool, counts, data, offsets[word], offsets[word + 1], times[word]
        ):
            scalars[TEXT] = word
            return False
    scalars[TEXT] = 0
    return True


@kernel
def fill_slots(slots: Any, hashes: Any, used: Any) -> None:
    """Put the words in use into an empty hash table."""
    mask = np.uint64(slots.size - 1)
    for word in range(used):
        at = hashes[word] & mask
        while slots[at] != NONE:
            at = (at + np.uint64(1)) & mask
        slots[at] = word
