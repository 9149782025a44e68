"""Intrinsic measures of a tokenizer, each with the convention it stands on.

    fertility         tokens / words                                words are runs of no white space (``str.split``)
    STRR              share of word occurrences that are one token  (arXiv 2510.09947)
    Rényi entropy     H_a = log2(sum p^a) / (1 - a) bits; a = 1 is Shannon's; efficiency H_a / log2 V (arXiv 2306.16842)
    Gini              sum_ij |c_i - c_j| / (2 n^2 mean c)           of costs: tokens a line of each language, say
    parity            tokens of a language / tokens of the one it is a translation of (arXiv 2305.15425)
    NSL               tokens / tokens of a reference tokenizer
    %TR               share of the distinct tokens in use that are words of a lexicon      (arXiv 2502.07057)
    %Pure             share of the distinct tokens in use that are a root or a morpheme    (arXiv 2502.07057)

V of Rényi efficiency is the number of types that occur (*observed*) or the size of the vocabulary (*nominal*); figures
of different V cannot be compared. Text in scripts that put no spaces between words has no white-space words:
``spaceless`` finds it, and fertility and STRR are noise there.

Price: words are found and counted by Arrow at some 50 MB/s; the rest works on counts.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from penstock.errors import ConfigError, InputError

# RE2's \s is ASCII without \v; with the separators, NEL and the four information separators it is str.split's
_SPACE = r"[\s\x0b\x1c-\x1f\x{85}\p{Z}]+"
_NO_SPACES = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
_LETTERS = r"[\p{L}\p{M}]"
SPACELESS_FROM = 0.3  # share of the letters in such scripts from which white-space words are said to mean nothing
WORDS = "runs of characters that are not white space"
MATCH = "the token's text without white space around it, NFC and case folded"


def renyi_entropy(counts: ArrayLike, alpha: float = 2.5) -> float:
    """Rényi entropy of order ``alpha`` of a distribution by its counts (n,), in bits; 0 where nothing is counted.

    Raises ConfigError unless ``alpha`` is a finite number above 0.
    """
    if not (math.isfinite(alpha) and alpha > 0):
        raise ConfigError(f"alpha: got {alpha}, allowed a finite number above 0; 2.5 is recommended")
    held = np.asarray(counts, dtype=np.float64)
    held = held[held > 0]
    if not held.size:
        return 0.0
    p = held / held.sum()
    if alpha == 1:
        return float(-(p * np.log2(p)).sum())
    return float(np.log2((p**alpha).sum()) / (1 - alpha))


def renyi_efficiency(counts: ArrayLike, alpha: float = 2.5, vocabulary: int | None = None) -> float | None:
    """``renyi_entropy`` over log2 V; V is ``vocabulary``, or the types that occur when it is None.

    None where V is below 2, as a single type has nothing to spread over.
    """
    observed = int(np.count_nonzero(np.asarray(counts)))
    size = observed if vocabulary is None else vocabulary
    if size < observed:
        raise ConfigError(f"vocabulary: got {size}, fewer than the {observed} types that occur; give the whole size")
    return renyi_entropy(counts, alpha) / math.log2(size) if size > 1 else None


def gini(costs: ArrayLike) -> float:
    """Gini coefficient of costs (n,): 0 where all are equal, towards 1 where one bears everything.

    Raises ConfigError where there is none, or one below 0.
    """
    c = np.sort(np.asarray(costs, dtype=np.float64))
    if not c.size or c[0] < 0 or not np.isfinite(c).all():
        raise ConfigError(f"costs: got {c.size} with a least of {c[0] if c.size else None}, allowed some, none below 0")
    total = c.sum()
    if total == 0:
        return 0.0
    n = c.size
    # sum over i < j of c_j - c_i, twice, from the ranks of the sorted costs
    return float(2 * (c * (2 * np.arange(1, n + 1) - n - 1)).sum() / (2 * n * total))


def word_counts(texts: pa.Array | pa.ChunkedArray) -> tuple[list[str], NDArray[np.int64]]:
    """Distinct words of texts and how often each occurs, in order of the word."""
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    found = [pc.split_pattern_regex(chunk, _SPACE).flatten().value_counts() for chunk in chunks]
    if not found:
        return [], np.zeros(0, np.int64)
    parts = pa.concat_tables([pa.table({"word": one.field("values"), "count": one.field("counts")}) for one in found])
    sums = parts.filter(pc.not_equal(parts["word"], "")).group_by("word").aggregate([("count", "sum")]).sort_by("word")
    return sums["word"].to_pylist(), sums["count_sum"].to_numpy().astype(np.int64)


def spaceless(texts: pa.Array | pa.ChunkedArray) -> bool:
    """Whether text is largely in a script without spaces between words: Han, Kana, Thai, Lao, Khmer and the like."""
    without = pc.sum(pc.count_substring_regex(texts, _NO_SPACES)).as_py() or 0
    letters = pc.sum(pc.count_substring_regex(texts, _LETTERS)).as_py() or 0
    return bool(letters) and without / letters >= SPACELESS_FROM


def folded(word: str) -> str:
    """A word as lexicons are searched: NFC, case folded, without white space around it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", word.strip()).casefold())


@dataclass(frozen=True)
class Lexicon:
    """Words, and those texts that are a root or a morpheme; ``pure`` is None where no word has its morphemes."""

    name: str
    words: frozenset[str]
    pure: frozenset[str] | None

    @classmethod
    def read(cls, path: str) -> Lexicon:
        """A text file of a word a line; after a tab its morphemes, roots too, with spaces between them.

        Raises:
            InputError: it cannot be read, is not UTF-8, or has no word.
        """
        try:
            with open(path, encoding="utf-8") as file:
                lines = file.read().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"lexicon {path}: cannot be read ({error}); give a text file of words in UTF-8") from error
        words: set[str] = set()
        pure: set[str] = set()
        for line in lines:
            word, _, morphemes = line.partition("\t")
            if folded(word):
                words.add(folded(word))
                pure.update(map(folded, morphemes.split()))
        if not words:
            raise InputError(f"lexicon {path}: got no word, allowed a word a line; name another file")
        return cls(path, frozenset(words), frozenset(pure) if pure else None)

    def word_share(self, tokens: Iterable[str]) -> float | None:
        """%TR as a share: of these distinct tokens, those that are words; None without tokens."""
        return _share(tokens, self.words)

    def pure_share(self, tokens: Iterable[str]) -> float | None:
        """%Pure as a share: of these distinct tokens, those that are a morpheme; None where no morphemes are known."""
        return None if self.pure is None else _share(tokens, self.pure)


def _share(tokens: Iterable[str], among: frozenset[str]) -> float | None:
    held = [folded(token) in among for token in tokens]
    return sum(held) / len(held) if held else None
