"""``penstock push FOLDER DEST``: a published dataset into a store, a folder or the Hub, whole or not at all.

In a store or on a disk every version has files of its own, whose names come from the sha256 of all its files:

    data-<version>/train-00000-of-00003.parquet   first: nothing names them yet
    README.md                                     then: what ``datasets.load_dataset`` reads
    croissant.json
    manifest.json                                 last: what penstock reads
                                                  after it, files of older versions are removed

README.md and manifest.json are each replaced in one atomic operation and name files that are all there, so a reader
finds the older version or the new one, wherever a push is killed. A push that is run again sends what is not there yet.
It relies on a store that shows an object as soon as it was written, whole, as S3 and Google's do. The Hub has commits:
see ``push_hub``.

Price: every file to send is read once for its sha256 and once to be sent; a copy inside one store moves no bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace

from penstock.card import card, title_of, with_configs
from penstock.croissant import CROISSANT, croissant, to_json
from penstock.dataset import MANIFEST, Dataset, FileEntry, Manifest, hash_json, read_manifest
from penstock.errors import ConfigError, DatasetError
from penstock.inspect import datasets_below
from penstock.lock import LEASE, FolderLock
from penstock.storage import Folder, storage_errors

README = "README.md"
HUB = "hf://"
MB = 1_000_000
THREADS = 4
Progress = Callable[[str, int, int], None]
_VERSION = re.compile(r"^(data|dropped|samples)-[0-9a-f]{12}(?=[/.])")
_OURS = re.compile(rf"{_VERSION.pattern}|{MANIFEST}$|\.tmp-|\.lock$|\.holder\.json$|{re.escape(LEASE)}$")


@dataclass(frozen=True)
class Action:
    """What becomes of one file: ``send``, ``copy`` (of a file of the older version), ``there`` or ``remove``."""

    path: str
    bytes: int
    what: str


@dataclass(frozen=True)
class Pushed:
    """What a push did, or would do."""

    source: str
    dest: str
    digest: str
    actions: tuple[Action, ...]
    dry_run: bool
    done: str  # where it is now, in words

    def total(self, what: str) -> tuple[int, int]:
        """Number and bytes of the files with which this is done."""
        own = [action.bytes for action in self.actions if action.what == what]
        return len(own), sum(own)


def push(
    folder: str,
    dest: str,
    *,
    dry_run: bool = False,
    keep: bool = False,
    create: bool = False,
    private: bool = False,
    branch: str | None = None,
    progress: Progress | None = None,
) -> Pushed:
    """Send a published dataset to a store, a folder or the Hub.

    Args:
        folder: path or URL of a published dataset, or of a run: its last one.
        dest: a path, ``s3://…``, ``gs://…``, or ``hf://datasets/ORG/NAME[@BRANCH]``.
        dry_run: say what would be done.
        keep: leave the files of older versions for those who still read them; the next push without it removes them.
        create: make the repository on the Hub, or the branch, when there is none.
        private: the repository that is made is private.
        branch: of the Hub's repository; ``main`` by default.
        progress: hears (what, megabytes done, megabytes in all).

    Raises:
        ConfigError: an option does not go with ``dest``, or something else lies there.
        DatasetError: ``folder`` holds no published dataset, or files of it are missing or damaged.
        StorageError: a file could not be read or written; run again to go on.
    """
    source = published(folder)
    if dest.startswith(HUB):
        from penstock.push_hub import push_to_hub

        if keep:
            raise ConfigError("--keep: the Hub keeps every version in its history; leave the option out")
        return push_to_hub(
            source, dest, dry_run=dry_run, create=create, private=private, branch=branch, progress=progress
        )
    for name, given in (("--create", create), ("--private", private), ("--branch", branch is not None)):
        if given:
            raise ConfigError(f"{name}: got {dest}, allowed with hf://datasets/ORG/NAME only; leave it out")
    return push_to_folder(source, Folder(dest), dry_run=dry_run, keep=keep, progress=progress)


def published(url: str) -> Dataset:
    """The published dataset at ``url``, or the last one of a run there.

    Raises:
        DatasetError: there is none.
    """
    folder = Folder(url)
    if read_manifest(folder) is not None:
        dataset = Dataset(folder)
        if not _is_published(dataset.manifest):
            raise DatasetError(
                f"{url}: got the dataset of step {dataset.manifest.step}, allowed a published one; give dataset-1, or "
                "the folder of its run"
            )
        return dataset
    found = [dataset for dataset in datasets_below(folder) if _is_published(dataset.manifest)]
    if not found:
        raise DatasetError(f"{url}: no published dataset here or one level below; make one with: penstock build")
    return found[-1]


def _is_published(manifest: Manifest) -> bool:
    return manifest.key_parts.get("step") == "Published"


# ── names ────────────────────────────────────────────────────────────────────────────────────────


def plain_path(path: str) -> str:
    """A file's name in a folder that a build made: ``data/train-…``, whatever version it was pushed as."""
    return _VERSION.sub(r"\1", path)


