"""R&B's balance step: domains whose gradients agree with those of all evaluation data, weighed by a softmax.

    G_ij = <g_i, g_j>,  the mean gradients of domains i and j
    a    = softmax(strength * G p / ||G p||),  p = the evaluation data's shares of the domains

Ge et al. 2025 (arXiv 2505.00358), which regroups documents by meaning first (``group`` in a recipe) and balances
then. The mixture is overwritten at every update, not accumulated: equal products give equal shares, whatever was
before.

Traps:

- at ||G p|| = 0 the formula is nan: the mixture then stays;
- clustering alone, with equal shares, gave 65 %, 33 % and more than all of the paper's gain on its three data sets:
  what the domains are matters as much as this rule. Run grouped domains with equal shares beside it;
- the direction has length 1, so with many domains a softmax of strength 1 is close to uniform; the paper's strength
  is not known to us;
- training and evaluation must share their domains.

Price: with the final layer's gradients of ordinary steps, a K x K product per update (the paper measured 0.0006 % to
0.1 % of a step); with a probe, K gradients of a probe batch per update.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from penstock.training.mixing.base import Cadence, Floats, Mixture, Observation, Signal
from penstock.training.mixing.rule import Rule, Shares, setting, shares, softmax


@dataclass(kw_only=True, eq=False)
class RegroupAndBalance(Rule):
    """Softmax over normalised gradient agreement.

    A domain without a gradient since the last update keeps the share it was drawn with, and the others share the rest;
    in the products only pairs that were seen together count.

    Args:
        strength: the softmax's factor, >= 0.
        evaluation: shares of the domains in the data that is evaluated on.
        initial: the mixture before the first update.
    """

    kept: ClassVar[tuple[str, ...]] = ("shares_evaluated",)

    name: str = field(default="rnb", init=False)
    cadence: Cadence = field(default_factory=lambda: Cadence(every=100))
    strength: float = 1.0
    evaluation: Shares = "proportional"
    initial: Shares = "uniform"

    shares_evaluated: Floats = field(init=False, repr=False)  # (K,)

    def __post_init__(self) -> None:
        setting(self, "strength", least=0)

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset({Signal.GRADIENT_GRAM})

    def start(self, domains: tuple[str, ...], tokens: NDArray[np.int64]) -> Mixture:
        self.begin(domains, tokens)
        self.shares_evaluated = shares(self.evaluation, domains, tokens, what="policy rnb, evaluation")
        return Mixture(weights=shares(self.initial, domains, tokens, what="policy rnb, initial"))

    def update(self, seen: Observation) -> Mixture | None:
        """None when no gradient was seen, or the products with the evaluation data are all 0."""
        gram = seen.mean(Signal.GRADIENT_GRAM)
        known = ~np.isnan(gram)
        p = np.where(known, self.shares_evaluated, 0.0)  # (K, K), row i: what domain i was compared with
        compared = p.sum(axis=1)
        # relative to the largest product, so that squares cannot overflow
        largest = float(np.abs(gram[known]).max(initial=0.0))
        if largest == 0.0:
            return None
        agreement = np.where(known, gram / largest, 0.0)
        agreement = np.divide((agreement * p).sum(axis=1), compared, out=np.zeros(len(compared)), where=compared > 0)
        measured = self.present & (compared > 0)
        norm = float(np.sqrt((agreement[measured] ** 2).sum()))
        if norm == 0.0:
            return None
        rest = np.where(self.present & ~measured, seen.weights, 0.0)
        mass = max(1.0 - float(rest.sum()), 0.0)
        weights = rest + mass * softmax(self.strength * agreement / norm, measured)
        direction = [float(x / norm) if m else None for x, m in zip(agreement, measured, strict=True)]
        return Mixture(weights=weights / weights.sum(), facts={"direction": direction})
