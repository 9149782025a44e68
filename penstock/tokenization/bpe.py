"""Train a byte-level BPE tokenizer on a sample of documents.

BPE (Sennrich, Haddow, Birch 2016) over UTF-8 bytes (Radford et al. 2019): text is split into short
pieces by ``PATTERN``, each piece becomes bytes, and the most frequent adjacent pair is merged until
the vocabulary is full. All 256 bytes are in the vocabulary, so every text has an encoding and decodes to
itself. There is no normaliser and no space is put in front. Pieces are counted by ``pieces`` and merged by ``merges``;
the result is a ``tokenizer.json`` of Hugging Face ``tokenizers``, which ``transformers`` loads as it is. The merges are
those of that library's own trainer as long as no pair occurs 2**31 times: from there on its 32-bit counts wrap and it
learns other merges without a word. Counts here have 64 bits.

``PATTERN`` is the split of GPT-4 with two changes. Combining marks count as letters, so Devanagari and
Thai words stay whole. Every run is bounded, so a hostile document (50 MB of one letter) costs no more than any
other. Digits are grouped by three from the left, or from the right (``digits``).

The same texts give the same bytes: ties between pairs fall to the lower token ids, whatever the order of the
texts. The special tokens ``END`` and ``PAD`` get ids 0 and 1, those of the configuration
(the markers of a chat template) the next. Text that spells END or PAD is ordinary text here; where a configured one
stands the text is cut, so that the vocabulary spends no merges on its letters. How text that spells one is encoded is
said in ``encode``.

Price: on one core 40 MB/s to count, and a second or two to merge a million distinct pieces. Memory grows with the
distinct pieces alone, some 30 bytes for each of their bytes; 2 GiB of them are refused.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pyarrow as pa

from penstock import schema
from penstock.errors import ConfigError, DatasetError
from penstock.tokenization.digits import LEFT_TO_RIGHT, PATTERNS, Digits, check_digits
from penstock.tokenization.merges import Pairs
from penstock.tokenization.pieces import byte_letters, count_pieces

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer

logger = logging.getLogger(__name__)

END = "<|endoftext|>"  # id 0, closes every document
PAD = "<|pad|>"  # id 1, fills the last sequence
SPECIAL = (END, PAD)

PATTERN = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]{1,64}",
        LEFT_TO_RIGHT,
        r" ?[^\s\p{L}\p{M}\p{N}]{1,64}[\r\n]{0,8}",
        r"\s{0,64}[\r\n]{1,8}",
        r"\s{1,64}(?!\S)",
        r"\s{1,64}",
    )
)

_ALPHABET = 256


@dataclass(frozen=True, kw_only=True)
class BPEConfig:
    """What to train.

    Attributes:
        vocabulary_size: tokens, with the 256 bytes and all special tokens in it.
        min_frequency: a pair is merged only if the sample holds it this many times.
        special: more special tokens, such as the markers of a chat template; their ids follow END and PAD.
        digits: from which end of a number its digits are grouped by three.
    """

    vocabulary_size: int = 16_384
    min_frequency: int = 2
    special: tuple[str, ...] = ()
    digits: Digits = "left_to_right"

    def __post_init__(self) -> None:
        names = (*SPECIAL, *self.special)
        if len(set(names)) < len(names) or "" in names:
            raise ConfigError(
                f"special: got {', '.join(map(repr, self.special))}, allowed different texts that are not empty, "
                f"without {' and '.join(SPECIAL)}, which are there already"
            )
        least = _ALPHABET + len(names)
        if not least <= self.vocabulary_size <= 2**31 - 1:
            raise ConfigError(
                f"vocabulary_size: got {self.vocabulary_size}, allowed {least} (every byte and "
                f"{len(names)} special tokens) to 2**31 - 1; 8192 to 65536 are usual"
            )
        if self.min_frequency < 1:
            raise ConfigError(f"min_frequency: got {self.min_frequency}, allowed >= 1; 2 is usual")
        check_digits(self.digits)


def train_bpe(texts: Iterable[str], config: BPEConfig) -> bytes:
    """Train on ``texts`` (order does not matter) and return the content of ``tokenizer.json``.

    A sample with too few repeated pairs gives a smaller vocabulary than asked; that is logged, and
    ``vocabulary_size(result)`` says how large it is.

    Raises:
        DatasetError: there is no text at all.
        InputError: distinct pieces take 2 GiB or more.
    """
    sample = Stretches(texts, config.special)
    pieces = count_pieces(sample, from_right=config.digits == "right_to_left")
    if pieces.size == 0:
        raise DatasetError(
            f"tokenizer sample: got {sample.documents} documents with no text, at least one byte is needed; "
            "raise the sample size or look at which step dropped the documents"
        )
    special = (*SPECIAL, *config.special)
    # bytes in the order of the letters that stand for them, as the library numbers them
    alphabet = sorted(range(_ALPHABET), key=byte_letters().__getitem__)
    ids = np.empty(_ALPHABET, np.int32)
    ids[alphabet] = np.arange(len(special), len(special) + _ALPHABET)
    tokens = [*[None] * len(special), *(bytes([byte]) for byte in alphabet)]
    pairs = Pairs(ids[pieces.data], pieces.offsets, tokens, weights=pieces.counts)
    merged = pairs.merge(max_tokens=config.vocabulary_size, minimum=config.min_frequency)
    names = [*special, *map(spelled, pairs.tokens[len(special) :])]
    if len(names) < config.vocabulary_size:
        logger.warning(
            "tokenizer: %d tokens, fewer than the %d asked for: the sample of %d documents (%d bytes) has no more "
            "pairs that occur %d times; sample more text or ask for a smaller vocabulary",
            len(names),
            config.vocabulary_size,
            sample.documents,
            pieces.size,
            config.min_frequency,
        )
    return _tokenizer_json(names, [(names[a], names[b]) for a, b in merged.pairs.tolist()], special, config.digits)


def train_bpe_from_table(table: pa.Table, config: BPEConfig) -> bytes:
    """``train_bpe`` on the ``text`` of a sample table.

    Raises:
        DatasetError: the column is missing, or there is no text at all.
        InputError: distinct pieces take 2 GiB or more.
    """
    schema.require(table.schema.names, ("text",), where="tokenizer sample")
    batches = table.select(["text"]).to_batches(1024)
    return train_bpe((text for batch in batches for text in batch["text"].to_pylist()), config)


def vocabulary_size(tokenizer: bytes) -> int:
    """One more than the largest id in a ``tokenizer.json``: rows an embedding table needs."""
    return 1 + max(_ids(json.loads(tokenizer)))


def pre_tokenizer(digits: Digits = "left_to_right") -> PreTokenizer:
    """``PATTERN`` as a ``tokenizers`` pre-tokenizer, then bytes."""
    return split_into_bytes(PATTERN.replace(LEFT_TO_RIGHT, PATTERNS[digits]))


def split_into_bytes(pattern: str) -> PreTokenizer:
    """A pre-tokenizer that cuts out what a regular expression matches, and writes all pieces in bytes."""
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def state_of(made: PreTokenizer) -> dict[str, Any]:
    """A pre-tokenizer as a ``tokenizer.json`` holds it."""
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = made
    state: dict[str, Any] = json.loads(tokenizer.to_str())["pre_tokenizer"]
    return state


def digits_of(pre_tokenizer_state: Any) -> Digits | None:
    """How a pre-tokenizer of this module, as a ``tokenizer.json`` holds it, groups digits; None for any other."""
    digits: Digits
    for digits in get_args(Digits):
        if pre_tokenizer_state == state_of(pre_tokenizer(digits)):
            return digits
    return None


def spelled(token: bytes) -> str:
    """A token as a byte-level vocabulary writes it, one letter a byte."""
    letters = byte_letters()
    return "".join(letters[byte] for byte in token)


def special_pattern(tokens: Iterable[str]) -> re.Pattern[str] | None:
    """Finds the tokens in text, the longest of those that begin at a place, as its only group; None without tokens."""
    # longest first, as `tokenizers` matches them
    ordered = sorted(tokens, key=len, reverse=True)
    return re.compile("(" + "|".join(map(re.escape, ordered)) + ")") if ordered else None


def _ids(state: dict[str, Any]) -> Iterator[int]:
    vocabulary = state["model"]["vocab"]
    # a Unigram model lists (piece, score) pairs, every other model maps token to id
    yield from vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    yield from (token["id"] for token in state.get("added_tokens") or ())


def _tokenizer_json(names: list[str], merges: list[tuple[str, str]], special: tuple[str, ...], digits: Digits) -> bytes:
    from tokenizers import Tokenizer, decoders, models

    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizer(digits)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    out: bytes = tokenizer.to_str(pretty=False).encode()
    return out


class Stretches:
    """Texts without the special tokens that they spell, cut where one stands; ``documents`` counts texts."""

    def __init__(self, texts: Iterable[str], special: Iterable[str]) -> None:
        self._texts = texts
        self._special = special_pattern(special)
        self.documents = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            self.documents += 1
            yield from self._special.split(text)[::2] if self._special else (text,)
