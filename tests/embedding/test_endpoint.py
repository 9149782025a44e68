"""An HTTP embedder against a real server on loopback. Run: pytest tests/embedding/test_endpoint.py"""

import json
import pickle
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from penstock.embedding import endpoint
from penstock.embedding.endpoint import Endpoint
from penstock.errors import ConfigError, InputError

pytestmark = pytest.mark.server


def letters(text):
    return [float(text.count(c)) for c in "abc"]


class Server(ThreadingHTTPServer):
    """Counts letters; a test says in ``answers`` what the next requests get instead, and in ``rule`` what all get."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.requests, self.rule = [], [], None
        self.running = self.most = 0
        self.pause = 0.0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.running += 1
            server.most = max(server.most, server.running)
            server.requests.append((self.path, dict(self.headers), body))
            answer = server.answers.pop(0) if server.answers else None
        time.sleep(server.pause)
        if answer is None and server.rule is not None:
            answer = server.rule(body)
        if answer is None:
            # servers may answer out of order: `index` says which text a vector is of
            rows = [{"index": i, "embedding": letters(text)} for i, text in enumerate(body["input"])][::-1]
            answer = (200, {"data": rows, "model": body["model"]}, {})
        status, value, headers = answer
        with server.lock:
            server.running -= 1
        if status is None:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Nothing: the test's output is not the server's log."""


@pytest.fixture
def server():
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def client(server, monkeypatch):
    monkeypatch.setattr(endpoint, "_LONGEST_WAIT", 0.02)

    def make(**changes):
        return Endpoint(**{"url": server.url, "model": "tiny", "dimensions": 3, "attempts": 3} | changes)

    return make


TEXTS = ["a", "ab", "c", "bb", "abc", "cca", "b"]


def unit(texts):
    rows = np.array([letters(text) for text in texts])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(("batch_size", "concurrency"), [(1, 1), (1, 4), (3, 1), (3, 2), (64, 4)])
def test_vectors_come_back_in_order_at_unit_length(client, server, batch_size, concurrency):
    made = client(batch_size=batch_size, concurrency=concurrency).embed(TEXTS)
    assert made == pytest.approx(unit(TEXTS), abs=1e-6)
    assert made.dtype == np.float32
    sent = [body["input"] for _, _, body in server.requests]
    assert sorted(len(texts) for texts in sent) == sorted(
        len(TEXTS[i : i + batch_size]) for i in range(0, 7, batch_size)
    )
    assert {body["model"] for _, _, body in server.requests} == {"tiny"}
    assert {path for path, _, _ in server.requests} == {"/v1/embeddings"}


def test_no_text_asks_nothing(client, server):
    assert client().embed([]).shape == (0, 3)
    assert server.requests == []


def test_requests_are_in_flight_together_up_to_the_bound(client, server):
    server.pause = 0.15
    client(batch_size=1, concurrency=3).embed(TEXTS)
    assert server.most == 3


def test_a_slash_at_the_end_of_the_address_is_no_other_address(client, server):
    client(url=server.url + "/").embed(["a"])
    assert server.requests[0][0] == "/v1/embeddings"


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503, None], ids=str)
def test_what_may_pass_is_tried_again(client, server, status):
    server.answers = [(status, {"error": "busy"}, {})] * 2
    assert client().embed(["ab"]) == pytest.approx(unit(["ab"]), abs=1e-6)
    assert len(server.requests) == 3


def test_what_does_not_pass_stops_the_run_after_the_attempts(client, server):
    server.answers = [(503, {"error": "busy"}, {})] * 3
    with pytest.raises(InputError, match=r"status 503 .*after 3 attempts; start the server, or lower concurrency"):
        client().embed(["ab"])
    assert len(server.requests) == 3


def test_the_time_that_the_server_asks_for_is_waited(client, server, monkeypatch):
    monkeypatch.setattr(endpoint, "_LONGEST_WAIT", 30.0)
    server.answers = [(429, {}, {"Retry-After": "0.4"})]
    started = time.perf_counter()
    client().embed(["a"])
    assert time.perf_counter() - started >= 0.4
    server.answers = [(429, {}, {"Retry-After": "0"}), (429, {}, {"Retry-After": "0"})]
    client().embed(["a"])
    assert len(server.requests) == 5


def test_a_date_to_retry_at_and_a_negative_time_are_no_wait_of_their_own(client, server):
    server.answers = [(429, {}, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}), (429, {}, {"Retry-After": "-5"})]
    assert client().embed(["a"]).any()


