"""RefinedWeb's line-wise corrections: undesirable lines go, and so do documents with too many of them.

Paper: Penedo et al., "The RefinedWeb Dataset for Falcon LLM" (arXiv 2306.01116), section 3.2 and appendix G.2. It names
the rules and gives examples; where numbers and words are left open they are those of DCLM's implementation
(mlfoundations/dclm, ``baselines/mappers/modifiers.py``). Lines are what stands between "\\n", words are ``str.split()``
words; blank lines stay. For English: "they require adaptation across languages" (the paper).

    a line is flagged as
      uppercase     more than half of its characters are capitals
      numeric       digits alone
      counter       a number and what it counts, such as "3 likes"
      one_word
      pattern       of at most 10 words, beginning with "sign-in", ending with "read more..." or with "items in cart"
                    anywhere: this is cut out, and the line goes if nothing else was in it
    RefinedWebQuality   drops a document when more than 5 % of its words are in flagged lines: ``word_removal_ratio``
    RefinedWebLines     removes or edits the flagged lines of the others

The two are given apart and the filter comes first, so that it sees the words of the whole document. Patterns are found
whatever the case of their ASCII letters.

Price: no model, no state between rows. Each reads the text once: the filter at about 240 MB/s a core on mixed text, the
annotator with its edits at 170 MB/s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.errors import ConfigError
from penstock.selectors.edits import apply_edits

COUNTERS = (
    "likes",
    "shares",
    "comments",
    "retweets",
    "reposts",
    "quotes",
    "bookmarks",
    "upvotes",
    "downvotes",
    "downloads",
    "views",
    "followers",
)
LINE_KINDS = ("kept", "uppercase", "numeric", "counter", "one_word", "pattern")


@dataclass(frozen=True, kw_only=True)
class RefinedWebRules:
    """Thresholds of both row works. An empty list switches a rule off, as does 1 for ``max_uppercase``."""

    max_flagged_words: float = 0.05
    max_uppercase: float = 0.5
    numeric: bool = True
    counters: tuple[str, ...] = COUNTERS
    min_words_per_line: int = 2
    short_line_words: int = 10
    prefixes: tuple[str, ...] = ("sign-in",)
    suffixes: tuple[str, ...] = ("read more...",)
    anywhere: tuple[str, ...] = ("items in cart",)

    def __post_init__(self) -> None:
        for field in ("max_flagged_words", "max_uppercase"):
            if not 0 <= getattr(self, field) <= 1:
                raise ConfigError(f"{field}: got {getattr(self, field)}, allowed 0 to 1; it is a share")
        for field in ("min_words_per_line", "short_line_words"):
            if getattr(self, field) < 0:
                raise ConfigError(f"{field}: got {getattr(self, field)}, allowed >= 0; 0 switches the rule off")
        for field in ("counters", "prefixes", "suffixes", "anywhere"):
            phrases = getattr(self, field)
            if isinstance(phrases, str) or any(len(p.encode()) < 2 or p != p.strip() or "\n" in p for p in phrases):
                raise ConfigError(
                    f"{field}: got {phrases!r}, allowed a list of phrases of two characters and more on one line; "
                    "[] switches the rule off"
                )

    def works(self) -> tuple[RefinedWebQuality, RefinedWebLines]:
        """Both row works, in the order they run."""
        return RefinedWebQuality(rules=self), RefinedWebLines(rules=self)


@dataclass(frozen=True, kw_only=True)
class RefinedWebQuality:
    """Filter: drop documents with too large a share of their words in flagged lines, or all of them."""

    name: ClassVar[str] = "refinedweb"
    revision: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ()

    rules: RefinedWebRules = RefinedWebRules()

    def setup(self) -> None:
        """Compile, or load what an earlier process compiled."""
        self._decide(pa.array(["a"]))

    def decide(self, batch: pa.RecordBatch) -> pa.StringArray:
        """``word_removal_ratio`` or null for each row; a text without words stays. Shape (rows,)."""
        return self._decide(batch["text"])

    def _decide(self, text: pa.Array) -> pa.StringArray:
        from penstock.selectors import refinedweb_kernels

        found = refinedweb_kernels.flag(text, self.rules)
        share = found.flagged / np.maximum(found.words, 1)
        gone = (share > self.rules.max_flagged_words) | ((share == 1) & (found.words > 0))
        return pc.if_else(pa.array(gone), pa.scalar("word_removal_ratio"), pa.scalar(None, pa.string()))


@dataclass(frozen=True, kw_only=True)
class RefinedWebLines:
    """Annotator: the text without its flagged lines and patterns. Run ``RefinedWebQuality`` before it."""

    name: ClassVar[str] = "refinedweb_lines"
    revision: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ("text", "content_hash", "learn")

    rules: RefinedWebRules = RefinedWebRules()

    def setup(self) -> None:
        """Compile, or load what an earlier process compiled."""
        self.edit(pa.record_batch({"text": ["a\nb c\n1 likes"]}))

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """``text``, ``content_hash`` and, where the batch has it, ``learn``."""
        return self.edit(batch)[0]

    def edit(self, batch: pa.RecordBatch) -> tuple[dict[str, pa.Array], dict[str, int]]:
        """The columns, and the number of lines by what they were flagged as."""
        from penstock.selectors import refinedweb_kernels

        found = refinedweb_kernels.flag(batch["text"], self.rules)
        counts = {kind: int(n) for kind, n in zip(LINE_KINDS, found.kinds, strict=True) if n}
        return apply_edits(batch, found.edits), counts
