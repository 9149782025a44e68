"""Random selection: what every other method has to beat.

A row's score is a coin of its id, so the selection does not depend on order, and one of a larger budget holds that of a
smaller one. The target is not looked at.

Price: a hash a row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from penstock.seeding import coins
from penstock.selectors.targeted.base import check_target, scores_array


@dataclass(frozen=True, kw_only=True)
class Random:
    """A coin for every row.

    Args:
        seed: of the coins; two seeds give independent selections.
    """

    seed: int = 0

    name: ClassVar[str] = "random"
    revision: ClassVar[int] = 1
    column: ClassVar[str] = "score.random"
    reads: ClassVar[tuple[str, ...]] = ("id_hash",)

    def fit(self, target: pa.Table, pool: Iterable[pa.RecordBatch], folder: str) -> RandomScore:
        """Nothing is learned; an empty target is refused as by every method.

        Raises:
            ConfigError: the target is empty.
        """
        check_target(target, (), method=self.name)
        return RandomScore(seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class RandomScore:
    """Annotator: ``score.random``, uniform in [0, 1]."""

    seed: int

    name: ClassVar[str] = "random"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("id_hash",)
    adds: ClassVar[tuple[str, ...]] = ("score.random",)

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        coin = coins(batch["id_hash"].to_numpy(zero_copy_only=False), self.seed, "targeted", "random")
        return {"score.random": scores_array(coin)}
