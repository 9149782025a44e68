"""Prompts of one length are decoded together, and each says what it says alone."""

import asyncio
import itertools
from dataclasses import replace

import pytest

from penstock.generators.base import Request
from penstock.generators.config import GeneratorConfig


@pytest.fixture(scope="module")
def model(folder):
    return GeneratorConfig(path=str(folder)).resolve()


def ask(model, *requests):
    return asyncio.run(model.complete(requests))


def test_rows_that_end_at_different_tokens_say_together_what_each_says_alone(model):
    prompts = ("ab", "cd", "ef", "gh")
    base = Request(prompt="ab", max_tokens=12, logprobs=2)
    requests = [
        replace(base, prompt=prompt, max_tokens=most, temperature=warm, seed=seed, top_p=share)
        for (prompt, seed), most, (warm, share) in itertools.product(
            zip(prompts, range(4), strict=True), (1, 5, 12), ((0.0, 1.0), (1.0, 1.0), (1.0, 0.6))
        )
    ]
    (alone,) = ask(model, replace(base, temperature=1.0, seed=3))
    requests.append(replace(base, temperature=1.0, seed=3, stop=(alone.text[4:6],)))
    together = ask(model, *requests)
    for request, one in zip(requests, together, strict=True):
        (other,) = ask(model, request)
        assert (one.text, one.finish, one.usage) == (other.text, other.finish, other.usage)
        assert [t.logprob for t in one.tokens] == pytest.approx([t.logprob for t in other.tokens], abs=1e-5)
    assert together[-1].text == alone.text[: alone.text.find(alone.text[4:6])]
    assert {one.usage.completion_tokens for one in together} >= {1, 5, 12}


def test_rows_decoded_at_once_are_bounded_by_the_tokens_they_may_need(folder, model):
    small = GeneratorConfig(path=str(folder), batch_tokens=30).resolve()
    requests = [Request(prompt="ab", max_tokens=8, temperature=1.0, sample=n) for n in range(7)]
    assert [one.text for one in ask(small, *requests)] == [one.text for one in ask(model, *requests)]


@pytest.mark.parametrize(("tokens", "groups"), [(30, 3), (1, 4), (99, 2)])
def test_groups_have_one_length_and_fit(tokens, groups):
    from types import SimpleNamespace

    import numpy as np

    from penstock.generators.local import _groups

    batch = SimpleNamespace(lengths=np.array([4, 4, 4, 9]), rows=np.array([1, 2, 0, 3]))
    requests = [Request(prompt="a", max_tokens=most) for most in (5, 9, 10, 3)]
    found = _groups(batch, requests, tokens)
    assert sorted(place for group in found for place in group) == [0, 1, 2, 3]
    assert len(found) == groups
    for group in found:
        assert len({int(batch.lengths[place]) for place in group}) == 1
        wanted = max(requests[int(batch.rows[place])].max_tokens for place in group)
        assert len(group) == 1 or len(group) * (int(batch.lengths[group[0]]) + wanted) <= tokens
