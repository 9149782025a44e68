"""Length, language, copies of the seed set, and benchmarks: each item by its own reason."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError
from penstock.generators.gates.contamination import index_benchmarks
from penstock.generators.gates.language import Language
from penstock.generators.gates.length import Length
from penstock.generators.gates.seeds import SeedCopies
from penstock.generators.items import Item
from penstock.pipelines.decontaminate import BenchmarkFiles
from penstock.sources.files import FileEntry

QUESTION = "A farmer plants 14 rows of 23 cabbages each and sells 57 of them at the market. How many are left?"
ALONE = "An answer alone, without its question, that is long enough to be looked for in other texts."


def texts(*given):
    return [Item(text=text) for text in given]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n—!", "empty"),
        (" abcd ", "too_short"),
        ("abcde", None),
        ("abcdefgh", None),
        ("a" * 9, "too_long"),
    ],
)
def test_length_counts_characters_without_the_space_around_them(text, reason):
    assert Length(min_characters=5, max_characters=8).judge(texts(text)) == [reason]


def test_lengths_that_nothing_has_are_refused():
    with pytest.raises(ConfigError, match="length: got 9 to 8 characters"):
        Length(min_characters=9, max_characters=8)


def test_another_language_is_stopped_and_a_formula_has_none():
    gate = Language(languages=("en",))
    found = gate.judge(
        texts(
            "The river is wide and the boats are small, so crossing it takes half a day.",
            "Der Fluss ist breit und die Boote sind klein, also dauert die Überfahrt einen halben Tag.",
            "河很宽，船很小，所以过河要花半天时间，船夫们总是一边划船一边唱着古老的歌谣，直到对岸的灯火亮起来为止。",
            "12 + 5 = ?",
            "Der Fluss",
        )
    )
    assert found == [None, "language_not_allowed", "language_not_allowed", None, None]
    assert (
        Language(languages=("en", "de")).judge(texts("Der Fluss ist breit und die Boote sind klein und alt."))[0]
        is None
    )
    assert gate.judge([]) == []
    with pytest.raises(ConfigError, match="languages"):
        Language(languages=("english",))


def test_copies_of_seeds_are_stopped_exact_and_near():
    gate = SeedCopies(seeds=(QUESTION, "Two plus two?"))
    near = QUESTION.replace("How many are left?", "How many does he have left?")
    other = "A baker makes 14 trays of 23 rolls each and sells 57 of them at the fair. How many remain unsold today?"
    found = gate.judge(texts(QUESTION.upper(), near, other, "two  plus TWO?", "Two plus three?", ""))
    assert found == ["copy_of_seed", "near_copy_of_seed", None, "copy_of_seed", None, None]
    assert SeedCopies(seeds=()).judge(texts(QUESTION)) == [None]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 25), min_size=3, max_size=30), st.lists(st.integers(0, 25), min_size=3, max_size=30))
def test_near_copies_are_those_of_a_high_jaccard_similarity(one, other):
    def runs(words):
        return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}

    # the second begins as the first, so that all similarities come up
    other = one[: len(other)] + other[: len(one) // 3]
    alike = len(runs(one) & runs(other)) / len(runs(one) | runs(other))
    said = [" ".join(f"word{n}" for n in words) for words in (one, other)]
    (found,) = SeedCopies(seeds=(said[0],), jaccard=0.6).judge(texts(said[1]))
    if one == other:
        assert found == "copy_of_seed"
    elif alike < 0.6:
        assert found is None
    elif alike >= 0.9:  # missed with a probability below 10^-12
        assert found == "near_copy_of_seed"


def test_similarities_that_bands_do_not_find_are_refused():
    with pytest.raises(ConfigError, match=r"jaccard 0.2 and ngram 3, allowed 0.5 to 1"):
        SeedCopies(seeds=(), jaccard=0.2)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    rows = [
        {
            "q": QUESTION,
            "a": "The farmer has 14 times 23 minus 57 cabbages, which is two hundred and sixty five of them.",
        },
        {"q": "Name the capital of the country whose flag shows a maple leaf.", "a": "Ottawa"},
        {"q": None, "a": ALONE},
    ]
    with gzip.open(folder / "test.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    files = BenchmarkFiles(name="sums", entries=(FileEntry(path=str(folder)),), question="q", answer="a")
    return index_benchmarks(str(folder / "index"), [files])


def test_an_item_of_a_benchmark_is_stopped_in_question_answer_or_both(benchmark):
    benchmark.setup()
    found = benchmark.judge(
        [
            Item(text=f"Here is a sum. {QUESTION}", answer="265"),
            Item(text=QUESTION.replace("cabbages", "lettuces").replace("57", "58")),
            Item(text="What is written there?", answer=ALONE),
            Item(text="Name the capital of the country whose flag shows a maple leaf."),
            Item(text="A farmer has 3 cows and buys 4 more at the market. How many cows are on the farm?", answer="7"),
        ]
    )
    assert found == ["contaminated:sums"] * 4 + [None]
    assert benchmark.judge([]) == []
