"""Manifests from elsewhere: each of their values is of its kind, and what they name lies in their folder."""

import copy
import json
import os
import re
from contextlib import suppress

import pyarrow as pa
import pytest

from penstock.dataset import MANIFEST, Counts, Dataset, FileEntry, Manifest, TableEntry, TableWriter, read_manifest
from penstock.errors import DatasetError, PenstockError
from penstock.inspect import inspect_folder
from penstock.push import push
from penstock.storage import Folder

JUNK = (
    None, True, 0, -1, 1.5, 10**30, "", "x", "../../etc/passwd", "/etc/passwd", "a\0b", "\x1b[31m", [], [[]], {},
    {"a": 1}, {"digest": 1}, [1], float("nan"), "x" * 10_000,
)  # fmt: skip
ABSENT = object()


@pytest.fixture
def folder(tmp_path):
    """A dataset of two rows, an artifact and a parent; a secret lies beside it."""
    made = Folder(str(tmp_path / "dataset"))
    os.makedirs(made.path)
    (tmp_path / "secret").write_text("sesame")
    writer = TableWriter(made.open_write("part.parquet"), pa.schema([("text", pa.string())]))
    writer.write(pa.RecordBatch.from_pydict({"text": ["a", "b"]}))
    writer.close()
    made.write_bytes("facts.json", b"{}")
    manifest = Manifest(
        step="documents",
        revision=1,
        key="0" * 32,
        key_parts={"step": "Published", "inputs": {}},
        digest="1" * 32,
        parents={"before": {"digest": "2" * 32}},
        counts=Counts(3, 0, 2, {"work": {"why": 1}}),
        tables={"documents": TableEntry((writer.entry("part.parquet"),), 2, "3" * 32, {"text": "string"})},
        artifacts={"facts": FileEntry("facts.json", 2, "4" * 64)},
        stats={"tokens": {"train": {"web": 5}}},
    )
    made.write_json(MANIFEST, manifest.to_json())
    return made


def places(value, at=()):
    """Where in a JSON value something stands."""
    yield at
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*at, key))


def changed(value, at, new):
    out = copy.deepcopy(value)
    inner = out
    for key in at[:-1]:
        inner = inner[key]
    if not at:
        return new
    if new is ABSENT:
        del inner[at[-1]]
    else:
        inner[at[-1]] = new
    return out


def test_a_manifest_with_anything_anywhere_is_read_or_refused(folder, tmp_path, capfd):
    whole = folder.read_json(MANIFEST)
    refused = 0
    for at in list(places(whole)):
        for junk in (*JUNK, *([ABSENT] if at else [])):
            (tmp_path / "dataset" / MANIFEST).write_text(json.dumps(changed(whole, at, junk)))
            try:
                manifest = read_manifest(folder)
            except DatasetError:
                refused += 1
                continue
            # what is read can be written, shown and planned with
            assert Manifest.from_json(json.loads(json.dumps(manifest.to_json())), "again") == manifest
            inspect_folder(folder.url)
            with suppress(PenstockError):
                push(folder.url, str(tmp_path / "dest"), dry_run=True)
    assert refused > 300
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f]", capfd.readouterr().out)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../secret", "..", "", "a\0b"])
def test_a_file_outside_of_the_folder_is_never_opened(folder, path):
    whole = folder.read_json(MANIFEST)
    for at in (("tables", "documents", "files", 0, "path"), ("artifacts", "facts", "path")):
        folder.write_json(MANIFEST, changed(whole, at, path))
        with pytest.raises(DatasetError, match="expected one inside of the folder"):
            Dataset(folder).table("documents")
    folder.write_json(MANIFEST, whole | {"parents": {path: {"digest": "0"}}})
    with pytest.raises(DatasetError, match="expected one inside of the folder"):
        Dataset(folder).verify()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[" * 100_000,
        b'{"format": ' + b"9" * 5000 + b"}",
        b"\xff",
        b"null",
        b"[]",
        b'"x"',
        b"{}",
        b"\xef\xbb\xbf{}",
    ],
    ids=["empty", "deep", "long number", "no UTF-8", "null", "list", "text", "no keys", "byte order mark"],
)
def test_bytes_that_are_no_manifest_are_refused(folder, data):
    folder.write_bytes(MANIFEST, data)
    with pytest.raises(DatasetError, match=r"manifest\.json: not "):
        read_manifest(folder)
