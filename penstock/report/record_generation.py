"""What a report shows of made data: voyages and their baselines, a map, samples, variants, requests to models.

Part of the record of a run. Gains, thresholds and Vendi scores are those of the run kernel, so they compare
within a run and not between runs. Costs are in the unit of the price table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from penstock.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class VoyageRound:
    """A round in numbers, from the table ``rounds``; -1 is the first sample.

    ``vendi`` is that of all ``total`` items accepted so far.
    """

    round: int
    proposed: int
    accepted: int
    total: int
    vendi: float
    threshold: float | None = None
    mean_gain: float | None = None


@dataclass(frozen=True, kw_only=True)
class VoyageRecord:
    """How items were made, by Voyager or by a baseline, from the statistics of a step ``generated``.

    ``name`` is ``voyager`` or the baseline's. ``rejected`` counts items by stage and reason, ``diversity: low_gain``.
    """

    name: str
    wanted: int
    accepted: int
    detail: str  # why it ended
    vendi: float
    proposed: int
    explorers: int
    calls: int | None = None
    rejected: Mapping[str, int] = dataclasses.field(default_factory=dict)
    rounds: tuple[VoyageRound, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MadeSample:
    """An item of a voyage; ``reason`` is None for an accepted one. ``text`` is what its table kept of it."""

    item: str
    round: int
    reason: str | None
    gain: float | None = None
    threshold: float | None = None
    gradient: str | None = None  # the reason that its explorer was refined by
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class MadeMap:
    """Items as points in the plane, by their embeddings (PCA): coordinates in [-1, 1] and what each is."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    kinds: tuple[str, ...]  # seed, rejected, voyager, the name of a baseline

    def __post_init__(self) -> None:
        if not len(self.x) == len(self.y) == len(self.kinds):
            raise ConfigError(
                f"map: got {len(self.x)}, {len(self.y)} and {len(self.kinds)} coordinates and kinds, allowed equally "
                "many"
            )


@dataclass(frozen=True, kw_only=True)
class TransformRow:
    """What became of one transform, from the statistics of the step ``transformed``."""

    name: str
    kept: int
    not_applicable: int
    rejected: Mapping[str, int] = dataclasses.field(default_factory=dict)  # by the check that stopped it


@dataclass(frozen=True, kw_only=True)
class VariantsRecord:
    """Groups of questions. ``sizes`` counts problems by the rows of their group, "0" for those without a variant."""

    sizes: Mapping[str, int]
    transforms: tuple[TransformRow, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AskedRecord:
    """What a step asked a model, from its meter; ``p50`` and ``p99`` are latencies in seconds."""

    step: str
    model: str
    requests: int
    kept: int  # of them, answered without asking
    prompt_tokens: int
    completion_tokens: int
    cost: float | None = None
    failed: Mapping[str, int] = dataclasses.field(default_factory=dict)
    p50: float | None = None
    p99: float | None = None


@dataclass(frozen=True, kw_only=True)
class GenerationRecord:
    """All that a run made; the first voyage is the run's own, those after it were made to compare with."""

    voyages: tuple[VoyageRecord, ...]
    map: MadeMap | None = None
    samples: tuple[MadeSample, ...] = ()
    variants: VariantsRecord | None = None
