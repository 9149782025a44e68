"""Answers are asked for once: stores that are killed, shared, broken, and failures that are not kept."""

import asyncio
import multiprocessing
import sqlite3

import pytest

from penstock.errors import StorageError
from penstock.generators.answers import AnswerStore, complete_kept, default_store
from penstock.generators.base import Completion, Request, TokenLogprob


class Counting:
    """A model that answers with the prompt in capitals, dies at the n-th request, and fails those with "bad"."""

    identity = {"kind": "counting"}

    def __init__(self, dies_at=None):
        self.asked, self.dies_at = [], dies_at

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


def ask(model, prompts, path, group=4):
    store = AnswerStore(path=str(path))
    found = asyncio.run(complete_kept(model, [Request(prompt=p) for p in prompts], store, group))
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
    ask(Counting(), prompts, tmp_path / "a.sqlite", group=400)
    again = Counting()
    assert len(set(ask(again, prompts, tmp_path / "a.sqlite"))) == 1203
    assert again.asked == []


def fill(path, start):
    ask(Counting(), [f"p{i}" for i in range(start, start + 60)], path, group=3)


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


def test_a_file_that_is_no_database_says_what_to_do(tmp_path):
    (tmp_path / "a.sqlite").write_text("not a database, and long enough to be looked at as one" * 10)
    with pytest.raises(StorageError, match=r"a.sqlite: answers cannot be kept there .*name another file, or remove it"):
        ask(Counting(), ["a"], tmp_path / "a.sqlite")


def test_the_store_lies_in_the_cache_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ask(Counting(), ["a"], default_store())
    with sqlite3.connect(tmp_path / "penstock" / "answers.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM answers").fetchone() == (1,)
    connection.close()
