"""Checkpoints that are whole or not there.

A checkpoint is a folder ``step-00000100`` with ``model.safetensors``, ``training.safetensors`` (moments of
the optimiser, random generator states), ``state.json`` (numbers) and, written last, ``manifest.json``
with the size and SHA-256 of the others. Everything is written into a folder of another name, flushed to
the disk, and renamed; a reader believes only a folder with a manifest. A kill at any moment leaves the
checkpoint before. Nothing is pickled.

Price: the bytes of weights and moments (12 per float32 parameter), written and hashed once; the new
checkpoint exists before the oldest is removed, so room for ``keep + 1``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.errors import DatasetError
from penstock.storage import Folder, storage_errors

if TYPE_CHECKING:
    import torch

_NAME = re.compile(r"step-(\d{8})")
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory, tensors on CPU."""

    path: Path
    step: int
    model: dict[str, torch.Tensor]
    training: dict[str, torch.Tensor]
    state: dict[str, Any]


def save(
    folder: Path,
    step: int,
    *,
    model: Mapping[str, torch.Tensor],
    training: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write the checkpoint of ``step`` into ``folder`` and remove all but the newest ``keep``.

    Args:
        model, training: named tensors that share no memory.
        state: JSON values; floats survive exactly.

    Returns:
        The checkpoint's path.
    """
    target = folder / f"step-{step:08d}"
    temporary = folder / f".tmp-{target.name}"
    with storage_errors(str(target)):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _write_tensors(temporary / "model.safetensors", model)
        _write_tensors(temporary / "training.safetensors", training)
        inside = Folder(str(temporary))
        inside.write_json("state.json", dict(state))
        files = {}
        for path in sorted(temporary.iterdir()):
            with path.open("rb") as file:
                os.fsync(file.fileno())
                files[path.name] = {
                    "bytes": path.stat().st_size,
                    "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
                }
        inside.write_json(_MANIFEST, {"step": step, "files": files})
        if target.exists():
            _remove(target)
        temporary.rename(target)
        _sync_folder(folder)
    for old in complete(folder)[:-keep]:
        _remove(old)
    return target


def complete(folder: Path) -> list[Path]:
    """Paths of the checkpoints that have a manifest, oldest first."""
    return sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and (path / _MANIFEST).exists())


def clean(folder: Path, keep: int) -> None:
    """Remove what an interrupted save or removal left behind: half-written folders, and all but the newest ``keep``."""
    whole = set(complete(folder)[-keep:])
    for path in folder.glob("*"):
        if path.name.startswith(".tmp-step-"):
            shutil.rmtree(path)
        elif _NAME.fullmatch(path.name) and path not in whole:
            _remove(path)


def load_latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint, or None when there is none.

    Raises:
        DatasetError: a file differs from its manifest.
    """
    from safetensors.torch import load_file

    found = complete(folder)
    if not found:
        return None
    path = found[-1]
    manifest = json.loads((path / _MANIFEST).read_text())
    for name, said in manifest["files"].items():
        file = path / name
        if not file.exists() or file.stat().st_size != said["bytes"] or _sha256(file) != said["sha256"]:
            raise DatasetError(
                f"{file} is not what its manifest says ({said['bytes']} bytes, sha256 {said['sha256'][:12]}…); "
                f"remove {path} to resume from the checkpoint before it"
            )
    return Checkpoint(
        path=path,
        step=int(manifest["step"]),
        model=load_file(path / "model.safetensors"),
        training=load_file(path / "training.safetensors"),
        state=json.loads((path / "state.json").read_text()),
    )


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        # its input and output errors come without an errno; the text names the cause
        raise OSError(str(error)) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> None:
    # the manifest first: a half-removed checkpoint must not look whole
    (path / _MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
