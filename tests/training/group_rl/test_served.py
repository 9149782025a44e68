"""Answers of a server: ids of tokens from their texts, what cannot be told counted, log-probabilities as said."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.errors import ConfigError, TrainingError
from penstock.generators.base import Completion, Request, TokenLogprob
from penstock.generators.endpoint import ChatEndpoint
from penstock.seeding import hash_ids
from penstock.training.group_rl.config import GroupRLConfig
from penstock.training.group_rl.loop import learn
from penstock.training.group_rl.problems import ProblemTable
from penstock.training.group_rl.questions import Questions
from penstock.training.group_rl.sampling import Sampler
from penstock.training.group_rl.served import ServedPolicy, TokenIds

Make = Callable[..., GroupRLConfig]


@pytest.fixture(scope="module")
def small(half_right: Path) -> Any:
    """Model and tokenizer of the half-trained folder."""
    from penstock.scoring.model import load_causal_lm

    return load_causal_lm(half_right, "cpu")


class Scripted:
    """LanguageModel: what a rule says of a request."""

    identity = {"kind": "scripted", "model": "scripted-1"}

    def __init__(self, rule: Callable[[Request], Completion]) -> None:
        self.rule, self.asked = rule, list[Request]()

    def setup(self) -> None:
        pass

    async def complete(self, requests: Sequence[Request]) -> list[Completion]:
        self.asked += requests
        return [self.rule(request) for request in requests]


def said(*tokens: str, text: str | None = None, finish: str = "stop", logprob: float = -0.5) -> Completion:
    shown = "".join(token for token in tokens if not token.startswith("<")) if text is None else text
    return Completion(text=shown, tokens=tuple(TokenLogprob(t, logprob, ()) for t in tokens), finish=finish)


class Pieces:
    """A tokenizer whose tokens 2 and 3 read alike, and whose pieces have names of their own."""

    shown = ["<eos>", "a", "b", "b", " c", "�", "�"]
    pieces = ["<eos>", "a", "b", "▁b", "▁c", "<0xF0>", "<0x9F>"]
    eos_token_id = 0

    def get_vocab(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.pieces)}

    def batch_decode(self, ids: Any, **_: Any) -> list[str]:
        return ["".join(self.shown[i] for i in one) for one in ids]

    def decode(self, ids: Any, skip_special_tokens: bool, **_: Any) -> str:
        return "".join(self.shown[i] for i in ids if i or not skip_special_tokens)

    def convert_ids_to_tokens(self, ids: Any) -> list[str]:
        return [self.pieces[i] for i in ids]


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (said("a", " c", "<eos>", text="a c"), [1, 4, 0]),
        (said("▁c", "a", text=" ca"), [4, 1]),  # by the name of its piece
        (said("a", "▁b", text="ab"), [1, 3]),
        (said("a", "b"), None),  # two tokens have that text, and one of them that name
        (said("�", text="�"), None),
        (said("<0xF0>", "<0x9F>", text="��"), [5, 6]),
        (said("token_id:1", "token_id:2", text="ab"), [1, 2]),
        (said("token_id:7", text="a"), None),  # beyond the vocabulary
        (said("a", text="b"), None),  # not what it wrote
        (said("a", text="a\n"), [1]),
        (said("x"), None),
        (said(), None),
        (said("a", logprob=-math.inf), None),
    ],
)
def test_a_token_has_an_id_where_one_alone_has_its_text(completion: Completion, expected: list[int] | None) -> None:
    found = TokenIds(Pieces()).of(completion)
    assert (None if found is None else found.tolist()) == expected


def asking(small: Any, sums: ProblemTable, config: GroupRLConfig, rule: Any) -> tuple[ServedPolicy, Scripted]:
    questions = Questions.of(sums, small[1], instruction=config.instruction, most=None)
    model = Scripted(rule)
    return ServedPolicy(model, questions, small[1], config, ends=[1]), model


def test_what_failed_or_cannot_be_told_is_dropped_and_counted(small: Any, sums: ProblemTable, settings: Make) -> None:
    def rule(request: Request) -> Completion:
        if request.sample == 0:
            return said("5", "<eos>", text="5", logprob=0.0001)
        if request.sample == 1:
            return Completion(error="status 500")
        return said("5", "€") if request.sample == 2 else said("1", "2", finish="length")

    policy, model = asking(small, sums, settings(), rule)
    rollouts, lost = policy(3, np.array([2, 4]), 17)
    assert lost == {"status 500": 2, "unmatched": 2}
    assert rollouts.problem.tolist() == [2, 2, 4, 4]
    assert rollouts.group.tolist() == [0, 0, 1, 1]
    five, one, two = (small[1].get_vocab()[name] for name in "512")
    assert [response.tolist() for response in rollouts.responses[:2]] == [[five, 1], [one, two]]
    assert rollouts.ended.tolist() == [True, False, True, False]
    assert rollouts.texts == ("5", "12", "5", "12")
    assert rollouts.logprobs[0].tolist() == [0.0, 0.0]  # rounding above 0 is cut
    assert rollouts.logprobs[1].tolist() == [-0.5, -0.5]
    assert rollouts.version == 0
    assert rollouts.prompts[0] is rollouts.prompts[1]
    assert {(r.prompt, r.temperature, r.logprobs, r.max_tokens) for r in model.asked} == {
        (sums.problems[place].prompt, 1.0, 1, 4) for place in (2, 4)
    }
    assert [request.sample for request in model.asked] == [0, 1, 2, 3] * 2
    policy(4, np.array([2]), 17)
    assert model.asked[-1].seed != model.asked[0].seed  # another step is another draw


@pytest.mark.filterwarnings("ignore:the policy learns from answers that another one gave:UserWarning")
def test_a_server_that_only_fails_ends_the_run_with_what_it_said(
    half_right: Path, sums: ProblemTable, settings: Make, tmp_path: Path
) -> None:
    broken = Scripted(lambda request: Completion(error="status 500 (out of memory)"))
    config = settings(steps=9, checkpoint_every=1)
    with pytest.raises(TrainingError, match=r"step 3: no reward is known \(48 status 500\), as in 3 steps in a row"):
        learn(config, half_right, sums, tmp_path / "o", rollouts_from=broken, progress=False)
    records = [json.loads(line) for line in (tmp_path / "o" / "metrics.jsonl").read_text().splitlines()]
    assert [record["skipped"] for record in records] == ["no answer to learn from"] * 2
    assert records[0]["lost"] == {"status 500": 48}


def test_a_chat_is_asked_as_a_chat(small: Any, sums: ProblemTable, settings: Make, half_right: Path) -> None:
    from penstock.scoring.model import load_tokenizer

    tokenizer = load_tokenizer(half_right)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}="
    config = settings(instruction="add")
    questions = Questions.of(sums, tokenizer, instruction="add", most=None)
    model = Scripted(lambda request: said("5", "<eos>", text="5"))
    rollouts, _ = ServedPolicy(model, questions, tokenizer, config, ends=[1])(0, np.array([0]), 0)
    assert model.asked[0].prompt is None
    assert [(m.role, m.content) for m in model.asked[0].messages or ()] == [("user", f"add\n{sums.problems[0].prompt}")]
    assert len(rollouts.prompts[0]) == len("add\n2+0==")  # as the template writes it


def test_a_temperature_that_servers_do_not_tell_of_is_refused(small: Any, sums: ProblemTable, settings: Make) -> None:
    with pytest.raises(ConfigError, match=r"temperature: got 0\.7, allowed 1 with a server"):
        asking(small, sums, settings(temperature=0.7), said)


@pytest.fixture
def server(small: Any) -> Iterator[str]:
    """The half-trained model behind OpenAI's API; every seventh answer has no log-probabilities."""
    model, tokenizer = small
    sampler, lock, asked = Sampler(model, [1]), threading.Lock(), list[Any]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.reply({"object": "list", "data": []})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = np.array(tokenizer(body["prompt"])["input_ids"], dtype=np.int32)
            with lock:
                asked.append(body)
                stream = hash_ids([f"{body['prompt']} {body['seed']}"])
                found = sampler([prompt], stream, max_new_tokens=body["max_tokens"])
                number = len(asked)
            tokens = found.responses[0].tolist()
            names = [tokenizer.decode([token]) for token in tokens]
            choice: dict[str, Any] = {
                "text": tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False),
                "finish_reason": "stop" if found.ended[0] else "length",
            }
            if number % 7:
                choice["logprobs"] = {"tokens": names, "token_logprobs": found.logprobs[0].tolist()}
            self.reply({"choices": [choice]})

        def reply(self, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Nothing: the test's output is not the server's log."""

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{made.server_address[1]}/v1"
    made.shutdown()
    thread.join()
    made.server_close()


def test_a_policy_learns_from_a_server_that_does_not(
    server: str, half_right: Path, sums: ProblemTable, settings: Make, tmp_path: Path
) -> None:
    config = settings(steps=3, objective="grpo", phrasings="original", rollouts=6, learning_rate=2e-3)
    model = ChatEndpoint(url=server, model="half", concurrency=4)
    with pytest.warns(UserWarning, match="whose weights are not updated"):
        result = learn(config, half_right, sums, tmp_path / "o", rollouts_from=model, progress=False)
    records = [json.loads(line) for line in result.metrics.read_text().splitlines()]
    assert [record["behind"] for record in records] == [0, 1, 2]
    assert all(record["lost"]["unmatched"] in (3, 4) for record in records)
    assert [record["answers"] + record["lost"]["unmatched"] for record in records] == [24] * 3
    # it starts where the server stands, and moves away
    assert records[0]["ratio"] == pytest.approx(1.0, abs=1e-4)
    assert records[0]["approx_kl"] == pytest.approx(0.0, abs=1e-7)
    assert records[2]["approx_kl"] > 1e-5
