"""pytest tests/training/group_rl/test_forward.py"""

from __future__ import annotations

import logging
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from penstock.errors import ConfigError, InputError
from penstock.training.group_rl import forward
from penstock.training.group_rl.forward import can_share_prefix, token_logprobs

VOCABULARY = 40
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}


def llama(**changes: Any) -> Any:
    torch.manual_seed(0)
    # weights larger than usual, so that what a token reads changes what it predicts
    return LlamaForCausalLM(LlamaConfig(**SMALL, **(HEADS | {"initializer_range": 0.3} | changes)))


def gpt2() -> Any:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )
    )  # fmt: skip


def qwen3() -> Any:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**SMALL, **HEADS, head_dim=8, tie_word_embeddings=True, initializer_range=0.3))


def capped() -> Any:
    """Gemma 2 caps its logits after the head."""
    torch.manual_seed(0)
    settings = HEADS | {"sliding_window": 64, "attn_logit_softcapping": None, "final_logit_softcapping": 3.0}
    config = Gemma2Config(**SMALL, **settings, head_dim=8, initializer_range=0.3, query_pre_attn_scalar=8)
    config._attn_implementation = "sdpa"
    return Gemma2ForCausalLM(config)


def mamba() -> Any:
    torch.manual_seed(0)
    return MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4))


FAMILIES = {"llama": llama, "gpt2": gpt2, "qwen3": qwen3, "capped": capped}


def in_float64(model: Any) -> Any:
    """The model in float64 throughout: the norms of transformers compute in float32 whatever they are given."""

    def normed(norm: Any, above: float) -> Any:
        epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
        return lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * (norm.weight + above)

    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = normed(module, 1.0 if type(module).__name__.startswith("Gemma") else 0.0)
    return model.double()


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def model(request: Any) -> Any:
    return in_float64(FAMILIES[request.param]())


def rows_of(shape: list[tuple[int, list[int]]], seed: int = 0) -> tuple[list[Any], list[Any]]:
    """Prompts and responses of groups, given as the length of a prompt and those of its responses; rows mixed up."""
    draw = np.random.default_rng(seed)
    prompts, responses = [], []
    for length, answers in shape:
        prompt = draw.integers(0, VOCABULARY, length, dtype=np.int32)
        for answer in answers:
            prompts.append(prompt)
            responses.append(draw.integers(0, VOCABULARY, answer, dtype=np.int32))
    order = draw.permutation(len(prompts))
    return [prompts[i] for i in order], [responses[i] for i in order]


def one_by_one(model: Any, prompt: Any, response: Any, temperature: float = 1.0) -> Any:
    """The oracle: a row alone, all its logits, straight from transformers."""
    row = torch.from_numpy(np.concatenate([prompt, response]).astype(np.int64))[None]
    logits = model(input_ids=row).logits[0, len(prompt) - 1 : -1] / temperature
    return torch.log_softmax(logits, -1)[torch.arange(len(response)), row[0, len(prompt) :]]


def gradient_of(model: Any, logprobs: list[Any]) -> Any:
    """Of a random weighting of all log-probabilities, in all parameters."""
    draw = torch.Generator().manual_seed(3)
    total = sum((each * torch.randn(len(each), generator=draw, dtype=each.dtype)).sum() for each in logprobs)
    parameters = list(model.parameters())
    return torch.cat([part.flatten() for part in torch.autograd.grad(total, parameters)])


def counted(model: Any, **options: Any) -> list[tuple[int, ...]]:
    """Shapes of what goes through the embedding."""
    seen: list[tuple[int, ...]] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda module, given, out: seen.append(given[0].shape))
    try:
        token_logprobs(model, **options)
    finally:
        hook.remove()
    return seen


# a group of three, a prompt of one token, responses of one token, an answer alone, and two prompts of equal length
SHAPE = [(12, [3, 5, 1]), (1, [4, 2]), (11, [1, 1]), (9, [6]), (10, [2, 5]), (10, [3, 4])]


@pytest.mark.parametrize("shared", [True, False])
def test_logprobs_and_their_gradient_are_those_of_every_row_alone(model: Any, shared: bool) -> None:
    prompts, responses = rows_of(SHAPE)
    assert can_share_prefix(model)
    read = counted(model, prompts=prompts, responses=responses, shared_prefix=shared)
    assert read == ([(6, 12), (12, 5)] if shared else [(12, 16)])
    found = token_logprobs(model, prompts, responses, temperature=0.7, shared_prefix=shared)
    expected = [one_by_one(model, *row, temperature=0.7) for row in zip(prompts, responses, strict=True)]
    assert [tuple(each.shape) for each in found] == [(len(response),) for response in responses]
    for ours, alone in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, alone, rtol=0.0, atol=1e-10)
    of_found, of_expected = gradient_of(model, found), gradient_of(model, expected)
    assert of_expected.norm() > 1
    torch.testing.assert_close(of_found, of_expected, rtol=1e-10, atol=1e-10)


