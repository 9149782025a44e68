"""Any ``tokenizer.json`` for the tools that measure and change tokenizers: its bytes, its hash, what kind it is.

Text that spells a special token is ordinary text here, nothing is put around a text, and nothing is cut or filled up.

Price: that of parsing: 0.1 s for 32k tokens, 1 s for 256k.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, DatasetError, InputError
from penstock.tokenization.bpe import vocabulary_size
from penstock.tokenization.pieces import text_batches

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE = "tokenizer.json"
_BATCH_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class Loaded:
    """A tokenizer: where it came from, its file's content, and sha256 of it."""

    path: str
    content: bytes
    sha256: str

    @cached_property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.content)
        return state

    @cached_property
    def tokenizer(self) -> Tokenizer:
        from tokenizers import Tokenizer

        return literal(Tokenizer.from_buffer(self.content))

    @property
    def kind(self) -> str:
        model = self.state["model"]
        # older files do not say it
        of_vocabulary = "Unigram" if isinstance(model["vocab"], list) else "WordPiece or WordLevel"
        return str(model.get("type") or ("BPE" if "merges" in model else of_vocabulary))

    @property
    def vocabulary(self) -> int:
        """Rows that an embedding table needs: one more than the largest id, added tokens too."""
        return vocabulary_size(self.content)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of the added tokens: no text is encoded by them here unless they are not special."""
        return frozenset(token["id"] for token in self.state.get("added_tokens") or ())

    @property
    def puts_space(self) -> bool:
        """Whether it puts a space in front of a text by itself."""
        first = self.tokenizer.encode("a", add_special_tokens=False).tokens
        return bool(first) and first[0][:1] in ("▁", "Ġ")

    @property
    def normalisation(self) -> str:
        """The normaliser by its name, or none."""
        return "+".join(one["type"] for one in _parts(self.state, "normalizer")) or "none"

    @property
    def byte_level(self) -> bool:
        """Whether every byte is written as one character before the model sees it."""
        parts = (*_parts(self.state, "normalizer"), *_parts(self.state, "pre_tokenizer"))
        return any(one["type"] == "ByteLevel" for one in parts)

    def encode(self, texts: Iterable[str]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Ids of bounded runs of texts, flat (tokens,), and how many of each text (n,)."""
        for batch in text_batches(texts, _BATCH_CHARACTERS):
            encodings = self.tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            ids = [encoding.ids for encoding in encodings]
            lengths = np.fromiter(map(len, ids), np.int64, len(ids))
            yield np.fromiter(chain.from_iterable(ids), np.int64, int(lengths.sum())), lengths

    def require_bpe(self, what: str) -> None:
        """Raise ConfigError, naming ``what``, unless the model is BPE without a prefix, suffix or dropout."""
        model = self.state["model"]
        if self.kind != "BPE":
            raise ConfigError(
                f"{what}: got a {self.kind} model in {self.path}, allowed BPE; only BPE has an ordered list of merges"
            )
        for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
            if model.get(key):
                raise ConfigError(
                    f"{what}: got a BPE model with {key} {model[key]!r} in {self.path}, allowed none; byte-level and "
                    "SentencePiece tokenizers have none"
                )

    def merges(self) -> list[tuple[str, str]]:
        """Merges in order, as pairs of tokens."""
        found = self.state["model"]["merges"]
        pairs = (one.split(" ", 1) if isinstance(one, str) else one for one in found)
        return [(left, right) for left, right in pairs]


def read_checked(path: str, sha256: str) -> tuple[bytes, Tokenizer]:
    """The content of a ``tokenizer.json``, which must be what it was, and the tokenizer.

    Args:
        path: a path or URL.
        sha256: hex digest that its bytes had when the work was planned.

    Raises:
        InputError: it cannot be read, or is no tokenizer.json.
        DatasetError: it changed since.
    """
    import fsspec
    from tokenizers import Tokenizer

    try:
        with fsspec.open(path, "rb") as file:
            content: bytes = file.read()
    except OSError as error:
        raise InputError(f"tokenizer {path}: cannot be read ({error}); check the path") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DatasetError(
            f"tokenizer {path}: got sha256 {found}, expected {sha256}; the file changed since the step was planned, so "
            "plan again or restore it"
        )
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # tokenizers raises nothing narrower
        raise InputError(f"tokenizer {path}: not a tokenizer.json ({error}); train one or export it") from error
    return content, literal(tokenizer)


def literal(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer, set to take text for text: special tokens in it are no tokens, nothing is cut or filled up."""
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def load(path: str) -> Loaded:
    """A tokenizer by its file, or a folder that has one (also that of a model).

    Raises:
        InputError: it cannot be read or is no ``tokenizer.json``.
    """
    place = Path(path)
    file = place / FILE if place.is_dir() else place
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"tokenizer {path}: cannot be read ({error}); give a {FILE} or a folder with one") from error
    return of_bytes(content, str(file))


def of_bytes(content: bytes, where: str) -> Loaded:
    """A tokenizer by the content of its file, called ``where`` in messages. Raises InputError when it is none."""
    made = Loaded(where, content, hashlib.sha256(content).hexdigest())
    try:
        _ = made.tokenizer
    except Exception as error:  # tokenizers raises nothing narrower
        raise InputError(f"tokenizer {where}: not a {FILE} ({error}); train one or export it") from error
    return made


def _parts(state: dict[str, Any], what: str) -> list[dict[str, Any]]:
    """The normalisers or pre-tokenizers, one after another."""
    found = state.get(what)
    if not found:
        return []
    inner = found.get("normalizers") or found.get("pretokenizers")
    return list(inner) if inner is not None else [found]
