"""What a search asks to be measured and what it is told: plain values that a file can hold.

A trial is decided by the space, the settings and the seed alone, so measurements found in files are as good as new
ones and an interrupted search goes on where it stopped. ``number`` and ``label`` name a trial in reports; point and
seed decide its measurement.

Price: none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Purpose = Literal["search", "noise", "re-measure"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One point to measure.

    Attributes:
        number: its place among the trials of the search, from 0.
        unit: the point, in the coordinates of the space.
        seed: of everything random in the measurement: coins of the rows, start of the model, order of its data.
        purpose: ``search`` points are fitted; ``noise`` measures one point under several seeds; ``re-measure`` the
            candidates under fresh seeds.
        label: "draw 12", "natural", "predicted best".
    """

    number: int
    unit: tuple[float, ...]
    seed: int
    purpose: Purpose
    label: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a trial gave; ``loss`` None says that it diverged, and ``flag`` why.

    Attributes:
        loss: what the search makes small, nats a token.
        losses: the same by target set.
        tokens, unique_tokens: of the proxy's training set, with and without repeats.
        epochs: passes over each domain's tokens.
        seconds: of wall time.
    """

    trial: Trial
    loss: float | None
    losses: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    unique_tokens: int = 0
    epochs: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    flag: str | None = None

    @property
    def value(self) -> float | None:
        """The loss where it is a finite number."""
        return self.loss if self.loss is not None and math.isfinite(self.loss) else None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"loss": self.value}


Measure = Callable[[Sequence[Trial]], Iterable[Measured]]
