"""A causal language model and its tokenizer from a local folder, and texts as batches that it can read.

    model, tokenizer = load_causal_lm("runs/quickstart/model-1")
    packed = pack_texts(texts, tokenizer, max_tokens=512)
    for batch in packed.batches(8192):
        logits = model(input_ids=torch.from_numpy(batch.tokens)).logits     # (n, L, V)

**Batches are texts of about equal length, filled up on the right, without an attention mask.** A causal model reads
from left to right, so what stands on the right of a token cannot change its logits: whichever way the family knows of
positions (rotary, learned, ALiBi, a recurrent state), a text has the logits it would have alone. Several texts in one
row would need the family to obey a block mask and restarted positions, which recurrent models and some attention
kernels do not. Texts are sorted by length first, so little is filled up (``Packed.padding`` says how much), and without
a mask the kernels take their faster causal path. That a model is causal is tried out when it is loaded.

Price: loading reads the weights once and runs the model three times on eight tokens; packing keeps 4 bytes a token.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, DatasetError, MissingExtraError
from penstock.sources.base import InputFile

WHAT = "model"  # how messages name the setting
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
)
# texts of one batch are at least so near in length to its longest, unless it holds less than 1 / _SMALL of its tokens
_NEAR, _SMALL = 0.75, 8
# a text is cut to so many characters a token before it is encoded; a token of more is rare, and checked for
_CHARACTERS_A_TOKEN = 16


def resolve(path: str | Path) -> Path:
    """The folder of a model: itself, that of a training step, or that of the last model of a run.

    Raises:
        ConfigError: there is none, and what was looked for.
    """
    given = Path(path)
    if (given / "config.json").is_file():
        return given.absolute()
    steps = [given, *sorted(given.glob("model-*"), key=_number, reverse=True)]
    for step in steps:
        try:
            artifacts = json.loads((step / "manifest.json").read_text("utf-8"))["artifacts"]
            config = step / str(artifacts["model/config.json"]["path"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return config.parent.absolute()
    raise ConfigError(
        f"{WHAT}: got {path}, where no config.json and no trained model of a run is; give a local folder of a Hugging "
        "Face causal language model with safetensors weights, or a run of penstock with a model"
    )


def _number(folder: Path) -> tuple[int, str]:
    """Rounds in order; a model beside the first round's comes before it."""
    tail = folder.name.removeprefix("model-")
    return (int(tail), "") if tail.isdigit() else (0, tail)


