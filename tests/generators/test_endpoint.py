"""Completions over HTTP against a real server that fails in all the ways servers do, and AskLLM through it."""

import asyncio
import pickle
import socket
import time

import pyarrow as pa
import pytest

from penstock.errors import ConfigError, InputError
from penstock.generators import endpoint
from penstock.generators.base import Message, Request
from penstock.generators.config import GeneratorConfig
from penstock.generators.endpoint import ChatEndpoint
from penstock.selectors.scorers.askllm import AskLLM

pytestmark = pytest.mark.server


@pytest.fixture
def client(server, monkeypatch):
    monkeypatch.setattr(endpoint, "_LONGEST_WAIT", 0.02)

    def make(**changes):
        return ChatEndpoint(**{"url": server.url, "model": "tiny", "attempts": 3} | changes)

    return make


def ask(model, *prompts, **settings):
    return asyncio.run(model.complete([Request(prompt=p, max_tokens=1, logprobs=5, **settings) for p in prompts]))


def test_a_prompt_is_completed_with_its_alternatives(client, server):
    (found,) = ask(client(), "the river")
    assert (found.text, found.error, found.usage.prompt_tokens) == (" Yes", None, 2)
    assert [token for token, _ in found.tokens[0].top] == [" Yes", "yes", " no"]
    path, _, body = server.requests[0]
    assert path == "/v1/completions"
    expected = {"model": "tiny", "prompt": "the river", "max_tokens": 1, "temperature": 0.0, "seed": 0, "logprobs": 5}
    assert body == expected


def test_messages_go_to_the_chat_and_give_the_same_completion(client, server):
    turns = (Message("system", "Judge."), Message("user", "the river"))
    (found,) = asyncio.run(client().complete([Request(messages=turns, max_tokens=1, logprobs=5)]))
    path, _, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "system", "content": "Judge."}, {"role": "user", "content": "the river"}]
    assert (body["logprobs"], body["top_logprobs"]) == (True, 5)
    (same,) = ask(client(), "the river")
    assert (found.text, found.tokens) == (same.text, same.tokens)


def test_samples_of_one_request_have_seeds_of_their_own(client, server):
    ask(client(), "a", temperature=1.0, seed=5)
    for sample in (1, 2):
        ask(client(), "a", temperature=1.0, seed=5, sample=sample)
    seeds = [body["seed"] for _, _, body in server.requests]
    assert seeds[0] == 5
    assert len(set(seeds)) == 3


def test_completions_come_back_in_order_with_bounded_requests_in_flight(client, server):
    server.pause = 0.05
    prompts = ["river", "stone"] * 6
    found = ask(client(concurrency=3), *prompts)
    assert [one.text for one in found] == [" Yes", " no"] * 6
    assert server.most == 3


def test_no_request_asks_nothing(client, server):
    assert asyncio.run(client().complete([])) == []
    assert server.requests == []


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503, None], ids=str)
def test_what_may_pass_is_tried_again(client, server, status):
    server.answers = [(status, {"error": "busy"}, {})] * 2
    (found,) = ask(client(), "river")
    assert found.text == " Yes"
    assert len(server.requests) == 3


def test_the_time_that_the_server_asks_for_is_waited(client, server, monkeypatch):
    monkeypatch.setattr(endpoint, "_LONGEST_WAIT", 30.0)
    monkeypatch.setattr(endpoint, "_FIRST_WAIT", 0.0)
    ask(client(), "river")  # what is imported at first is not waited for
    server.answers = [(429, {}, {"Retry-After": "0.6"})]
    started = time.perf_counter()
    ask(client(), "river")
    assert time.perf_counter() - started >= 0.6


def test_what_does_not_pass_is_an_error_of_that_request_alone(client, server):
    server.rule = lambda body: (503, {"error": "busy"}, {}) if "stone" in body["prompt"] else None
    river, stone, again = ask(client(), "river", "stone", "river")
    assert (river.text, again.text) == (" Yes", " Yes")
    assert stone.error.startswith("status 503 (")
    assert stone.tokens == ()
    assert len(server.requests) == 5


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_is_refused_is_not_tried_again(client, server, status):
    server.rule = lambda body: (status, {"error": "too  long"}, {}) if "stone" in body["prompt"] else None
    river, stone = ask(client(), "river", "stone")
    assert (river.error, len(server.requests)) == (None, 2)
    assert stone.error == f'status {status}: {{"error": "too long"}}'


def test_a_request_ends_at_its_deadline_however_often_the_server_asks_to_wait(client, server, monkeypatch):
    monkeypatch.setattr(endpoint, "_LONGEST_WAIT", 30.0)
    server.rule = lambda _: (429, {}, {"Retry-After": "0.3"})
    started = time.perf_counter()
    (found,) = ask(client(attempts=100, deadline=0.8), "river")
    assert time.perf_counter() - started < 5
    assert found.error.startswith("status 429")
    server.rule, server.pause = None, 1.5
    (slow,) = ask(client(timeout=60.0, deadline=0.3), "river")
    assert slow.error == "no answer within the deadline of 0.3 s"


def test_a_server_that_takes_too_long_is_tried_again(client, server):
    server.pause = 0.5
    (found,) = ask(client(timeout=0.1, attempts=2), "river")
    assert found.error.startswith("no answer (")
    assert len(server.requests) == 2


