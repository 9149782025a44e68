"""Checkpoints that are whole or not there.

A checkpoint is a folder ``step-00000100`` with ``model.safetensors``, ``training.safetensors`` (moments of
the optimiser, random generator states), ``state.json`` (numbers) and, written last, ``manifest.json``
with the size and SHA-256 of the others. Everything is written into a folder of another name, flushed to
the disk, and renamed; a reader believes only a folder with a manifest. A kill at any moment leaves the
checkpoint before. Nothing is pickled.

A run of W processes writes W files of each kind, ``model-00002-of-00004.safetensors``: whole tensors dealt out among
the ranks, or each rank's rows of a tensor that is split along its first dimension, with the place of the rows in the
file's header. Ranks meet before the manifest, so it names only files that are on the disk. A reader puts rows
together from whatever files hold them: the number of processes and the way they share the model may change.

With ``background`` the tensors are copied to host memory and written by a thread while training goes on; the next
save, and the end of the run, wait for it.

Price: the bytes of weights and moments (12 per float32 parameter), written and hashed once; the new
checkpoint exists before the oldest is removed, so room for ``keep + 1``. In the background one copy of them in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.errors import DatasetError
from penstock.storage import Folder, storage_errors
from penstock.training.distributed import Ranks

if TYPE_CHECKING:
    import torch

_NAME = re.compile(r"step-(\d{8})")
_MANIFEST = "manifest.json"
_ROWS = "penstock.rows"  # entry of a file's header: {tensor: [first row, rows of the whole]}


@dataclass(frozen=True)
class Piece:
    """Rows ``first`` to ``first + len(tensor)`` of a tensor of ``rows`` rows, held by one rank."""

    tensor: torch.Tensor
    first: int
    rows: int


class Tensors(Mapping[str, "torch.Tensor"]):
    """Named tensors of a checkpoint, read from its files when they are asked for, on CPU."""

    def __init__(self, paths: list[Path]) -> None:
        from safetensors import safe_open

        self._files = [safe_open(path, framework="pt") for path in paths]
        self._pieces: dict[str, list[tuple[int, int, int]]] = {}  # file, first row, rows of the whole (-1: all there)
        for number, file in enumerate(self._files):
            split = json.loads((file.metadata() or {}).get(_ROWS, "{}"))
            for name in file.keys():  # noqa: SIM118 - no mapping
                first, rows = split.get(name, (0, -1))
                self._pieces.setdefault(name, []).append((number, first, rows))

    def __getitem__(self, name: str) -> torch.Tensor:
        (number, _, rows), *others = self._pieces[name]
        if rows < 0:
            assert not others, f"{name} is whole in one file and in another as well"
            whole: torch.Tensor = self._files[number].get_tensor(name)
            return whole
        return self.rows(name, 0, rows)

    def rows(self, name: str, begin: int, end: int) -> torch.Tensor:
        """Rows ``begin`` to ``end`` of a tensor of one dimension or more, reading no others."""
        import torch

        found = []
        reached = begin
        for number, first, _ in sorted(self._pieces[name], key=lambda piece: piece[1]):
            view = self._files[number].get_slice(name)
            low, high = max(reached, first), min(end, first + view.get_shape()[0])
            if low < high and low == reached:
                found.append(view[low - first : high - first])
                reached = high
        if reached < end:
            raise DatasetError(f"checkpoint: rows {reached} to {end} of {name} are in no file; resume from another one")
        if not found:
            number, first, _ = self._pieces[name][0]
            return self._files[number].get_slice(name)[0:0]  # type: ignore[no-any-return]
        return found[0] if len(found) == 1 else torch.cat(found)

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk; its tensors are read when they are asked for."""

    path: Path
    step: int
    model: Tensors
    training: Tensors
    state: dict[str, Any]


