"""Random tokenizers, each fitting the texts seen last: what a hypernetwork is trained on.

    sampler = TokenizerSampler(SamplerConfig(size=4096), seed=0)
    sampler.push(texts)
    drawn = sampler.draw(step=17)
    drawn.encode(texts)

The procedure of zero-shot tokenizer transfer (Minixhofer, Ponti and Vulić 2024, arXiv:2405.07883): a
queue holds the substring counts of the batches seen last. A draw scores every substring by frequency × length in
bytes, makes shares of the scores, adds noise from N(0, σ) with σ from LogNormal(ln 1e-5, 4), and takes the best with
the logarithm of what came out as the scores of a Unigram tokenizer (Kudo 2018). A little noise gives a tokenizer that
fits the texts well, much noise nearly any. All 256 bytes are in each tokenizer, so it writes every text.

Substrings are those of words of GPT-2's pre-tokenizer with a space in front, shorter than ``longest`` characters, that
begin at every fourth. Scores are summed in 64 bits.

Price: a word costs some ten dictionary entries the first time a batch has it; a draw sorts all substrings of the queue.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, InputError
from penstock.seeding import stream
from penstock.tokenization.dynamic.vocabulary import Ints, byte_alphabet

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_STRIDE = 4
_NEVER = -1e5  # log score of a substring whose share the noise made negative
_SPACE = "Ġ"


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How tokenizers are drawn.

    Attributes:
        size: tokens of each.
        queue: texts whose substrings are counted; the oldest batch goes when there are more.
        longest: substrings are shorter than so many characters (of the byte alphabet).
        noise: the median of σ.
        spread: standard deviation of ln σ; with ``noise`` 0 there is no noise.
    """

    size: int = 32_768
    queue: int = 2048
    longest: int = 16
    noise: float = 1e-5
    spread: float = 4.0

    def __post_init__(self) -> None:
        least = 256 + self.longest
        if self.size < least or self.longest < 2 or self.queue < 1:
            raise ConfigError(
                f"size, longest, queue: got {self.size}, {self.longest}, {self.queue}, allowed >= {least} (all bytes "
                "and runs of spaces), >= 2, >= 1"
            )
        if self.noise < 0 or self.spread < 0:
            raise ConfigError(f"noise, spread: got {self.noise}, {self.spread}, allowed >= 0")


@dataclass(frozen=True)
class DrawnTokenizer:
    """A Unigram tokenizer over the byte alphabet.

    Attributes:
        tokens: (size,) bytes of every id.
        scores: (size,) log scores.
        sigma: standard deviation of the noise it was drawn with.
    """

    tokens: tuple[bytes, ...]
    scores: tuple[float, ...]
    sigma: float
    tokenizer: Tokenizer

    def encode(self, texts: Sequence[str]) -> tuple[Ints, Ints]:
        """Ids of all texts, flat, and where each begins (n + 1,)."""
        rows = [one.ids for one in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(row) for row in rows], dtype=np.int64)])
        return np.fromiter(chain.from_iterable(rows), np.int64, int(offsets[-1])), offsets


class TokenizerSampler:
    """Counts substrings of the texts pushed last, and draws tokenizers from them."""

    def __init__(self, config: SamplerConfig, seed: int) -> None:
        from tokenizers import pre_tokenizers

        self._config, self._seed = config, seed
        self._cutter = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
        self._alphabet = byte_alphabet()
        self._batches: deque[tuple[int, Counter[str]]] = deque()
        self._counts: Counter[str] = Counter()

    def push(self, texts: Sequence[str]) -> None:
        """Count a batch; the oldest go when the queue holds more texts than it may, but the newest stays."""
        words = Counter(piece for text in texts for piece, _ in self._cutter.pre_tokenize_str(text))
        counts: Counter[str] = Counter()
        for word, times in words.items():
            for start in range(0, len(word), _STRIDE):
                for stop in range(start + 1, min(start + self._config.longest, len(word) + 1)):
                    counts[word[start:stop]] += times
        self._batches.append((len(texts), counts))
        self._counts.update(counts)
        while len(self._batches) > 1 and sum(size for size, _ in self._batches) > self._config.queue:
            self._counts.subtract(self._batches.popleft()[1])
            self._counts = +self._counts

    def draw(self, step: int) -> DrawnTokenizer:
        """The tokenizer of a step: the same for the same texts, seed and step.

        Raises:
            InputError: nothing was pushed.
        """
        from tokenizers import Tokenizer, decoders, models

        if not self._counts:
            raise InputError("tokenizer sampling: got no text, allowed one word at least; push texts first")
        names = sorted(self._counts)
        rng = stream(self._seed, "tokenizer", step)
        shares = substring_shares(names, np.array([self._counts[name] for name in names], np.int64))
        sigma = (
            float(np.exp(rng.normal(math.log(self._config.noise), self._config.spread))) if self._config.noise else 0.0
        )
        noisy = shares + rng.normal(0.0, sigma, len(names)) if sigma else shares
        logs = np.full(len(names), _NEVER)
        logs[noisy > 0] = np.log(noisy[noisy > 0])
        always: dict[str, float] = {_SPACE * width: 0.0 for width in range(2, self._config.longest)}
        best = [i for i in np.argsort(-logs, kind="stable").tolist() if names[i] not in always]
        single = set(self._alphabet)
        chosen = [i for i in best if names[i] not in single][: self._config.size - len(always) - len(single)]
        lowest = float(logs[chosen].min()) if chosen else _NEVER
        vocabulary = (
            [(letter, lowest) for letter in sorted(single)]
            + list(always.items())
            + [(names[i], float(logs[i])) for i in chosen]
        )
        made = Tokenizer(models.Unigram(vocabulary, unk_id=None, byte_fallback=False))
        made.pre_tokenizer = self._cutter
        made.decoder = decoders.ByteLevel()
        tokens = tuple(bytes(self._alphabet[letter] for letter in name) for name, _ in vocabulary)
        return DrawnTokenizer(tokens, tuple(score for _, score in vocabulary), sigma, made)


def substring_shares(names: Sequence[str], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n,) frequency × length of each substring over their sum, which is taken in 64 bits."""
    scores = counts * np.array([len(name) for name in names], np.int64)
    return scores / int(scores.sum())