def moved(manifest: Manifest, rename: Callable[[str], str]) -> Manifest:
    """The manifest with other names for its files, without what only the next build of its run would read."""

    def entry(file: FileEntry) -> FileEntry:
        return replace(file, path=rename(file.path))

    return replace(
        manifest,
        tables={n: replace(t, files=tuple(entry(f) for f in t.files)) for n, t in manifest.tables.items()},
        artifacts={name: entry(file) for name, file in manifest.artifacts.items()},
        passes=None,
    )


def versioned(manifest: Manifest) -> Manifest:
    """The manifest with names that no other bytes can have."""
    plain = moved(manifest, plain_path)
    version = hash_json({file.path: file.sha256 for file in entries(plain)})[:12]
    return moved(plain, lambda path: re.sub(r"^([^/.]+)", rf"\1-{version}", path))


def entries(manifest: Manifest) -> list[FileEntry]:
    """Every file that a manifest names."""
    return [f for t in manifest.tables.values() for f in t.files] + list(manifest.artifacts.values())


def small_files(source: Dataset, manifest: Manifest) -> dict[str, bytes]:
    """README.md and croissant.json for ``manifest``; a card that was edited by hand keeps what it says."""
    try:
        readme = source.folder.read_bytes(README).decode()
        if manifest != moved(source.manifest, lambda path: path):
            readme = with_configs(readme, manifest)
    except FileNotFoundError:
        readme = card(title_of(manifest), manifest)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{source.folder.join(README)}: not UTF-8 ({error}); mend or delete it") from error
    return {README: readme.encode(), CROISSANT: to_json(croissant(manifest))}


# ── into a folder ────────────────────────────────────────────────────────────────────────────────


def push_to_folder(
    source: Dataset, dest: Folder, *, dry_run: bool = False, keep: bool = False, progress: Progress | None = None
) -> Pushed:
    """Send a published dataset to a disk or a store; see ``push``."""
    manifest = versioned(source.manifest)
    if dry_run:
        actions, _, _ = _plan(source, dest, manifest, keep)
        return Pushed(source.folder.url, dest.url, manifest.digest, actions, True, "nothing was changed")
    _refuse(source, dest, dest.sizes(), read_manifest(dest))
    with FolderLock(dest):
        actions, sends, copies = _plan(source, dest, manifest, keep)
        verify(source, [entry for entry, _ in sends], progress)
        small = small_files(source, manifest)
        for have, path in copies:
            dest.copy_from(dest, have, path)
        _send_all(source, dest, sends, progress)
        sizes = dest.sizes()
        gone = [file.path for file in entries(manifest) if sizes.get(file.path) != file.bytes]
        if gone:
            raise DatasetError(f"{dest.url}: {gone[0]} is not as it was sent; nothing was published, push again")
        for name, data in small.items():
            dest.write_bytes(name, data)
        dest.write_json(MANIFEST, manifest.to_json())
        dest.remove([action.path for action in actions if action.what == "remove"])
        dest.prune_empty()
    return Pushed(source.folder.url, dest.url, manifest.digest, actions, False, "published")


