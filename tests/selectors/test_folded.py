"""Folded words against a plain reading in Python. Run: pytest tests/selectors/test_folded.py"""

import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.selectors.folded import _NO_SPACES, Words, folded_words

TRICKY = list("aZ09ÉßſİΣςσµ½…™ﬁ№㍿㌀ﷺ´¨ \n\t.,'-_—－Ａｂ１、。中文かなガｶﾞไทยกำ한국ᄒ")
TRICKY += ["\u0301", "\u0323", "\u0345", "\u1161", "\u11ab", "\u3099", "\u094d", "\u0915", "\u093c", "\u0338"]
TRICKY += ["\u00ad", "\u200d", "\ufeff", "\ufe0f", "\U000e0101", "\u034f", "\u00a0", "\u2028", "\x00", "\x85"]
TRICKY += ["😀", "\U0001d400", "\U0002f800", "\U00010400", "\ufb1d", "\u0958", "\u1e9e", "\u0149", "\u01c4", "≠"]
TEXT = st.one_of(st.text(), st.lists(st.sampled_from(TRICKY), max_size=40).map("".join))


def by_hand(text: str) -> list[str]:
    """NFKC, case folding, then runs of letters, marks and digits, by Python's own tables."""
    words, word = [], ""
    for c in unicodedata.normalize("NFKC", text).casefold():
        category, code = unicodedata.category(c), ord(c)
        if category == "Cf" or code == 0x34F or 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF:
            continue
        alone = any(first <= code <= last for first, last in _NO_SPACES)
        if category[0] in "LMN" and not alone:
            word += c
            continue
        words += [word] * bool(word) + [c] * (category[0] in "LMN")
        word = ""
    return words + [word] * bool(word)


def hash_by_hand(word: str) -> int:
    """FNV-1a over code points, and one multiplication to close."""
    h = 0xCBF29CE484222325
    for c in word:
        h = (h ^ ord(c)) * 0x100000001B3 % 2**64
    h = (h ^ 0x100000001B3) * 0x9FB21C651E98DF25 % 2**64
    return h ^ (h >> 32)


def of(*texts: str | None) -> Words:
    return folded_words(pa.array(texts, pa.string()))


def spelt(words: Words, texts: list[str]) -> list[list[str]]:
    """The original bytes of each word."""
    return [
        [
            texts[row].encode()[words.starts[w] : words.ends[w]].decode()
            for w in range(words.rows[row], words.rows[row + 1])
        ]
        for row in range(len(texts))
    ]


@settings(deadline=None, max_examples=400)
@given(st.lists(TEXT, max_size=5))
@example(["e\u0301a", "\u0301", "a\u0323\u0301", "ᄒ\u1161\u11ab", "か\u3099", "\u0915\u093c½"])
@example(["x" * 9 + "\u0301\u0323" + "…e\u0301 b", "plain"])
def test_words_and_hashes_are_those_of_the_plain_reading(texts):
    words = of(*texts)
    expected = [by_hand(text) for text in texts]
    assert np.diff(words.rows).tolist() == [len(own) for own in expected]
    assert words.hashes.tolist() == [hash_by_hand(word) for own in expected for word in own]


@settings(deadline=None, max_examples=400)
@given(st.lists(TEXT, max_size=5))
@example(["cafe\u0301s …e\u0301 ½x", "", "é e\u0301 e\u0301\u0323"])
def test_the_bytes_of_a_word_read_alone_hold_that_word(texts):
    words = of(*texts)
    for own, text in zip(spelt(words, texts), texts, strict=True):
        for piece, word in zip(own, by_hand(text), strict=True):
            assert word in by_hand(piece)


def test_positions_are_exact_where_every_word_is_spelt_as_it_stands():
    texts = ["The  quick-brown 'fox'", "", "Ｆｕｌｌ width", "é cafe\u0301s, e\u0301 x", "中文 and"]
    assert spelt(of(*texts), texts) == [
        ["The", "quick", "brown", "fox"],
        [],
        ["Ｆｕｌｌ", "width"],
        ["é", "cafe\u0301s", "e\u0301", "x"],
        ["中", "文", "and"],
    ]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("Hello, WORLD!", "hello world"),
        ("Ｆｕｌｌ－ｗｉｄｔｈ", "full width"),
        ("cafe\u0301", "CAFÉ"),
        ("con\u00adtamination", "contamination"),
        ("a\u00a0b…c", "a b c"),
        ("Straße ΟΔΟΣ", "STRASSE οδος"),
        ("ﬁne ½", "fine 1 2"),
        ("snake_case", "snake case"),
    ],
)
def test_what_people_read_as_the_same_folds_to_the_same_words(one, two):
    assert of(one).hashes.tolist() == of(two).hashes.tolist()


@pytest.mark.parametrize(("one", "two"), [("ab c", "a bc"), ("12", "1 2"), ("e", "é"), ("5", "6"), ("中文", "文中")])
def test_what_differs_stays_different(one, two):
    assert of(one).hashes.tolist() != of(two).hashes.tolist()


def test_rows_do_not_depend_on_their_neighbours_slices_or_type():
    texts = ["plain text here", None, "e\u0301…", "", "中文 x", "ß e\u0301e\u0301"]
    column = pa.array(texts, pa.string())
    whole = folded_words(column)
    for row in range(len(texts)):
        alone = folded_words(column.slice(row, 1).cast(pa.large_string()))
        own = slice(whole.rows[row], whole.rows[row + 1])
        assert [a.tolist() for a in alone[1:]] == [a[own].tolist() for a in whole[1:]]
    assert of().rows.tolist() == [0]
    assert np.diff(whole.rows)[1] == 0


def test_a_text_of_single_letters_has_more_words_than_the_first_guess_has_room_for():
    words = of("a " * 5000, "中" * 5000)
    assert np.diff(words.rows).tolist() == [5000, 5000]
    assert words.starts[[0, 4999, 5000, 9999]].tolist() == [0, 9998, 0, 14997]
    assert words.ends[[4999, 9999]].tolist() == [9999, 15000]


def test_hashes_of_a_large_vocabulary_do_not_collide():
    words = of(" ".join(f"{a}{b}" for a in range(400) for b in "abcdefghijklmnopqrstuvwxyzéß"))
    assert len(np.unique(words.hashes)) == len(words.hashes) == 400 * 28
