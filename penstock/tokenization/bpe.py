"""Train a byte-level BPE tokenizer on a sample of documents.

BPE (Sennrich, Haddow, Birch 2016) over UTF-8 bytes (Radford et al. 2019): text is split into short
pieces by ``PATTERN``, each piece becomes bytes, and the most frequent adjacent pair is merged until
the vocabulary is full. All 256 bytes are in the vocabulary, so every text has an encoding and decodes to
itself. There is no normaliser and no space is put in front. The training itself is Hugging Face
``tokenizers``; the result is its ``tokenizer.json``, which ``transformers`` loads as it is.

``PATTERN`` is the split of GPT-4 with two changes. Combining marks count as letters, so Devanagari and
Thai words stay whole. Every run is bounded, so a hostile document (50 MB of one letter) costs no more than any
other, and the end of a piece is decided by at most ``LOOK_AHEAD`` characters, which lets ``encode`` work in windows.

The same texts give the same bytes: ties between pairs fall to the lower token ids, whatever the order of the
texts and the number of threads. The special tokens ``END`` and ``PAD`` get ids 0 and 1, those of the configuration
(the markers of a chat template) the next. Text that spells END or PAD is ordinary text here; where a configured one
stands the text is cut, so that the vocabulary spends no merges on its letters. How text that spells one is encoded is
said in ``encode``.

Price: about 5 MB/s of English on two cores, 1 MB/s of many scripts; memory grows with the number of distinct
pieces (1 GB for 50 MB in 128 languages). The trainer counts pairs in 32 bits and would overflow without
a word, so samples of 2 GiB or more are refused.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from penstock import schema
from penstock.errors import ConfigError, DatasetError

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
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{M}\p{N}]{1,64}[\r\n]{0,8}",
        r"\s{0,64}[\r\n]{1,8}",
        r"\s{1,64}(?!\S)",
        r"\s{1,64}",
    )
)
LOOK_AHEAD = 128  # no alternative of PATTERN reads further than this many characters from where it starts

_ALPHABET = 256
_MAX_SAMPLE_BYTES = 2**31 - 1  # a pair cannot occur more often than there are bytes
_CHUNK = 1 << 16  # characters handed to the trainer at once; it spends some 100 bytes a character


@dataclass(frozen=True, kw_only=True)
class BPEConfig:
    """What to train.

    Attributes:
        vocabulary_size: tokens, with the 256 bytes and all special tokens in it.
        min_frequency: a pair is merged only if the sample holds it this many times.
        special: more special tokens, such as the markers of a chat template; their ids follow END and PAD.
    """

    vocabulary_size: int = 16_384
    min_frequency: int = 2
    special: tuple[str, ...] = ()

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


def train_bpe(texts: Iterable[str], config: BPEConfig) -> bytes:
    """Train on ``texts`` (order does not matter) and return the content of ``tokenizer.json``.

    A sample with too few repeated pairs gives a smaller vocabulary than asked; that is logged, and
    ``vocabulary_size(result)`` says how large it is.

    Raises:
        DatasetError: there is no text at all, or more than the trainer can count.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary_size,
        min_frequency=config.min_frequency,
        special_tokens=[*SPECIAL, *config.special],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    seen = _Sample(texts, config.special)
    tokenizer.train_from_iterator(iter(seen), trainer)
    if seen.size == 0:
        raise DatasetError(
            f"tokenizer sample: got {seen.documents} documents with no text, at least one byte is needed; "
            "raise the sample size or look at which step dropped the documents"
        )
    result: bytes = tokenizer.to_str(pretty=False).encode()
    found = tokenizer.get_vocab_size(with_added_tokens=True)
    if found < config.vocabulary_size:
        logger.warning(
            "tokenizer: %d tokens, fewer than the %d asked for: the sample of %d documents (%d bytes) has no more "
            "pairs that occur %d times; sample more text or ask for a smaller vocabulary",
            found,
            config.vocabulary_size,
            seen.documents,
            seen.size,
            config.min_frequency,
        )
    return result


def train_bpe_from_table(table: pa.Table, config: BPEConfig) -> bytes:
    """``train_bpe`` on the ``text`` of a sample table, in the order of ``id_hash``.

    Raises:
        DatasetError: a column is missing, the sample is empty or too large.
    """
    schema.require(table.schema.names, ("id_hash", "text"), where="tokenizer sample")
    order = np.argsort(table["id_hash"].to_numpy(), kind="stable")
    ordered = table.select(["text"]).take(pa.array(order))
    return train_bpe((text for batch in ordered.to_batches(1024) for text in batch["text"].to_pylist()), config)


def vocabulary_size(tokenizer: bytes) -> int:
    """One more than the largest id in a ``tokenizer.json``: rows an embedding table needs."""
    return 1 + max(_ids(json.loads(tokenizer)))


def pre_tokenizer() -> PreTokenizer:
    """``PATTERN`` as a ``tokenizers`` pre-tokenizer, then bytes."""
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


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


class _Sample:
    """Texts in bounded pieces, counted on the way, without the special tokens they spell."""

    def __init__(self, texts: Iterable[str], special: tuple[str, ...]) -> None:
        self._texts = texts
        self._special = special_pattern(special)
        self.documents = 0
        self.size = 0  # UTF-8 bytes

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            self.documents += 1
            for stretch in self._special.split(text)[::2] if self._special else (text,):
                for start in range(0, len(stretch), _CHUNK):
                    piece = stretch[start : start + _CHUNK]
                    self.size += len(piece.encode())
                    if self.size > _MAX_SAMPLE_BYTES:
                        raise DatasetError(
                            f"tokenizer sample: got more than {_MAX_SAMPLE_BYTES} bytes in {self.documents} "
                            "documents, and the trainer counts pairs in 32 bits; lower the sample size"
                        )
                    yield piece
