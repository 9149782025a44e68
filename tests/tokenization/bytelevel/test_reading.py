"""pytest tests/tokenization/bytelevel/test_reading.py"""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from penstock.errors import ConfigError
from penstock.tokenization.bytelevel.reading import BYTE_OF, backend, read_rules
from penstock.tokenization.bytelevel.tokenizer import ByteTokenizer

ALPHABET = {character: byte for character, byte in BYTE_OF.items()}


def byte_bpe(**model):
    tokenizer = Tokenizer(models.BPE(vocab=dict(ALPHABET), merges=[], **model))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def with_normaliser(normaliser):
    tokenizer = byte_bpe()
    tokenizer.normalizer = normaliser
    return tokenizer


def with_stage(stage):
    tokenizer = byte_bpe()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([stage, tokenizer.pre_tokenizer])
    return tokenizer


def without_a_byte():
    tokenizer = Tokenizer(models.BPE(vocab={c: b for c, b in ALPHABET.items() if b != 0x41}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def behind_byte_level():
    tokenizer = byte_bpe()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([tokenizer.pre_tokenizer, pre_tokenizers.Digits()])
    return tokenizer


def with_prefix_space():
    tokenizer = byte_bpe()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def with_added(**flags):
    tokenizer = byte_bpe()
    tokenizer.add_tokens([AddedToken("<x>", **flags)])
    return tokenizer


REFUSED = {
    "Unigram": lambda: Tokenizer(models.Unigram([("a", -1.0)], unk_id=None)),
    "WordLevel": lambda: Tokenizer(models.WordLevel({"a": 0}, unk_token="a")),
    "no byte alphabet": lambda: Tokenizer(models.BPE(vocab={"a": 0}, merges=[])),
    "without the byte 41": without_a_byte,
    "normaliser Lowercase": lambda: with_normaliser(normalizers.Lowercase()),
    "normaliser NFKC": lambda: with_normaliser(normalizers.Sequence([normalizers.NFC(), normalizers.NFKC()])),
    "normaliser Strip": lambda: with_normaliser(normalizers.Strip()),
    "pre-tokenizer Whitespace": lambda: with_stage(pre_tokenizers.Whitespace()),
    "pre-tokenizer Split with behavior Removed": lambda: with_stage(pre_tokenizers.Split(" ", "removed")),
    "pre-tokenizer CharDelimiterSplit": lambda: with_stage(pre_tokenizers.CharDelimiterSplit("a")),
    "pre-tokenizer Digits behind ByteLevel": behind_byte_level,
    "ByteLevel with add_prefix_space": with_prefix_space,
    "BPE dropout": lambda: byte_bpe(dropout=0.1),
    "added token '<x>' with lstrip": lambda: with_added(lstrip=True),
    "added token '<x>' with single_word": lambda: with_added(single_word=True),
}


@pytest.mark.parametrize("named", REFUSED)
def test_what_cannot_be_followed_is_refused_by_its_name(named):
    with pytest.raises(ConfigError, match=named):
        ByteTokenizer.of(REFUSED[named]())


def test_a_tokenizer_comes_from_a_file_its_folder_an_object_or_transformers(tmp_path):
    made = byte_bpe()
    made.save(str(tmp_path / "tokenizer.json"))
    for given in (
        tmp_path,
        str(tmp_path / "tokenizer.json"),
        made,
        PreTrainedTokenizerFast(tokenizer_object=made),
    ):
        assert read_rules(backend(given)).tokens == {byte: bytes([byte]) for byte in range(256)}


def test_what_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        backend(tmp_path / "missing.json")
    with pytest.raises(ConfigError, match="got int"):
        backend(3)


def test_special_tokens_in_a_text_are_text_unless_asked_for():
    made = byte_bpe()
    made.add_special_tokens(["<s>"])
    tokenizer = ByteTokenizer.of(made)
    assert tokenizer.encode("<s>a") == [*b"<s>a"]
    assert tokenizer.encode("<s>a", special=True) == [256, *b"a"]
    assert tokenizer.encode("<s>a") == [*b"<s>a"]
    assert made.encode("<s>").ids == [256]  # the one that was given is as it was
