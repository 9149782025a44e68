"""Tokens as the bytes they stand for, and byte strings as the tokens that spell them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from penstock.errors import ConfigError, InputError
from penstock.tokenization.dynamic.vocabulary import BaseVocabulary, byte_alphabet
from penstock.tokenization.loading import of_bytes


def spelled(base, token):
    ids, _ = base.spell([token])
    return ids.tolist()


def test_the_byte_alphabet_is_the_one_of_the_library():
    from tokenizers import pre_tokenizers

    assert set(byte_alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))
    cutter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in (" é", "\n\t", "你\u00a0"):
        written = cutter.pre_tokenize_str(text)[0][0]
        assert bytes(byte_alphabet()[letter] for letter in written) == text.encode()


@settings(deadline=None, max_examples=40)
@given(st.text())
def test_the_bytes_of_a_byte_level_encoding_are_the_text(base, text):
    ids, _ = base.encode([text])
    assert base.join(ids) == text.encode()


def test_a_sentencepiece_encoding_begins_with_the_space_that_the_tokenizer_puts_in_front(pieces_base):
    ids, offsets = pieces_base.encode(["low tower", "héé"])
    assert pieces_base.join(ids[: offsets[1]]) == b" low tower"
    assert pieces_base.join(ids[offsets[1] :]) == " héé".encode()


def test_special_and_unknown_tokens_have_no_bytes(base, pieces_base, unigram_base):
    assert base.tokens[0] is None
    assert base.tokens[1] is None
    assert pieces_base.tokens[:3] == [None, None, None]
    assert unigram_base.tokens[0] is None
    ids, _ = unigram_base.encode(["low 你"])
    assert unigram_base.join(ids) == b" low "


def test_markers_and_special_tokens_are_added_only_when_asked_for(pieces_base):
    plain, _ = pieces_base.encode(["low</s>"])
    assert 1 not in plain
    assert 2 not in plain
    marked, _ = pieces_base.encode(["low</s>"], markers=True, parse_special=True)
    assert marked[0] == 1
    assert 2 in marked


@settings(deadline=None, max_examples=40)
@given(st.binary(min_size=1, max_size=12))
def test_any_bytes_have_a_spelling_that_spells_them(base, pieces_base, token):
    for one in (base, pieces_base):
        ids = spelled(one, token)
        assert one.join(ids) == token


def test_a_spelling_is_what_the_tokenizer_makes_of_the_string_alone(base, pieces_base):
    expected = base.loaded.tokenizer.encode(" lowest", add_special_tokens=False).ids
    assert spelled(base, b" lowest") == expected
    # without a second space in front
    lower = pieces_base.loaded.tokenizer.encode("lower", add_special_tokens=False).ids
    assert spelled(pieces_base, b" lower") == lower
    assert len(lower) == 2


def test_a_base_token_that_the_tokenizer_reaches_spells_itself(base):
    ids, _ = base.encode(["the low tower and the lower town"])
    for number in set(ids.tolist()):
        assert spelled(base, base.tokens[number]) == [number]


def test_a_string_that_the_vocabulary_cannot_write_has_no_spelling(unigram_base):
    assert spelled(unigram_base, "你".encode()) == []
    assert spelled(unigram_base, b"\xff") == []


def test_a_prefix_space_of_the_pre_tokenizer_is_left_out_of_spellings(base):
    state = json.loads(base.loaded.content)
    state["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    spaced = BaseVocabulary(of_bytes(json.dumps(state).encode(), "spaced"))
    assert spaced.join(spaced.encode(["low"])[0]) == b" low"
    assert spaced.join(spelled(spaced, b"low")) == b"low"


def test_a_vocabulary_without_bytes_is_refused_by_name():
    made = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    with pytest.raises(ConfigError, match="WordPiece"):
        BaseVocabulary(of_bytes(made.to_str().encode(), "w"))


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        BaseVocabulary.load(str(tmp_path))


def test_a_replaced_space_stays_replaced_where_there_is_a_pre_tokenizer_too(pieces_base):
    # as Gemma: spaces are replaced by the normaliser, and a pre-tokenizer cuts at spaces that are no longer there
    state = json.loads(pieces_base.loaded.content)
    state["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    state["pre_tokenizer"] = split
    gemma = BaseVocabulary(of_bytes(json.dumps(state).encode(), "gemma"))
    assert spelled(gemma, b" lower") == spelled(pieces_base, b" lower")
    assert len(spelled(gemma, b" lower")) == 2
