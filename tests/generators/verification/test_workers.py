"""Verifier processes: whatever an item does costs itself alone, and nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from penstock.errors import ConfigError, WorkerError
from penstock.generators.verification.workers import AnswerVerifier, Verified

HOSTILE = """
import os, time
from pathlib import Path

def setup():
    assert os.environ["OMP_NUM_THREADS"] == "1"

def compare(gold, answer):
    if answer.startswith("log"):
        with open(gold, "a") as file:
            file.write(f"{os.getpid()}\\n")
        return True
    if answer.startswith("sleep"):
        time.sleep(float(answer.split()[1]))
    elif answer.startswith("compute"):
        end = time.process_time() + float(answer.split()[1])
        while time.process_time() < end:
            pass
    elif answer == "crash":
        os.abort()
    elif answer == "leave":
        os._exit(3)
    elif answer == "eat":
        bytearray(1 << 40)
    elif answer == "swallow":
        held = []
        try:
            while True:
                held.append(bytearray(1 << 20))
        except MemoryError:
            return False
    elif answer == "nest":
        return compare(gold, answer)
    elif answer == "raise":
        raise KeyError("boom")
    return gold == answer
"""


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """Name of a comparison that does what the answer says."""
    (tmp_path / "hostile_compare.py").write_text(HOSTILE)
    monkeypatch.syspath_prepend(tmp_path)
    return "hostile_compare:compare"


def children():
    return [child for child in psutil.Process().children() if "hostile_compare" in " ".join(child.cmdline())]


def results(verifier, *answers, gold="a"):
    return [one.result for one in verifier.verify([(gold, answer) for answer in answers])]


def test_a_hanging_a_crashing_and_a_hungry_item_each_cost_one_item(hostile):
    with AnswerVerifier(workers=2, deadline=0.2, memory_mb=1024, compare=hostile) as verifier:
        found = verifier.verify(
            [("a", x) for x in ("a", "sleep 60", "b", "compute 60", "crash", "a", "eat", "leave", "raise", "nest", "a")]
        )
        assert [one.result for one in found] == [
            "correct", "timeout", "wrong", "timeout", "error", "correct", "error", "error", "error", "error", "correct",
        ]  # fmt: skip
        assert [one.detail for one in found if one.result in ("timeout", "error")] == [
            "no answer within 2 s",
            "no answer within 0.2 s of computing",
            "the process ended with SIGABRT",
            "out of memory",
            "the process ended with 3",
            "KeyError: 'boom'",
            "an expression nested too deeply",
        ]
        assert [one.reward for one in found[:4]] == [1.0, None, 0.0, None]
        assert verifier.counts == {"correct": 3, "wrong": 1, "timeout": 2, "error": 5}
        assert len(children()) == 2
    assert children() == []


def test_a_comparison_that_swallows_its_lack_of_memory_is_no_wrong_answer(hostile):
    with AnswerVerifier(workers=1, memory_mb=256, compare=hostile) as verifier:
        found = verifier.verify([("a", answer) for answer in ("b", "swallow", "c", "a")])
        assert [one.result for one in found] == ["wrong", "error", "wrong", "correct"]
        assert found[1].detail == "out of memory"


def test_waiting_for_a_worker_or_a_core_is_not_charged(hostile):
    with AnswerVerifier(workers=1, deadline=0.5, compare=hostile) as verifier:
        # together more than one may compute, each within it; asleep it computes nothing
        assert results(verifier, *(f"compute 0.2{n}" for n in range(3))) == ["wrong"] * 3
        assert results(verifier, "sleep 0.9", "compute 9", "a") == ["wrong", "timeout", "correct"]


def test_a_worker_is_replaced_after_so_many_items(hostile, tmp_path):
    log = tmp_path / "pids"
    with AnswerVerifier(workers=1, recycle=3, compare=hostile) as verifier:
        assert results(verifier, *(f"log {n}" for n in range(7)), gold=str(log)) == ["correct"] * 7
        pids = log.read_text().split()
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]
        assert len(children()) == 1


def test_a_worker_that_was_killed_while_idle_costs_nobody(hostile):
    with AnswerVerifier(workers=1, compare=hostile) as verifier:
        assert results(verifier, "a") == ["correct"]
        (idle,) = children()
        idle.kill()
        psutil.wait_procs([idle], timeout=10)
        assert results(verifier, "a", "b") == ["correct", "wrong"]


def test_equal_comparisons_are_made_once(hostile, tmp_path):
    log = tmp_path / "pids"
    with AnswerVerifier(workers=2, compare=hostile) as verifier:
        pairs = [(str(log), answer) for answer in ("log 1", "log 2", "#### log 1", "log 1")]
        assert {one.result for one in verifier.verify(pairs)} == {"correct"}
        assert len(log.read_text().split()) == 2
        assert verifier.counts == {"correct": 4}


def test_any_threads_may_ask_and_get_their_own_results(hostile):
    found = {}
    with AnswerVerifier(workers=2, compare=hostile) as verifier:

        def ask(number):
            found[number] = verifier.verify([(str(number), str(n)) for n in range(4)])

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(children()) <= 2
    for number, rows in found.items():
        assert [one.answer for one in rows] == ["0", "1", "2", "3"]
        assert [one.result == "correct" for one in rows] == [n == number for n in range(4)]


def test_the_library_decides_what_is_not_plain_and_nothing_starts_before():
    with AnswerVerifier(workers=1) as verifier:
        plain = verifier.verify([("72", "#### 72.0"), ("72", r"\boxed{73}"), ("72", r"so \boxed{72")])
        assert plain == [
            Verified("correct", "72.0", "text"),
            Verified("wrong", "73", "text"),
            Verified("wrong", None, "none", "no final answer"),
        ]
        assert not any("serve(" in " ".join(child.cmdline()) for child in psutil.Process().children())
        found = verifier.verify([("x+1", r"\boxed{1+x}"), ("x+1", r"\boxed{y+1}"), ("???", r"\boxed{y+1}")])
        assert [one.result for one in found] == ["correct", "wrong", "error"]
        assert {one.by for one in found} == {"library"}
        assert "is no expression" in found[2].detail


def test_what_is_too_long_never_reaches_a_comparison():
    with AnswerVerifier(max_response=100, max_answer=10) as verifier:
        rows = verifier.verify([("1", "1" * 101), ("x", r"\boxed{" + "x+" * 6 + "}"), ("x" * 11, r"\boxed{1}")])
        assert [(one.result, one.by) for one in rows] == [("error", "none")] * 3
        assert [one.detail for one in rows] == [
            "a response of 101 characters",
            "an answer of 12 characters",
            "an answer of 11 characters",
        ]
        assert verifier.verify([("1", " " * 99 + "1")])[0].result == "correct"


def test_closing_ends_what_is_asked_and_refuses_what_comes(hostile):
    verifier = AnswerVerifier(workers=1, deadline=30.0, compare=hostile)
    raised, ended = [], []

    def ask():
        try:
            ended.append(results(verifier, "sleep 60", "sleep 61"))
        except WorkerError as error:
            raised.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    while not children():
        time.sleep(0.01)
    verifier.close()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert raised or ended == [["error", "error"]]
    assert children() == []
    with pytest.raises(ConfigError, match="after close"):
        results(verifier, "a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers: got 0"),
        ({"deadline": 0}, "deadline: got 0"),
        ({"deadline": float("inf")}, "deadline: got inf"),
        ({"memory_mb": 0}, "memory_mb: got 0"),
        ({"recycle": 0}, "recycle: got 0"),
        ({"max_answer": 0}, "max_answer: got 0"),
        ({"compare": "math"}, "allowed module:function"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        AnswerVerifier(**options)


def test_a_comparison_that_cannot_be_imported_is_an_error_of_its_own():
    with (
        AnswerVerifier(workers=1, compare="no_such_module:compare") as verifier,
        pytest.raises(ConfigError, match=r"ModuleNotFoundError.*check that no_such_module:compare can be imported"),
    ):
        results(verifier, "a")


def test_workers_end_with_a_caller_that_is_killed_and_never_import_its_main_module(tmp_path):
    script = tmp_path / "trainer.py"
    script.write_text(
        "import sys, psutil, time\n"
        "print('started', flush=True)\n"  # no guard of __main__
        "from penstock.generators.verification.workers import AnswerVerifier\n"
        "verifier = AnswerVerifier(workers=1)\n"
        "print(verifier.verify([('x+1', '1+x')])[0].result, flush=True)\n"
        "print(psutil.Process().children()[0].pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    with process:
        lines = [process.stdout.readline().strip() for _ in range(3)]
        assert lines[:2] == ["started", "correct"]
        worker = psutil.Process(int(lines[2]))
        process.send_signal(signal.SIGKILL)
        gone, alive = psutil.wait_procs([worker], timeout=10)
        assert not alive
        assert gone
