"""A server on loopback that speaks OpenAI's API and fails when told to, models and an embedder made up for tests."""

import hashlib
import json
import math
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from penstock.embedding.base import normalised
from penstock.errors import BudgetError
from penstock.generators.base import Completion, Usage


class Server(ThreadingHTTPServer):
    """Says yes to texts with "river"; ``answers`` are what the next requests get instead, ``rule`` what all get."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.requests, self.rule = [], [], None
        self.listing = (200, {"object": "list", "data": []}, {})  # answer to GET /v1/models
        self.running = self.most = 0
        self.pause = 0.0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_):
        """Nothing: clients that hang up are what tests are about."""


def told(body):
    """What a server answers to a body: the first word is yes with 0.9 where a river is spoken of, else with 0.2."""
    chat = "messages" in body
    text = body["messages"][-1]["content"] if chat else body["prompt"]
    p = 0.9 if "river" in text else 0.2
    top = {" Yes": math.log(p * 0.8), "yes": math.log(p * 0.2), " no": math.log(1 - p)}
    said = max(top, key=top.get)
    usage = {"prompt_tokens": len(text.split()), "completion_tokens": 1}
    if chat:
        choice = {"message": {"role": "assistant", "content": said}}
        if body.get("logprobs"):
            tops = [{"token": t, "logprob": v} for t, v in top.items()][: body["top_logprobs"]]
            choice["logprobs"] = {"content": [{"token": said, "logprob": top[said], "top_logprobs": tops}]}
    else:
        choice = {"text": said}
        if body.get("logprobs"):
            choice["logprobs"] = {"tokens": [said], "token_logprobs": [top[said]], "top_logprobs": [top]}
    return {"choices": [choice], "usage": usage}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

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
            answer = (200, told(body), {})
        with server.lock:
            server.running -= 1
        self.reply(*answer)

    def do_GET(self):
        self.reply(*self.server.listing)

    def reply(self, status, value, headers):
        if status is None:
            self.close_connection = True
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


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A Llama of two layers with random weights and a tokenizer of single letters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    made = tmp_path_factory.mktemp("letters")
    letters = ["<pad>", "<eos>", *"abcdefghijklmnopqrstuvwxyz "]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(letters)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(made / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "pad_token": "<pad>"}
    (made / "tokenizer_config.json").write_text(json.dumps(settings))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(letters),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=32,
                bos_token_id=None,
                eos_token_id=1,
                pad_token_id=0,
            )
        )  # fmt: skip
    for parameter in model.parameters():  # random weights say next to nothing: their logits lie within 0.1
        if parameter.ndim == 2:
            parameter.data.mul_(6.0)
    model.save_pretrained(made)
    return made


class Scripted:
    """A language model that answers each request by ``rule(request)``, a text or a Completion; ``asked`` keeps them."""

    def __init__(self, rule, name="scripted"):
        self.rule, self.identity, self.asked = rule, {"kind": "scripted", "model": name}, []

    def setup(self):
        pass

    async def complete(self, requests):
        self.asked += requests
        found = [self.rule(request) for request in requests]
        usage = Usage(prompt_tokens=10, completion_tokens=5)
        return [one if isinstance(one, Completion) else Completion(text=one, usage=usage) for one in found]


@pytest.fixture
def scripted():
    """The class of models that a test scripts."""
    return Scripted


class Queued:
    """LanguageModel: answers in turn what it is given, or what a rule says of a request; None fails the request."""

    identity = {"kind": "scripted", "model": "scripted-1", "revision": "r1"}

    def __init__(self, answers=(), rule=None, budget=None):
        self.answers, self.rule, self.budget = list(answers), rule, budget
        self.asked = []

    def setup(self):
        pass

    async def complete(self, requests):
        return [self._one(request) for request in requests]

    def _one(self, request):
        if self.budget is not None and len(self.asked) >= self.budget:
            raise BudgetError("requests: got one more, allowed no more; raise the budget")
        self.asked.append(request)
        answer = self.rule(request) if self.rule is not None else self.answers.pop(0)
        if answer is None:
            return Completion(error="status 500")
        return Completion(text=answer, usage=Usage(prompt_tokens=7, completion_tokens=len(answer.split())))


@dataclass(frozen=True)
class HashedWords:
    """Embedder: the sum of a random direction a word; a text of signs alone is zero, one with "poison" NaN."""

    dimensions: int = 32
    embedded: list = field(default_factory=list, compare=False, hash=False)

    def setup(self):
        pass

    def embed(self, texts):
        assert all(text.strip() for text in texts)
        self.embedded.extend(texts)
        rows = np.zeros((len(texts), self.dimensions))
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                if any(c.isalnum() for c in word):
                    seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=6).digest(), "little")
                    row += np.random.default_rng(seed).normal(size=self.dimensions)
        out = normalised(rows)
        out[["poison" in text for text in texts]] = np.nan
        return out


@pytest.fixture
def queued():
    """The class of models that answer in turn."""
    return Queued


@pytest.fixture
def words():
    """An embedder of words."""
    return HashedWords()
