"""pytest tests/tokenization/test_extend.py"""

import json
import logging

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from penstock.errors import ConfigError, DatasetError, InputError
from penstock.tokenization.bpe import BPEConfig, train_bpe, vocabulary_size
from penstock.tokenization.extend import ExtendConfig, extend

WORDS = "the water runs down the penstock and turns the wheel; the wheel turns 1234567 times.\n\nDann dreht es: अनुच्छेद!"
TEXTS = [WORDS[i % 40 :] + " " + WORDS[: i % 61] + str(i) for i in range(300)]
NEW = ["turbine turbine turbines, turbiné"] * 5


def merges_of(content):
    return [tuple(merge) for merge in json.loads(content)["model"]["merges"]]


def vocabulary_of(content):
    return json.loads(content)["model"]["vocab"]


def gpt2_like(**options):
    """A byte-level tokenizer of the library's trainer with GPT-2's split, and added tokens after its vocabulary."""
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens(["<|end|>", "<|user|>"])
    tokenizer.add_tokens([AddedToken("Penstock", normalized=False)])
    return tokenizer


def test_going_on_with_the_same_text_is_training_longer():
    longer = train_bpe(TEXTS, BPEConfig(vocabulary_size=400))
    for first in (258, 259, 300, 399):
        short = train_bpe(TEXTS, BPEConfig(vocabulary_size=first))
        assert extend(short, reversed(TEXTS), ExtendConfig(vocabulary_size=400)) == longer


def test_old_ids_and_merges_stay_and_new_text_gets_shorter():
    old = train_bpe(TEXTS, BPEConfig(vocabulary_size=360))
    new = extend(old, NEW, ExtendConfig(vocabulary_size=368))
    assert merges_of(new)[: len(merges_of(old))] == merges_of(old)
    assert {name: vocabulary_of(new)[name] for name in vocabulary_of(old)} == vocabulary_of(old)
    assert sorted(vocabulary_of(new).values()) == list(range(368))
    before, after = Tokenizer.from_buffer(old), Tokenizer.from_buffer(new)
    assert len(after.encode(NEW[0]).ids) < len(before.encode(NEW[0]).ids)
    assert after.decode(after.encode(NEW[0]).ids) == NEW[0]


def test_a_tokenizer_of_another_split_keeps_the_ids_of_its_added_tokens():
    old = gpt2_like()
    new = Tokenizer.from_buffer(extend(old.to_str().encode(), NEW, ExtendConfig(vocabulary_size=340)))
    assert new.get_vocab_size() == 340
    assert {name: new.token_to_id(name) for name in old.get_vocab()} == old.get_vocab()
    text = "<|user|>the turbine and the Penstock<|end|>"
    assert new.token_to_id("Penstock") in new.encode(text).ids
    assert new.decode(new.encode(text).ids, skip_special_tokens=False) == text
    assert len(new.encode(NEW[0]).ids) < len(old.encode(NEW[0]).ids)


def test_text_is_normalised_before_it_is_learned():
    old = gpt2_like()
    old.normalizer = normalizers.Lowercase()
    new = extend(old.to_str().encode(), ["TURBINE"] * 9, ExtendConfig(vocabulary_size=345))
    made = set(vocabulary_of(new)) - set(old.get_vocab())
    assert "turbine" in made
    assert all(name == name.lower() for name in made)


def test_merges_written_as_one_text_stay_so():
    state = json.loads(gpt2_like().to_str())
    state["model"]["merges"] = [" ".join(merge) for merge in state["model"]["merges"]]
    new = json.loads(extend(json.dumps(state).encode(), NEW, ExtendConfig(vocabulary_size=340)))
    assert all(isinstance(merge, str) for merge in new["model"]["merges"])
    assert len(new["model"]["merges"]) == len(state["model"]["merges"]) + 7
    assert Tokenizer.from_str(json.dumps(new)).get_vocab_size() == 340


def test_a_merge_that_is_refused_is_not_made():
    old = train_bpe(TEXTS, BPEConfig(vocabulary_size=360))
    asked = []

    def permit(left, right):
        asked.append((left, right))
        return b"b" not in left + right

    new = extend(old, NEW, ExtendConfig(vocabulary_size=368, permit=permit))
    made = merges_of(new)[len(merges_of(old)) :]
    assert made
    assert not any("b" in left + right for left, right in made)
    assert any(b"b" in left + right for left, right in asked)
    assert len(set(asked)) == len(asked)
    # a refusal of pairs that never come changes nothing
    idle = ExtendConfig(vocabulary_size=368, permit=lambda left, right: b"#" not in left + right)
    assert extend(old, NEW, idle) == extend(old, NEW, ExtendConfig(vocabulary_size=368))


def test_pieces_that_are_tokens_as_a_whole_are_not_learned_again():
    state = json.loads(gpt2_like().to_str())
    # a token that no merge makes, taken before merges are looked at
    state["model"]["vocab"]["turbine"] = 400
    ignoring = json.dumps({**state, "model": {**state["model"], "ignore_merges": True}}).encode()
    config = ExtendConfig(vocabulary_size=420)
    assert merges_of(extend(ignoring, ["turbine"] * 5 + ["abc"] * 3, config))[-2:] == [("a", "b"), ("ab", "c")]
    # without that setting its letters are merged, and the last merge meets the token that is there
    plain = extend(json.dumps(state).encode(), ["turbine"] * 5, config)
    assert vocabulary_of(plain)["turbine"] == 400
    assert Tokenizer.from_buffer(plain).encode("turbine").ids == [400]


def test_text_of_added_tokens_is_not_learned():
    old = gpt2_like().to_str().encode()
    new = extend(old, ["<|user|>ab", "Penstockab"] * 9, ExtendConfig(vocabulary_size=340))
    assert merges_of(new)[len(merges_of(old)) :] == [("a", "b")]


def test_text_that_ends_early_is_logged(caplog):
    old = train_bpe(TEXTS, BPEConfig(vocabulary_size=300))
    with caplog.at_level(logging.WARNING):
        new = extend(old, ["zzzz qqqq"], ExtendConfig(vocabulary_size=500))
    assert f"tokenizer: {vocabulary_size(new)} ids, fewer than the 500 asked for" in caplog.text


def test_what_cannot_be_extended_is_refused():
    old = train_bpe(TEXTS, BPEConfig(vocabulary_size=300))
    with pytest.raises(ConfigError, match="got 300, allowed more than the 300 ids"):
        extend(old, NEW, ExtendConfig(vocabulary_size=300))
    with pytest.raises(DatasetError, match="got 1 documents with no text"):
        extend(old, [""], ExtendConfig(vocabulary_size=301))
    with pytest.raises(ConfigError, match="min_frequency: got 0"):
        ExtendConfig(vocabulary_size=301, min_frequency=0)
    state = json.loads(old)
    with pytest.raises(InputError, match="got a BPE model without a ByteLevel pre-tokenizer, allowed byte-level BPE"):
        extend(json.dumps({**state, "pre_tokenizer": None}).encode(), NEW, ExtendConfig(vocabulary_size=301))
    unigram = Tokenizer(models.Unigram([("a", -1.0)], 0)).to_str().encode()
    with pytest.raises(InputError, match="got a Unigram model"):
        extend(unigram, NEW, ExtendConfig(vocabulary_size=301))
    del state["model"]["vocab"]["Ġ"]
    with pytest.raises(InputError, match=r"without 1 of the 256 bytes \(the first is 32\)"):
        extend(json.dumps(state).encode(), NEW, ExtendConfig(vocabulary_size=301))
