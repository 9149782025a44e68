"""pytest tests/tokenization/test_bpe.py"""

import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import penstock
from penstock.errors import ConfigError, DatasetError
from penstock.tokenization import bpe
from penstock.tokenization.bpe import BPEConfig, train_bpe, train_bpe_from_table, vocabulary_size

WORDS = "the water runs down the penstock and turns the wheel; the wheel turns 1234567 times.\n\nDann dreht es: अनुच्छेद!"
TEXTS = [WORDS[i % 40 :] + " " + WORDS[: i % 61] + str(i) for i in range(300)]
SMALL = BPEConfig(vocabulary_size=360)


def pieces(text):
    return [text[start:end] for _, (start, end) in bpe.pre_tokenizer().pre_tokenize_str(text)]


def test_the_first_merges_are_the_most_frequent_pairs():
    # ab occurs 6 times, " c" 4 times, then "ab" with x 3 times
    tokenizer = train_bpe(["abx abx abx", "ab ab ab c c c c"], BPEConfig(vocabulary_size=262, min_frequency=2))
    state = json.loads(tokenizer)
    assert state["model"]["merges"][0] == ["a", "b"]
    assert ["Ġ", "c"] in state["model"]["merges"]
    assert ["x", "Ġ"] not in state["model"]["merges"]  # never across pieces


