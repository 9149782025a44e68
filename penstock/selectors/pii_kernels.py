"""The scan behind ``Pii``: places of a text that may hold something personal, for ``pii_checks`` to look at.

One pass over the bytes. What it names is only ever too much: a check in Python decides. In books it names a place a
megabyte, in mail and licences one in 2 to 6 kB.

Price: 200 to 270 MB/s a core; 32 bytes a place.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock import text
from penstock.kernels import kernel
from penstock.selectors.line_kernels import longer
from penstock.text import load8

# What a place may be.
ADDRESS, NUMBER, HEXTETS, ACCOUNT, TOKEN, KEY_BLOCK = range(6)

# Bits of a byte.
DIGIT = 1
CAPITAL = 2
WORD = 4  # ASCII letter, digit or "_": what is not ASCII may be a quotation mark, or a script without spaces
LOCAL = 8  # part of the name before an "@"
HOST = 16
HEX = 32
BETWEEN = 64  # between the digits of a number
SECRET = 128  # part of a token
TRIGGER = 256  # a place may begin here: a digit, a capital, "@", ":" or "-"

_MOST_ACCOUNT = 42  # bytes of an IBAN with its spaces
LEAST_TOKEN = 16


@functools.cache
def _bytes() -> NDArray[np.uint16]:
    table = np.zeros(256, np.uint16)

    def add(characters: bytes, bits: int) -> None:
        table[list(characters)] |= bits

    small, capital, digits = bytes(range(0x61, 0x7B)), bytes(range(0x41, 0x5B)), bytes(range(0x30, 0x3A))
    add(digits, DIGIT | HEX)
    add(capital, CAPITAL)
    add(b"abcdefABCDEF", HEX)
    add(small + capital + digits, WORD | LOCAL | HOST | SECRET)
    add(b"_", WORD)
    add(b"._%+'&-", LOCAL)
    add(b".-", HOST)
    add(b" -./()", BETWEEN)
    add(b"+/=_.-", SECRET)
    add(digits + capital + b"@:-", TRIGGER)
    table.flags.writeable = False
    return table


class Places(NamedTuple):
    """Place i is ``data[starts[i]:stops[i]]`` of ``text.row_views`` and in ``rows[i]``; rows ascend."""

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    kinds: NDArray[np.int64]


def places(column: pa.Array) -> Places:
    """Every place of a text column that is worth a look."""
    offsets, data = text.row_views(column)
    return Places(*_places(offsets, data, _bytes()))


@kernel
def _number_end(data: Any, i: Any, end: Any, table: Any) -> Any:
    """(end, digits, dots) of the number that begins with the digit at byte i; at most two separators stand together."""
    digits = 0
    dots = 0
    stop = i
    between = 0
    while i < end:
        byte = load8(data, i)
        if table[byte] & DIGIT:
            digits += 1
            between = 0
            stop = i + 1
        elif table[byte] & BETWEEN and between < 2:
            between += 1
            dots += byte == 0x2E
        else:
            break
        i += 1
    return stop, digits, dots


@kernel
def _address(data: Any, begin: Any, i: Any, end: Any, table: Any) -> Any:
    """(start, stop) of the run around the "@" at byte i; (i, i) where no name or no dot is near."""
    start = i
    while start > begin and table[load8(data, start - 1)] & LOCAL:
        start -= 1
    stop = i + 1
    dot = False
    while stop < end and table[load8(data, stop)] & HOST:
        dot = dot or load8(data, stop) == 0x2E
        stop += 1
    if start == i or not dot:
        return i, i
    return start, stop


@kernel
def _hextets(data: Any, begin: Any, i: Any, end: Any, table: Any) -> Any:
    """(start, stop, whether it may be an address) of the run around the colon at byte i."""
    left = i
    while left > begin and i - left < 5 and table[load8(data, left - 1)] & HEX:
        left -= 1
    stop = i + 1
    # global unicast addresses are 2000::/3
    if i - left != 4 or not (load8(data, left) == 0x32 or load8(data, left) == 0x33):
        return left, stop, False
    if left > begin and table[load8(data, left - 1)] & WORD:
        return left, stop, False
    colons = 1
    double: Any = False
    before: Any = 0x3A
    while stop < end:
        byte = load8(data, stop)
        if byte == 0x3A:
            colons += 1
            double = double or before == 0x3A
        elif not table[byte] & HEX:
            break
        before = byte
        stop += 1
    return left, stop, double or colons >= 7


@kernel
def _scan(data: Any, begin: Any, end: Any, table: Any, starts: Any, stops: Any, kinds: Any, found: Any) -> Any:
    """Add the places of ``data[begin:end]`` and return their number, or -1 where they have no room."""
    room = starts.size - 2
    number = begin  # numbers up to here are done
    hextets = begin
    token = begin  # where the run of token bytes began
    seen: Any = 0  # bits of the run
    small: Any = False
    previous: Any = 0
    i = begin
    while i <= end:
        byte = load8(data, i) if i < end else np.int64(0x20)
        bits = np.int64(table[byte])
        if bits & SECRET:
            seen |= bits
            small = small or byte == 0x5F or byte >= 0x61
        else:
            # letters and digits, or capitals alone
            if i - token >= LEAST_TOKEN and (seen & DIGIT if small else seen & CAPITAL):
                if found >= room:
                    return -1
                starts[found] = token
                stops[found] = i
                kinds[found] = TOKEN
                found += 1
            token = i + 1
            seen = 0
            small = False
        if bits & TRIGGER:
            start: Any = i
            stop: Any = i
            kind = ADDRESS
            if bits & DIGIT:
                if i >= number and not previous & WORD:
                    number, digits, dots = _number_end(data, i, end, table)
                    if digits >= 7 or dots >= 3:
                        stop = number
                        kind = NUMBER
                        while start > begin and i - start < 2:
                            sign = load8(data, start - 1)
                            if sign != 0x2B and sign != 0x28:
                                break
                            start -= 1
            elif byte == 0x40:
                start, stop = _address(data, begin, i, end, table)
            elif byte == 0x3A:
                if i >= hextets:
                    start, hextets, likely = _hextets(data, begin, i, end, table)
                    kind = HEXTETS
                    stop = hextets if likely else start
            elif bits & CAPITAL:
                if (
                    not previous & WORD
                    and i + 15 <= end
                    and table[load8(data, i + 1)] & CAPITAL
                    and table[load8(data, i + 2)] & DIGIT
                    and table[load8(data, i + 3)] & DIGIT
                ):
                    kind = ACCOUNT
                    stop = min(i + _MOST_ACCOUNT, end)
            elif i + 11 <= end and load8(data, i + 5) == 0x42 and load8(data, i + 9) == 0x4E:
                # -----BEGIN
                kind = KEY_BLOCK
                stop = i + 11
            if stop > start:
                if found >= room:
                    return -1
                starts[found] = start
                stops[found] = stop
                kinds[found] = kind
                found += 1
        previous = bits
        i += 1
    return found


@kernel
def _places(offsets: Any, data: Any, table: Any) -> Any:
    rows = np.empty(64, np.int64)
    starts = np.empty(64, np.int64)
    stops = np.empty(64, np.int64)
    kinds = np.empty(64, np.int64)
    found = 0
    for row in range(offsets.size - 1):
        more = _scan(data, offsets[row], offsets[row + 1], table, starts, stops, kinds, found)
        while more < 0:
            rows, starts, stops, kinds = longer(rows), longer(starts), longer(stops), longer(kinds)
            more = _scan(data, offsets[row], offsets[row + 1], table, starts, stops, kinds, found)
        for place in range(found, more):
            rows[place] = row
        found = more
    return rows[:found], starts[:found], stops[:found], kinds[:found]
