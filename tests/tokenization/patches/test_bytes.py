"""Bytes as tokens: a tokenizer like any other, and a recipe that builds, packs and trains on it."""

import hashlib

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from penstock.dataset import Dataset
from penstock.errors import ConfigError
from penstock.recipe import Recipe
from penstock.run import run
from penstock.tokenization.encode import Encode
from penstock.tokenization.patches.bytes import byte_tokenizer


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    path = tmp_path_factory.mktemp("bytes") / "tokenizer.json"
    path.write_bytes(byte_tokenizer(("<|user|>",)))
    return Encode(tokenizer_file=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


@settings(deadline=None)
@given(st.lists(st.text(max_size=30), max_size=4))
def test_every_byte_is_one_token_in_the_order_of_bytes(work, texts):
    found = work.annotate(pa.record_batch({"text": pa.array(texts, pa.string())}))
    assert found["token_ids"].to_pylist() == [[*(3 + byte for byte in text.encode()), 0] for text in texts]


def test_special_tokens_stand_before_the_bytes():
    tokenizer = Tokenizer.from_buffer(byte_tokenizer(("<|user|>", "<|bot|>")))
    assert [tokenizer.token_to_id(t) for t in ("<|endoftext|>", "<|pad|>", "<|user|>", "<|bot|>")] == [0, 1, 2, 3]
    assert tokenizer.encode("<|bot|>A").ids == [3, 4 + ord("A")]
    assert tokenizer.decode(tokenizer.encode("é水\n ").ids) == "é水\n "
    with pytest.raises(ConfigError, match="special"):
        byte_tokenizer(("<|pad|>",))


def test_a_recipe_of_bytes_builds_packs_and_trains(recipe_text, tmp_path):
    text = recipe_text.replace("tokenizer: {vocabulary_size: 512, sample_mb: 1}", "tokenizer: {kind: bytes}")
    recipe = Recipe.parse(text.replace("rounds: 2", "rounds: 1"))
    assert recipe.tokenizer.kind == "bytes"
    assert Recipe.parse(recipe.to_yaml()) == recipe
    run(recipe, out=str(tmp_path / "run"), workers=0)
    scored = Dataset(str(tmp_path / "run" / "scored")).read("documents", ["text", "tokens"])
    assert scored["tokens"].to_pylist() == [len(t.encode()) + 1 for t in scored["text"].to_pylist()]
    model = Dataset(str(tmp_path / "run" / "model-1")).manifest
    assert model.stats["steps"] == 12
    assert "model/tokenizer.json" in model.artifacts
    assert ">bytes, 258 entries." in (tmp_path / "run" / "report.html").read_text()


def test_settings_of_a_trained_tokenizer_are_refused_for_bytes(recipe_text):
    text = recipe_text.replace(
        "tokenizer: {vocabulary_size: 512, sample_mb: 1}", "tokenizer: {kind: bytes, sample_mb: 1}"
    )
    with pytest.raises(ConfigError, match="got sample_mb for kind: bytes"):
        Recipe.parse(text)
