"""This Python installation as a corpus: a real one of tens of megabytes with no download.

    documentation    .rst, .md, .txt files beside the code, and module docstrings
    api_docstrings   docstrings of the public classes and functions of a module, with their names
    source           modules
    tests            test modules
    stubs            .pyi files
    readmes          long descriptions in the metadata of installed distributions
    licences         licence, copying and notice files

A module that is no test gives either its source or its docstrings, by a hash of its name, so that no
text appears in two domains; one without docstrings gives no row. Nothing is imported: docstrings are
read with ``ast``. Files are named relative to their root ("stdlib/asyncio/base_events.py"), whatever
folder that is. The budget is shared evenly among the domains, what a small one leaves goes to the
larger ones, and inside a domain the files with the smallest hashes are taken, not the first found.

Price: the plan looks at names and sizes only (about 25,000 files/s); reading 48 MB takes about 12 s
on one core, nearly all of it parsing modules for their docstrings.
"""

from __future__ import annotations

import io
import os
import site
import sysconfig
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from penstock import seeding
from penstock.errors import ConfigError, InputError
from penstock.sources import base
from penstock.sources._docstrings import api_docstrings, module_docstring
from penstock.sources._records import is_blank
from penstock.sources._streams import unreadable
from penstock.sources.base import InputFile, Member, Rows, SourceSplit

DOMAINS = (
    "api_docstrings",
    "documentation",
    "licences",
    "readmes",
    "source",
    "stubs",
    "tests",
)

# Expected bytes of text per byte of file, measured on 700 modules each of the standard library and of site-packages
_API_SHARE = 0.17
_MODULE_DOCSTRING_BYTES = 300

_DOCUMENT_ENDINGS = (".rst", ".md", ".txt")
_NOT_DOCUMENTS = (
    "requirements",
    "cmakelists",
    "entry_points",
    "top_level",
    "sources",
    "constraints",
    "vendor",
)
_LICENCE_STARTS = ("license", "licence", "copying", "notice")
_LICENCE_ENDINGS = (
    "",
    ".txt",
    ".md",
    ".rst",
    ".apache",
    ".apache2",
    ".bsd",
    ".mit",
    ".psf",
)
_TEST_FOLDERS = frozenset({"test", "tests", "testing", "idle_test"})
_SKIPPED_FOLDERS = frozenset({"__pycache__", "site-packages", "dist-packages", "node_modules"})
_MEAN_LINE_LIMIT = 1000  # bytes; minified or encoded data has longer lines on average


class _Found(NamedTuple):
    """A file as one domain sees it. ``expected`` is how many bytes of text it should give."""

    domain: str
    path: str  # relative to its root, with the root's name in front
    size: int
    expected: int
    stamp: int