def by_the_library(texts, config):
    """What the trainer of ``tokenizers`` makes of the same settings."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = bpe.pre_tokenizer(config.digits)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary_size,
        min_frequency=config.min_frequency,
        special_tokens=[*bpe.SPECIAL, *config.special],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str(pretty=False).encode()


@pytest.mark.parametrize("digits", ["left_to_right", "right_to_left"])
@pytest.mark.parametrize("minimum", [1, 2, 7])
def test_the_file_is_that_of_the_library_s_trainer(digits, minimum):
    config = BPEConfig(vocabulary_size=600, min_frequency=minimum, special=("<|im_start|>",), digits=digits)
    assert train_bpe(TEXTS, config) == by_the_library(TEXTS, config)


# few letters make ties and runs
@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab c1!é\n", max_size=40), min_size=1, max_size=8).filter(any))
def test_merges_are_those_of_the_library_s_trainer(texts):
    config = BPEConfig(vocabulary_size=290, min_frequency=1)
    assert train_bpe(texts, config) == by_the_library(texts, config)


def test_special_tokens_come_first_then_all_bytes():
    state = json.loads(train_bpe(TEXTS, SMALL))
    vocabulary = state["model"]["vocab"]
    assert (vocabulary["<|endoftext|>"], vocabulary["<|pad|>"]) == (0, 1)
    assert [(t["id"], t["content"], t["special"]) for t in state["added_tokens"]] == [
        (0, "<|endoftext|>", True),
        (1, "<|pad|>", True),
    ]
    assert sum(len(token) == 1 for token in vocabulary) == 256
    assert len(vocabulary) == vocabulary_size(json.dumps(state).encode()) == 360
    assert state["normalizer"] is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop", ["Don", "'t", " stop"]),
        ("x=1234567", ["x", "=", "123", "456", "7"]),
        ("a  b\n    c\n\n\nd", ["a", " ", " b", "\n", "   ", " c", "\n\n\n", "d"]),
        ("end.\n\nNext", ["end", ".\n\n", "Next"]),
        ("अनुच्छेद", ["अनुच्छेद"]),
        ("a" * 130, ["a" * 64, "a" * 64, "aa"]),
        (" " * 130 + "x", [" " * 64, " " * 64, " ", " x"]),
        ("-" * 65, ["-" * 64, "-"]),
        ("<|endoftext|>", ["<|", "endoftext", "|>"]),
    ],
)
def test_text_is_split_into_short_pieces(text, expected):
    found = bpe.pre_tokenizer().pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in found] == expected


def test_the_order_of_the_texts_does_not_change_the_tokenizer():
    assert train_bpe(TEXTS, SMALL) == train_bpe(reversed(TEXTS), SMALL) == train_bpe(sorted(TEXTS), SMALL)


def test_a_sample_table_trains_the_same_tokenizer_in_any_row_order():
    table = pa.table({"id_hash": pa.array(range(300), pa.uint64()), "text": TEXTS})
    shuffled = table.take([(i * 7) % 300 for i in range(300)])
    assert train_bpe_from_table(shuffled, SMALL) == train_bpe_from_table(table, SMALL) == train_bpe(TEXTS, SMALL)


def test_threads_and_the_hash_seed_do_not_change_the_tokenizer():
    code = (
        "import hashlib, sys; from penstock.tokenization.bpe import BPEConfig, train_bpe; "
        "texts = [sys.argv[1][i % 40:] + ' ' + sys.argv[1][:i % 61] + str(i) for i in range(300)]; "
        "print(hashlib.sha256(train_bpe(texts, BPEConfig(vocabulary_size=360))).hexdigest())"
    )
    root = str(Path(penstock.__path__[0]).parent)
    for threads, parallel, seed in (("1", "true", "1"), ("4", "false", "2")):
        env = {
            **os.environ,
            "PYTHONPATH": root,
            "RAYON_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": parallel,
            "PYTHONHASHSEED": seed,
        }
        run = subprocess.run([sys.executable, "-c", code, WORDS], env=env, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == hashlib.sha256(train_bpe(TEXTS, SMALL)).hexdigest()


def test_special_tokens_in_the_sample_are_learned_as_text_and_not_as_control_tokens():
    state = json.loads(train_bpe(["<|endoftext|>"] * 50, BPEConfig(vocabulary_size=300)))
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.encode_special_tokens = True
    assert tokenizer.encode("<|endoftext|>").tokens == ["<|", "endoftext", "|>"]


def test_a_long_line_without_a_space_is_learned_like_short_ones():
    long = train_bpe(["ab" * 200_000], BPEConfig(vocabulary_size=270))
    assert json.loads(long)["model"]["merges"][0] == ["a", "b"]


def test_a_sample_too_small_for_the_vocabulary_says_how_many_tokens_there_are(caplog):
    with caplog.at_level(logging.WARNING):
        tokenizer = train_bpe(["abab abab"], BPEConfig(vocabulary_size=5000))
    found = vocabulary_size(tokenizer)
    assert 258 < found < 270
    assert f"tokenizer: {found} tokens, fewer than the 5000 asked for" in caplog.text


def test_a_full_vocabulary_is_not_reported(caplog):
    train_bpe(TEXTS, SMALL)
    assert caplog.text == ""


def test_pairs_below_the_minimum_frequency_are_not_merged():
    assert vocabulary_size(train_bpe(["ab ab ab"], BPEConfig(vocabulary_size=300, min_frequency=4))) == 258
    assert vocabulary_size(train_bpe(["ab ab ab"], BPEConfig(vocabulary_size=300, min_frequency=3))) == 259


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"vocabulary_size": 257}, "vocabulary_size: got 257, allowed 258"),
        ({"vocabulary_size": 2**31}, "vocabulary_size: got 2147483648, allowed 258"),
        ({"min_frequency": 0}, "min_frequency: got 0, allowed >= 1"),
    ],
)
def test_a_config_out_of_range_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        BPEConfig(**config)


def test_the_smallest_vocabulary_is_bytes_and_special_tokens():
    assert vocabulary_size(train_bpe(["abab"], BPEConfig(vocabulary_size=258))) == 258


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_an_empty_sample_is_refused(texts):
    with pytest.raises(DatasetError, match=f"got {len(texts)} documents with no text.*raise the sample size"):
        train_bpe(texts, SMALL)


def test_an_empty_table_is_refused():
    table = pa.table({"id_hash": pa.array([], pa.uint64()), "text": pa.array([], pa.string())})
    with pytest.raises(DatasetError, match="got 0 documents with no text"):
        train_bpe_from_table(table, SMALL)


def test_a_sample_without_its_columns_is_refused():
    with pytest.raises(DatasetError, match=r"tokenizer sample: missing column\(s\) text; found id_hash"):
        train_bpe_from_table(pa.table({"id_hash": [1]}), SMALL)


def test_the_vocabulary_size_counts_gaps_added_tokens_and_models_of_other_kinds():
    gaps = Tokenizer(models.BPE({"a": 0, "b": 9}, []))
    assert vocabulary_size(gaps.to_str().encode()) == 10
    unigram = Tokenizer(models.Unigram([("a", -1.0), ("b", -2.0)], 0))
    assert vocabulary_size(unigram.to_str().encode()) == 2
    unigram.add_special_tokens(["<s>"])
    assert vocabulary_size(unigram.to_str().encode()) == 3


def test_configured_special_tokens_follow_and_their_letters_are_not_merged():
    texts = ["<|im_start|>user\nthe wheel<|im_end|>\n"] * 50
    plain = json.loads(train_bpe(texts, BPEConfig(vocabulary_size=360)))["model"]["vocab"]
    state = json.loads(train_bpe(texts, BPEConfig(vocabulary_size=360, special=("<|im_start|>", "<|im_end|>"))))
    assert [(t["id"], t["content"], t["special"]) for t in state["added_tokens"][2:]] == [
        (2, "<|im_start|>", True),
        (3, "<|im_end|>", True),
    ]
    assert "im" in plain
    assert "im" not in state["model"]["vocab"]
    assert "user" in state["model"]["vocab"]


def test_the_longest_special_token_is_cut_out():
    pattern = bpe.special_pattern(["<a", "<a>", "b|"])
    assert pattern.split("x<a>yb|<a") == ["x", "<a>", "y", "b|", "", "<a", ""]
    assert bpe.special_pattern([]) is None


@pytest.mark.parametrize("special", [("<|a|>", "<|a|>"), ("",), ("<|pad|>",)])
def test_special_tokens_are_different_and_not_there_yet(special):
    with pytest.raises(ConfigError, match=r"special: got .*, allowed different texts that are not empty, without <"):
        BPEConfig(special=special)


def test_special_tokens_need_room():
    with pytest.raises(ConfigError, match=r"got 259, allowed 260 \(every byte and 4 special tokens\)"):
        BPEConfig(vocabulary_size=259, special=("<|a|>", "<|b|>"))
