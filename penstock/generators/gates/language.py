"""Drop items in another language than those wanted.

Items of fewer than ``min_letters`` letters pass: of a formula or a name nobody can say a language.

Price: that of ``selectors.language``, some 20 µs a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from penstock.errors import ConfigError
from penstock.generators.items import Item

if TYPE_CHECKING:
    from penstock.selectors.language import LanguageFilter


@dataclass(frozen=True, kw_only=True)
class Language:
    """Gate: ``language_not_allowed``, or ``language_unsure`` below ``min_confidence``.

    Args:
        languages: ISO 639 codes of those that pass.

    Raises ConfigError for a code that is none.
    """

    languages: tuple[str, ...]
    min_confidence: float = 0.5
    min_letters: int = 40

    name: ClassVar[str] = "language"

    def __post_init__(self) -> None:
        self._filter()
        if self.min_letters < 1:
            raise ConfigError(f"min_letters: got {self.min_letters}, allowed >= 1; below some 40 languages are guessed")

    def _filter(self) -> LanguageFilter:
        from penstock.selectors.language import LanguageFilter

        return LanguageFilter(languages=self.languages, min_confidence=self.min_confidence)

    def setup(self) -> None:
        """Load the identifier. Raises InputError if its file is missing."""
        from penstock.selectors.language import LanguageId

        LanguageId().setup()

    def judge(self, items: Sequence[Item]) -> list[str | None]:
        import pyarrow as pa

        from penstock.selectors.language import LanguageId

        texts = pa.array([item.text for item in items], pa.string())
        told = LanguageId().annotate(pa.RecordBatch.from_arrays([texts], ["text"]))
        found = self._filter().decide(pa.RecordBatch.from_pydict(told)).to_pylist()
        long = [sum(map(str.isalpha, item.text)) >= self.min_letters for item in items]
        return [reason if counts else None for reason, counts in zip(found, long, strict=True)]
