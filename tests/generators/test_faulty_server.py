"""A server that fails in every way at once: no failure reaches another request, and nothing is paid for twice."""

import asyncio
import collections
import json
import random
import time

import pytest

from penstock.generators import endpoint
from penstock.generators.answers import AnswerStore
from penstock.generators.base import Request
from penstock.generators.endpoint import ChatEndpoint
from penstock.generators.session import ModelSession
from penstock.generators.structured import ask_structured

pytestmark = pytest.mark.server

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def good(number):
    usage = {"prompt_tokens": 5, "completion_tokens": 3}
    return {"choices": [{"text": json.dumps({"n": number}), "finish_reason": "stop"}], "usage": usage}


class Faulty:
    """A rule for the server: each prompt "… number N" meets one fault, some of them once, some of them for ever."""

    FAULTS = {
        "none": None,
        "busy": lambda n: (429, {}, {}),
        "storm": lambda n: (503, {}, {"Retry-After": "0.01"}),
        "error": lambda n: (500, {"error": "oops"}, {}),
        "hang up": lambda n: (None, b"", {}),
        "cut": lambda n: (200, json.dumps(good(n))[:-20].encode(), {}),
        "short": lambda n: (200, b"{", {"Content-Length": "90", "Connection": "close"}),
        "twice": lambda n: (200, good(n) | {"choices": good(n)["choices"] * 2}, {}),
        "miscounted": lambda n: (200, good(n) | {"usage": {"prompt_tokens": "x", "completion_tokens": -1}}, {}),
        "empty": lambda n: (200, {"choices": []}, {}),
        "refused": lambda n: (400, {"error": "too long"}, {}),
        "prose": lambda n: (200, {"choices": [{"text": "I would say five."}]}, {}),
        "slow": lambda n: time.sleep(0.6) or (200, good(n), {}),
    }
    ONCE = ("busy", "storm", "error", "hang up", "cut", "short", "slow")  # tried again, so the row is answered
    HARMLESS = ("none", "twice", "miscounted")

    def __init__(self, rows, seed):
        self.fault = dict(zip(range(rows), random.Random(seed).choices(list(self.FAULTS), k=rows), strict=True))
        self.asked = collections.Counter()

    def __call__(self, body):
        number = int(body["prompt"].split("number ")[1].split("\n")[0])
        self.asked[number] += 1
        kind = self.fault[number]
        if kind == "none" or (kind in self.ONCE and self.asked[number] > 1):
            return 200, good(number), {}
        return self.FAULTS[kind](number)


def test_every_row_has_its_own_answer_or_its_own_error_and_only_failures_are_asked_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "_LONGEST_WAIT", 0.02)
    rows = 90
    rule = server.rule = Faulty(rows, seed=2)
    assert set(rule.fault.values()) == set(Faulty.FAULTS), "each fault is met"
    model = ChatEndpoint(url=server.url, model="m", concurrency=24, attempts=8, timeout=0.4)
    store = AnswerStore(path=str(tmp_path / "a.sqlite"))
    requests = [Request(prompt=f"Give number {i}\n") for i in range(rows)]

    def ask():
        session = ModelSession(model, store=store)
        return session, asyncio.run(ask_structured(session, requests, SCHEMA, corrections=1))

    session, found = ask()
    for number, one in enumerate(found):
        kind = rule.fault[number]
        if kind in (*Faulty.ONCE, *Faulty.HARMLESS):
            assert (one.value, one.error) == ({"n": number}, None), kind
        else:
            expected = {"empty": "an answer of another shape", "refused": "status 400", "prose": "no valid JSON"}
            assert one.error.startswith(expected[kind]), (kind, one.error)
            assert len(one.completions) == (2 if kind == "prose" else 1)
    kinds = collections.Counter(rule.fault.values())
    failed = {"an answer of another shape": kinds["empty"], "status 400": kinds["refused"]}
    assert session.meter.failed == failed
    assert session.meter.asked == rows + kinds["prose"]

    before = rule.asked.copy()
    again, same = ask()
    assert [one.value for one in same] == [one.value for one in found]
    asked = rule.asked - before
    assert set(asked) == {n for n, kind in rule.fault.items() if kind in ("empty", "refused")}
    assert again.meter.asked == sum(failed.values())
