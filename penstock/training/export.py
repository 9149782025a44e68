"""The trained model as a folder that transformers loads, and what tells one run from another."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.errors import DatasetError, InputError
from penstock.storage import storage_errors
from penstock.training import checkpoint
from penstock.training.config import RUNNING, TrainConfig, TrainData
from penstock.training.model import without_progress_bars
from penstock.training.sequences import SequenceStore


def export_model(model: Any, data: TrainData, folder: Path) -> Path:
    """Write ``folder/model``: safetensors, configuration and tokenizer; whole or not there.

    ``AutoModelForCausalLM`` and ``AutoTokenizer`` load it from the folder alone.
    """
    target, temporary = folder / "model", folder / ".tmp-model"
    with storage_errors(str(target)):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        with without_progress_bars():
            model.save_pretrained(temporary)
        if data.tokenizer_file is not None:
            _write_tokenizer(temporary, data, context=int(model.config.max_position_embeddings))
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    return target


def _write_tokenizer(folder: Path, data: TrainData, *, context: int) -> None:
    from tokenizers import Tokenizer

    assert data.tokenizer_file is not None
    source = Path(data.tokenizer_file)
    shutil.copyfile(source, folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(source))
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": context}
    for name, token in (("eos_token", data.eos_id), ("pad_token", data.pad_id)):
        if token is not None:
            text = tokenizer.id_to_token(token)
            if text is None:
                raise InputError(f"{source}: no token has the id {token} given as {name}; give the id it has")
            config[name] = text
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", "utf-8")


def run_identity(
    config: TrainConfig, data: TrainData, store: SequenceStore, held_out: SequenceStore | None
) -> dict[str, Any]:
    """Everything that decides what a run computes, as flat JSON values by name."""
    tokenizer = None
    if data.tokenizer_file is not None:
        try:
            tokenizer = hashlib.sha256(Path(data.tokenizer_file).read_bytes()).hexdigest()
        except OSError as error:
            raise InputError(f"{data.tokenizer_file}: cannot be read ({error}); give the tokenizer.json") from error
    values = {name: value for name, value in dataclasses.asdict(config).items() if name not in RUNNING}
    if data.before is not None:
        values["before"] = checkpoint.latest_digest(Path(data.before))
    for part in ("model", "policy", "weighting"):
        values |= {f"{part}.{name}": value for name, value in (values.pop(part) or {}).items()}
    values |= {
        "data": data.fingerprint,
        "vocab_size": data.vocab_size,
        "pad_id": data.pad_id,
        "eos_id": data.eos_id,
        "tokenizer": tokenizer,
        "sequence_length": store.length,
        "train_rows": dict(zip(store.domains, store.rows, strict=True)),
        "validation_rows": dict(zip(held_out.domains, held_out.rows, strict=True)) if held_out else {},
    }
    return dict(json.loads(json.dumps(values)))


# what two runs must have in common for one to go on from the other's weights, moments and steps
_CARRIED = ("batch_size", "vocab_size", "pad_id", "eos_id", "tokenizer", "sequence_length")


def check_follows(path: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on from the checkpoint at ``path`` with another model or tokenizer; DatasetError names which."""
    names = [*_CARRIED, *(name for name in {**saved, **now} if name.startswith(("model.", "weighting.")))]
    different = [name for name in names if saved.get(name) != now.get(name)]
    if different:
        text = "; ".join(f"{name} {saved.get(name)!r} there, {now.get(name)!r} now" for name in different)
        raise DatasetError(f"{path}: this run cannot go on from it: {text}. Leave these as they were, or start anew")


def check_identity(path: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse the checkpoint at ``path`` when it is of another run; DatasetError names what differs."""
    different = [name for name in {**saved, **now} if saved.get(name) != now.get(name)]
    if different:
        text = "; ".join(f"{name} {saved.get(name)!r} there, {now.get(name)!r} now" for name in different)
        raise DatasetError(f"{path} belongs to another run: {text}. Give another output folder, or remove this one")
