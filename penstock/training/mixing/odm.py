"""Online Data Mixing: a multi-armed bandit whose arms are domains and whose reward is the training loss.

    e_t = min(1 / K, sqrt(ln K / (K t)))                            exploration, t = steps since the warm-up
    exp3           R_k += (loss_k / 10) / share_k                   for each domain seen
                   a_k  = (1 - K e_t) softmax(e_(t-1) R)_k + e_t
    smoothed_mean  R_k  = 0.9 R_k + 0.1 exp(loss_k)
                   a_k  = (1 - K e_t) R_k / sum R + e_t

Albalak et al. 2023 (arXiv 2312.02406). ``exp3`` is the paper's form with the scale 1/10 of the authors' code; the
class that their README names keeps a running mean of exp(loss) instead, and for batches of several domains weighs
linearly: ``smoothed_mean``. They are different rules under one name.

Traps:

- dividing by the share corrects for arms that were not drawn. Where every batch holds every domain all arms are seen,
  and the division only inflates rare domains: set ``importance: false`` there, or take ``smoothed_mean``;
- the share to divide by is the one that the observed sequences were drawn under, not the newest: the loader reads
  ahead;
- e_t = 1 / K until t reaches K ln K: the mixture is uniform at first, whatever it began with;
- a reward that is the loss favours what stays hard, noise included;
- one reimplementation divides the rewards of all arms although it saw them all, and never renormalises its weights,
  which overflow in a long run; here sums are bounded and exponents are taken relative to the largest.

Price: the losses that training has anyway.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from penstock.training.mixing.base import Cadence, Floats, Mixture, Observation, Signal
from penstock.training.mixing.rule import Rule, Shares, choice, setting, shares, softmax

_LARGEST = 1e300


@dataclass(kw_only=True, eq=False)
class OnlineDataMixing(Rule):
    """EXP3 on training losses, or its linear form on a running mean.

    Args:
        form: see the module.
        scale: what ``exp3`` divides a loss by, > 0.
        importance: ``exp3`` divides by the share drawn under; False where every arm is seen at every update.
        smoothing: of ``smoothed_mean``, 0 to below 1.
        initial: the mixture before the first update.
    """

    kept: ClassVar[tuple[str, ...]] = ("rewards", "exploration")

    name: str = field(default="odm", init=False)
    cadence: Cadence = field(default_factory=lambda: Cadence(every=1))
    form: Literal["exp3", "smoothed_mean"] = "exp3"
    scale: float = 10.0
    importance: bool = True
    smoothing: float = 0.9
    initial: Shares = "uniform"

    # (K,) R of ``exp3``; of ``smoothed_mean`` log R, nan for a domain never seen, whose R is 0
    rewards: Floats = field(init=False, repr=False)
    exploration: float = field(init=False, repr=False)  # e_(t-1)

    def __post_init__(self) -> None:
        choice(self, "form", ("exp3", "smoothed_mean"))
        setting(self, "scale", above=0)
        setting(self, "smoothing", least=0, most=0.999999)
        choice(self, "importance", (True, False))

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset({Signal.TRAIN_LOSS})

    def start(self, domains: tuple[str, ...], tokens: NDArray[np.int64]) -> Mixture:
        self.begin(domains, tokens)
        self.rewards = np.full(len(domains), 0.0 if self.form == "exp3" else np.nan)
        self.exploration = 1.0 / int(self.present.sum())
        return Mixture(weights=shares(self.initial, domains, tokens, what="policy odm, initial"))

    def update(self, seen: Observation) -> Mixture | None:
        """None when no loss was seen."""
        loss = np.clip(seen.mean(Signal.TRAIN_LOSS), -_LARGEST, _LARGEST)
        observed = self.present & ~np.isnan(loss)
        if not observed.any():
            return None
        before, self.exploration = self.exploration, self._exploration(seen.step)
        if self.form == "exp3":
            drawn = np.where(self.importance & (seen.weights > 0), seen.weights, 1.0)
            reward = np.divide(loss / self.scale, drawn, out=np.zeros(len(loss)), where=observed)
            self.rewards = np.clip(self.rewards + reward, -_LARGEST, _LARGEST)
            exploited = softmax(before * self.rewards, self.present)
        else:
            fresh = math.log1p(-self.smoothing) + np.where(observed, loss, 0.0)
            kept = math.log(self.smoothing) if self.smoothing else -math.inf
            old = np.where(np.isnan(self.rewards), -np.inf, self.rewards + kept)
            self.rewards = np.where(observed, np.logaddexp(old, fresh), self.rewards)
            exploited = softmax(self.rewards, self.present & ~np.isnan(self.rewards))
        weights = np.where(self.present, self._mixed(exploited), 0.0)
        rewards = [None if np.isnan(x) else float(x) for x in self.rewards]
        return Mixture(weights=weights / weights.sum(), facts={"exploration": self.exploration, "rewards": rewards})

    def _mixed(self, exploited: Floats) -> Floats:
        mixed: Floats = (1.0 - self.present.sum() * self.exploration) * exploited + self.exploration
        return mixed

    def _exploration(self, step: int) -> float:
        arms, t = int(self.present.sum()), max(step - self.cadence.warmup, 1)
        return min(1.0 / arms, math.sqrt(math.log(arms) / (arms * t)))
