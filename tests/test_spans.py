"""Spans cut from and put into text: bytes, hashes and learned ranges against one byte at a time in plain Python."""

import hashlib
import itertools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import InputError
from penstock.spans import LEARN, learn_ranges, map_pieces, replace_spans

TEXT = st.text(st.sampled_from("ab é漢😀\n"), max_size=12)


def batch_of(texts, learn=None, *, kind=None, **columns):
    columns = {"text": pa.array(texts, kind or pa.string()), **columns}
    if learn is not None:
        columns["learn"] = pa.array(learn, LEARN)
    return pa.RecordBatch.from_pydict(columns)


def hashes(texts):
    return pa.array([hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts], pa.binary(16))


def replace(batch, spans, replacements=None):
    rows, starts, stops = (np.array(values, np.int64) for values in (zip(*spans, strict=True) if spans else ([],) * 3))
    given = None if replacements is None else pa.array(replacements, pa.string())
    return replace_spans(batch, rows, starts, stops, given)


def runs(mask):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]])))
    return edges.tolist()


def mask_of(ranges, length):
    mask = [0] * length
    for start, stop in zip(ranges[::2], ranges[1::2], strict=True):
        mask[start:stop] = [1] * (stop - start)
    return mask


def one_by_one(text, ranges, spans):
    """What ``replace_spans`` says it does to a row, byte by byte; spans are (start, stop, replacement)."""
    old = text.encode()
    mask = mask_of(ranges, len(old)) if ranges is not None else [1] * len(old)
    out, learned, at = bytearray(), [], 0
    for start, stop, new in spans:
        out += old[at:start] + new.encode()
        if start < stop:
            all_learned = all(mask[start:stop])
        else:
            all_learned = 0 < start < len(old) and mask[start - 1] and mask[start]
        learned += mask[at:start] + [int(all_learned)] * len(new.encode())
        at = stop
    out += old[at:]
    learned += mask[at:]
    return out.decode(), None if ranges is None else runs(learned)


