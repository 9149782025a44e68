"""Repeated lines and paragraphs against a plain reading. Run: pytest tests/selectors/test_repeated.py"""

from __future__ import annotations

import dataclasses
import itertools
import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, DatasetError
from penstock.selectors import repeated_kernels as kernels
from penstock.selectors.repeated import KEYED, RepeatedLines, RepeatedParagraphs, combine

ALL = RepeatedLines(min_characters=1)
PARAGRAPHS = RepeatedParagraphs(min_characters=1)


def batch_of(texts, ids=None):
    ids = ids or [f"d#{i}" for i in range(len(texts))]
    return pa.RecordBatch.from_arrays([pa.array(ids, pa.string()), pa.array(texts, pa.string())], ["doc_id", "text"])


def lines_by_hand(text: str) -> list[tuple[int, int, int, str]]:
    """(start, stop, what goes with it, line) of lines that are not blank, in characters."""
    out, at = [], 0
    for whole in text.splitlines(keepends=True):
        line = whole.splitlines()[0]
        if line.strip():
            out.append((at, at + len(line), at + len(whole), line))
        at += len(whole)
    return out


def paragraphs_by_hand(text: str) -> list[tuple[int, int, int, str]]:
    out, at, open_ = [], 0, False
    for whole in text.splitlines(keepends=True):
        line = whole.splitlines()[0]
        if line.strip() and open_:
            start, _, _, _ = out[-1]
            out[-1] = (start, at + len(line), len(text), text[start : at + len(line)])
        elif line.strip():
            if out:
                out[-1] = (*out[-1][:2], at, out[-1][3])
            out.append((at, at + len(line), len(text), line))
        open_ = bool(line.strip())
        at += len(whole)
    return out


