"""Data sets of the Hub and of folders in its layout, resolved by ``datasets`` and read like any other files."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.errors import ConfigError, InputError, MissingExtraError
from penstock.sources.files import FileSource
from penstock.sources.hub import HubEntry


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")


def parquet(*texts: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": list(texts)}), buffer, **options)
    return buffer.getvalue()


def lines(*texts: str) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def folder(root: Path, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return str(root)


def source(dataset: str, **options: Any) -> FileSource:
    return FileSource(name="hub", entries=(HubEntry(dataset=dataset, **options),))


def texts(src: FileSource) -> dict[str, str]:
    parts = [part for split in src.plan(1 << 30) for part in src.read(split, dropped="ids")]
    assert [part.dropped.num_rows for part in parts] == [0] * len(parts)
    return {row["doc_id"]: row["text"] for part in parts for row in part.documents.to_pylist()}


CONFIGS = b"""---
license: mit
configs:
- config_name: en
  data_files: en/*.jsonl
- config_name: de
  data_files:
  - split: train
    path: de/train.jsonl.gz
  - split: held
    path: de/held.csv
---
"""

# --- folders


def test_a_folder_of_plain_files_has_the_splits_that_their_names_say(tmp_path):
    files = {
        "data/train-00000-of-00002.parquet": parquet("a", "b"),
        "data/train-00001-of-00002.parquet": parquet("c"),
        "data/test-00000-of-00001.parquet": parquet("t"),
    }
    path = folder(tmp_path / "plain", files)
    assert texts(source(path)) == {
        "plain/data/train-00000-of-00002.parquet#0": "a",
        "plain/data/train-00000-of-00002.parquet#1": "b",
        "plain/data/train-00001-of-00002.parquet#0": "c",
    }
    assert list(texts(source(path, split="test", name="t"))) == ["t/data/test-00000-of-00001.parquet#0"]
    with pytest.raises(ConfigError, match=r"split of .*plain: got 'dev', allowed train, test; choose one"):
        source(path, split="dev").plan(1)


def test_a_readme_says_which_configurations_there_are(tmp_path):
    files = {
        "README.md": CONFIGS,
        "en/a.jsonl": lines("one"),
        "en/b.jsonl": lines("two"),
        "de/train.jsonl.gz": gzip.compress(lines("eins")),
        "de/held.csv": b"text\nzwei\n",
    }
    path = folder(tmp_path / "readme", files)
    assert texts(source(path, config="en")) == {"readme/en/a.jsonl#0": "one", "readme/en/b.jsonl#0": "two"}
    assert texts(source(path, config="de")) == {"readme/de/train.jsonl.gz#0": "eins"}
    with pytest.raises(ConfigError, match=r"config of .*readme: got None; .*'en', 'de'"):
        source(path).plan(1)
    with pytest.raises(ConfigError, match=r"config of .*readme: got 'fr'; .*'en', 'de'"):
        source(path, config="fr").plan(1)


def test_a_json_file_of_lines_and_plain_text_are_read_as_datasets_reads_them(tmp_path):
    path = folder(tmp_path / "j", {"train.json": lines("x", "y")})
    assert list(texts(source(path)).values()) == ["x", "y"]
    path = folder(tmp_path / "t", {"train.txt": b"one\n\ntwo\n"})
    assert texts(source(path)) == {"t/train.txt#0": "one", "t/train.txt#2": "two"}
    readme = b"---\nconfigs:\n- config_name: default\n  sample_by: paragraph\n  data_files: '*.txt'\n---\n"
    path = folder(tmp_path / "p", {"train.txt": b"one\nline\n\ntwo\n", "README.md": readme})
    with pytest.raises(ConfigError, match=r"text_unit of .*p: got line, its README says paragraph"):
        source(path).plan(1)
    assert list(texts(source(path, text_unit="paragraph")).values()) == ["one\nline", "two"]


def test_options_of_a_readme_that_would_read_other_rows_are_refused(tmp_path):
    readme = b"---\nconfigs:\n- config_name: default\n  sep: ';'\n  data_files: '*.csv'\n---\n"
    path = folder(tmp_path / "c", {"train.csv": b"text;n\nx;1\n", "README.md": readme})
    with pytest.raises(ConfigError, match=r"its README sets sep to ';', which is not read here; convert it"):
        source(path).plan(1)
    readme = b"---\nconfigs:\n- config_name: default\n  field: data\n  data_files: '*.json'\n---\n"
    path = folder(tmp_path / "f", {"train.json": b'{"data": []}', "README.md": readme})
    with pytest.raises(ConfigError, match=r"its README sets field to 'data', which is not read here; convert it"):
        source(path).plan(1)


def test_a_data_set_of_pictures_has_no_text(tmp_path):
    path = folder(tmp_path / "p", {"train/a.png": b"x", "train/b.png": b"y"})
    with pytest.raises(ConfigError, match=r"got files of kind imagefolder, allowed parquet, json, arrow, csv, text"):
        source(path).plan(1)


def test_folders_of_save_to_disk_are_read_whatever_rows_they_hold(tmp_path):
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_dict({"text": [str(i) for i in range(30)]})
    rows.save_to_disk(tmp_path / "one", num_shards=2)
    found = texts(source(str(tmp_path / "one")))
    assert list(found.values()) == [str(i) for i in range(30)]
    assert list(found)[15] == "one/data-00001-of-00002.arrow#0"
    rows.select([5, 3]).save_to_disk(tmp_path / "chosen")
    assert list(texts(source(str(tmp_path / "chosen"))).values()) == ["5", "3"]
    both = {"train": rows.select(range(2)), "held": rows.select(range(2, 5))}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "two")
    assert list(texts(source(str(tmp_path / "two"))).values()) == ["0", "1"]
    assert texts(source(str(tmp_path / "two"), split="held")) == {
        f"two/held/data-00000-of-00001.arrow#{i}": str(i + 2) for i in range(3)
    }
    with pytest.raises(ConfigError, match=r"split of .*two: got 'test', allowed train, held"):
        source(str(tmp_path / "two"), split="test").plan(1)
    with pytest.raises(ConfigError, match=r"split of .*one: got 'test', allowed train"):
        source(str(tmp_path / "one"), split="test").plan(1)


def test_a_saved_folder_of_another_time_is_named(tmp_path):
    path = folder(tmp_path / "old", {"state.json": b'{"_data_files": [], "_indices_data_files": [{"filename": "i"}]}'})
    with pytest.raises(InputError, match="rows are chosen by an index file; save it again after flatten_indices"):
        source(path).plan(1)
    path = folder(tmp_path / "bad", {"state.json": b"{"})
    with pytest.raises(InputError, match=r"state\.json: cannot be read"):
        source(path).plan(1)
    path = folder(tmp_path / "list", {"dataset_dict.json": b"[]"})
    with pytest.raises(InputError, match=r"dataset_dict\.json: got list, expected an object"):
        source(path).plan(1)


def test_a_data_set_is_a_domain_of_its_own_and_its_columns_are_mapped(tmp_path):
    table = pa.table({"content": ["x"], "lic": ["MIT"], "link": ["http://a"]})
    (tmp_path / "corpus").mkdir()
    pq.write_table(table, tmp_path / "corpus" / "train.parquet")
    columns = {"text": "content", "license": "lic", "url": "link"}
    src = source(str(tmp_path / "corpus"), columns=columns)
    (part,) = [part for split in src.plan(1) for part in src.read(split, dropped="ids")]
    (row,) = part.documents.to_pylist()
    found = {key: row[key] for key in ("text", "source", "domain", "license", "url")}
    assert found == {"text": "x", "source": "hub", "domain": "corpus", "license": "MIT", "url": "http://a"}


def test_the_identity_of_a_split_does_not_know_the_folder(tmp_path):
    ids = []
    for place in ("one", "two"):
        path = folder(tmp_path / place / "set", {"train.parquet": parquet("x")})
        src = source(path)
        ids.append(json.dumps([src.identity(split) for split in src.plan(1)]))
    assert ids[0] == ids[1]
    assert str(tmp_path) not in ids[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": ""}, "dataset: got an empty text; give org/name or a folder"),
        ({"dataset": "a", "split": ""}, "split: got an empty text"),
        ({"dataset": "a", "name": "x#y"}, "name of a source: got 'x#y'"),
        ({"dataset": "a", "text_unit": "document"}, "text_unit: got 'document', allowed line, paragraph, file"),
        ({"dataset": "a", "columns": {"body": "b"}}, "columns: got body, allowed text, domain"),
    ],
)
def test_a_wrong_entry_says_what_is_allowed(options, message):
    with pytest.raises(ConfigError) as caught:
        HubEntry(**options)
    assert message in str(caught.value)


def test_a_revision_of_a_folder_and_a_place_that_is_none_are_refused(tmp_path):
    path = folder(tmp_path / "set", {"train.parquet": parquet("x")})
    with pytest.raises(ConfigError, match=r"revision of .*set: got 'v1', allowed on the Hub only"):
        source(path, revision="v1").plan(1)
    with pytest.raises(InputError, match=r"nowhere/at/all: no such folder, and no name of a data set; correct it"):
        source("/nowhere/at/all").plan(1)
    with pytest.raises(InputError, match=r"empty: cannot be resolved \(.*; correct the name"):
        source(folder(tmp_path / "empty", {".keep": b""})).plan(1)


def test_without_datasets_the_extra_is_named(tmp_path, monkeypatch):
    path = folder(tmp_path / "set", {"train.parquet": parquet("x")})
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"datasets is not installed; run: pip install 'penstock\[hub\]'"):
        source(path).plan(1)


# --- a Hub on loopback, as much of its HTTP interface as resolving and reading takes

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """Serves ``repos``: id of a data set to its files. ``asked`` lists (method, path, Range)."""

    daemon_threads = True

    def __init__(self, repos: dict[str, dict[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos = repos
        self.asked: list[tuple[str, str, str | None]] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


def entry(path: str, data: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: Any) -> None:
        pass

    def reply(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply_json(self, value: Any, status: int = 200) -> None:
        self.reply(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def missing(self, code: str) -> None:
        self.reply(b"{}", 404, {"X-Error-Code": code, "X-Error-Message": code})

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((self.command, path, self.headers.get("Range")))
        found = re.fullmatch(
            r"/(?:api/)?datasets/([^/]+/[^/]+?)(?:/(revision|tree|resolve|paths-info)/([^/]+)(?:/(.*))?)?", path
        )
        files = self.server.repos.get(found[1]) if found else None
        if found is None or files is None:
            self.missing("RepoNotFound")
        elif found[2] not in (None, "revision") and found[3] not in (COMMIT, "main"):
            self.missing("RevisionNotFound")
        elif found[2] in (None, "revision"):
            if found[3] not in (None, "main", COMMIT):
                self.missing("RevisionNotFound")
                return
            self.reply_json(
                {
                    "_id": "1",
                    "id": found[1],
                    "sha": COMMIT,
                    "private": False,
                    "gated": False,
                    "disabled": False,
                    "downloads": 0,
                    "likes": 0,
                    "tags": [],
                    "author": found[1].split("/")[0],
                    "siblings": [{"rfilename": name} for name in files],
                    "lastModified": "2024-01-01T00:00:00.000Z",
                    "createdAt": "2024-01-01T00:00:00.000Z",
                }
            )
        elif found[2] == "tree":
            below = f"{found[4]}/" if found[4] else ""
            listed = [entry(name, data) for name, data in files.items() if name.startswith(below)]
            recursive = "recursive=true" in self.path.lower()
            if not recursive:
                folders = sorted(
                    {
                        name[len(below) :].split("/")[0]
                        for name in files
                        if name.startswith(below) and "/" in name[len(below) :]
                    }
                )
                listed = [e for e in listed if "/" not in e["path"][len(below) :]]
                listed += [{"type": "directory", "path": below + name, "size": 0, "oid": "d" * 40} for name in folders]
            else:
                folders = sorted({name.rsplit("/", 1)[0] for name in files if "/" in name})
                listed += [{"type": "directory", "path": name, "size": 0, "oid": "d" * 40} for name in folders]
            if below and not listed:
                self.missing("EntryNotFound")
            else:
                self.reply_json(listed)
        elif found[4] not in files:
            self.missing("EntryNotFound")
        else:
            self.resolve(files[found[4]])

    do_HEAD = do_GET

    def resolve(self, data: bytes) -> None:
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        given = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if given is None:
            self.reply(data, 200, headers)
            return
        first, last = int(given[1]), min(int(given[2] or len(data) - 1), len(data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        self.reply(data[first : last + 1], 206, headers)

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.server.asked.append((self.command, path, None))
        found = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/paths-info/([^/]+)", path)
        files = self.server.repos.get(found[1]) if found else None
        if files is None:
            self.missing("RepoNotFound")
            return
        try:
            wanted = json.loads(body)["paths"]
        except ValueError:
            wanted = [unquote(v.split("=", 1)[1]) for v in body.split("&") if v.startswith("paths=")]
        wanted = [wanted] if isinstance(wanted, str) else wanted
        out = [entry(name, files[name]) for name in wanted if name in files]
        out += [
            {"type": "directory", "path": name, "oid": "d" * 40}
            for name in wanted
            if any(f.startswith(f"{name}/") for f in files)
        ]
        self.reply_json(out)


@contextmanager
def serving(repos: dict[str, dict[str, bytes]]) -> Iterator[Hub]:
    hub = Hub(repos)
    thread = threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()


READ = """
import json, sys
from penstock.errors import PenstockError
from penstock.sources.base import fingerprint
from penstock.sources.files import FileSource
from penstock.sources.hub import HubEntry
out = []
for options in json.loads(sys.argv[1]):
    target = options.pop("target", 1 << 30)
    try:
        src = FileSource(name="hub", entries=(HubEntry(**options),))
        files = [(f.path, f.name, f.size, fingerprint(f)) for f in src.inputs()]
        parts = [part for split in src.plan(target) for part in src.read(split, dropped="ids")]
        rows = [[r["doc_id"], r["text"], r["domain"]] for part in parts for r in part.documents.to_pylist()]
        out.append({"files": files, "rows": rows})
    except PenstockError as error:
        out.append({"error": type(error).__name__ + ": " + str(error)})
print("RESULT" + json.dumps(out))
"""


def through(hub: Hub, home: Path, *entries: dict[str, Any], offline: str = "0") -> list[dict[str, Any]]:
    """What another process finds: huggingface_hub reads HF_ENDPOINT when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": offline}
    ran = subprocess.run(
        [sys.executable, "-c", READ, json.dumps(entries)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.partition("RESULT")[2])


@pytest.mark.server
def test_a_data_set_of_the_hub_is_read_at_one_commit_without_downloading_it(tmp_path):
    numbers = [hashlib.blake2b(str(i).encode()).hexdigest() for i in range(200_000)]
    large = parquet(*numbers, row_group_size=10_000, compression="none", use_dictionary=False)
    repos = {
        "org/plain": {
            "README.md": b"# Plain",
            "data/train-00000-of-00002.parquet": parquet("a", "b"),
            "data/train-00001-of-00002.parquet": parquet("c"),
            "data/test-00000-of-00001.parquet": large,
        },
        "org/cfg": {
            "README.md": CONFIGS,
            "en/a.jsonl": lines("one"),
            "en/b.jsonl": lines("two"),
            "de/train.jsonl.gz": gzip.compress(lines("eins")),
            "de/held.csv": b"text\nzwei\n",
        },
    }
    with serving(repos) as hub:
        plain, missing, english, none, config = through(
            hub,
            tmp_path / "home",
            {"dataset": "org/plain"},
            {"dataset": "org/plain", "revision": "v9"},
            {"dataset": "org/cfg", "config": "en", "revision": COMMIT},
            {"dataset": "org/none"},
            {"dataset": "org/cfg"},
        )
        asked = list(hub.asked)
    names = ["org/plain/data/train-00000-of-00002.parquet", "org/plain/data/train-00001-of-00002.parquet"]
    assert plain["rows"] == [
        [f"{names[0]}#0", "a", "plain"],
        [f"{names[0]}#1", "b", "plain"],
        [f"{names[1]}#0", "c", "plain"],
    ]
    first = repos["org/plain"]["data/train-00000-of-00002.parquet"]
    oid = hashlib.sha1(first).hexdigest()
    address = f"hf://datasets/org/plain@{COMMIT}/data/train-00000-of-00002.parquet"
    assert plain["files"][0] == [address, names[0], len(first), f"git:{oid}:{len(first)}"]
    assert english["rows"] == [["org/cfg/en/a.jsonl#0", "one", "cfg"], ["org/cfg/en/b.jsonl#0", "two", "cfg"]]
    assert missing["error"].startswith("InputError: org/plain: cannot be resolved (DatasetNotFoundError: Revision 'v9'")
    assert none["error"].startswith("InputError: org/none: cannot be resolved (DatasetNotFoundError")
    assert config["error"].startswith("ConfigError: config of org/cfg: got None")
    # only the files of the split, in pieces, at the commit
    data = [(path, piece) for _, path, piece in asked if path.endswith((".parquet", ".jsonl", ".gz", ".csv"))]
    assert data
    assert all(f"/resolve/{COMMIT}/" in path and piece for path, piece in data)
    assert not any("test-00000" in path or "/de/" in path for path, _ in data)


@pytest.mark.server
def test_the_fingerprint_of_a_file_on_the_hub_costs_no_download(tmp_path):
    data = parquet(*(hashlib.blake2b(str(i).encode()).hexdigest() for i in range(100_000)), row_group_size=5000)
    assert len(data) > 12 << 20
    code = READ.replace(
        'parts = [part for split in src.plan(target) for part in src.read(split, dropped="ids")]', "parts = []"
    )
    with serving({"org/big": {"train.parquet": data}}) as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
        subprocess.run(
            [sys.executable, "-c", code, json.dumps([{"dataset": "org/big"}])], env=environment, check=True, timeout=240
        )
        assert not any(path.endswith(".parquet") for method, path, _ in hub.asked if method == "GET")


@pytest.mark.server
def test_a_hub_that_may_not_be_asked_is_an_input_error(tmp_path):
    with serving({"org/plain": {"train.parquet": parquet("x")}}) as hub:
        (found,) = through(hub, tmp_path / "home", {"dataset": "org/plain"}, offline="1")
        assert hub.asked == []
    assert found["error"].startswith("InputError: org/plain: cannot be resolved")
