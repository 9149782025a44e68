"""Names of groups by c-TF-IDF. Run: pytest tests/selectors/test_names.py"""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock.selectors.names import class_tf_idf, name_groups, term_counts, top_terms

SEA = ["the whale and the ship", "a ship on the sea", "whale in the sea, whale and boat"]
LAW = ["the court and the judge", "an appeal to the court", "the judge of the appeal court"]


def test_a_group_is_called_by_what_sets_it_apart():
    sea, law = name_groups([SEA, LAW])
    assert sea.name == "sea-ship-whale"
    assert law.name == "appeal-judge-court"
    assert sea.terms[:3] == ("sea", "ship", "whale")


@settings(deadline=None)
@given(hnp.arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(0, 6)), elements=st.integers(0, 9)))
def test_weights_are_those_of_the_equation(counts):
    found = class_tf_idf(counts)
    mean = sum(map(sum, counts.tolist())) / len(counts)
    for group, row in enumerate(counts.tolist()):
        for term, count in enumerate(row):
            wanted = 0.0
            if count:
                frequency = sum(other[term] for other in counts.tolist())
                wanted = math.sqrt(count / sum(row)) * math.log(1 + mean / frequency)
            assert found[group, term] == pytest.approx(wanted)


def test_a_document_that_repeats_a_word_counts_it_once():
    counts, terms = term_counts([["spam " * 1000, "ship sea"], ["ship ship"]])
    assert terms.tolist() == ["sea", "ship", "spam"]
    assert counts.tolist() == [[1, 1, 1], [0, 1, 0]]


def test_terms_are_ascii_words_of_three_characters_that_start_with_a_letter_and_are_no_stop_words():
    texts = [["Être the ab abc 1abc x86 a_b naïve МОСКВА straße under_score " + "y" * 20 + " " + "z" * 21]]
    assert term_counts(texts)[1].tolist() == ["abc", "etre", "naive", "x86", "y" * 20]


def test_endings_of_a_term_already_chosen_are_left_out():
    (terms,) = top_terms([["game games gamer", "game games", "ship"]])
    assert terms == ["game", "ship"]


@pytest.mark.parametrize("texts", [[[]], [[""], ["日本語 12 !?"]], [["the of and"], []]])
def test_groups_without_a_term_are_numbered(texts):
    assert [(g.name, g.terms) for g in name_groups(texts)] == [(f"group-{i}", ()) for i in range(len(texts))]


def test_no_group_at_all_has_no_name():
    assert name_groups([]) == []


def test_equal_groups_get_different_names_by_more_terms_then_by_a_number():
    long = ["alpha bravo charlie delta echo"]
    assert [g.name for g in name_groups([long, long, long, long])] == [
        "alpha-bravo-charlie",
        "alpha-bravo-charlie-delta",
        "alpha-bravo-charlie-delta-echo",
        "alpha-bravo-charlie-2",
    ]
    short = ["alpha"]
    assert [g.name for g in name_groups([short, short, short])] == ["alpha", "alpha-2", "alpha-3"]


def test_reserved_names_are_not_given():
    assert [g.name for g in name_groups([["river"]], reserved=("river",))] == ["river-2"]
    assert [g.name for g in name_groups([[""]], reserved=("group-0",))] == ["group-0-2"]


hostile = st.text(st.characters(), max_size=40) | st.sampled_from(
    ["<script>alert(1)</script>", "../../etc/passwd", "'; drop table --", "x" * 5000, "a\x00b\u202egnp", "none none"]
)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(hostile, max_size=4), max_size=5))
def test_names_are_safe_unique_and_short_whatever_the_texts(texts):
    names = [g.name for g in name_groups(texts, reserved=("none",))]
    assert len(set(names)) == len(texts)
    assert "none" not in names
    assert all(re.fullmatch(r"[a-z][a-z0-9-]{0,69}", name) for name in names)
    assert names == [g.name for g in name_groups(texts, reserved=("none",))]