@st.composite
def borders(draw, text):
    """Sorted positions between characters of ``text``, an even number."""
    places = [len(text[:i].encode()) for i in range(len(text) + 1)]
    chosen = sorted(draw(st.lists(st.sampled_from(places), max_size=8)))
    return chosen[: len(chosen) // 2 * 2]


@st.composite
def edited(draw):
    """(texts, learned ranges, spans with replacements) of some rows."""
    texts = draw(st.lists(TEXT, min_size=1, max_size=5))
    learn = [draw(st.none() | borders(text)) for text in texts]
    spans = [
        (row, start, stop, draw(TEXT)) for row, text in enumerate(texts) for start, stop in pairs(draw(borders(text)))
    ]
    return texts, learn, spans


def pairs(values):
    return list(zip(values[::2], values[1::2], strict=True))


@settings(deadline=None)  # the first example compiles
@given(edited(), st.booleans(), st.booleans())
def test_replacing_equals_doing_it_byte_by_byte(rows, with_new, sliced):
    texts, learn, spans = rows
    if not with_new:
        spans = [(row, start, stop, "") for row, start, stop, _ in spans]
    if sliced:
        batch = batch_of(["é", *texts], [None, *learn], content_hash=hashes(["é", *texts])).slice(1)
    else:
        batch = batch_of(texts, learn)
    out = replace(batch, [span[:3] for span in spans], [span[3] for span in spans] if with_new else None)
    expected = [
        one_by_one(text, ranges, [span[1:] for span in spans if span[0] == row])
        for row, (text, ranges) in enumerate(zip(texts, learn, strict=True))
    ]
    touched = {span[0] for span in spans}
    assert out["text"].to_pylist() == [text for text, _ in expected]
    assert out["content_hash"] == hashes([text for text, _ in expected])
    for row, (_, ranges) in enumerate(expected):
        found = out["learn"][row].as_py()
        # a row without spans keeps its ranges as they were written
        assert found == (ranges if row in touched and ranges is not None and learn[row] else learn[row])
    for column in out.values():
        column.validate(full=True)


def test_a_cut_inside_a_range_shrinks_it_and_one_over_it_takes_it_away():
    batch = batch_of(["0123456789"], [[2, 8]])
    assert replace(batch, [(0, 4, 6)])["learn"].to_pylist() == [[2, 6]]
    assert replace(batch, [(0, 0, 4)])["learn"].to_pylist() == [[0, 4]]
    assert replace(batch, [(0, 6, 10)])["learn"].to_pylist() == [[2, 6]]
    gone = replace(batch, [(0, 1, 9)])
    assert gone["text"].to_pylist() == ["09"]
    assert gone["learn"].to_pylist() == [[]]


def test_a_replacement_is_learned_when_all_it_stands_for_was():
    batch = batch_of(["0123456789"], [[2, 8]])
    assert replace(batch, [(0, 2, 8)], ["x"])["learn"].to_pylist() == [[2, 3]]
    assert replace(batch, [(0, 1, 4)], ["xy"])["learn"].to_pylist() == [[3, 7]]
    assert replace(batch, [(0, 7, 9)], ["xy"])["learn"].to_pylist() == [[2, 7]]
    assert replace(batch, [(0, 0, 2)], ["xyz"])["learn"].to_pylist() == [[3, 9]]


def test_an_insertion_is_learned_between_two_learned_bytes_only():
    batch = batch_of(["0123456789"], [[0, 4, 4, 10]])
    for at in (0, 2, 8, 10):
        assert replace(batch_of(["0123456789"], [[2, 8]]), [(0, at, at)], ["x"])["learn"][0].as_py() == (
            [3, 9] if at <= 2 else [2, 8]
        )
    assert replace(batch_of(["0123456789"], [[2, 8]]), [(0, 3, 3), (0, 7, 7)], ["x", "y"])["learn"][0].as_py() == [
        2,
        10,
    ]
    inside, border = replace(batch, [(0, 4, 4)], ["x"]), replace(batch, [(0, 0, 0), (0, 10, 10)], ["x", "y"])
    assert (inside["text"][0].as_py(), inside["learn"][0].as_py()) == ("0123x456789", [0, 11])
    assert (border["text"][0].as_py(), border["learn"][0].as_py()) == ("x0123456789y", [1, 11])


def test_ranges_that_come_to_touch_become_one():
    assert replace(batch_of(["0123456789"], [[0, 3, 6, 9]]), [(0, 3, 6)])["learn"].to_pylist() == [[0, 6]]


def test_null_and_empty_ranges_stay_what_they_are():
    batch = batch_of(["abc", "abc", "abc"], [None, [], [0, 3]])
    out = replace(batch, [(0, 0, 1), (1, 0, 1), (2, 0, 3)])
    assert out["text"].to_pylist() == ["bc", "bc", ""]
    assert out["learn"].to_pylist() == [None, [], []]


def test_learn_is_returned_only_where_the_batch_has_it():
    assert set(replace(batch_of(["abc"]), [(0, 0, 1)])) == {"text", "content_hash"}
    unlearned = batch_of(["abc"], [None])
    assert replace(unlearned, [(0, 0, 1)])["learn"].equals(unlearned["learn"])


def test_large_strings_stay_large():
    out = replace(batch_of(["abc", None], kind=pa.large_string()), [(0, 1, 2)], ["é"])
    assert out["text"].equals(pa.array(["aéc", ""], pa.large_string()))


def test_hashes_of_rows_without_spans_are_taken_over():
    known = hashes(["never hashed", "old", "never hashed"])
    batch = batch_of(["a", "b", "c"], content_hash=known)
    out = replace(batch, [(1, 0, 1)], ["new"])["content_hash"]
    assert out.to_pylist() == [known[0].as_py(), hashes(["new"])[0].as_py(), known[2].as_py()]
    assert replace(batch.slice(1), [])["content_hash"].equals(known.slice(1))
    moved = replace(batch.slice(1), [(0, 0, 0)], ["x"])["content_hash"]
    assert moved.to_pylist() == [hashes(["xb"])[0].as_py(), known[2].as_py()]


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(3, 0, 1)], r"span 0 of row 3: got bytes 0 to 1, allowed rows 0 to 2 of this batch"),
        ([(-1, 0, 1)], r"span 0 of row -1: got bytes 0 to 1, allowed rows 0 to 2 of this batch"),
        ([(2, 0, 1), (0, 0, 1)], r"span 1 of row 0: .* allowed rows that rise, and row 2 came before"),
        ([(0, 2, 1)], r"span 0 of row 0: got bytes 2 to 1, allowed a start up to the stop"),
        ([(0, -1, 1)], r"span 0 of row 0: got bytes -1 to 1, allowed bytes 0 to 3 of its text"),
        ([(0, 0, 4)], r"span 0 of row 0: got bytes 0 to 4, allowed bytes 0 to 3 of its text"),
        ([(0, 0, 2), (0, 1, 3)], r"span 1 of row 0: got bytes 1 to 3, allowed a start from 2 on"),
        ([(0, 2, 3), (0, 0, 1)], r"span 1 of row 0: got bytes 0 to 1, allowed a start from 3 on"),
        ([(1, 1, 2)], r"span 0 of row 1: got bytes 1 to 2, allowed a start and a stop between characters"),
        ([(1, 0, 3)], r"span 0 of row 1: got bytes 0 to 3, allowed a start and a stop between characters"),
    ],
)
def test_a_span_that_does_not_fit_is_an_error_that_names_its_row(spans, message):
    with pytest.raises(InputError, match=message):
        replace(batch_of(["abc", "éé", "abc"]), spans)


