"""Data sets of the Hugging Face Hub, or of folders in its layout, as entries of a ``FileSource``.

``datasets`` says which files belong to a configuration and a split: by the README's ``configs``, by the names of
folders and files, or by what ``save_to_disk`` wrote. The files are then read as any others are, by row group, record
batch or line, through ``hf://``; nothing is downloaded ahead and nothing goes through the cache of ``datasets``. The
commit is part of every file's address and the Hub's own hash its fingerprint, so a run reads one revision, and an equal
revision makes equal keys. No code of a data set is ever run.

Price: a folder 20 to 250 ms; the Hub a few requests, once a process. ``datasets`` takes 1.4 s to import.
"""

from __future__ import annotations

import functools
import json
import os
import re
import tempfile
from dataclasses import dataclass
from typing import Any, ClassVar

from penstock.errors import ConfigError, InputError, MissingExtraError
from penstock.sources import base
from penstock.sources._entry import Reading
from penstock.sources._locate import FORMATS, local_file, readable, split_name
from penstock.sources._streams import compression_of, file_system
from penstock.sources.base import InputFile

# as datasets reads them; what else it knows (images, audio, tar archives) holds no column of text
_FORMATS = {**FORMATS, ".json": "jsonl"}
_MODULES = {"parquet": "parquet", "json": "jsonl", "arrow": "arrow", "csv": "csv", "text": "text"}
_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_UNITS = {"line": "line", "paragraph": "paragraph", "document": "file"}  # datasets' sample_by -> text_unit
_SAVED, _SAVED_DICT = "state.json", "dataset_dict.json"


@dataclass(frozen=True, kw_only=True)
class HubEntry(Reading):
    """One split of a data set.

    Attributes:
        dataset: ``org/name`` on the Hub, or a local folder: with a README that lists ``configs``, with plain Parquet,
            JSON lines, CSV, TSV, text or Arrow files, or as ``save_to_disk`` writes it.
        config: configuration; by default the only one there is.
        split: split of it.
        revision: branch, tag or commit on the Hub; by default ``main`` as it is when the run is planned.
        name: what goes before the names of files in ids; by default the data set's.
        columns: see ``Reading``.
        domain: for records whose domain column is absent or null; by default the name without its organisation.
        license: see ``Reading``.
        text_unit: what one document is in files of plain text: line, as ``datasets`` has it, paragraph or file.
    """

    place: ClassVar[tuple[str, ...]] = ("dataset", "config", "split", "revision", "name")

    dataset: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    name: str | None = None
    text_unit: str = "line"
    extractor: ClassVar[str] = "resiliparse"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dataset:
            raise ConfigError("dataset: got an empty text; give org/name or a folder")
        if self.name is not None:
            base.check_name(self.name)
        if not self.split:
            raise ConfigError("split: got an empty text; give the name of a split, such as train")
        if self.text_unit not in _UNITS.values():
            raise ConfigError(f"text_unit: got {self.text_unit!r}, allowed {', '.join(_UNITS.values())}; choose one")

    def locate(self) -> list[InputFile]:
        """The files of the split, by name.

        Raises:
            MissingExtraError: ``datasets`` is not installed.
            InputError: there is no such data set, or it cannot be reached.
            ConfigError: it has no such configuration or split, or files that are not read here.
        """
        folder = os.path.abspath(os.path.expanduser(self.dataset))
        if os.path.isdir(folder):
            if self.revision is not None:
                raise ConfigError(
                    f"revision of {self.dataset}: got {self.revision!r}, allowed on the Hub only; a "
                    "folder has none, leave it out"
                )
            found = _saved_files(folder, self.split) or _resolved(folder, self.config, self.split, None, self.text_unit)
            files = [file for path in found for file in local_file(folder, os.path.relpath(path, folder))]
        elif _ID.fullmatch(self.dataset):
            files = list(_remote_files(self.dataset, self.config, self.split, self.revision, self.text_unit))
        else:
            raise InputError(f"{self.dataset}: no such folder, and no name of a data set; correct it")
        for file in files:
            self.kind_of(file)
        prefix = self.name or readable(os.path.basename(folder) if os.path.isdir(folder) else self.dataset)
        return sorted(
            (InputFile(f.path, f"{prefix}/{f.name}", f.size, f.stamp) for f in files), key=lambda file: file.name
        )

    def domain_of(self, file: InputFile, kind: str) -> str:
        """Domain of records that have none of their own."""
        return self.domain or readable(os.path.basename(os.path.abspath(self.dataset)))

    def kind_of(self, file: InputFile) -> str:
        """Format of a file by its extension; ConfigError where it is not read here."""
        kind = _FORMATS.get(split_name(file.path)[1])
        if kind is None or (kind in ("parquet", "arrow") and compression_of(file.path)):
            raise ConfigError(
                f"{file.path}: got a file of {split_name(file.path)[1] or 'no extension'}, allowed in a data set "
                f"{', '.join(_FORMATS)}, the ones of text with .gz or .zst; choose another config or split"
            )
        return kind


