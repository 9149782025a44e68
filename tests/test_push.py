"""`penstock push` to a disk and to a store: wherever it is killed, readers find one version, whole."""

import contextlib
import fnmatch
import os
import re
import shutil
import signal
import sys

import datasets
import fsspec
import pyarrow.parquet as pq
import pytest
import yaml

from penstock import push as pushing
from penstock.card import with_configs
from penstock.cli import main
from penstock.dataset import Dataset, read_manifest
from penstock.errors import ConfigError, DatasetError, FolderInUseError, StorageError
from penstock.lock import LEASE, FolderLock
from penstock.push import push, versioned
from penstock.storage import Folder, HashingFile

SPLITS = ("train", "validation", "test")


def rows_of(dataset):
    return {name: dataset.read(name).to_pylist() for name in SPLITS}


@pytest.fixture(scope="module")
def contents(versions):
    return [rows_of(Dataset(str(path))) for path in versions]


def loaded(path, cache):
    """What ``datasets.load_dataset`` reads, and compares with the card's row counts."""
    found = datasets.load_dataset(str(path), cache_dir=str(cache))
    return {name: found[name].to_list() for name in SPLITS}


def matched(url):
    """The same for a store, which ``load_dataset`` does not open: the shards that the card's globs find there."""
    folder = Folder(url)
    front = yaml.safe_load(folder.read_bytes("README.md").decode().split("---\n")[1])
    sizes = {split["name"]: split["num_examples"] for split in front["dataset_info"]["splits"]}
    out = {}
    for of in front["configs"][0]["data_files"]:
        names = [name for name in folder.files() if fnmatch.fnmatch(name, of["path"])]
        out[of["split"]] = [r for n in names for r in pq.read_table(folder.open_read(n)).to_pylist()]
        assert len(out[of["split"]]) == sizes[of["split"]]
    return out


def data_files(url):
    return {name for name in Folder(str(url)).files() if name.endswith(".parquet")}


# ── to a disk ────────────────────────────────────────────────────────────────────────────────────


def test_a_pushed_dataset_is_the_source_s_under_names_of_its_version(versions, contents, tmp_path):
    result = push(str(versions[0]), str(tmp_path / "dest"))
    source, dest = Dataset(str(versions[0])), Dataset(str(tmp_path / "dest"))
    dest.verify()
    assert dest.digest == source.digest == result.digest
    assert rows_of(dest) == contents[0] == loaded(tmp_path / "dest", tmp_path / "cache")
    names = [(f.path, f.sha256) for f in dest.entries()]
    (version,) = {re.fullmatch(r"\w+-([0-9a-f]{12})[/.].*", path)[1] for path, _ in names}
    assert [(path.replace(f"-{version}", "", 1), sha) for path, sha in names] == [
        (f.path, f.sha256) for f in source.entries()
    ]
    assert data_files(tmp_path / "dest") == {path for path, _ in names}
    assert result.total("send") == (len(names), sum(f.bytes for f in dest.entries()))


def test_the_version_of_the_names_is_of_all_files(versions, tmp_path):
    names = [versioned(Dataset(str(path)).manifest) for path in versions]
    heads = [{f.path.partition("/")[0] for f in pushing.entries(m)} for m in names]
    assert not heads[0] & heads[1]
    assert versioned(names[0]) == names[0]  # a pushed dataset that is pushed on keeps its names


def test_a_second_push_sends_nothing_and_a_run_stands_for_its_last_dataset(versions, tmp_path):
    run_folder = versions[0].parent
    push(str(versions[0]), str(tmp_path / "dest"))
    before = {p: os.stat(p) for p in (tmp_path / "dest").rglob("*.parquet")}
    result = push(str(run_folder), str(tmp_path / "dest"))
    assert {action.what for action in result.actions} == {"there"}
    after = {p: os.stat(p) for p in (tmp_path / "dest").rglob("*.parquet")}
    assert {p: (s.st_ino, s.st_mtime_ns) for p, s in before.items()} == {
        p: (s.st_ino, s.st_mtime_ns) for p, s in after.items()
    }


