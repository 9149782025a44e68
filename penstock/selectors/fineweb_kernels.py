"""The loop behind ``FineWebQuality``: the code of the first broken rule, row by row, over Arrow's UTF-8 buffers.

One pass counts words, lines and their ends; lines are compared only in rows that pass the rules before.

Price: about 450 MB/s a core on mixed text; scratch of the row with most lines, 16 bytes a line and a hash table of 12
to 24.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock import text
from penstock.errors import InputError
from penstock.kernels import kernel
from penstock.selectors.gopher_repetition_kernels import _cleared, _seen
from penstock.selectors.line_kernels import TERMINAL, line_classes, longer, terminal_marks
from penstock.text import SPACE, count_codepoints, decode, load8

if TYPE_CHECKING:
    from penstock.selectors.fineweb import FineWebQuality


def quality(column: pa.Array, rules: FineWebQuality) -> NDArray[np.int8]:
    """0, or 1 + the index in ``FINEWEB_REASONS`` of the first rule a row breaks: shape (rows,).

    Raises:
        InputError: a row of 2 GiB or more.
    """
    offsets, data = text.row_views(column)
    if np.diff(offsets).max(initial=0) >= 2**31:
        raise InputError("text: got a row of 2 GiB or more, allowed less; cut it into documents first")
    return _quality(
        offsets,
        data,
        _classes(rules.stop_characters),
        float(rules.min_line_punctuation),
        rules.allow_no_punctuation,
        float(rules.max_short_lines),
        rules.short_line_length,
        float(rules.max_duplicate_chars),
        float(rules.max_newlines_per_word),
    )


def _classes(stop_characters: str | None) -> NDArray[np.uint8]:
    """Character classes with TERMINAL for the given marks, or for those of all scripts."""
    if stop_characters is None:
        return line_classes()
    table = line_classes().copy()
    table[terminal_marks()] &= np.uint8(0xFF - TERMINAL)
    table[[ord(c) for c in stop_characters]] |= TERMINAL
    table.flags.writeable = False
    return table


@kernel
def _quality(
    offsets: Any,
    data: Any,
    classes: Any,
    min_punctuation: Any,
    allow_none: Any,
    max_short: Any,
    short_length: Any,
    max_duplicates: Any,
    max_newlines: Any,
) -> NDArray[np.int8]:
    out = np.zeros(offsets.size - 1, np.int8)
    starts = np.empty(256, np.int64)
    ends = np.empty(256, np.int64)
    slots = np.empty(1024, np.uint64)
    for row in range(out.size):
        i = offsets[row]
        end = offsets[row + 1]
        lines = 0
        short_lines = 0
        punctuated = 0
        words = 0
        characters = 0  # newlines apart
        newlines = 0
        while i < end:
            start = i
            length = 0
            blank = True
            was_space = True
            kind = 0
            while i < end:
                character = load8(data, i)
                width = np.int64(1)
                if character >= 0x80:
                    character, width = decode(data, i)
                if character == 0x0A:
                    break
                kind = classes[character]
                is_space = kind & SPACE != 0
                words += was_space and not is_space
                blank = blank and is_space
                was_space = is_space
                length += 1
                i += width
            characters += length
            if not blank:
                if lines == starts.size:
                    starts = longer(starts)
                    ends = longer(ends)
                starts[lines] = start
                ends[lines] = i
                lines += 1
                short_lines += length <= short_length
                punctuated += kind & TERMINAL != 0
            if i < end:
                newlines += 1
                i += 1

        if lines == 0:
            out[row] = 1
        elif punctuated / lines < min_punctuation and not (punctuated == 0 and allow_none):
            out[row] = 2
        elif short_lines / lines > max_short:
            out[row] = 3
        else:
            table, slots = _cleared(slots, lines)
            repeated = 0
            for item in range(lines):
                if _seen(table, data, starts, ends, item):
                    repeated += count_codepoints(data, starts[item], ends[item])
            if repeated / characters > max_duplicates:
                out[row] = 4
            elif newlines / words > max_newlines:
                out[row] = 5
    return out
