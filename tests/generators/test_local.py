"""Completions in this process, against transformers' own forward pass and generation on a tiny model."""

import asyncio
import shutil

import numpy as np
import pytest

from penstock.errors import ConfigError, DatasetError
from penstock.generators.base import Message, Request
from penstock.generators.config import GeneratorConfig
from penstock.generators.local import LocalModel


@pytest.fixture(scope="module")
def model(folder):
    return GeneratorConfig(path=str(folder)).resolve()


@pytest.fixture(scope="module")
def reference(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def ask(model, *requests):
    return asyncio.run(model.complete(requests))


def test_log_probabilities_of_the_first_token_are_those_of_a_forward_pass(model, reference):
    import torch

    prompts = ["ab", "the cat", "zzzz", "a longer text of some words", "b"]
    found = ask(model, *(Request(prompt=p, max_tokens=1, logprobs=29) for p in prompts))
    net, tokenizer = reference
    for prompt, one in zip(prompts, found, strict=True):
        with torch.no_grad():
            logits = net(torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0, -1]
        wanted = torch.log_softmax(logits, -1).numpy()
        top = one.tokens[0].top
        assert [value for _, value in top] == pytest.approx(sorted(wanted, reverse=True), abs=1e-4)
        assert top[0][0] == tokenizer.decode([int(np.argmax(wanted))])
        assert np.exp([value for _, value in top]).sum() == pytest.approx(1.0, abs=1e-6)
        assert one.usage.prompt_tokens == len(prompt)


def test_greedy_tokens_are_those_of_generate(model, reference):
    import torch

    net, tokenizer = reference
    for prompt in ("ab", "the cat", "q"):
        (found,) = ask(model, Request(prompt=prompt, max_tokens=12))
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        wanted = net.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)[0]
        wanted = [t for t in wanted[ids.shape[1] :].tolist() if t != 1]
        assert found.text == tokenizer.decode(wanted)
        assert found.usage.completion_tokens == len(wanted)


def test_an_answer_does_not_depend_on_what_else_is_asked_or_on_batches(folder, model):
    requests = [Request(prompt=p, max_tokens=6, temperature=1.0, logprobs=3) for p in ("a", "bcd", "efghij", "a b")]
    small = GeneratorConfig(path=str(folder), batch_tokens=1).resolve()
    together = ask(model, *requests)
    for alone in ([ask(model, r)[0] for r in requests], ask(small, *requests), ask(model, *requests[::-1])[::-1]):
        assert [one.text for one in alone] == [one.text for one in together]
        for one, other in zip(alone, together, strict=True):
            assert [t.logprob for t in one.tokens] == pytest.approx([t.logprob for t in other.tokens], abs=1e-5)


def test_samples_follow_seed_and_number_and_have_the_model_s_distribution(model):
    def draws(seed, count):
        requests = [Request(prompt="a", max_tokens=1, temperature=1.0, seed=seed, sample=i) for i in range(count)]
        return [one.text for one in ask(model, *requests)]

    assert draws(1, 20) == draws(1, 20) != draws(2, 20)
    (told,) = ask(model, Request(prompt="a", max_tokens=1, logprobs=29))
    p = {token: np.exp(value) for token, value in told.tokens[0].top if token != "<eos>"}
    seen = draws(3, 3000)
    for token, share in p.items():
        assert abs(seen.count(token) / 3000 - share) < 4 * np.sqrt(share * (1 - share) / 3000) + 1e-9


def test_temperature_zero_takes_the_likeliest_token_and_a_high_one_any(model):
    cold = {ask(model, Request(prompt="a", max_tokens=1, seed=s))[0].text for s in range(5)}
    hot = {ask(model, Request(prompt="a", max_tokens=1, temperature=50.0, seed=s))[0].text for s in range(30)}
    assert len(cold) == 1
    assert len(hot) > 8


