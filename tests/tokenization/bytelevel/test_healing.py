"""Prompting by tokens and token healing on a model that can be worked out by hand."""

import numpy as np
import pytest

from penstock.errors import InputError
from penstock.tokenization.bytelevel.healing import heal_tokens, next_byte_of_tokens, prompt_tokens
from penstock.tokenization.bytelevel.reading import BYTE_OF
from penstock.tokenization.bytelevel.sampling import Sampling

GREEDY = Sampling(temperature=0.0, max_bytes=3)


@pytest.fixture
def sure(toy):
    """The model with a table of its own: 1 = a, 2 = b, 3 = c, 4 = ab, 5 = abc, 6 = cc, 7 = STOP."""
    model = type(toy)(0)

    def make(rows):
        model.table = np.full((7, 8), 1e-9)
        for last, token in rows.items():
            model.table[last, token] = 1.0
        return model

    return make


def test_prompting_goes_on_from_the_encoding_as_it_is(sure):
    model = sure({0: 5, 5: 7, 1: 3, 3: 7})
    ((found,),) = prompt_tokens(model, [b"a"], GREEDY)  # a, then what follows a: never abc
    assert (found.data, found.token_ids, found.end, found.unit) == (b"c", (0, 1, 3), "stop", "token")


def test_healing_takes_one_token_back_and_keeps_its_bytes(sure):
    model = sure({0: 5, 5: 7, 1: 3})
    ((found,),) = heal_tokens(model, [b"a"], GREEDY)
    assert (found.data, found.token_ids, found.end) == (b"bc", (0, 5), "stop")


def test_the_token_taken_back_may_come_again(sure):
    model = sure({0: 1, 1: 3, 3: 7})
    ((found,),) = heal_tokens(model, [b"a"], GREEDY)
    assert (found.data, found.token_ids) == (b"c", (0, 1, 3))


def test_healing_does_not_reach_back_two_tokens(sure):
    # c and then abc is all that the model writes after c; cab is c + ab, and taking back ab is not enough for cc
    model = sure({0: 6, 6: 7, 3: 4, 4: 2})
    ((found,),) = heal_tokens(model, [b"cab"], GREEDY)
    assert found.token_ids[:3] == (0, 3, 4)


def test_samples_of_the_first_token_have_its_probabilities_among_the_extensions(toy):
    (found,) = heal_tokens(toy, [b"ca"], Sampling(max_bytes=1), samples=2000)
    tokens, _ = toy.next_tokens([[0, 3]])
    allowed = np.exp(tokens[0, [1, 4, 5]])  # a, ab, abc
    counts = np.bincount([one.token_ids[2] for one in found], minlength=7)[[1, 4, 5]]
    np.testing.assert_allclose(counts / 2000, allowed / allowed.sum(), atol=0.04)


def test_the_log_probability_counts_from_the_token_taken_back(toy):
    ((found,),) = heal_tokens(toy, [b"ca"], Sampling(max_bytes=3, seed=1))
    tokens, _ = toy.next_tokens([[0, 3]])
    total = tokens[0, found.token_ids[2]] - np.logaddexp.reduce(tokens[0, [1, 4, 5]])
    ids = list(found.token_ids)
    for at in range(3, len(ids)):
        total += toy.next_tokens([ids[:at]])[0][0, ids[at]]
    if found.end == "stop":
        total += toy.next_tokens([ids])[1][0]
    assert found.logprob == pytest.approx(total, abs=1e-12)


def test_there_is_nothing_to_take_back_from_an_empty_prompt(toy):
    with pytest.raises(InputError, match="empty prompt"):
        heal_tokens(toy, [b""], GREEDY)
    assert len(prompt_tokens(toy, [b""], GREEDY)[0]) == 1


class Plain:
    """TokenModel of a transformers model with nothing masked."""

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer
        self.token_bytes = [b"", b"", *(spelt(tokenizer, i) for i in range(2, tokenizer.get_vocab_size()))]

    def encode(self, text):
        return [0, *self.tokenizer.encode(text).ids]

    def next_tokens(self, contexts):
        import torch

        with torch.inference_mode():
            logits = [self.model(torch.tensor([ids])).logits[0, -1].double().numpy() for ids in contexts]
        found = np.stack(logits) - np.logaddexp.reduce(logits, axis=1)[:, None]
        stops = found[:, 0].copy()
        found[:, 0] = -np.inf
        return found, stops


def spelt(tokenizer, number):
    return bytes(BYTE_OF[letter] for letter in tokenizer.id_to_token(number))


def test_prompting_by_tokens_is_what_transformers_generates(tiny_models):
    import torch

    model, tokenizer = tiny_models[0]
    for prompt in ("the threa", "isn", "to read the r"):
        ids = torch.tensor([[0, *tokenizer.encode(prompt).ids]])
        given = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
        made = model.generate(ids, **given)[0].tolist()
        ((found,),) = prompt_tokens(Plain(model, tokenizer), [prompt], Sampling(temperature=0.0, max_bytes=64))
        shared = min(len(found.token_ids), len(made))
        assert list(found.token_ids[:shared]) == made[:shared]
        assert shared > ids.shape[1]


def test_the_next_byte_of_tokens_leaves_out_other_encodings(byte_models):
    model, _ = byte_models
    prompts = [b"the threa", b"to"]
    found = np.exp(next_byte_of_tokens(model, prompts))
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-9)
    exact = np.exp(model.start(prompts).log_probs())
    assert np.abs(found - exact).max() > 0.2
