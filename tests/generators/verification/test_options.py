"""Options of a multiple choice, and when two answers are the same."""

import pytest

from penstock.generators.verification.options import Options, answer_type, options_of, same_answer


@pytest.mark.parametrize(
    "text", ["How many?\nOptions:\n(A) 12\n(B) 15", "How many? A. 12 B. 15", "How many? A) 12, B) 15;"]
)
def test_options_are_cut_from_the_stem_in_every_style(text):
    assert options_of(text) == Options("How many?", {"A": "12", "B": "15"})


@pytest.mark.parametrize("text", ["How many? (A) 12", "(A) 1 (C) 2", "(B) 1 (A) 2", "A) B) 2", "Vitamin A helps B", ""])
def test_labels_with_a_gap_or_without_text_are_no_options(text):
    assert options_of(text) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("5", "5.0", True), ("1,250", "1250", True), ("$5", "5", False), ("20%", "20", False), ("Blue ", "blue", True),
        ("5", "6", False), ("1/2", "1/2", True), ("-3", "-3", True),
    ],
)  # fmt: skip
def test_answers_are_compared_by_value_and_kind(one, other, same):
    assert same_answer(one, other) is same
    assert same_answer(other, one) is same


@pytest.mark.parametrize(
    ("answer", "kind"),
    [("5", "integer"), ("1,000", "integer"), ("2.5", "decimal"), ("1/2", "fraction"), ("$5", "money"),
     ("5%", "percent"), ("B", "letter"), ("blue", "text"), ("", "text")],
)  # fmt: skip
def test_an_answer_has_one_kind(answer, kind):
    assert answer_type(answer) == kind
