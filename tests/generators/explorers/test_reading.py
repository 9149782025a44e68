"""Lists are read out of what models really answer, and nothing is made up."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.generators.explorers.reading import Listed, marked, read_list

TEXTS = st.lists(st.dictionaries(st.sampled_from(["text", "note"]), st.text(max_size=20), min_size=1), min_size=1)


@pytest.mark.parametrize(
    ("answer", "entries", "cut"),
    [
        ('{"items": ["a", "b"]}', ["a", "b"], 0),
        ('Sure!\n```json\n{"items": ["a"]}\n```\nAnything else?', ["a"], 0),
        ('{"note": {"items": 3}, "items" : [ 1, {"x": "]"} ] }', [1, {"x": "]"}], 0),
        ('<think>maybe {"items": ["x"]}</think>{"items": ["a"]}', ["a"], 0),
        ('["a", "b"]', ["a", "b"], 0),
        ('```json\n["a"]\n```', ["a"], 0),
        ('{"items": ["a", "b"', ["a", "b"], 0),
        ('{"items": [{"text": "a"}, {"text": "b', [{"text": "a"}], 1),
        ('{"items": ["a", b, "c"]}', ["a"], 1),
        ("<item>\n a \n</item> and <item>b</item>", ["a", "b"], 0),
        ("<item>a</item>\n<item>b", ["a"], 1),
        ('{"items": []}\n<item>a</item>', ["a"], 0),
    ],
)
def test_a_list_is_read_in_whatever_form_it_comes(answer, entries, cut):
    assert read_list(answer, "items", "item") == Listed(entries, cut)


@pytest.mark.parametrize("answer", ["", "no list", '{"items": []}', '{"other": ["a"]}', "<item>a", "<topic>a</topic>"])
def test_text_without_a_whole_entry_is_no_list(answer):
    assert read_list(answer, "items", "item") is None


def test_nesting_that_no_parser_survives_is_no_list():
    assert read_list('{"items": [' + "[" * 200_000, "items", "item") is None


@given(TEXTS, st.data())
def test_an_answer_cut_anywhere_gives_its_whole_entries_and_counts_the_rest(entries, data):
    answer = json.dumps({"items": entries})
    at = data.draw(st.integers(len('{"items": ['), len(answer)))
    found = read_list(answer[:at], "items", "item") or Listed([], 0)
    assert found.entries == entries[: len(found.entries)]
    ends = [len(json.dumps({"items": entries[:n]})) - 2 for n in range(1, len(entries) + 1)]
    assert len(found.entries) == sum(end <= at for end in ends)
    assert found.cut <= 1


def test_a_marked_passage_is_the_first_one():
    assert marked("<answer> 3\n</answer><answer>4</answer>", "answer") == "3"
    assert marked("<answer>3", "answer") is None
