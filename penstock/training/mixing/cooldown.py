"""Cooldown: temperature sampling with a high temperature in the first half of training and 1 in the second.

    p_k(t) = |D_k| ** (1 / tau(t)),  tau = ``hot`` before the switch and ``cold`` from it on

Li et al., NAACL 2025 (arXiv 2410.04579): small domains are learnt early, when their many repeats cannot be memorised
yet, and the end of training sees the true proportions. Defaults are the paper's: 5, then 1, one hard switch at half
of the steps.

Traps: the paper compared the single switch with a temperature that falls at many steps, and the single switch was
better (2.59 against 3.17 and 3.31 nats on English, and alike on three other languages); falling was better than
rising, although one of its section headings says the opposite. Its English loss is 2.75 in one table and 2.59 in a
figure. DoReMi was better on two of its four languages.

Price: nothing; one update in a run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.training.mixing.base import Cadence, Floats, Mixture, Observation, Signal
from penstock.training.mixing.rule import Rule, setting, shares


@dataclass(kw_only=True, eq=False)
class Cooldown(Rule):
    """One hard switch of temperature.

    Args:
        steps: optimiser steps of the whole run, >= 2.
        hot, cold: temperatures before and after, > 0.
        at: share of the steps after which the switch comes, above 0 and at most 1. The policy is asked after step
            ``round(at * steps)``, and the loader's lag comes on top.
    """

    kept: ClassVar[tuple[str, ...]] = ("held", "switched")

    name: str = field(default="cooldown", init=False)
    steps: int
    hot: float = 5.0
    cold: float = 1.0
    at: float = 0.5
    cadence: Cadence = field(init=False)

    held: Floats = field(init=False, repr=False)  # (K,) tokens of each domain
    switched: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("hot", "cold"):
            setting(self, name, above=0)
        setting(self, "steps", least=2)
        setting(self, "at", above=0, most=1)
        if int(self.steps) != self.steps:
            raise ConfigError(f"policy cooldown, steps: got {self.steps}, allowed a whole number")
        self.cadence = Cadence(every=max(1, round(self.at * self.steps)))

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset()

    def start(self, domains: tuple[str, ...], tokens: NDArray[np.int64]) -> Mixture:
        self.begin(domains, tokens)
        self.held, self.switched = np.asarray(tokens, dtype=np.float64), False
        return self._at(self.hot)

    def update(self, seen: Observation) -> Mixture | None:
        if self.switched or seen.step < self.cadence.every:
            return None
        self.switched = True
        return self._at(self.cold)

    def _at(self, temperature: float) -> Mixture:
        weights = shares("proportional", self.domains, self.held.astype(np.int64), temperature=temperature)
        return Mixture(weights=weights, facts={"temperature": temperature})
