"""Generation in a vocabulary with tokens that the model was not trained with."""

import numpy as np
import pytest
import torch

from penstock.errors import ConfigError
from penstock.tokenization.dynamic.batch import DynamicTokenizer
from penstock.tokenization.dynamic.generation import LargeVocabulary, Sampling
from penstock.tokenization.dynamic.output_index import OutputIndex
from penstock.tokenization.dynamic.wrappers import DynamicModel

EXTRA = [b" lowest bridge", b" the lower town", b" newest things"]
GREEDY = Sampling(greedy=True, repetition_penalty=1.0)


@pytest.fixture(scope="module")
def reader(base, llama):
    return DynamicModel(llama, DynamicTokenizer(base, minimum=1))


def by_hand(reader, prompt, rows, steps):
    """Greedy tokens without a cache of keys and values: the whole sequence is read anew for every token."""
    base, model = len(reader.model.lm_head.weight), reader.model
    embeds, out = reader.provider.rows(prompt)[None], []
    for _ in range(steps):
        with torch.no_grad():
            hidden = model.model(inputs_embeds=embeds).last_hidden_state[0, -1].numpy()
        out.append(int(np.argmax(rows @ hidden)))
        if out[-1] < base:
            row = model.get_input_embeddings()(torch.tensor([out[-1]]))
        else:
            row = reader.provider.rows([EXTRA[out[-1] - base]])
        embeds = torch.cat([embeds, row.detach()[None]], 1)
    return out


def test_greedy_tokens_are_those_of_reading_everything_anew(reader, base):
    tokenizer = reader.tokenizer
    generator = LargeVocabulary(reader, EXTRA, end=())
    rows = generator.output_rows()
    rows[-2:] *= 3.0  # so that extra tokens are chosen too
    generator = LargeVocabulary(reader, EXTRA, index=OutputIndex(rows), end=())
    batch = tokenizer.encode(["the lowest", "newer lower town", "low"], 3)
    found = generator.generate(batch, max_new_tokens=8, sampling=GREEDY)
    for row, one in enumerate(found):
        assert list(one.ids) == by_hand(reader, tokenizer.row_tokens(batch, row), rows, 8)
        assert not one.ended
        strings = [*base.tokens, *EXTRA]
        assert one.data == b"".join(strings[i] or b"" for i in one.ids)
    assert any(token >= len(base) for one in found for token in one.ids)


def test_extra_output_rows_have_the_norm_of_the_others(reader, base):
    rows = LargeVocabulary(reader, EXTRA).output_rows()
    own = np.linalg.norm(rows[: len(base)], axis=1).mean()
    np.testing.assert_allclose(np.linalg.norm(rows[len(base) :], axis=1), own, rtol=1e-5)
    np.testing.assert_array_equal(rows[: len(base)], reader.model.lm_head.weight.detach().numpy())


def test_a_row_that_ended_stays_as_it_is_while_others_go_on(reader):
    generator = LargeVocabulary(reader, EXTRA, end=())
    batch = reader.tokenizer.encode(["the lowest", "newer"], 2)
    first = [one.ids for one in generator.generate(batch, max_new_tokens=6, sampling=GREEDY)]
    stop = first[0][2]
    ended = LargeVocabulary(reader, EXTRA, end=(stop,)).generate(batch, max_new_tokens=6, sampling=GREEDY)
    assert ended[0].ids == first[0][: first[0].index(stop)]
    assert ended[0].ended
    if stop not in first[1]:
        assert ended[1].ids == first[1]
        assert not ended[1].ended


def test_an_end_bias_ends_every_text_at_once(reader):
    generator = LargeVocabulary(reader, EXTRA, end=(5,))
    sampling = Sampling(candidates=len(generator.index), end_bias=1e4)
    batch = reader.tokenizer.encode(["the lowest"], 0)
    assert generator.generate(batch, max_new_tokens=3, sampling=sampling)[0].ids == ()


def test_equal_seeds_give_equal_texts_and_others_do_not(reader):
    generator = LargeVocabulary(reader, EXTRA, end=())
    batch = reader.tokenizer.encode(["the lowest", "low"], 0)

    def drawn(seed):
        sampling = Sampling(seed=seed, min_p=0.0, temperature=2.0)
        return [one.ids for one in generator.generate(batch, max_new_tokens=10, sampling=sampling)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_only_the_likeliest_are_drawn():
    rng = np.random.default_rng(0)
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    drawn = [Sampling(top_k=2, min_p=0.0).draw(logits, rng) for _ in range(200)]
    assert set(drawn) == {0, 1}
    assert 0.5 < drawn.count(0) / 200 < 0.75
    assert {Sampling(top_k=None, min_p=0.2).draw(logits, rng) for _ in range(200)} == {0, 1, 2}
    assert {Sampling(top_k=None, min_p=0.0, temperature=0.01).draw(logits, rng) for _ in range(50)} == {0}
    assert Sampling(greedy=True).draw(logits[::-1], rng) == 3


def test_a_penalty_keeps_a_token_from_repeating(reader):
    generator = LargeVocabulary(reader, EXTRA, end=())
    batch = reader.tokenizer.encode(["the lowest"], 0)
    harsh = Sampling(greedy=True, repetition_penalty=1e6, candidates=40)
    (found,) = generator.generate(batch, max_new_tokens=12, sampling=harsh)
    assert len(set(found.ids)) == 12


def test_what_cannot_be_searched_is_refused(reader, base, llama):
    with pytest.raises(ConfigError, match="the base vocabulary has not"):
        LargeVocabulary(reader, [b" "])
    with pytest.raises(ConfigError, match="the same token twice"):
        LargeVocabulary(reader, [EXTRA[0], EXTRA[0]])
    with pytest.raises(ConfigError, match="index: got 3 rows"):
        LargeVocabulary(reader, EXTRA, index=OutputIndex(np.zeros((3, 32), np.float32)))
    with pytest.raises(ConfigError, match="max_new_tokens: got 0"):
        LargeVocabulary(reader, EXTRA).generate(reader.tokenizer.encode(["low"], 0), max_new_tokens=0)


def test_a_head_with_a_scale_is_refused(base):
    from transformers import CohereConfig, CohereForCausalLM

    model = CohereForCausalLM(
        CohereConfig(
            vocab_size=len(base),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            logit_scale=0.25,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=1,
        )
    )
    with pytest.raises(ConfigError, match="a scale or a cap"):
        LargeVocabulary(DynamicModel(model, DynamicTokenizer(base)), EXTRA)


@pytest.mark.parametrize(
    "options", [{"candidates": 0}, {"top_k": 0}, {"temperature": 0.0}, {"repetition_penalty": 0.0}, {"min_p": 1.5}]
)
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ConfigError, match="got"):
        Sampling(**options)
