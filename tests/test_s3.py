"""A run in an S3-compatible store (moto's server on loopback): the same datasets, commits and resumes as on a disk."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import fsspec
import pytest
import s3fs

from penstock.dataset import MANIFEST, Dataset, read_manifest
from penstock.errors import FolderInUseError, StorageError
from penstock.lock import LEASE, FolderLock
from penstock.recipe import Recipe
from penstock.reuse import named_files
from penstock.run import run
from penstock.storage import Folder

pytestmark = pytest.mark.server

TO_DATASET = ["documents", "deduplicated", "tokenizer", "quality", "scored", "selection-1", "dataset-1"]
SPLIT_BYTES = 20_000


def digests(root, names):
    return {name: Dataset(f"{root}/{name}").digest for name in names}


def build(recipe, root, **options):
    return run(recipe, out=str(root), **{"workers": 0, "only": ["dataset-1"], "report": False} | options)


def in_store(recipe, bucket):
    """The recipe with its corpus uploaded and read from the store; file names in ids stay as they are."""
    store = fsspec.filesystem("s3")
    pattern = recipe.source.files[0].path
    store.put(pattern, f"{bucket}/corpus/")
    return Recipe.parse(
        recipe.to_yaml(), [f"source.files=[{{path: '{bucket}/corpus/*.jsonl', columns: {{domain: domain}}}}]"]
    )


def objects(bucket):
    """Names and versions of everything in the bucket."""
    found = fsspec.filesystem("s3", use_listings_cache=False).find(bucket, detail=True)
    return {name: (info["ETag"], str(info["LastModified"])) for name, info in found.items()}


def test_a_build_into_the_store_equals_the_one_on_disk_and_is_skipped_the_second_time(
    finished, s3_bucket, published_bytes
):
    base, recipe, _ = finished
    root = f"{s3_bucket}/run"
    build(recipe, root, workers=1, split_bytes=SPLIT_BYTES)
    assert digests(root, TO_DATASET) == digests(base / "run", TO_DATASET)
    local, remote = Folder(f"{base}/run/dataset-1"), Folder(f"{root}/dataset-1")
    assert published_bytes(remote) == published_bytes(local)
    for name in TO_DATASET:
        Dataset(f"{root}/{name}").verify()
    assert not Folder(root).exists(LEASE)
    before = objects(s3_bucket)
    again = build(recipe, root)
    assert all(step.skipped for step in again.steps)
    changed = {name for name, version in objects(s3_bucket).items() if before.get(name) != version}
    assert {name.rpartition("/")[2] for name in changed} <= {"recipe.yaml"}


def test_sources_may_lie_in_the_store_too(finished, s3_bucket, tmp_path):
    base, recipe, _ = finished
    build(in_store(recipe, s3_bucket), tmp_path / "run", split_bytes=SPLIT_BYTES, only=["deduplicated"])
    names = ["documents", "deduplicated"]
    assert digests(tmp_path / "run", names) == digests(base / "run", names)


def test_a_corpus_in_the_store_that_did_not_change_is_not_built_again(finished, s3_bucket, tmp_path):
    _, recipe, _ = finished
    there = in_store(recipe, s3_bucket)
    build(there, tmp_path / "run", only=["documents"])
    assert build(there, tmp_path / "run", only=["documents"]).steps[0].skipped
    name = f"{s3_bucket}/corpus/rivers.jsonl"
    store = fsspec.filesystem("s3")
    store.pipe_file(name, store.cat_file(name) + b'{"text": "one more"}\n')
    why = build(there, tmp_path / "run", only=["documents"]).steps[0].why
    assert why.startswith("changed: inputs.files:rivers.jsonl: ")


KILLED = r"""
import os, signal, sys
from penstock.storage import Folder
from penstock.recipe import Recipe
from penstock.run import run

recipe, out, step, number, moment, last = *sys.argv[1:4], int(sys.argv[4]), *sys.argv[5:]
original, seen = Folder.write_bytes, 0