class CheckpointWriter:
    """Saves the checkpoints of one run, all ranks together."""

    def __init__(self, folder: Path, *, keep: int, ranks: Ranks | None = None, background: bool = False) -> None:
        """
        Args:
            folder: of the checkpoints, shared by all ranks.
            keep: newest ones that stay.
            background: write in a thread.
        """
        self.folder, self.keep, self.ranks, self.background = folder, keep, ranks or Ranks(), background
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(
        self,
        step: int,
        *,
        model: Mapping[str, torch.Tensor | Piece],
        training: Mapping[str, torch.Tensor | Piece],
        state: Mapping[str, Any],
    ) -> None:
        """Write the checkpoint of ``step`` and remove all but the newest ``keep``; every rank calls it.

        Args:
            model, training: this rank's tensors, which share no memory, and rows of split ones. With several ranks a
                name is whole on exactly one of them.
            state: JSON values, the same on all ranks; floats survive exactly. The first rank's is written.

        Raises:
            StorageError: the disk is full or read-only; also for the save before when that was in the background.
        """
        self.wait()
        if not self.background:
            self._write(step, model, training, state)
            return
        copies = [_copied(tensors) for tensors in (model, training)]
        frozen = json.loads(json.dumps(state))
        self._thread = threading.Thread(target=self._run, args=(step, *copies, frozen), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is being written; raises what went wrong in the background."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """Let a save that is under way end, whatever comes of it: for when the run has failed already."""
        if self._thread is not None:
            self._thread.join()

    def _run(self, *arguments: Any) -> None:
        try:
            self._write(*arguments)
        except BaseException as error:  # noqa: BLE001 - raised again by wait, in the thread that trains
            self._error = error

    def _write(self, step: int, model: Any, training: Any, state: Mapping[str, Any]) -> None:
        target = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".tmp-{target.name}"
        ranks, part = self.ranks, ""
        with storage_errors(str(target)):
            if ranks.first:
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
            if not ranks.alone:
                part = f"-{ranks.rank + 1:05d}-of-{ranks.world_size:05d}"
                ranks.gather_text("", files=True)  # the folder is there
            mine = [temporary / f"model{part}.safetensors", temporary / f"training{part}.safetensors"]
            for path, tensors in zip(mine, (model, training), strict=True):
                _write_tensors(path, tensors)
            inside = Folder(str(temporary))
            if ranks.first:
                inside.write_json("state.json", dict(state))
                mine.append(temporary / "state.json")
            files = {}
            for path in sorted(mine):
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                    files[path.name] = {
                        "bytes": path.stat().st_size,
                        "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
                    }
            for text in ranks.gather_text(json.dumps(files), files=True):
                files |= json.loads(text)
            if ranks.first:
                inside.write_json(_MANIFEST, {"step": step, "files": dict(sorted(files.items()))})
                if target.exists():
                    _remove(target)
                temporary.rename(target)
                _sync_folder(self.folder)
        if ranks.first:
            for old in complete(self.folder)[: -self.keep]:
                _remove(old)
        if not ranks.alone:
            ranks.gather_text("", files=True)  # it is committed


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


def latest_digest(folder: Path) -> str:
    """SHA-256 of the manifest of the newest checkpoint, which holds those of its files.

    Raises:
        DatasetError: there is none.
    """
    found = complete(folder)
    if not found:
        raise DatasetError(f"{folder}: no checkpoint to go on from; give the folder of a finished run's checkpoints")
    return _sha256(found[-1] / _MANIFEST)


def load_latest(folder: Path, *, ranks: Ranks | None = None) -> Checkpoint | None:
    """The newest checkpoint, or None when there is none.

    Args:
        ranks: each verifies its share of the files.

    Raises:
        DatasetError: a file differs from its manifest.
    """
    found = complete(folder)
    if not found:
        return None
    path, ranks = found[-1], ranks or Ranks()
    step, files = _read_manifest(path)
    for name, (size, sha256) in list(files.items())[ranks.rank :: ranks.world_size]:
        file = path / name
        if not file.exists() or file.stat().st_size != size or _sha256(file) != sha256:
            raise DatasetError(
                f"{file} is not what its manifest says ({size} bytes, sha256 {sha256[:12]}…); "
                f"remove {path} to resume from the checkpoint before it"
            )
    return Checkpoint(
        path=path,
        step=step,
        model=Tensors([path / name for name in files if name.startswith("model")]),
        training=Tensors([path / name for name in files if name.startswith("training")]),
        state=json.loads((path / "state.json").read_text()),
    )


def _read_manifest(path: Path) -> tuple[int, dict[str, tuple[int, str]]]:
    """Step of a checkpoint, and bytes and sha256 of its files by name.

    Raises:
        DatasetError: the manifest is damaged.
    """
    try:
        manifest = Folder(str(path)).read_json(_MANIFEST)
        files = {name: (int(said["bytes"]), str(said["sha256"])) for name, said in manifest["files"].items()}
        step = int(manifest["step"])
        kinds = {re.split(r"[-.]", name)[0] for name in files}
        if path.name != f"step-{step:08d}" or kinds != {"model", "training", "state"} or any("/" in n for n in files):
            raise ValueError(f"it names step {step} and {', '.join(files)}")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DatasetError(
            f"{path / _MANIFEST}: damaged ({error}); remove {path} to resume from the checkpoint before it"
        ) from error
    return step, files


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor | Piece]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: _tensor(value).detach().cpu().contiguous() for name, value in tensors.items()}
    split = {name: [value.first, value.rows] for name, value in tensors.items() if isinstance(value, Piece)}
    try:
        save_file(plain, path, metadata={_ROWS: json.dumps(split)} if split else None)
    except SafetensorError as error:
        # its input and output errors come without an errno; the text names the cause
        raise OSError(str(error)) from error


def _tensor(value: torch.Tensor | Piece) -> torch.Tensor:
    return value.tensor if isinstance(value, Piece) else value


def _copied(tensors: Mapping[str, torch.Tensor | Piece]) -> dict[str, torch.Tensor | Piece]:
    """The same values in host memory of their own."""
    out: dict[str, torch.Tensor | Piece] = {}
    for name, value in tensors.items():
        copy = _tensor(value).detach().to("cpu", copy=True)
        out[name] = Piece(copy, value.first, value.rows) if isinstance(value, Piece) else copy
    return out


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
