r"""SuperBPE: a second stage of merges that may join words (Liu et al. 2025, arXiv 2503.13423).

A tokenizer learned inside words is taken as it is, and its vocabulary filled up by merges learned without the borders
of words: ``STAGE_2`` splits off digits, runs of punctuation and runs of spaces, and nothing else. The paper reports up
to a third fewer tokens at 200,000 entries. How many merges the first stage has is the choice that matters: train it to
that size.

What may not be joined follows the variants released with the paper: no token of more than ``max_words`` words, and none
of several words that holds a colon, after which a prompt often ends.

Text is encoded by ``STAGE_2`` and all merges in their order: those of the first stage go first, also across a border
that the first stage had between, say, a word and a comma.

Price: 1 to 3 MB/s to split text; the pieces are sentences, so hardly one comes twice and memory is that of the whole
sample, some 30 bytes for each of its bytes. Merging is linear in them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from penstock.errors import ConfigError
from penstock.tokenization.bpe import Stretches, split_into_bytes, state_of
from penstock.tokenization.digits import LEFT_TO_RIGHT, RIGHT_TO_LEFT, compact, pre_tokenizer_steps
from penstock.tokenization.extend import ByteLevelBPE, ExtendConfig

STAGE_2 = LEFT_TO_RIGHT + r"| ?[^\s\p{L}\p{N}]{2,}[\r\n/]*| +(?!\S)"


@dataclass(frozen=True, kw_only=True)
class SuperBPEConfig:
    """The second stage.

    Attributes:
        vocabulary_size: ids there are afterwards, all of the first stage included.
        min_frequency: a pair is merged only if the text holds it this many times.
        max_words: words that a token may hold at most; words are what white space separates.
        apart: bytes that a token of several words must not hold.
    """

    vocabulary_size: int
    min_frequency: int = 2
    max_words: int = 4
    apart: bytes = b":"

    def __post_init__(self) -> None:
        if self.max_words < 1:
            raise ConfigError(f"max_words: got {self.max_words}, allowed >= 1; the paper's tokenizers have 4")

    def permits(self, left: bytes, right: bytes) -> bool:
        """Whether two tokens may be joined."""
        words = (left + right).split()
        return len(words) < 2 or (len(words) <= self.max_words and not set(self.apart) & {*left, *right})


def superbpe(tokenizer_json: bytes, texts: Iterable[str], config: SuperBPEConfig) -> bytes:
    """The first stage's tokenizer with merges over words, as the content of a ``tokenizer.json``.

    Raises:
        ConfigError: the vocabulary is that large already, or the tokenizer puts a space in front of text.
        InputError: it is not a byte-level BPE tokenizer, or distinct pieces take 2 GiB or more.
        DatasetError: there is no text at all.
    """
    first = ByteLevelBPE(tokenizer_json)
    steps = pre_tokenizer_steps(first.state)
    if any(step.get("add_prefix_space") for step in steps):
        raise ConfigError(
            "superbpe: got a tokenizer that puts a space in front of text (add_prefix_space), which would put one in "
            "front of every piece here; allowed one that does not"
        )
    from_right = any(RIGHT_TO_LEFT in step.get("pattern", {}).get("Regex", "") for step in steps)
    pattern = STAGE_2.replace(LEFT_TO_RIGHT, RIGHT_TO_LEFT) if from_right else STAGE_2
    second = ByteLevelBPE(compact({**first.state, "pre_tokenizer": state_of(split_into_bytes(pattern))}))
    sample = Stretches(texts, second.added)
    options = ExtendConfig(
        vocabulary_size=config.vocabulary_size, min_frequency=config.min_frequency, permit=config.permits
    )
    return second.extended(second.count(sample), sample.documents, options)
