"""Search and filters against going through all rows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.view.corpus import Row
from penstock.view.index import ORDERS, Index, Query, marked, match

WORDS = ("river", "gate", "pipe", "Turbine", "élan")
EVERYTHING = 10_000


def row(number, text, domain="d", table="train", **scores):
    values = {"doc_id": f"x#{number}", "text": text, "domain": domain}
    return Row(table, "file", number, values | {f"score.{name}": value for name, value in scores.items()})


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    rows = [
        row(0, "the river gate", quality=0.5, length=3.0),
        row(1, "gate river the", "e", "validation", quality=None, length=1.0),
        row(2, 'a "quoted" Élan of pipe-work', quality=-1.0),
        row(3, "turbines; turbine", "e", quality=0.25),
        row(4, "", quality=1e9),
    ]
    made = Index(tmp_path_factory.mktemp("index"), rows)
    yield made
    made.close()


def found(index, **query):
    count, hits = index.find(Query(**query), first=0, most=EVERYTHING)
    assert count == len(hits)
    return sorted(hit.id for hit in hits)


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        ("river", [0, 1]),
        ("RIVER gate", [0, 1]),
        ('"river gate"', [0]),
        ("elan", [2]),
        ("turbin*", [3]),
        ("turbin", []),
        ("pipe-work", [2]),
        ("", [0, 1, 2, 3, 4]),
        ("*", [0, 1, 2, 3, 4]),
        ("!!! river", [0, 1]),
        ("x", [0, 1, 2, 3, 4]),  # the ids are searched too
        ('"river', [0, 1]),
        ("quoted", [2]),
    ],
)
def test_words_phrases_and_beginnings_are_found(index, words, rows):
    assert found(index, words=words) == [f"x#{n}" for n in rows]


@pytest.mark.parametrize(
    "words",
    [
        "a AND",
        "OR",
        "NOT x",
        "text:river",
        "river NEAR gate",
        "(",
        ")",
        '"',
        '""',
        "^river",
        "a + b",
        "-river",
        "' --",
        "\x00",
    ],
)
def test_nothing_that_is_typed_is_read_as_a_command(index, words):
    found(index, words=words)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.lists(st.sampled_from(WORDS), max_size=6), min_size=1, max_size=12),
    words=st.lists(st.sampled_from(WORDS), max_size=3),
    domain=st.sampled_from([None, "d0", "d1"]),
    low=st.sampled_from([None, 0.0, 2.0]),
    high=st.sampled_from([None, 1.0, 5.0]),
)
def test_what_is_found_is_what_going_through_all_rows_finds(tmp_path_factory, texts, words, domain, low, high):
    rows = [row(n, " ".join(of), f"d{n % 2}", s=None if n % 5 == 4 else float(n % 4)) for n, of in enumerate(texts)]
    made = Index(tmp_path_factory.mktemp("index"), rows)
    try:
        got = found(made, words=" ".join(words), domain=domain, score="s", low=low, high=high)
    finally:
        made.close()
    expected = []
    for n, of in enumerate(texts):
        score = rows[n].values["score.s"]
        bounded = low is None and high is None
        inside = score is not None and (low is None or score >= low) and (high is None or score <= high)
        if set(words) <= set(of) and domain in (None, f"d{n % 2}") and (bounded or inside):
            expected.append(f"x#{n}")
    assert got == sorted(expected)


def test_domains_and_splits_filter_and_are_counted(index):
    assert index.domains == {"d": 3, "e": 2}
    assert index.tables == {"train": 4, "validation": 1}
    assert found(index, domain="e") == ["x#1", "x#3"]
    assert found(index, domain="e", table="validation") == ["x#1"]
    assert found(index, domain="nothing") == []


def test_a_score_has_a_range_and_bounds_hold_both_ends(index):
    assert index.scores == ("quality", "length")
    assert index.range("quality") == (-1.0, 1e9)
    assert found(index, score="quality", low=0.25, high=0.5) == ["x#0", "x#3"]
    assert found(index, score="length", low=2) == ["x#0"]
    assert found(index, score="unknown", low=2) == [f"x#{n}" for n in range(5)]


@pytest.mark.parametrize(
    ("order", "first"),
    [("as stored", "0 1 2 3 4"), ("longest", "2 3 0 1 4"), ("shortest", "4 0 1 3 2"), ("highest score", "4 0 3 2 1"),
     ("lowest score", "2 3 0 4 1")],
)  # fmt: skip
def test_rows_come_in_the_order_that_is_asked_for(index, order, first):
    assert order in ORDERS
    _, hits = index.find(Query(score="quality", order=order), first=0, most=10)
    assert " ".join(hit.id.removeprefix("x#") for hit in hits) == first


def test_the_row_that_says_it_most_often_comes_first(index):
    _, hits = index.find(Query(words="turbin*"), first=0, most=10)
    assert hits[0].pieces == (("turbines", True), ("; ", False), ("turbine", True))


def test_pages_follow_each_other_without_a_gap(index):
    pages = [index.find(Query(), first=at, most=2)[1] for at in (0, 2, 4)]
    assert [hit.id for page in pages for hit in page] == [f"x#{n}" for n in range(5)]


def test_a_row_is_known_by_its_id(index):
    known = index.row("x#2")
    assert known is not None
    assert (known["table"], known["place"], known["text"]) == ("train", 2, 'a "quoted" Élan of pipe-work')
    assert index.row("x#99") is None


def test_marks_alone_are_no_words():
    assert match('-- "" * !') == ""
    assert match('a* "b c" d"e') == '"a"* "b c" "d" "e"'


def test_an_excerpt_is_cut_at_its_marks():
    assert marked("a \x02b\x03 c") == (("a ", False), ("b", True), (" c", False))
    assert marked("plain") == (("plain", False),)
