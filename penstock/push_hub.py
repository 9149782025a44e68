"""A published dataset as one commit of a dataset repository on the Hugging Face Hub (extra ``hub``).

Large files go first, by their sha256, and nothing names them; then one commit adds them with README.md, croissant.json
and manifest.json and deletes the shards that went. Readers see the commit before or this one. A push that is run again
sends no file that the Hub has already. The commit is refused when another one came in between.

The token is that of ``hf auth login`` or ``HF_TOKEN``; ``HF_ENDPOINT`` names another Hub.

Price: as ``push``; of a dataset in a store, disk space for one file at a time.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from penstock.dataset import MANIFEST, Dataset, FileEntry
from penstock.errors import ConfigError, DatasetError, MissingExtraError, StorageError
from penstock.push import MB, Action, Progress, Pushed, entries, moved, plain_path, small_files, verify
from penstock.storage import Folder

_DEST = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+?)(?:@([^@]+?))?/?")
# what the globs of a card find, and the rows left out beside them
_SHARD = re.compile(r"(data|dropped)/(train|validation|test)-\d{5}-of-\d{5}\.parquet")
IN_MEMORY = 10 * MB  # larger files are large files to the Hub, whatever they hold


@dataclass(frozen=True)
class Repository:
    """A dataset repository and a branch of it."""

    id: str
    branch: str

    @property
    def url(self) -> str:
        return f"hf://datasets/{self.id}@{self.branch}"

    @classmethod
    def of(cls, dest: str, branch: str | None) -> Repository:
        """Read ``hf://datasets/ORG/NAME[@BRANCH]``.

        Raises:
            ConfigError: it is no such URL, or names another branch than ``branch``.
        """
        found = _DEST.fullmatch(dest)
        if found is None:
            raise ConfigError(f"{dest}: allowed hf://datasets/ORG/NAME or hf://datasets/ORG/NAME@BRANCH")
        if branch is not None and found[2] is not None and branch != found[2]:
            raise ConfigError(f"--branch: got {branch}, but {dest} names {found[2]}; give one of them")
        return cls(found[1], branch or found[2] or "main")


@contextmanager
def hub_errors(repository: Repository) -> Iterator[None]:
    """Turn the Hub's refusals into errors that say what to do."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        yield
    except LocalTokenNotFoundError as error:
        raise ConfigError(f"{repository.url}: no token; run `hf auth login`, or set HF_TOKEN") from error
    except HFValidationError as error:
        raise ConfigError(f"{repository.url}: {error}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        why = {
            401: "the token is missing or not known; run `hf auth login`, or set HF_TOKEN",
            403: "the token may not write there; ask for the right, or give a repository of your own",
            412: "another commit came in between; nothing was published, push again",
        }.get(status, f"the Hub refused ({error}); push again, what was sent is kept")
        raise StorageError(f"{repository.url}: {why}") from error
    except (httpx.HTTPError, ConnectionError, RuntimeError, ValueError) as error:
        raise StorageError(f"{repository.url}: {error}; push again, what was sent is kept") from error


