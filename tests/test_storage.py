"""Folders: names, atomic small files, hashed large files, and refusals that say what to mend."""

import hashlib
import os
import pickle

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.dataset import TableWriter
from penstock.errors import ConfigError, StorageError
from penstock.storage import Folder, storage_errors


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path):
    if request.param == "disk":
        return Folder(str(tmp_path / "folder"))
    return Folder(f"memory://{tmp_path.name}/folder")


def test_files_are_named_relative_to_the_folder_and_sorted(folder):
    assert folder.sizes() == {}
    folder.write_bytes("b.json", b"12")
    folder.write_bytes("a/x/c.json", b"123")
    (folder / "a").write_bytes("d", b"")
    assert folder.sizes() == {"a/d": 0, "a/x/c.json": 3, "b.json": 2}
    assert list(folder.sizes()) == folder.files() == ["a/d", "a/x/c.json", "b.json"]
    assert (folder / "a").files() == ["d", "x/c.json"]


def test_a_file_that_goes_while_a_folder_is_listed_hides_no_other(tmp_path):
    folder = Folder(str(tmp_path))
    folder.write_bytes("a/part", b"1")
    os.symlink(tmp_path / "gone", tmp_path / "a" / ".tmp-x")  # listed, but no longer there to be asked for its size
    assert folder.sizes() == {"a/part": 1}


def test_a_relative_path_and_a_file_url_are_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Folder("run").write_bytes("x", b"1")
    assert Folder(f"file://{tmp_path}/run").read_bytes("x") == b"1"
    assert Folder("run/").files() == ["x"]


def test_a_folder_is_opened_again_after_pickling(folder):
    folder.write_bytes("x", b"1")
    again = pickle.loads(pickle.dumps(folder))  # noqa: S301
    assert again == folder
    assert again.read_bytes("x") == b"1"


def test_json_goes_in_and_comes_out_and_equal_values_are_equal_bytes(folder):
    folder.write_json("a.json", {"b": [1, None], "a": "é"})
    folder.write_json("b.json", {"a": "é", "b": [1, None]})
    assert folder.read_json("a.json") == {"a": "é", "b": [1, None]}
    assert folder.read_bytes("a.json") == folder.read_bytes("b.json")
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_json("c.json", float("nan"))
    assert not folder.exists("c.json")


def test_what_is_absent_raises_file_not_found_and_removing_it_is_no_error(folder):
    for read in (folder.read_bytes, folder.read_json, folder.size):
        with pytest.raises(FileNotFoundError):
            read("absent")
    assert not folder.exists("absent")
    folder.remove(["absent"])


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_a_hashing_file_knows_the_length_and_sha256_of_what_went_through(blocks):
    folder = Folder("memory://hashing")
    with folder.open_write("x") as file:
        for block in blocks:
            assert file.write(memoryview(block)) == len(block)
    data = b"".join(blocks)
    assert folder.read_bytes("x") == data
    assert (file.bytes, file.tell(), file.sha256) == (len(data), len(data), hashlib.sha256(data).hexdigest())


def test_a_discarded_file_is_gone_and_its_parquet_writer_closes_in_silence(tmp_path):
    folder = Folder(str(tmp_path))
    batch = pa.record_batch({"a": pa.array([1, 2])})
    writer = TableWriter(folder.open_write("part.parquet"), batch.schema, group_rows=1)
    writer.write(batch)
    writer.discard()
    writer.discard()
    del writer  # a complaint of the collected encoder fails the test (see filterwarnings)
    assert folder.files() == []


def test_an_error_inside_a_file_s_block_leaves_no_file(tmp_path):
    folder = Folder(str(tmp_path))
    with pytest.raises(KeyError), folder.open_write("x") as file:
        file.write({}["a block that cannot be made"])
    assert folder.files() == []


