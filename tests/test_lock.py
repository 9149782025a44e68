"""One writer per folder: refused while it lives, free the moment it is dead, taken over when a lease is old."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from penstock import lock
from penstock.errors import FolderInUseError
from penstock.lock import LEASE, FolderLock
from penstock.storage import Folder

HOLD = "import sys, time\nfrom penstock.lock import FolderLock\nfrom penstock.storage import Folder\n" + (
    "with FolderLock(Folder(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)\n"
)


@pytest.fixture
def store():
    """A folder in a store that only this process sees; leases behave as in any store."""
    return Folder(f"memory://lock-{os.urandom(4).hex()}/run")


def lease(owner="another", age=0.0):
    return json.dumps({"id": owner, "pid": 7, "host": "elsewhere", "renewed": time.time() - age}).encode()


def test_a_second_writer_is_refused_and_told_who_the_first_is(tmp_path):
    folder = Folder(str(tmp_path / "run"))
    with FolderLock(folder):
        with pytest.raises(FolderInUseError, match=rf"process {os.getpid()} on .*choose another --out"):
            FolderLock(folder).__enter__()
    with FolderLock(folder):
        pass


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path):
    folder = Folder(str(tmp_path / "run"))
    holder = subprocess.Popen([sys.executable, "-c", HOLD, folder.path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(FolderInUseError, match=f"process {holder.pid} "):
        FolderLock(folder).__enter__()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with FolderLock(folder):
        assert folder.read_json(".holder.json")["pid"] == os.getpid()


def test_the_lock_is_free_after_an_error(tmp_path):
    folder = Folder(str(tmp_path / "run"))
    with pytest.raises(KeyError), FolderLock(folder):
        raise KeyError("mine")
    with FolderLock(folder):
        pass


def test_taking_the_lock_clears_half_written_files_of_the_killed_writer_before(tmp_path):
    (tmp_path / ".tmp-abc").write_text("half")
    (tmp_path / "run.json").write_text("{}")
    with FolderLock(Folder(str(tmp_path))):
        assert not (tmp_path / ".tmp-abc").exists()
        assert (tmp_path / "run.json").exists()


def test_a_live_lease_is_refused_and_its_holder_named(store):
    store.write_bytes(LEASE, lease(age=30))
    expected = r"process 7 on elsewhere is writing here .*30 s ago.*wait for it, or for 120 s after it died"
    with pytest.raises(FolderInUseError, match=expected):
        FolderLock(store).__enter__()
    assert store.read_json(LEASE)["id"] == "another"


@pytest.mark.parametrize("age", [-30, -86_400])
def test_a_lease_of_a_clock_that_is_ahead_is_refused_and_a_day_ahead_is_told(store, age):
    store.write_bytes(LEASE, lease(age=age))
    said = r"is of 86\d{3} s from now, so a clock was set; .* delete \.lease\.json" if age < -120 else "is writing here"
    with pytest.raises(FolderInUseError, match=said):
        FolderLock(store).__enter__()
    assert store.read_json(LEASE)["id"] == "another"


def test_a_dead_lease_is_taken_over_and_released_at_the_end(store):
    store.write_bytes(LEASE, lease(age=121))
    with FolderLock(store):
        assert store.read_json(LEASE)["pid"] == os.getpid()
        with pytest.raises(FolderInUseError, match=f"process {os.getpid()} "):
            FolderLock(store).__enter__()
    assert not store.exists(LEASE)


def test_of_many_that_start_at_once_one_gets_the_lease(store):
    held, refused = [], []
    ready, leave = threading.Barrier(6), threading.Event()

    def enter():
        ready.wait()
        try:
            with FolderLock(store):
                held.append(1)
                leave.wait()
        except FolderInUseError:
            refused.append(1)

    threads = [threading.Thread(target=enter) for _ in range(6)]
    for thread in threads:
        thread.start()
    while len(held) + len(refused) < 6:
        time.sleep(0.01)
    leave.set()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 5)


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_lease_is_renewed_while_the_run_lives(store, monkeypatch):
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.02)
    with FolderLock(store):
        first = store.read_json(LEASE)
        wait_for(lambda: store.read_json(LEASE)["renewed"] > first["renewed"])
        assert store.read_json(LEASE)["id"] == first["id"]


def test_a_lease_that_another_took_over_is_neither_renewed_nor_removed(store, monkeypatch):
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.02)
    taken = FolderLock(store)
    with taken:
        store.write_bytes(LEASE, lease())
        wait_for(lambda: not taken._thread.is_alive())
        assert store.read_json(LEASE)["id"] == "another"
    assert store.read_json(LEASE)["id"] == "another"


def test_a_damaged_lease_is_named_with_what_to_do(store):
    store.write_bytes(LEASE, b"{}")
    with pytest.raises(FolderInUseError, match=r"lease.json: not a lease .*; if no run is writing here, delete it"):
        FolderLock(store).__enter__()
