"""Add merges learned from new text to a byte-level BPE tokenizer that exists; the ids of its tokens stay.

Text is split as the tokenizer itself splits it, its own merges are applied, and ``merges`` goes on from there. New
tokens get the ids after the largest one, added tokens included, so an embedding table grows at its end. Going on with
the text that a tokenizer was trained on gives what training longer would have given. Every new merge comes after all
old ones, so new tokens only join old ones.

Byte-level BPE is asked for (GPT-2, Llama 3, Qwen, ours): a tokenizer whose tokens are characters has no place for the
bytes of new text.

Price: that of ``bpe`` for a tokenizer of it; for any other 1 to 3 MB/s to split text by its own rules.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.errors import ConfigError, DatasetError, InputError
from penstock.tokenization.bpe import Stretches, digits_of, spelled, vocabulary_size
from penstock.tokenization.digits import compact, pre_tokenizer_steps
from penstock.tokenization.merges import Pairs, Permit
from penstock.tokenization.pieces import Pieces, byte_letters, count_pieces, count_pieces_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExtendConfig:
    """How far to extend.

    Attributes:
        vocabulary_size: ids there are afterwards, all of the old tokenizer included.
        min_frequency: a pair is merged only if the text holds it this many times.
        permit: asked with the bytes of both tokens before each new merge; what it refuses is not made. None: all.
    """

    vocabulary_size: int
    min_frequency: int = 2
    permit: Permit | None = None

    def __post_init__(self) -> None:
        if self.min_frequency < 1:
            raise ConfigError(f"min_frequency: got {self.min_frequency}, allowed >= 1; 2 is usual")


def extend(tokenizer_json: bytes, texts: Iterable[str], config: ExtendConfig) -> bytes:
    """The tokenizer with more merges, as the content of a ``tokenizer.json``.

    Text that spells an added token of the tokenizer is cut there, so no merge is spent on its letters. Text too small
    for the size asked gives a smaller vocabulary, which is logged.

    Raises:
        ConfigError: the vocabulary is that large already.
        InputError: it is not a byte-level BPE tokenizer, or distinct pieces take 2 GiB or more.
        DatasetError: there is no text at all.
    """
    base = ByteLevelBPE(tokenizer_json)
    sample = Stretches(texts, base.added)
    return base.extended(base.count(sample), sample.documents, config)


class ByteLevelBPE:
    """A byte-level BPE ``tokenizer.json`` taken apart.

    Attributes:
        state: its parsed content.
        added: contents of its added tokens.
    """

    def __init__(self, tokenizer_json: bytes) -> None:
        self.content = tokenizer_json
        self.state: dict[str, Any] = json.loads(tokenizer_json)
        self._model = self.state["model"]
        self._check()
        self.added = {token["content"] for token in self.state.get("added_tokens") or ()}
        self._vocabulary: dict[str, int] = self._model["vocab"]
        self.size = vocabulary_size(tokenizer_json)

    def _check(self) -> None:
        model = self._model
        vocabulary = model.get("vocab")
        kind = model.get("type") or ("BPE" if "merges" in model else "unknown")
        byte_level = any(step["type"] == "ByteLevel" for step in pre_tokenizer_steps(self.state))
        affixes = [name for name in ("continuing_subword_prefix", "end_of_word_suffix") if model.get(name)]
        if kind != "BPE" or not byte_level or affixes:
            raise InputError(
                f"tokenizer: got a {kind} model {'with ' + affixes[0] if affixes else ''}"
                f"{'with' if byte_level else 'without'} a ByteLevel pre-tokenizer, allowed byte-level BPE "
                "such as those of GPT-2, Llama 3, Qwen or train_bpe"
            )
        missing = [byte for byte, letter in enumerate(byte_letters()) if letter not in vocabulary]
        if missing:
            raise InputError(
                f"tokenizer: got a vocabulary without {len(missing)} of the 256 bytes (the first is {missing[0]}), "
                "allowed one with all of them; text that holds the others could not be encoded"
            )

    def count(self, texts: Iterable[str]) -> Pieces:
        """Distinct pieces of texts, split as this tokenizer does."""
        from tokenizers import Tokenizer

        digits = digits_of(self.state.get("pre_tokenizer"))
        if digits is not None and self.state.get("normalizer") is None:
            return count_pieces(texts, from_right=digits == "right_to_left")
        return count_pieces_of(Tokenizer.from_buffer(self.content), texts)

    def extended(self, pieces: Pieces, documents: int, config: ExtendConfig) -> bytes:
        """The content with the merges that ``pieces`` give after the old ones."""
        if config.vocabulary_size <= self.size:
            raise ConfigError(
                f"vocabulary_size: got {config.vocabulary_size}, allowed more than the {self.size} ids that the "
                "tokenizer has"
            )
        if pieces.size == 0:
            raise DatasetError(
                f"tokenizer sample: got {documents} documents with no text, at least one byte is needed; bring text "
                "of what the tokenizer shall learn"
            )
        pieces = self._without_whole(pieces)
        tokens = self._tokens()
        alphabet = np.array([self._vocabulary[letter] for letter in byte_letters()], np.int32)
        pairs = Pairs(alphabet[pieces.data], pieces.offsets, tokens, weights=pieces.counts)
        pairs.replay(self._merges())
        merged = pairs.merge(max_tokens=config.vocabulary_size, minimum=config.min_frequency, permit=config.permit)
        made = [spelled(token) for token in pairs.tokens[self.size :]]
        if self.size + len(made) < config.vocabulary_size:
            logger.warning(
                "tokenizer: %d ids, fewer than the %d asked for: the %d documents (%d bytes) have no more pairs that "
                "occur %d times; bring more text or ask for less",
                self.size + len(made),
                config.vocabulary_size,
                documents,
                pieces.size,
                config.min_frequency,
            )
        return self._written(made, merged.pairs)

    def _tokens(self) -> list[bytes | None]:
        """Bytes of every id; None for gaps and for tokens that are not spelled in bytes."""
        value = {letter: byte for byte, letter in enumerate(byte_letters())}
        out: list[bytes | None] = [None] * self.size
        for name, number in self._vocabulary.items():
            if name not in self.added and all(letter in value for letter in name):
                out[number] = bytes(value[letter] for letter in name)
        return out

    def _merges(self) -> NDArray[np.int64]:
        names = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in self._model["merges"])
        return np.array([[self._vocabulary[a], self._vocabulary[b]] for a, b in names], np.int64).reshape(-1, 2)

    def _without_whole(self, pieces: Pieces) -> Pieces:
        """Without pieces that are a token as a whole, where the tokenizer takes these before any merge."""
        if not self._model.get("ignore_merges"):
            return pieces
        whole = {token for token in self._tokens() if token}
        data = pieces.data.tobytes()
        keep = np.array([data[a:b] not in whole for a, b in pairwise(pieces.offsets.tolist())], np.bool_)
        sizes = np.diff(pieces.offsets)
        return replace(
            pieces,
            data=pieces.data[np.repeat(keep, sizes)],
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[keep])]),
            counts=pieces.counts[keep],
        )

    def _written(self, made: list[str], pairs: NDArray[np.int32]) -> bytes:
        # an added token that the vocabulary lacks would get its id from the vocabulary's size when the file is read
        for token in self.state.get("added_tokens") or ():
            self._vocabulary.setdefault(token["content"], token["id"])
        self._vocabulary.update({name: self.size + i for i, name in enumerate(made)})
        names = {number: name for name, number in self._vocabulary.items()}
        old = self._model["merges"]
        new = [[names[left], names[right]] for left, right in pairs.tolist()]
        # older files write a merge as one text
        old.extend(map(" ".join, new) if old and isinstance(old[0], str) else new)
        return compact(self.state)