def push_to_hub(
    source: Dataset,
    dest: str,
    *,
    dry_run: bool = False,
    create: bool = False,
    private: bool = False,
    branch: str | None = None,
    progress: Progress | None = None,
) -> Pushed:
    """Commit a published dataset to the Hub; see ``push``.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingExtraError.of("huggingface_hub", "hub") from error
    repository = Repository.of(dest, branch)
    if private and not create:
        raise ConfigError("--private: says how a repository is made; give --create too, or set it on the Hub")
    api = huggingface_hub.HfApi(library_name="penstock")
    manifest = moved(source.manifest, plain_path)
    with hub_errors(repository):
        parent, there = _there(api, repository, create=create, private=private, dry_run=dry_run)
        pairs = list(zip(entries(source.manifest), entries(manifest), strict=True))
        actions = [
            Action(file.path, file.bytes, "there" if there.get(file.path) == file.sha256 else "send")
            for _, file in pairs
        ]
        named = {file.path for _, file in pairs}
        actions += [Action(path, 0, "remove") for path in sorted(there) if _SHARD.fullmatch(path) and path not in named]
        if dry_run:
            return Pushed(
                source.folder.url, repository.url, manifest.digest, tuple(actions), True, "nothing was changed"
            )
        sends = [pair for pair, action in zip(pairs, actions, strict=False) if action.what == "send"]
        verify(source, [own for own, _ in sends], progress)
        text = json.dumps(manifest.to_json(), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        small = small_files(source, manifest) | {MANIFEST: text.encode() + b"\n"}
        with _quiet():
            operations: list[Any] = _send_all(api, repository, source.folder, sends, progress)
        operations += [huggingface_hub.CommitOperationAdd(name, data) for name, data in small.items()]
        operations += [huggingface_hub.CommitOperationDelete(a.path) for a in actions if a.what == "remove"]
        commit = api.create_commit(
            repository.id,
            operations,
            commit_message=f"{manifest.step} {manifest.digest[:8]}",
            repo_type="dataset",
            revision=repository.branch,
            parent_commit=parent,
        )
    done = f"commit {commit.oid}"
    return Pushed(source.folder.url, repository.url, manifest.digest, tuple(actions), False, done)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the client's own progress bars: ours is shown."""
    import huggingface_hub

    utils: Any = huggingface_hub.utils
    if utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


def _there(
    api: Any, repository: Repository, *, create: bool, private: bool, dry_run: bool
) -> tuple[str | None, dict[str, str | None]]:
    """The branch's last commit and the sha256 of its large files by name; the repository is made when that is asked."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    def look() -> tuple[str | None, dict[str, str | None]]:
        info = api.repo_info(repository.id, repo_type="dataset", revision=repository.branch, files_metadata=True)
        return info.sha, {file.rfilename: file.lfs.sha256 if file.lfs else None for file in info.siblings or []}

    missing = f"{repository.url}: {{}} is not there, or the token may not see it; to make it, add --create"
    try:
        return look()
    except RepositoryNotFoundError as error:
        if not create:
            raise ConfigError(missing.format("the repository")) from error
        if dry_run:
            return None, {}
        api.create_repo(repository.id, repo_type="dataset", private=private, exist_ok=True)
    except RevisionNotFoundError as error:
        if not create:
            raise ConfigError(missing.format("the branch")) from error
        if dry_run:
            return None, {}
    if repository.branch != "main":
        api.create_branch(repository.id, repo_type="dataset", branch=repository.branch, exist_ok=True)
    return look()


def _send_all(
    api: Any,
    repository: Repository,
    folder: Folder,
    sends: list[tuple[FileEntry, FileEntry]],
    progress: Progress | None,
) -> list[Any]:
    """Upload large files one by one; each is then known to the Hub by its sha256, and no commit names it yet."""
    from huggingface_hub import CommitOperationAdd

    operations: list[Any] = []
    done, total = 0, sum(file.bytes for file, _ in sends)
    for own, file in sends:
        with _at_hand(folder, own) as path:
            operation = CommitOperationAdd(file.path, path)
            api.preupload_lfs_files(repository.id, [operation], repo_type="dataset", revision=repository.branch)
            if operation.upload_info.sha256.hex() != own.sha256:
                raise DatasetError(f"{folder.join(own.path)}: changed while it was sent; push again")
        operations.append(operation)
        done += own.bytes
        if progress is not None:
            progress("send, MB", done // MB, total // MB)
    return operations


@contextmanager
def _at_hand(folder: Folder, file: FileEntry) -> Iterator[str | bytes]:
    """A file as the client of the Hub takes it: a path, or of a store its bytes, or a copy for as long as it takes."""
    if folder.is_local:
        yield folder.join(file.path)
        return
    if file.bytes <= IN_MEMORY:
        # what the Hub takes for no large file is sent with the commit, when a copy would be gone
        yield folder.read_bytes(file.path)
        return
    with tempfile.TemporaryDirectory(prefix="penstock-push-") as local:
        Folder(local).copy_from(folder, file.path, "file")
        yield f"{local}/file"
