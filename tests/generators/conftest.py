"""A server on loopback that speaks OpenAI's API and fails when told to, and a tiny causal model in a folder."""

import json
import math
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Server(ThreadingHTTPServer):
    """Says yes to texts with "river"; ``answers`` are what the next requests get instead, ``rule`` what all get."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.requests, self.rule = [], [], None
        self.running = self.most = 0
        self.pause = 0.0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


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
        status, value, headers = answer
        with server.lock:
            server.running -= 1
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
