"""Static embeddings (model2vec): a text is the mean of vectors of its tokens, looked up in one table.

The table comes from a sentence transformer that was run once over its own vocabulary (``distil.py``), reduced by
PCA and weighted by SIF; github.com/MinishLab/model2vec. There is no network to run per text, so tokenising is the cost.
Where a tokenizer never looks past a blank (BERT's does not), each different word of a batch is tokenised once.

The artifact (``selectors.artifact``) holds the table, float16 (tokens, d), and the ``tokenizer.json`` as bytes. Text
that spells a special token, such as ``[PAD]``, is ordinary characters; unknown tokens do not count.

Price, on one thread of a 2-core cloud machine: 35,000 texts/s of 46 characters, 2,400/s of 1,024; the table is 30 MB a
process at 29,525 tokens and 256 dimensions (see ``benchmarks/embedding.py``).
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from penstock.embedding.base import Vectors
from penstock.errors import ConfigError, DatasetError, InputError
from penstock.selectors import artifact

_BATCH_CHARACTERS = 1 << 21  # tokenised in one call: some 100 bytes a word are held
# what of a tokenizer makes the tokens of a text those of its words, one after the other
_WORD_BY_WORD = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
_LETTER_BY_LETTER = {"BertNormalizer", "Lowercase"}


@dataclass(frozen=True, kw_only=True)
class StaticVectors:
    """Embedder: looks tokens up in a table of vectors.

    Attributes:
        path, digest: the artifact, as ``save_static`` returned them.
        dimensions: of the vectors.
    """

    path: str
    digest: str
    dimensions: int

    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.dimensions < 1:
            raise ConfigError(f"static embedder dimensions: got {self.dimensions}, allowed >= 1; give the table's")

    def setup(self) -> None:
        _load(self.path, self.digest)

    def embed(self, texts: list[str]) -> Vectors:
        """Unit vectors of texts: float32, shape (n, dimensions).

        Raises:
            DatasetError: the artifact is gone, is not the one that was asked for, or has another width.
        """
        model = _load(self.path, self.digest)
        if model.table.shape[1] != self.dimensions:
            raise DatasetError(
                f"{self.path}: got vectors of {model.table.shape[1]} dimensions, expected {self.dimensions}; "
                "run the step that makes it again"
            )
        out = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        ends = np.cumsum([len(text) for text in texts])
        edges = np.flatnonzero(np.diff(ends // _BATCH_CHARACTERS, prepend=-1, append=-1)) if texts else ends
        for start, stop in pairwise(edges):
            model.pool(texts[start:stop], out[start:stop])
        return out


@dataclass(frozen=True)
class _Model:
    tokenizer: Any
    table: NDArray[np.float32]
    unknown: int
    by_words: bool

    def pool(self, texts: list[str], out: Vectors) -> None:
        """Write unit vectors of texts into ``out``."""
        from penstock.embedding import _pool_kernels as kernels

        if self.by_words:
            # only what every such tokenizer takes for a blank: not all that str.split() does
            split = [text.replace("\t", " ").replace("\n", " ").replace("\r", " ").split(" ") for text in texts]
            starts = _bounds(split)
            place = {word: i for i, word in enumerate(dict.fromkeys(chain.from_iterable(split)))}
            words = np.fromiter(map(place.__getitem__, chain.from_iterable(split)), np.int64, int(starts[-1]))
            texts = list(place)
        else:
            starts = np.arange(len(texts) + 1)
            words = starts[:-1]
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        bounds = _bounds(ids)
        flat = np.fromiter(chain.from_iterable(ids), np.int64, int(bounds[-1]))
        kernels.mean_pool(words, starts, flat, bounds, self.table, self.unknown, out)


def _bounds(lists: list[Any]) -> NDArray[np.int64]:
    """Where each list would begin if all stood in one row, and where the last ends: (n + 1,)."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.fromiter(map(len, lists), np.int64, len(lists)))])


def save_static(folder: str, table: NDArray[Any], tokenizer: bytes, facts: dict[str, Any]) -> tuple[str, str]:
    """Write a table (tokens, d) and its ``tokenizer.json`` as an artifact; (path, digest).

    Raises:
        InputError: the table is no matrix of finite numbers with a row for each token of the tokenizer.
    """
    with np.errstate(over="ignore"):
        table = np.ascontiguousarray(table, dtype=np.float16)
    reader = _tokenizer(tokenizer, "tokenizer.json")
    tokens = max(reader.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    if table.ndim != 2 or table.shape[0] < tokens or table.shape[1] < 1 or not np.isfinite(table).all():
        raise InputError(
            f"static model: got a table of shape {table.shape} for {tokens} tokens, allowed numbers that float16 "
            "holds, one row a token; take the folder of a model2vec model"
        )
    arrays = {
        "vectors": table,
        "tokenizer": np.frombuffer(tokenizer, dtype=np.uint8),
    }
    return artifact.save(folder, "static", arrays, facts | {"tokens": tokens, "dimensions": int(table.shape[1])})


@functools.cache
def _load(path: str, digest: str) -> _Model:
    model = artifact.load(path, digest)
    tokenizer = _tokenizer(model.arrays["tokenizer"].tobytes(), path)
    unknown = _unknown(tokenizer)
    table = model.arrays["vectors"].astype(np.float32)
    return _Model(tokenizer, table, -1 if unknown is None else unknown, _word_by_word(json.loads(tokenizer.to_str())))


def _word_by_word(state: dict[str, Any]) -> bool:
    """Whether the tokens of a text are those of its words: blanks are always cut at, and nothing looks across them."""
    normalizer, splitter = state.get("normalizer"), state.get("pre_tokenizer")
    return (
        (normalizer is None or normalizer["type"] in _LETTER_BY_LETTER)
        and splitter is not None
        and splitter["type"] in _WORD_BY_WORD
        and all(token["special"] for token in state.get("added_tokens") or ())
    )


def _tokenizer(data: bytes, where: str) -> Any:
    # passes run one process a core, so threads inside a worker would only fight; the variable is read on every call
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_buffer(data)
    except Exception as error:  # tokenizers raises nothing narrower
        raise InputError(f"{where}: not a tokenizer.json ({error}); take one of the tokenizers library") from error
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _unknown(tokenizer: Any) -> int | None:
    """Id of the token that stands for what the vocabulary lacks; it says nothing about a text."""
    model = json.loads(tokenizer.to_str())["model"]
    if isinstance(model.get("unk_id"), int):  # Unigram
        return int(model["unk_id"])
    found: int | None = tokenizer.token_to_id(model["unk_token"]) if model.get("unk_token") else None
    return found
