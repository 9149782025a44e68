"""`penstock push` to the Hub: its client against a server on loopback that keeps commits as the Hub does."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

import datasets
import fsspec
import pytest
import yaml

from penstock.dataset import Dataset
from penstock.errors import ConfigError, DatasetError, StorageError
from penstock.push import push
from penstock.push_hub import Repository

hub = pytest.importorskip("huggingface_hub")
pytestmark = pytest.mark.server
TOKEN = "hf_right"
DEST = "hf://datasets/org/name"


class Hub(ThreadingHTTPServer):
    """Repositories, branches, commits and large files, with the endpoints that a push needs."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.blobs = {}  # sha256 -> bytes
        self.repos = {}  # id -> {"private", "branches": {name: commit}}
        self.commits = {}  # id of the commit -> {path: ("lfs", sha256) or ("regular", bytes)}
        self.log = []
        self.refuse_from = None  # requests that change something are refused from this one on

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, repo, branch, files):
        name = hashlib.sha1(os.urandom(8)).hexdigest()
        self.commits[name] = files
        self.repos[repo]["branches"][branch] = name
        return name

    def files(self, repo, branch="main"):
        """{path: bytes} of a branch."""
        found = self.commits[self.repos[repo]["branches"][branch]]
        return {p: self.blobs[value] if kind == "lfs" else value for p, (kind, value) in found.items()}

    def sent(self, method="PUT"):
        return [path for m, path in self.log if m == method]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, value=None, **headers):
        body = json.dumps(value if value is not None else {}).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            out = b""
            while size := int(self.rfile.readline(), 16):
                out += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return out
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self):
        server, data = self.server, self.body()
        url = urlparse(self.path)
        path = unquote(url.path)
        server.log.append((self.command, path))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" and not path.startswith("/blob/"):
            return self.reply(401, {"error": "Invalid username or password."})
        changes = self.command == "PUT" or re.search("/(commit|branch|create)(/|$)", path)
        if server.refuse_from is not None and changes:
            server.refuse_from -= 1
            if server.refuse_from < 0:
                return self.reply(403, {"error": "refused"})
        if path.startswith("/blob/"):
            name = path.removeprefix("/blob/")
            assert hashlib.sha256(data).hexdigest() == name
            server.blobs[name] = data
            return self.reply(200)
        if path == "/api/validate-yaml":
            front = yaml.safe_load(json.loads(data)["content"].split("---\n")[1])
            wrong = [] if isinstance(front.get("license", ""), str) else [{"message": "license must be a string"}]
            return self.reply(400 if wrong else 200, {"errors": wrong, "warnings": []})
        if path == "/api/repos/create":
            value = json.loads(data)
            repo = f"{value['organization']}/{value['name']}"
            server.repos[repo] = {"private": value.get("private") or value.get("visibility") == "private"}
            server.repos[repo]["branches"] = {}
            server.commit(repo, "main", {".gitattributes": ("regular", b"*.parquet filter=lfs")})
            return self.reply(200, {"url": f"{server.url}/datasets/{repo}"})
        found = re.match(r"/(?:api/)?datasets/([^/]+/[^/.]+)(?:\.git)?(?:/(.*))?$", path)
        repo, rest = found[1], found[2] or ""
        if repo not in server.repos:
            return self.reply(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        branches = server.repos[repo]["branches"]
        what, _, branch = rest.partition("/")
        if what == "info":
            wanted = json.loads(data)["objects"]
            for item in wanted:
                if item["oid"] not in server.blobs:
                    item["actions"] = {"upload": {"href": f"{server.url}/blob/{item['oid']}", "header": {}}}
            return self.reply(200, {"transfer": "basic", "objects": wanted})
        if what == "branch":
            branches.setdefault(branch, branches["main"])
            return self.reply(200)
        if branch not in branches:
            return self.reply(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
        files = server.commits[branches[branch]]
        if what == "revision":
            siblings = []
            for name, (kind, value) in files.items():
                content = server.blobs[value] if kind == "lfs" else value
                lfs = {"sha256": value, "size": len(content), "pointerSize": 100} if kind == "lfs" else None
                siblings.append({"rfilename": name, "size": len(content), "blobId": "0", "lfs": lfs})
            info = {"id": repo, "sha": branches[branch], "siblings": siblings, "private": False, "tags": []}
            return self.reply(200, info)
        if what == "preupload":
            out = []
            for item in json.loads(data)["files"]:
                kind, value = files.get(item["path"], (None, None))
                oid = value if kind != "regular" else hashlib.sha1(b"blob %d\0" % len(value) + value).hexdigest()
                mode = "lfs" if item["path"].endswith(".parquet") else "regular"
                out.append({"path": item["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            return self.reply(200, {"files": out})
        assert what == "commit", path
        new, lines = dict(files), [json.loads(line) for line in data.splitlines()]
        if lines[0]["value"].get("parentCommit") != branches[branch]:
            return self.reply(412, {"error": "A commit has happened since. Please refresh and try again."})
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                new[value["path"]] = ("regular", base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                assert value["oid"] in server.blobs
                new[value["path"]] = ("lfs", value["oid"])
            else:
                del new[value["path"]]
        name = server.commit(repo, branch, new)
        return self.reply(200, {"commitOid": name, "commitUrl": f"{server.url}/datasets/{repo}/commit/{name}"})

    do_GET = do_POST = do_PUT = answer


@pytest.fixture
def server(monkeypatch):
    made = Hub()
    thread = threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setattr(hub.constants, "ENDPOINT", made.url)
    monkeypatch.setattr(hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def folder_files(path):
    found = {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    # what is kept for the next build stays at home
    found = {name: data for name, data in found.items() if not re.match(r"[0-9a-f]{12}/", name)}
    manifest = json.loads(found["manifest.json"]) | {"passes": None}
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False)
    return found | {"manifest.json": text.encode() + b"\n"}


def checkout(server, folder, branch="main"):
    """Write a branch's files to a folder, as a clone would."""
    for name, data in server.files("org/name", branch).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def test_the_repository_holds_the_folder_as_it_is(server, versions, tmp_path):
    result = push(str(versions[0]), DEST, create=True, private=True)
    files = server.files("org/name")
    assert files.pop(".gitattributes")
    assert files == folder_files(versions[0])
    assert server.repos["org/name"]["private"]
    assert result.done == f"commit {server.repos['org/name']['branches']['main']}"
    assert len(server.sent("PUT")) == len({f.sha256 for f in Dataset(str(versions[0])).entries()})
    assert [path for path in server.sent("POST") if "/commit/" in path] == ["/api/datasets/org/name/commit/main"]
    clone = checkout(server, tmp_path / "clone")
    Dataset(str(clone)).verify()
    found = datasets.load_dataset(str(clone), cache_dir=str(tmp_path / "cache"))
    assert found["train"].to_list() == Dataset(str(versions[0])).read("train").to_pylist()


def test_a_second_push_sends_no_file_and_a_newer_version_only_what_is_new(server, versions):
    push(str(versions[0]), DEST, create=True)
    head = server.repos["org/name"]["branches"]["main"]
    server.log.clear()
    result = push(str(versions[0]), DEST)
    assert server.sent("PUT") == []
    assert {a.what for a in result.actions} == {"there"}
    assert server.repos["org/name"]["branches"]["main"] == head  # nothing changed, so no commit
    old, new = ({f.sha256 for f in Dataset(str(path)).entries()} for path in versions)
    result = push(str(versions[1]), DEST)
    assert {path.removeprefix("/blob/") for path in server.sent("PUT")} == new - old
    files = server.files("org/name")
    files.pop(".gitattributes")
    assert files == folder_files(versions[1])  # shards of the older are gone
    assert result.total("remove")[0] > 0


def test_files_of_others_in_the_repository_stay(server, versions):
    push(str(versions[0]), DEST, create=True)
    files = server.commits[server.repos["org/name"]["branches"]["main"]]
    mine = {"notes.md": ("regular", b"mine"), "data/extra.parquet": ("regular", b"mine")}
    server.commit("org/name", "main", files | mine)
    push(str(versions[1]), DEST)
    assert mine.keys() < server.files("org/name").keys()


def test_stopped_anywhere_the_branch_is_the_older_version_or_the_new_one(server, versions):
    push(str(versions[0]), DEST, create=True)
    old = server.files("org/name")
    new = {".gitattributes": old[".gitattributes"], **folder_files(versions[1])}
    before = dict(server.blobs)
    head = server.repos["org/name"]["branches"]["main"]
    changes = len({f.sha256 for f in Dataset(str(versions[1])).entries()} - before.keys()) + 1  # files, the commit
    for number in sorted({0, 1, 2, changes // 2, changes - 1}):
        server.blobs = dict(before)
        server.refuse_from = number
        with pytest.raises(StorageError, match=r"the token may not write there|push again, what was sent is kept"):
            push(str(versions[1]), DEST)
        assert server.files("org/name") == old, number
        done = set(server.blobs)
        assert len(done) == len(before) + min(number, changes - 1)
        if number in (0, 2, changes - 1):
            server.refuse_from = None
            server.log.clear()
            push(str(versions[1]), DEST)
            assert not {path.removeprefix("/blob/") for path in server.sent("PUT")} & done  # nothing is sent twice
            assert server.files("org/name") == new
            server.repos["org/name"]["branches"]["main"] = head


def test_a_branch_of_its_own(server, versions):
    push(str(versions[0]), DEST, create=True)
    with pytest.raises(ConfigError, match=r"name@next: the branch is not there.*add --create"):
        push(str(versions[1]), f"{DEST}@next")
    assert not push(str(versions[1]), f"{DEST}@next", create=True, dry_run=True).total("there")[0]
    push(str(versions[1]), DEST, branch="next", create=True)
    assert {n: d for n, d in server.files("org/name", "next").items() if n != ".gitattributes"} == folder_files(
        versions[1]
    )
    assert {n: d for n, d in server.files("org/name").items() if n != ".gitattributes"} == folder_files(versions[0])


def test_a_dry_run_says_what_a_push_then_does_and_changes_nothing(server, versions):
    said = push(str(versions[0]), DEST, create=True, dry_run=True)
    assert server.repos == {}
    assert push(str(versions[0]), DEST, create=True).actions == said.actions
    head = server.repos["org/name"]["branches"]["main"]
    said = push(str(versions[1]), DEST, dry_run=True)
    assert server.repos["org/name"]["branches"]["main"] == head
    assert push(str(versions[1]), DEST).actions == said.actions
    assert {a.what for a in said.actions} == {"send", "there", "remove"}


def test_a_dataset_in_a_store_and_one_that_was_pushed_before_give_the_same_commit(
    server, versions, s3_bucket, tmp_path, monkeypatch
):
    fsspec.filesystem("s3").put(f"{versions[0]}/", f"{s3_bucket}/source/", recursive=True)
    push(f"{s3_bucket}/source", DEST, create=True)
    monkeypatch.setattr("penstock.push_hub.IN_MEMORY", 0)  # through a file on disk
    push(f"{s3_bucket}/source", f"{DEST}@files", create=True)
    push(str(versions[0]), str(tmp_path / "pushed"))
    push(str(tmp_path / "pushed"), f"{DEST}@again", create=True)
    for branch in ("main", "files", "again"):
        files = server.files("org/name", branch)
        files.pop(".gitattributes")
        assert files == folder_files(versions[0])


def test_another_commit_in_between_is_not_overwritten(server, versions, monkeypatch):
    push(str(versions[0]), DEST, create=True)
    preupload = hub.HfApi.preupload_lfs_files

    def and_a_commit(self, *args, **options):
        files = server.commits[server.repos["org/name"]["branches"]["main"]]
        server.commit("org/name", "main", files | {"notes.md": ("regular", b"theirs")})
        return preupload(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(hub.HfApi, "preupload_lfs_files", and_a_commit)
        with pytest.raises(StorageError, match="another commit came in between; nothing was published, push again"):
            push(str(versions[1]), DEST)
    assert server.files("org/name")["notes.md"] == b"theirs"
    assert server.files("org/name")["manifest.json"] == folder_files(versions[0])["manifest.json"]
    push(str(versions[1]), DEST)
    assert server.files("org/name")["manifest.json"] == folder_files(versions[1])["manifest.json"]


def test_damage_is_found_before_anything_is_sent(server, versions, tmp_path):
    shutil.copytree(versions[0], tmp_path / "source")
    path = Dataset(str(versions[0])).entries()[0].path
    (tmp_path / "source" / path).write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match=f"missing or damaged: {re.escape(path)}; nothing was sent"):
        push(str(tmp_path / "source"), DEST, create=True)
    assert server.blobs == {}


def test_what_the_hub_refuses_is_said_with_what_to_do(server, versions, monkeypatch):
    source = str(versions[0])
    with pytest.raises(ConfigError, match=r"org/name@main: the repository is not there, .*add --create"):
        push(source, DEST)
    with pytest.raises(ConfigError, match=r"--private: .*give --create too"):
        push(source, DEST, private=True)
    with pytest.raises(ConfigError, match="--keep: the Hub keeps every version"):
        push(source, DEST, keep=True)
    with pytest.raises(ConfigError, match=r"Repo id"):
        push(source, "hf://datasets/org/-name", create=True)
    server.refuse_from = 0
    with pytest.raises(StorageError, match="the token may not write there"):
        push(source, DEST, create=True)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(StorageError, match="the token is missing or not known; run `hf auth login`, or set HF_TOKEN"):
        push(source, DEST)


def test_a_url_names_a_repository_and_a_branch():
    assert Repository.of("hf://datasets/org/name", None) == Repository("org/name", "main")
    assert Repository.of("hf://datasets/org/na.me-1@a/b", None) == Repository("org/na.me-1", "a/b")
    assert Repository.of("hf://datasets/org/name/", "x").url == "hf://datasets/org/name@x"
    assert Repository.of("hf://datasets/org/name@x", "x").branch == "x"
    with pytest.raises(ConfigError, match="--branch: got y, but hf://datasets/org/name@x names x"):
        Repository.of("hf://datasets/org/name@x", "y")
    for wrong in ("hf://org/name", "hf://datasets/name", "hf://models/org/name", "hf://datasets/org/name/data"):
        with pytest.raises(ConfigError, match=r"allowed hf://datasets/ORG/NAME or"):
            Repository.of(wrong, None)


def test_the_command_finds_the_hub_and_the_token_in_its_environment(server, versions):
    environment = os.environ | {"HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "penstock", "push", str(versions[0]), DEST, "--create"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment | {"HF_HUB_OFFLINE": "0"})
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^sent \d+ \([\d.]+ kB\)\nhf://datasets/org/name@main  digest \w{8}  commit \w{40}$", done.stdout)
    assert "manifest.json" in server.files("org/name")