@dataclass(frozen=True, kw_only=True)
class EnvironmentSource:
    """Documents from the installed Python packages and the standard library.

    Attributes:
        max_megabytes: expected text in all, in 10**6 bytes.
        max_domain_megabytes: expected text of one domain; None sets no bound but the shared one.
        include, exclude: domains to take, and among them to leave out.
        max_file_bytes: larger files are data more often than text.
        seed: of the sample and of the choice between source and docstrings.
        roots: (name, folder) pairs to read in place of this installation's; () means this installation's.
    """

    revision: ClassVar[int] = 1

    name: str = "environment"
    max_megabytes: float = 48.0
    max_domain_megabytes: float | None = None
    include: tuple[str, ...] = DOMAINS
    exclude: tuple[str, ...] = ()
    max_file_bytes: int = 512 * 1024
    seed: int = 0
    roots: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        base.check_name(self.name)
        for key, value in (
            ("max_megabytes", self.max_megabytes),
            ("max_domain_megabytes", self.max_domain_megabytes),
        ):
            if value is not None and not value > 0:
                raise ConfigError(f"{key}: got {value}, allowed > 0; leave the source out to take nothing")
        if self.max_file_bytes < 1:
            raise ConfigError(f"max_file_bytes: got {self.max_file_bytes}, allowed >= 1; use the default 524288")
        for key, names in (("include", self.include), ("exclude", self.exclude)):
            unknown = sorted(set(names) - set(DOMAINS))
            if unknown:
                raise ConfigError(f"{key}: got {', '.join(unknown)}, allowed {', '.join(DOMAINS)}; choose among them")
        if not set(self.include) - set(self.exclude):
            raise ConfigError("include and exclude: got no domain left, allowed one or more; exclude fewer")

    def inputs(self) -> list[InputFile]:
        roots = self._roots()
        files = {
            f.path: InputFile(_join(roots, f.path), f"{self.name}/{f.path}", f.size, str(f.stamp))
            for f in self._selected(roots)
        }
        return [files[path] for path in sorted(files)]

    def plan(self, target_bytes: int) -> list[SourceSplit]:
        base.check_target(target_bytes)
        out: list[SourceSplit] = []
        group: list[Member] = []
        size = 0
        for found in self._selected(self._roots()):
            if group and size + found.expected > target_bytes:
                out.append(self._split(group))
                group, size = [], 0
            group.append(Member(found.path, f"{self.name}/{found.path}", found.size, found.domain))
            size += found.expected
        if group:
            out.append(self._split(group))
        return out

    def _split(self, group: list[Member]) -> SourceSplit:
        first = group[0]
        return SourceSplit(
            self.name,
            first.file,
            first.name,
            0,
            0,
            0,
            "environment",
            None,
            0,
            tuple(group),
        )

    def identity(self, split: SourceSplit) -> Any:
        """All that decides the rows of a split besides the content of its files: not which folder they lie in."""
        return [self.name, [[member.file, member.name, member.domain] for member in split.files]]

    def read(self, split: SourceSplit, *, dropped: str) -> Iterator[Rows]:
        builder = base.RowsBuilder(self.name, dropped)
        roots = self._roots()
        for member in split.files:
            domain = member.domain or ""
            # row 0 is a file's text or its module docstring, row 1 the docstrings inside the module
            doc_id = f"{member.name}#{int(domain == 'api_docstrings')}"
            path = _join(roots, member.file)
            data = _read(path)
            text, reason = "", None
            try:
                found = _extract(data, path, member.file, domain)
                if found is None:
                    continue
                text = found
            except UnicodeDecodeError:
                reason = "invalid_utf8"
            # source for another version of Python, or not meant to be parsed at all
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                reason = "not_python"
            raw = text.encode("utf-8", "replace")
            if reason is None and is_blank(raw):
                reason = "empty_text"
            elif reason is None and len(raw) > _MEAN_LINE_LIMIT * (raw.count(b"\n") + 1):
                reason = "minified"
            if reason is None:
                full = builder.add(doc_id, raw, domain)
            else:
                full = builder.drop(doc_id, reason, domain, None, data)
            if full and (rows := builder.take()):
                yield rows
        if rows := builder.take():
            yield rows

    def _roots(self) -> dict[str, str]:
        """Folder of each root by name. Folders inside another root are left to it."""
        if self.roots:
            return dict(self.roots)
        folders = [
            sysconfig.get_path("purelib"),
            sysconfig.get_path("platlib"),
            *site.getsitepackages(),
        ]
        real = list(dict.fromkeys(os.path.realpath(folder) for folder in folders if os.path.isdir(folder)))
        names = ["site-packages"] + [f"site-packages-{i}" for i in range(2, len(real) + 1)]
        return {
            "stdlib": sysconfig.get_path("stdlib"),
            **dict(zip(names, real, strict=False)),
        }

    def _selected(self, roots: dict[str, str]) -> list[_Found]:
        """The sample, in order of (path, domain)."""
        wanted = set(self.include) - set(self.exclude)
        by_domain: dict[str, list[_Found]] = {domain: [] for domain in sorted(wanted)}
        for name, root in sorted(roots.items()):
            for found in self._scan(root, name):
                if found.domain in wanted:
                    by_domain[found.domain].append(found)
        supply = {domain: sum(f.expected for f in files) for domain, files in by_domain.items()}
        cap = None if self.max_domain_megabytes is None else self.max_domain_megabytes * 1e6
        shares = _share(supply, self.max_megabytes * 1e6, cap)
        out = [f for domain, files in by_domain.items() for f in _sample(files, shares[domain], self.seed)]
        if not out:
            raise InputError(
                f"source {self.name}: no file fits {self.max_megabytes} MB in {', '.join(sorted(wanted))} "
                f"under {', '.join(roots.values())}; raise max_megabytes or include more domains"
            )
        return sorted(out, key=lambda found: (found.path, found.domain))

    def _scan(self, root: str, name: str) -> Iterator[_Found]:
        folders = [(root, name)]
        modules: list[tuple[str, int, int]] = []
        while folders:
            folder, path = folders.pop()
            try:
                entries = list(os.scandir(folder))
            except OSError as error:
                raise unreadable(folder, error) from error
            for entry in entries:
                inside = f"{path}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in _SKIPPED_FOLDERS and not entry.name.startswith("."):
                        folders.append((entry.path, inside))
                elif entry.is_file(follow_symlinks=False) and entry.name.isprintable():
                    kind = kind_of(inside)
                    if kind is None:
                        continue
                    info = entry.stat(follow_symlinks=False)
                    if not 0 < info.st_size <= self.max_file_bytes:
                        continue
                    if kind == "module":
                        modules.append((inside, info.st_size, info.st_mtime_ns))
                    else:
                        yield _Found(kind, inside, info.st_size, info.st_size, info.st_mtime_ns)
        yield from self._views(modules)

    def _views(self, modules: list[tuple[str, int, int]]) -> Iterator[_Found]:
        """What the modules of a root are taken as; one call draws all coins, as one call each took most of a scan."""
        coins = seeding.coins(seeding.hash_ids(path for path, _, _ in modules), self.seed, "environment", "view")
        for (path, size, stamp), coin in zip(modules, coins.tolist(), strict=True):
            if coin < 0.5:
                yield _Found("source", path, size, size, stamp)
            else:
                yield _Found("documentation", path, size, min(size, _MODULE_DOCSTRING_BYTES), stamp)
                yield _Found("api_docstrings", path, size, max(1, int(size * _API_SHARE)), stamp)


