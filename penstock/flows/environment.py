"""What Prefect needs around it: its settings, and an API that answers.

An API that the user names (PREFECT_API_URL, a profile, prefect.toml) is used; otherwise a server of our own runs on
SQLite in a ``PREFECT_HOME`` of penstock's, with analytics off (server.py). ``prefect server start`` with the same
PREFECT_HOME shows past runs.

Price: 5 to 15 s to start the server.
"""

from __future__ import annotations

import importlib.util
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.errors import MissingExtraError
from penstock.flows.server import Server
from penstock.step import Reporter
from penstock.storage import storage_errors

_servers: dict[Path, Server] = {}  # kept to the end of the process: Prefect sends the last log lines at exit


def require_prefect(hint: str = "") -> None:
    """Refuse where Prefect is not installed; ``hint`` ends the message.

    Raises:
        MissingExtraError: it is not.
    """
    if importlib.util.find_spec("prefect") is None:
        raise MissingExtraError(f"{MissingExtraError.of('prefect', 'flows')}{hint}")


def prepare_environment() -> Path:
    """Set what Prefect reads when it is first imported, unless the user set it; returns ``PREFECT_HOME``, made."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.setdefault("PREFECT_HOME", str(cache / "penstock" / "prefect"))).expanduser()
    defaults = {
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": str(home / "storage"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # what its threads say when the server is gone
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    with storage_errors(str(home)):
        home.mkdir(parents=True, exist_ok=True)  # Prefect makes the last folder of the path only
    return home


@contextmanager
def api_of_a_run(home: Path, reporter: Reporter) -> Iterator[None]:
    """Prefect's settings with an API that answers: the user's, or a server that lives as long as this process."""
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    if PREFECT_API_URL.value():
        yield
        return
    server = _servers.get(home)
    if server is None or not server.running:
        go_round_proxies()
        reporter.note("starting Prefect's server (the first start takes longer; --plain does without)")
        server = _servers[home] = Server(home)
        server.wait()
    # on loopback a server answers or is dead; the five retries meant for a network would wait a minute
    with temporary_settings({PREFECT_API_URL: server.api, PREFECT_CLIENT_MAX_RETRIES: 3}):
        yield


def go_round_proxies() -> None:
    """Add loopback to the hosts that no proxy of the environment stands before."""
    hosts = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if urllib.request.getproxies() and "127.0.0.1" not in hosts.split(","):
        # both spellings, as libraries differ in which one they read first
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"{hosts},127.0.0.1".lstrip(",")
