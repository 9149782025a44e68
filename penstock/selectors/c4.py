"""C4's cleaning rules, with their published thresholds: lines first, then what is left of the document.

Paper: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer"
(arXiv 1910.10683), section 2.2. Where it leaves a choice (order of the rules, citations, policy notices, words of 1,000
characters) the choice is that of the released code, which datatrove's C4QualityFilter follows too; kinds of lines and
reasons are its statistics keys, so that the counts of both can be laid side by side. For English.

    C4Lines     takes citations such as "[12]" or "[edit]" out of each line, whitespace off its ends, and removes lines
      too_long_word        with a word of more than 1,000 characters
      no_terminal_punc     that do not end with one of . ? ! " ', or end with "..."
      too_few_words        of fewer than three words (``str.split()`` words, citations counted)
      javascript           that speak of javascript
      policy               that speak of terms of use, privacy or cookies
    C4Quality   drops documents
      lorem_ipsum          with that phrase in a line that passed the rules before it
      curly_bracket        with a "{" in such a line
      too_few_sentences    of fewer than five sentences, and those of which nothing is left

FineWeb runs these rules with ``terminal_punctuation=False``. Sentences are counted by a fixed rule instead of a trained
model (the paper's code asks nltk's punkt, datatrove a rule of spaCy): one ends at a terminal mark with nothing but
punctuation after it in its word, or at a full stop between a small and a capital letter; runs of full stops, initials
and known abbreviations end none. Phrases are found whatever the case of their ASCII letters. The list of bad words is
not part of this: see ``penstock.selectors.blocklist.WordBlocklist``.

Price: no model, no state between rows. On mixed text and one core, lines with their edits about 100 MB/s and documents
about 350 MB/s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from penstock.errors import ConfigError
from penstock.selectors.edits import apply_edits

POLICY_PHRASES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
LINE_KINDS = ("kept", "citation", "too_long_word", "no_terminal_punc", "too_few_words", "javascript", "policy")
C4_REASONS = ("lorem_ipsum", "curly_bracket", "too_few_sentences")


@dataclass(frozen=True, kw_only=True)
class C4Rules:
    """Thresholds of both row works. A number of 0 and an empty list switch a rule off."""

    citations: bool = True
    terminal_punctuation: bool = True
    min_words_per_line: int = 3
    max_word_length: int = 1000
    javascript: bool = True
    policy_phrases: tuple[str, ...] = POLICY_PHRASES
    lorem_ipsum: bool = True
    curly_bracket: bool = True
    min_sentences: int = 5

    def __post_init__(self) -> None:
        for field in ("min_words_per_line", "max_word_length", "min_sentences"):
            if getattr(self, field) < 0:
                raise ConfigError(f"{field}: got {getattr(self, field)}, allowed >= 0; 0 switches the rule off")
        phrases = self.policy_phrases
        if isinstance(phrases, str) or any(len(p.encode()) < 2 or p != p.strip() or "\n" in p for p in phrases):
            raise ConfigError(
                f"policy_phrases: got {phrases!r}, allowed a list of phrases of two characters and more on one line; "
                "[] switches the rule off"
            )

    def works(self) -> tuple[C4Lines, C4Quality]:
        """Both row works, in the order they run."""
        return C4Lines(rules=self), C4Quality(rules=self)


@dataclass(frozen=True, kw_only=True)
class C4Lines:
    """Annotator: the text without the lines and citations that C4 removes.

    A line that decides about the whole document stays for ``C4Quality``.
    """

    name: ClassVar[str] = "c4_lines"
    revision: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ("text", "content_hash", "learn")

    rules: C4Rules = C4Rules()

    def setup(self) -> None:
        """Compile, or load what an earlier process compiled."""
        self.edit(pa.record_batch({"text": ["a [1] b."]}))

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """``text``, ``content_hash`` and, where the batch has it, ``learn``."""
        return self.edit(batch)[0]

    def edit(self, batch: pa.RecordBatch) -> tuple[dict[str, pa.Array], dict[str, int]]:
        """The columns, and the number of citations and of lines by what became of them."""
        from penstock.selectors import c4_kernels

        edits, counts = c4_kernels.lines(batch["text"], self.rules)
        found = {kind: int(n) for kind, n in zip(LINE_KINDS, counts, strict=True) if n}
        return apply_edits(batch, edits), found


@dataclass(frozen=True, kw_only=True)
class C4Quality:
    """Filter: drop documents by C4's rules. Judges the text as it is: run ``C4Lines`` before it."""

    name: ClassVar[str] = "c4"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ()

    rules: C4Rules = C4Rules()

    def setup(self) -> None:
        """Compile, or load what an earlier process compiled."""
        self._decide(pa.array(["a"]))

    def decide(self, batch: pa.RecordBatch) -> pa.StringArray:
        """The reason or null for each row; null text has no sentence. Shape (rows,)."""
        return self._decide(batch["text"])

    def _decide(self, text: pa.Array) -> pa.StringArray:
        from penstock.selectors import c4_kernels

        codes = c4_kernels.document(text, self.rules)
        return pa.array([None, *C4_REASONS], pa.string()).take(pa.array(codes))
