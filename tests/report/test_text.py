from __future__ import annotations

import math
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.report import text

XML = re.compile("[\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")
MARKS = (
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"  # number and verse signs
)
HIEROGLYPH_JOINERS = "".join(map(chr, range(0x13430, 0x13440)))


def test_every_character_that_acts_unseen_is_shown_and_no_other_is_touched():
    allowed = "\t\n\u200c\u200d" + MARKS + HIEROGLYPH_JOINERS
    for code in range(0x110000):
        character = chr(code)
        category = unicodedata.category(character)
        unseen = category in ("Cc", "Cf", "Cs", "Zl", "Zp") or code & 0xFFFE == 0xFFFE
        if unseen and character not in allowed:
            assert text.visible(character) != character, hex(code)
        elif category[0] in "LNPSM" and text.visible(character) != character:
            # fillers and variation selectors: letters and marks without a shape of their own
            assert re.search("FILLER|VARIATION SELECTOR|GRAPHEME JOINER", unicodedata.name(character)), hex(code)


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_what_is_visible_is_xml(value):
    assert XML.fullmatch(text.visible(value))


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "⟨ESC⟩[31mred⟨ESC⟩[0m"),
        ("a\u202egnp.exe", "a⟨U+202E⟩gnp.exe"),
        ("a\r\nb\rc\0d\x7f\x9b", "a\nb⟨CR⟩c⟨NUL⟩d⟨DEL⟩⟨U+009B⟩"),
        ("\ufeffzero\u200bwidth", "⟨U+FEFF⟩zero⟨U+200B⟩width"),
        ("\udce9", "⟨U+DCE9⟩"),
        ("نیم\u200cفاصله 👩\u200d💻", "نیم\u200cفاصله 👩\u200d💻"),
        ("tab\tline\n", "tab\tline\n"),
    ],
)
def test_unseen_characters_are_named(raw, shown):
    assert text.visible(raw) == shown


def test_labels_of_different_names_stay_different():
    long = "x" * 50
    assert text.labels([long + "1", long + "2", "b", "b", "", "a\n b"]) == {
        long + "1": "x" * 39 + "…",
        long + "2": "x" * 39 + "… (2)",
        "b": "b",
        "": "(empty)",
        "a\n b": "a b",
    }


@given(st.lists(st.text(max_size=60), unique=True))
def test_labels_are_one_to_one(names):
    out = text.labels(names)
    assert list(out) == names
    assert len(set(out.values())) == len(names)


def test_one_line_cuts_what_it_shows():
    assert text.one_line("a\tb\nc", 50) == "a⟨TAB⟩b⟨LF⟩c"
    assert text.one_line("y" * 9, 5) == "yyyy…"


@pytest.mark.parametrize(
    ("function", "value", "shown"),
    [
        (text.count, 1_234_567, "1,234,567"),
        (text.count, None, "–"),
        (text.number, 3.21449, "3.214"),
        (text.number, math.nan, "not a number"),
        (text.number, -math.inf, "−∞"),
        (text.number, None, "–"),
        (text.signed, -0.0814, "−0.081"),
        (text.signed, 0.5, "+0.500"),
        (text.size, 999, "999 B"),
        (text.size, 1000, "1.00 kB"),
        (text.size, 9_996, "10.0 kB"),
        (text.size, 999_499, "999 kB"),
        (text.size, 999_500, "1.00 MB"),
        (text.size, 2_871_000_000, "2.87 GB"),
        (text.size, 5 * 10**18, "5,000 PB"),
        (text.amount, 999_999, "999,999"),
        (text.amount, 11_240_000, "11.2 million"),
        (text.duration, 0.42, "0.42 s"),
        (text.duration, 59.96, "1 min 00 s"),
        (text.duration, 245.2, "4 min 05 s"),
        (text.duration, 3599.7, "1 h 00 min"),
        (text.duration, 7620.0, "2 h 07 min"),
    ],
)
def test_numbers_are_written_for_people(function, value, shown):
    assert function(value) == shown


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [
        (0, 0, "–"),
        (0, 9, "0.0 %"),
        (1, 10_000, "< 0.1 %"),
        (1, 3, "33.3 %"),
        (9_999, 10_000, "> 99.9 %"),
        (9, 9, "100.0 %"),
    ],
)
def test_shares_never_round_to_nothing_or_to_all(part, whole, shown):
    assert text.percent(part, whole) == shown
