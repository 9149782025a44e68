"""Next bytes from a server that tells the likeliest tokens: bounds against all encodings, requests, failures."""

import itertools
import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from tokenizers import Tokenizer

from penstock.errors import ConfigError, InputError
from penstock.tokenization.bpe import BPEConfig, train_bpe
from penstock.tokenization.bytelevel import token_server
from penstock.tokenization.bytelevel.distributions import STOP, SYMBOLS
from penstock.tokenization.bytelevel.reading import BYTE_OF
from penstock.tokenization.bytelevel.sampling import Sampling, generate
from penstock.tokenization.bytelevel.server import ServerModel
from penstock.tokenization.bytelevel.token_server import TokenServer
from penstock.tokenization.bytelevel.tokenizer import ByteTokenizer

pytestmark = pytest.mark.server
SIZE, END = 290, 0
TEXT = "the reader reads the red thread; the thread's end isn't read   here.\nthere are threads\n\nto read"


class VLLM(ThreadingHTTPServer):
    """Answers as vLLM does; the next token depends on the last one: ``table`` (SIZE, SIZE) of probabilities."""

    daemon_threads = True

    def __init__(self, table):
        super().__init__(("127.0.0.1", 0), Handler)
        self.table, self.requests, self.answers = table, [], []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def told(self, body):
        ids, top = body["prompt"], body["logprobs"]

        def likeliest(last):
            best = np.argsort(-self.table[last], kind="stable")[:top].tolist()
            return {f"token_id:{token}": math.log(self.table[last, token]) for token in best}

        tops = [likeliest(last) for last in (ids if body["echo"] else ids[-1:])]
        values = [max(tops[-1].values())]
        if body["echo"]:
            tops = [None, *tops]
            values = [None, *(math.log(self.table[a, b]) for a, b in itertools.pairwise(ids)), *values]
        return {"choices": [{"text": "", "logprobs": {"token_logprobs": values, "top_logprobs": tops}}]}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        status, value = self.server.answers.pop(0) if self.server.answers else (200, self.server.told(body))
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Nothing: the test's output is not the server's log."""


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_buffer(train_bpe([TEXT] * 3, BPEConfig(vocabulary_size=SIZE)))


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(token_server, "_LONGEST_WAIT", 0.01)
    made = VLLM(np.random.default_rng(0).dirichlet(np.full(SIZE, 0.1), size=SIZE) * 0.9 + 0.1 / SIZE)
    thread = threading.Thread(target=made.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture(scope="module")
def read(tokenizer):
    return ByteTokenizer.of(tokenizer)


@pytest.fixture
def model(server, read):
    def make(top=SIZE, **changes):
        return ServerModel(TokenServer(url=server.url, model="m", top=top, **changes), read, (END,), (END,))

    return make


def exact(tokenizer, table, text):
    """P of every next symbol, from all sequences of tokens that an encoding of some text begins with."""
    spelt = [bytes(BYTE_OF[c] for c in tokenizer.id_to_token(i)) if i > 1 else b"" for i in range(SIZE)]
    # what can come next and change how the last tokens are cut
    after = ["", *"x h?\n'"]
    tokenizer.encode_special_tokens = True

    def valid(ids, data):
        if not data.isascii():  # beyond ASCII this tokenizer has single bytes: one that begins a character
            return data[:-1].isascii() and data[-1] in range(0xC2, 0xF5) and valid(ids[:-1], data[:-1])
        found = tokenizer.encode_batch([data.decode() + more for more in after], add_special_tokens=False)
        return any(one.ids[: len(ids)] == ids for one in found)

    mass, open_ = np.zeros(SYMBOLS), [([], b"", 1.0)]
    while open_:
        ids, data, p = open_.pop()
        for token in range(2, SIZE):
            more, last = data + spelt[token], [END, *ids][-1]
            if (not more.startswith(text) and not text.startswith(more)) or not valid([*ids, token], more):
                continue
            if len(more) > len(text):
                mass[more[len(text)]] += p * table[last, token]
            else:
                open_.append(([*ids, token], more, p * table[last, token]))
    whole = tokenizer.encode(text.decode(), add_special_tokens=False).ids
    mass[STOP] = math.prod(table[a, b] for a, b in itertools.pairwise([END, *whole, END]))
    return mass / mass.sum()


CUTS = (0, 1, 6, 9, 12, 22, 38, 40, 45, 61, 63, 66, 69, 70, 90)


@pytest.mark.parametrize("cut", CUTS)
def test_all_tokens_told_give_the_exact_next_byte(server, model, tokenizer, cut):
    text = TEXT[:cut].encode()
    state = model().start([text])
    expected = exact(tokenizer, server.table, text)
    np.testing.assert_allclose(np.exp(state.log_probs()[0]), expected, atol=1e-9)
    low, high = state.bounds()
    np.testing.assert_allclose(np.exp(low[0]), expected, atol=1e-9)
    np.testing.assert_allclose(np.exp(high[0]), expected, atol=1e-9)


@pytest.mark.parametrize("top", [1, 5, 40])
def test_bounds_hold_the_exact_next_byte_whatever_is_not_told(server, model, tokenizer, top):
    texts = [TEXT[:cut].encode() for cut in CUTS]
    state = model(top).start(texts)
    low, high = map(np.exp, state.bounds())
    expected = np.stack([exact(tokenizer, server.table, text) for text in texts])
    assert (low <= expected + 1e-9).all()
    assert (expected <= high + 1e-9).all()
    np.testing.assert_allclose(np.exp(state.log_probs()).sum(axis=1), 1.0, atol=1e-9)


def test_more_told_tokens_make_narrower_bounds(model):
    texts = [TEXT[:cut].encode() for cut in CUTS]
    width = {}
    for top in (2, 10, 50, SIZE):
        low, high = map(np.exp, model(top).start(texts).bounds())
        width[top] = float((high - low).sum())
    assert width[2] > width[10] > width[50] > width[SIZE]
    assert width[SIZE] < 1e-6


@pytest.mark.parametrize("top", [3, SIZE])
def test_bytes_one_by_one_give_what_the_prompt_at_once_gives(model, top):
    text = TEXT[:30].encode()
    made = model(top)
    state = made.start([text[:8]])
    total = 0.0
    for at in range(8, 30):
        fresh = model(top).start([text[:at]])
        np.testing.assert_allclose(np.exp(state.log_probs()), np.exp(fresh.log_probs()), atol=1e-9)
        np.testing.assert_allclose(np.exp(state.bounds().high), np.exp(fresh.bounds().high), atol=1e-9)
        total += state.log_probs()[0, text[at]]
        state.advance([text[at]])
    assert state.prefix_logprob[0] == pytest.approx(total)


def test_each_context_is_asked_for_once_and_by_its_ids(server, model, tokenizer):
    made = model(4)
    made.start([b"the rea", b"the rea"]).log_probs()
    contexts = [tuple(body["prompt"]) for body in server.requests]
    assert len(set(contexts)) == len(contexts)
    assert all(context[0] == END for context in contexts)
    body = server.requests[0]
    assert (body["max_tokens"], body["temperature"], body["logprobs"]) == (1, 0.0, 4)
    assert (body["echo"], body["return_tokens_as_token_ids"]) == (True, True)
    made.start([b"the rea"]).log_probs()
    assert len(server.requests) == len(contexts)


def test_text_is_drawn_from_it_like_from_a_model(model):
    settings = Sampling(max_bytes=6, seed=1)
    found = generate(model(), [b"the r", b"to "], settings, samples=2)
    assert [len(row) for row in found] == [2, 2]
    assert found == generate(model(), [b"the r", b"to "], settings, samples=2)


def test_rows_end_and_forks_go_on_apart(model):
    state = model(6).start([b"the", b"to"])
    fork = state.fork([1, 1, 0])
    fork.advance([STOP, ord(" "), ord(" ")])
    assert fork.log_probs()[0, STOP] == 0.0
    np.testing.assert_allclose(fork.log_probs()[1], model(6).start([b"to "]).log_probs()[0], atol=1e-9)
    assert state.size == 2


def test_what_may_pass_is_tried_again_and_what_may_not_is_refused(server, model):
    server.answers = [(503, {"error": "busy"})] * 2
    model(attempts=3).start([b"the"])
    server.answers = [(503, {"error": "busy"})] * 20
    with pytest.raises(InputError, match=r"status 503.*after 2 attempts"):
        model(attempts=2).start([b"the"])
    server.answers = [(400, {"error": "too many logprobs"})] * 20
    with pytest.raises(InputError, match="max-logprobs"):
        model().start([b"the"])
    server.answers = [(404, {})] * 20
    with pytest.raises(InputError, match="check url"):
        model().start([b"the"])
    server.answers = [(200, {"choices": [{"text": " a", "logprobs": None}]})] * 20
    with pytest.raises(InputError, match="log-probabilities by token id"):
        model().start([b"the"])


@pytest.mark.parametrize("prompt", [b"", b"th", b"  "])  # two spaces are one token or, before a word, two
def test_a_prompt_that_leaves_its_first_token_open_needs_what_stands_before(server, read, prompt):
    made = ServerModel(TokenServer(url=server.url, model="m"), read)
    with pytest.raises(ConfigError, match="begin"):
        made.start([prompt])
    assert server.requests == []


def test_special_tokens_in_prompts_are_refused(model):
    with pytest.raises(ConfigError, match="special tokens"):
        model().start([b"the"], special=True)


def test_a_byte_that_no_text_has_is_refused(model):
    with pytest.raises(InputError, match="no text of its tokenizer"):
        model().start([b"a\xff"])
    state = model().start([b"a"])
    with pytest.raises(InputError, match="0xff"):
        state.advance([0xFF])


@pytest.mark.parametrize("bad", [{"top": 0}, {"concurrency": 0}, {"attempts": 0}], ids=str)
def test_settings_below_one_are_refused(bad):
    with pytest.raises(ConfigError, match="allowed >= 1"):
        TokenServer(**{"url": "http://x/v1", "model": "m"} | bad)
