"""Prefect's own server for as long as this process lives: its API over SQLite, in a process beside this one.

Prefect would start such a server by itself when no API is named, but that one shares the terminal: Ctrl-C stops
it before the flow can say that it was stopped (a minute of retries follows), its log lands between progress
bars, and it outlives a killed parent. This one has a session of its own, logs to ``PREFECT_HOME/server.log``, and
ends when the pipe to its parent closes, however the parent ended.

Price: 5 to 15 s to start (longer on an empty database), about 250 MB while it runs.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from penstock.errors import PenstockError
from penstock.storage import storage_errors

START_SECONDS = 180.0
STOP_SECONDS = 15.0


class Server:
    """A server process on a free port of loopback, its files in ``home``; started at once, ready after ``wait``."""

    def __init__(self, home: Path) -> None:
        self.log = home / "server.log"
        with storage_errors(str(self.log)):
            log = self.log.open("wb")
        with log, socket.socket() as listener:
            # the port is bound here and handed down, so no other process can take it in between
            listener.bind(("127.0.0.1", 0))
            self.api = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from penstock.flows.server import serve; serve({listener.fileno()})"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait(self, seconds: float = START_SECONDS) -> None:
        """Return when the server answers.

        Raises:
            PenstockError: it ended, or did not answer in time; its log is named.
        """
        # no proxy of the environment stands between a machine and itself
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if not self.running:
                raise PenstockError(
                    f"Prefect's server ended with exit code {self._process.returncode} before it was ready; see "
                    f"{self.log}, delete that folder to start afresh, or leave Prefect out with --plain"
                )
            try:
                with opener.open(f"{self.api}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.1)
        self.stop()
        raise PenstockError(
            f"Prefect's server did not answer within {seconds:.0f} s; see {self.log}, or leave Prefect out with --plain"
        )

    def stop(self) -> None:
        """End the server and wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(2 * STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(listener: int) -> None:
    """The server process: answer on the listening socket with this file descriptor until stdin closes."""
    import uvicorn
    from prefect.server.api.server import create_app

    # ephemeral: no UI, no scheduler; final: the only app of this process
    app = create_app(ephemeral=True, final=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=2))
    threading.Thread(target=_end_with_parent, args=(server,), daemon=True).start()
    server.run(sockets=[socket.socket(fileno=listener)])


def _end_with_parent(server: Any) -> None:
    while os.read(0, 1):
        pass
    server.should_exit = True
    time.sleep(STOP_SECONDS)
    os._exit(1)
