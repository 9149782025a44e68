"""A key is in the environment and in requests, and nowhere else: not in files, messages, caches or records.

The server says the key in everything that it answers.
"""

import json
import os
import random
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from botocore.exceptions import EndpointConnectionError

from penstock.cli import main
from penstock.errors import ConfigError, StorageError
from penstock.kernels import cache_folder
from penstock.recipe import Recipe
from penstock.storage import Folder, storage_errors, without_users

KEY = "sk-4711-nobody-may-see-this-0815"
WORDS = (  # noqa: SIM905
    "model data token language learn train select copy merge rank score sample hash split part file table column row"
).split()


class Parrot(BaseHTTPRequestHandler):
    """Completions of random words, and vectors; the first request, and every one with a wrong key, is refused."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers["Authorization"]
        self.server.keys.append(key)
        if self.server.refuses or len(self.server.keys) == 1:
            self.reply(401 if self.server.refuses else 503, {"error": f"not with {key}"})
            return
        draw = random.Random(json.dumps(body))
        if self.path.endswith("/embeddings"):
            rows = [{"index": n, "embedding": [draw.gauss(0, 1) for _ in range(8)]} for n in range(len(body["input"]))]
            self.reply(200, {"data": rows, "model": key})
            return
        lines = [{"text": f"{' '.join(draw.choices(WORDS, k=9))} {KEY}."} for _ in range(5)]
        message = {"role": "assistant", "content": json.dumps({"items": lines})}
        usage = {"prompt_tokens": 9, "completion_tokens": 5}
        self.reply(200, {"choices": [{"message": message, "finish_reason": KEY}], "usage": usage, "id": KEY})

    def do_GET(self):
        self.reply(200, {"data": [{"id": self.headers["Authorization"]}]})

    def reply(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status, KEY)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Key", KEY)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Nothing."""


@pytest.fixture
def parrot():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Parrot)
    server.keys, server.refuses, server.daemon_threads = [], False, True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def penstock(monkeypatch, capfd, *arguments):
    """Run the command line in this process: (exit code, all that it printed)."""
    monkeypatch.setattr(sys, "argv", ["penstock", *map(str, arguments)])
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    said = capfd.readouterr()
    return code, said.out + said.err


def files_below(*places):
    """Bytes of every file below folders, by path."""
    names = [os.path.join(at, name) for place in places for at, _, found in os.walk(place) for name in found]
    return {name: open(name, "rb").read() for name in names}


def own_cache(folder):
    """A cache of the test's own, but for the machine code of kernels, which takes long to make again."""
    kernels = {"NUMBA_CACHE_DIR": str(Path(cache_folder()).parent)} if cache_folder() else {}
    return {"XDG_CACHE_HOME": str(folder / "cache"), **kernels}


def generate(parrot, out, store):
    url = f"http://127.0.0.1:{parrot.server_address[1]}/v1"
    embed = ("--set", f"embed.model={{url: '{url}', model: vectors, api_key_env: PENSTOCK_TEST_KEY}}")
    small = ("--count", 5, "--set", "voyage.sample=5", "--set", "gates=null", *embed)
    model = ("--url", url, "--model", "m", "--api-key-env", "PENSTOCK_TEST_KEY", "--store", store)
    return ("generate", "Write a line.", "--out", out, *small, *model)


