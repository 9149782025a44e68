"""Requests, completions and the digest that answers are kept by."""

import asyncio
import json
from dataclasses import replace

import pytest

from penstock.errors import ConfigError
from penstock.generators.base import (
    Completion,
    Message,
    Request,
    TokenLogprob,
    Usage,
    canonical,
    digest,
    failure,
    name_of,
    run,
)
from penstock.generators.endpoint import ChatEndpoint
from penstock.generators.local import LocalModel

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
        ({"prompt": "a", "top_p": 0.0}, "got top_p 0.0, allowed above 0"),
        ({"prompt": "a", "top_p": 1.1}, "got top_p 1.1"),
        ({"prompt": "a", "stop": "ab"}, "got stop 'ab', allowed a tuple"),
        ({"prompt": "a", "stop": ("a", "")}, "allowed a tuple of texts that are not empty"),
        ({"prompt": "a", "schema": '{"b": 1, "a": 2}'}, "a schema that is no canonical JSON"),
        ({"prompt": "a", "schema": "[1]"}, "a schema that is no canonical JSON"),
        ({"prompt": "a", "schema": "{"}, "a schema that is no canonical JSON"),
    ],
)
def test_a_request_that_no_model_can_answer_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        Request(**given)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "2 + 2 = "}, {"max_tokens": 1}, {"temperature": 0.5}, {"seed": 1}, {"logprobs": 4}, {"sample": 1},
        {"top_p": 0.9}, {"stop": ("a",)}, {"schema": canonical({"type": "object"})},
        {"prompt": None, "messages": (Message("user", "2 + 2 ="),)},
    ],
    ids=str,
)  # fmt: skip
def test_everything_that_decides_an_answer_is_in_its_digest(change):
    assert digest(MODEL, replace(REQUEST, **change)) != digest(MODEL, REQUEST)


def test_a_request_without_later_fields_keeps_the_digest_it_was_always_kept_by():
    always = "811426342683f201364056d3b6e241c2d06116945dbab52bf4d1138674a4d2e2"
    assert digest(MODEL, REQUEST) == always


def test_schemas_that_say_the_same_are_one_text():
    assert canonical({"b": [1, {"d": 2, "c": 3}], "a": 1}) == canonical({"a": 1, "b": [1, {"c": 3, "d": 2}]})
    with pytest.raises(ConfigError, match="a value that is no JSON"):
        canonical({"a": float("nan")})


def test_a_model_is_named_by_its_name_on_a_server_else_by_kind_and_files():
    assert name_of(MODEL) == "m"
    assert name_of(LocalModel(path="x", digest="0123456789abcdef")) == "local:0123456789ab"


def test_a_server_that_is_not_told_of_schemas_is_another_model():
    free = replace(MODEL, schemas=False)
    assert digest(free, REQUEST) != digest(MODEL, REQUEST)


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
        finish="length",
    )
    for one in (whole, Completion(error="status 500")):
        assert Completion.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_a_completion_that_was_kept_before_ends_were_told_comes_back_too():
    kept = Completion(text="a", usage=Usage(prompt_tokens=7)).to_json()
    del kept["finish"]
    assert Completion.from_json(kept) == Completion(text="a", usage=Usage(prompt_tokens=7))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("status 503 (busy: now) after 3.0 s", "status 503"),
        ("status 400: too long", "status 400"),
        ("no answer within the deadline of 3 s", "no answer within the deadline of 3 s"),
        ("x" * 100, "x" * 60),
    ],
)
def test_failures_are_counted_by_what_stands_before_their_details(error, kind):
    assert failure(error) == kind


def test_run_works_inside_of_a_running_loop_too():
    async def four():
        return 4

    async def outside():
        return run(four())

    assert run(four()) == asyncio.run(outside()) == 4
