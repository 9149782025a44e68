"""Which files a path, a folder, a pattern or a URL means, and what each is called in ids.

A file is named relative to the static root of its pattern: the folder itself, the part of a pattern
before its first wildcard, or the folder of a single file. The same data under another folder
therefore keeps its ids.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator
from typing import Any

from penstock.errors import InputError, PenstockError
from penstock.sources._streams import (
    compression_of,
    file_system,
    is_local,
    local_path,
    unreadable,
)
from penstock.sources.base import InputFile, store_stamp

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".txt": "text",
    ".text": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".warc": "warc",
    ".wet": "wet",
    ".arrow": "arrow",
    ".feather": "arrow",
}


def split_name(name: str) -> tuple[str, str]:
    """Last component of a file name without its compression, as (stem, extension)."""
    base = name.rsplit("/", 1)[-1]
    if compression_of(base):
        base = base.rsplit(".", 1)[0]
    stem, extension = os.path.splitext(base)
    return stem, extension.lower()


def readable(name: str) -> str:
    """A file name as valid UTF-8; bytes that are not become ``\\xff`` escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def locate(path: str, *, name: str | None, any_format: bool) -> list[InputFile]:
    """The files that ``path`` means, in order of their names.

    Args:
        path: a file, a folder (searched at any depth, hidden names left out), or a pattern with
            ``*``, ``?``, ``[...]`` or ``**``; local or a URL.
        name: the name of a single file, or what is put before the names of several.
        any_format: take every file of a folder, not only those of a known extension.

    Raises:
        InputError: nothing matches, or a file cannot be looked at.
    """
    try:
        found, single = _local(path, any_format) if is_local(path) else _remote(path, any_format)
    except FileNotFoundError:
        found, single = [], False
    except PenstockError:
        raise
    # stores raise their own kinds for missing credentials, refused access and unreachable hosts
    except Exception as error:
        raise unreadable(path, error) from error
    if not found:
        what = "" if any_format else f" with a known extension ({', '.join(FORMATS)}; with .gz or .zst)"
        raise InputError(f"{path}: matches no file{what}; correct the path, or set format: for other extensions")
    named = [
        file if name is None else InputFile(file.path, name if single else f"{name}/{file.name}", file.size, file.stamp)
        for file in found
    ]
    return sorted(named, key=lambda file: file.name)


def _known(name: str, any_format: bool) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return not hidden and (any_format or split_name(name)[1] in FORMATS)


def _static_root(pattern: str) -> str:
    """The folders before the first component with a wildcard."""
    parts = pattern.split("/")
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return "/".join(parts[:first])


def _local(url: str, any_format: bool) -> tuple[list[InputFile], bool]:
    path = local_path(url)
    if os.path.isdir(path):
        names = [name for name in _walk(path) if _known(name, any_format)]
        return [file for name in names for file in local_file(path, name)], False
    # a file whose name holds a wildcard character is that file
    if glob.has_magic(path) and not os.path.exists(path):
        root = _static_root(path)
        found = glob.glob(path, recursive=True)
        names = sorted({os.path.relpath(name, root or "/") for name in found if os.path.isfile(name)})
        return [file for name in names for file in local_file(root or "/", name)], False
    return list(local_file(os.path.dirname(path), os.path.basename(path))), True


def _walk(root: str) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            yield os.path.relpath(os.path.join(folder, name), root)


def local_file(root: str, name: str) -> Iterator[InputFile]:
    """The file ``name`` below ``root``; nothing where it is no regular file."""
    path = os.path.join(root, name)
    info = os.stat(path)
    if stat.S_ISREG(info.st_mode):
        yield InputFile(path, readable(name), info.st_size, str(info.st_mtime_ns))


def _remote(url: str, any_format: bool) -> tuple[list[InputFile], bool]:
    fs, path = file_system(url)
    fs.invalidate_cache()
    if glob.has_magic(path) and not fs.exists(path):
        found: dict[str, Any] = fs.glob(path, detail=True)
        return [_remote_file(fs, info, _static_root(path)) for info in found.values() if info["type"] == "file"], False
    info = fs.info(path)
    if info["type"] == "file":
        return [_remote_file(fs, info, str(info["name"]).rpartition("/")[0])], True
    files = [_remote_file(fs, info, path) for info in fs.find(path, detail=True).values() if info["type"] == "file"]
    return [file for file in files if _known(file.name, any_format)], False


def _remote_file(fs: Any, info: dict[str, Any], root: str) -> InputFile:
    full = str(info["name"])
    url = str(fs.unstrip_protocol(full))
    if info.get("size") is None:
        raise InputError(f"{url}: the server does not say how large it is; download it and give the local path")
    name = full.removeprefix(root.rstrip("/")).lstrip("/")
    return InputFile(url, name, int(info["size"]), store_stamp(info))
