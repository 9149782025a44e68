"""Canonical text and empty rows. Run: pytest tests/selectors/test_normalise.py"""

import hashlib
import pickle
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.selectors.normalise import Normalise, NotEmpty

ASSIGNED = st.characters(exclude_categories=["Cs", "Cn"])
TRICKY = st.sampled_from(
    list(
        "aeo\r\n\t\x00\x07\x0b\x0c\x1c\x1f\x7f\x85\x9f\u0301\u0308\u0315\u0316\u0323\u0344\u0958\u1100\u1161\u11a8\uac00\u212b\u09c7\u09be😀\u200d\ufb1d"
    )
)
ROWS = st.lists(st.one_of(st.text(ASSIGNED), st.text(TRICKY)), max_size=6)


def by_hand(text: str) -> str:
    """One character at a time."""
    out = []
    for i, character in enumerate(text):
        if character == "\r" and text[i + 1 : i + 2] == "\n":
            continue
        if character in "\r\x0b\x0c\x1c\x1d\x1e\x85":
            out.append("\n")
        elif character == "\x1f":
            out.append(" ")
        elif character in "\n\t" or unicodedata.category(character) != "Cc":
            out.append(character)
    return unicodedata.normalize("NFC", "".join(out))


def batch(rows: list[str | None]) -> pa.RecordBatch:
    """The rows as a slice of a longer batch."""
    column = pa.array(["x\x00", *rows, "y\r\n"], pa.string())
    return pa.record_batch({"text": column})[1 : len(rows) + 1]


def normalise(rows: list[str | None]) -> list[str]:
    return Normalise().annotate(batch(rows))["text"].to_pylist()


@settings(deadline=None, max_examples=300)
@given(ROWS)
def test_text_is_what_a_loop_over_characters_makes_of_it(rows):
    assert normalise(rows) == [by_hand(r) for r in rows]


@settings(deadline=None, max_examples=100)
@given(ROWS)
def test_a_second_time_changes_nothing(rows):
    once = normalise(rows)
    assert normalise(once) == once


def test_every_character_alone_and_after_a_base_is_in_form_c():
    alone = [chr(c) for c in range(0xA0, 0x110000) if unicodedata.category(chr(c)) not in ("Cs", "Cn", "Co")]
    rows = alone + ["e" + c for c in alone] + ["\u1100" + c for c in alone]
    assert normalise(rows) == [unicodedata.normalize("NFC", r) for r in rows]


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a\r\nb\rc\nd", "a\nb\nc\nd"),
        ("page one\x0cpage two", "page one\npage two"),
        ("bell\x07 and \x00nul\x7f\x9b", "bell and nul"),
        ("tab\tstays", "tab\tstays"),
        ("e\x00\u0301", "é"),
        ("\u1112\u1161\u11ab", "한"),
        ("👩\u200d💻", "👩\u200d💻"),
        ("\u212b", "Å"),
        ("a\u0315\u0316", "a\u0316\u0315"),  # neither composes with anything: only their order changes
        (None, ""),
    ],
)
def test_examples(raw, clean):
    assert normalise([raw]) == [clean]


def test_content_hash_is_the_hash_of_the_new_text():
    out = Normalise().annotate(batch(["cafe\u0301", "plain", ""]))
    assert out["content_hash"].type == pa.binary(16)
    expected = [hashlib.blake2b(t.encode(), digest_size=16).digest() for t in ("café", "plain", "")]
    assert out["content_hash"].to_pylist() == expected


def test_rows_with_learned_ranges_are_cleaned_by_stretches_and_the_ranges_follow():
    texts = ["ask\r\n\x00cafe\u0301 e\u0301", "e\u0301", "a\r\nb", "e\u0301", "\x00\x00"]
    learn = [[6, 12], [0, 1], [0, 2], None, [0, 1]]
    rows = pa.record_batch({"text": pa.array(texts), "learn": pa.array(learn, pa.list_(pa.int32()))})
    out = Normalise().annotate(rows)
    assert out["text"].to_pylist() == ["ask\ncafé é", "e\u0301", "a\n\nb", "é", ""]
    assert out["learn"].to_pylist() == [[4, 9], [0, 1], [0, 2], None, []]
    expected = [hashlib.blake2b(t.encode(), digest_size=16).digest() for t in out["text"].to_pylist()]
    assert out["content_hash"].to_pylist() == expected


def test_an_empty_batch_keeps_its_types():
    out = Normalise().annotate(batch([]))
    assert (out["text"].type, len(out["text"])) == (pa.string(), 0)
    assert (out["content_hash"].type, len(out["content_hash"])) == (pa.binary(16), 0)
    assert len(NotEmpty().decide(batch([]))) == 0


def test_large_strings_stay_large():
    column = pa.array(["a\r\nb", "c"], pa.large_string())
    assert (
        Normalise()
        .annotate(pa.record_batch({"text": column}))["text"]
        .equals(pa.array(["a\nb", "c"], pa.large_string()))
    )


def test_null_empty_and_whitespace_rows_are_dropped_as_empty():
    rows = ["a", "", None, " \n\t\u3000\u2028\x1c\xa0", " x ", "\u200b"]
    reasons = NotEmpty().decide(batch(rows))
    assert reasons.type == pa.string()
    assert reasons.to_pylist() == [None, "empty", "empty", "empty", None, None]


def test_both_are_picklable_values():
    for work in (Normalise(), NotEmpty()):
        assert pickle.loads(pickle.dumps(work)) == work  # noqa: S301