def kind_of(path: str) -> str | None:
    """What a file is by its path under a root: a domain, ``module`` for source that is no test, or None."""
    *folders, base_name = path.lower().split("/")
    stem, ending = os.path.splitext(base_name)
    inside = next((f for f in folders if f.endswith((".dist-info", ".egg-info"))), None)
    if ending not in (".py", ".pyi") and (
        (base_name.startswith(_LICENCE_STARTS) and ending in _LICENCE_ENDINGS) or (inside and "licenses" in folders)
    ):
        return "licences"
    if inside:
        return "readmes" if base_name in ("metadata", "pkg-info") else None
    if ending == ".pyi":
        return "stubs"
    is_test = not _TEST_FOLDERS.isdisjoint(folders) or stem.startswith("test_") or stem.endswith("_test")
    if ending == ".py":
        if stem.endswith(("_pb2", "_pb2_grpc")):
            return None
        return "tests" if is_test or stem == "conftest" else "module"
    if ending in _DOCUMENT_ENDINGS and not is_test and not base_name.startswith(_NOT_DOCUMENTS):
        return "documentation"
    return None


def _share(supply: dict[str, int], budget: float, cap: float | None) -> dict[str, float]:
    """Equal shares of ``budget``, where what one domain cannot use goes to the others in equal parts."""
    shares: dict[str, float] = {}
    # from the smallest supply on, each takes at most an equal part of what is left
    for done, domain in enumerate(sorted(supply, key=lambda name: (supply[name], name))):
        limit = budget / (len(supply) - done)
        shares[domain] = min(float(supply[domain]), limit, *(() if cap is None else (cap,)))
        budget -= shares[domain]
    return shares


def _sample(files: list[_Found], share: float, seed: int) -> list[_Found]:
    """Files in hash order, each taken if it still fits."""
    hashes = seeding.rehash(seeding.hash_ids(f.path for f in files), seed, "environment", "sample")
    out: list[_Found] = []
    for index in np.argsort(hashes, kind="stable"):
        if files[index].expected <= share:
            out.append(files[index])
            share -= files[index].expected
    return out


def _join(roots: dict[str, str], path: str) -> str:
    name, _, rest = path.partition("/")
    return os.path.join(roots[name], rest)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise unreadable(path, error) from error


def _extract(data: bytes, path: str, name: str, domain: str) -> str | None:
    """The text that a file gives to a domain; None for a module without such docstrings."""
    if domain == "readmes":
        return _description(path)
    if not path.endswith((".py", ".pyi")):
        return data.decode("utf-8-sig")
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    source = data.decode(encoding)
    if domain == "api_docstrings":
        return api_docstrings(source, _module_name(name))
    if domain == "documentation":
        return module_docstring(source)
    return source


def _description(path: str) -> str:
    """The long description in core metadata: the message's body, or the Description field of old versions."""
    metadata = PathDistribution(Path(path).parent).metadata
    body = str(metadata.get_payload())  # type: ignore[attr-defined]  # an email.message.Message, which mypy is not told
    return body if body.strip() else str(metadata["Description"] or "")


def _module_name(path: str) -> str:
    """``site-packages/a/b/__init__.py`` is module ``a.b``."""
    parts = path.removesuffix(".py").removesuffix("/__init__").split("/")
    return ".".join(parts[1:])
