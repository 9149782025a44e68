"""pytest tests/tokenization/test_superbpe.py"""

import json

import pytest
from tokenizers import Tokenizer, pre_tokenizers

from penstock.errors import ConfigError
from penstock.tokenization.bpe import BPEConfig, train_bpe
from penstock.tokenization.superbpe import SuperBPEConfig, superbpe

TEXTS = [f"by the way of the river: 1234567 {i} times, by the way\n" for i in range(40)]


def first(**options):
    return train_bpe(TEXTS, BPEConfig(vocabulary_size=290, **options))


def made(content, old):
    new = set(json.loads(content)["model"]["vocab"]) - set(json.loads(old)["model"]["vocab"])
    return {name.replace("Ġ", " ") for name in new}


def test_words_are_joined_and_text_takes_fewer_tokens():
    old = first()
    new = superbpe(old, TEXTS, SuperBPEConfig(vocabulary_size=330))
    assert "by the way" in made(new, old)
    before, after = Tokenizer.from_buffer(old), Tokenizer.from_buffer(new)
    assert len(after.encode(TEXTS[3]).ids) < len(before.encode(TEXTS[3]).ids)
    assert after.decode(after.encode(TEXTS[3]).ids) == TEXTS[3]
    assert {name: after.token_to_id(name) for name in before.get_vocab()} == before.get_vocab()


def test_no_token_holds_too_many_words_or_a_colon_among_words():
    old = first()
    joined = made(superbpe(old, TEXTS, SuperBPEConfig(vocabulary_size=400, max_words=3)), old)
    assert max(len(name.split()) for name in joined) == 3
    assert not any(":" in name for name in joined if len(name.split()) > 1)
    free = made(superbpe(old, TEXTS, SuperBPEConfig(vocabulary_size=400, max_words=99, apart=b"")), old)
    assert max(len(name.split()) for name in free) > 4
    assert any(":" in name for name in free if len(name.split()) > 1)


def test_one_word_is_the_first_stage_alone():
    old = first()
    joined = made(superbpe(old, TEXTS, SuperBPEConfig(vocabulary_size=400, max_words=1)), old)
    assert all(len(name.split()) <= 1 for name in joined)


def test_digits_stay_grouped_as_the_first_stage_had_them():
    for digits, expected in (("left_to_right", ["123", "456", "7"]), ("right_to_left", ["1", "234", "567"])):
        new = Tokenizer.from_buffer(superbpe(first(digits=digits), TEXTS, SuperBPEConfig(vocabulary_size=330)))
        pieces = [piece for piece, _ in new.pre_tokenizer.pre_tokenize_str("river 1234567 times")]
        assert pieces == ["riverĠ", *expected, "Ġtimes"]


def test_the_order_of_the_texts_changes_nothing():
    config = SuperBPEConfig(vocabulary_size=330)
    assert superbpe(first(), TEXTS, config) == superbpe(first(), reversed(TEXTS), config)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match="max_words: got 0, allowed >= 1"):
        SuperBPEConfig(vocabulary_size=330, max_words=0)
    state = {**json.loads(first()), "pre_tokenizer": json.loads(pre_tokenizers.ByteLevel().__getstate__())}
    with pytest.raises(ConfigError, match="puts a space in front of text"):
        superbpe(json.dumps(state).encode(), TEXTS, SuperBPEConfig(vocabulary_size=330))