def _plan(
    source: Dataset, dest: Folder, manifest: Manifest, keep: bool
) -> tuple[tuple[Action, ...], list[tuple[FileEntry, str]], list[tuple[str, str]]]:
    """What becomes of every file; the source's files to send, and the older version's to copy, with their new names."""
    sizes, older = dest.sizes(), read_manifest(dest)
    _refuse(source, dest, sizes, older)
    # only files whose names no other bytes can have are shared between versions
    known = {f.sha256: f.path for f in entries(older) if _VERSION.match(f.path)} if older else {}
    known = {sha256: path for sha256, path in known.items() if path in sizes}
    actions: list[Action] = []
    sends: list[tuple[FileEntry, str]] = []
    copies: list[tuple[str, str]] = []
    new = entries(manifest)
    for own, file in zip(entries(source.manifest), new, strict=True):
        what = "there" if sizes.get(file.path) == file.bytes else "copy" if file.sha256 in known else "send"
        if what == "send":
            sends.append((own, file.path))
        elif what == "copy":
            copies.append((known[file.sha256], file.path))
        actions.append(Action(file.path, file.bytes, what))
    named = {file.path for file in new}
    stale = {path for path in sizes if _VERSION.match(path)} | {f.path for f in (entries(older) if older else [])}
    if not keep:
        actions += [Action(path, sizes[path], "remove") for path in sorted(stale - named) if path in sizes]
    return tuple(actions), sends, copies


def _refuse(source: Dataset, dest: Folder, sizes: dict[str, int], older: Manifest | None) -> None:
    if dest.path == source.folder.path:
        raise ConfigError(f"{dest.url}: the dataset itself; give another folder or URL")
    if "run.json" in sizes:
        raise ConfigError(f"{dest.url}: the folder of a run; give one of its own for the published dataset")
    if older is not None and not _is_published(older):
        raise ConfigError(f"{dest.url}: holds the dataset of step {older.step}; give an empty folder")
    pushed = any(_VERSION.match(name) for name in sizes)
    strangers = [n for n in sizes if not _OURS.match(n) and not (pushed and n in (README, CROISSANT))]
    if older is None and strangers:
        raise ConfigError(f"{dest.url}: holds other files ({strangers[0]}) and no dataset; give an empty folder")


def verify(source: Dataset, files: Sequence[FileEntry], progress: Progress | None) -> None:
    """Read files and compare their sha256, before anything is sent.

    Raises:
        DatasetError: naming those that are missing or damaged.
    """
    sizes = source.folder.sizes()
    wrong, done, total = [], 0, sum(file.bytes for file in files)
    for file in files:
        digest = hashlib.sha256()
        if sizes.get(file.path) == file.bytes:
            with source.folder.open_read(file.path) as data:
                while block := data.read(1 << 20):
                    digest.update(block)
        if digest.hexdigest() != file.sha256:
            wrong.append(file.path)
        done += file.bytes
        if progress is not None:
            progress("verify, MB", done // MB, total // MB)
    if wrong:
        raise DatasetError(
            f"{source.folder.url}: missing or damaged: {', '.join(wrong)}; nothing was sent, run the build again"
        )


def _send_all(source: Dataset, dest: Folder, sends: Sequence[tuple[FileEntry, str]], progress: Progress | None) -> None:
    done, total = 0, sum(file.bytes for file, _ in sends)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="push") as pool:
        futures = {pool.submit(_send, source.folder, dest, file, path): file for file, path in sends}
        try:
            for future in as_completed(futures):
                future.result()
                done += futures[future].bytes
                if progress is not None:
                    progress("send, MB", done // MB, total // MB)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _send(source: Folder, dest: Folder, file: FileEntry, path: str) -> None:
    """Copy one file; it appears under its name when it is whole, and only with the bytes its manifest names."""
    if source.protocol == dest.protocol and not dest.is_local:
        dest.copy_from(source, file.path, path)
        return
    # on a disk a file that is being written can be seen; the lock's next holder clears what a kill left
    name = f".tmp-{secrets.token_hex(8)}" if dest.is_local else path
    with source.open_read(file.path) as data, dest.open_write(name) as out:
        while block := data.read(1 << 20):
            out.write(block)
        if out.sha256 != file.sha256:
            raise DatasetError(
                f"{source.join(file.path)}: changed while it was sent; nothing was published, push again"
            )
    if dest.is_local:
        with storage_errors(dest.join(path)):
            handle = os.open(dest.join(name), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            os.makedirs(os.path.dirname(dest.join(path)), exist_ok=True)
            os.replace(dest.join(name), dest.join(path))
