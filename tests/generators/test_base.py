"""Requests, completions and the digest that answers are kept by."""

import asyncio
import json
from dataclasses import replace

import pytest

from penstock.errors import ConfigError
from penstock.generators.base import Completion, Message, Request, TokenLogprob, Usage, digest, run
from penstock.generators.endpoint import ChatEndpoint

MODEL = ChatEndpoint(url="http://a/v1", model="m")
REQUEST = Request(prompt="2 + 2 =", logprobs=3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "both or neither of prompt and messages"),
        ({"prompt": "a", "messages": (Message("user", "a"),)}, "both or neither"),
        ({"messages": ()}, "both or neither"),
        ({"messages": (Message("tool", "a"),)}, "role 'tool', allowed system, user, assistant"),
        ({"prompt": "a", "max_tokens": 0}, "got max_tokens 0"),
        ({"prompt": "a", "logprobs": -1}, "logprobs -1"),
        ({"prompt": "a", "temperature": float("nan")}, "got temperature nan"),
        ({"prompt": "a", "temperature": -1.0}, "allowed a finite number >= 0"),
    ],
)
def test_a_request_that_no_model_can_answer_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        Request(**given)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "2 + 2 = "}, {"max_tokens": 1}, {"temperature": 0.5}, {"seed": 1}, {"logprobs": 4}, {"sample": 1},
        {"prompt": None, "messages": (Message("user", "2 + 2 ="),)},
    ],
    ids=str,
)  # fmt: skip
def test_everything_that_decides_an_answer_is_in_its_digest(change):
    assert digest(MODEL, replace(REQUEST, **change)) != digest(MODEL, REQUEST)


def test_a_model_is_its_name_and_revision_and_not_where_it_stands():
    same = replace(MODEL, url="https://b.example/v1", api_key_env="KEY", concurrency=1, timeout=1.0, attempts=1)
    assert digest(same, REQUEST) == digest(MODEL, REQUEST)
    for other in (replace(MODEL, model="n"), replace(MODEL, revision="2")):
        assert digest(other, REQUEST) != digest(MODEL, REQUEST)


def test_a_lone_surrogate_in_a_prompt_has_a_digest():
    assert len(digest(MODEL, Request(prompt="\ud800"))) == 64


def test_a_completion_comes_back_from_json_as_it_was():
    whole = Completion(
        text=" yes",
        tokens=(TokenLogprob(" yes", -0.1, ((" yes", -0.1), ("no", -2.5))),),
        usage=Usage(prompt_tokens=7, completion_tokens=1),
    )
    for one in (whole, Completion(error="status 500")):
        assert Completion.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_run_works_inside_of_a_running_loop_too():
    async def four():
        return 4

    async def outside():
        return run(four())

    assert run(four()) == asyncio.run(outside()) == 4
