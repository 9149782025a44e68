"""The index of benchmark items: what is in it, what is not, and when it may be read. Run by pytest."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import ConfigError, DatasetError
from penstock.selectors import benchmark_index
from penstock.selectors.benchmark_index import FIELDS, IndexSettings, Item, load_index, save_index, shingle_sets
from penstock.selectors.folded import folded_words

FOUR = IndexSettings(ngram=4, min_words=2, near_min_words=3)


def words(first: int, count: int) -> str:
    return " ".join(f"w{i}" for i in range(first, first + count))


@pytest.fixture
def index_of(tmp_path):
    """``index_of(items, settings)`` saves and loads."""

    def make(items, settings=FOUR):
        made = save_index(str(tmp_path), items, settings)
        return made, load_index(made.path, made.digest, settings)

    return make


def test_every_ngram_points_back_to_its_benchmark_item_field_and_position(index_of):
    made, index = index_of([Item("a", "a#0", words(0, 5), words(5, 4)), Item("b", "b#0", words(1, 4))])
    pointers = []
    for key in range(len(index.keys)):
        for p in range(index.firsts[key], index.firsts[key + 1]):
            item = index.fields.item[index.field[p]]
            pointers.append(
                (index.names[item].as_py(), FIELDS[index.fields.part[index.field[p]]], int(index.position[p]))
            )
    # 5 words: 2 n-grams; 4: 1; joined 9: 6; 4: 1
    expected = [("a#0", "question", 0), ("a#0", "question", 1), ("a#0", "answer", 0), ("b#0", "question", 0)]
    assert sorted(pointers) == sorted(expected + [("a#0", "question+answer", i) for i in range(6)])
    # w1 w2 w3 w4 is in two items: one key
    assert len(index.keys) == 6
    assert np.all(index.keys[1:] > index.keys[:-1])
    assert index.fields.grams.tolist() == [2, 1, 6, 1]
    assert index.benchmark_of.tolist() == [0, 1]
    assert made.items == made.checkable == {"a": 1, "b": 1}
    assert made.not_checkable.num_rows == 0


def test_what_cannot_be_checked_is_listed_with_its_reason(index_of):
    made, index = index_of(
        [
            Item("a", "a#0", "one two three", "yes indeed sir"),
            Item("a", "a#1", "one", None),
            Item("a", "a#2", "…!", "no"),
            Item("a", "a#3", None, None),
        ]
    )
    assert made.not_checkable.to_pylist() == [
        {"benchmark": "a", "item": "a#0", "field": "answer", "words": 3, "reason": "short_answer"},
        {"benchmark": "a", "item": "a#1", "field": "question", "words": 1, "reason": "too_short"},
        {"benchmark": "a", "item": "a#2", "field": "question", "words": 0, "reason": "empty"},
        {"benchmark": "a", "item": "a#2", "field": "answer", "words": 1, "reason": "short_answer"},
        {"benchmark": "a", "item": "a#2", "field": "question+answer", "words": 1, "reason": "too_short"},
        {"benchmark": "a", "item": "a#3", "field": "question", "words": 0, "reason": "empty"},
    ]
    assert made.checkable == {"a": 1}
    assert index.lengths.tolist() == [3, 4]  # a short question whole, and the n-grams of its joined field


def test_an_answer_of_ngram_words_is_indexed_alone_and_a_shorter_one_is_not(index_of):
    made, index = index_of([Item("a", "a#0", words(0, 4), words(10, 4)), Item("a", "a#1", words(20, 4), words(30, 3))])
    assert index.fields.grams.tolist() == [1, 1, 5, 1, 0, 4]
    assert made.not_checkable["reason"].to_pylist() == ["short_answer"]


def test_an_ngram_in_three_benchmarks_is_common_and_in_two_is_not(index_of):
    shared = words(100, 4)
    three = [Item(name, f"{name}#0", f"{shared} {words(20 * i, 4)}") for i, name in enumerate("abc")]
    _, index = index_of(three)
    assert index.fields.grams.tolist() == [4, 4, 4]
    _, index = index_of(three[:2])
    assert index.fields.grams.tolist() == [5, 5]


def test_a_template_in_more_than_max_matches_items_is_common_but_copies_of_one_item_are_not(index_of):
    template = words(100, 4)
    settings = dataclasses.replace(FOUR, max_matches=3)
    items = [Item("a", f"a#{i}", f"{template} {words(20 * i, 4)}") for i in range(4)]
    assert index_of(items, settings)[1].fields.grams.tolist() == [4] * 4
    assert index_of(items[:3], settings)[1].fields.grams.tolist() == [5] * 3
    copies = [Item("a", f"a#{i}", f"{template} {words(0, 4)}") for i in range(9)]
    assert index_of(copies, settings)[1].fields.grams.tolist() == [5] * 9


def test_an_item_of_nothing_but_common_ngrams_is_not_checkable(index_of):
    made, _ = index_of([Item(name, f"{name}#0", words(0, 4)) for name in "abc"])
    assert made.not_checkable["reason"].to_pylist() == ["common"] * 3
    assert made.checkable == {"a": 0, "b": 0, "c": 0}


def test_ngrams_of_boilerplate_count_for_nothing_whatever_their_spelling(index_of):
    settings = dataclasses.replace(FOUR, boilerplate=("W1, w2 -- W3 w4!", "w50 w51"))
    _, index = index_of([Item("a", "a#0", words(0, 6)), Item("a", "a#1", "w50 w51")], settings)
    assert index.fields.grams.tolist() == [2, 0]


def test_equal_items_give_equal_files_and_names_are_kept(tmp_path):
    items = [Item("bénch", "fïle.jsonl#7", words(0, 9), words(9, 9))]
    one, two = (save_index(str(tmp_path / name), items, FOUR) for name in "ab")
    assert one.digest == two.digest
    index = load_index(one.path, one.digest, FOUR)
    assert (index.benchmarks, index.names.to_pylist()) == (("bénch",), ["fïle.jsonl#7"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ngram": 5}, r"made with ngram 4, not 5; build it again with the step benchmarks"),
        ({"boilerplate": ("x",)}, r"made with boilerplate \[\], not \['x'\]"),
    ],
)
def test_an_index_of_other_settings_is_refused_in_words(tmp_path, change, message):
    made = save_index(str(tmp_path), [Item("a", "a#0", words(0, 9))], FOUR)
    with pytest.raises(DatasetError, match=message):
        load_index(made.path, made.digest, dataclasses.replace(FOUR, **change))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("FORMAT", 99, "index format 99, this penstock reads 1; build it again"),
        ("UNICODE", "3.0", "made with Unicode 3.0, this Python has .*; build it again"),
    ],
)
def test_an_index_of_another_version_is_refused_in_words(tmp_path, monkeypatch, name, value, message):
    with monkeypatch.context() as patched:
        patched.setattr(benchmark_index, name, value)
        made = save_index(str(tmp_path), [Item("a", "a#0", words(0, 9))], FOUR)
    with pytest.raises(DatasetError, match=message):
        load_index(made.path, made.digest, FOUR)


def test_a_damaged_index_is_refused(tmp_path):
    made = save_index(str(tmp_path), [Item("a", "a#0", words(0, 9))], FOUR)
    path = tmp_path / made.path.rpartition("/")[2]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"arrays": "0" * 64}))
    with pytest.raises(DatasetError, match="sha256"):
        load_index(made.path, made.digest, FOUR)


def test_no_item_at_all_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="got no item"):
        save_index(str(tmp_path), [], FOUR)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ngram": 1}, "ngram: got 1, allowed 2 to 64"),
        ({"max_matches": 0}, "max_matches: got 0"),
        ({"common_benchmarks": 1}, "common_benchmarks: got 1, allowed 2"),
        ({"min_words": 1}, "min_words: got 1"),
        ({"min_words": 14}, r"min_words: got 14, allowed 2 to ngram \(13\)"),
        ({"near_bands": 0}, "near_bands: got 0"),
        ({"near_rows": 33}, "near_rows: got 33"),
        ({"near_shingle": 11}, r"near_min_words: got 10, allowed >= near_shingle \(11\)"),
        ({"boilerplate": "x"}, "boilerplate: got one text"),
    ],
)
def test_settings_out_of_range_are_refused_in_words(settings, message):
    with pytest.raises(ConfigError, match=message):
        IndexSettings(**settings)


def test_shingle_sets_are_the_different_runs_of_each_row():
    found = folded_words(pa.array(["a b a b a", "b a", "a", ""]))
    rows, members = shingle_sets(found, 2)
    assert np.diff(rows).tolist() == [2, 1, 0, 0]  # {ab, ba}, {ba}
    assert members[2] in members[:2]
    assert np.diff(shingle_sets(found, 1)[0]).tolist() == [2, 2, 1, 0]
