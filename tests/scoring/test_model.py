"""Loading a causal language model and putting texts into batches: ``python -m pytest tests/scoring/test_model.py``."""

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, DatasetError
from penstock.scoring.model import (
    Packed,
    fingerprint,
    load_causal_lm,
    loaded,
    pack_texts,
    prefix_ids,
    resolve,
    tokenizer_fingerprint,
)


@pytest.fixture
def copy(model, tmp_path):
    """A model's folder that a test may change."""
    return shutil.copytree(model, tmp_path / "copy")


def families():
    import transformers as t

    small = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    llama = small | {"intermediate_size": 32, "num_key_value_heads": 1, "max_position_embeddings": 64}
    return {
        "rotary": t.LlamaForCausalLM(t.LlamaConfig(**llama)),
        "learned": t.GPT2LMHeadModel(t.GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=64)),
        "alibi": t.BloomForCausalLM(t.BloomConfig(vocab_size=32, hidden_size=16, n_layer=2, n_head=2)),
        "recurrent": t.MambaForCausalLM(
            t.MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2, state_size=4)
        ),
        "sliding": t.MistralForCausalLM(t.MistralConfig(**llama, sliding_window=4)),
    }


@pytest.mark.parametrize("family", ["rotary", "learned", "alibi", "recurrent", "sliding"])
def test_a_text_in_a_batch_has_the_logits_it_has_alone_in_every_family(tiny, tmp_path, family):
    made = families()[family]
    for parameter in made.parameters():
        parameter.data.mul_(3)  # or every logit would be about the same
    made.save_pretrained(tmp_path)
    tiny.tokenizer(tmp_path)
    model, tokenizer = load_causal_lm(tmp_path, "cpu")
    texts = [tiny.words(range(n)) for n in (9, 5, 2, 12, 7)]
    packed = pack_texts(texts, tokenizer, 64)
    rows = []
    for batch in packed.batches(30):
        among = model(input_ids=torch.from_numpy(batch.tokens)).logits
        for place, (row, length) in enumerate(zip(batch.rows, batch.lengths, strict=True)):
            alone = model(input_ids=torch.from_numpy(packed.ids[row][None].astype(np.int64))).logits[0]
            scale = float(alone.abs().max())
            assert scale > 1e-3
            torch.testing.assert_close(among[place, :length], alone, rtol=0.0, atol=2e-5 * scale)
            rows.append(row)
    assert sorted(rows) == [0, 1, 2, 3, 4]


def test_a_model_that_reads_to_the_right_is_refused(tiny, tmp_path):
    from transformers import BertConfig, BertLMHeadModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    made = BertLMHeadModel(BertConfig(vocab_size=32, **sizes))
    for parameter in made.parameters():
        parameter.data.mul_(3)
    made.save_pretrained(tmp_path)
    tiny.tokenizer(tmp_path)
    with pytest.raises(ConfigError, match=r"BertLMHeadModel that reads tokens on the right .*no causal LM"):
        load_causal_lm(tmp_path, "cpu")


