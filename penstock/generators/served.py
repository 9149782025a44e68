"""A vLLM server as a child of this process: ``VLLMServer``, and the LanguageModel that starts one, ``ServedModel``.

    with VLLMServer("runs/quickstart/model-1", arguments=(("max_model_len", 512),)) as server:
        model = ChatEndpoint(url=server.url, model=server.name)

vLLM needs another fastapi than Prefect, so it lives in an environment of its own and is reached over loopback. Its
Python is looked for in this order: what is given, ``.venv-vllm/bin/python`` of the working folder, this environment.
The server is ready when ``/health`` answers; its output is passed on line by line. It is stopped, with all processes it
started, when the context ends, by an error or Ctrl-C too.

Price: half a minute to minutes to start. ``ServedModel`` starts one server in each process that asks it, so a pass with
several workers should share one: ``penstock models serve PATH`` in a terminal, and its ``url`` in the recipe.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from penstock.errors import ConfigError, InputError
from penstock.generators.base import Ask, Completion, Request
from penstock.generators.endpoint import ChatEndpoint
from penstock.generators.vllm import Arguments, vllm_identity

_OWN = Path(".venv-vllm/bin/python")
_LAST_LINES = 12  # of the output, in a message
_STOPPING = 15.0  # seconds to end by itself
_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}


def vllm_python(given: str | None = None) -> str:
    """The Python of an environment with vLLM.

    Raises:
        ConfigError: there is none.
    """
    if given is not None:
        if not os.access(given, os.X_OK):
            raise ConfigError(f"vllm: got {given}, which is no program, allowed the Python of an environment with vLLM")
        return given
    if _OWN.exists():
        return str(_OWN.absolute())
    if importlib.util.find_spec("vllm") is not None:
        return sys.executable
    raise ConfigError(
        f"vllm: got no environment with vLLM, looked for {_OWN} and in this one; run `make vllm`, or install vllm into "
        "an environment of its own and name its Python by --python (in a recipe: python)"
    )


def free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class VLLMServer:
    """A context in which ``vllm serve`` runs.

    Args:
        path: a Hugging Face folder, or a run of penstock with a model.
        name: of the model on the server; default: that of the folder.
        host, port: where it listens; port 0 takes a free one.
        python: of the environment with vLLM.
        arguments: of vLLM, as pairs: ``("max_model_len", 512)`` is ``--max-model-len 512``, True is a flag alone.
        more: words for vLLM's command line as they stand.
        log: is given the server's output, a line at a time; None keeps it for messages alone.
        patience: seconds to become ready.
    """

    def __init__(
        self,
        path: str,
        *,
        name: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        python: str | None = None,
        arguments: Arguments = (),
        more: Sequence[str] = (),
        log: Callable[[str], None] | None = None,
        patience: float = 900.0,
    ) -> None:
        self.path, self.host, self.port, self.python = path, host, port, python
        self.name = name or Path(path).absolute().name
        self._words = [*words_of(arguments), *more]
        self._log, self._patience = log, patience
        self._last: deque[str] = deque(maxlen=_LAST_LINES)

    @property
    def url(self) -> str:
        """For clients on this machine."""
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}/v1"

    def __enter__(self) -> VLLMServer:
        """Start the server and wait until it answers.

        Raises:
            ConfigError: there is no such model, or no environment with vLLM.
            InputError: the server ended, or was not ready in time.
        """
        from penstock.scoring.model import resolve

        folder = resolve(self.path)
        python = vllm_python(self.python)
        self.port = self.port or free_port(self.host)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | _ENVIRONMENT
        # as a module: builds of vLLM under another distribution's name have no working `vllm` command
        command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--host", self.host]
        command += ["--port", str(self.port), "--served-model-name", self.name, *self._words]
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # its children go with it, and Ctrl-C comes through this process
        )
        self._reader = threading.Thread(target=self._read, name="penstock-vllm-output", daemon=True)
        self._reader.start()
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def join(self) -> int:
        """Wait until the server ends by itself; its exit code."""
        return self._process.wait()

    def stop(self) -> None:
        """End the server and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOPPING)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(_STOPPING)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self._last.append(line.rstrip())
                if self._log is not None:
                    self._log(line.rstrip())

    def _wait(self) -> None:
        import httpx

        health = self.url.removesuffix("/v1") + "/health"
        end = time.monotonic() + self._patience
        while True:
            code = self._process.poll()
            if code is not None or time.monotonic() > end:
                what = f"ended with exit code {code}" if code is not None else f"not ready in {self._patience:g} s"
                self._reader.join(1.0)  # the last words
                raise InputError(
                    f"vllm serve {self.path}: got a server that {'was ' if code is None else ''}{what}, allowed one "
                    "that runs; its last lines: " + " | ".join(self._last)
                )
            try:
                if httpx.get(health, timeout=2.0).status_code == 200:
                    return
            except httpx.TransportError:
                pass  # not yet
            time.sleep(0.25)


def words_of(arguments: Arguments) -> list[str]:
    """vLLM's command line for arguments of ``vllm.LLM``."""
    words: list[str] = []
    for name, value in arguments:
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(value)]
    return words


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """LanguageModel: a folder's model behind a vLLM server that this process starts when it is first asked.

    Args:
        path, digest: the folder, and ``penstock.scoring.model.fingerprint`` of it.
        python: of the environment with vLLM; None looks for it.
        arguments: of vLLM, as pairs.
        concurrency, timeout, deadline, attempts, patience: as of ``ChatEndpoint``.
    """

    path: str
    digest: str
    python: str | None = None
    arguments: Arguments = ()
    concurrency: int = 64
    timeout: float = 60.0
    deadline: float = 300.0
    attempts: int = 6
    patience: float = 60.0

    kind: ClassVar[str] = "vllm"

    @property
    def identity(self) -> dict[str, Any]:
        return vllm_identity(self.digest, self.arguments)

    @property
    def width(self) -> int:
        return self.concurrency

    def setup(self) -> None:
        """Start the server, unless this process has started it. Raises as ``VLLMServer``."""
        self._endpoint()

    async def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """As ``ChatEndpoint.complete``."""
        return await self._endpoint().complete(requests)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Ask]:
        """As ``ChatEndpoint.connect``."""
        async with self._endpoint().connect() as ask:
            yield ask

    def _endpoint(self) -> ChatEndpoint:
        server = _SERVERS.started(self)
        same = ("concurrency", "timeout", "deadline", "attempts", "patience")
        return ChatEndpoint(url=server.url, model=server.name, **{name: getattr(self, name) for name in same})


@dataclass
class _Servers:
    """Servers that this process started; they end with it."""

    running: dict[tuple[int, str, str, Arguments], VLLMServer] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.Lock)

    def started(self, model: ServedModel) -> VLLMServer:
        """The server of a model, started where it is not there yet."""
        key = (os.getpid(), model.digest, str(model.python), model.arguments)  # a forked worker has none
        with self.lock:
            server = self.running.get(key)
            if server is None:
                server = VLLMServer(model.path, python=model.python, arguments=model.arguments)
                server.__enter__()
                atexit.register(server.stop)
                self.running[key] = server
        return server

    def stop(self) -> None:
        """End all of them now."""
        with self.lock:
            for server in self.running.values():
                server.stop()
                atexit.unregister(server.stop)
            self.running.clear()


_SERVERS = _Servers()
stop_servers = _SERVERS.stop