def words_by_hand(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[^\W_]+", text.casefold()))


LINE = st.sampled_from(
    ["same old line", "Same, old line!", "other", "x", "é1", "-----", " pad ", "pad", "", "  ", "\t", "a b"]
)
BREAK = st.sampled_from(["\n", "\n", "\n\n", "\r\n", "\n \n", "\u2028"])
TEXT = st.lists(st.tuples(LINE, BREAK), max_size=8).map(lambda pairs: "".join(a + b for a, b in pairs))
TEXTS = st.lists(st.one_of(TEXT, TEXT.map(str.rstrip), st.text(alphabet="ab \n\r", max_size=12)), max_size=5)


@settings(deadline=None, max_examples=100)
@given(TEXTS, st.integers(1, 6), st.booleans())
@example(["a\n\nb\n", "a", "\n\na\nb\n\n\nc\n \n"], 1, True)
def test_units_are_the_lines_and_paragraphs_of_a_plain_reading(texts, least, paragraphs):
    level = dataclasses.replace(PARAGRAPHS if paragraphs else ALL, min_characters=least, match="exact")
    units = level.units(pa.array(texts, pa.string()))
    expected = []
    for row, text in enumerate(texts):
        at = [len(text[:i].encode()) for i in range(len(text) + 1)]
        for position, (start, stop, after, _) in enumerate((paragraphs_by_hand if paragraphs else lines_by_hand)(text)):
            if stop - start >= least and text[start:stop].strip(" \t"):
                expected.append((row, at[start], at[stop], at[after], position))
    found = zip(units.row, units.start, units.stop, units.cut_stop, units.position, strict=True)
    assert [tuple(map(int, unit)) for unit in found] == expected


@settings(deadline=None, max_examples=100)
@given(TEXTS, st.sampled_from(["words", "exact"]), st.booleans())
def test_keys_are_equal_where_the_words_or_the_trimmed_bytes_are(texts, match, paragraphs):
    level = dataclasses.replace(PARAGRAPHS if paragraphs else ALL, match=match)
    units = level.units(pa.array(texts, pa.string()))
    said = [
        words_by_hand(line) if match == "words" else line.strip(" \t")
        for text in texts
        for _, _, _, line in (paragraphs_by_hand if paragraphs else lines_by_hand)(text)
    ]
    said = [one for one in said if one]
    keys = list(zip(units.key.tolist(), units.key2.tolist(), strict=True))
    assert len(keys) == len(said)
    assert len(set(units.key.tolist())) == len(set(units.key2.tolist())) == len(set(said))
    assert len(set(zip(keys, said, strict=True))) == len(set(said))


def test_words_in_another_order_or_cut_elsewhere_are_another_line():
    units = ALL.units(pa.array(["ab c\na bc\nc ab\nab c c\nc\nC."]))
    assert len(set(units.key.tolist())) == len(set(units.key2.tolist())) == 5


def test_a_batch_gives_each_key_once_with_its_first_place_by_id_and_its_count():
    batch = batch_of(["x y\nsame\nsame", "same\nz"], ["d#9", "d#10"])
    found = {(r["doc_id"], r["position"]): (r["count"], r["bytes"]) for r in ALL.keyed(batch).to_pylist()}
    # "d#10" is before "d#9" in the order of ids
    assert found == {("d#9", 0): (1, 3), ("d#10", 0): (3, 4), ("d#10", 1): (1, 1)}


KEYS = st.tuples(st.integers(0, 2), st.integers(0, 1), st.sampled_from(["a", "b", "c10", "c9", "é"]), st.integers(0, 2))


def table_of(rows, **more):
    columns = [[r[i] for r in rows] for i in range(4)]
    values = [*columns, [10 * r[3] for r in rows], [r[4] if len(r) > 4 else 1 for r in rows]]
    table = pa.table([pa.array(v, f.type) for v, f in zip(values, KEYED, strict=True)], schema=KEYED)
    for name, column in more.items():
        table = table.append_column(name, pa.array(column))
    return table


@settings(deadline=None)
@given(st.lists(KEYS, max_size=20), st.integers(0, 3), st.integers(1, 3))
def test_combining_and_judging_agree_with_dictionaries(rows, cut, most):
    # an id and position stands once in a corpus
    rows = list({(r[2], r[3]): r for r in rows}.values())
    part = [i % 3 for i in range(len(rows))]
    groups: dict = {}
    for row in rows:
        groups.setdefault(row[:2], []).append(row)
    whole = combine(table_of(rows))
    first = {key: min(own, key=lambda r: (r[2].encode(), r[3])) for key, own in groups.items()}
    assert [(r["key"], r["key2"], r["doc_id"], r["position"], r["bytes"], r["count"]) for r in whole.to_pylist()] == [
        (*first[key], 10 * first[key][3], len(groups[key])) for key in sorted(groups)
    ]
    assert combine(pa.concat_tables([combine(table_of(rows[:cut])), combine(table_of(rows[cut:]))])).equals(whole)

    level = dataclasses.replace(ALL, keep="rare", max_count=most)
    found = level.judge(table_of(rows, part=pa.array(part, pa.int32())))
    expected = sorted(
        (r[0], r[1], r[2].encode(), r[3], p) for r, p in zip(rows, part, strict=True) if len(groups[r[:2]]) > most
    )
    assert [(r["key"], r["key2"], r["part"], r["count"], r["doc_id"], r["position"]) for r in found.to_pylist()] == [
        (a, b, p, len(groups[a, b]), first[a, b][2], first[a, b][3]) for a, b, _, _, p in expected
    ]


def test_judging_counts_what_parts_counted():
    found = ALL.judge(table_of([(1, 1, "b", 0, 10**7), (1, 1, "a", 3, 5), (2, 2, "a", 0, 1), (3, 3, "c", 0, 2)]))
    assert [(r["key"], r["count"], r["doc_id"], r["position"]) for r in found.to_pylist()] == [
        (1, 10**7 + 5, "a", 3),
        (3, 2, "c", 0),
    ]


def test_judging_without_a_column_says_so():
    with pytest.raises(DatasetError, match="step repeated_lines: missing column"):
        ALL.judge(table_of([]).drop_columns(["count"]))


@pytest.mark.parametrize("keep", ["first", "rare"])
def test_cuts_are_all_but_the_first_or_all(keep):
    level = dataclasses.replace(ALL, keep=keep)
    units = level.units(pa.array(["a\nb\na\n", "a"]))
    verdict, first = np.array([0, -1, 0, 0]), np.array([True, False, False, False])
    rows, starts, stops = level.cuts(units, verdict, first)
    expected = [(0, 4, 6), (1, 0, 1)] if keep == "first" else [(0, 0, 2), (0, 4, 6), (1, 0, 1)]
    assert list(zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True)) == expected