def test_a_folder_that_is_no_causal_lm_is_named(tiny, tmp_path, copy):
    from transformers import BertConfig, BertModel

    with pytest.raises(ConfigError, match=rf"got {tmp_path}/none, where no config.json and no trained model"):
        load_causal_lm(tmp_path / "none")
    BertModel(
        BertConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(tmp_path / "bert")
    tiny.tokenizer(tmp_path / "bert")
    with pytest.raises(ConfigError, match=rf"{tmp_path}/bert is BertModel, no causal LM"):
        load_causal_lm(tmp_path / "bert")
    (copy / "model.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(ConfigError, match="copy cannot be loaded"):
        load_causal_lm(copy)
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(ConfigError, match=r"copy cannot be loaded .*safetensors"):
        load_causal_lm(copy)


def test_a_folder_without_a_tokenizer_or_with_too_large_a_one_is_refused(tiny, copy):
    tiny.tokenizer(copy, size=40)
    with pytest.raises(ConfigError, match="a tokenizer of 40 ids and a model of 32"):
        load_causal_lm(copy)
    (copy / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match="no tokenizer that can be loaded"):
        load_causal_lm(copy)
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer_config.json").unlink()
    with pytest.raises(ConfigError, match="no tokenizer that can be loaded"):
        load_causal_lm(copy)


@pytest.mark.parametrize(
    ("device", "dtype", "message"),
    [("gpu7", "float32", "device: got 'gpu7'"), ("cpu", "int8", "dtype: got 'int8', allowed float32 or bfloat16")],
)
def test_a_device_or_type_that_there_is_not_is_refused(model, device, dtype, message):
    with pytest.raises(ConfigError, match=message):
        load_causal_lm(model, device, dtype=dtype)


def test_the_fingerprint_is_of_weights_and_tokenizer_and_of_nothing_else(tiny, model, copy):
    assert fingerprint(copy) == fingerprint(model)
    (copy / "README.md").write_text("notes")
    (copy / "generation_config.json").write_text("{}")
    assert fingerprint(copy) == fingerprint(model)
    before = fingerprint(copy)
    tiny.tokenizer(copy, shift=1)
    assert fingerprint(copy) != before
    with pytest.raises(DatasetError, match="its files changed since the run began"):
        loaded(str(copy), before, "cpu", "float32")


def test_the_tokenizer_s_fingerprint_is_of_what_it_does_and_not_of_its_files(tiny, model, copy):
    _, one = load_causal_lm(model, "cpu")
    (copy / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 99})
    )
    _, same = load_causal_lm(copy, "cpu")
    one(["w1 w2 w3"], truncation=True, max_length=2)  # leaves a state behind
    assert tokenizer_fingerprint(one) == tokenizer_fingerprint(same)
    for changes in ({"shift": 1}, {"bos": 1}):
        tiny.tokenizer(copy, **changes)
        _, other = load_causal_lm(copy, "cpu")
        assert tokenizer_fingerprint(other) != tokenizer_fingerprint(one)


def test_the_model_of_a_run_is_found_in_its_last_round(model, tmp_path):
    for step in ("model-1", "model-2", "model-1-small"):
        folder = tmp_path / "run" / step / "0123456789ab" / "run" / "model"
        shutil.copytree(model, folder)
        entry = {"path": "0123456789ab/run/model/config.json"}
        (tmp_path / "run" / step / "manifest.json").write_text(json.dumps({"artifacts": {"model/config.json": entry}}))
    assert resolve(tmp_path / "run") == tmp_path / "run" / "model-2" / "0123456789ab" / "run" / "model"
    assert resolve(tmp_path / "run" / "model-1-small").parts[-4] == "model-1-small"
    load_causal_lm(tmp_path / "run", "cpu")


def test_the_model_that_training_exports_is_read(tiny, tmp_path, model):
    from penstock.training.config import TrainData
    from penstock.training.export import export_model

    lm, _ = load_causal_lm(model, "cpu")
    files = {"train": {"d": ["unread.arrow"]}, "validation": {}, "tokenizer_file": model / "tokenizer.json"}
    data = TrainData(**files, fingerprint="f", vocab_size=32, pad_id=0, eos_id=1)
    _, tokenizer = load_causal_lm(export_model(lm, data, tmp_path), "cpu")
    assert pack_texts(["w3 w4"], tokenizer, 8).ids[0].tolist() == [3, 4]


# ── texts ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def tokenizer(model):
    return load_causal_lm(model, "cpu")[1]


def test_texts_are_cut_at_max_tokens_and_say_so(tokenizer):
    packed = pack_texts(["w1 w2 w3", "w1 w2 w3 w4", "", "  ", "w5"], tokenizer, 3)
    assert [ids.tolist() for ids in packed.ids] == [[1, 2, 3], [1, 2, 3], [], [], [5]]
    assert packed.truncated.tolist() == [False, True, False, False, False]
    assert packed.n_tokens.tolist() == [3, 3, 0, 0, 1]


