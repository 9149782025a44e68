"""A mixture that stays: given weights, all domains alike, or proportional to tokens with a temperature.

    p_k = |D_k| ** (1 / temperature) / sum_j |D_j| ** (1 / temperature)

Temperature 1 is proportional; towards infinity it becomes uniform. Sampling by p and weighting the loss of
proportional samples by p_k / p(1)_k have the same mean gradient; sampling has the smaller variance where the domains'
gradients are of like size (Li et al., NAACL 2025, arXiv 2410.04579), so a mixture here is always a way to sample. How
far it is from proportional is F = sum p_k^2 / p(1)_k, in the post-stage's facts.

Trap: a high temperature repeats small domains; in that paper's runs tau 3 and 5 overfit them. A cap on epochs
(``PostStage.max_epochs``) is the guard.

Price: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.training.mixing.base import Cadence, Mixture, Observation, Signal
from penstock.training.mixing.rule import Rule, Shares, setting, shares


@dataclass(kw_only=True, eq=False)
class Static(Rule):
    """The same mixture at every step.

    Args:
        weights: a number >= 0 for every domain, "proportional" or "uniform".
        temperature: of "proportional", > 0.
    """

    name: str = field(default="static", init=False)
    cadence: Cadence = field(default_factory=Cadence)
    weights: Shares = "proportional"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        setting(self, "temperature", above=0)

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset()

    def start(self, domains: tuple[str, ...], tokens: NDArray[np.int64]) -> Mixture:
        self.begin(domains, tokens)
        return Mixture(weights=shares(self.weights, domains, tokens, temperature=self.temperature))

    def update(self, seen: Observation) -> Mixture | None:
        return None


def named(weights: Mapping[str, float] | Any, domains: tuple[str, ...]) -> dict[str, float]:
    """Shares of shape (K,) as the weights by name that a recipe and ``Static`` take."""
    return {name: float(w) for name, w in zip(domains, weights, strict=True)}