def test_a_newer_version_replaces_the_older_and_shares_its_equal_files(versions, contents, tmp_path):
    dest = tmp_path / "dest"
    push(str(versions[0]), str(dest))
    inodes = {Dataset(str(dest)).folder.join(f.path): f.sha256 for f in Dataset(str(dest)).entries()}
    by_sha = {sha: os.stat(path).st_ino for path, sha in inodes.items()}
    result = push(str(versions[1]), str(dest))
    assert loaded(dest, tmp_path / "cache") == contents[1] == rows_of(Dataset(str(dest)))
    shared = [f for f in Dataset(str(dest)).entries() if f.sha256 in by_sha]
    assert result.total("copy")[0] == len(shared) > 0
    assert all(os.stat(dest / f.path).st_ino == by_sha[f.sha256] for f in shared)
    assert result.total("remove")[0] == len(by_sha)
    assert data_files(dest) == {f.path for f in Dataset(str(dest)).entries()}
    Dataset(str(dest)).verify()


def test_keep_leaves_the_older_files_until_the_next_push(versions, contents, tmp_path):
    dest = str(tmp_path / "dest")
    push(str(versions[0]), dest)
    reader = Dataset(dest)
    assert reader.manifest.tables
    push(str(versions[1]), dest, keep=True)
    assert rows_of(reader) == contents[0]  # it opened the older manifest
    assert rows_of(Dataset(dest)) == contents[1]
    push(str(versions[1]), dest)
    assert data_files(dest) == {f.path for f in Dataset(dest).entries()}


def test_files_of_others_in_the_folder_stay(versions, tmp_path):
    dest = tmp_path / "dest"
    push(str(versions[0]), str(dest))
    (dest / "notes.txt").write_text("mine")
    (dest / "backup-0123456789ab").mkdir()
    (dest / "backup-0123456789ab" / "x").write_text("mine")
    push(str(versions[1]), str(dest))
    assert (dest / "notes.txt").read_text() == (dest / "backup-0123456789ab" / "x").read_text() == "mine"


