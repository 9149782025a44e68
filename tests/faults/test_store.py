"""A store that is slow, refuses now and then, or goes away: requests are made again, or the run ends with one line."""

import http.client
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import s3fs

from penstock.dataset import Dataset
from penstock.errors import StorageError
from penstock.lock import LEASE
from penstock.run import run
from penstock.storage import Folder

pytestmark = pytest.mark.server


class Between(ThreadingHTTPServer):
    """Hands requests on to the store; ``rule(number)`` says what becomes of one: None, a status, "cut", or seconds."""

    daemon_threads = True

    def __init__(self, address):
        super().__init__(("127.0.0.1", 0), Handler)
        self.store = address.removeprefix("http://")
        self.rule, self.seen, self.lock = lambda number: None, 0, threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_):
        """Nothing: connections that are cut are what this is about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_one(self):
        server = self.server
        with server.lock:
            server.seen += 1
            what = server.rule(server.seen)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if what == "cut":
            self.close_connection = True
            return
        if isinstance(what, float):
            time.sleep(what)
        if isinstance(what, int):
            self.answer(what, [], b"<Error><Code>SlowDown</Code></Error>")
            return
        with_store = http.client.HTTPConnection(server.store, timeout=60)
        with_store.request(self.command, self.path, body, dict(self.headers))
        got = with_store.getresponse()
        self.answer(got.status, got.getheaders(), got.read())
        with_store.close()

    def answer(self, status, headers, data):
        self.send_response_only(status)
        kept = [(name, value) for name, value in headers if name.lower() not in ("transfer-encoding", "connection")]
        length = [value for name, value in kept if name.lower() == "content-length"]
        for name, value in kept if length else [*kept, ("Content-Length", str(len(data)))]:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_one

    def log_message(self, *_):
        """Nothing."""


@pytest.fixture
def between(s3_bucket, s3_server, monkeypatch):
    """A server between the run and the store."""
    made = Between(s3_server)
    thread = threading.Thread(target=made.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    s3fs.S3FileSystem.clear_instance_cache()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def build(recipe, root):
    return run(recipe, out=root, workers=0, only=["documents"], split_bytes=20_000, report=False)


def compare(base, root):
    """The dataset in the store is whole, accounted for, and that of the run on a disk."""
    dataset = Dataset(f"{root}/documents")
    dataset.verify()
    assert dataset.digest == Dataset(f"{base}/run/documents").digest
    assert dataset.manifest.counts.balances


def test_a_store_that_is_slow_and_refuses_now_and_then_changes_nothing(finished, s3_bucket, between):
    base, recipe, _ = finished
    between.rule = lambda number: {5: 503, 12: "cut", 19: 500, 26: 0.02}.get(number % 28)
    build(recipe, f"{s3_bucket}/run")
    assert between.seen > 50
    compare(base, f"{s3_bucket}/run")


def test_a_store_that_goes_away_ends_the_run_with_one_line_and_the_next_one_resumes(finished, s3_bucket, between):
    base, recipe, _ = finished
    root = f"{s3_bucket}/run"
    between.rule = lambda number: 503 if number > 40 else None
    with pytest.raises(StorageError, match=r"run/documents.*(is too busy or away|the store refused)"):
        build(recipe, root)
    between.rule = lambda number: None
    folder = Folder(root)
    kept = set(folder.files())
    assert any(name.endswith(".parquet") for name in kept)
    assert "documents/manifest.json" not in kept
    # its lease could not be taken away, and is dead after two minutes
    folder.write_json(LEASE, json.loads(folder.read_bytes(LEASE)) | {"renewed": time.time() - 121})
    assert build(recipe, root).steps[0].why == "resumes an unfinished build"
    compare(base, root)
