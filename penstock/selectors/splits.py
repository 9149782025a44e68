"""Assign train, validation and test before anything is fitted.

The split is a hash of the duplicate cluster and the seed, so neither copies nor near-copies of one text stand on both
sides. A cluster is known by a content hash: its survivor's, which for a text that is like no other is its own. Adding
documents moves no old one, except where it gives its cluster another survivor.

Price: a few vectorised operations per row, about 20M rows/s a core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from penstock.errors import ConfigError
from penstock.seeding import coins, mix64
from penstock.selectors.exact import hash_words

NAMES = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class AssignSplit:
    """Annotator: adds ``split``. ``validation`` and ``test`` are expected shares of clusters; the rest trains.

    With one seed, growing ``validation + test`` only moves documents out of train.
    """

    seed: int
    validation: float = 0.01
    test: float = 0.01
    column: str = "content_hash"
    """Holds the 16 bytes that a cluster is known by."""

    name: ClassVar[str] = "assign_split"
    revision: ClassVar[int] = 1
    adds: ClassVar[tuple[str, ...]] = ("split",)

    def __post_init__(self) -> None:
        for name, share in (("validation", self.validation), ("test", self.test)):
            if not 0.0 <= share <= 1.0:
                raise ConfigError(f"{name}: got {share}, allowed a share from 0 to 1; give it as a fraction")
        if not self.validation + self.test < 1.0:
            total = self.validation + self.test
            raise ConfigError(
                f"validation + test: got {total}, allowed below 1; lower one, or nothing is left to train on"
            )

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.column,)

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """``split``: one of train, validation, test."""
        words = hash_words(batch[self.column])
        coin = coins(words[:, 0] ^ mix64(words[:, 1]), self.seed, "split")
        code = np.where(coin < self.test, 2, np.where(coin < self.test + self.validation, 1, 0))
        return {"split": pa.array(NAMES, pa.string()).take(pa.array(code))}
