"""Words, lines and lengths of UTF-8 text, read straight from Arrow's buffers.

Every function takes a ``pa.StringArray`` or ``pa.LargeStringArray``, sliced or whole, and works on views of its
offsets and its data; no ``str`` is made. Words are what ``str.split()`` returns, lines what ``str.splitlines()``
returns and lengths what ``len`` returns, on the running Python's Unicode tables. A null row reads as empty text.

``decode``, ``load8``, ``load64``, ``equal_bytes`` and ``hash_bytes`` are pieces for the loops of row work (see
``penstock.kernels``). Importing this module imports numba, so row work imports it inside its methods.

Price: one pass, 300 to 900 MB/s a core; word and line bounds take 16 bytes a word or line. The first call in a process
builds the class table (about 20 ms, 2 MB); compiled code is kept on disk between processes.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np
import pyarrow as pa
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from penstock.errors import InputError
from penstock.kernels import kernel

# Bits of char_classes().
SPACE = 1  # str.isspace
LETTER = 2  # str.isalpha
LINE_BREAK = 4  # ends a line for str.splitlines; "\r\n" is one break

TABLE_SIZE = 1 << 21  # twice the code points of Unicode: whatever four bytes decode to, broken UTF-8 too, is inside
_LINE_BREAKS = (0x0A, 0x0B, 0x0C, 0x0D, 0x1C, 0x1D, 0x1E, 0x85, 0x2028, 0x2029)


@functools.cache
def char_classes() -> NDArray[np.uint8]:
    """SPACE, LETTER and LINE_BREAK bits of every code point: shape (TABLE_SIZE,), read-only."""
    characters = np.arange(sys.maxunicode + 1, dtype=np.uint32).view("U1")
    table = np.zeros(TABLE_SIZE, np.uint8)
    table[: characters.size] = np.strings.isspace(characters) * SPACE | np.strings.isalpha(characters) * LETTER
    table[list(_LINE_BREAKS)] |= LINE_BREAK
    table.flags.writeable = False
    return table


def views(column: pa.Array) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Offsets (rows + 1, int32 or int64) and data (bytes, uint8) of a text column, both read-only and not copied.

    Row i is ``data[offsets[i]:offsets[i + 1]]``; the first offset of a sliced column is not 0. A null row may have
    bytes of its own: call ``without_nulls`` first where that matters.

    Raises:
        InputError: the column is not ``string`` or ``large_string``.
    """
    if pa.types.is_string(column.type):
        width: Any = np.int32
    elif pa.types.is_large_string(column.type):
        width = np.int64
    else:
        raise InputError(f"text column: got type {column.type}, allowed string or large_string; cast it first")
    _, offset_buffer, data_buffer = column.buffers()
    rows, first = len(column), column.offset
    # Arrow allows an empty array to come without offsets, and rows of empty text without data
    if rows == 0 or offset_buffer is None:
        offsets = np.zeros(1, dtype=width)
    else:
        offsets = np.frombuffer(offset_buffer, dtype=width, count=rows + 1, offset=first * np.dtype(width).itemsize)
    data = np.zeros(0, dtype=np.uint8) if data_buffer is None else np.frombuffer(data_buffer, dtype=np.uint8)
    # numba compiles once more for writable arrays; Arrow hands out both kinds
    offsets.flags.writeable = False
    data.flags.writeable = False
    return offsets, data


def without_nulls(column: pa.Array) -> pa.Array:
    """``column`` with empty text for null; the same object where there is no null."""
    return column.fill_null("") if column.null_count else column