def _saved_files(folder: str, split: str) -> list[str]:
    """Arrow files of a folder that ``save_to_disk`` wrote; none where it is not one."""
    if os.path.exists(os.path.join(folder, _SAVED_DICT)):
        splits = _json(os.path.join(folder, _SAVED_DICT)).get("splits", [])
        if split not in splits:
            raise _no_split(folder, split, splits)
        folder = os.path.join(folder, split)
    if not os.path.exists(os.path.join(folder, _SAVED)):
        return []
    state = _json(os.path.join(folder, _SAVED))
    own = state.get("_split") or "train"
    if own != split and not os.path.exists(os.path.join(os.path.dirname(folder), _SAVED_DICT)):
        raise _no_split(folder, split, [own])
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise InputError(f"{folder}: rows are chosen by an index file; save it again after flatten_indices()")
    names = [str(file["filename"]) for file in state.get("_data_files", [])]
    return [os.path.join(folder, os.path.basename(name)) for name in names]


def _json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); save the data set again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: got {type(value).__name__}, expected an object; save the data set again")
    return value


def _no_split(dataset: str, split: str, allowed: Any) -> ConfigError:
    names = ", ".join(str(name) for name in allowed)
    return ConfigError(f"split of {dataset}: got {split!r}, allowed {names or 'none'}; choose one")


def _resolved(dataset: str, config: str | None, split: str, revision: str | None, unit: str) -> list[str]:
    """Paths or URLs of a split's files as ``datasets`` finds them."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError.of("datasets", "hub") from error
    with tempfile.TemporaryDirectory() as cache:
        try:
            builder = datasets.load_dataset_builder(dataset, name=config, revision=revision, cache_dir=cache)
        except ValueError as error:
            raise ConfigError(f"config of {dataset}: got {config!r}; {_first_lines(error)}") from error
        # the libraries below raise their own kinds for what is missing, private or unreachable
        except Exception as error:
            raise InputError(
                f"{dataset}: cannot be resolved ({type(error).__name__}: {_first_lines(error)}); correct "
                "the name, or log in with `hf auth login` where it is private"
            ) from error
    kind = type(builder).__module__.rsplit(".", 1)[-1]
    options = builder.config
    files = {str(name): list(paths) for name, paths in (options.data_files or {}).items()}
    if split not in files:
        raise _no_split(dataset, split, files)
    if kind not in _MODULES:
        raise ConfigError(f"{dataset}: got files of kind {kind}, allowed {', '.join(_MODULES)}; choose another config")
    sampled = _UNITS.get(getattr(options, "sample_by", "line"), "line")
    if kind == "text" and sampled != unit:
        raise ConfigError(f"text_unit of {dataset}: got {unit}, its README says {sampled}; set text_unit: {sampled}")
    for option, allowed in (("field", (None,)), ("sep", (",", "\t")), ("delimiter", (None, ",", "\t"))):
        value = getattr(options, option, allowed[0])
        if value not in allowed:
            raise ConfigError(f"{dataset}: its README sets {option} to {value!r}, which is not read here; convert it")
    return files[split]


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split("\n")[:2])[:300]


@functools.cache
def _remote_files(
    dataset: str, config: str | None, split: str, revision: str | None, unit: str
) -> tuple[InputFile, ...]:
    """Files of a split at one commit; asked once a process, so that a run sees one revision."""
    urls = _resolved(dataset, config, split, revision, unit)
    out: list[InputFile] = []
    for url in urls:
        fs, path = file_system(url)
        try:
            info = fs.info(path)
        except Exception as error:
            raise InputError(
                f"{url}: cannot be looked at ({type(error).__name__}: {_first_lines(error)}); try again"
            ) from error
        # datasets/org/name@commit/path/in/repository
        name = str(path).split("@", 1)[-1].partition("/")[2]
        lfs = info.get("lfs") or {}
        stamp = lfs.get("sha256") or info.get("blob_id") or ""
        out.append(InputFile(url, name, int(info["size"]), f"git:{stamp}" if stamp else ""))
    return tuple(out)
