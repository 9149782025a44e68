"""Kills at random moments of every verb: the same command again ends in the bytes of one that nothing disturbed.

A trial starts a verb from nothing, kills its whole process group by SIGKILL and gives the command again. The moments
are drawn evenly over the time that the verb takes when left alone, one from each of as many stretches as there are
trials, so that all of its phases are hit. ``--faults`` sets the trials a verb; with more than two (``make faults``) the
verbs that have tests of kills elsewhere are among them.
"""

import contextlib
import os
import shutil
import signal
import time

import psutil
import pytest

pytestmark = pytest.mark.slow

VERBS = ("tokenizer", "select", "score", "learn", "generate", "transform", "push", "train", "build", "run")
# the others' kills are in tests/faults/test_steps.py, tests/test_push.py and tests/training/group_rl/test_resume.py
ONLY_HERE = ("generate", "transform")


def pytest_generate_tests(metafunc):
    if "verb" in metafunc.fixturenames:
        trials = metafunc.config.getoption("--faults")
        metafunc.parametrize("verb", VERBS if trials > 2 else ONLY_HERE)


def test_a_verb_killed_anywhere_ends_in_the_same_bytes_when_it_is_given_again(
    verb, verbs, nursery, processes, draw, tmp_path, request
):
    trials = request.config.getoption("--faults")
    _, seconds = verbs.undisturbed(verb)
    for trial in draw.sample(range(trials), trials):
        for _attempt in range(8):
            at = tmp_path / "trial"
            shutil.rmtree(at, ignore_errors=True)
            at.mkdir()
            began = time.monotonic()
            session = verbs.start(verb, at)
            delay = seconds * (trial + draw.random()) / trials
            while (took := time.monotonic() - began) < delay and psutil.pid_exists(session):
                time.sleep(min(0.01, delay - took))
            ended = not psutil.pid_exists(session)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(session, signal.SIGKILL)
            code = nursery.wait()
            print(f"  {verb} killed after {delay:.2f} of {seconds:.2f} s: {code}")
            assert code in (0, -signal.SIGKILL), nursery.said()
            if code:
                break
            if ended:
                seconds = 0.8 * took  # the machine has less to do than before
        else:
            pytest.fail("no kill came before the end")
        processes.until(lambda session=session: not processes.alive(session), why="processes left", seconds=30)
        assert verbs.run(verb, at) == 0, nursery.said()
        verbs.compare(verb, at)
