"""What a store holds, and what goes from it by age, by model and by size, while others write."""

import multiprocessing
import os
import time

import pytest

from penstock.errors import ConfigError
from penstock.generators.answers import AnswerStore, AnswerWriter
from penstock.generators.base import Completion
from penstock.generators.pruning import ModelAnswers, StoreStats, prune, store_stats

DAY = 86400


@pytest.fixture
def store(tmp_path):
    """Of model ``a`` an answer of each of the last ten days, of ``b`` of the last three, and two without name and
    time."""
    store = AnswerStore(path=str(tmp_path / "a.sqlite"))
    now = int(time.time())
    with store.open() as connection:
        for model, days in (("a", 10), ("b", 3)):
            AnswerWriter(connection, model).put({f"{model}{day}": Completion(text="x" * 10) for day in range(days)})
        AnswerWriter(connection, "old").put({"old1": Completion(text="x"), "old2": Completion(text="x")})
        with connection:
            connection.execute("UPDATE answers SET made = ? - 60 - ? * substr(digest, 2)", (now, DAY))
            connection.execute("UPDATE answers SET made = NULL, model = NULL WHERE model = 'old'")
    return store


def left(store):
    with store.open() as connection:
        return sorted(key for (key,) in connection.execute("SELECT digest FROM answers"))


def every(model, days):
    return [f"{model}{day}" for day in days]


def test_models_are_told_with_their_answers_bytes_and_times(store):
    found = store_stats(store)
    assert [(one.model, one.answers) for one in found.models] == [("a", 10), ("b", 3), ("(unnamed)", 2)]
    a, b, unnamed = found.models
    with store.open() as connection:
        bodies = [len(body.encode()) for (body,) in connection.execute("SELECT body FROM answers WHERE model = 'a'")]
    assert a.bytes == sum(bodies)
    assert round((a.newest - a.oldest) / DAY) == 9
    assert (b.answers, found.answers) == (3, 15)
    assert unnamed == ModelAnswers(model="(unnamed)", answers=2, bytes=unnamed.bytes, oldest=None, newest=None)
    assert found.bytes == os.path.getsize(store.path)


def test_a_store_that_is_not_there_holds_nothing_and_is_not_made(tmp_path):
    store = AnswerStore(path=str(tmp_path / "no.sqlite"))
    assert store_stats(store) == StoreStats(models=(), bytes=0)
    assert prune(store, model="a").answers == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "stays"),
    [
        ({"older_than": 5 * DAY}, every("a", range(5)) + every("b", range(3))),
        ({"model": "a"}, [*every("b", range(3)), "old1", "old2"]),
        ({"model": "a", "older_than": 2 * DAY}, [*every("a", range(2)), *every("b", range(3)), "old1", "old2"]),
        ({"model": "(unnamed)"}, every("a", range(10)) + every("b", range(3))),
        ({"older_than": 0}, []),
        ({"model": "c"}, every("a", range(10)) + every("b", range(3)) + ["old1", "old2"]),
    ],
    ids=str,
)
def test_what_is_old_or_of_a_model_goes(store, given, stays):
    would = prune(store, **given, dry_run=True)
    assert len(left(store)) == 15
    gone = prune(store, **given)
    assert left(store) == sorted(stays)
    assert would.answers == gone.answers == 15 - len(stays)
    assert gone.after == os.path.getsize(store.path)


def test_down_to_a_size_the_oldest_go_and_no_more_than_need_be(tmp_path):
    store = AnswerStore(path=str(tmp_path / "a.sqlite"))
    with store.writer("a") as writer:
        writer.put({f"{i:04}": Completion(text="x" * (200 + 7 * (i % 50))) for i in range(2000)})
    with store.open() as connection, connection:
        connection.execute("UPDATE answers SET made = 1000000 + (rowid * 7919) % 2000")
        order = [key for (key,) in connection.execute("SELECT digest FROM answers ORDER BY made")]
    whole = store_stats(store).bytes
    target = whole // 3
    gone = prune(store, to_bytes=target)
    assert os.path.getsize(store.path) == gone.after <= target
    assert gone.after > 0.85 * target
    assert left(store) == sorted(order[gone.answers :])
    assert prune(store, to_bytes=target).answers == 0
    assert prune(store, to_bytes=0).answers == 2000 - gone.answers
    assert store_stats(store).answers == 0


def write(path, start):
    store = AnswerStore(path=path)
    for i in range(start, start + 15):
        with store.writer("w") as writer:
            writer.put({f"w{i}": Completion(text="x" * 500)})


def test_others_write_meanwhile_and_lose_nothing(store):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=write, args=(store.path, start)) for start in (0, 15)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        prune(store, model="a")
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert sorted(left(store)) == sorted([*every("w", range(30)), *every("b", range(3)), "old1", "old2"])


def test_a_prune_by_nothing_is_refused(store):
    with pytest.raises(ConfigError, match="got nothing to go by, allowed an age, a model, a size"):
        prune(store)