def test_a_small_file_is_whole_or_as_before_when_the_disk_fills(small_disk):
    disk, _ = small_disk
    folder = Folder(str(disk))
    folder.write_bytes("manifest.json", b"old")
    with pytest.raises(StorageError, match=r"manifest\.json: the disk is full; free space or choose another"):
        folder.write_bytes("manifest.json", bytes(80 << 20))
    assert folder.files() == ["manifest.json"]
    assert folder.read_bytes("manifest.json") == b"old"


def test_a_large_file_that_fills_the_disk_is_refused_and_gives_its_space_back(small_disk):
    disk, _ = small_disk
    folder = Folder(str(disk))
    free = os.statvfs(disk).f_bavail
    file = folder.open_write("part")
    with pytest.raises(StorageError, match="part: the disk is full"):
        file.write(bytes(80 << 20))
    file.discard()
    assert folder.files() == []
    assert os.statvfs(disk).f_bavail == free


def test_the_last_buffer_of_a_file_on_a_full_disk_is_refused_on_closing(small_disk):
    disk, _ = small_disk
    (disk / "filler").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - 4096))
    file = Folder(str(disk)).open_write("part")
    file.write(bytes(4096))
    file.write(bytes(1000))  # stays in the buffer
    with pytest.raises(StorageError, match="part: the disk is full"):
        file.close()


def test_a_read_only_disk_is_named(small_disk):
    disk, remount = small_disk
    remount("ro")
    with pytest.raises(StorageError, match="x: the file system is read-only; choose another output folder"):
        Folder(str(disk)).write_bytes("x", b"")
    with pytest.raises(StorageError, match="x: the file system is read-only"):
        Folder(str(disk)).open_write("x")


def test_a_file_where_a_folder_is_needed_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match="taken/x: a file stands where a folder is needed"):
        Folder(str(tmp_path / "taken")).write_bytes("x", b"")


def test_an_error_that_is_not_the_storage_s_passes():
    with pytest.raises(KeyError), storage_errors("x"):
        raise KeyError("mine")
    with pytest.raises(FileNotFoundError), storage_errors("x", absent=True):
        raise FileNotFoundError("x")
    with pytest.raises(StorageError, match="x: gone"), storage_errors("x"):
        raise FileNotFoundError("gone")


def test_an_unknown_protocol_names_what_a_url_looks_like():
    with pytest.raises(ConfigError, match=r"nowhere://x: protocol nowhere is not known; .* s3://bucket/folder"):
        Folder("nowhere://x").exists()


def test_creating_a_file_that_is_there_changes_nothing():
    folder = Folder(f"memory://create-{os.urandom(4).hex()}")
    assert folder.create_bytes("lease", b"first")
    assert not folder.create_bytes("lease", b"second")
    assert folder.read_bytes("lease") == b"first"


def test_empty_directories_go_and_files_stay(tmp_path):
    folder = Folder(str(tmp_path))
    (tmp_path / "a" / "b").mkdir(parents=True)
    folder.write_bytes("c/x", b"")
    folder.prune_empty()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c"]


def test_a_copy_on_one_disk_keeps_its_bytes_when_the_original_is_written_anew(tmp_path):
    one, two = Folder(str(tmp_path / "one")), Folder(str(tmp_path / "two"))
    with one.open_write("data/a.parquet") as file:
        file.write(b"first")
    two.copy_from(one, "data/a.parquet")
    two.copy_from(one, "data/a.parquet")  # there already
    with one.open_write("data/a.parquet") as file:
        file.write(b"second, longer")
    assert (one.read_bytes("data/a.parquet"), two.read_bytes("data/a.parquet")) == (b"second, longer", b"first")
    one.remove(["data/a.parquet"])
    assert two.read_bytes("data/a.parquet") == b"first"


def test_a_copy_crosses_from_a_disk_to_a_store_and_back(tmp_path):
    disk, store, back = Folder(str(tmp_path / "a")), Folder("memory://copies"), Folder(str(tmp_path / "b"))
    disk.write_bytes("x/file", b"bytes")
    store.copy_from(disk, "x/file", "y")
    store.copy_from(store, "y", "z")
    back.copy_from(store, "z", "w/file")
    assert back.read_bytes("w/file") == b"bytes"