def test_nobody_at_the_address_is_an_error_of_each_request(client):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found = ask(client(url=f"http://127.0.0.1:{port}/v1", attempts=2), "a", "b")
    assert all(one.error.startswith("no answer (ConnectError") for one in found)


@pytest.mark.parametrize(("status", "mend"), [(401, "the API key"), (403, "the API key"), (404, "url"), (302, "url")])
def test_what_can_never_work_stops_everything_at_once(client, server, status, mend):
    server.rule = lambda _: (status, {"error": "no"}, {})
    with pytest.raises(InputError, match=rf"model server .*got status {status} .*allowed 200; check {mend}"):
        ask(client(concurrency=1), *"abcdefgh")
    assert len(server.requests) < 8


@pytest.mark.parametrize(
    "answer",
    [b"<html>", {}, {"choices": []}, {"choices": [{"text": None}]}, {"choices": "a"}, [1],
     {"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": ["x"]}}]}],
    ids=str,
)  # fmt: skip
def test_an_answer_of_another_shape_is_an_error_of_its_request(client, server, answer):
    server.answers = [(200, answer, {})]
    (found,) = ask(client(), "river")
    assert found.error.startswith("an answer of another shape (")


def test_the_key_comes_from_the_environment_and_stays_out_of_pickles_and_messages(client, server, monkeypatch):
    monkeypatch.setenv("TINY_KEY", "sk-very-secret")
    model = client(api_key_env="TINY_KEY")
    model.setup()
    ask(model, "a")
    ask(client(), "a")
    assert [h.get("Authorization") for _, h, _ in server.requests] == ["Bearer sk-very-secret", None]
    assert b"secret" not in pickle.dumps(model)
    assert "secret" not in f"{model!r}{model.identity}"
    server.rule = lambda _: (401, {"error": "no"}, {})
    with pytest.raises(InputError) as error:
        ask(model, "a")
    assert "secret" not in str(error.value)
    monkeypatch.delenv("TINY_KEY")
    with pytest.raises(ConfigError, match="environment variable TINY_KEY is not set"):
        model.setup()


# ── AskLLM over HTTP ─────────────────────────────────────────────────────────────────────────────


def rows(*texts):
    return pa.RecordBatch.from_pydict({"text": pa.array(texts, pa.string())})


@pytest.mark.parametrize("style", ["prompt", "chat"])
def test_the_probability_of_yes_is_read_from_the_first_token(client, tmp_path, style):
    work = AskLLM(model=client(), store=str(tmp_path / "a.sqlite"), style=style)
    found = work.annotate(rows("by the river", "a stone", "", None, "  \n"))["score.askllm"]
    assert found.type == pa.float32()
    assert found.to_pylist() == [pytest.approx(0.9), pytest.approx(0.2), None, None, None]


def test_a_killed_run_of_askllm_pays_for_no_text_twice(client, server, tmp_path):
    texts = [f"river {i}" for i in range(150)]
    work = AskLLM(model=client(), store=str(tmp_path / "a.sqlite"))
    with server.lock:
        server.rule = lambda _: (401, {}, {}) if len(server.requests) > 100 else None
    with pytest.raises(InputError, match="status 401"):
        work.annotate(rows(*texts))
    server.rule, before = None, len(server.requests)
    assert work.annotate(rows(*texts))["score.askllm"].null_count == 0
    assert len(server.requests) - before == 150 - 64, "the group that was whole is kept"
    before = len(server.requests)
    assert work.annotate(rows(*texts[::-1]))["score.askllm"].null_count == 0
    assert len(server.requests) == before


def test_one_failed_request_is_a_null_score_and_a_count(client, server, tmp_path):
    server.rule = lambda body: (400, {"error": "no"}, {}) if "stone" in body["prompt"] else None
    work = AskLLM(model=client(), store=str(tmp_path / "a.sqlite"))
    columns, counts = work.edit(rows("river", "stone", "rivers"))
    assert columns["score.askllm"].to_pylist() == [pytest.approx(0.9), None, pytest.approx(0.9)]
    assert counts == {"status 400": 1}


# ── settings ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "got neither path nor url"),
        ({"path": "a", "url": "http://a/v1"}, "got both path and url"),
        ({"path": "a", "model": "m"}, "model or api_key_env beside path"),
        ({"url": "ftp://a", "model": "m"}, "model.url: got 'ftp://a'"),
        ({"url": "http://k@a/v1", "model": "m"}, "give the key by api_key_env"),
        ({"url": "http://a/v1"}, "model.model: got nothing"),
        ({"url": "http://a/v1", "model": "m", "api_key_env": "sk-1"}, "no name of an environment variable"),
        ({"path": "a", "batch_tokens": 0}, "model.batch_tokens: got 0"),
        ({"url": "http://a/v1", "model": "m", "deadline": 0.0}, "model.deadline: got 0.0"),
    ],
)
def test_settings_that_name_no_model_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        GeneratorConfig(**given)


def test_every_setting_of_a_server_reaches_its_client():
    given = {"url": "http://a/v1", "model": "m", "revision": "2", "api_key_env": "K", "concurrency": 2}
    given |= {"timeout": 3.0, "deadline": 4.0, "attempts": 5}
    assert GeneratorConfig(**given).resolve() == ChatEndpoint(**given)
