"""Drop items that are empty, too short or too long.

Price: one scan of each text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from penstock.errors import ConfigError
from penstock.generators.items import Item


@dataclass(frozen=True, kw_only=True)
class Length:
    """Gate: ``empty`` without a letter or digit, ``too_short``, ``too_long``; characters without the space around them.

    Raises ConfigError for bounds that nothing can keep.
    """

    min_characters: int = 20
    max_characters: int = 20_000

    name: ClassVar[str] = "length"

    def __post_init__(self) -> None:
        if not 1 <= self.min_characters <= self.max_characters:
            raise ConfigError(
                f"length: got {self.min_characters} to {self.max_characters} characters, allowed a range from 1 on; "
                "min_characters is the smaller one"
            )

    def setup(self) -> None:
        """Nothing to load."""

    def judge(self, items: Sequence[Item]) -> list[str | None]:
        return [self._reason(item.text.strip()) for item in items]

    def _reason(self, text: str) -> str | None:
        if not any(map(str.isalnum, text)):
            return "empty"
        if len(text) < self.min_characters:
            return "too_short"
        return "too_long" if len(text) > self.max_characters else None
