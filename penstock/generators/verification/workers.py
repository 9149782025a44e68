"""Answers verified in processes that can be killed: an item that hangs, crashes or eats memory costs itself alone.

    with AnswerVerifier(workers=4, deadline=5.0) as verifier:
        for verified in verifier.verify([("1/2", r"so \\boxed{0.5}"), ("7", "#### 8")]):
            verified.result, verified.reward        # ("correct", 1.0), ("wrong", 0.0)

Results are ``correct``, ``wrong``, ``timeout`` and ``error``. The last two say nothing about the answer, so their
reward is None: a trainer masks such a rollout instead of taking it for a wrong one.

What plain comparison decides never reaches a worker (``answers.quick``), and nothing longer than the bounds does. For
the rest a worker sets two interval timers of the kernel before each item; when one expires the kernel ends the worker,
whatever it is at, and another takes its place. The deadline is of the worker's own computing, so neither a caller that
is late to look nor a machine that is busy with other things makes a time-out; the second timer, ``WALL`` deadlines of
the clock, is for an item that only waits. A worker's address space is bounded, and after ``recycle`` items it is
replaced. Workers are fresh interpreters, not forks and not children that import the caller's main module: a trainer
with a CUDA context may use them.

Price: a worker takes about a second to start (while others work) and 70 MB; an item costs 0.1 ms more than comparing.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from importlib import import_module
from multiprocessing.connection import Connection, Pipe
from types import TracebackType
from typing import Any, NamedTuple

from penstock.errors import ConfigError, WorkerError
from penstock.generators.verification import answers

RESULTS = ("correct", "wrong", "timeout", "error")
COMPARE = "penstock.generators.verification.answers:equal"

WALL = 10  # deadlines of the clock that an item may take
_START = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from {module} import serve; serve(*sys.argv[2:])"
_CLOSED = "the verifier was closed while it was asked; close it when all threads are done"
_STARTUP = 120.0  # seconds until a worker must be ready; a loaded machine imports slowly
_GRACE = 10.0  # seconds for a process that closed its pipe to end
_BACKSTOP = 30.0  # seconds more after which a worker whose timers were taken from it is ended


class Verified(NamedTuple):
    """What became of one answer.

    Attributes:
        result: one of ``RESULTS``.
        answer: the final answer that was found; None where there is none.
        by: what decided: ``text`` (no comparison was needed), ``library``, or ``none`` (no answer, or too long).
    """

    result: str
    answer: str | None
    by: str
    detail: str = ""

    @property
    def reward(self) -> float | None:
        """1 for a correct answer, 0 for a wrong one, None where it is not known."""
        return {"correct": 1.0, "wrong": 0.0}.get(self.result)


class AnswerVerifier:
    """Decides of answers, in processes of its own where that is not safe here. Any thread may use it.

    Args:
        workers: processes; by default one a core. They start when they are first needed.
        deadline: seconds of computing for one comparison.
        memory_mb: address space of a worker.
        recycle: comparisons after which a worker is replaced.
        max_response, max_answer: characters of a response and of a final answer; longer ones are an ``error``.
        compare: ``module:function`` of (gold, answer) -> bool; a ``setup`` of the module is called first by a worker.

    Attributes:
        counts: of all answers so far, by result.

    Raises:
        ConfigError: an argument out of its range.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        deadline: float = 5.0,
        memory_mb: int = 2048,
        recycle: int = 2000,
        max_response: int = 200_000,
        max_answer: int = 1000,
        compare: str = COMPARE,
    ) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        given = {"memory_mb": memory_mb, "recycle": recycle, "max_response": max_response, "max_answer": max_answer}
        for name, value in ({"workers": cores if workers is None else workers} | given).items():
            if value < 1:
                raise ConfigError(f"{name}: got {value}, allowed >= 1; the default is good")
        if not 0 < deadline < float("inf"):
            raise ConfigError(f"deadline: got {deadline}, allowed seconds above 0; 5 is good")
        if compare.count(":") != 1:
            raise ConfigError(
                f"compare: got {compare!r}, allowed module:function; name a function that can be imported"
            )
        self.max_response, self.max_answer = max_response, max_answer
        self.counts: Counter[str] = Counter()
        self._settings = (compare, deadline, memory_mb, recycle)
        self._workers: list[_Worker] = []
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._most = cores if workers is None else workers
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> AnswerVerifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def verify(self, pairs: Sequence[tuple[str, str]]) -> list[Verified]:
        """One for each (gold answer, response), in their order; equal comparisons are made once.

        Raises:
            ConfigError: ``compare`` cannot be imported, or the verifier is closed.
            WorkerError: workers cannot be started.
        """
        out: dict[int, Verified] = {}
        hard: dict[tuple[str, str], list[int]] = {}
        for row, (gold, response) in enumerate(pairs):
            found = self._at_once(gold, response)
            if isinstance(found, Verified):
                out[row] = found
            else:
                hard.setdefault((gold, found), []).append(row)
        asked = [self._pool().submit(self._ask, gold, answer) for gold, answer in hard]
        for ((_, answer), rows), future in zip(hard.items(), asked, strict=True):
            try:
                result, detail = future.result()
            except CancelledError:
                raise WorkerError(_CLOSED) from None
            out |= dict.fromkeys(rows, Verified(result, answer, "library", detail))
        with self._lock:
            self.counts.update(one.result for one in out.values())
        return [out[row] for row in range(len(pairs))]

    def close(self) -> None:
        """End the workers; what another thread still asks ends with a WorkerError or as an ``error``."""
        with self._lock:
            self._closed = True
            threads, workers = self._threads, list(self._workers)
        for worker in workers:
            worker.stop()  # which the threads that wait for it notice
        if threads is not None:
            threads.shutdown(cancel_futures=True)
        for worker in workers:
            worker.close()

    def _at_once(self, gold: str, response: str) -> Verified | str:
        """The verdict where no worker is needed, else the final answer."""
        if len(response) > self.max_response:
            return Verified("error", None, "none", f"a response of {len(response):,} characters")
        found = answers.final_answer(response)
        if found is None:
            return Verified("wrong", None, "none", "no final answer")
        if max(len(found.text), len(gold)) > self.max_answer:
            return Verified("error", None, "none", f"an answer of {max(len(found.text), len(gold)):,} characters")
        if self._settings[0] != COMPARE:
            return found.text
        same = answers.quick(gold, found.text)
        if same is None:
            return found.text
        return Verified("correct" if same else "wrong", found.text, "text")

    def _pool(self) -> ThreadPoolExecutor:
        """A thread for each worker, which waits for it."""
        with self._lock:
            if self._closed:
                raise ConfigError("got an answer to verify after close, allowed before; make another AnswerVerifier")
            if self._threads is None:
                self._threads = ThreadPoolExecutor(self._most, thread_name_prefix="penstock-verify")
            return self._threads

    def _ask(self, gold: str, answer: str) -> tuple[str, str]:
        worker = self._borrow()
        try:
            return worker.ask(gold, answer)
        finally:
            self._idle.put(worker)

    def _borrow(self) -> _Worker:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            pass
        with self._lock:
            # as many threads as workers, so one that finds none idle may always start one
            worker = _Worker(*self._settings)
            self._workers.append(worker)
        return worker