def test_nobody_at_the_address_is_said_with_what_to_do(client):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(InputError, match=r"no answer \(ConnectError.*start the server"):
        client(url=f"http://127.0.0.1:{port}/v1", attempts=2).embed(["a"])


def test_a_server_that_takes_too_long_is_tried_again(client, server):
    server.pause = 0.5
    with pytest.raises(InputError, match=r"no answer.*Timeout"):
        client(timeout=0.1, attempts=2).embed(["a"])
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "mend"), [(401, "check the API key"), (403, "check the API key"), (404, "check url"), (302, "check url")]
)
def test_a_refusal_that_will_not_pass_stops_at_once(client, server, status, mend):
    server.answers = [(status, {"error": "no  such\nthing"}, {})]
    with pytest.raises(InputError, match=f"got status {status} .*no  ?such.*{mend}"):
        client().embed(["a"])
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_text_that_the_server_refuses_costs_its_own_vector_alone(client, server, status):
    bad = {"cca", "abc"}
    server.rule = lambda body: (status, {"error": "too long"}, {}) if bad & set(body["input"]) else None
    made = client().embed(TEXTS)
    for text, vector in zip(TEXTS, made, strict=True):
        wanted = np.zeros(3) if text in bad else unit([text])[0]
        assert vector == pytest.approx(wanted, abs=1e-6), text


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"<html>", "got an answer that is no list of embeddings"),
        ({"choices": []}, "is this an embedding model"),
        ({"data": [{"index": 0, "embedding": "AAAA"}]}, "no list of embeddings"),
        ({"data": [{"index": 0, "embedding": [1, 2]}]}, "got vectors of 2 dimensions, expected 3; the model behind"),
        ({"data": []}, "got 0 vectors for 1 texts"),
        ({"data": [{"index": 1, "embedding": [1, 2, 3]}]}, "allowed one each, numbered"),
        ({"data": [{"index": 0, "embedding": [1, 2, 3]}] * 2}, "got 2 vectors for 1 texts"),
    ],
)
def test_an_answer_of_another_shape_stops_the_run(client, server, answer, message):
    server.answers = [(200, answer, {})]
    with pytest.raises(InputError, match=message):
        client().embed(["a"])


def test_a_vector_that_holds_no_numbers_is_none(client, server):
    server.answers = [(200, {"data": [{"index": 0, "embedding": [None, 1, 2]}]}, {})]
    assert client().embed(["a"]).tolist() == [[0, 0, 0]]


def test_the_key_comes_from_the_environment_and_stays_out_of_pickles_and_messages(client, server, monkeypatch):
    monkeypatch.setenv("TINY_KEY", "sk-very-secret")
    work = client(api_key_env="TINY_KEY")
    work.setup()
    work.embed(["a"])
    client().embed(["a"])
    sent = [headers.get("Authorization") for _, headers, _ in server.requests]
    assert sent == ["Bearer sk-very-secret", None]
    assert b"secret" not in pickle.dumps(work)
    assert "secret" not in repr(work)
    server.answers = [(401, {"error": "no"}, {})]
    with pytest.raises(InputError) as error:
        work.embed(["a"])
    assert "secret" not in str(error.value)


def test_a_key_that_is_not_there_is_named_by_its_variable(client, server, monkeypatch):
    monkeypatch.delenv("TINY_KEY", raising=False)
    with pytest.raises(ConfigError, match="the environment variable TINY_KEY is not set"):
        client(api_key_env="TINY_KEY").setup()
    with pytest.raises(ConfigError, match="export it where penstock and its workers run"):
        client(api_key_env="TINY_KEY").embed(["a"])
    assert server.requests == []


def test_a_redirect_is_not_followed_with_the_key(client, server, monkeypatch):
    monkeypatch.setenv("TINY_KEY", "sk-very-secret")
    server.answers = [(302, {}, {"Location": server.url + "/elsewhere"})]
    with pytest.raises(InputError, match="got status 302"):
        client(api_key_env="TINY_KEY").embed(["a"])
    assert len(server.requests) == 1


def test_the_probe_finds_the_dimensions_and_a_refusal_of_everything(client, server):
    assert client(dimensions=0).probe().shape == (4, 3)
    server.rule = lambda body: (400, {"error": "model tiny is not known"}, {})
    with pytest.raises(InputError, match=r"a plain sentence was refused \(status 400: .*model tiny is not known"):
        client(dimensions=0).probe()
