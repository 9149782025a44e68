"""Completions over HTTP against a real server that fails in all the ways servers do, and AskLLM through it."""

import asyncio
import email.utils
import pickle
import socket
import time

import pyarrow as pa
import pytest

from penstock import model_server
from penstock.errors import ConfigError, InputError
from penstock.generators import breaker, endpoint
from penstock.generators.answers import AnswerStore
from penstock.generators.base import Message, Request, Usage, canonical
from penstock.generators.config import GeneratorConfig
from penstock.generators.endpoint import ChatEndpoint
from penstock.generators.session import ModelSession
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


@pytest.mark.parametrize(
    ("told", "least"),
    [
        (lambda: "0.6", 0.6),
        (lambda: email.utils.formatdate(time.time() + 2.0, usegmt=True), 0.9),  # whole seconds
        (lambda: "Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        (lambda: "soon", 0.0),
    ],
    ids=["seconds", "date", "past", "neither"],
)
def test_the_time_that_the_server_asks_for_is_waited(client, server, monkeypatch, told, least):
    monkeypatch.setattr(endpoint, "_LONGEST_WAIT", 30.0)
    monkeypatch.setattr(model_server, "_FIRST_WAIT", 0.0)
    ask(client(), "river")  # what is imported at first is not waited for
    server.answers = [(429, {}, {"Retry-After": told()})]
    started = time.perf_counter()
    ask(client(), "river")
    assert least <= time.perf_counter() - started < least + 2.0


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


@pytest.fixture
def nobody():
    """An address where no server is."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/v1"


@pytest.mark.parametrize("how", ["setup", "complete"])
def test_nobody_at_the_address_stops_at_once_and_says_how_to_start_somebody(client, nobody, monkeypatch, how):
    monkeypatch.setattr(breaker, "_NOBODY", 0.05)
    model = client(url=nobody, attempts=100)
    said = rf"model server {nobody}, model tiny: got no answer \(ConnectError.*penstock models serve PATH.*model.url"
    with pytest.raises(InputError, match=said):
        model.setup() if how == "setup" else ask(model, *"abcdefgh")


def test_a_server_that_refuses_everything_is_given_up(client, server):
    server.rule = lambda _: (429, {"error": "quota"}, {})
    model = client(attempts=10**6, deadline=3600.0, patience=0.3)
    started = time.perf_counter()
    with pytest.raises(
        InputError, match=r"nothing but refusals for .*(status 429 .*quota|no answer).*Lower concurrency"
    ):
        ask(model, *(str(i) for i in range(50)))
    assert time.perf_counter() - started < 10


def test_a_storm_of_refusals_is_weathered_with_fewer_requests_in_flight(client, server):
    """A server that bears two at a time: what is more in flight is refused."""
    server.pause = 0.01
    server.rule = lambda _: (429, {}, {}) if server.running > 2 else None
    found = ask(client(concurrency=16, attempts=100), *(f"river {i}" for i in range(120)))
    assert all(one.text == " Yes" for one in found)
    refused = len(server.requests) - 120
    assert refused < 120, "without a limit that gives way most of 16 in flight are refused, again and again"


def test_setup_looks_whether_somebody_is_there_and_lets_the_key_be_refused(client, server):
    client().setup()
    for listing in ((404, {}, {}), (500, {}, {})):  # not every server lists its models
        server.listing = listing
        client().setup()
    server.listing = (401, {"error": "who are you"}, {})
    with pytest.raises(InputError, match=r"got status 401 .*check the API key"):
        client().setup()
    assert server.requests == []


def test_calls_that_run_at_once_share_the_requests_in_flight(client, server):
    server.pause = 0.05
    model = client(concurrency=3)

    async def both():
        return await asyncio.gather(
            *(model.complete([Request(prompt=f"river {n}{i}") for i in range(6)]) for n in "ab")
        )

    for found in asyncio.run(both()):
        assert all(one.text == " Yes" for one in found)
    assert server.most == 3


@pytest.mark.parametrize(("status", "mend"), [(401, "the API key"), (403, "the API key"), (404, "url"), (302, "url")])
def test_what_can_never_work_stops_everything_at_once(client, server, status, mend):
    server.rule = lambda _: (status, {"error": "no"}, {})
    with pytest.raises(InputError, match=rf"model server .*got status {status} .*allowed 200; check {mend}"):
        ask(client(concurrency=1), *"abcdefgh")
    assert len(server.requests) < 8


@pytest.mark.parametrize(
    "answer",
    [{}, {"choices": []}, {"choices": [{"text": None}]}, {"choices": "a"}, [1],
     {"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": ["x"]}}]}],
    ids=str,
)  # fmt: skip
def test_an_answer_of_another_shape_is_an_error_of_its_request(client, server, answer):
    server.answers = [(200, answer, {})]
    (found,) = ask(client(), "river")
    assert found.error.startswith("an answer of another shape (")


def test_a_body_that_is_cut_is_tried_again(client, server):
    server.answers = [(200, b'{"choices": [{"te', {}), (200, b"<html>", {})]
    (found,) = ask(client(), "river")
    assert (found.text, len(server.requests)) == (" Yes", 3)
    server.rule = lambda _: (200, b'{"choices"', {})
    (cut,) = ask(client(), "river")
    assert cut.error.startswith("an answer that is no JSON (")


def test_a_connection_that_ends_in_the_middle_of_a_body_is_tried_again(client, server):
    server.answers = [(200, b'{"choices": [', {"Content-Length": "500", "Connection": "close"})]
    (found,) = ask(client(timeout=1.0), "river")
    assert (found.text, len(server.requests)) == (" Yes", 2)


def test_a_body_that_cannot_be_unpacked_is_tried_again(client, server):
    server.answers = [(200, b"no gzip at all", {"Content-Encoding": "gzip"})]
    (found,) = ask(client(), "river")
    assert (found.text, len(server.requests)) == (" Yes", 2)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 2}, Usage(prompt_tokens=7, completion_tokens=2)),
        ({"prompt_tokens": -7, "completion_tokens": 2}, Usage()),
        ({"prompt_tokens": "many", "completion_tokens": 2}, Usage()),
        ({"prompt_tokens": None, "completion_tokens": 2}, Usage()),
        ({"total_tokens": 9}, Usage()),
        ([], Usage()),
        (None, Usage()),
    ],
)
def test_a_wrong_count_of_tokens_costs_no_answer(client, server, usage, expected):
    server.answers = [(200, {"choices": [{"text": "a"}], "usage": usage}, {})]
    (found,) = ask(client(), "river")
    assert (found.text, found.usage, found.error) == ("a", expected, None)


def test_of_more_choices_than_asked_for_the_first_is_taken(client, server):
    choices = [{"index": 1, "text": "b", "finish_reason": "stop"}, {"index": 0, "text": "a", "finish_reason": "length"}]
    server.answers = [(200, {"choices": [*choices, *choices]}, {})]
    (found,) = ask(client(), "river")
    assert (found.text, found.finish) == ("a", "length")


def test_what_a_request_sets_is_sent_and_what_it_leaves_is_not(client, server):
    schema = {"type": "object", "required": ["a"]}
    sent = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    more = {"top_p": 0.5, "stop": ("\n", "."), "schema": canonical(schema)}
    turns = (Message("user", "the river"),)
    asyncio.run(client().complete([Request(prompt="a", **more), Request(messages=turns, **more)]))
    for _, _, body in server.requests:
        assert (body["top_p"], body["stop"], body["response_format"]) == (0.5, ["\n", "."], sent)
    ask(client(schemas=False), "b", **more)
    ask(client(), "c")
    assert "response_format" not in server.requests[2][2]
    assert not {"top_p", "stop", "response_format"} & set(server.requests[3][2])


def test_a_refusal_in_words_is_the_text_of_its_answer(client, server):
    server.answers = [(200, {"choices": [{"message": {"content": None, "refusal": "I will not."}}]}, {})]
    (found,) = asyncio.run(client().complete([Request(messages=(Message("user", "a"),))]))
    assert (found.text, found.error) == ("I will not.", None)


def test_a_prompt_that_is_no_text_is_an_error_of_its_own(client):
    bad, good = ask(client(), "\ud800", "river")
    assert bad.error.startswith("a request that is no JSON (")
    assert good.text == " Yes"


def test_a_server_that_quotes_the_key_does_not_give_it_away(client, server, monkeypatch, caplog, tmp_path):
    """Wrong keys are quoted by servers in every way: in refusals, in answers, after the place where errors are cut."""
    caplog.set_level("DEBUG")
    monkeypatch.setenv("TINY_KEY", "sk-very-secret")
    model = client(api_key_env="TINY_KEY", attempts=2)
    quoting = "x" * 190 + " sk-very-secret"
    server.answers = [(400, {"error": quoting}, {})]
    server.answers += [(500, {"error": "sk-very-secret"}, {})] * 2
    server.answers += [(200, {"choices": [{"text": "your key is sk-very-secret"}]}, {})]
    server.answers += [(200, {"sk-very-secret": 1}, {})]
    store = AnswerStore(path=str(tmp_path / "a.sqlite"))
    said = ""
    for prompt in "abcd":
        said += repr(asyncio.run(ModelSession(model, store=store).complete([Request(prompt=prompt)])))
    server.rule = lambda _: (401, {"error": quoting[150:]}, {})
    with pytest.raises(InputError) as error:
        ask(model, "e")
    said += str(error.value)
    assert "your key is (the API key)" in said
    assert "sk-very" not in said + caplog.text
    assert b"sk-very" not in b"".join(file.read_bytes() for file in tmp_path.iterdir())


def test_a_key_that_is_only_a_placeholder_costs_no_answer_its_words(client, server, monkeypatch):
    monkeypatch.setenv("TINY_KEY", "EMPTY")
    server.answers = [(200, {"choices": [{"text": "an EMPTY room"}]}, {})]
    assert ask(client(api_key_env="TINY_KEY"), "a")[0].text == "an EMPTY room"


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
    assert 50 <= len(server.requests) - before <= 50 + 16, "what came is kept, what was in flight may be lost"
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
        ({"url": "http://a/v1", "model": "m", "patience": 0.0}, "model.patience: got 0.0"),
        ({"url": "http://a/v1", "model": "m", "engine": "vllm"}, "engine vllm beside url"),
        ({"path": "a", "arguments": {"dtype": "auto"}}, "arguments without vLLM"),
        ({"path": "a", "engine": "vllm", "python": "/b"}, "python without a server to start"),
    ],
)
def test_settings_that_name_no_model_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        GeneratorConfig(**given)


def test_every_setting_of_a_server_reaches_its_client():
    given = {"url": "http://a/v1", "model": "m", "revision": "2", "api_key_env": "K", "concurrency": 2}
    given |= {"timeout": 3.0, "deadline": 4.0, "attempts": 5, "patience": 6.0, "schemas": False}
    assert GeneratorConfig(**given).resolve() == ChatEndpoint(**given)
