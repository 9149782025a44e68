"""The process pool at home: what dies, what is kept, and that nobody is left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from penstock.errors import ConfigError, InputError, WorkerError
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.passes import Pass, read_receipts, run_pass, splits_of
from penstock.storage import Folder

# workers import row work by name, so it lies in a module of its own
WORKS = """
import os, signal, time
import pyarrow as pa
from penstock.errors import InputError

def rows(split, out):
    out.write("t", pa.record_batch({"n": pa.array([split.index] * split.payload)}))
    out.count(made=split.payload, kept=split.payload)

def environment(split, out):
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "TOKENIZERS_PARALLELISM")
    out.add_stats({name: {os.environ.get(name, "absent"): 1} for name in names})
    out.add_stats({"arrow": {str(pa.cpu_count()): 1}, "interrupt": {signal.getsignal(signal.SIGINT).name: 1}})

def third(split, out, what):
    rows(split, out)
    if split.index == 3:
        time.sleep(0.3)
        what()

def killed(split, out):
    third(split, out, lambda: os.kill(os.getpid(), signal.SIGKILL))

def bad_input(split, out):
    def refuse():
        raise InputError("file x: bad; replace it")
    third(split, out, refuse)

def broken(split, out):
    third(split, out, lambda: 1 // 0)

def greedy(split, out):
    def take():
        raise MemoryError
    third(split, out, take)

def forever(split, out):
    rows(split, out)
    if split.index >= 3:
        time.sleep(600)
"""

SPLITS = splits_of([1, 0, 4, 2, 1, 3])


@pytest.fixture
def works(tmp_path, monkeypatch):
    (tmp_path / "home_works.py").write_text(WORKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    import home_works

    yield home_works
    del sys.modules["home_works"]


@pytest.fixture
def folder(tmp_path):
    return Folder(str(tmp_path / "step"))


def job(folder, work):
    return Pass(folder, "0123456789ab/pass", work)


def workers():
    """Pids of live processes that a pool of this one started."""
    found = (p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE)
    return {p.pid for p in found if "spawn_main" in " ".join(p.cmdline())}


def facts(receipts):
    return [(r.split, r.counts, {name: (p.digest, p.file.sha256) for name, p in r.parts.items()}) for r in receipts]


def test_results_and_their_order_do_not_depend_on_the_workers(works, tmp_path):
    found = []
    for workers in (0, 3):
        with HomeEngine(workers) as engine:
            found.append(facts(run_pass(job(Folder(str(tmp_path / str(workers))), works.rows), SPLITS, engine)))
    assert found[0] == found[1]
    assert [split for split, _, _ in found[0]] == [split.id for split in SPLITS]


def test_done_is_called_once_a_split_and_a_pool_serves_many_passes(works, tmp_path):
    with HomeEngine(2) as engine:
        for name in ("one", "two"):
            seen = []
            engine.map(job(Folder(str(tmp_path / name)), works.rows), SPLITS, seen.append)
            assert seen == [1] * len(SPLITS)


def test_workers_started_before_the_first_pass_are_those_that_run_it(works, folder):
    before, seen = workers(), []
    with HomeEngine(2) as engine:
        engine.start()
        early = workers() - before
        engine.map(job(folder, works.rows), SPLITS, seen.append)
        assert workers() - before == early
    assert (len(early), seen) == (2, [1] * len(SPLITS))
    wait_for(lambda: not workers() & early, lambda: "workers outlive their engine")


def test_no_workers_are_started_where_the_caller_works_itself():
    before = workers()
    with HomeEngine(0) as engine:
        engine.start()
        assert workers() == before


def test_workers_use_one_thread_each_and_leave_ctrl_c_to_the_driver(works, folder, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("RAYON_NUM_THREADS", raising=False)
    with HomeEngine(1) as engine:
        (receipt,) = run_pass(job(folder, works.environment), SPLITS[:1], engine)
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "RAYON_NUM_THREADS" not in os.environ
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert receipt.stats == {
        "OMP_NUM_THREADS": {"1": 1},
        "OPENBLAS_NUM_THREADS": {"1": 1},
        "NUMBA_NUM_THREADS": {"1": 1},
        "TOKENIZERS_PARALLELISM": {"false": 1},
        "arrow": {"1": 1},
        "interrupt": {"SIG_IGN": 1},
    }


def test_a_killed_worker_says_what_to_do_and_the_next_run_makes_what_is_missing(works, folder):
    with HomeEngine(1) as engine:
        with pytest.raises(WorkerError, match=r"a worker process died .*run again to resume, with fewer --workers"):
            run_pass(job(folder, works.killed), SPLITS, engine)
        kept = read_receipts(job(folder, works.killed), SPLITS)
        assert set(kept) == {split.id for split in SPLITS[:3]}
        # the same engine starts a new pool
        receipts = run_pass(job(folder, works.rows), SPLITS, engine)
    assert receipts[:3] == [kept[split.id] for split in SPLITS[:3]]
    assert [r.counts.kept for r in receipts] == [1, 0, 4, 2, 1, 3]


@pytest.mark.parametrize(
    ("work", "kind", "expected"),
    [
        ("bad_input", InputError, "^file x: bad; replace it$"),
        ("broken", ZeroDivisionError, "integer division"),
        ("greedy", WorkerError, "memory ran out in 0123456789ab/pass; .*fewer --workers or smaller --split-mb"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_split_keeps_the_others(works, folder, work, kind, expected, workers):
    with HomeEngine(workers) as engine:
        with pytest.raises(kind, match=expected) as caught:
            run_pass(job(folder, getattr(works, work)), SPLITS, engine)
        if kind is ZeroDivisionError:
            assert caught.value.__notes__[-1].startswith("while running 0123456789ab/pass in ")
        assert {split.id for split in SPLITS[:3]} <= set(read_receipts(job(folder, works.rows), SPLITS))
        assert SPLITS[3].id not in read_receipts(job(folder, works.rows), SPLITS)
        assert [r.counts.kept for r in run_pass(job(folder, works.rows), SPLITS, engine)] == [1, 0, 4, 2, 1, 3]


def test_fewer_than_no_workers_are_refused():
    with pytest.raises(ConfigError, match=r"workers: got -1, allowed >= 0"):
        HomeEngine(-1)


DRIVER = """
import sys
sys.path.insert(0, sys.argv[1])
import home_works
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.passes import Pass, run_pass, splits_of
from penstock.storage import Folder

if __name__ == "__main__":
    print("ready", flush=True)
    with HomeEngine(2) as engine:
        job = Pass(Folder(sys.argv[2]), "0123456789ab/pass", home_works.forever)
        try:
            run_pass(job, splits_of([1, 0, 4, 2, 1, 3]), engine)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
"""


def members(session):
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def wait_for(condition, why):
    end = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < end, why()
        time.sleep(0.005)


@pytest.fixture
def driver(works, folder, tmp_path):
    """A driver whose workers hang after three splits, in a session of its own."""
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path), folder.path]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def workers_deaf_to_ctrl_c(session):
    """Worker processes that have started, at whatever stage, or None while one of them would die of Ctrl-C."""
    found = []
    for pid in members(session):
        with contextlib.suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
                if not (int(status["SigBlk"], 16) | int(status["SigIgn"], 16)) & 1 << (signal.SIGINT - 1):
                    return None
                found.append(pid)
    return found


@pytest.mark.parametrize("when", ["while workers start", "while workers work"])
def test_ctrl_c_ends_every_process_in_silence(works, driver, folder, when):
    if when == "while workers start":
        wait_for(lambda: workers_deaf_to_ctrl_c(driver.pid) != [], lambda: "no worker came up")
    else:
        wait_for(lambda: len(read_receipts(job(folder, works.rows), SPLITS)) == 3, folder.files)
    assert workers_deaf_to_ctrl_c(driver.pid)
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does it: to the driver and to its workers
    out, err = driver.communicate(timeout=60)
    assert (driver.returncode, out, err) == (0, "interrupted\n", "")
    wait_for(lambda: not members(driver.pid), lambda: f"left: {members(driver.pid)}")
    assert len(run_pass(job(folder, works.rows), SPLITS, HomeEngine(0))) == len(SPLITS)


@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_driver_however_it_ends(works, driver, folder, with_signal):
    wait_for(lambda: len(read_receipts(job(folder, works.rows), SPLITS)) == 3, folder.files)
    assert len(members(driver.pid)) >= 3
    driver.send_signal(with_signal)
    driver.wait(timeout=60)
    wait_for(lambda: not members(driver.pid), lambda: f"left: {members(driver.pid)}")