@pytest.mark.server
def test_keys_of_a_server_and_of_a_store_are_in_no_output(parrot, s3_bucket, tmp_path, monkeypatch, capfd):
    secrets = {"PENSTOCK_TEST_KEY": KEY, "AWS_SECRET_ACCESS_KEY": "aws-" + KEY[3:], "HF_TOKEN": "hf_" + KEY[3:]}
    for name, value in {**secrets, **own_cache(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    code, said = penstock(monkeypatch, capfd, *generate(parrot, f"{s3_bucket}/made", tmp_path / "store"))
    assert code == 0, said
    assert set(parrot.keys) == {f"Bearer {KEY}"}
    assert len(parrot.keys) > 3
    store = fsspec.filesystem("s3", use_listings_cache=False)
    written = {name: store.cat_file(name) for name in store.find(s3_bucket)}
    assert any(name.endswith("generated/manifest.json") for name in written)
    written |= files_below(tmp_path)
    assert any("store" in name for name in written)
    for name, data in {**written, "terminal": said.encode()}.items():
        assert KEY[3:].encode() not in data, name


@pytest.mark.server
def test_a_refused_key_is_not_in_the_message(parrot, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PENSTOCK_TEST_KEY", KEY)
    parrot.refuses = True
    code, said = penstock(monkeypatch, capfd, *generate(parrot, tmp_path / "out", tmp_path / "store"))
    assert code == 1
    assert "check the API key" in said
    assert KEY not in said
    assert not [name for name, data in files_below(tmp_path).items() if KEY.encode() in data]


@pytest.mark.server
def test_a_key_is_in_no_report_card_or_message_of_a_run(parrot, tmp_path, monkeypatch, capfd):
    url = f"http://127.0.0.1:{parrot.server_address[1]}/v1"
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": f"{' '.join(WORDS)} {n}."}) + "\n" for n in range(9)))
    (tmp_path / "recipe.yaml").write_text(
        f"""
name: small
source: {{files: [{{path: '{tmp_path}/a.jsonl', domain: web}}]}}
filters: {{gopher_quality: null, gopher_repetition: null, language: null}}
generate:
  prompt: {{task: Write a line.}}
  model: {{url: '{url}', model: m, api_key_env: PENSTOCK_TEST_KEY}}
  gates: null
  voyage: {{count: 5, sample: 5}}
embed: {{model: {{url: '{url}', model: vectors, api_key_env: PENSTOCK_TEST_KEY}}}}
select: null
max_dropped: {{default: 1.0}}
"""
    )
    for name, value in {"PENSTOCK_TEST_KEY": KEY, **own_cache(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    said = {}
    for command in (
        ("build", tmp_path / "recipe.yaml", "--out", tmp_path / "run", "--workers", 0),
        ("inspect", tmp_path / "run" / "generated", "--sample", 3),
        ("recipe", "show", tmp_path / "recipe.yaml"),
        ("doctor", "--json", "--out", tmp_path),
        ("push", tmp_path / "run", tmp_path / "pushed"),
    ):
        code, said[command[0]] = penstock(monkeypatch, capfd, *command)
        assert code == 0 or command[0] == "doctor", said[command[0]]
    assert f"Bearer {KEY}" in parrot.keys
    written = files_below(tmp_path)
    names = {os.path.basename(name) for name in written}
    assert names >= {"report.html", "README.md", "croissant.json", "manifest.json", "answers.sqlite"}
    assert b"generated" in written[str(tmp_path / "run" / "report.html")]
    for name, data in {**written, **{verb: text.encode() for verb, text in said.items()}}.items():
        assert KEY[3:].encode() not in data, name


PLACES = ("ftp://{}h/v1", "http://{}h/v1", "https://{}h:x/v1", "h{}/v1", "http://[{}h/v1")


@pytest.mark.parametrize("url", PLACES)
@pytest.mark.parametrize("section", ["generate.model", "embed.model"])
def test_an_address_of_a_server_with_a_password_is_refused_and_not_shown(section, url):
    given = url.format(USER)
    text = "name: x\nsource: {files: a.jsonl}\nselect: null\n"
    with pytest.raises(ConfigError, match="got an address with a user, a password") as found:
        Recipe.parse(text, [f"{section}={{url: '{given}', model: m}}"])
    assert "sesame" not in "".join([str(found.value), *getattr(found.value, "__notes__", ())])


def test_a_store_s_address_with_a_password_is_not_in_its_errors(monkeypatch, tmp_path):
    with pytest.raises(StorageError) as found, storage_errors("s3://bucket/x"):
        raise EndpointConnectionError(endpoint_url=f"http://{USER}127.0.0.1:9/bucket")
    assert "http://127.0.0.1:9/bucket" in str(found.value)
    assert "sesame" not in str(found.value)
    assert without_users(f"a http://{USER}b/c@d and s3://e/f@g") == "a http://b/c@d and s3://e/f@g"


USER = "user:sesame-0815@"


@pytest.mark.parametrize("url", [f"https://{USER}host/a.jsonl", f"s3://{USER}bucket/a.jsonl", f"ftp://{USER}h/a.csv"])
def test_an_address_with_a_password_is_refused_and_not_shown(url, tmp_path, monkeypatch, capfd):
    (tmp_path / "recipe.yaml").write_text(f"name: x\nselect: null\nsource:\n  files:\n    - path: '{url}'\n")
    (tmp_path / "good.yaml").write_text("name: x\nselect: null\nsource: {files: a.jsonl}\n")
    (tmp_path / "key.yaml").write_text("name: x\nselect: null\nsource: {files: a.jsonl}\napi_key: sesame-0815\n")
    good = ("build", tmp_path / "good.yaml")
    for command in (
        ("build", tmp_path / "recipe.yaml", "--out", tmp_path / "out"),
        ("recipe", "show", tmp_path / "recipe.yaml"),
        ("build", tmp_path / "key.yaml"),
        (*good, "--out", url),
        (*good, "--out", tmp_path / "out", "--since", url),
        (*good, "--set", f"output={url}"),
        (*good, "--set", f"source.files={url}"),
        ("inspect", url),
        ("push", tmp_path, url),
        ("push", url, tmp_path),
    ):
        code, said = penstock(monkeypatch, capfd, *command)
        assert code == 1, command
        assert said.splitlines()[-1].startswith("penstock: ")
        assert "sesame" not in said, command
    given = {str(tmp_path / "recipe.yaml"), str(tmp_path / "key.yaml")}
    assert {name for name, data in files_below(tmp_path).items() if b"sesame" in data} == given
    with pytest.raises(ConfigError, match="a user or a password"):
        Folder(url)
    with pytest.raises(ConfigError) as found:
        Recipe.load(tmp_path / "recipe.yaml")
    assert "sesame" not in "".join([str(found.value), *found.value.__notes__])
