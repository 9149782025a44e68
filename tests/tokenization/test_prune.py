"""Pruned tokenizers stay sound: nothing is lost, what was kept is reached, and what is encoded alike stays alike."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from penstock.errors import ConfigError, DatasetError, InputError
from penstock.tokenization.bpe import BPEConfig, train_bpe
from penstock.tokenization.loading import load, of_bytes
from penstock.tokenization.prune import last_merge, prune

WORDS = "river gate pipe turbine flow pressure model data token language learn train select 123 4567 été".split()  # noqa: SIM905


def texts(seed, count=200):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=12)) for _ in range(count)]


@pytest.fixture(scope="module")
def trained():
    return of_bytes(train_bpe(texts(0), BPEConfig(vocabulary_size=420, special=("<|user|>",))), "trained")


SAMPLE = [text.replace("turbine", "flow") for text in texts(1)]


def test_the_sample_is_encoded_as_before_under_new_ids(trained):
    found = prune(trained, SAMPLE)
    small = of_bytes(found.content, "pruned")
    assert len(found.old_ids) < trained.vocabulary
    for text in SAMPLE:
        before = trained.tokenizer.encode(text).ids
        assert [int(found.old_ids[i]) for i in small.tokenizer.encode(text).ids] == before


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_every_text_decodes_to_itself(trained_twice, text):
    _, small = trained_twice
    assert small.tokenizer.decode(small.tokenizer.encode(text).ids, skip_special_tokens=False) == text


@pytest.fixture(scope="module")
def trained_twice(trained):
    return trained, of_bytes(prune(trained, SAMPLE, min_count=40).content, "pruned")


def test_every_kept_token_is_reached_by_its_own_text(trained_twice):
    before, small = trained_twice
    vocabulary = small.state["model"]["vocab"]
    reached_before = {
        token for token in vocabulary if model_ids(before, token) == [before.state["model"]["vocab"][token]]
    }
    assert reached_before
    for token in reached_before:
        assert model_ids(small, token) == [vocabulary[token]], token


def model_ids(loaded, token):
    """What merging makes of a token's own characters, its pre-tokenizer passed over."""
    return [piece.id for piece in loaded.tokenizer.model.tokenize(token)]


def test_rows_of_an_embedding_follow_their_tokens(trained):
    found = prune(trained, SAMPLE, min_count=5)
    small = of_bytes(found.content, "pruned")
    embedding = np.arange(trained.vocabulary) * 10
    sliced = embedding[found.old_ids]
    for token, number in small.tokenizer.get_vocab().items():
        assert sliced[number] == embedding[trained.tokenizer.token_to_id(token)]
    assert list(found.old_ids) == sorted(found.old_ids.tolist())


def test_bytes_and_special_tokens_are_kept_whatever_is_used(trained):
    found = prune(trained, ["a"])
    small = of_bytes(found.content, "pruned")
    assert len(found.old_ids) == 256 + 3
    assert small.tokenizer.token_to_id("<|user|>") is not None
    plain = Tokenizer.from_buffer(found.content)  # which reads special tokens in text as such
    assert plain.encode("<|user|>").ids == [plain.token_to_id("<|user|>")]
    assert found.kept_for == {"used": 1, "alphabet": 255, "added": 3, "parts": 0}


def test_parts_of_used_tokens_stay_though_unused(trained):
    token = max((t for t in trained.state["model"]["vocab"] if not t.startswith("<|")), key=len)
    word = trained.tokenizer.decode([trained.state["model"]["vocab"][token]])
    found = prune(trained, [word] * 3)
    assert found.used == 1
    assert found.kept_for["parts"] >= 1
    small = of_bytes(found.content, "pruned")
    assert small.tokenizer.encode(word).tokens == [token]


@given(st.integers(259, 420))
@settings(max_examples=20, deadline=None)
def test_a_size_is_never_passed_and_all_sizes_are_sound(trained, size):
    found = prune(trained, SAMPLE, size=size)
    assert len(found.old_ids) <= size
    small = of_bytes(found.content, "pruned")
    assert small.tokenizer.decode(small.tokenizer.encode(SAMPLE[0]).ids) == SAMPLE[0]