def test_a_prompt_is_read_once_for_all_its_answers(model: Any) -> None:
    prompts, responses = rows_of([(7, [3, 5, 4]), (6, [2, 2])])
    # equal prompts of different arrays are one prompt too
    options = {"prompts": [prompt.astype(np.int64) for prompt in prompts], "responses": responses}
    assert can_share_prefix(model)
    token_logprobs(model, **options)  # what is tried out once is behind us
    assert counted(model, **options) == [(2, 7), (5, 4)]
    assert counted(model, **options, shared_prefix=False) == [(5, 11)]


def test_answers_of_one_token_need_the_prompts_alone(model: Any) -> None:
    prompts, responses = rows_of([(5, [1, 1]), (3, [1, 1, 1])])
    assert counted(model, prompts=prompts, responses=responses) == [(2, 5)]


def test_where_sharing_would_read_no_fewer_tokens_rows_are_read_whole(model: Any) -> None:
    prompts, responses = rows_of([(5, [3]), (5, [4])])
    assert counted(model, prompts=prompts, responses=responses) == [(2, 8)]


def test_only_positions_that_predict_go_through_the_head() -> None:
    plain = llama()
    prompts, responses = rows_of([(9, [3, 5]), (4, [2])])
    sizes: list[int] = []
    token_logprobs(plain, prompts, responses)
    hook = plain.get_output_embeddings().register_forward_hook(lambda module, given, out: sizes.append(len(out)))
    token_logprobs(plain, prompts, responses)
    token_logprobs(plain, prompts, responses, shared_prefix=False)
    hook.remove()
    # shared: the last position of two prompts, and all but the last token of each response
    assert sizes == [2 + 2 + 4 + 1, 3 + 5 + 2]


def test_float32_is_as_near_as_float32_can_be() -> None:
    plain = llama()
    prompts, responses = rows_of(SHAPE)
    shared, whole = (token_logprobs(plain, prompts, responses, shared_prefix=way) for way in (True, False))
    for ours, alone in zip(shared, whole, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, alone, rtol=0.0, atol=1e-4)
    torch.testing.assert_close(gradient_of(plain, shared), gradient_of(plain, whole), rtol=1e-4, atol=1e-4)


def test_a_model_in_bfloat16_shares_and_answers_in_float32() -> None:
    half = llama().bfloat16()
    prompts, responses = rows_of(SHAPE)
    assert can_share_prefix(half)
    found = token_logprobs(half, prompts, responses)
    exact = token_logprobs(llama(), prompts, responses)
    assert found[0].dtype == torch.float32
    assert 0 < (torch.cat(found) - torch.cat(exact)).detach().abs().max().item() < 0.2


def test_under_autocast_prompts_are_shared_and_the_head_reads_answers_alone() -> None:
    plain = llama()
    prompts, responses = rows_of(SHAPE)
    with torch.autocast("cpu", torch.bfloat16):
        assert can_share_prefix(plain)
        sizes: list[int] = []
        hook = plain.get_output_embeddings().register_forward_hook(lambda module, given, out: sizes.append(len(out)))
        found = token_logprobs(plain, prompts, responses)
        hook.remove()
    assert sizes == [6 + sum(map(len, responses)) - len(responses)]
    exact = token_logprobs(plain, prompts, responses)
    assert 0 < (torch.cat(found) - torch.cat(exact)).detach().abs().max().item() < 0.2


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(1, 7), min_size=1, max_size=4)), min_size=1, max_size=4),
    st.integers(0, 2**32 - 1),
)
def test_both_forms_agree_whatever_the_lengths(shape: list[tuple[int, list[int]]], seed: int) -> None:
    prompts, responses = rows_of(shape, seed)
    exact = SHARED["model"]
    with torch.no_grad():
        shared, whole = (token_logprobs(exact, prompts, responses, shared_prefix=way) for way in (True, False))
    torch.testing.assert_close(torch.cat(shared), torch.cat(whole), rtol=0.0, atol=1e-10)


SHARED = {"model": in_float64(llama())}


def test_one_answer_does_not_read_another() -> None:
    """A changed answer leaves its siblings' figures to the last bit, and changes its own."""
    exact = SHARED["model"]
    prompts, responses = rows_of([(6, [5, 5, 5]), (3, [4])])
    before = token_logprobs(exact, prompts, responses)
    changed = [response.copy() for response in responses]
    changed[1][0] = (changed[1][0] + 1) % VOCABULARY
    after = token_logprobs(exact, prompts, changed)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, True, True]
    assert not torch.equal(before[1][1:], after[1][1:])


# what may not be shared


class Deaf(LlamaForCausalLM):
    """Ignores the mask that it is given, as some families do."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        read = self.model.forward
        self.model.forward = lambda *args, attention_mask=None, **named: read(*args, **named)


class Placeless(LlamaForCausalLM):
    """Ignores the positions that it is given."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        read = self.model.forward
        self.model.forward = lambda *args, position_ids=None, **named: read(*args, **named)


