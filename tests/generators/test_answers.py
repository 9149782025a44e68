"""Answers are asked for once: stores that are killed, shared, broken, and failures that are not kept."""

import asyncio
import json
import multiprocessing
import sqlite3

import pytest

from penstock.errors import StorageError
from penstock.generators.answers import AnswerStore, default_store
from penstock.generators.base import Completion, Request, TokenLogprob, digest
from penstock.generators.session import ModelSession


class Counting:
    """A model that answers with the prompt in capitals, dies at the n-th request, and fails those with "bad"."""

    identity = {"kind": "counting"}

    def __init__(self, dies_at=None, group=4):
        self.asked, self.dies_at, self.group = [], dies_at, group

    def setup(self):
        pass

    async def complete(self, requests):
        out = []
        for request in requests:
            if len(self.asked) == self.dies_at:
                raise KeyboardInterrupt
            self.asked.append(request.prompt)
            bad = "bad" in request.prompt
            tokens = (TokenLogprob("A", -0.5, (("A", -0.5),)),)
            out.append(Completion(error="no") if bad else Completion(text=request.prompt.upper(), tokens=tokens))
        return out


def ask(model, prompts, path):
    session = ModelSession(model, store=AnswerStore(path=str(path)))
    found = asyncio.run(session.complete([Request(prompt=p) for p in prompts]))
    return [one.text if one.error is None else None for one in found]


PROMPTS = [f"text {i}" for i in range(13)]
UPPER = [p.upper() for p in PROMPTS]


def test_a_second_run_asks_nothing_and_gets_the_same(tmp_path):
    first, second = Counting(), Counting()
    assert ask(first, PROMPTS, tmp_path / "a.sqlite") == ask(second, PROMPTS, tmp_path / "a.sqlite") == UPPER
    assert (len(first.asked), second.asked) == (13, [])


@pytest.mark.parametrize("dies_at", [0, 1, 4, 7, 12])
def test_a_killed_run_pays_again_for_the_group_in_flight_alone(tmp_path, dies_at):
    first, second = Counting(dies_at), Counting()
    with pytest.raises(KeyboardInterrupt):
        ask(first, PROMPTS, tmp_path / "a.sqlite")
    assert ask(second, PROMPTS, tmp_path / "a.sqlite") == UPPER
    assert second.asked == PROMPTS[dies_at - dies_at % 4 :]


def test_equal_requests_of_one_call_are_asked_once(tmp_path):
    model = Counting()
    assert ask(model, ["a", "b", "a", "a"], tmp_path / "a.sqlite") == ["A", "B", "A", "A"]
    assert model.asked == ["a", "b"]


def test_a_failure_is_not_kept_and_is_asked_again(tmp_path):
    for _ in range(2):
        model = Counting()
        assert ask(model, ["a", "bad", "b"], tmp_path / "a.sqlite") == ["A", None, "B"]
        assert "bad" in model.asked
    assert model.asked == ["bad"]


def test_more_keys_than_one_query_takes_are_found(tmp_path):
    prompts = [f"p{i}" for i in range(1203)]
    ask(Counting(group=400), prompts, tmp_path / "a.sqlite")
    again = Counting()
    assert len(set(ask(again, prompts, tmp_path / "a.sqlite"))) == 1203
    assert again.asked == []


def fill(path, start):
    ask(Counting(group=3), [f"p{i}" for i in range(start, start + 60)], path)


def test_processes_write_into_one_file_at_a_time(tmp_path):
    path = str(tmp_path / "deep" / "a.sqlite")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=fill, args=(path, start)) for start in (0, 30, 60)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    model = Counting()
    ask(model, [f"p{i}" for i in range(120)], path)
    assert model.asked == []


def test_a_file_of_an_earlier_version_is_taken_on(tmp_path):
    path, request = tmp_path / "a.sqlite", Request(prompt="a")
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE answers (digest TEXT PRIMARY KEY, body TEXT NOT NULL)")
        body = {"text": "kept", "tokens": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}, "error": None}
        connection.execute("INSERT INTO answers VALUES (?, ?)", (digest(Counting(), request), json.dumps(body)))
    connection.close()
    model = Counting()
    assert ask(model, ["a", "b"], path) == ["kept", "B"]
    assert model.asked == ["b"]
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT model, made > 1700000000 FROM answers ORDER BY rowid").fetchall()
    connection.close()
    assert rows == [(None, None), ("counting", 1)]


def test_a_file_that_is_no_database_says_what_to_do(tmp_path):
    (tmp_path / "a.sqlite").write_text("not a database, and long enough to be looked at as one" * 10)
    with pytest.raises(StorageError, match=r"a.sqlite: answers cannot be kept there .*name another file, or remove it"):
        ask(Counting(), ["a"], tmp_path / "a.sqlite")


def test_an_error_of_the_model_is_not_told_as_one_of_the_store(tmp_path):
    class Broken(Counting):
        async def complete(self, requests):
            raise OSError("the model's file is gone")

    with pytest.raises(OSError, match="the model's file is gone"):
        ask(Broken(), ["a"], tmp_path / "a.sqlite")


def test_the_store_lies_in_the_cache_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ask(Counting(), ["a"], default_store())
    with sqlite3.connect(tmp_path / "penstock" / "answers.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM answers").fetchone() == (1,)
    connection.close()