def load_causal_lm(path: str | Path, device: str = "auto", *, dtype: str = "float32") -> tuple[Any, Any]:
    """The transformers model, ready to evaluate, and its tokenizer; no code of the folder runs, nothing is fetched.

    Args:
        path: a local folder of a causal LM with safetensors weights and a tokenizer, or one of a run (``resolve``).
        device: ``cpu``, ``cuda`` or another of torch's; ``auto`` is CUDA where there is one.
        dtype: type of the weights, ``float32`` or ``bfloat16``.

    Raises:
        ConfigError: it is no causal LM, has no tokenizer, or one with more tokens than the model's vocabulary; the
            device does not exist.
        MissingExtraError: torch or transformers is not installed.
    """
    folder = resolve(path)
    if dtype not in ("float32", "bfloat16"):
        raise ConfigError(
            f"dtype: got {dtype!r}, allowed float32 or bfloat16; float32 is exact, bfloat16 half as large"
        )
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers fork after the first text
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtraError.of("torch or transformers", "train") from error
    from penstock.training.model import load_local

    tokenizer = load_tokenizer(folder)
    model = load_local(str(folder), what=WHAT, dtype=dtype, attention=None)
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    if largest_id(tokenizer) >= vocabulary:
        raise ConfigError(
            f"{WHAT}: {path} has a tokenizer of {largest_id(tokenizer) + 1} ids and a model of {vocabulary}; "
            "take the tokenizer that the model was trained with"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = model.to(device).eval()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device: got {device!r}, which torch cannot use ({reason}); give cpu or auto") from error
    model.requires_grad_(False)
    if not _is_causal(model):
        raise ConfigError(
            f"{WHAT}: {path} is {type(model).__name__} that reads tokens on the right of the one it predicts from, so "
            "no causal LM; give one that reads from left to right"
        )
    return model, tokenizer


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model's folder. Raises ConfigError when there is none."""
    from transformers import AutoTokenizer

    load: Any = AutoTokenizer.from_pretrained
    try:
        if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
            raise OSError("none of its files is there")
        # some families would read their own pre-tokenizer off a list on the Hub
        return load(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises Exception itself for a damaged file
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"{WHAT}: {folder} has no tokenizer that can be loaded ({reason}); save the tokenizer into the folder"
        ) from error


def largest_id(tokenizer: Any) -> int:
    return max(tokenizer.get_vocab().values(), default=-1)


def _is_causal(model: Any) -> bool:
    """Whether another token at the end leaves the logits before it as they were."""
    import torch

    tokens = torch.arange(1, 9, device=model.device)[None] % model.get_input_embeddings().weight.shape[0]
    changed = tokens.clone()
    changed[0, -1] = 0
    with torch.inference_mode():
        one, other = (model(input_ids=given, use_cache=False).logits[0, :-1].float() for given in (tokens, changed))
    # both runs have one shape, so what differs is what was read; experts may sum in another order
    noise = max(1e-5, 8 * torch.finfo(model.dtype).eps) * float(one.abs().max())
    return bool(torch.allclose(one, other, rtol=0.0, atol=noise))


def context_limit(model: Any) -> int | None:
    """Tokens the model can read at once; None where its family has no limit."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else None


# ── identity ─────────────────────────────────────────────────────────────────────────────────────


def model_files(path: str | Path) -> list[Path]:
    """Files that decide what the model computes and which ids a text has, sorted."""
    folder = resolve(path)
    names = {"config.json", *_TOKENIZER_FILES}
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]
    return sorted([*(folder / name for name in names if (folder / name).is_file()), *weights])


def input_files(path: str | Path) -> list[InputFile]:
    """The model's files as inputs of a step. Raises ConfigError when there is no model."""
    return [InputFile.local(file) for file in model_files(path)]


def fingerprint(path: str | Path) -> str:
    """sha256 over names and bytes of the model's files (``model_files``).

    Raises:
        ConfigError: there is no model.
    """
    state = hashlib.sha256()
    for file in model_files(path):
        with open(file, "rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        state.update(f"{file.name}:{digest}\n".encode())
    return state.hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """sha256 of what a tokenizer does to texts, whichever files it came from; counts of ids hold for no other."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules: Any = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    else:
        rules = json.loads(backend.to_str())
        for running in ("truncation", "padding"):  # set by calls
            rules.pop(running, None)
    text = json.dumps({"rules": rules, "prefix": prefix_ids(tokenizer)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.lru_cache(maxsize=1)
def loaded(path: str, digest: str, device: str, dtype: str) -> tuple[Any, Any]:
    """``load_causal_lm`` once a process, of the files that ``digest`` names.

    Raises:
        DatasetError: they changed since.
    """
    found = fingerprint(path)
    if found != digest:
        raise DatasetError(
            f"{path}: got a model of fingerprint {found[:12]}…, expected {digest[:12]}…; its files changed since the "
            "run began, so run again"
        )
    return load_causal_lm(path, device, dtype=dtype)


# ── texts ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class TokenBatch:
    """n texts of about equal length, filled up on the right."""

    rows: NDArray[np.int64]  # (n,) places among the packed texts
    tokens: NDArray[np.int64]  # (n, L)
    lengths: NDArray[np.int64]  # (n,) tokens of each, the prefix with them

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """Tokens that have a token of their text on their left: (n, L - 1), of ``tokens[:, 1:]``."""
        mask: NDArray[np.bool_] = np.arange(1, self.tokens.shape[1])[None] < self.lengths[:, None]
        return mask


@dataclass(frozen=True)
class Packed:
    """Texts as token ids.

    Attributes:
        ids: of each text, int32, the prefix first; empty for a text without a token.
        prefix: ids that the tokenizer puts before a text (a BOS, or none); read, never predicted.
        truncated: whether a text had more than ``max_tokens`` tokens: (n,).
        filler: id that fills up.
    """

    ids: tuple[NDArray[np.int32], ...]
    prefix: tuple[int, ...]
    truncated: NDArray[np.bool_]
    filler: int

    @property
    def n_tokens(self) -> NDArray[np.int64]:
        """Tokens kept of each text, the prefix not counted: (n,)."""
        return np.array([max(len(ids) - len(self.prefix), 0) for ids in self.ids], dtype=np.int64)

    def batches(self, batch_tokens: int) -> Iterator[TokenBatch]:
        """All texts that have tokens, the longest first.

        A batch holds at most ``batch_tokens`` tokens, what fills up with them; a longer text is a batch of its own. It
        ends before a text of less than three quarters of its longest, unless it is small.
        """
        if batch_tokens < 1:
            raise ConfigError(f"batch_tokens: got {batch_tokens}, allowed >= 1; 2048 suits a processor")
        lengths = np.array([len(ids) for ids in self.ids], dtype=np.int64)
        order = np.lexsort((np.arange(len(lengths)), -lengths))
        order = order[lengths[order] > 0]
        begin = 0
        while begin < len(order):
            longest = int(lengths[order[begin]])
            rows = order[begin : begin + max(1, batch_tokens // longest)]
            near = int((lengths[rows] >= longest * _NEAR).sum())
            rows = rows[: max(near, batch_tokens // _SMALL // longest, 1)]
            tokens = np.full((len(rows), longest), self.filler, dtype=np.int64)
            for place, row in enumerate(rows):
                tokens[place, : lengths[row]] = self.ids[row]
            yield TokenBatch(rows, tokens, lengths[rows])
            begin += len(rows)

    def padding(self, batch_tokens: int) -> tuple[int, int]:
        """Tokens filled up and tokens in all, over the batches."""
        filled = total = 0
        for batch in self.batches(batch_tokens):
            total += batch.tokens.size
            filled += batch.tokens.size - int(batch.lengths.sum())
        return filled, total


def prefix_ids(tokenizer: Any) -> list[int]:
    """Ids that the tokenizer puts before every text by default: a BOS for families that learned with one."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a", add_special_tokens=True)["input_ids"]
    for begin in range(len(whole) - len(plain) + 1):
        if whole[begin : begin + len(plain)] == plain:
            return [int(token) for token in whole[:begin]]
    return []


def pack_texts(texts: Sequence[str], tokenizer: Any, max_tokens: int) -> Packed:
    """The first ``max_tokens`` tokens of each text, after the tokenizer's own prefix.

    Text that spells a special token is read as text (by tokenizers of the ``tokenizers`` library). Nothing is put
    behind a text: a score would count it.

    Args:
        texts: any; an empty one has no tokens.
        tokenizer: of ``load_causal_lm``.
        max_tokens: allowed >= 2, the prefix not counted; check it against ``context_limit``.

    Raises:
        ConfigError: ``max_tokens`` is below 2.
    """
    if max_tokens < 2:
        raise ConfigError(f"max_tokens: got {max_tokens}, allowed >= 2, as a first token has no loss; 512 is usual")
    prefix = prefix_ids(tokenizer)
    ids, truncated = [], np.zeros(len(texts), dtype=bool)
    for row, found in enumerate(_encode(texts, tokenizer, max_tokens)):
        truncated[row] = len(found) > max_tokens
        whole = [*prefix, *found[:max_tokens]] if found else []
        ids.append(np.array(whole, dtype=np.int32))
    filler = tokenizer.pad_token_id
    if filler is None:
        filler = tokenizer.eos_token_id or 0
    return Packed(tuple(ids), tuple(prefix), truncated, int(filler))


def _encode(texts: Sequence[str], tokenizer: Any, max_tokens: int) -> list[list[int]]:
    """Ids of each text; of a long one only so many that its first ``max_tokens`` are sure to be among them."""
    # a book is not encoded for its first page; the cut may split a word, so ids near it are not trusted
    room = max_tokens * _CHARACTERS_A_TOKEN
    heads = [text[:room] for text in texts]
    out = _ids(tokenizer, heads)
    margin = max_tokens // 4 + 8
    short = [i for i, text in enumerate(texts) if len(text) > room and len(out[i]) < max_tokens + margin]
    if short:
        for i, found in zip(short, _ids(tokenizer, [texts[i] for i in short]), strict=True):
            out[i] = found
    return out


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        found: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return found
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # of this object alone: a file does not store it
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
