"""`penstock models serve` with a server that only seems to be vLLM, and `penstock cache`."""

import json
import re
import signal
import stat
import subprocess
import sys
import textwrap
import time
import urllib.request

import pytest

from penstock.cli import main
from penstock.generators.answers import AnswerStore
from penstock.generators.base import Completion

COMMAND = "import sys; sys.argv[0] = 'penstock'; from penstock.cli import main; main()"

SEEMING = textwrap.dedent("""\
    #!{python}
    import json, os, subprocess, sys
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    words = sys.argv[1:]
    print("started with " + json.dumps(words), flush=True)
    if "--fail" in words:
        print("no such flag", file=sys.stderr)
        sys.exit(3)
    child = subprocess.Popen(["sleep", "600"])
    print("child", child.pid, flush=True)
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()
        def log_message(self, *_):
            pass
    port = int(words[words.index("--port") + 1])
    if "--deaf" in words:
        import time
        time.sleep(600)
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
    """)


@pytest.fixture
def seeming(tmp_path):
    """A program that takes vLLM's command line and answers /health."""
    program = tmp_path / "python"
    program.write_text(SEEMING.format(python=sys.executable))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


@pytest.fixture
def folder(tmp_path):
    """All that tells a folder of a model from others."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text("{}")
    return tmp_path / "tiny"


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command line in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["penstock", *map(str, arguments)])
        handler = signal.getsignal(signal.SIGTERM)
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        finally:
            signal.signal(signal.SIGTERM, handler)
        return code, *capsys.readouterr()

    return run


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            found = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return found.rpartition(")")[2].split()[0] != "Z"


def assert_ends(pid):
    """A killed process is there for a moment more."""
    end = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < end, "a process of the server lives on"
        time.sleep(0.02)


@pytest.mark.server
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_model_is_served_until_it_is_stopped_and_nothing_stays_behind(seeming, folder, how):
    command = ["models", "serve", str(folder), "--port", "0", "--python", str(seeming), "--max-model-len", "64"]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        said = "".join(process.stdout.readline() for _ in range(3))
        url, name = re.fullmatch(r"model:\n  url: (http://127.0.0.1:\d+)/v1\n  model: (\w+)\n", said).groups()
        assert name == "tiny"
        assert urllib.request.urlopen(f"{url}/health", timeout=5).status == 200
        process.send_signal(how)
        rest, passed_on = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert rest == ""
    assert process.returncode == (0 if how == signal.SIGINT else 128 + signal.SIGTERM)
    words = json.loads(re.search(r"started with (.*)", passed_on)[1])
    assert words[:2] == ["-m", "vllm.entrypoints.openai.api_server"]
    assert words[words.index("--model") + 1] == str(folder)
    assert words[-2:] == ["--max-model-len", "64"]
    assert "Traceback" not in passed_on
    assert_ends(int(re.search(r"child (\d+)", passed_on)[1]))


@pytest.mark.server
def test_a_server_that_does_not_start_is_told_with_its_last_words(seeming, folder, call):
    code, out, err = call("models", "serve", folder, "--port", "0", "--python", seeming, "--fail")
    assert (code, out) == (1, "")
    assert "got a server that ended with exit code 3, allowed one that runs; its last lines: " in err
    assert err.splitlines()[-1].endswith("no such flag")


@pytest.mark.server
def test_a_server_that_never_gets_ready_is_stopped(seeming, folder, call):
    words = ["--port", "0", "--python", seeming, "--patience", "0.5", "--deaf"]
    code, _, err = call("models", "serve", folder, *words)
    assert code == 1
    assert "got a server that was not ready in 0.5 s" in err
    assert_ends(int(re.search(r"child (\d+)", err)[1]))


def test_what_is_no_model_and_what_is_no_python_is_refused(tmp_path, folder, call):
    code, _, err = call("models", "serve", tmp_path / "nothing", "--python", sys.executable)
    assert (code, err.count("\n")) == (1, 1)
    assert "nothing, where no config.json" in err
    code, _, err = call("models", "serve", folder, "--python", tmp_path / "nothing")
    assert code == 1
    assert "which is no program, allowed the Python of an environment with vLLM" in err


def test_without_any_vllm_it_says_how_to_get_one(folder, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call("models", "serve", folder)
    assert code == 1
    assert "got no environment with vLLM, looked for .venv-vllm/bin/python and in this one; run `make vllm`" in err


# ── penstock cache ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The user's store: three answers of one model and one of another."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = AnswerStore(path=str(tmp_path / "cache" / "penstock" / "answers.sqlite"))
    for model, count in (("qwen", 3), ("\x1b[31mred", 1)):
        with store.writer(model) as writer:
            writer.put({f"{model}{i}": Completion(text="a") for i in range(count)})
    return store


def test_statistics_of_the_store_as_a_table_and_as_json(kept, call):
    code, out, err = call("cache", "stats")
    assert (code, err) == (0, "")
    assert re.search(r"^qwen +3 +\d+ +\d{4}-\d\d-\d\d", out, re.MULTILINE)
    assert "\x1b" not in out
    assert out.splitlines()[-1].startswith(f"{kept.path}: 4 answers, ")
    _, out, _ = call("cache", "stats", "--json")
    told = json.loads(out)
    assert (told["path"], told["answers"]) == (kept.path, 4)
    assert {one["model"]: one["answers"] for one in told["models"]} == {"qwen": 3, "\x1b[31mred": 1}


def test_prune_says_what_would_go_and_what_went(kept, call):
    assert call("cache", "prune", "--model", "qwen", "--dry-run")[1].startswith(f"{kept.path}: 3 answers would go")
    assert call("cache", "prune", "--model", "qwen")[1].startswith(f"{kept.path}: 3 answers gone; ")
    assert call("cache", "prune", "--older-than", "1")[1].startswith(f"{kept.path}: 0 answers gone; ")
    assert call("cache", "prune", "--to-mb", "0", "--store", kept.path)[1].startswith(f"{kept.path}: 1 answers gone")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "got nothing to go by"),
        (["--older-than", "-1"], "--older-than: got -1"),
        (["--to-mb", "nan"], "--to-mb: got nan"),
    ],
)
def test_a_prune_without_sense_is_refused(kept, call, words, message):
    code, out, err = call("cache", "prune", *words)
    assert (code, out) == (1, "")
    assert message in err
