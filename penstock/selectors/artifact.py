"""Fitted facts on disk: named arrays as safetensors beside a JSON of everything else, known by one digest.

    quality-3f2a….safetensors   the arrays
    quality-3f2a….json          the facts, and the sha256 of the arrays

The digest is the sha256 of the JSON, which names the sha256 of the arrays, so it stands for both.
Work that needs the artifact carries (path, digest) only: it pickles in a few bytes, its description is
plain JSON, and a file that changed since is refused. Nothing is pickled.

Price: arrays are read once per process and held (``functools.cache``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import DatasetError
from penstock.storage import Folder


@dataclass(frozen=True)
class Artifact:
    """What ``load`` returns; arrays are read-only."""

    arrays: Mapping[str, NDArray[Any]]
    facts: Mapping[str, Any]


def save(folder: str, name: str, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> tuple[str, str]:
    """Write an artifact and return (path of its JSON, digest). Equal content gives equal names and bytes.

    Args:
        folder: path or URL of the folder.
        name: stem of the file names; the first 12 digits of the digest are appended.
        arrays: NumPy arrays of any shape.
        facts: values that JSON can hold; NaN and infinity are refused.
    """
    from safetensors.numpy import save as to_bytes

    data = to_bytes({key: np.ascontiguousarray(value) for key, value in arrays.items()})
    sha256 = hashlib.sha256(data).hexdigest()
    text = json.dumps({"arrays": sha256, "facts": dict(facts)}, indent=1, sort_keys=True, allow_nan=False)
    body = text.encode() + b"\n"
    digest = hashlib.sha256(body).hexdigest()
    stem = f"{name}-{digest[:12]}"
    home = Folder(folder)
    home.write_bytes(f"{stem}.safetensors", data)
    home.write_bytes(f"{stem}.json", body)
    return f"{folder.rstrip('/')}/{stem}.json", digest


@cache
def load(path: str, digest: str) -> Artifact:
    """Read an artifact once per process.

    Raises:
        DatasetError: a file is missing or is not the one the digest names.
    """
    from safetensors.numpy import load as from_bytes

    body = read_verified(path, digest)
    content = json.loads(body)
    arrays = from_bytes(read_verified(path.removesuffix(".json") + ".safetensors", content["arrays"]))
    for array in arrays.values():
        array.setflags(write=False)
    return Artifact(arrays=arrays, facts=content["facts"])


def read_verified(path: str, sha256: str) -> bytes:
    """The bytes of a file whose sha256 is known.

    Raises:
        DatasetError: the file is missing, or its bytes have another sha256.
    """
    parent, _, name = path.rpartition("/")
    try:
        data = Folder(parent or ".").read_bytes(name)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: not found; run the step that makes it again") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise DatasetError(
            f"{path}: got sha256 {found[:12]}…, expected {sha256[:12]}…; run the step that makes it again"
        )
    return data
