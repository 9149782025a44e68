"""Completions a second through a session, of those the same server gives to a plain loop of requests.

    stub    a loopback server that answers a second after it was asked, in the mean (0.6 s and an exponential rest), as
            models do: 64 requests in flight
    vllm    ``vllm serve`` on a Llama of 4M parameters with random weights, 16 requests of 16 tokens in flight; where
            ``.venv-vllm`` is there, and not with ``--quick``

One side is httpx in a loop of workers, each with a connection of its own: it posts the bodies and reads the JSON. One
client of httpx for all workers is told beside it; its pool looks through all connections for each request, and is no
measure of what the server can do. The other side is ``ModelSession`` over
``ChatEndpoint`` with a store: it also digests every request, looks it up, bounds what is in flight, is ready to try
again, counts, and writes each answer to SQLite as it comes. Both run in turn, each in a process of its own, over the
same requests; no answer is kept from one repeat to the next. The processor time a request takes is told beside it: it
says from which rate on the client, and not the server, would be in the way.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Bar, Options, Result, Row

PYTHON = harness.ROOT / ".venv-vllm" / "bin" / "python"
WANTED = 0.95
SIDES = {"session": "session", "raw": "raw", "pool": "raw, one client for all"}


@contextlib.contextmanager
def stub() -> Iterator[str]:
    """The address of the stub server."""
    command = [sys.executable, "-m", "benchmarks.generate_sides", "stub"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=harness.ROOT)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def vllm() -> Iterator[str]:
    """The address of a vLLM server of a model that is made for it."""
    from penstock.generators.served import VLLMServer

    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "small"
        harness.run_json([sys.executable, "-m", "benchmarks.generate_sides", "make", "--folder", place])
        # cached beginnings would make the side that comes second faster; vLLM 0.32 on a processor ends when it reads
        # the prompt of a seeded draw in pieces
        arguments = (("max_model_len", 512), ("enforce_eager", True), ("enable_prefix_caching", False))
        arguments += (("enable_chunked_prefill", False),)
        with VLLMServer(str(place), name="small", python=str(PYTHON), arguments=arguments) as server:
            yield server.url


def measured(name: str, url: str, repeats: int, sides: Sequence[str], **values: Any) -> tuple[list[Row], float]:
    """Rows of one server, and the ratio."""

    def side(mode: str) -> dict[str, Any]:
        words = [word for key, value in values.items() for word in (f"--{key}", str(value))]
        return harness.run_json([sys.executable, "-m", "benchmarks.generate_sides", mode, "--url", url, *words])

    if "vllm" in name:
        side("raw")  # kernels are compiled by the first requests
    found = harness.alternate({mode: partial(side, mode) for mode in sides}, repeats)
    rates = {mode: [values["count"] / one["seconds"] for one in runs] for mode, runs in found.items()}
    times = harness.ratio(rates["session"], rates["raw"])
    rows = [harness.row(f"{name}, {SIDES[mode]}", rates[mode], "requests/s") for mode in sides]
    rows.append(harness.ratio_row(f"{name}, session over raw", times, repeats))
    for mode in sides:
        cpu = [1000 * one["cpu"] / values["count"] for one in found[mode]]
        rows.append(harness.row(f"{name}, {SIDES[mode]}: processor time a request", cpu, "ms"))
    return rows, times.median


def measure(options: Options) -> Result:
    result = Result(versions=harness.versions("httpx", "orjson"))
    bar = "completions/s of a session over those of a raw loop, "
    with stub() as url:
        count, repeats = (320, 1) if options.quick else (640, 3)
        rows, times = measured("stub", url, repeats, tuple(SIDES), count=count, width=64)
    result.rows += rows
    result.bars.append(Bar(name=f"{bar}stub", value=times, op=">=", want=WANTED))
    value = None
    if PYTHON.exists() and not options.quick:
        with vllm() as url:
            rows, value = measured("vllm", url, 6, ("session", "raw"), count=128, width=16, model="small")
        result.rows += rows
    result.bars.append(Bar(name=f"{bar}vLLM", value=value, op=">=", want=WANTED))
    return result


if __name__ == "__main__":
    harness.main("generate", __doc__, measure)
