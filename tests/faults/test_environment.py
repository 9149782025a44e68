"""Verbs on a full disk, a read-only one, a folder that another writes, a clock that goes back: one line that says what
to mend, and the same command ends in the bytes of one that nothing disturbed.

The full and the read-only disk are file systems in memory, which only root can mount; a bound on the size of files
needs nothing. ``build`` meets all of these in tests/test_bad_input.py.
"""

import contextlib
import os
import signal
import time

import pytest

from penstock.lock import FolderLock
from penstock.storage import Folder

pytestmark = pytest.mark.slow

# bytes that a verb may write into one file, or on a disk: enough to begin and not enough to end
BOUNDS = {"generate": 6_000, "transform": 6_000, "push": 20_000, "learn": 60_000, "train": 60_000}
IN_SUITE = ("generate", "push")  # all of them with more kills than two, as `make faults`


def pytest_generate_tests(metafunc):
    if "verb" in metafunc.fixturenames:
        every = metafunc.config.getoption("--faults") > 2
        metafunc.parametrize("verb", [verb for verb in BOUNDS if every or verb in IN_SUITE])


def refusal(nursery, code):
    """The one line of a refused verb; the child ends at once, which multiprocessing's tracker may grumble about."""
    said = nursery.said()
    assert code == 1, said
    assert "Traceback" not in said
    told = [line for line in said.splitlines() if line.startswith("penstock: ")]
    assert len(told) == 1, said
    return told[0]


def test_a_bound_on_the_size_of_files_is_told_and_the_next_run_ends_equal(verb, verbs, nursery, tmp_path):
    bound = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({BOUNDS[verb]}, {BOUNDS[verb]}))"
    line = refusal(nursery, verbs.run(verb, tmp_path, bound))
    assert "exceed the size limit of this process or file system" in line
    assert verbs.run(verb, tmp_path) == 0, nursery.said()
    verbs.compare(verb, tmp_path)


def test_a_full_disk_is_told_and_the_next_run_ends_equal(verb, verbs, nursery, small_disk):
    disk, _ = small_disk
    space = os.statvfs(disk)
    filler = disk / "filler"
    with filler.open("wb") as file:
        file.write(b"\0" * (space.f_bavail * space.f_frsize - max(BOUNDS[verb], 3 * space.f_frsize)))
    (disk / "at").mkdir()
    line = refusal(nursery, verbs.run(verb, disk / "at"))
    assert "the disk is full; free space or choose another output folder, then run again to resume" in line
    filler.unlink()
    assert verbs.run(verb, disk / "at") == 0, nursery.said()
    verbs.compare(verb, disk / "at")


def test_a_read_only_disk_is_told(verb, verbs, nursery, small_disk):
    disk, remount = small_disk
    remount("ro")
    line = refusal(nursery, verbs.run(verb, disk))
    assert "the file system is read-only; choose another output folder" in line
    assert list(disk.iterdir()) == []


def test_a_folder_that_another_writes_is_refused_and_free_when_it_ends(verb, verbs, nursery, tmp_path):
    with FolderLock(Folder(str(tmp_path / "out"))):
        line = refusal(nursery, verbs.run(verb, tmp_path))
        assert f"another penstock run is writing here (process {os.getpid()} on " in line
    assert verbs.run(verb, tmp_path) == 0, nursery.said()
    verbs.compare(verb, tmp_path)


BACK = """
import itertools, time
now, calls = time.time, itertools.count(1)
time.time = lambda: now() - 3600.0 * next(calls)
"""


def test_a_clock_that_goes_back_changes_nothing(verb, verbs, nursery, processes, tmp_path):
    """What was written before a kill is of tomorrow, and every look at the clock goes back by another hour."""
    _, seconds = verbs.undisturbed(verb)
    session = verbs.start(verb, tmp_path, BACK)
    time.sleep(seconds / 2)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)
    nursery.wait()
    processes.until(lambda: not processes.alive(session), why="processes left", seconds=30)
    tomorrow = time.time() + 86_400
    for path in tmp_path.rglob("*"):
        os.utime(path, (tomorrow, tomorrow))
    assert verbs.run(verb, tmp_path, BACK) == 0, nursery.said()
    verbs.compare(verb, tmp_path)
