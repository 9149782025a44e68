"""Text kernels against Python's own str. Run: pytest tests/test_text.py"""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock import text
from penstock.errors import InputError

ODD = list(
    "ab.#-•… \t\n\r\v\f\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2028\u2029\u202f\u3000\u200b\ufeff\x00é中😀e\u0301\u0130"
)
TEXTS = st.lists(st.one_of(st.text(), st.lists(st.sampled_from(ODD)).map("".join)), max_size=6)


def shapes_of(rows: list[str]) -> list[pa.Array]:
    """The same rows as Arrow can hand them out: plain, large, and a slice out of the middle."""
    sliced = pa.array(["übrig \n x", *rows, "rest\r"])[1 : len(rows) + 1]
    return [pa.array(rows, pa.string()), pa.array(rows, pa.large_string()), sliced]


def cut(column: pa.Array, bounds: tuple[np.ndarray, np.ndarray, np.ndarray]) -> list[list[str]]:
    data = bytes(text.views(column)[1])
    rows, starts, ends = (b.tolist() for b in bounds)
    pieces = [data[s:e].decode() for s, e in zip(starts, ends, strict=True)]
    return [pieces[a:b] for a, b in itertools.pairwise(rows)]


@settings(deadline=None, max_examples=150)
@given(TEXTS)
@example(["a\n\nb\r\r\n\n\r", "\n", "", "\x0b\n\x85\n\u2028\nx", " \u3000x\x1fy\xa0", "à…\x85\xa0😀"])
def test_words_lines_and_lengths_are_those_of_str(rows):
    for column in shapes_of(rows):
        assert text.codepoint_lengths(column).tolist() == [len(r) for r in rows]
        assert text.count_words(column).tolist() == [len(r.split()) for r in rows]
        assert text.blank(column).tolist() == [not r.strip() for r in rows]
        assert cut(column, text.word_bounds(column)) == [r.split() for r in rows]
        assert cut(column, text.line_bounds(column)) == [r.splitlines() for r in rows]


def test_every_code_point_has_the_class_str_gives_it():
    table = text.char_classes()
    characters = [chr(c) for c in range(0x110000)]
    assert (table[:0x110000] & text.SPACE != 0).tolist() == [c.isspace() for c in characters]
    assert (table[:0x110000] & text.LETTER != 0).tolist() == [c.isalpha() for c in characters]
    breaks = [c for c in range(0x110000) if table[c] & text.LINE_BREAK]
    assert breaks == [c for c in range(0x110000) if len(f"a{chr(c)}b".splitlines()) == 2]


def test_a_carriage_return_and_newline_are_one_break_also_across_a_row_border():
    column = pa.array(["a\r\nb\r", "\nc"])
    assert cut(column, text.line_bounds(column)) == [["a", "b"], ["", "c"]]


def test_views_of_a_slice_share_the_bytes_of_the_array():
    column = pa.array(["one", "zwei", "三"])
    offsets, data = text.views(column[1:])
    assert offsets.tolist() == [3, 7, 10]
    assert bytes(data[3:7]) == b"zwei"
    assert offsets.dtype == np.int32
    assert data.ctypes.data == column.buffers()[2].address
    assert not data.flags.writeable


def test_no_rows_and_no_bytes_are_fine():
    for column in (pa.array([], pa.string()), pa.array(["x"])[1:], pa.nulls(0, pa.large_string())):
        assert text.codepoint_lengths(column).shape == (0,)
        assert text.hash64(column).shape == (0,)
        assert [b.tolist() for b in text.word_bounds(column)] == [[0], [], []]
    assert text.count_words(pa.array(["", ""])).tolist() == [0, 0]


def test_a_null_row_reads_as_empty_even_if_bytes_lie_under_it():
    values = pa.array(["aa", "bb cc", "d"])
    validity = pa.array([True, False, True]).buffers()[1]
    column = pa.Array.from_buffers(pa.string(), 3, [validity, *values.buffers()[1:]])
    assert text.count_words(column).tolist() == [1, 0, 1]
    assert text.blank(column).tolist() == [False, True, False]


def test_other_column_types_are_refused_by_name():
    with pytest.raises(InputError, match="got type int64, allowed string or large_string"):
        text.views(pa.array([1]))


def test_hash_depends_on_every_byte_on_the_length_and_on_the_seed():
    base = "".join(chr(97 + i % 26) for i in range(43))
    texts = [base[:n] for n in range(44)]
    texts += [base[:i] + "!" + base[i + 1 :] for i in range(43)]
    texts += ["\x00" * n for n in range(1, 20)]
    assert len(set(text.hash64(pa.array(texts)).tolist())) == len(texts)
    assert not set(text.hash64(pa.array(texts)).tolist()) & set(text.hash64(pa.array(texts), seed=1).tolist())


@settings(deadline=None, max_examples=50)
@given(TEXTS)
def test_hash_of_a_row_does_not_depend_on_its_place(rows):
    alone = [text.hash64(pa.array([r]))[0] for r in rows]
    for column in shapes_of(rows):
        assert text.hash64(column).tolist() == [int(h) for h in alone]
