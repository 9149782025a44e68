"""Models of transformers that read merged batches."""

import numpy as np
import pytest
import torch

from penstock.errors import ConfigError, InputError
from penstock.tokenization.dynamic.alignment import IGNORED, byte_spans, merged_labels, next_token_labels
from penstock.tokenization.dynamic.batch import DynamicTokenizer
from penstock.tokenization.dynamic.cache import RowCache
from penstock.tokenization.dynamic.embeddings import CompositionRows, source_rows
from penstock.tokenization.dynamic.wrappers import DynamicModel

ROWS = ["the lowest tower and the lower town", "lowest", "newer lower lowest"]


def gpt2(vocabulary):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.2)
    return GPT2LMHeadModel(config).eval()


def roberta(vocabulary):
    from transformers import RobertaConfig, RobertaForTokenClassification

    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=130,
        num_labels=3,
        pad_token_id=1,
        initializer_range=0.2,
    )
    return RobertaForTokenClassification(config).eval()


@pytest.fixture(params=["llama", "gpt2", "roberta"])
def model(request, base, tiny_llama):
    return {"llama": tiny_llama, "gpt2": gpt2, "roberta": roberta}[request.param](len(base))


@pytest.fixture(scope="module")
def tokenizer(base):
    return DynamicTokenizer(base, minimum=1)


def ids_of(batch, row):
    low, high = batch.base_offsets[row : row + 2]
    return torch.from_numpy(batch.base_ids[low:high])[None]


@torch.no_grad()
def test_without_merges_the_logits_are_the_models_own_whatever_the_padding(model, tokenizer):
    batch = tokenizer.encode(ROWS, 0)
    reader = DynamicModel(model, tokenizer)
    inputs = reader.inputs(batch)
    found = inputs.gather(reader.run(inputs).logits)
    own = torch.cat([model(input_ids=ids_of(batch, row)).logits[0] for row in range(len(ROWS))])
    torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_with_merges_every_row_has_the_logits_it_would_have_alone(model, tokenizer):
    batch = tokenizer.encode(ROWS, 6)
    assert batch.new_tokens
    assert len(set(batch.lengths.tolist())) > 1
    reader = DynamicModel(model, tokenizer)
    inputs = reader.inputs(batch)
    assert inputs.inputs_embeds.shape[:2] == (3, batch.lengths.max())
    assert inputs.attention_mask.sum(1).tolist() == batch.lengths.tolist()
    found = inputs.gather(reader.run(inputs).logits)
    provider = CompositionRows(tokenizer.base, source_rows(model.get_input_embeddings()))
    alone = []
    for row in range(len(ROWS)):
        tokens = tokenizer.row_tokens(batch, row)
        assert len(tokens) == batch.lengths[row]
        alone.append(model(inputs_embeds=provider.rows(tokens)[None]).logits[0])
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_planted_row_of_a_new_token_changes_the_logits_from_there_on(base, tokenizer, tiny_llama):
    class Planted(CompositionRows):
        key = "planted"

        def rows(self, tokens):
            return super().rows(tokens) + 5.0

    model = tiny_llama(len(base))
    batch = tokenizer.encode(ROWS, 6)
    planted = Planted(base, source_rows(model.get_input_embeddings()))
    plain, other = DynamicModel(model, tokenizer), DynamicModel(model, tokenizer, planted)
    inputs = plain.inputs(batch)
    difference = (inputs.gather(other(batch).logits) - inputs.gather(plain(batch).logits)).abs().amax(1).numpy()
    for row in range(len(batch)):
        low, high = batch.offsets[row : row + 2]
        new = np.flatnonzero(batch.ids[low:high] >= batch.vocabulary)
        first = new[0] if new.size else high - low
        assert (difference[low : low + first] < 1e-5).all()
        assert (difference[low + first : high] > 1e-3).all()


def test_positions_of_a_decoder_count_merged_tokens_from_the_first_on(base, tokenizer, tiny_llama):
    batch = tokenizer.encode(ROWS, 6)
    inputs = DynamicModel(tiny_llama(len(base)), tokenizer).inputs(batch)
    for row, length in enumerate(batch.lengths.tolist()):
        pad = inputs.attention_mask.shape[1] - length
        assert inputs.attention_mask[row].tolist() == [0] * pad + [1] * length
        assert inputs.position_ids[row, pad:].tolist() == list(range(length))


def test_an_encoder_is_padded_on_the_right_and_labels_go_where_their_tokens_are(base, tokenizer):
    batch = tokenizer.encode(ROWS, 6)
    reader = DynamicModel(roberta(len(base)), tokenizer)
    inputs = reader.inputs(batch)
    assert inputs.position_ids is None
    assert inputs.attention_mask[1, 0] == 1
    assert inputs.attention_mask[1, -1] == 0
    labels = merged_labels(batch, np.arange(len(batch.base_ids)) % 3, take="last")
    spread = inputs.spread(labels)
    assert spread[inputs.attention_mask == 0].unique().tolist() == [IGNORED]
    assert spread[inputs.attention_mask == 1].tolist() == labels.tolist()
    reader.run(inputs, labels=spread).loss.backward()


