"""What a scorer is: an annotator of ``score.*`` columns that says of each which end is good.

A selection that reads a score the wrong way round takes the worst documents and reports nothing unusual. So the
direction is declared where the score is made, a recipe need not repeat it, and one test holds every shipped scorer to
it: planted good text ranks above planted bad text, and the raw score moves the declared way over the deciles of rank.

A scorer in full::

    @dataclass(frozen=True, kw_only=True)
    class Length:
        name = "length"; revision = 1; reads = ("text",); adds = ("score.length",)
        directions = {"score.length": "higher"}

        def annotate(self, batch):
            return {"score.length": pc.utf8_length(batch["text"]).cast(pa.float32())}

Scores are float32, rounded before they are stored, and null where a row has none; never NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Direction = Literal["higher", "lower"]
PREFIX = "score."


@runtime_checkable
class Scorer(Protocol):
    """An annotator whose columns have a direction: ``directions`` names each column of ``adds``."""

    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> int: ...
    @property
    def adds(self) -> tuple[str, ...]: ...
    @property
    def directions(self) -> Mapping[str, Direction]: ...
    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]: ...


def declared(scorers: Iterable[Any]) -> dict[str, Direction]:
    """Criterion name (a column without ``score.``) to its direction, of all scorers."""
    return {
        column.removeprefix(PREFIX): direction for scorer in scorers for column, direction in scorer.directions.items()
    }


def score_array(values: NDArray[Any], digits: int = 4) -> pa.Array:
    """Scores as they are stored: float32 rounded to ``digits`` decimals, null where they are not finite."""
    rounded = np.round(np.asarray(values, dtype=np.float64), digits)
    return pa.array(rounded.astype(np.float32), mask=~np.isfinite(rounded))
