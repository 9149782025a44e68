"""Settings of a search, with their defaults and where these come from.

Price: none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from penstock.errors import ConfigError
from penstock.selectors.search.space import AverageSpace

Method = Literal["random", "evolution", "climb"]
Evidence = Literal["predicted", "measured"]


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How a search spends its measurements and draws.

    Args:
        proxies: points that are measured and fitted; QuaDMix has 3,000, RegMix 512, CLIMB 112.
        method: how points are proposed from the fit: the mean of the best of many draws (``random``, QuaDMix and
            RegMix), crossing and mutating them (``evolution``), or in rounds that measure where the last fit
            promised most (``climb``).
        draws: points that the surrogate predicts.
        top: how many of the best predicted are averaged (QuaDMix 10, RegMix 128).
        average_space: what is averaged, see ``space``.
        survivors, generations, children, mutation: of ``evolution``.
        rounds: points a round of ``climb``, their sum being ``proxies``; empty is 4 : 2 : 1.
        noise_seeds: seeds under which one point is measured for the noise of a measurement; at least 3.
        remeasure_seeds: fresh seeds of every candidate; at least 2.
        top_measured: best measured points that are measured again beside the proposed one.
        evidence: what a claim rests on beside the better fresh measurement, see ``guard``: a predicted gain beyond the
            surrogate's residuals, or a measured lead beyond its error.
        z: deviations, or errors, that it must exceed.
    """

    proxies: int = 64
    method: Method = "random"
    draws: int = 100_000
    top: int = 10
    average_space: AverageSpace = "unit"
    survivors: int = 128
    generations: int = 30
    children: int = 2000
    mutation: float = 0.02
    rounds: tuple[int, ...] = ()
    noise_seeds: int = 3
    remeasure_seeds: int = 2
    top_measured: int = 3
    evidence: Evidence = "predicted"
    z: float = 1.64

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ConfigError(f"search method: got {self.method!r}, allowed {', '.join(get_args(Method))}; choose one")
        if self.average_space not in get_args(AverageSpace):
            raise ConfigError(f"search average_space: got {self.average_space!r}, allowed unit, value; choose one")
        if self.evidence not in get_args(Evidence):
            raise ConfigError(f"search evidence: got {self.evidence!r}, allowed predicted, measured; choose one")
        for name, least in (
            ("proxies", 10),
            ("draws", 1),
            ("top", 1),
            ("survivors", 1),
            ("generations", 1),
            ("children", 1),
            ("noise_seeds", 3),
            ("remeasure_seeds", 2),
            ("top_measured", 1),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"search {name}: got {getattr(self, name)}, allowed >= {least}")
        for name in ("top", "survivors"):
            if getattr(self, name) > self.draws:
                raise ConfigError(
                    f"search {name}: got {getattr(self, name)}, allowed at most the {self.draws} draws; raise draws"
                )
        if not 0.0 <= self.mutation <= 1.0:
            raise ConfigError(f"search mutation: got {self.mutation}, allowed 0 to 1")
        if not (self.z >= 0.0 and math.isfinite(self.z)):
            raise ConfigError(f"search z: got {self.z}, allowed >= 0 and finite")
        if self.rounds and (sum(self.rounds) != self.proxies or min(self.rounds) < 1 or self.rounds[0] < 10):
            raise ConfigError(
                f"search rounds: got {list(self.rounds)}, allowed counts >= 1, the first >= 10, that sum to the "
                f"{self.proxies} proxies; leave them out for 4 : 2 : 1"
            )
        if self.method == "climb":
            self.climb_rounds()

    def climb_rounds(self) -> tuple[int, ...]:
        """Points of each round."""
        if self.rounds:
            return self.rounds
        last = max(1, self.proxies // 7)
        middle = max(1, 2 * self.proxies // 7)
        first = self.proxies - middle - last
        if first < 10:
            raise ConfigError(f"search proxies: got {self.proxies}, allowed >= 16 for climb; its first round needs 10")
        return first, middle, last
