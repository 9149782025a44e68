"""Embeddings of a sentence-transformers folder on disk, run by that library.

Only safetensors are loaded, no code of the folder's own runs, and no network is asked. The folder's digest, over the
bytes of all its files, is checked once a process.

A forward pass rounds differently in batches of another make-up, by about 1e-7; float16 hides nearly all of it, but
digests of embeddings made this way may differ between split sizes. The static model has no such freedom.

Price: all-MiniLM-L6-v2 on one thread, 180 texts/s of 35 characters and 10/s of 1,024; 0.9 GB a process.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from penstock.embedding.base import Vectors, normalised
from penstock.errors import ConfigError, DatasetError, InputError, MissingExtraError

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".h5", ".msgpack")


@dataclass(frozen=True, kw_only=True)
class SentenceFolder:
    """Embedder: a sentence-transformers model.

    Attributes:
        path, digest: the folder and ``folder_digest`` of it.
        dimensions: of its vectors.
        device: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is one.
        batch_size: texts in one forward pass.
    """

    path: str
    digest: str
    dimensions: int
    device: str = "cpu"
    batch_size: int = 64

    revision: ClassVar[int] = 1

    def setup(self) -> None:
        load(self.path, self.digest, self.device)

    def embed(self, texts: list[str]) -> Vectors:
        """Unit vectors of texts: float32, shape (n, dimensions)."""
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        model = load(self.path, self.digest, self.device)
        found = model.encode(texts, batch_size=self.batch_size, convert_to_numpy=True, show_progress_bar=False)
        return normalised(found)


def folder_files(path: str) -> list[Path]:
    """The model's files, sorted; hidden files and notes are not part of it.

    Raises:
        InputError: it is no folder of a sentence transformer.
        ConfigError: its weights are pickled, or it names code of its own.
    """
    folder = Path(path)
    if not (folder / "modules.json").is_file():
        raise InputError(
            f"{path}: no modules.json there, so no sentence-transformers folder; give the folder that save_pretrained "
            "wrote, or one of model2vec"
        )
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    weights = {file.parent for file in files if file.suffix == ".safetensors"}
    for file in files:
        if file.suffix in _PICKLED and file.parent not in weights:
            raise ConfigError(
                f"{file}: got weights that are not safetensors, allowed safetensors alone, as loading a pickle runs "
                "code; save the model again with safe_serialization=True"
            )
    _check_modules(folder / "modules.json")
    return [file for file in files if file.suffix not in _PICKLED and file.suffix != ".md"]


def _check_modules(file: Path) -> None:
    try:
        kinds = [str(module["type"]) for module in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{file}: not a list of modules ({error}); save the model again") from error
    for kind in kinds:
        if not kind.startswith("sentence_transformers."):
            raise ConfigError(
                f"{file}: got module {kind!r}, allowed those of sentence_transformers, as others run code "
                "of their own; take another model"
            )


def folder_digest(path: str) -> str:
    """sha256 over names and bytes of the model's files."""
    state = hashlib.sha256()
    for file in folder_files(path):
        digest = hashlib.sha256()
        with open(file, "rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
        state.update(f"{file.relative_to(path).as_posix()}:{digest.hexdigest()}\n".encode())
    return state.hexdigest()


@functools.cache
def load(path: str, digest: str, device: str) -> Any:
    """The model, once a process.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
        DatasetError: the folder is not the one that the digest names.
        InputError: the library cannot load it.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        raise MissingExtraError.of("sentence-transformers", "embed")
    found = folder_digest(path)
    if found != digest:
        raise DatasetError(
            f"{path}: got a folder of digest {found[:12]}…, expected {digest[:12]}…; it changed since the run "
            "began, so run again"
        )
    # nothing may be fetched, not even a version check
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = SentenceTransformer(
            path,
            device=device,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise InputError(f"{path}: sentence-transformers cannot load it on {device} ({error})") from error
    return model.eval()


def dimensions_of(model: Any) -> int:
    """Width of a loaded model's vectors, found by running it."""
    return int(np.asarray(model.encode(["a"], show_progress_bar=False)).shape[1])
