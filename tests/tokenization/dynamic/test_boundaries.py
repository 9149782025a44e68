"""Units of text that merges stay within."""

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, MissingExtraError
from penstock.tokenization.dynamic.boundaries import require_boundary, unit_starts, valid_pair


def no_pieces(text):
    raise AssertionError("not asked for")


def units(text, boundary, words="whitespace", pieces=no_pieces):
    data = text if isinstance(text, bytes) else text.encode()
    places = np.flatnonzero(unit_starts([data], boundary, words, pieces)).tolist()
    return [data[low:high] for low, high in itertools.pairwise(places)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat", [b"a", b" cat"]),
        (" a", [b" a"]),
        ("a  b", [b"a", b" ", b" b"]),
        ("a    b", [b"a", b"   ", b" b"]),
        ("a\nb", [b"a", b"\nb"]),
        ("a\n\nb", [b"a", b"\n", b"\nb"]),
        ("a\n\n\n b", [b"a", b"\n", b"\n", b"\n", b" b"]),
        ("a \n", [b"a", b" \n"]),
        ("a\n\n", [b"a", b"\n", b"\n"]),
        ("don't, stop-it", [b"don't,", b" stop-it"]),
        ("a\u00a0b", [b"a", "\u00a0b".encode()]),
        ("", []),
        (b"a\xe4\xbd b", [b"a\xe4\xbd", b" b"]),
    ],
)
def test_a_word_is_what_stands_between_white_space_with_the_last_space_before_it(text, expected):
    assert units(text, "word") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("don't, stop-it", [b"don", b"'", b"t", b",", b" stop-it"]),
        ("3.5kg", [b"3.5", b"kg"]),
        ("kg3.5", [b"kg3", b".5"]),
        ("well-known.", [b"well-known", b"."]),
        ("(a", [b"(", b"a"]),
        ("!? a", [b"!?", b" a"]),
        ("a ,b", [b"a", b" ,", b"b"]),
        ("5%", [b"5%"]),
        ("नमस्ते।", ["नमस्ते".encode(), "।".encode()]),
    ],
)
def test_with_hyphens_letters_part_from_punctuation_but_not_from_a_hyphen(text, expected):
    assert units(text, "word_hyphen") == expected


def test_a_sentence_is_the_whole_text():
    assert units("a  b\n\nc", "sentence") == [b"a  b\n\nc"]


def test_pretokens_are_those_of_the_pre_tokenizer_and_never_hold_a_word_border(base):
    assert units("the low-end", "pretoken", pieces=base.pieces) == [b"the", b" low", b"-end"]
    whole = units("a b", "pretoken", pieces=lambda text: [(0, len(text))])
    assert whole == [b"a", b" b"]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(alphabet=" \n\tab,-é你3"), max_size=4), st.sampled_from(["word", "word_hyphen"]))
def test_units_of_several_texts_are_those_of_each(texts, boundary):
    data = [text.encode() for text in texts]
    together = unit_starts(data, boundary, "whitespace", no_pieces)
    places = np.flatnonzero(together).tolist()
    whole = b"".join(data)
    assert [whole[a:b] for a, b in itertools.pairwise(places)] == [
        unit for text in texts for unit in units(text, boundary)
    ]


@settings(deadline=None, max_examples=40)
@given(st.text(alphabet=" \n\tab,-é你3."), st.sampled_from(["word", "word_hyphen"]))
def test_whatever_is_merged_inside_a_unit_is_valid_by_the_published_rule(text, boundary):
    for unit in units(text, boundary):
        letters = unit.decode()
        for low in range(len(letters)):
            for high in range(low + 2, len(letters) + 1):
                assert valid_pair(letters[low:high].encode(), boundary, no_pieces), (unit, letters[low:high])


@settings(deadline=None, max_examples=40)
@given(st.text(alphabet=" ab", max_size=12))
def test_no_word_could_begin_later_or_end_earlier(text):
    # two neighbours may not be joined, unless both are white space or a run of spaces meets the word that took its last
    for left, right in zip(units(text, "word"), units(text, "word")[1:], strict=False):
        both_space = not (left + right).strip()
        run_and_word = not left.strip() and right[:1] == b" "
        assert both_space or run_and_word or not valid_pair(left + right, "word", no_pieces)


@pytest.mark.parametrize(
    ("joined", "boundary", "expected"),
    [
        (b" the", "word", True),
        (b"the cat", "word", False),
        (b"  ", "word", True),
        (b"  a", "word", False),
        (b"\n\n", "word", False),
        (b" \n", "word", True),
        (b"don't", "word", True),
        (b"don't", "word_hyphen", False),
        (b"a-b", "word_hyphen", True),
        (b"3.5", "word_hyphen", True),
        (b"\xe4\xbd", "word_hyphen", True),
        (b"a\xe4 b", "word", False),
        (b"the cat", "sentence", True),
        (b"the", "pretoken", True),
        (b"don't", "pretoken", False),
    ],
)
def test_the_published_rule_for_a_pair(joined, boundary, expected):
    def pieces(text):
        return [(0, 3), (3, 5)] if "'" in text else [(0, len(text))]

    assert valid_pair(joined, boundary, pieces) is expected


def test_unicode_words_cut_chinese_and_thai_by_their_dictionaries():
    pytest.importorskip("icu4py")
    assert units("国民议会议员😀看起来", "word", "unicode") == [
        part.encode() for part in ("国民", "议会", "议员", "😀", "看起来")
    ]
    assert [u.decode() for u in units("สมาชิกสมัชชา", "word", "unicode")] == ["สมาชิก", "สมัชชา"]
    # the space stays with the word after it
    assert units("the cat, a", "word", "unicode") == [b"the", b" cat", b",", b" a"]
    assert units("a\xff b".encode("latin-1"), "word", "unicode")[-1] == b" b"


def test_without_icu_unicode_words_name_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "icu4py", None)
    monkeypatch.setitem(sys.modules, "icu4py.breakers", None)
    with pytest.raises(MissingExtraError, match="icu4py"):
        units("ab", "word", "unicode")


@pytest.mark.parametrize(
    ("boundary", "words", "message"),
    [
        ("line", "whitespace", "boundary: got 'line', allowed pretoken, word"),
        ("word", "icu", "words: got 'icu', allowed whitespace"),
        ("sentence", "unicode", "allowed with word and word_hyphen"),
    ],
)
def test_unknown_names_are_refused(boundary, words, message):
    with pytest.raises(ConfigError, match=message):
        require_boundary(boundary, words)
