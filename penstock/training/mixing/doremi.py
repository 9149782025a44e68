"""DoReMi: loss multipliers that follow a small model's excess loss over a reference, to find a mixture for a large one.

    lambda_k = mean over the tokens of k of max(loss - reference loss, 0)
    log a_k += eta * lambda_k,  normalise,  a <- (1 - c) a + c u
    result   = mean of a over all updates

Xie et al. 2023 (arXiv 2305.10429). The small model goes on drawing from the mixture that it began with; the loss of a
token of domain k is multiplied by a_k / share_k. ``result`` is what the large model is then trained on, as a static
mixture.

Traps:

- the clip at 0 is per token (``Signal.EXCESS_LOSS`` is summed after it); two known reimplementations clip the domain's
  mean, which is another rule;
- the smoothing c is part of the recursion: smoothing once more in the post-stage would be another rule, so a recipe
  that asks for both is refused;
- a domain without tokens since the last update keeps its last lambda. Before it was ever seen that is 0 here; the
  authors' code begins with the logarithm of the vocabulary's size, which lifts whatever domain comes late;
- with gradient accumulation lambda must cover all micro-batches of the step; in the authors' code all but one use stale
  weights;
- whoever trains divides the weighted loss by the sum of the tokens' multipliers over all ranks, not by their number.

Price: a forward pass of the reference model per batch (or its losses kept with the data), one update per step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from penstock.training.mixing.base import Cadence, Floats, Mixture, Observation, Signal
from penstock.training.mixing.rule import Rule, Shares, log_shares, mirror_step, setting, shares, softmax


@dataclass(kw_only=True, eq=False)
class DoReMi(Rule):
    """Exponentiated gradient on clipped excess losses; the sampling mixture stays.

    Args:
        eta: step size, > 0.
        smoothing: c, 0 to below 1; 1e-3 in the authors' runs, 1e-4 in their code's defaults.
        initial: a at step 0.
        sampling: the mixture that is drawn throughout; domains of weight 0 take no part.
    """

    kept: ClassVar[tuple[str, ...]] = ("log_weights", "excess", "result", "drawn", "updates")

    name: str = field(default="doremi", init=False)
    cadence: Cadence = field(default_factory=lambda: Cadence(every=1))
    eta: float = 1.0
    smoothing: float = 1e-3
    initial: Shares = "uniform"
    sampling: Shares = "proportional"

    log_weights: Floats = field(init=False, repr=False)  # (K,) log a
    excess: Floats = field(init=False, repr=False)  # (K,) last lambda of each domain, in nats per token
    result: Floats = field(init=False, repr=False)  # (K,) mean of a over all updates, the initial a before the first
    drawn: Floats = field(init=False, repr=False)  # (K,) the sampling mixture
    updates: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        setting(self, "eta", above=0)
        setting(self, "smoothing", least=0, most=0.999999)

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset({Signal.EXCESS_LOSS})

    def start(self, domains: tuple[str, ...], tokens: NDArray[np.int64]) -> Mixture:
        self.begin(domains, tokens)
        self.drawn = shares(self.sampling, domains, tokens, what="policy doremi, sampling")
        initial = shares(self.initial, domains, tokens, what="policy doremi, initial")
        self.present = (self.drawn > 0) & (initial > 0)
        self.log_weights = log_shares(initial, self.present)
        self.excess, self.updates = np.zeros(len(domains)), 0
        self.result = softmax(self.log_weights, self.present)
        return self._mixture(self.result, self.drawn)

    def update(self, seen: Observation) -> Mixture | None:
        excess = seen.mean(Signal.EXCESS_LOSS)
        self.excess = np.where(np.isnan(excess), self.excess, excess)
        with np.errstate(over="ignore"):
            moved = mirror_step(self.log_weights, self.eta * self.excess, self.present)
        if self.smoothing:
            # in logarithms, so that a weight too small for a float64 is still lifted to c / K
            uniform = np.log(self.smoothing / self.present.sum())
            moved = np.where(self.present, np.logaddexp(np.log1p(-self.smoothing) + moved, uniform), moved)
        self.log_weights = moved
        weights = softmax(moved, self.present)
        self.updates += 1
        self.result = self.result + (weights - self.result) / self.updates if self.updates > 1 else weights
        # the observed sequences' own shares: the post-stage may have changed what is drawn
        return self._mixture(weights, seen.weights)

    def _mixture(self, weights: Floats, drawn: Floats) -> Mixture:
        multipliers = np.divide(weights, drawn, out=np.zeros(len(weights)), where=drawn > 0)
        facts = {"weights": weights.tolist(), "result": self.result.tolist(), "excess": self.excess.tolist()}
        return Mixture(weights=self.drawn.copy(), multipliers=multipliers, facts=facts)