@torch.no_grad()
def test_nats_are_those_of_the_base_token_after_each_merged_token(base, tokenizer, tiny_llama):
    model = tiny_llama(len(base))
    reader = DynamicModel(model, tokenizer)
    batch = tokenizer.encode(ROWS, 0)
    nats = reader.next_token_nats(batch)
    for row in range(len(ROWS)):
        ids = ids_of(batch, row)
        logs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        low, high = batch.offsets[row : row + 2]
        torch.testing.assert_close(nats[low : high - 1], -logs.gather(1, ids[0, 1:, None])[:, 0], rtol=1e-4, atol=1e-5)
        assert nats[high - 1].isnan()
    merged = tokenizer.encode(ROWS, 6)
    shorter = reader.next_token_nats(merged)
    assert shorter.shape == (len(merged.ids),)
    assert int(shorter.isnan().sum()) == len(ROWS)


def test_labels_are_moved_by_the_spans_of_merged_tokens(base, tokenizer):
    batch = tokenizer.encode(["lowest bridge", "", "low"], None)
    assert batch.lengths.tolist() == [2, 0, 1]
    assert byte_spans(batch, base).tolist() == [[0, 6], [6, 13], [0, 3]]
    first_of_bridge = batch.starts[1]
    assert next_token_labels(batch).tolist() == [batch.base_ids[first_of_bridge], IGNORED, IGNORED]
    given = np.arange(len(batch.base_ids))
    assert merged_labels(batch, given).tolist() == batch.starts.tolist()
    assert merged_labels(batch, given, take="last").tolist() == (batch.stops - 1).tolist()
    with pytest.raises(InputError, match="labels: got 1"):
        merged_labels(batch, [0])
    with pytest.raises(ConfigError, match="take: got 'mean'"):
        merged_labels(batch, given, take="mean")


def test_a_decoder_generates_from_a_merged_prompt_as_it_would_step_by_step(base, tokenizer, tiny_llama):
    model = tiny_llama(len(base))
    reader = DynamicModel(model, tokenizer)
    batch = tokenizer.encode(ROWS, 6)
    found = reader.generate(batch, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert found.shape == (3, 4)
    for row in range(3):
        embeds = reader.provider.rows(tokenizer.row_tokens(batch, row))[None]
        for step in range(4):
            token = int(model(inputs_embeds=embeds).logits[0, -1].argmax())
            assert token == int(found[row, step])
            embeds = torch.cat([embeds, model.get_input_embeddings()(torch.tensor([[token]]))], 1)


def test_rows_come_from_the_cache_and_a_refresh_makes_them_anew(base, tokenizer, tiny_llama):
    model = tiny_llama(len(base))
    cache = RowCache(50)
    reader = DynamicModel(model, tokenizer, cache=cache)
    batch = tokenizer.encode(ROWS, 6)
    first = reader.embed(batch)
    assert cache.misses == len(batch.new_tokens)
    assert torch.equal(reader.embed(batch), first)
    assert cache.misses == len(batch.new_tokens)
    with torch.no_grad():
        model.get_input_embeddings().weight += 1.0
    reader.refresh()
    torch.testing.assert_close(reader.embed(batch), first + 1.0)


def test_gradients_reach_the_embedding_through_base_tokens_only(base, tokenizer, tiny_llama):
    model = tiny_llama(len(base))
    batch = tokenizer.encode(ROWS, 6)
    DynamicModel(model, tokenizer).embed(batch).sum().backward()
    touched = set(model.get_input_embeddings().weight.grad.abs().sum(1).nonzero()[:, 0].tolist())
    assert touched == {i for i in batch.ids.tolist() if i < batch.vocabulary}


def test_more_new_tokens_than_the_cache_holds_give_the_same_rows_or_a_refusal(base, tokenizer, tiny_llama):
    model = tiny_llama(len(base))
    batch = tokenizer.encode(ROWS, 6)
    assert len(batch.new_tokens) > 1
    expected = DynamicModel(model, tokenizer).embed(batch)
    for overflow in ("split", "bypass"):
        torch.testing.assert_close(DynamicModel(model, tokenizer, cache=RowCache(1, overflow)).embed(batch), expected)
    with pytest.raises(InputError, match="different new tokens in one batch, allowed 1"):
        DynamicModel(model, tokenizer, cache=RowCache(1, "refuse")).embed(batch)


def test_bad_batches_and_models_are_refused(base, pieces_base, tokenizer, tiny_llama):
    model = tiny_llama(len(base))
    reader = DynamicModel(model, tokenizer)
    with pytest.raises(InputError, match=r"rows without a token \(\[1\]\)"):
        reader.inputs(tokenizer.encode(["low", ""], 0))
    with pytest.raises(InputError, match="no rows"):
        reader.inputs(tokenizer.encode([], 0))
    with pytest.raises(InputError, match="base vocabulary of"):
        reader.inputs(DynamicTokenizer(pieces_base).encode(["low"], 0))
    with pytest.raises(InputError, match="the rows of the model's embedding"):
        DynamicModel(tiny_llama(20), tokenizer).inputs(tokenizer.encode(["low"], 0))
    with pytest.raises(ConfigError, match="rows of width 7"):
        DynamicModel(model, tokenizer, CompositionRows(base, torch.zeros(len(base), 7)))
    with pytest.raises(ConfigError, match="takes no inputs_embeds"):
        DynamicModel(torch.nn.Linear(2, 2), tokenizer)
    encoder = DynamicModel(roberta(len(base)), tokenizer)
    for ask in (encoder.next_token_nats, encoder.generate):
        with pytest.raises(ConfigError, match="an encoder, allowed a causal"):
            ask(tokenizer.encode(["low"], 0))
    with pytest.raises(ConfigError, match="make the provider anew"):
        DynamicModel(model, tokenizer, CompositionRows(base, torch.zeros(len(base), 32))).refresh()