def test_ids_in_padding_and_templates_follow(trained):
    state = json.loads(trained.content)
    user = next(token["id"] for token in state["added_tokens"] if token["content"] == "<|user|>")
    last = max(state["model"]["vocab"].values())
    state["added_tokens"].append({**state["added_tokens"][0], "id": last + 1, "content": "<s>"})
    state["padding"] = {
        "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": last + 1,
        "pad_type_id": 0, "pad_token": "<s>",
    }  # fmt: skip
    state["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [last + 1, user], "tokens": ["<s>", "<|user|>"]}},
    }
    before = of_bytes(json.dumps(state).encode(), "with a template")
    found = prune(before, SAMPLE, min_count=3)
    small = json.loads(found.content)
    new = {int(old): i for i, old in enumerate(found.old_ids)}
    assert small["padding"]["pad_id"] == new[last + 1]
    assert small["post_processor"]["special_tokens"]["<s>"]["ids"] == [new[last + 1], new[user]]
    tokens = of_bytes(found.content, "pruned").tokenizer.encode("river").tokens
    assert tokens[:2] == ["<s>", "<|user|>"]


def test_of_several_merges_that_make_a_token_the_one_that_applies_is_found():
    # "abc" is listed as a+bc and ab+c; ab merges first, so only ab+c is ever applied
    ranks = {("a", "b"): 0, ("b", "c"): 1, ("a", "bc"): 2, ("ab", "c"): 3}
    assert last_merge("abc", ranks) == ("ab", "c")
    assert last_merge("bc", ranks) == ("b", "c")
    assert last_merge("cab", ranks) is None
    assert last_merge("b", ranks) is None


def sentencepiece_like(merges, more=()):
    """BPE over characters with byte fallback, as converted from SentencePiece."""
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcd", *more]
    tokens += [t for t in dict.fromkeys("".join(pair) for pair in merges) if t not in tokens]
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [" ".join(pair) for pair in merges],
        },
    }


def test_byte_fallback_keeps_its_bytes_and_characters():
    merges = [("a", "b"), ("b", "c"), ("a", "bc"), ("ab", "c"), ("▁", "d")]
    before = of_bytes(json.dumps(sentencepiece_like(merges)).encode(), "converted")
    found = prune(before, ["abc abc"])
    small = of_bytes(found.content, "pruned")
    assert small.tokenizer.encode("abc é").tokens == ["abc", "▁", "<0xC3>", "<0xA9>"]
    assert "d" in small.state["model"]["vocab"]  # or d would be spelt as a byte from now on
    assert "▁d" not in small.state["model"]["vocab"]
    assert "bc" not in small.state["model"]["vocab"]  # only ab + c ever makes abc


def test_what_cannot_be_pruned_is_refused_by_name(trained, tmp_path):
    state = json.loads(trained.content)
    del state["model"]["vocab"]["Ā"]
    with pytest.raises(ConfigError, match="cannot spell every byte"):
        prune(of_bytes(json.dumps(state).encode(), "no byte 0"), ["a"])
    unigram = {
        **{key: None for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder")},
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]], "byte_fallback": False},
    }
    with pytest.raises(ConfigError, match="got a Unigram model"):
        prune(of_bytes(json.dumps(unigram).encode(), "unigram"), ["a"])
    suffixed = sentencepiece_like([("a", "b")])
    suffixed["model"]["end_of_word_suffix"] = "</w>"
    with pytest.raises(ConfigError, match="end_of_word_suffix"):
        prune(of_bytes(json.dumps(suffixed).encode(), "suffixed"), ["a"])
    plain = sentencepiece_like([("a", "b")])
    plain["model"]["byte_fallback"] = False
    with pytest.raises(ConfigError, match="cannot spell every byte"):
        prune(of_bytes(json.dumps(plain).encode(), "no bytes"), ["a"])
    with pytest.raises(ConfigError, match="allowed 259"):
        prune(trained, ["a"], size=100)
    with pytest.raises(ConfigError, match="min_count"):
        prune(trained, ["a"], min_count=0)
    with pytest.raises(DatasetError, match="no text"):
        prune(trained, [])
    with pytest.raises(InputError, match="cannot be read"):
        load(str(tmp_path / "none"))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"not a tokenizer\.json"):
        load(str(tmp_path))