class Detached(LlamaForCausalLM):
    """Lets no gradient through its cache."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        read = self.model.forward

        def forward(*args: Any, past_key_values: Any = None, **named: Any) -> Any:
            if past_key_values is not None and past_key_values.get_seq_length():
                for layer in past_key_values.layers:
                    layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
            return read(*args, past_key_values=past_key_values, **named)

        self.model.forward = forward


def unlike(kind: str) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(**SMALL, **HEADS, initializer_range=0.3, attn_implementation="sdpa")
    if kind == "mamba":
        return mamba()
    if kind == "checkpointing":
        out = llama()
        out.gradient_checkpointing_enable()
        return out
    if kind == "rope":
        return llama(rope_parameters={"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0})
    if kind == "eager":
        return llama(attn_implementation="eager")
    return {"mask": Deaf, "positions": Placeless, "gradient": Detached}[kind](config)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("mamba", "its cache or its mask is another's"),
        ("checkpointing", "gradient checkpointing keeps no keys"),
        ("rope", r"rotary embedding \(dynamic\)"),
        ("eager", "reads something else"),
        ("mask", "reads something else"),
        ("positions", "reads something else"),
        ("gradient", "its gradient does not go through"),
    ],
)
def test_a_model_that_cannot_share_is_read_row_by_row_and_says_so_once(kind: str, why: str, caplog: Any) -> None:
    other = unlike(kind)
    nearness = 1e-4 if kind == "mamba" else 1e-10  # transformers has no Mamba in float64
    if kind != "mamba":
        other.double()
    prompts, responses = rows_of([(7, [3, 5, 1]), (2, [4, 2])])
    with caplog.at_level(logging.WARNING, logger=forward.__name__):
        assert not can_share_prefix(other)
        found = token_logprobs(other, prompts, responses)
        token_logprobs(other, prompts, responses)
    said = [record.getMessage() for record in caplog.records if record.name == forward.__name__]
    assert len(said) == 1
    assert re.search(why, said[0])
    for ours, *row in zip(found, prompts, responses, strict=True):
        torch.testing.assert_close(ours, one_by_one(other, *row), rtol=0.0, atol=nearness)


def test_the_try_out_leaves_the_model_as_it_was_and_works_where_no_gradient_is_taken() -> None:
    plain = llama().train()
    before = torch.get_rng_state()
    with torch.inference_mode():
        assert can_share_prefix(plain)
    assert plain.training
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in plain.parameters())
    assert not plain.get_input_embeddings()._forward_hooks


def test_a_model_that_is_set_up_anew_is_tried_anew() -> None:
    plain = llama()
    assert can_share_prefix(plain)
    plain.gradient_checkpointing_enable()
    assert not can_share_prefix(plain)
    plain.gradient_checkpointing_disable()
    assert can_share_prefix(plain)


def test_rows_beyond_a_sliding_window_are_read_whole() -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        **SMALL, **HEADS, head_dim=8, initializer_range=0.3, use_sliding_window=True, sliding_window=8,
        layer_types=["sliding_attention", "full_attention"], attn_implementation="sdpa",
    )  # fmt: skip
    windowed = Qwen3ForCausalLM(config).double()
    assert can_share_prefix(windowed)
    short = rows_of([(5, [3, 2, 3])])
    assert counted(windowed, prompts=short[0], responses=short[1]) == [(1, 5), (3, 2)]
    prompts, responses = rows_of([(6, [3, 9, 3])])
    assert counted(windowed, prompts=prompts, responses=responses) == [(3, 14)]
    for ours, *row in zip(token_logprobs(windowed, prompts, responses), prompts, responses, strict=True):
        torch.testing.assert_close(ours, one_by_one(windowed, *row), rtol=0.0, atol=1e-10)


# bad input

ROW = [np.array([1, 2], dtype=np.int32)]


@pytest.mark.parametrize(
    ("prompts", "responses", "message"),
    [
        (ROW, ROW * 2, "got 1 prompts and 2 responses"),
        ([*ROW, ROW[0][:0]], ROW * 2, "prompt 1 is empty"),
        (ROW * 2, [*ROW, ROW[0][:0]], "response 1 is empty"),
        (ROW, [np.array([1, VOCABULARY])], f"responses: got token {VOCABULARY}, allowed 0 to 39"),
        ([np.array([-1, 2])], ROW, "prompts: got token -1"),
        ([np.arange(30)], [np.arange(35)], "has 65 tokens, the model reads 64"),
    ],
)
def test_rows_that_cannot_be_read_are_refused(prompts: Any, responses: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        token_logprobs(SHARED["model"], prompts, responses)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_none_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match="temperature: got"):
        token_logprobs(SHARED["model"], ROW, ROW, temperature=temperature)


def test_no_rows_have_no_logprobs() -> None:
    assert token_logprobs(SHARED["model"], [], []) == []
