"""Measures of tokenizers: published values, hand examples, and the laws that each of them obeys."""

import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, InputError
from penstock.tokenization.measures import (
    Lexicon,
    gini,
    renyi_efficiency,
    renyi_entropy,
    spaceless,
    word_counts,
)

# the two examples that tokenization-scorer's own tests are made of
FIRST = Counter(["pick", "@@ed", "pick", "@@l", "@@ed", "pick", "@@les"])
SECOND = Counter(["pick", "@@e", "@@d", "pick", "@@l", "@@e", "@@d", "pick", "@@l", "@@e", "@@s"])


@pytest.mark.parametrize(
    ("counts", "efficiency", "entropy", "shannon"),
    [
        (FIRST, 0.8265064834225245, 1.653012966845049, 0.9211854965885544),
        (SECOND, 0.9204840242168808, 2.1372977167241545, 0.9609557933859342),
    ],
)
def test_renyi_gives_the_values_of_tokenization_scorers_tests(counts, efficiency, entropy, shannon):
    held = list(counts.values())
    assert renyi_efficiency(held, 2.5) == pytest.approx(efficiency, abs=1e-12)
    assert renyi_entropy(held, 2.5) == pytest.approx(entropy, abs=1e-12)
    assert renyi_efficiency(held, 1) == pytest.approx(shannon, abs=1e-12)


def test_renyi_efficiency_depends_on_which_vocabulary_is_meant():
    assert renyi_efficiency([1, 1, 0, 0], 2.5) == 1.0  # observed: two types
    assert renyi_efficiency([1, 1, 0, 0], 2.5, 4) == 0.5  # nominal: four
    with pytest.raises(ConfigError, match="fewer than the 3 types"):
        renyi_efficiency([1, 1, 1], 2.5, 2)


@settings(deadline=None)
@given(st.integers(2, 60), st.floats(0.2, 8))
def test_renyi_efficiency_of_a_uniform_distribution_is_one(types, alpha):
    assert renyi_efficiency([7] * types, alpha) == pytest.approx(1.0)


@settings(deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30).filter(any))
def test_renyi_entropy_falls_with_its_order_and_meets_shannons_at_one(counts):
    low, at, high = (renyi_entropy(counts, alpha) for alpha in (1 - 1e-6, 1.0, 1 + 1e-6))
    assert low == pytest.approx(at, abs=1e-4)
    assert high == pytest.approx(at, abs=1e-4)
    assert renyi_entropy(counts, 3.0) <= renyi_entropy(counts, 0.5) + 1e-9


def test_one_type_has_no_efficiency_and_no_text_no_entropy():
    assert renyi_efficiency([5], 2.5) is None
    assert renyi_entropy([0, 0], 2.5) == 0.0
    with pytest.raises(ConfigError, match="alpha"):
        renyi_entropy([1], 0)


def test_gini_of_the_parity_column_that_is_published():
    assert gini([1.00, 1.91, 1.74, 2.30, 4.54, 4.70, 2.54, 2.60]) == pytest.approx(0.2474, abs=5e-5)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=25))
def test_gini_is_the_double_sum_of_differences(costs):
    n, total = len(costs), sum(costs)
    double = sum(abs(a - b) for a in costs for b in costs)
    assert gini(costs) == pytest.approx(double / (2 * n * total) if total else 0.0, abs=1e-9)


def test_gini_of_equal_costs_is_zero_and_of_none_is_refused():
    assert gini([3.0] * 7) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ConfigError, match="costs"):
        gini([])
    with pytest.raises(ConfigError, match="costs"):
        gini([1.0, -1.0])


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab \t\n\x0b\x1c\x85\u00a0\u2028\u3000é", max_size=20), max_size=6))
def test_words_are_what_str_split_gives(texts):
    words, counts = word_counts(pa.array(texts, pa.string()))
    assert dict(zip(words, counts.tolist(), strict=True)) == Counter(w for text in texts for w in text.split())


def test_words_of_no_chunk_at_all_are_none():
    words, counts = word_counts(pa.chunked_array([], pa.string()))
    assert words == []
    assert counts.tolist() == []


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("威尔士国民议会议员(AM)担心看起来像笨蛋", True),
        ("これは日本語です", True),
        ("สมาชิกสมัชชาของเวลล์มีความกังวล", True),
        ("An English text about 東京", False),
        ("वेल्श के AM", False),
        ("12 34 56", False),
        ("", False),
    ],
)
def test_text_without_spaces_between_words_is_found_by_its_script(text, without):
    assert spaceless(pa.array([text])) is without


def test_a_lexicon_counts_words_and_morphemes_apart(tmp_path):
    path = tmp_path / "lexicon.txt"
    path.write_text("evlerim\tev ler im\nHOUSE\thouse\n\ncafe\u0301\n", encoding="utf-8")
    lexicon = Lexicon.read(str(path))
    assert lexicon.words == {"evlerim", "house", "caf\u00e9"}
    # house is a word and a morpheme; ev, ler are morphemes alone; xx is neither; café has no morphemes given
    tokens = [" house", "ev", "LER", "xx", "caf\u00e9"]
    assert lexicon.word_share(tokens) == pytest.approx(2 / 5)
    assert lexicon.pure_share(tokens) == pytest.approx(3 / 5)
    assert lexicon.word_share([]) is None


def test_a_lexicon_without_morphemes_has_no_purity(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("a\nb\n", encoding="utf-8")
    assert Lexicon.read(str(path)).pure_share(["a"]) is None


@pytest.mark.parametrize("content", [b"", b"\n  \n\t x\n", b"\xff\xfe\x00"])
def test_a_lexicon_that_is_empty_or_no_text_is_refused(tmp_path, content):
    path = tmp_path / "lexicon.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="lexicon"):
        Lexicon.read(str(path))


def test_a_lexicon_that_is_not_there_is_refused():
    with pytest.raises(InputError, match=r"cannot be read"):
        Lexicon.read("/nowhere/lexicon.txt")


def test_gini_grows_as_one_bears_more():
    found = [gini([1, 1, 1, x]) for x in (1, 2, 4, 1e9)]
    assert np.all(np.diff(found) > 0)
    assert found[-1] == pytest.approx(3 / 4, abs=1e-6)
    assert math.isfinite(found[-1])
