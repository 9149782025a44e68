"""Gopher's rules of quality and repetition, with their published thresholds.

Paper: Rae et al., "Scaling Language Models: Methods, Analysis & Insights from Training Gopher" (arXiv 2112.11446),
section A1.1 and table A1. Where the paper leaves a choice (which characters are punctuation, how a repeated n-gram is
counted, the order of the rules) the choice is datatrove's, and the reasons are its statistics keys, so that the counts
of both can be laid side by side. Words are ``str.split()`` words; the thresholds are made for English.

A filter names the first rule that a text breaks, in this order:

    GopherQuality                                     a word is symbolic when all its characters are punctuation
      gopher_short_doc, gopher_long_doc               words that are not symbolic
      gopher_below_avg_threshold, gopher_above_…      mean length of those words, in characters
      gopher_too_many_hashes, gopher_too_many_ellipsis   "#", and "..." with "…", over the number of all words
      gopher_too_many_bullets                         share of lines that begin with "•" or "-" after whitespace
      gopher_too_many_end_ellipsis                    share of lines that end with "..." or "…" before whitespace
      gopher_below_alpha_threshold                    share of all words with a letter
      gopher_enough_stop_words                        too few different stop words, as written
    GopherRepetition                                  shares of the text's characters unless said otherwise
      empty
      dup_para_frac, dup_para_char_frac               paragraphs seen before: share of paragraphs, of characters
      dup_line_frac, dup_line_char_frac               lines seen before, likewise
      top_2_gram … top_4_gram                         the commonest n-gram, times its count; the earliest if tied
      duplicated_5_n_grams … duplicated_10_n_grams    n-grams seen before, left to right without overlap

Quality cuts lines as ``str.splitlines()`` does, repetition at runs of "\\n" and paragraphs at two or more. A repeated
n-gram is compared without the spaces between its words.

Price: no model, no state between rows. On prose and one core, quality about 280 MB/s and repetition about 110 MB/s.
Memory: about 50 bytes a word of the longest row. The first call of a fresh installation compiles for 7 s; later
processes load the compiled code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from penstock.errors import ConfigError

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
MOST_STOP_WORDS = 64  # the ones a text holds are bits of one integer


@dataclass(frozen=True, kw_only=True)
class GopherQuality:
    """Drop text that is not running prose. Raises ConfigError for thresholds that no text, or every text, can meet."""

    name: ClassVar[str] = "gopher_quality"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ()

    min_words: int = 50
    max_words: int = 100_000
    min_mean_word_length: float = 3.0
    max_mean_word_length: float = 10.0
    max_symbols_per_word: float = 0.1
    max_bullet_lines: float = 0.9
    max_ellipsis_lines: float = 0.3
    min_words_with_letter: float = 0.8
    min_stop_words: int = 2
    stop_words: tuple[str, ...] = STOP_WORDS

    def __post_init__(self) -> None:
        _require_order("min_words", self.min_words, "max_words", self.max_words, least=1)
        _require_order(
            "min_mean_word_length",
            self.min_mean_word_length,
            "max_mean_word_length",
            self.max_mean_word_length,
            least=0,
        )
        if not (math.isfinite(self.max_symbols_per_word) and self.max_symbols_per_word >= 0):
            raise ConfigError(
                f"max_symbols_per_word: got {self.max_symbols_per_word}, allowed a finite number >= 0; 0.1 is published"
            )
        for field in ("max_bullet_lines", "max_ellipsis_lines", "min_words_with_letter"):
            _require_share(field, getattr(self, field))
        words = self.stop_words
        if isinstance(words, str) or len(words) > MOST_STOP_WORDS or any(w.split() != [w] for w in words):
            raise ConfigError(
                f"stop_words: got {words!r}, allowed at most {MOST_STOP_WORDS} words without whitespace; give a tuple"
            )
        if not 0 <= self.min_stop_words <= len(set(words)):
            raise ConfigError(
                f"min_stop_words: got {self.min_stop_words}, allowed 0 to the number of different stop words "
                f"({len(set(words))}); 0 switches the rule off"
            )

    def setup(self) -> None:
        """Compile, or load what an earlier process compiled."""
        self._decide(pa.array(["a"]))

    def decide(self, batch: pa.RecordBatch) -> pa.StringArray:
        """The first broken rule of each row, null for none; null text is short. Shape (rows,)."""
        return self._decide(batch["text"])

    def _decide(self, text: pa.Array) -> pa.StringArray:
        from penstock.selectors import gopher_quality_kernels

        return _reasons(gopher_quality_kernels.quality(text, self), QUALITY_REASONS)


QUALITY_REASONS = (
    "gopher_short_doc",
    "gopher_long_doc",
    "gopher_below_avg_threshold",
    "gopher_above_avg_threshold",
    "gopher_too_many_hashes",
    "gopher_too_many_ellipsis",
    "gopher_too_many_bullets",
    "gopher_too_many_end_ellipsis",
    "gopher_below_alpha_threshold",
    "gopher_enough_stop_words",
)


@dataclass(frozen=True, kw_only=True)
class GopherRepetition:
    """Drop text that repeats itself. ``max_top_ngrams`` and ``max_duplicate_ngrams`` are (n, share) pairs."""

    name: ClassVar[str] = "gopher_repetition"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ()

    max_duplicate_paragraphs: float = 0.30
    max_duplicate_paragraph_chars: float = 0.20
    max_duplicate_lines: float = 0.30
    max_duplicate_line_chars: float = 0.20
    max_top_ngrams: tuple[tuple[int, float], ...] = ((2, 0.20), (3, 0.18), (4, 0.16))
    max_duplicate_ngrams: tuple[tuple[int, float], ...] = (
        (5, 0.15),
        (6, 0.14),
        (7, 0.13),
        (8, 0.12),
        (9, 0.11),
        (10, 0.10),
    )

    def __post_init__(self) -> None:
        for field in (
            "max_duplicate_paragraphs",
            "max_duplicate_paragraph_chars",
            "max_duplicate_lines",
            "max_duplicate_line_chars",
        ):
            _require_share(field, getattr(self, field))
        for field in ("max_top_ngrams", "max_duplicate_ngrams"):
            for n, share in getattr(self, field):
                if not 2 <= n <= 64:
                    raise ConfigError(f"{field}: got n = {n}, allowed 2 to 64; remove the pair to switch the rule off")
                _require_share(f"{field}, n = {n}", share)
            sizes = [n for n, _ in getattr(self, field)]
            if sizes != sorted(set(sizes)):
                raise ConfigError(f"{field}: got n = {sizes}, allowed each n once, ascending; sort the pairs")

    @property
    def reasons(self) -> tuple[str, ...]:
        """Every reason this configuration can give, in the order of the rules."""
        return (
            "empty",
            "dup_para_frac",
            "dup_para_char_frac",
            "dup_line_frac",
            "dup_line_char_frac",
            *(f"top_{n}_gram" for n, _ in self.max_top_ngrams),
            *(f"duplicated_{n}_n_grams" for n, _ in self.max_duplicate_ngrams),
        )

    def setup(self) -> None:
        """Compile, or load what an earlier process compiled."""
        self._decide(pa.array(["a"]))

    def decide(self, batch: pa.RecordBatch) -> pa.StringArray:
        """The first broken rule of each row, null for none; null text is empty. Shape (rows,)."""
        return self._decide(batch["text"])

    def _decide(self, text: pa.Array) -> pa.StringArray:
        from penstock.selectors import gopher_repetition_kernels

        return _reasons(gopher_repetition_kernels.repetition(text, self), self.reasons)


def _reasons(codes: object, names: tuple[str, ...]) -> pa.StringArray:
    """Reason ``names[code - 1]`` for each code, null for 0."""
    return pa.array([None, *names], pa.string()).take(pa.array(codes))


def _require_share(field: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{field}: got {value}, allowed 0 to 1; it is a share")


def _require_order(low_name: str, low: float, high_name: str, high: float, *, least: float) -> None:
    if not (least <= low <= high < math.inf):
        raise ConfigError(f"{low_name}, {high_name}: got {low}, {high}, allowed {least} <= {low_name} <= {high_name}")