class _Worker:
    """One process, replaced by another as often as it must be."""

    def __init__(self, compare: str, deadline: float, memory_mb: int, recycle: int) -> None:
        self._compare, self._deadline, self._memory_mb, self._recycle = compare, deadline, memory_mb, recycle
        self._lock = threading.Lock()  # of the process: ``close`` comes from another thread
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._start()

    def ask(self, gold: str, answer: str) -> tuple[str, str]:
        """(result, detail) of one comparison; the process that fails at it is replaced."""
        self._send((gold, answer))
        assert self._pipe is not None
        try:
            if not self._pipe.poll(WALL * self._deadline + _BACKSTOP):
                return self._lost("timeout", f"no answer within {WALL * self._deadline + _BACKSTOP:g} s")
            result, detail, usable = self._pipe.recv()
        except (EOFError, OSError):
            return self._lost(*self._why())
        self._asked += 1
        if not usable or self._asked >= self._recycle:
            self._replace()
        return result, detail

    def stop(self) -> None:
        """End the process for good; the thread that waits for it sees its pipe end."""
        with self._lock:
            self._closed = True
            self._kill()

    def close(self) -> None:
        """Give up the pipe too, when no thread waits any more."""
        if self._pipe is not None:
            self._pipe.close()

    def _send(self, item: tuple[str, str]) -> None:
        if not self._ready:
            self._wait_ready()
        assert self._pipe is not None
        try:
            self._pipe.send(item)
        except OSError:  # it was ended while it waited, which is not this item's doing
            self._replace()
            self._wait_ready()
            self._pipe.send(item)

    def _start(self) -> None:
        """Start a process; it loads what it needs while others work."""
        ours, theirs = Pipe()
        environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        arguments = (theirs.fileno(), self._compare, self._deadline, self._memory_mb)
        code = _START.format(module=__name__)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code, json.dumps(sys.path), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=environment,
            )
        self._pipe, self._ready, self._asked = ours, False, 0

    def _wait_ready(self) -> None:
        assert self._pipe is not None
        try:
            said = self._pipe.recv() if self._pipe.poll(_STARTUP) else f"not ready after {_STARTUP:g} s"
        except (EOFError, OSError):
            said = self._why()[1]
        if self._closed:
            raise WorkerError(_CLOSED)
        if said is not None:
            kind = ConfigError if self._compare != COMPARE else WorkerError
            mend = f"check that {self._compare} can be imported" if kind is ConfigError else "raise memory_mb"
            raise kind(f"a verifier process cannot start ({said}); {mend}")
        self._ready = True

    def _why(self) -> tuple[str, str]:
        """(result, detail) of a process that has gone."""
        assert self._process is not None
        try:
            code = self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            return "error", "the process closed its pipe"
        if code == -signal.SIGPROF:
            return "timeout", f"no answer within {self._deadline:g} s of computing"
        if code == -signal.SIGALRM:
            return "timeout", f"no answer within {WALL * self._deadline:g} s"
        return "error", f"the process ended with {signal.Signals(-code).name if code < 0 else code}"

    def _lost(self, result: str, detail: str) -> tuple[str, str]:
        self._replace()
        return result, detail

    def _replace(self) -> None:
        with self._lock:
            self._kill()
            if not self._closed:
                self.close()
                self._start()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


