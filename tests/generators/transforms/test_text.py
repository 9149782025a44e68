"""Tokens, sentences and singulars of questions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.generators.transforms.base import NotApplicable, Problem
from penstock.generators.transforms.rules import rules_of
from penstock.generators.transforms.text import folded, lemma, not_prose, sentences, tokens, tokens_of


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


@pytest.mark.parametrize(
    "question",
    [
        "Apply the rules:\n1. Double it.\n2. Add 3.\nWhat is 4?",
        "Which are red?\n- an apple\n- a pear",
        "Run it:\n```\nx = 3\n```",
        "Rotate:\n4 4 0 4\n0 4 4 0",
        "A: ──┐\nWhat is A?",
    ],
)
def test_a_listing_code_or_a_drawing_is_no_prose(question):
    assert not_prose(question) == "it holds a listing, code or a drawing"


@pytest.mark.parametrize(
    "question",
    [
        "Convert the binary number 1101 to base-9.",
        "Restore the order of words in this sentence: eight had schemes",
        "Spell 'otter' backwards.",
        "Does the conclusion follow? Premise: all children are sages.",
    ],
)
def test_questions_about_how_something_is_written_are_told_apart(question):
    assert "as they are written" in not_prose(question)
    stream = np.random.default_rng(0)
    for rule in rules_of(("paraphrase", "term", "subproblem")):
        found = rule.apply(Problem(problem_id="p", prompt=question, answer="8"), stream)
        assert isinstance(found, NotApplicable)


def test_a_word_problem_is_prose():
    assert not_prose("Tom has 12 apples.\nHe buys $3.50 worth more (2 for each friend). How many are left?") is None