def write_bytes(self, name, data):
    global seen
    inside = self.url.endswith("/" + step)
    seen += inside
    if inside and seen == number and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, name, data)
    if inside and seen == number:
        os.kill(os.getpid(), signal.SIGKILL)

Folder.write_bytes = write_bytes
run(Recipe.load(recipe), out=out, workers=0, split_bytes=20_000, only=[last], report=False)
"""


@pytest.mark.parametrize(
    ("step", "number", "moment", "last"),
    [
        ("documents", 5, "before", "documents"),  # between a part and its receipt
        ("documents", 5, "after", "documents"),  # between two splits
        ("deduplicated", 0, "before", "deduplicated"),  # anywhere
        ("dataset-1", 3, "after", "dataset-1"),  # shards are there under their final names, the manifest is not
    ],
)
def test_a_build_killed_between_two_writes_resumes_and_ends_equal(
    finished, s3_bucket, tmp_path, step, number, moment, last
):
    base, recipe, _ = finished
    names = TO_DATASET[: TO_DATASET.index(last) + 1]
    root = f"{s3_bucket}/run"
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    if number == 0:
        number = random.SystemRandom().randint(1, 20)
        print(f"killed before write {number}")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "recipe.yaml"), root, step, str(number), moment, last]
    done = subprocess.run(command, timeout=300, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert read_manifest(Folder(f"{root}/{step}")) is None
    kept = {name: version for name, version in objects(s3_bucket).items() if name.endswith(".parquet")}
    # the lease of a killed process stays until it is dead
    with pytest.raises(FolderInUseError, match=r"is writing here \(its lease was renewed"):
        build(recipe, root)
    lease = json.loads(Folder(root).read_bytes(LEASE))
    Folder(root).write_json(LEASE, lease | {"renewed": time.time() - 121})
    again = build(recipe, root, split_bytes=SPLIT_BYTES, only=[last])
    assert digests(root, names) == digests(base / "run", names)
    first = next(result for result in again.steps if not result.skipped)
    assert first.step.name == step
    if step == "documents":
        parts = [f"{root}/documents/{f.path}".removeprefix("s3://") for f in first.manifest.tables["documents"].files]
        # receipts before the kill stand, and their parts were not written again
        assert sum(kept.get(name) == objects(s3_bucket)[name] for name in parts) == (4 if moment == "before" else 5)
    for name in names:
        dataset = Dataset(f"{root}/{name}")
        dataset.verify()
        named = named_files(dataset.folder, dataset.manifest) | {MANIFEST}
        assert set(dataset.folder.files()) - {"README.md", "croissant.json"} == named


def test_a_manifest_becomes_visible_only_when_everything_it_names_is_there(finished, s3_bucket, monkeypatch):
    """At every write into the store, what any manifest names exists with its size."""
    _, recipe, _ = finished
    checked = 0
    original = Folder.write_bytes

    def write_bytes(self, name, data):
        nonlocal checked
        original(self, name, data)
        for step in ("documents", "deduplicated"):
            folder = Folder(f"{s3_bucket}/run/{step}")
            if folder.exists(MANIFEST):
                assert Dataset(folder).missing() == []
                checked += 1

    monkeypatch.setattr(Folder, "write_bytes", write_bytes)
    build(recipe, f"{s3_bucket}/run", only=["deduplicated"])
    assert checked > 3


def test_a_file_becomes_visible_in_the_store_only_when_closed_and_never_when_discarded(s3_bucket):
    folder = Folder(f"{s3_bucket}/files")
    file = folder.open_write("whole")
    file.write(b"x" * 100)
    assert not folder.exists("whole")
    file.close()
    assert folder.read_bytes("whole") == b"x" * 100
    for size in (100, 60 << 20):  # one that is buffered, one whose upload has begun
        with contextlib.suppress(KeyError), folder.open_write("given-up") as file:
            file.write(bytes(size))
            raise KeyError
        del file
        assert folder.files() == ["whole"]


def test_a_second_run_in_the_store_is_refused_and_a_dead_lease_is_taken_over(finished, s3_bucket):
    _, recipe, _ = finished
    root = Folder(f"{s3_bucket}/run")
    with FolderLock(root):
        with pytest.raises(FolderInUseError, match=f"process {os.getpid()} on .* is writing here"):
            build(recipe, root.url)
    assert not root.exists(LEASE)
    lease = {"id": "another", "pid": 7, "host": "elsewhere"}
    root.write_json(LEASE, lease | {"renewed": time.time() - 100})
    with pytest.raises(FolderInUseError, match="process 7 on elsewhere"):
        build(recipe, root.url, only=["documents"])
    root.write_json(LEASE, lease | {"renewed": time.time() - 130})
    assert not build(recipe, root.url, only=["documents"]).steps[0].skipped
    assert not root.exists(LEASE)


def test_of_two_that_create_the_same_object_one_does(s3_bucket):
    folder = Folder(f"{s3_bucket}/x")
    assert folder.create_bytes("lease", b"first")
    assert not folder.create_bytes("lease", b"second")
    assert folder.read_bytes("lease") == b"first"


def test_inspect_reads_the_store(finished, s3_bucket, penstock, monkeypatch):
    base, recipe, _ = finished
    build(recipe, f"{s3_bucket}/run", only=["deduplicated"])
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = penstock("inspect", f"{s3_bucket}/run", "--verify")
    assert (code, err) == (0, "")
    assert "deduplicated" in out
    assert "every file has the sha256 its manifest names" in out
    code, out, err = penstock("inspect", f"{s3_bucket}/run/deduplicated", "--sample", "2")
    assert (code, err) == (0, "")
    assert Dataset(f"{base}/run/deduplicated").digest in out
    # the words between the numbers are inspect's own tests' to check
    assert re.search(r"rows in 228\b.*\bkept 213\b.*\bdropped 15\b", out)
    code, out, err = penstock("inspect", f"{s3_bucket}/elsewhere")
    assert (code, out) == (1, "")
    assert err.startswith("penstock: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("what", ["bucket", "endpoint", "credentials"])
def test_a_store_that_refuses_is_one_line_for_the_user(finished, s3_bucket, tmp_path, penstock, monkeypatch, what):
    _, recipe, _ = finished
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    out = f"{s3_bucket}/run"
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    if what == "bucket":
        out = "s3://no-such-bucket-here/run"
    elif what == "endpoint":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    else:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()  # the environment is read when a client is made
    code, _, err = penstock("build", tmp_path / "recipe.yaml", "--out", out, "--workers", 0)
    assert code == 1, err
    assert err.count("\n") == 1
    assert err.startswith(f"penstock: {out}"), err


def test_a_missing_bucket_is_a_storage_error(s3_bucket):
    with pytest.raises(StorageError, match=r"no-such-bucket-here/run/x: "):
        Folder("s3://no-such-bucket-here/run").write_bytes("x", b"")


@pytest.mark.slow
def test_a_whole_run_with_training_into_the_store_equals_the_one_on_disk(
    finished, s3_bucket, tmp_path, monkeypatch, published_bytes
):
    base, recipe, result = finished
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = f"{s3_bucket}/run"
    run(recipe, out=root, workers=0)
    names = [step.step.name for step in result.steps]
    assert digests(root, names) == digests(base / "run", names)
    for name in ("dataset-1", "dataset-2"):
        local, remote = Folder(f"{base}/run/{name}"), Folder(f"{root}/{name}")
        assert published_bytes(remote) == published_bytes(local)
    assert b"<html" in Folder(root).read_bytes("report.html")
    assert not list((tmp_path / "cache" / "penstock" / "training").iterdir())
    assert all(step.skipped for step in run(recipe, out=root, workers=0, report=False).steps)