def test_lookup_needs_both_keys_and_finds_among_equal_first_ones():
    known = np.array([1, 5, 5, 5, 9], np.uint64), np.array([1, 7, 6, 5, 0], np.uint64)
    key = np.array([5, 5, 5, 0, 9, 10, 1], np.uint64), np.array([5, 7, 8, 0, 0, 0, 2], np.uint64)
    assert kernels.lookup(*key, *known).tolist() == [3, 1, -1, -1, 4, -1, -1]
    nothing = np.empty(0, np.uint64)
    assert kernels.lookup(*key, nothing, nothing).tolist() == [-1] * 7


def test_spans_that_touch_or_overlap_are_one_and_those_of_another_row_are_not():
    def of(*values):
        return np.array(values, np.int64)

    merged = kernels.merged(of(0, 0, 0, 0, 1, 1), of(0, 2, 9, 12, 3, 3), of(5, 4, 10, 13, 4, 8))
    assert [a.tolist() for a in merged] == [[0, 0, 0, 1], [0, 9, 12, 3], [5, 10, 13, 8]]
    assert [a.tolist() for a in kernels.merged(of(0, 0), of(0, 5), of(5, 6))] == [[0], [0], [6]]


@pytest.mark.parametrize(
    ("text", "span", "left"),
    [
        ("a\ncut", (2, 5), "a"),
        ("a \n\n cut", (5, 8), "a"),
        ("a\ncut\nb", (2, 6), "a\nb"),
        ("a\n\ncut\n\nb", (3, 7), "a\n\nb"),
        ("cut\n\nb", (0, 4), "b"),
        ("\ncut\n\nb", (1, 5), "\nb"),
        ("a\ncut\n\nb", (2, 6), "a\n\nb"),
        ("cut", (0, 3), ""),
        ("a cut", (2, 5), "a"),
    ],
)
def test_what_is_left_has_no_space_at_its_end_and_no_two_blank_lines(text, span, left):
    starts, stops = np.array([span[0]]), np.array([span[1]])
    data = np.frombuffer(text.encode(), np.uint8)
    kernels.tidy(np.array([0, len(text)]), data, np.array([0]), starts, stops)
    assert text[: starts[0]] + text[stops[0] :] == left


@settings(deadline=None, max_examples=120)
@given(st.lists(st.text(alphabet="ab \n", max_size=14), min_size=1, max_size=3), st.data())
def test_tidying_cuts_white_space_alone_and_keeps_spans_apart(texts, data):
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])])
    spans = []
    for row, text in enumerate(texts):
        marks = data.draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text)))
        cuts = "".join("x" if mark and c != "\n" else "." for mark, c in zip(marks, text, strict=True))
        spans += [(row, m.start(), m.end()) for m in re.finditer("x+", cuts)]
    rows, starts, stops = (np.array([span[i] for span in spans], np.int64) for i in range(3))
    wide, far = starts.copy(), stops.copy()
    kernels.tidy(offsets, np.frombuffer("".join(texts).encode() + b".", np.uint8)[:-1], rows, wide, far)
    assert np.all(wide <= starts)
    assert np.all(far >= stops)
    for row, text in enumerate(texts):
        own = [(a, b) for r, a, b in zip(rows, wide, far, strict=True) if r == row]
        assert all(one[1] <= two[0] for one, two in itertools.pairwise(own))
        before = set(range(len(text))) - {k for r, a, b in spans if r == row for k in range(a, b)}
        after = before - {k for a, b in own for k in range(a, b)}
        assert all(text[k].isspace() for k in before - after)
        left = "".join(text[k] for k in sorted(after))
        # where the row's end is cut, what is left ends in a word
        if any(r == row and b == len(text) for r, _, b in spans):
            assert left == left.rstrip()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": "last"}, "keep: got 'last', allowed first, rare"),
        ({"match": "fuzzy"}, "match: got 'fuzzy', allowed words, exact"),
        ({"max_count": 0}, "max_count: got 0, allowed >= 1"),
        ({"min_characters": 0}, "min_characters: got 0"),
    ],
)
def test_settings_out_of_range_are_refused_in_words(options, message):
    with pytest.raises(ConfigError, match=message):
        RepeatedLines(**options)
