"""Tokens, sentences and singulars of questions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.generators.transforms.text import folded, lemma, sentences, tokens, tokens_of


def said(text):
    return [text[start:stop] for start, stop in sentences(text)]


def test_a_full_stop_of_a_title_an_initial_or_a_number_ends_no_sentence():
    text = "Mr. Wong has $5.50. Tom J. Smith left at 5 p.m. He said “Go!” to Mrs.  Lee.\nHow many are left?"
    assert said(text) == [
        "Mr. Wong has $5.50.", "Tom J. Smith left at 5 p.m.", "He said “Go!” to Mrs.  Lee.", "How many are left?",
    ]  # fmt: skip


def test_a_sign_before_a_small_letter_ends_no_sentence():
    assert said("It costs 5 oz. of gold! then more. And I. Then") == [
        "It costs 5 oz. of gold! then more.",
        "And I.",
        "Then",
    ]


def test_tokens_know_numbers_words_and_signs():
    found = tokens("Tom’s 1,000.5 twenty-one x_1 .5%")
    assert [(token.low, token.kind) for token in found] == [
        ("tom's", "w"), ("1,000.5", "n"), ("twenty", "w"), ("-", "s"), ("one", "w"), ("x", "w"), ("_", "s"), ("1", "n"),
        (".5", "n"), ("%", "s"),
    ]  # fmt: skip


@given(st.text(max_size=80))
@settings(deadline=None)
def test_spans_are_true_and_nothing_but_white_space_is_lost(text):
    found = tokens(text)
    assert [text[token.start : token.stop] for token in found] == [token.text for token in found]
    assert "".join(token.text for token in found) == "".join(text.split())
    assert "".join("".join(said(text)).split()) == "".join(text.split())


@given(st.lists(st.sampled_from(["Tom has 5.", "He left!", "Dr. No saw 3.5 m.", "Why?", "ok"]), max_size=6))
@settings(deadline=None)
def test_tokens_of_a_sentence_are_those_of_the_text_inside_it(parts):
    text = " ".join(parts)
    spans = sentences(text)
    assert sum((tokens_of(text, span) for span in spans), ()) == tokens(text)


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        ("apples", "apple"), ("boxes", "box"), ("dishes", "dish"), ("berries", "berry"), ("children", "child"),
        ("glass", "glass"), ("buses", "bus"), ("is", "is"), ("tom's", "tom"), ("shoes", "shoe"), ("potatoes", "potato"),
    ],
)  # fmt: skip
def test_regular_and_common_irregular_plurals_have_their_singular(plural, singular):
    assert lemma(plural) == singular


def test_folded_texts_are_equal_for_copies_and_differ_for_another_number():
    assert folded("Tom  has “5” apples!") == folded("tom has 5 apples.")
    assert folded("Tom has 5 apples") != folded("Tom has 6 apples")