def test_sampling_from_a_nucleus_draws_its_tokens_alone_in_their_proportions(model):
    (told,) = ask(model, Request(prompt="a", max_tokens=1, logprobs=29))
    ranked = [(token, np.exp(value)) for token, value in told.tokens[0].top]
    reached = np.cumsum([p for _, p in ranked])
    top_p = float(reached[1] + reached[2]) / 2  # the third token is needed to reach it
    nucleus = {("" if token == "<eos>" else token): p / reached[2] for token, p in ranked[:3]}
    wanted = [Request(prompt="a", max_tokens=1, temperature=1.0, top_p=top_p, seed=4, sample=i) for i in range(1500)]
    seen = [one.text for one in ask(model, *wanted)]
    assert set(seen) == set(nucleus)
    for token, share in nucleus.items():
        assert abs(seen.count(token) / 1500 - share) < 4 * np.sqrt(share * (1 - share) / 1500)


def test_the_smallest_nucleus_is_the_likeliest_token(model):
    greedy = ask(model, Request(prompt="the cat", max_tokens=6))[0].text
    assert ask(model, Request(prompt="the cat", max_tokens=6, temperature=9.0, top_p=1e-9))[0].text == greedy


def test_generation_ends_before_the_first_stop_text(model):
    (free,) = ask(model, Request(prompt="the cat", max_tokens=12))
    assert (free.finish, free.usage.completion_tokens) == ("length", 12)
    stops = (free.text[14], free.text[8:11])  # a blank stands between letters
    (found,) = ask(model, Request(prompt="the cat", max_tokens=12, stop=stops))
    end = min(free.text.find(stop) for stop in stops)
    assert (found.text, found.finish) == (free.text[:end], "stop")
    assert found.usage.completion_tokens < 12


def test_a_prompt_without_room_and_one_without_a_token_are_errors_of_their_own(model):
    long, empty, good = ask(
        model,
        Request(prompt="a" * 40, max_tokens=1),
        Request(prompt="", max_tokens=1),
        Request(prompt="a", max_tokens=1),
    )
    assert long.error == "a prompt of 40 tokens leaves no room for 1 of 32"
    assert empty.error == "an empty prompt"
    assert good.error is None


def test_messages_need_a_chat_template(folder, tmp_path, model):
    turn = Request(messages=(Message("user", "hello"),), max_tokens=2, logprobs=1)
    with pytest.raises(ConfigError, match="messages for a tokenizer without a chat template"):
        ask(model, turn)
    shutil.copytree(folder, tmp_path / "chat")
    template = "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' ' }}{% endfor %}say "
    (tmp_path / "chat" / "chat_template.jinja").write_text(template)
    chat = GeneratorConfig(path=str(tmp_path / "chat")).resolve()
    assert ask(chat, turn)[0].text == ask(model, Request(prompt="user hello say ", max_tokens=2, logprobs=1))[0].text


def test_messages_that_a_template_refuses_are_an_error_of_their_own(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "chat")
    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}say "
    (tmp_path / "chat" / "chat_template.jinja").write_text(template)
    chat = GeneratorConfig(path=str(tmp_path / "chat")).resolve()
    refused, good = ask(
        chat,
        Request(messages=(Message("system", "be"), Message("user", "hello")), max_tokens=1),
        Request(messages=(Message("user", "hello"),), max_tokens=1),
    )
    assert refused.error == "a prompt that cannot be encoded (no system turns)"
    assert good.error is None


def test_half_a_surrogate_pair_is_an_error_of_its_own(model):
    bad, good = ask(model, Request(prompt="\ud800", max_tokens=1), Request(prompt="a", max_tokens=1))
    assert bad.error.startswith("a prompt that cannot be encoded (")
    assert good.error is None


def test_a_folder_that_changed_and_one_without_a_model_are_refused(folder, tmp_path):
    with pytest.raises(DatasetError, match="changed since the run began"):
        LocalModel(path=str(folder), digest="0" * 64).setup()
    with pytest.raises(ConfigError, match=r"no config.json"):
        GeneratorConfig(path=str(tmp_path)).resolve()
