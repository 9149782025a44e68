"""Prefect's own server for as long as this process lives: its API over SQLite, in a process beside this one.

Prefect would start such a server by itself when no API is named, but that one shares the terminal: Ctrl-C stops
it before the flow can say that it was stopped (a minute of retries follows), its log lands between progress
bars, and it outlives a killed parent. This one has a session of its own, logs to ``PREFECT_HOME/server.log``, and
ends when the pipe to its parent closes, however the parent ended.

For ``penstock serve`` it is whole: with the UI, and with the services that turn schedules into runs.

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

from penstock.errors import ConfigError, PenstockError
from penstock.storage import storage_errors

START_SECONDS = 180.0
STOP_SECONDS = 15.0


class Server:
    """A server process on loopback, its files in ``home``; started at once, ready after ``wait``.

    Args:
        home: ``PREFECT_HOME``.
        port: 0 takes a free one.
        whole: with the UI and the scheduler.

    Raises:
        ConfigError: the port is taken.
    """

    def __init__(self, home: Path, *, port: int = 0, whole: bool = False) -> None:
        self.log = home / ("serve.log" if whole else "server.log")
        with storage_errors(str(self.log)):
            log = self.log.open("wb")
        with log, socket.socket() as listener:
            # the port is bound here and handed down, so no other process can take it in between
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError as error:
                raise ConfigError(
                    f"port {port}: got {error.strerror}, allowed a free one; give another with --port, or if that is a "
                    f"server of Prefect's, use it: PREFECT_API_URL=http://127.0.0.1:{port}/api"
                ) from error
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            self.api = f"{self.url}/api"
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from penstock.flows.server import serve; serve({listener.fileno()}, {whole})"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                start_new_session=True,
                env=os.environ | (self._settings(home) if whole else {}),
            )

    def _settings(self, home: Path) -> dict[str, str]:
        settings = {
            "PREFECT_UI_API_URL": self.api,
            "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),  # by default it writes into its own installation
            # places that a killed run held are given back after a restart too
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        }
        return {name: value for name, value in settings.items() if name not in os.environ}

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


def serve(listener: int, whole: bool = False) -> None:
    """The server process: answer on the listening socket with this file descriptor until stdin closes."""
    import uvicorn
    from prefect.server.api.server import create_app

    # ephemeral: no UI, no scheduler; final: the only app of this process
    app = create_app(ephemeral=not whole, final=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=2))
    threading.Thread(target=_end_with_parent, args=(server,), daemon=True).start()
    server.run(sockets=[socket.socket(fileno=listener)])


def _end_with_parent(server: Any) -> None:
    while os.read(0, 1):
        pass
    server.should_exit = True
    time.sleep(STOP_SECONDS)
    os._exit(1)