def row_views(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """``views`` for kernels: offsets always int64 (copied from int32), null rows empty."""
    offsets, data = views(without_nulls(column))
    wide = offsets.astype(np.int64)
    wide.flags.writeable = False
    return wide, data


def codepoint_lengths(column: pa.Array) -> NDArray[np.int64]:
    """Characters of each row, as ``len(str)`` counts them: shape (rows,)."""
    return _codepoint_lengths(*row_views(column))


def blank(column: pa.Array) -> NDArray[np.bool_]:
    """Whether each row is null, empty or only whitespace: shape (rows,). Reads up to the first other character."""
    return _blank(*row_views(column), char_classes())


def count_words(column: pa.Array) -> NDArray[np.int64]:
    """Words of each row, ``len(text.split())``: shape (rows,)."""
    return _count_words(*row_views(column), char_classes())


def word_bounds(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Words of each row as ``text.split()`` cuts them.

    Returns:
        ``rows`` (n + 1,), ``starts`` (words,), ``ends`` (words,): word w of row i has rows[i] <= w < rows[i + 1] and is
        ``data[starts[w]:ends[w]]`` of ``views(column)``.
    """
    offsets, data = row_views(column)
    rows = _offsets_of(_count_words(offsets, data, char_classes()))
    starts, ends = _word_bounds(offsets, data, char_classes(), int(rows[-1]))
    return rows, starts, ends


def line_bounds(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Lines of each row as ``text.splitlines()`` cuts them, without their breaks; same shape as ``word_bounds``."""
    offsets, data = row_views(column)
    rows = _offsets_of(_count_lines(offsets, data, char_classes()))
    starts, ends = _line_bounds(offsets, data, char_classes(), int(rows[-1]))
    return rows, starts, ends


def hash64(column: pa.Array, seed: int = 0) -> NDArray[np.uint64]:
    """A 64-bit hash of each row's bytes: shape (rows,), equal on every little-endian machine.

    For tables and sampling, not for identity: texts that collide can be made on purpose.
    """
    return _hash64(*row_views(column), np.uint64(seed & (2**64 - 1)))


def _offsets_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def _loader(bits: int, result: Any) -> Any:
    """An intrinsic ``load(data, position)``: ``bits`` of a uint8 array as ``result``, unaligned and unchecked."""

    def load(_typing: Any, data: Any, position: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            array = context.make_array(signature.args[0])(context, builder, arguments[0])
            address = builder.gep(array.data, [arguments[1]])
            value = builder.load(builder.bitcast(address, ir.IntType(bits).as_pointer()), align=1)
            return builder.zext(value, ir.IntType(64)) if bits < 64 else value

        return result(data, types.intp), build

    return intrinsic(load)


# Plain indexing checks for negative positions at every byte, which halves the speed of a loop over characters.
load8: Any = _loader(8, types.int64)
load64: Any = _loader(64, types.uint64)


@kernel
def decode(data: Any, i: Any) -> Any:
    """Code point that starts at byte i, and its width in bytes."""
    first = load8(data, i)
    if first < 0x80:
        return first, 1
    second = load8(data, i + 1) & 0x3F
    if first < 0xE0:
        return (first & 0x1F) << 6 | second, 2
    third = load8(data, i + 2) & 0x3F
    if first < 0xF0:
        return (first & 0x0F) << 12 | second << 6 | third, 3
    return (first & 0x07) << 18 | second << 12 | third << 6 | load8(data, i + 3) & 0x3F, 4


@kernel
def count_codepoints(data: Any, start: Any, end: Any) -> Any:
    """Characters of ``data[start:end]``: the bytes that do not continue one."""
    total = 0
    for i in range(start, end):
        total += (data[i] & 0xC0) != 0x80
    return total


@kernel
def equal_bytes(data: Any, a: Any, b: Any, length: Any) -> Any:
    """Whether ``length`` bytes from a and from b are the same."""
    i = 0
    while i + 8 <= length:
        if load64(data, a + i) != load64(data, b + i):
            return False
        i += 8
    while i < length:
        if data[a + i] != data[b + i]:
            return False
        i += 1
    return True


_MULTIPLIER = np.uint64(0x9FB21C651E98DF25)
_SHIFT = np.uint64(32)


@kernel
def mix(h: Any, word: Any) -> Any:
    """The hash ``h`` with eight more bytes."""
    h = (h ^ word) * _MULTIPLIER
    return h ^ (h >> _SHIFT)


@kernel
def hash_bytes(data: Any, start: Any, end: Any, seed: Any) -> Any:
    """64-bit hash of ``data[start:end]``, eight bytes a step."""
    # the seed is mixed before the length meets it: seed 1 of three zero bytes is not seed 0 of two
    h = mix(mix(seed, _MULTIPLIER), np.uint64(end - start))
    i = start
    while i + 8 <= end:
        h = mix(h, load64(data, i))
        i += 8
    if i < end and end - start >= 8:
        h = mix(h, load64(data, end - 8))
    elif i < end:
        tail = np.uint64(0)
        while i < end:
            tail = tail << np.uint64(8) | np.uint64(data[i])
            i += 1
        h = mix(h, tail)
    return mix(h, _MULTIPLIER)


@kernel
def _hash64(offsets: Any, data: Any, seed: Any) -> NDArray[np.uint64]:
    out = np.empty(offsets.size - 1, np.uint64)
    for row in range(out.size):
        out[row] = hash_bytes(data, offsets[row], offsets[row + 1], seed)
    return out


@kernel
def _codepoint_lengths(offsets: Any, data: Any) -> NDArray[np.int64]:
    out = np.empty(offsets.size - 1, np.int64)
    for row in range(out.size):
        out[row] = count_codepoints(data, offsets[row], offsets[row + 1])
    return out


@kernel
def _blank(offsets: Any, data: Any, classes: Any) -> NDArray[np.bool_]:
    out = np.empty(offsets.size - 1, np.bool_)
    for row in range(out.size):
        i = offsets[row]
        end = offsets[row + 1]
        while i < end:
            character, width = decode(data, i)
            if not classes[character] & SPACE:
                break
            i += width
        out[row] = i == end
    return out


@kernel
def _count_words(offsets: Any, data: Any, classes: Any) -> NDArray[np.int64]:
    out = np.empty(offsets.size - 1, np.int64)
    for row in range(out.size):
        i = offsets[row]
        words = 0
        was_space = True
        while i < offsets[row + 1]:
            character, width = decode(data, i)
            is_space = classes[character] & SPACE != 0
            words += was_space and not is_space
            was_space = is_space
            i += width
        out[row] = words
    return out


@kernel
def _word_bounds(offsets: Any, data: Any, classes: Any, total: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    starts = np.empty(total, np.int64)
    ends = np.empty(total, np.int64)
    word = 0
    for row in range(offsets.size - 1):
        i = offsets[row]
        end = offsets[row + 1]
        inside = False
        while i < end:
            character, width = decode(data, i)
            is_space = classes[character] & SPACE != 0
            if inside and is_space:
                ends[word] = i
                word += 1
                inside = False
            elif not inside and not is_space:
                starts[word] = i
                inside = True
            i += width
        if inside:
            ends[word] = end
            word += 1
    return starts, ends


@kernel
def next_break(data: Any, i: Any, end: Any, classes: Any) -> Any:
    """First line break in ``data[i:end]`` and the byte after it; (end, end) where there is none."""
    while i < end:
        character, width = decode(data, i)
        if classes[character] & LINE_BREAK:
            after = i + width
            if character == 0x0D and after < end and data[after] == 0x0A:
                after += 1
            return i, after
        i += width
    return end, end


@kernel
def _count_lines(offsets: Any, data: Any, classes: Any) -> NDArray[np.int64]:
    out = np.empty(offsets.size - 1, np.int64)
    for row in range(out.size):
        i = offsets[row]
        lines = 0
        # what follows the last break is a line only if it holds something
        while i < offsets[row + 1]:
            _, i = next_break(data, i, offsets[row + 1], classes)
            lines += 1
        out[row] = lines
    return out


@kernel
def _line_bounds(offsets: Any, data: Any, classes: Any, total: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    starts = np.empty(total, np.int64)
    ends = np.empty(total, np.int64)
    line = 0
    for row in range(offsets.size - 1):
        i = offsets[row]
        while i < offsets[row + 1]:
            starts[line] = i
            ends[line], i = next_break(data, i, offsets[row + 1], classes)
            line += 1
    return starts, ends
