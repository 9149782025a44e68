"""Files on a local disk or in an object store, through fsspec, with errors a user can act on.

Object stores have no rename and no append, so nothing here needs either: a large file is written
under a name of its own and becomes real when a manifest names it; a small file (JSON) is replaced
in one atomic operation, which is a rename on a disk and a put in a store.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, cast

from penstock.errors import ConfigError, MissingExtraError, StorageError

_EXTRA_PROTOCOLS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}


_REASONS = {
    errno.ENOSPC: "the disk is full; free space or choose another output folder, then run again to resume",
    errno.EDQUOT: "the disk quota is used up; free space, then run again to resume",
    errno.EROFS: "the file system is read-only; choose another output folder",
    errno.EACCES: "no permission; choose another output folder, or have it granted",
    errno.EPERM: "not permitted there; choose another output folder",
    errno.EFBIG: "the file would exceed the size limit of this process or file system; raise it, then run again",
    errno.EBUSY: "the store is too busy or away; run again to resume",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another output folder",
    errno.EEXIST: "a file stands where a folder is needed; choose another output folder",
}
_SAID = {"No space left": errno.ENOSPC, "File too large": errno.EFBIG}
# clients of stores raise trees of their own beside OSError
_STORE_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google")


@contextmanager
def storage_errors(what: str, *, absent: bool = False) -> Iterator[None]:
    """Turn the operating system's and the store's refusals into StorageError, naming ``what``.

    Args:
        absent: let FileNotFoundError pass: the caller asks whether something is there.
    """
    try:
        yield
    except OSError as error:
        if absent and isinstance(error, FileNotFoundError):
            raise
        reason = _REASONS.get(error.errno or 0)
        if reason is None:  # of a library that writes by itself and tells in words
            reason = next((_REASONS[number] for said, number in _SAID.items() if said in str(error)), None)
        raise StorageError(f"{what}: {reason or without_users(str(error))}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _STORE_CLIENTS:
            raise
        said = without_users(str(error))
        raise StorageError(f"{what}: the store refused or was not reached ({said}); mend it and run again") from error


def check_url(what: str, url: str) -> None:
    """Refuse an address with a user or a password in it, which manifests and messages would hold; not shown here.

    Args:
        what: how messages name it.
    """
    _, scheme, rest = url.partition("://")
    if scheme and "@" in re.split(r"[/?#]", rest, maxsplit=1)[0]:
        raise ConfigError(
            f"{what}: got an address with a user or a password in it, allowed none, as manifests and messages hold it; "
            "give them to the store's client by the environment"
        )


def without_users(text: str) -> str:
    """A text without the users and passwords of addresses in it, such as those of a store's or a server's error."""
    return re.sub(r"(?<=://)[^\s/?#'\"]*@", "", text)


@dataclass(frozen=True)
class Folder:
    """A folder by path or URL (``s3://bucket/x``, ``gs://…``, ``memory://…``); picklable, opened on use.

    Raises ConfigError for a URL with a user or a password.
    """

    url: str

    def __post_init__(self) -> None:
        check_url("folder", self.url)

    @property
    def protocol(self) -> str:
        return self.url.split("://", 1)[0] if "://" in self.url else "file"

    @property
    def is_local(self) -> bool:
        return self.protocol == "file"

    @cached_property
    def fs(self) -> Any:
        import fsspec

        # other processes write into the same folder, so a remembered listing of a store would be out of date
        options = {"auto_mkdir": True} if self.is_local else {"use_listings_cache": False}
        try:
            return fsspec.filesystem(self.protocol, **options)
        except ValueError as error:
            raise ConfigError(
                f"{self.url}: protocol {self.protocol} is not known; give a path, or a URL such as s3://bucket/folder"
            ) from error
        except ImportError as error:
            package = _EXTRA_PROTOCOLS.get(self.protocol, self.protocol)
            raise MissingExtraError.of(package, "cloud") from error

    @property
    def path(self) -> str:
        """The path as its file system wants it."""
        return os.path.abspath(self.url.removeprefix("file://")) if self.is_local else self.url.rstrip("/")

    def __getstate__(self) -> dict[str, str]:
        # a worker may have another working directory
        return {"url": self.path if self.is_local else self.url}

    def __truediv__(self, name: str) -> Folder:
        return Folder(f"{self.url.rstrip('/')}/{name}")

    def join(self, name: str = "") -> str:
        return f"{self.path}/{name}" if name else self.path

    def exists(self, name: str = "") -> bool:
        with storage_errors(self.join(name)):
            return bool(self.fs.exists(self.join(name)))

    def sizes(self) -> dict[str, int]:
        """Bytes of every file below by name relative to this folder, sorted; an absent folder has none."""
        if self.is_local:
            return dict(sorted(self._local_sizes()))
        root = self.fs._strip_protocol(self.path)
        try:
            with storage_errors(self.path, absent=True):
                found = self.fs.find(self.path, detail=True)
        except FileNotFoundError:
            return {}
        return {str(name)[len(root) + 1 :]: int(found[name]["size"]) for name in sorted(found)}

    def _local_sizes(self) -> Iterator[tuple[str, int]]:
        root = self.path
        for folder, _, names in os.walk(root):
            for name in names:
                path = os.path.join(folder, name)
                # a file that goes meanwhile, such as one about to be renamed, hides no other
                with suppress(FileNotFoundError):
                    yield os.path.relpath(path, root), os.stat(path).st_size

    def files(self) -> list[str]:
        """Names of all files below, relative to this folder, sorted; an absent folder has none."""
        return list(self.sizes())

    def size(self, name: str) -> int:
        with storage_errors(self.join(name), absent=True):
            return int(self.fs.size(self.join(name)))

    def open_read(self, name: str) -> IO[bytes]:
        with storage_errors(self.join(name), absent=True):
            return cast(IO[bytes], self.fs.open(self.join(name), "rb"))

    def read_bytes(self, name: str) -> bytes:
        with storage_errors(self.join(name), absent=True):
            return bytes(self.fs.cat_file(self.join(name)))

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop`` of a file; one request to a store, for no more than that."""
        with storage_errors(self.join(name), absent=True):
            return bytes(self.fs.cat_file(self.join(name), start=start, end=stop))

    def read_json(self, name: str) -> Any:
        """The value of a file.

        Raises:
            json.JSONDecodeError: it is no JSON in UTF-8, lists are too deep in one another, or a number is too long.
        """
        try:
            return json.loads(self.read_bytes(name))
        except json.JSONDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise json.JSONDecodeError(str(error), "", 0) from error

    def open_write(self, name: str) -> HashingFile:
        """A new file to stream into; it becomes visible in a store only when closed.

        A file of that name is taken away first, not overwritten: another folder may hold it too (``copy_from``).
        """
        with storage_errors(self.join(name)):
            if self.is_local:
                Path(self.join(name)).unlink(missing_ok=True)
            return HashingFile(self.fs.open(self.join(name), "wb"), self.join(name), is_local=self.is_local)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Replace a small file in one atomic operation."""
        with storage_errors(self.join(name)):
            if not self.is_local:
                self.fs.pipe_file(self.join(name), data)
                return
            target = self.join(name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".tmp-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(temporary, 0o644)
                os.replace(temporary, target)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise

    def create_bytes(self, name: str, data: bytes) -> bool:
        """Write a small file only if there is none of that name; False when there is.

        Atomic in S3 and Google's store. A store that does not know the condition replaces the file.
        """
        try:
            with storage_errors(self.join(name)):
                self.fs.pipe_file(self.join(name), data, mode="create")
        except StorageError as error:
            if isinstance(error.__cause__, FileExistsError):
                return False
            raise
        return True

    def write_json(self, name: str, value: Any) -> None:
        text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        self.write_bytes(name, text.encode() + b"\n")

    def copy_from(self, other: Folder, name: str, to: str | None = None) -> None:
        """Copy a file of another folder; no bytes move on one disk (a link) or within one store (its own copy).

        Args:
            to: the copy's name here; by default the same.
        """
        source, target = other.join(name), self.join(to or name)
        with storage_errors(target):
            if self.is_local and other.is_local:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                try:
                    os.link(source, target)  # data files are never changed in place
                    return
                except FileExistsError:
                    return
                except OSError as error:
                    if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                        raise
            if self.protocol == other.protocol and not self.is_local:
                self.fs.cp_file(source, target)
                return
            with other.fs.open(source, "rb") as read, self.fs.open(target, "wb") as write:
                shutil.copyfileobj(read, write, 1 << 20)

    def remove(self, names: list[str]) -> None:
        """Delete files; one already gone is no error."""
        for name in names:
            with suppress(FileNotFoundError), storage_errors(self.join(name), absent=True):
                self.fs.rm_file(self.join(name))

    def prune_empty(self) -> None:
        """Remove empty directories below (a local disk only: stores have none)."""
        if self.is_local:
            for path, _, _ in os.walk(self.path, topdown=False):
                if path != self.path and not os.listdir(path):
                    os.rmdir(path)


class HashingFile:
    """A write-only file that knows the sha256 and the length of what went through it."""

    def __init__(self, raw: Any, name: str, *, is_local: bool) -> None:
        self._raw, self._is_local = raw, is_local
        self._hash = hashlib.sha256()
        self._discarded = False
        self.name = name
        self.bytes = 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B") if not isinstance(data, bytes) else data
        if self._discarded:
            return len(view)  # a Parquet writer ends with a footer, whatever became of its file
        with storage_errors(self.name):
            self._raw.write(view)
        self._hash.update(view)
        self.bytes += len(view)
        return len(view)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    @property
    def closed(self) -> bool:
        return bool(self._raw.closed)

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        with storage_errors(self.name):
            self._raw.flush()

    def close(self) -> None:
        with storage_errors(self.name):
            self._raw.close()

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def discard(self) -> None:
        """Give up: nothing of the file stays (on a disk the space is freed); what is still written goes nowhere."""
        from fsspec.spec import AbstractBufferedFile

        self._discarded = True
        if self.closed:
            return
        if isinstance(self._raw, AbstractBufferedFile):
            with storage_errors(self.name):
                self._raw.discard()
            # otherwise the garbage collector would close it, and closing uploads what is buffered
            self._raw.closed = True
            return
        # the write that failed was reported; closing the file of a full disk writes its buffer and fails again
        with suppress(OSError):
            self._raw.close()
        if self._is_local:
            Path(self.name).unlink(missing_ok=True)

    def __enter__(self) -> HashingFile:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close() if kind is None else self.discard()