def test_a_span_may_end_where_the_next_row_begins_inside_no_character():
    assert replace(batch_of(["é", "é"]), [(0, 0, 2), (1, 2, 2)])["text"].to_pylist() == ["", "é"]


def test_there_is_one_of_everything_a_span():
    with pytest.raises(InputError, match="got 1 rows, 2 starts and 1 stops"):
        replace_spans(batch_of(["abc"]), np.zeros(1, int), np.zeros(2, int), np.zeros(1, int))
    with pytest.raises(InputError, match="replacements: got 2 for 1 spans"):
        replace(batch_of(["abc"]), [(0, 0, 1)], ["x", "y"])


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([0, 1, 2], r"learn of row 1: got \[0, 1, 2\], allowed an even number of positions"),
        ([3, 1], r"learn of row 1: got \[3, 1\], allowed positions from 0 up that do not fall"),
        ([-1, 1], r"learn of row 1: got \[-1, 1\], allowed positions from 0 up that do not fall"),
        ([0, 6], r"learn of row 1: got \[0, 6\], allowed positions up to the 5 bytes of its text"),
        ([0, 2], r"learn of row 1: got \[0, 2\], allowed positions between characters"),
        ([0, 1] * 5, r"learn of row 1: got \[0, 1, 0, 1, 0, 1, 0, 1, …\], allowed positions from 0"),
    ],
)
def test_ranges_that_are_none_are_an_error_that_names_the_row(ranges, message):
    batch = batch_of(["abc", "aébc"], [[0, 3], ranges])
    for use in (learn_ranges, lambda b: map_pieces(b, lambda t: t), lambda b: replace(b, [(0, 0, 1)])):
        with pytest.raises(InputError, match=message):
            use(batch)


@settings(deadline=None)  # the first example compiles
@given(st.lists(TEXT.flatmap(lambda t: st.tuples(st.just(t), st.none() | borders(t))), max_size=5), st.booleans())
def test_mapping_pieces_equals_mapping_each_stretch_alone(rows, sliced):
    def change(text):
        return text.replace("a", "").replace("é", "e\u0301!").upper()

    def vectorised(texts):
        return pa.array([change(text) for text in texts.to_pylist()], texts.type)

    texts, learn = [text for text, _ in rows], [ranges for _, ranges in rows]
    batch = batch_of(["é", *texts], [[0, 2], *learn]).slice(1) if sliced else batch_of(texts, learn)
    out = map_pieces(batch, vectorised)
    for row, (text, ranges) in enumerate(rows):
        raw = text.encode()
        if ranges is None:
            assert (out["text"][row].as_py(), out["learn"][row].as_py()) == (change(text), None)
            continue
        edges = [0, *ranges, len(raw)]
        pieces = [change(raw[a:b].decode()).encode() for a, b in itertools.pairwise(edges)]
        learned = [bit for i, piece in enumerate(pieces) for bit in [i % 2] * len(piece)]
        assert out["text"][row].as_py() == b"".join(pieces).decode()
        assert out["learn"][row].as_py() == runs(learned)
    for column in out.values():
        column.validate(full=True)


def test_rows_without_ranges_are_mapped_whole():
    batch = batch_of(["ab", None], [None, None])
    seen = []

    def look(texts):
        seen.append(texts.to_pylist())
        return texts

    assert map_pieces(batch, look) == {"text": pa.array(["ab", ""]), "learn": batch["learn"]}
    assert map_pieces(batch.drop_columns("learn"), look) == {"text": pa.array(["ab", ""])}
    assert map_pieces(batch_of(["abc", "d"], [[1, 2], None]), look)["learn"].to_pylist() == [[1, 2], None]
    assert seen == [["ab", ""], ["ab", ""], ["a", "b", "c", "d"]]


def test_a_text_function_keeps_number_and_type():
    batch = batch_of(["ab"], [[0, 1]])
    with pytest.raises(InputError, match="text function: got 1 values of type string for 3 texts of type string"):
        map_pieces(batch, lambda texts: texts[:1])
    with pytest.raises(InputError, match="text function: got 3 values of type large_string"):
        map_pieces(batch, lambda texts: pc.cast(texts, pa.large_string()))
