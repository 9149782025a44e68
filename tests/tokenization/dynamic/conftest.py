"""Small tokenizers of three families, and models small enough for a test."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from penstock.tokenization import bpe
from penstock.tokenization.bpe import BPEConfig, train_bpe
from penstock.tokenization.dynamic.vocabulary import BaseVocabulary
from penstock.tokenization.loading import of_bytes

TEXTS = [
    "the low tower and the lower town lowered the lowest bridge",
    "newer and newest things are never as new as they were",
    "a well-known, state-of-the-art engine; don't touch it!",
    "numbers 3.5kg and 12 apples cost 7 euros",
]


def byte_level():
    """About 300 tokens, so that nearly every word has several."""
    return of_bytes(train_bpe(TEXTS * 3, BPEConfig(vocabulary_size=300)), "small")


def sentencepiece():
    """As Llama 2 and Mistral: no pre-tokenizer, a space in front, single bytes for what is not in the vocabulary."""
    letters = sorted(set("".join(TEXTS)) - {" "})
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters]
    merges = [("▁", "l"), ("▁l", "o"), ("▁lo", "w"), ("e", "r"), ("▁", "t"), ("h", "e"), ("▁t", "he"), ("n", "e")]
    pieces += [a + b for a, b in merges]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return of_bytes(made.to_str().encode(), "pieces")


def unigram():
    """As XLM-R: Unigram with Metaspace and an unknown token."""
    letters = sorted(set("".join(TEXTS)) - {" "})
    scored = [("<unk>", 0.0), ("▁", -3.0), *((letter, -4.0) for letter in letters), ("▁lo", -2.0), ("er", -2.0)]
    made = Tokenizer(models.Unigram(scored, unk_id=0, byte_fallback=False))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return of_bytes(made.to_str().encode(), "unigram")


@pytest.fixture(scope="session")
def base():
    return BaseVocabulary(byte_level())


@pytest.fixture(scope="session")
def pieces_base():
    return BaseVocabulary(sentencepiece())


@pytest.fixture(scope="session")
def unigram_base():
    return BaseVocabulary(unigram())


@pytest.fixture(params=["byte_level", "sentencepiece", "unigram"])
def any_base(request, base, pieces_base, unigram_base):
    return {"byte_level": base, "sentencepiece": pieces_base, "unigram": unigram_base}[request.param]


@pytest.fixture(scope="session")
def llama(base):
    """A decoder with rotary positions over the byte-level vocabulary."""
    return make_llama(len(base))


@pytest.fixture(scope="session")
def model_folder(base, tmp_path_factory):
    """The decoder and its tokenizer as files."""
    folder = tmp_path_factory.mktemp("model")
    make_llama(len(base)).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(base.loaded.content)
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": bpe.END, "pad_token": bpe.PAD}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="session")
def tiny_llama():
    """A function that makes a decoder for a vocabulary, always with the same weights."""
    return make_llama


def make_llama(vocabulary, tied=False):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    return LlamaForCausalLM(config).eval()
