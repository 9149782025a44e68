"""A small causal language model on disk and in memory: test files cannot import each other."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest


def small_llama(*, hidden=32, layers=2, heads=4, kv_heads=2, vocabulary=64, ffn=48, seed=0, tie=False):
    """A Llama of random weights in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=128, tie_word_embeddings=tie,
        pad_token_id=None, bos_token_id=None, eos_token_id=None, initializer_range=0.2, attn_implementation="sdpa",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(settings).eval()


def save_tokenizer(folder, words):
    """A word-level tokenizer as transformers reads it; id 0 is for unknown words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", *words])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.fixture(scope="session")
def small_models():
    """The helpers above."""
    return SimpleNamespace(llama=small_llama, tokenizer=save_tokenizer)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A causal LM of random weights whose words are w1 … w59."""
    folder = tmp_path_factory.mktemp("small-lm")
    small_llama(vocabulary=60).save_pretrained(folder)
    save_tokenizer(folder, [f"w{i}" for i in range(1, 60)])
    return str(folder)
