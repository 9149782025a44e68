"""Tokenizers into folders, each with what it was made from: the work behind ``penstock tokenizer``.

    out/
      tokenizer.json
      made_from.json      verb, settings, sample (corpus digest, bytes by cell), sha256 of what came in and went out
      old_ids.npy         of prune: the id that each token had; ``embedding[old_ids]`` are the rows of the new one

Equal inputs and settings give equal files, so they hold no time and no path.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.errors import ConfigError
from penstock.storage import Folder
from penstock.tokenization.bpe import BPEConfig, train_bpe
from penstock.tokenization.extend import ExtendConfig, extend
from penstock.tokenization.loading import FILE, Loaded, of_bytes
from penstock.tokenization.prune import Pruned, prune
from penstock.tokenization.sampling import Sample
from penstock.tokenization.superbpe import SuperBPEConfig, superbpe

if TYPE_CHECKING:
    from penstock.tokenization.dynamic.hypernet_training import HypernetConfig

MADE_FROM = "made_from.json"
OLD_IDS = "old_ids.npy"
COMPARISON, PAGE = "comparison.json", "comparison.html"
MIXTURE = "mixture.json"


def named(given: list[str], what: str) -> dict[str, str]:
    """``NAME=VALUE`` options as a mapping. Raises ConfigError for one without a name, a value or with a name twice."""
    out: dict[str, str] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name or not value:
            raise ConfigError(f"{what} {one}: allowed NAME=VALUE; write for example {what} de=0.3")
        if name in out:
            raise ConfigError(f"{what} {name}: got it twice, allowed once; leave one out")
        out[name] = value
    return out


def weights(given: list[str], what: str) -> dict[str, float]:
    """``NAME=NUMBER`` options as weights. Raises ConfigError for what is no number."""
    out = {}
    for name, value in named(given, what).items():
        try:
            out[name] = float(value)
        except ValueError as error:
            raise ConfigError(f"{what} {name}: got {value!r}, allowed a number such as 0.3") from error
    return out


def tokenizer_names(given: list[str]) -> dict[str, str]:
    """Tokenizers by name: ``NAME=PATH``, or a path, which is then called as its file or folder is."""
    out: dict[str, str] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not equals or "/" in name:
            parts = [part for part in one.split("/") if part]
            name, path = (parts[-2] if len(parts) > 1 and parts[-1] == FILE else parts[-1] if parts else one), one
        if name in out:
            raise ConfigError(f"tokenizers: two are called {name}, allowed different names; write NAME={one}")
        out[name] = path
    return out


def train_to(taken: Sample, config: BPEConfig, out: str) -> tuple[Loaded, list[str]]:
    """Train on a sample and write the folder: the tokenizer and the paths written."""
    content = train_bpe(taken.texts(), config)
    return write_tokenizer(content, out, {"verb": "train", "settings": asdict(config), "sample": taken.to_json()})


def extend_to(
    loaded: Loaded, taken: Sample, config: ExtendConfig | SuperBPEConfig, out: str
) -> tuple[Loaded, list[str]]:
    """Extend by a sample, over words where ``config`` is SuperBPE's, and write the folder."""
    if isinstance(config, SuperBPEConfig):
        content = superbpe(loaded.content, taken.texts(), config)
        told: dict[str, Any] = asdict(config) | {"apart": config.apart.decode("latin-1"), "superbpe": True}
    else:
        content = extend(loaded.content, taken.texts(), config)
        told = {"vocabulary_size": config.vocabulary_size, "min_frequency": config.min_frequency, "superbpe": False}
    facts = {"verb": "extend", "tokenizer": loaded.sha256, "settings": told, "sample": taken.to_json()}
    return write_tokenizer(content, out, facts)


def hypernet_config(settings: Mapping[str, Any], overrides: list[str]) -> HypernetConfig:
    """Settings of a hypernetwork's training with ``KEY=VALUE`` overrides, the values as YAML.

    Raises:
        ConfigError: a key that there is not, with the nearest one, or a value that is not allowed.
    """
    import pydantic

    from penstock._recipe_reading import override_in, problem, unknown_keys
    from penstock.tokenization.dynamic.hypernet_training import HypernetConfig

    values = dict(settings)
    for override in overrides:
        override_in(values, override)
    if unknown := list(unknown_keys(HypernetConfig, values, "hypernet")):
        raise ConfigError("; ".join(unknown))
    try:
        return pydantic.TypeAdapter(HypernetConfig).validate_python(values)
    except pydantic.ValidationError as error:
        raise ConfigError("; ".join(f"hypernet.{problem(e)}" for e in error.errors())) from error


def prune_to(loaded: Loaded, taken: Sample, out: str, *, min_count: int, size: int | None) -> tuple[Pruned, list[str]]:
    """Prune by a sample and write the folder: what was found and the paths written."""
    found = prune(loaded, taken.texts(), min_count=min_count, size=size)
    settings = {"min_count": min_count, "size": size}
    facts = {"verb": "prune", "tokenizer": loaded.sha256, "settings": settings, "sample": taken.to_json()}
    buffer = io.BytesIO()
    np.save(buffer, found.old_ids)
    extra = {OLD_IDS: buffer.getvalue()}
    return found, write_tokenizer(found.content, out, facts | {"kept_for": found.kept_for}, extra)[1]


def write_tokenizer(
    content: bytes, out: str, facts: dict[str, Any], extra: Mapping[str, bytes] | None = None
) -> tuple[Loaded, list[str]]:
    """Write a tokenizer's folder; ``made_from.json`` comes last, so where it is the folder is whole."""
    import tokenizers

    from penstock import __version__

    loaded = of_bytes(content, out)
    files = {FILE: content, **(extra or {})}
    made = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    versions = {"penstock": __version__, "tokenizers": tokenizers.__version__}
    told = facts | {"vocabulary": loaded.vocabulary, "made": made, "versions": versions}
    return loaded, write_files(out, files | {MADE_FROM: to_json(told)})


def write_files(out: str, files: Mapping[str, bytes]) -> list[str]:
    """Write files into a folder, a path or a URL, and give their paths."""
    folder = Folder(out)
    for name, data in files.items():
        folder.write_bytes(name, data)
    return [folder.join(name) for name in files]


def to_json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"