# ── in the worker ────────────────────────────────────────────────────────────────────────────────

_STARVED = 0.9  # share of the bound above which a "wrong" is not believed
_TIMERS = {signal.ITIMER_REAL: signal.SIGALRM, signal.ITIMER_PROF: signal.SIGPROF}


def serve(descriptor: str, compare: str, deadline: str, memory_mb: str) -> None:
    """Answer (gold, answer) with (result, detail, whether this process is still good) until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
    signal.pthread_sigmask(signal.SIG_UNBLOCK, set(_TIMERS.values()))  # a mask is inherited
    pipe: Connection = Connection(int(descriptor))
    try:
        function = _loaded(compare)
        _bound_memory(int(memory_mb) << 20)
    except Exception as error:  # noqa: BLE001  whatever an import raises is for the caller to say
        pipe.send(f"{type(error).__name__}: {error}")
        return
    pipe.send(None)
    while True:
        try:
            gold, answer = pipe.recv()
        except EOFError:
            return  # the caller has ended
        for timer, expired in _TIMERS.items():
            signal.signal(expired, signal.SIG_DFL)  # the kernel ends the process: no code of ours has to run
            signal.setitimer(timer, float(deadline) * (WALL if timer == signal.ITIMER_REAL else 1))
        reply = _compared(function, gold, answer, int(memory_mb) << 20)
        for timer in _TIMERS:
            signal.setitimer(timer, 0.0)
        pipe.send(reply)


def _loaded(compare: str) -> Callable[[str, str], bool]:
    module, _, name = compare.partition(":")
    found = import_module(module)
    function: Callable[[str, str], bool] = getattr(found, name)
    setup: Callable[[], Any] | None = getattr(found, "setup", None)
    if setup is not None:
        setup()
    return function


def _peak() -> int:
    """Bytes of address space that this process had at most; 0 where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmPeak:"))
    except (OSError, StopIteration):
        return 0


def _bound_memory(limit: int) -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    bytearray(16 << 20)  # room for any work at all, else MemoryError


def _compared(function: Callable[[str, str], bool], gold: str, answer: str, limit: int) -> tuple[str, str, bool]:
    try:
        if function(gold, answer):
            return "correct", "", True
        # libraries take a MemoryError for any other and say no
        return ("error", "out of memory", False) if _peak() > _STARVED * limit else ("wrong", "", True)
    except MemoryError:
        return "error", "out of memory", False
    except RecursionError:
        return "error", "an expression nested too deeply", True
    except Exception as error:  # noqa: BLE001  of a library that fails in its own ways: one item is lost
        return "error", f"{type(error).__name__}: {error}"[:200], True
