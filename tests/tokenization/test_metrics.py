"""pytest tests/tokenization/test_metrics.py"""

import functools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from penstock.errors import ConfigError, DatasetError
from penstock.tokenization import bpe, metrics

TABLE = pa.table(
    {
        "text": ["one two", "été", "", "漢字 a", "x"],
        "domain": ["web", "web", "code", "books", "web"],
        "tokens": pa.array([3, 4, 1, 5, 2], pa.int32()),
    }
)


def test_figures_are_counted_by_domain_without_the_end_token():
    assert metrics.by_domain(TABLE).to_pylist() == [
        {
            "domain": "books",
            "documents": 1,
            "bytes": 8,
            "characters": 4,
            "words": 2,
            "tokens": 4,
            "bytes_per_token": 2.0,
            "tokens_per_word": 2.0,
        },
        {
            "domain": "code",
            "documents": 1,
            "bytes": 0,
            "characters": 0,
            "words": 0,
            "tokens": 0,
            "bytes_per_token": None,
            "tokens_per_word": None,
        },
        {
            "domain": "web",
            "documents": 3,
            "bytes": 13,
            "characters": 11,
            "words": 4,
            "tokens": 6,
            "bytes_per_token": 13 / 6,
            "tokens_per_word": 1.5,
        },
    ]


def test_all_domains_together_are_one_row_of_sums():
    row = metrics.overall(metrics.by_domain(TABLE)).to_pylist()
    assert row == [
        {
            "domain": "all",
            "documents": 5,
            "bytes": 21,
            "characters": 15,
            "words": 6,
            "tokens": 10,
            "bytes_per_token": 2.1,
            "tokens_per_word": 10 / 6,
        }
    ]


@given(st.permutations(range(5)), st.integers(0, 5))
def test_figures_of_parts_merge_into_those_of_the_whole(order, cut):
    table = TABLE.take(list(order))
    parts = [metrics.by_domain(table.slice(0, cut)), metrics.by_domain(table.slice(cut))]
    assert metrics.merge(parts).equals(metrics.by_domain(TABLE))


def test_no_rows_give_no_domains_and_an_empty_total():
    figures = metrics.by_domain(TABLE.slice(0, 0))
    assert figures.schema == metrics.FIGURES
    assert figures.num_rows == 0
    assert metrics.merge([]).num_rows == 0
    assert metrics.overall(figures).to_pylist()[0]["bytes_per_token"] is None


@given(
    st.text(st.characters(codec="utf-8")) | st.text("a \t\n\x0b\x0c\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2028\u3000\u200b.")
)
@example("\u2029a\u202fb\u205fc\u2003d")
def test_words_are_those_of_python_split(text):
    table = pa.table({"text": [text], "domain": ["a"], "tokens": pa.array([1])})
    assert metrics.by_domain(table)["words"].to_pylist() == [len(text.split())]


def test_a_table_without_its_columns_is_refused():
    with pytest.raises(DatasetError, match=r"tokenizer figures: missing column\(s\) tokens"):
        metrics.by_domain(TABLE.drop_columns("tokens"))


def test_rows_without_tokens_are_refused():
    table = pa.table({"text": ["a"], "domain": ["a"], "tokens": pa.array([None], pa.int32())})
    with pytest.raises(DatasetError, match="got 1 rows without tokens"):
        metrics.by_domain(table)


def test_ids_are_counted_in_slices_and_chunks():
    lists = pa.array([[7], [0, 2, 2], [], [3]], pa.list_(pa.uint16())).slice(1)
    assert metrics.count_ids(lists, 5).tolist() == [1, 0, 2, 1, 0]
    assert metrics.count_ids(pa.chunked_array([lists, lists.slice(1)]), 5).tolist() == [1, 0, 2, 2, 0]
    assert metrics.count_ids(lists.slice(0, 0), 3).tolist() == [0, 0, 0]


def test_the_share_of_the_vocabulary_counts_ids_that_occur():
    assert metrics.vocabulary_share(np.array([5, 0, 1, 0])) == 0.5
    assert metrics.vocabulary_share(np.array([], dtype=np.int64)) == 0.0


def test_ids_of_another_vocabulary_are_refused():
    with pytest.raises(DatasetError, match="token ids: got 7, allowed 0 to 4"):
        metrics.count_ids(pa.array([[7]], pa.list_(pa.uint16())), 5)


@functools.cache
def tokenizer():
    return bpe.train_bpe(["wheel wheel wheel 漢 漢 漢 été été"], bpe.BPEConfig(vocabulary_size=400))


def test_the_longest_tokens_in_use_come_first():
    ids = Tokenizer.from_buffer(tokenizer()).get_vocab()
    counts = np.zeros(bpe.vocabulary_size(tokenizer()), dtype=np.int64)
    counts[[ids["Ġwheel"], ids["wheel"], ids["Ġ"], 0]] = [2, 1, 9, 4]
    assert metrics.longest_tokens(tokenizer(), counts, 2) == [
        metrics.LongToken(token_id=ids["Ġwheel"], text=" wheel", bytes=6, used=2),
        metrics.LongToken(token_id=ids["wheel"], text="wheel", bytes=5, used=1),
    ]
    # special tokens and tokens that were not used are no part of it
    assert [token.text for token in metrics.longest_tokens(tokenizer(), counts)] == [" wheel", "wheel", " "]


def test_a_token_of_bytes_that_are_no_character_is_shown_as_such():
    ids = Tokenizer.from_buffer(tokenizer()).get_vocab()
    counts = np.zeros(len(ids), dtype=np.int64)
    counts[ids["Ã"]] = 1
    assert [(token.text, token.bytes) for token in metrics.longest_tokens(tokenizer(), counts)] == [("\ufffd", 1)]


def test_a_tokenizer_that_is_not_byte_level_is_refused():
    other = Tokenizer(models.BPE({"a": 0}, []))
    with pytest.raises(ConfigError, match="without a ByteLevel decoder"):
        metrics.longest_tokens(other.to_str().encode(), np.array([1]))
    other.decoder = decoders.ByteLevel()
    assert [token.text for token in metrics.longest_tokens(other.to_str().encode(), np.array([1]))] == ["a"]