def test_batches_hold_the_longest_first_and_no_more_than_their_tokens(tokenizer, tiny):
    packed = pack_texts([tiny.words(range(n)) for n in (2, 5, 3, 0, 4, 9)], tokenizer, 8)
    assert [(b.rows.tolist(), b.tokens.shape, b.lengths.tolist()) for b in packed.batches(8)] == [
        ([5], (1, 8), [8]),
        ([1], (1, 5), [5]),
        ([4, 2], (2, 4), [4, 3]),
        ([0], (1, 2), [2]),
    ]
    assert packed.padding(8) == (1, 23)
    assert [b.rows.tolist() for b in packed.batches(1)] == [[5], [1], [4], [2], [0]]
    with pytest.raises(ConfigError, match="batch_tokens: got 0"):
        list(packed.batches(0))


def test_a_batch_ends_where_it_would_be_filled_up_by_more_than_a_quarter(tokenizer, tiny):
    packed = pack_texts([tiny.words([1] * n) for n in (8, 8, 7, 6, 5, 5, 2)], tokenizer, 8)
    assert [b.lengths.tolist() for b in packed.batches(64)] == [[8, 8, 7, 6], [5, 5], [2]]
    # a small batch is not worth a forward pass of its own
    assert [b.lengths.tolist() for b in packed.batches(200)] == [[8, 8, 7, 6], [5, 5, 2]]


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 100))
@settings(max_examples=50, deadline=None)
def test_every_text_with_tokens_is_in_one_batch_whole(lengths, batch_tokens):
    rng = np.random.default_rng(sum(lengths))
    ids = tuple(rng.integers(0, 32, n).astype(np.int32) for n in lengths)
    packed = Packed(ids, (), np.zeros(len(ids), bool), 7)
    seen = []
    for batch in packed.batches(batch_tokens):
        assert batch.tokens.size <= batch_tokens or len(batch.rows) == 1
        assert batch.predicted.sum() == (batch.lengths - 1).sum()
        for row, tokens, length in zip(batch.rows, batch.tokens, batch.lengths, strict=True):
            assert tokens[:length].tolist() == ids[row].tolist()
            assert (tokens[length:] == 7).all()
            seen.append(row)
    assert sorted(seen) == [i for i, n in enumerate(lengths) if n]


def test_the_tokenizer_s_own_beginning_is_read_but_no_end_and_no_special_token_of_the_text(tiny, copy):
    tiny.tokenizer(copy, bos=1)
    _, tokenizer = load_causal_lm(copy, "cpu")
    assert prefix_ids(tokenizer) == [1]
    packed = pack_texts(["w5 w6 w7", ""], tokenizer, 2)
    assert [ids.tolist() for ids in packed.ids] == [[1, 5, 6], []]
    assert packed.n_tokens.tolist() == [2, 0]
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    assert pack_texts(["w5<end>w6"], tokenizer, 8).ids[0].tolist() == [1, 5, 0, 0, 0, 6]


def test_a_book_is_not_encoded_for_its_first_page(tokenizer, monkeypatch):
    from penstock.scoring import model as module

    seen, encode = [], module._ids

    def watched(tokenizer, texts):
        seen.extend(map(len, texts))
        return encode(tokenizer, texts)

    monkeypatch.setattr(module, "_ids", watched)
    book = "w1 w2 " * 100_000
    packed = pack_texts([book], tokenizer, 10)
    assert packed.ids[0].tolist() == [1, 2] * 5
    assert packed.truncated.tolist() == [True]
    assert max(seen) <= 10 * 16
    # few tokens in many characters: the whole is looked at
    seen.clear()
    sparse = pack_texts(["w1" + " " * 500 + "w2 w3"], tokenizer, 10)
    assert sparse.ids[0].tolist() == [1, 2, 3]
    assert not sparse.truncated[0]


def test_fewer_than_two_tokens_are_refused(tokenizer):
    with pytest.raises(ConfigError, match="max_tokens: got 1, allowed >= 2"):
        pack_texts(["w1"], tokenizer, 1)