def test_a_card_edited_by_hand_keeps_its_words(versions, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(versions[0], source)
    text = (source / "README.md").read_text()
    (source / "README.md").write_text(
        text.replace("pretty_name: ", "annotations: mine\npretty_name: ") + "\nBy hand.\n"
    )
    push(str(source), str(tmp_path / "dest"))
    pushed = (tmp_path / "dest" / "README.md").read_text()
    front = yaml.safe_load(pushed.split("---\n")[1])
    assert pushed.endswith("\nBy hand.\n")
    assert front["annotations"] == "mine"
    assert all(re.match(r"data-[0-9a-f]{12}/", of["path"]) for of in front["configs"][0]["data_files"])
    for wrong, message in (("no front matter", "no front matter"), ("---\na: [\n---\n", "not YAML")):
        with pytest.raises(DatasetError, match=message):
            with_configs(wrong, Dataset(str(source)).manifest)
    (source / "README.md").unlink()
    (source / "croissant.json").unlink()
    push(str(source), str(tmp_path / "made"))
    assert loaded(tmp_path / "made", tmp_path / "cache")["train"]
    assert (tmp_path / "made" / "croissant.json").exists()
    (source / "README.md").write_bytes(b"\xff\xfe")
    with pytest.raises(DatasetError, match=r"README.md: not UTF-8"):
        push(str(source), str(tmp_path / "other"))


def test_a_dry_run_says_what_a_push_then_does_and_changes_nothing(versions, tmp_path):
    dest = tmp_path / "dest"
    said = push(str(versions[0]), str(dest), dry_run=True)
    assert not dest.exists()
    assert push(str(versions[0]), str(dest)).actions == said.actions
    before = {p: p.stat().st_mtime_ns for p in dest.rglob("*")}
    said = push(str(versions[1]), str(dest), dry_run=True)
    assert {p: p.stat().st_mtime_ns for p in dest.rglob("*")} == before
    assert push(str(versions[1]), str(dest)).actions == said.actions
    assert {a.what for a in said.actions} == {"send", "copy", "remove"}


def test_damage_is_found_before_anything_is_sent(versions, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(versions[0], source)
    entries = Dataset(str(source)).entries()
    data = bytearray((source / entries[0].path).read_bytes())
    data[len(data) // 2] ^= 1
    (source / entries[0].path).write_bytes(data)
    (source / entries[1].path).unlink()
    message = f"missing or damaged: {re.escape(entries[0].path)}, {re.escape(entries[1].path)}; nothing was sent"
    with pytest.raises(DatasetError, match=message):
        push(str(source), str(tmp_path / "dest"))
    assert not data_files(tmp_path / "dest")


def test_a_file_that_changes_while_it_is_sent_is_not_published(versions, tmp_path, monkeypatch):
    source = tmp_path / "source"
    shutil.copytree(versions[0], source)
    path = Dataset(str(source)).entries()[-1].path
    verify = pushing.verify

    def then_change(*args):
        verify(*args)
        data = bytearray((source / path).read_bytes())
        data[0] ^= 1
        (source / path).write_bytes(data)

    monkeypatch.setattr(pushing, "verify", then_change)
    with pytest.raises(DatasetError, match=f"{re.escape(path)}: changed while it was sent; nothing was published"):
        push(str(source), str(tmp_path / "dest"))
    assert read_manifest(Folder(str(tmp_path / "dest"))) is None
    assert not any(n.startswith(".tmp-") for n in Folder(str(tmp_path / "dest")).files())


def test_a_full_disk_is_told_and_the_older_version_stays(versions, contents, small_disk):
    disk, _ = small_disk
    push(str(versions[0]), str(disk / "dest"))
    room = os.statvfs(disk)
    (disk / "ballast").write_bytes(bytes(room.f_bavail * room.f_frsize - 20_000))
    with pytest.raises(StorageError, match="the disk is full"):
        push(str(versions[1]), str(disk / "dest"))
    Dataset(str(disk / "dest")).verify()
    (disk / "ballast").unlink()
    push(str(versions[1]), str(disk / "dest"))
    assert rows_of(Dataset(str(disk / "dest"))) == contents[1]


def test_two_pushes_to_one_folder_do_not_meet(versions, tmp_path):
    with FolderLock(Folder(str(tmp_path / "dest"))), pytest.raises(FolderInUseError):
        push(str(versions[0]), str(tmp_path / "dest"))


# ── killed ───────────────────────────────────────────────────────────────────────────────────────


class Killed(BaseException):
    """What a test raises where a kill would hit."""


def watch(monkeypatch, change):
    """Call ``change(name of it)`` before every change that a push makes, and in the middle of every file."""

    def before(owner, name, called):
        original = getattr(owner, name)

        def changed(*args, **options):
            change(called(*args))
            return original(*args, **options)

        monkeypatch.setattr(owner, name, changed)

    before(Folder, "write_bytes", lambda folder, name, *_: f"write {name}")
    before(Folder, "copy_from", lambda *_: "copy")
    before(HashingFile, "write", lambda *_: "send")
    before(pushing.os, "replace", lambda *_: "rename")
    remove = Folder.remove
    monkeypatch.setattr(Folder, "remove", lambda self, names: [(change("remove"), remove(self, [n])) for n in names])
    monkeypatch.setattr(pushing, "THREADS", 1)


def moments(monkeypatch, source, dest, *, each=3):
    """Numbers of the changes of a push to stop at: of each kind the middle one; with three the first and last too."""
    seen = []
    with monkeypatch.context() as patch:
        watch(patch, seen.append)
        push(str(source), str(dest))
    assert {"write README.md", "write croissant.json", "write manifest.json"} < set(seen)
    chosen = set()
    for kind in set(seen):
        own = [number for number, name in enumerate(seen) if name == kind]
        chosen |= {own[len(own) // 2]} if each == 1 else {own[0], own[len(own) // 2], own[-1]}
    return {number: seen[number] for number in sorted(chosen)}


def push_and_kill(monkeypatch, source, dest, number):
    """A push in a process of its own that is killed before its change of this number."""
    child = os.fork()
    if child == 0:
        left = [number]

        def change(name):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            with monkeypatch.context() as patch:
                watch(patch, change)
                push(str(source), str(dest))
        finally:
            os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_killed_anywhere_both_readers_find_one_version_whole(versions, contents, tmp_path, monkeypatch):
    first = tmp_path / "first"
    push(str(versions[0]), str(first))
    shutil.copytree(first, tmp_path / "trial")
    chosen = moments(monkeypatch, versions[1], tmp_path / "trial")
    assert set(chosen.values()) >= {"send", "rename", "copy", "remove"}
    states = {}
    for number, name in chosen.items():
        dest = tmp_path / "dest"
        shutil.rmtree(dest, ignore_errors=True)
        shutil.copytree(first, dest)
        assert push_and_kill(monkeypatch, versions[1], dest, number) == -signal.SIGKILL
        found = Dataset(str(dest))
        found.verify()
        both = rows_of(found), loaded(dest, tmp_path / f"cache-{number}")
        assert all(rows in contents for rows in both), name
        states[name] = tuple(contents.index(rows) for rows in both)
        push(str(versions[1]), str(dest))
        assert rows_of(Dataset(str(dest))) == contents[1]
        assert data_files(dest) == {f.path for f in Dataset(str(dest)).entries()}
        assert not [name for name in Folder(str(dest)).files() if name.startswith(".tmp-")]
    assert states["send"] == states["write README.md"] == (0, 0)
    assert states["write croissant.json"] == states["write manifest.json"] == (0, 1)
    assert states["remove"] == (1, 1)


def test_a_first_push_killed_anywhere_is_no_dataset_until_it_is_whole(versions, contents, tmp_path, monkeypatch):
    for number, name in moments(monkeypatch, versions[0], tmp_path / "trial").items():
        dest = tmp_path / f"dest-{number}"
        assert push_and_kill(monkeypatch, versions[0], dest, number) == -signal.SIGKILL
        assert read_manifest(Folder(str(dest))) is None, name
        if (dest / "README.md").exists():
            assert loaded(dest, tmp_path / f"cache-{number}") == contents[0]
        before = data_files(dest)
        result = push(str(versions[0]), str(dest))
        assert rows_of(Dataset(str(dest))) == contents[0]
        assert {a.path for a in result.actions if a.what == "there"} == before


# ── to a store ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.server
def test_a_store_holds_what_a_disk_does_and_a_second_push_sends_nothing(versions, contents, s3_bucket, tmp_path):
    for path, expected in zip(versions, contents, strict=True):
        push(str(path), f"{s3_bucket}/dest")
        push(str(path), str(tmp_path / "dest"))
        dest = Dataset(f"{s3_bucket}/dest")
        dest.verify()
        assert rows_of(dest) == expected == matched(f"{s3_bucket}/dest")
        local = {n for n in Folder(str(tmp_path / "dest")).files() if n not in (".lock", ".holder.json")}
        assert set(dest.folder.files()) == local
        for name in local:
            assert dest.folder.read_bytes(name) == (tmp_path / "dest" / name).read_bytes(), name
    assert {a.what for a in push(str(versions[1]), f"{s3_bucket}/dest").actions} == {"there"}


@pytest.mark.server
def test_a_dataset_in_a_store_is_pushed_to_a_disk_and_within_the_store(versions, contents, s3_bucket, tmp_path):
    fsspec.filesystem("s3").put(f"{versions[0]}/", f"{s3_bucket}/source/", recursive=True)
    push(f"{s3_bucket}/source", str(tmp_path / "disk"))
    push(f"{s3_bucket}/source", f"{s3_bucket}/dest")
    push(f"{s3_bucket}/dest", str(tmp_path / "again"))
    for url in (tmp_path / "disk", f"{s3_bucket}/dest", tmp_path / "again"):
        Dataset(str(url)).verify()
        assert rows_of(Dataset(str(url))) == contents[0]
    assert data_files(tmp_path / "disk") == data_files(tmp_path / "again") == data_files(f"{s3_bucket}/dest")


@pytest.mark.server
@pytest.mark.slow
def test_stopped_anywhere_a_store_holds_one_version_whole(versions, contents, s3_bucket, monkeypatch):
    push(str(versions[0]), f"{s3_bucket}/first")
    store, states = fsspec.filesystem("s3"), {}
    store.copy(f"{s3_bucket}/first", f"{s3_bucket}/trial", recursive=True)
    for number, name in moments(monkeypatch, versions[1], f"{s3_bucket}/trial", each=1).items():
        dest = f"{s3_bucket}/dest-{number}"
        store.copy(f"{s3_bucket}/first", dest, recursive=True)
        left = [number]

        def change(name, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Killed

        with monkeypatch.context() as patch:
            watch(patch, change)
            with pytest.raises(Killed):
                push(str(versions[1]), dest)
        Folder(dest).remove([LEASE])
        Dataset(dest).verify()
        both = rows_of(Dataset(dest)), matched(dest)
        assert all(rows in contents for rows in both), name
        states[name] = tuple(contents.index(rows) for rows in both)
        push(str(versions[1]), dest)
        assert rows_of(Dataset(dest)) == matched(dest) == contents[1]
        assert data_files(dest) == {f.path for f in Dataset(dest).entries()}
    assert states["send"] == states["write README.md"] == (0, 0)
    assert states["write croissant.json"] == states["write manifest.json"] == (0, 1)
    assert states["remove"] == (1, 1)


# ── refused ──────────────────────────────────────────────────────────────────────────────────────


def test_what_is_no_published_dataset_is_refused(finished, tmp_path):
    base, _, _ = finished
    with pytest.raises(DatasetError, match=r"got the dataset of step scored, allowed a published one; give dataset-1"):
        push(f"{base}/run/scored", str(tmp_path))
    with pytest.raises(DatasetError, match="no published dataset here or one level below"):
        push(f"{base}/corpus", str(tmp_path))


def test_a_folder_of_something_else_is_refused(versions, finished, tmp_path):
    base, _, _ = finished
    source = str(versions[0])
    with pytest.raises(ConfigError, match="the dataset itself"):
        push(source, source)
    with pytest.raises(ConfigError, match="the folder of a run"):
        push(source, str(base / "run"))
    shutil.copytree(base / "run" / "documents", tmp_path / "documents")
    with pytest.raises(ConfigError, match="holds the dataset of step documents"):
        push(source, str(tmp_path / "documents"))
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("mine")
    for dry_run in (True, False):
        with pytest.raises(ConfigError, match=r"holds other files \(README.md\) and no dataset; give an empty folder"):
            push(source, str(tmp_path / "project"), dry_run=dry_run)
    assert os.listdir(tmp_path / "project") == ["README.md"]


@pytest.mark.parametrize("option", [{"create": True}, {"private": True}, {"branch": "main"}])
def test_options_of_the_hub_are_refused_elsewhere(versions, tmp_path, option):
    with pytest.raises(ConfigError, match=rf"--{next(iter(option))}: got .*, allowed with hf://datasets"):
        push(str(versions[0]), str(tmp_path), **option)


def test_the_command_line_says_what_was_done(versions, tmp_path, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["penstock", "push", *map(str, arguments)])
        with contextlib.suppress(SystemExit):
            main()
        return capsys.readouterr()

    files = len(Dataset(str(versions[0])).entries())
    out = call(versions[0], tmp_path / "dest", "--dry-run").out
    assert re.search(r"data-[0-9a-f]{12}/train-00000-of-\d{5}.parquet +send +[\d,]+\n", out)
    assert f"send {files} (" in out
    assert out.endswith("nothing was changed\n")
    out = call(versions[0], tmp_path / "dest").out
    assert re.match(rf"sent {files} \([\d.]+ kB\)\n", out)
    assert out.endswith(f"digest {Dataset(str(versions[0])).digest[:8]}  published\n")
    shown = call(versions[1], tmp_path / "dest", "--branch", "x")
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert "--branch: got" in shown.err
