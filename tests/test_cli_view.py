"""`penstock trace` and what `penstock view` refuses; the pages themselves are in tests/view."""

from __future__ import annotations

import builtins
import json
import os
import socket
import subprocess
import sys

import pytest

from penstock.dataset import Dataset
from penstock.tracing import trace
from penstock.view import serve_view


@pytest.fixture
def name(finished):
    base, _, _ = finished
    return Dataset(f"{base}/run/dataset-1").read("train", ["doc_id"])["doc_id"][0].as_py()


def test_a_trace_is_printed(penstock, finished, name):
    base, _, _ = finished
    code, out, err = penstock("trace", name, "--run", base / "run")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == name
    assert ["dataset-1", "published"] in [line.split()[:2] for line in out.splitlines()]


def test_a_trace_as_json_is_that_of_the_function(penstock, finished, name):
    base, _, _ = finished
    code, out, err = penstock("trace", name, "--run", base / "run", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads(json.dumps(trace(name, str(base / "run")).to_json()))


def test_an_unknown_id_is_one_line_with_near_ones(penstock, finished):
    base, _, _ = finished
    code, out, err = penstock("trace", "rivers.jsonl#9999", "--run", base / "run")
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert "near it: rivers.jsonl#" in err


def test_what_cannot_be_looked_at_is_one_line(penstock, finished, tmp_path):
    base, _, _ = finished
    for folder, said in ((tmp_path, "so no dataset"), (base / "run" / "tokenizer", "no rows of text to look at")):
        code, out, err = penstock("view", folder, "--no-browser")
        assert (code, out, len(err.splitlines())) == (1, "", 1)
        assert said in err


def test_a_port_that_is_taken_is_told(penstock, finished):
    base, _, _ = finished
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, out, err = penstock("view", base / "run", "--no-browser", "--port", port)
    assert (code, out) == (1, "")
    assert f"port: got {port}, which cannot be listened on" in err


def test_without_the_extra_the_command_that_mends_it_is_told(penstock, finished, monkeypatch):
    base, _, _ = finished
    real = builtins.__import__

    def missing(module, *rest):
        if module.partition(".")[0] == "uvicorn":
            raise ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")
        return real(module, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    code, out, err = penstock("view", base / "run", "--no-browser")
    assert (code, out) == (1, "")
    assert err == "penstock: uvicorn is not installed; run: pip install 'penstock[view]'\n"


def test_a_stop_by_the_system_leaves_nothing_behind(finished, tmp_path):
    base, _, _ = finished
    command = [sys.executable, "-m", "penstock", "view", str(base / "run"), "--no-browser", "--sample", "20"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        assert list(tmp_path.glob("penstock-view-*"))
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (143, "", "")
    assert not list(tmp_path.iterdir())


class Server:
    """Ends as soon as it has begun."""

    def __call__(self, server):
        server.should_exit = True


def test_the_browser_is_given_a_file_and_not_the_address(finished, monkeypatch):
    """Other users of the machine see the command lines of all processes."""
    import webbrowser
    from pathlib import Path
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    base, _, _ = finished
    opened, said = [], []

    def look(address):
        opened.append(address)
        file = Path(url2pathname(urlsplit(address).path))
        assert said[0] in file.read_text()
        assert file.parent.stat().st_mode & 0o077 == 0

    monkeypatch.setattr(webbrowser, "open", look)
    monkeypatch.setenv("DISPLAY", ":0")
    serve_view(str(base / "run"), sample=10, say=said.append, started=Server())
    (address,) = opened
    assert address.startswith("file://")
    assert not Path(url2pathname(urlsplit(address).path)).exists()
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    serve_view(str(base / "run"), sample=10, say=said.append, started=Server())
    assert len(opened) == 1
    assert said[0] != said[1]
