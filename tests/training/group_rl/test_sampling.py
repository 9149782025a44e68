"""Answers sampled together are those sampled alone, from the distribution and with the log-probabilities they say."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from penstock.errors import ConfigError, TrainingError
from penstock.seeding import hash_ids
from penstock.training.group_rl.sampling import Sampler, end_tokens

V = 24


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def llama(scale: float = 6.0, **changes: Any) -> Any:
    """Random weights in float64, large enough that its distributions are far from even."""
    from transformers import LlamaConfig, LlamaForCausalLM

    given: dict[str, Any] = {
        "vocab_size": V, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 64, "attn_implementation": "sdpa",
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made: Any = LlamaForCausalLM(LlamaConfig(**(given | changes))).double()
    for parameter in made.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(scale)
    return made


def gpt2() -> Any:
    """Learned positions, dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    settings: Any = GPT2Config(
        vocab_size=V, n_embd=16, n_layer=2, n_head=2, n_positions=64, attn_pdrop=0.3, resid_pdrop=0.3, embd_pdrop=0.3
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made: Any = GPT2LMHeadModel(settings).double()
    for parameter in made.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(6.0)
    return made


def mistral() -> Any:
    """A window of four tokens, shorter than the texts."""
    from transformers import MistralConfig, MistralForCausalLM

    settings: Any = MistralConfig(
        vocab_size=V, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, sliding_window=4, attn_implementation="sdpa",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made: Any = MistralForCausalLM(settings).double()
    for parameter in made.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(6.0)
    return made


def asked(copies: int = 4) -> tuple[list[Any], Any]:
    """Prompts of 1 to 11 tokens, each so many times in a row, and a stream for every row."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, V, size).astype(np.int32) for size in (5, 1, 11, 3, 5)]
    rows = [prompt for prompt in prompts for _ in range(copies)]
    return rows, hash_ids(map(str, range(len(rows))))


def plain(model: Any, prompt: Any, response: Any, temperature: float = 1.0) -> Any:
    """Log-probabilities of a response by one plain pass over both, (T, V)."""
    text = torch.tensor([[*prompt.tolist(), *response.tolist()]])
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=text, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits / temperature, dim=-1)


@pytest.mark.parametrize("make", [llama, gpt2, mistral])
def test_answers_sampled_together_are_those_sampled_alone(make: Any) -> None:
    model = make()
    sampler = Sampler(model, ends=[0, 7])
    prompts, streams = asked()
    together = sampler(prompts, streams, max_new_tokens=12, batch=64)
    alone = sampler(prompts, streams, max_new_tokens=12, batch=1)
    lengths = [len(response) for response in together.responses]
    assert len(set(lengths)) > 3  # rows left at different times, also while others went on
    assert 0 < together.ended.sum() < len(prompts)
    for row, prompt in enumerate(prompts):
        assert np.array_equal(together.responses[row], alone.responses[row])
        np.testing.assert_allclose(together.logprobs[row], alone.logprobs[row], atol=1e-5)
        expected = plain(model, prompt, together.responses[row])
        found = expected.gather(1, torch.tensor(together.responses[row]).long()[:, None])[:, 0]
        np.testing.assert_allclose(together.logprobs[row], found, atol=1e-5)
    assert np.array_equal(together.ended, alone.ended)
    assert {array.dtype for array in together.responses} == {np.dtype(np.int32)}
    assert {array.dtype for array in together.logprobs} == {np.dtype(np.float32)}


def test_an_answer_ends_with_its_first_end_and_never_goes_beyond_the_most() -> None:
    sampler = Sampler(llama(), ends=[0, 7])
    prompts, streams = asked(16)
    found = sampler(prompts, streams, max_new_tokens=9)
    for response, ended in zip(found.responses, found.ended, strict=True):
        ends = np.isin(response, [0, 7])
        assert not ends[:-1].any()
        assert ends[-1] == ended
        assert len(response) == 9 or ended
        assert 1 <= len(response) <= 9


def test_the_order_of_rows_moves_answers_and_changes_none() -> None:
    sampler = Sampler(llama(), ends=[0])
    prompts, streams = asked()
    order = np.random.default_rng(1).permutation(len(prompts))
    plain_order = sampler(prompts, streams, max_new_tokens=8, batch=7)
    moved = sampler([prompts[n] for n in order], streams[order], max_new_tokens=8, batch=5)
    assert all(np.array_equal(moved.responses[i], plain_order.responses[n]) for i, n in enumerate(order))


def test_streams_decide_the_draws() -> None:
    sampler = Sampler(llama(), ends=[])
    prompt = np.array([3, 4], dtype=np.int32)
    found = sampler([prompt] * 3, hash_ids(["a", "b", "a"]), max_new_tokens=20)
    assert np.array_equal(found.responses[0], found.responses[2])
    assert not np.array_equal(found.responses[0], found.responses[1])


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.5, 1.0), (1.0, 0.7), (1.5, 0.5)])
def test_draws_have_the_frequencies_of_the_tempered_softmax_cut_to_its_nucleus(
    temperature: float, top_p: float
) -> None:
    model = llama(scale=3.0)
    prompt, n = np.array([3, 4], dtype=np.int32), 4000
    found = Sampler(model, ends=[])(
        [prompt] * n, hash_ids(map(str, range(n))), max_new_tokens=1, temperature=temperature, top_p=top_p, batch=n
    )
    logprobs = plain(model, prompt, np.array([0]), temperature)[0].numpy()
    p = np.exp(logprobs)
    order = np.argsort(-p)
    kept = order[: int(np.searchsorted(np.cumsum(p[order]), top_p)) + 1] if top_p < 1 else order
    expected = np.zeros(V)
    expected[kept] = p[kept] / p[kept].sum()
    tokens = np.concatenate(found.responses)
    shares = np.bincount(tokens, minlength=V) / n
    assert (np.abs(shares - expected) <= 5 * np.sqrt(expected * (1 - expected) / n)).all()
    assert top_p == 1.0 or (0 < len(kept) < V)
    # of the whole softmax, whatever was left out of the draw
    np.testing.assert_allclose(np.concatenate(found.logprobs), logprobs[tokens], atol=1e-6)


def test_tokens_of_a_row_are_drawn_apart() -> None:
    """The same distribution at every place: pairs of neighbours are as frequent as chance has them."""
    model = llama()
    model.lm_head.weight.data.zero_()  # all tokens alike, whatever was read
    n = 3000
    found = Sampler(model, ends=[])([np.array([3], dtype=np.int32)] * n, hash_ids(map(str, range(n))), max_new_tokens=2)
    pairs = np.stack(found.responses)
    counts = np.zeros((V, V))
    np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1)
    expected = n / V**2
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi2 - (V**2 - 1)) < 5 * np.sqrt(2 * (V**2 - 1))


def test_a_model_that_ignores_the_mask_is_refused() -> None:
    model = llama()
    real = model.model.forward

    def deaf(*given: Any, **options: Any) -> Any:
        return real(*given, **options | {"attention_mask": None})

    model.model.forward = deaf
    with pytest.raises(ConfigError, match="LlamaForCausalLM does not answer prompts of different lengths together"):
        Sampler(model, ends=[0])


def test_logits_that_are_no_numbers_end_the_run_with_advice() -> None:
    model = llama()
    sampler = Sampler(model, ends=[0])
    model.lm_head.weight.data[3] = torch.nan
    prompts, streams = asked()
    with pytest.raises(TrainingError, match="logits are no finite numbers"):
        sampler(prompts, streams, max_new_tokens=3)


def test_dropout_is_off_while_sampling_and_the_mode_is_given_back() -> None:
    model = gpt2().train()
    sampler = Sampler(model, ends=[0])
    prompts, streams = asked()
    first = sampler(prompts, streams, max_new_tokens=6)
    second = sampler(prompts, streams, max_new_tokens=6)
    assert model.training
    assert all(np.array_equal(a, b) for a, b in zip(first.logprobs, second.logprobs, strict=True))


def test_ends_are_those_of_the_model_and_of_the_tokenizer() -> None:
    def ends(named: Any, of_tokenizer: int | None) -> tuple[int, ...]:
        model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=named))
        return end_tokens(model, SimpleNamespace(eos_token_id=of_tokenizer))

    assert ends([5, 2], 2) == (2, 5)
    assert ends(7, None) == (7,)
    assert ends(None, 0) == (0,)
    assert end_tokens(SimpleNamespace(), SimpleNamespace(eos_token_id=None)) == ()
