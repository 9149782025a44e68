"""Beam's local job service and its EXTERNAL worker pool, on loopback only.

    python -P beam_services.py job_service PORT WORKERS
    python -P beam_services.py worker_pool PORT FOLDER

Both run Beam's own mains. Three things are changed from outside: every port is bound to loopback (Beam binds those of
its workers to all addresses); the job service asks for WORKERS workers a job (its main asks for one); and a worker is
not a Python of its own, which takes seconds to import all, but a fork of one that has imported it, so that some
seventy jobs take a minute. A worker is still a process, which can be killed.

Every worker writes ``FOLDER/worker-PID.json``: where it has penstock from, and its path. The first of them that does a
split of the pass named in the file ``FOLDER/stall`` writes ``FOLDER/stalled`` with its PID and does nothing more.
"""

import contextlib
import gc
import importlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import grpc

_server = grpc.server


def on_loopback(*args, **options):
    server = _server(*args, **options)
    add = server.add_insecure_port
    server.add_insecure_port = lambda address: add(address.replace("[::]", "localhost"))
    return server


class Forking:
    """A process that forks workers; it has no threads, and never will."""

    def __init__(self, folder):
        here, there = os.pipe(), os.pipe()
        if os.fork() == 0:
            os.close(here[1])
            os.close(there[0])
            try:
                serve_forks(os.fdopen(here[0]), os.fdopen(there[1], "w"), folder)
            finally:
                os._exit(0)
        os.close(here[0])
        os.close(there[1])
        self.requests, self.answers = os.fdopen(here[1], "w"), os.fdopen(there[0])
        self.lock = threading.Lock()

    def start(self, command, **_):
        """In place of ``subprocess.Popen``: ``command`` is a Python, ``-c`` and what it shall do."""
        import psutil

        with self.lock:
            print(json.dumps(command[2]), file=self.requests, flush=True)
            pid = int(self.answers.readline())
        return Worker(psutil.Process(pid))


class Worker:
    """The part of a ``subprocess.Popen`` that the pool uses."""

    def __init__(self, process):
        self.process = process

    def terminate(self):
        self.process.terminate()

    def kill(self):
        self.process.kill()

    def wait(self, timeout=None):
        import psutil

        try:
            self.process.wait(timeout)
        except psutil.TimeoutExpired as error:
            raise subprocess.TimeoutExpired("worker", timeout) from error


def serve_forks(requests, answers, folder):
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the workers
    import apache_beam.runners.worker.sdk_worker
    import pyarrow as pa
    import torch
    import transformers

    import penstock.pipelines.beam
    import penstock.pipelines.plan
    import penstock.selection
    from penstock import kernels
    from penstock.digest import TableDigest

    package = Path(penstock.__file__).parent
    for path in kernels.kernel_modules():
        importlib.import_module(".".join(("penstock", *path.relative_to(package).with_suffix("").parts)))
    TableDigest.of(pa.table({"text": ["a"], "number": [1]}))  # the first call of a kernel costs half a second
    torch.set_num_threads(1)
    assert all((apache_beam, transformers))
    gc.freeze()  # what workers share is not looked through by each of them
    stalling(penstock.pipelines.beam, folder)
    for line in requests:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            witness = {"penstock": penstock.__file__, "path": sys.path}
            (folder / f"worker-{os.getpid()}.json").write_text(json.dumps(witness))
            exec(json.loads(line), {})  # noqa: S102 (what Beam would give to a Python of its own)
            os._exit(0)
        print(pid, file=answers, flush=True)


def stalling(beam, folder):
    """Let the first worker that does a split of the pass in ``stall`` do nothing more."""
    run_split = beam.run_split

    def run_or_stall(job, split):
        with contextlib.suppress(FileNotFoundError, FileExistsError):
            if (folder / "stall").read_text() == job.prefix:
                with open(folder / "stalled", "x") as file:
                    file.write(str(os.getpid()))
                time.sleep(600)
        return run_split(job, split)

    beam.run_split = run_or_stall


def worker_pool(port, folder):
    forking = Forking(Path(folder))
    from apache_beam.runners.worker import worker_pool_main

    worker_pool_main.subprocess = SimpleNamespace(
        Popen=forking.start, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired
    )
    worker_pool_main.main([f"--service_port={port}"])


def job_service(port, workers):
    from apache_beam.runners.portability import local_job_service_main
    from apache_beam.runners.portability.fn_api_runner import fn_runner

    class Runner(fn_runner.FnApiRunner):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self._num_workers = int(workers)

    fn_runner.FnApiRunner = Runner
    local_job_service_main.run(["-p", port])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    grpc.server = on_loopback
    socket.getfqdn = lambda name="": "localhost"
    {"job_service": job_service, "worker_pool": worker_pool}[sys.argv[1]](*sys.argv[2:])
