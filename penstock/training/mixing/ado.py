"""Adaptive Data Optimization: more of the domains whose fitted loss curve still falls.

    L_k(n) = epsilon_k + beta_k n ** -alpha_k        fitted to each domain's training losses (``scaling``)
    rho_k  ~ mu_k h_k ** s (-dL_k/dn),               dL_k/dn = -(alpha_k / n) (L_k - epsilon_k)
    pi     = g2 rho + (1 - g2) mean of the earlier pi

with mu the prior mixture and h the running share that domain k had of training (credit for its own progress). Jiang
et al. 2024 (arXiv 2410.11820). n is all tokens trained on together, as in the authors' runs (other domains help too),
or by option the domain's own.

The order of an update: (1) the losses are noted; (2) h <- g1 w + (1 - g1) h with w the mixture that the observed
sequences were drawn under; (3) the curves are fitted if that is due; (4) rho, normalised, then lifted to ``floor``
and normalised again; (5) pi; (6) the mean of pi. The first mixtures are the prior: no curve is fitted before
``first_fit``, and losses of the first ``ignore`` steps never count. A curve is smoothed by Savitzky and Golay's
filter over ``window`` updates, then every ``subsample``-th point is kept.

Traps:

- a known port of it clips pi instead of rho, and updates h after the mixture instead of before; the mixtures differ;
- it also takes the mean of rho where the method takes that of pi;
- the paper's bounds hold for n in samples of 1,024 tokens: that is the unit here too (``tokens_per_unit``);
- curves that fall below 1.65 nats need a smaller ``min_log_epsilon``;
- a domain without a curve yet keeps its share of the mean, and the others share the rest;
- rho is a ratio of slopes of fits: noise in a small domain's curve moves everyone.

Price: K fits of some 0.2 s each thousand steps; a float per domain and update of memory and state, thinned by half
whenever ``history`` updates are exceeded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.training.mixing.base import Cadence, Floats, Mixture, Observation, Signal
from penstock.training.mixing.post import lifted
from penstock.training.mixing.rule import Rule, Shares, choice, setting, shares, softmax
from penstock.training.mixing.scaling import Law, fit_law


@dataclass(kw_only=True, eq=False)
class AdaptiveDataOptimization(Rule):
    """Slopes of fitted loss curves, with priors, credit and a floor; see the module.

    Args:
        prior: mu, and the mixture until the first fit.
        credit: s, the exponent of h, >= 0.
        memory: g1, share of the newest mixture in h, above 0 and at most 1.
        weight: g2, share of rho in the mixture, above 0 and at most 1.
        floor: least share of rho of a domain, 0 to 1 / K.
        first_fit, refit: steps before the first fit and between two.
        ignore: steps whose losses never count.
        subsample: keeps every so manieth point of a smoothed curve.
        window, order: of the smoothing filter, in updates; shorter curves get a shorter window.
        axis: n is the tokens of all domains ("total") or of the domain alone ("domain").
        tokens_per_unit: tokens in one unit of n.
        max_alpha, max_log_beta, min_log_epsilon: bounds of the fit.
        polish: of its 384 starts, how many are followed, >= 1.
        history: updates that are remembered, >= 16.
    """

    kept: ClassVar[tuple[str, ...]] = ("mu", "credits", "mean", "answers", "seen_updates", "stride", "fitted_at")

    name: str = field(default="ado", init=False)
    cadence: Cadence = field(default_factory=lambda: Cadence(every=1))
    prior: Shares = "proportional"
    credit: float = 0.5
    memory: float = 0.1
    weight: float = 0.1
    floor: float = 0.01
    first_fit: int = 1000
    refit: int = 1000
    ignore: int = 500
    subsample: int = 10
    window: int = 101
    order: int = 3
    axis: Literal["total", "domain"] = "total"
    tokens_per_unit: float = 1024.0
    max_alpha: float = 0.8
    max_log_beta: float = 6.5
    min_log_epsilon: float = 0.5
    polish: int = 16
    history: int = 20_000

    mu: Floats = field(init=False, repr=False)  # (K,)
    credits: Floats = field(init=False, repr=False)  # (K,) h
    mean: Floats = field(init=False, repr=False)  # (K,) of the prior and all pi so far
    answers: int = field(default=0, init=False, repr=False)  # pi given
    seen_updates: int = field(default=0, init=False, repr=False)
    stride: int = field(default=1, init=False, repr=False)  # every so manieth update is remembered
    fitted_at: int = field(default=-1, init=False, repr=False)  # step of the last fit
    laws: list[Law | None] = field(default_factory=list, init=False, repr=False)
    # rows (step, n of each domain, loss of each domain or nan): 1 + 2 K numbers
    rows: list[list[float]] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        setting(self, "credit", least=0)
        for name in ("memory", "weight"):
            setting(self, name, above=0, most=1)
        setting(self, "floor", least=0, most=1)
        setting(self, "tokens_per_unit", above=0)
        setting(self, "max_alpha", above=0.001)
        setting(self, "max_log_beta", above=-10)
        setting(self, "min_log_epsilon")
        choice(self, "axis", ("total", "domain"))
        for name, least in (
            ("first_fit", 1),
            ("refit", 1),
            ("ignore", 0),
            ("subsample", 1),
            ("history", 16),
            ("polish", 1),
        ):
            self._whole(name, least)
        self._whole("order", 0)
        self._whole("window", self.order + 2)

    def _whole(self, name: str, least: int) -> None:
        setting(self, name, least=least)
        if int(getattr(self, name)) != getattr(self, name):
            raise ConfigError(f"policy ado, {name}: got {getattr(self, name)}, allowed a whole number >= {least}")

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset({Signal.TRAIN_LOSS})

    def start(self, domains: tuple[str, ...], tokens: NDArray[np.int64]) -> Mixture:
        self.begin(domains, tokens)
        self.mu = shares(self.prior, domains, tokens, what="policy ado, prior")
        self.present = self.mu > 0
        self.credits, self.mean = self.mu.copy(), self.mu.copy()
        self.answers, self.seen_updates, self.stride, self.fitted_at = 0, 0, 1, -1
        self.laws, self.rows = [None] * len(domains), []
        count = int(self.present.sum())
        if self.floor * count > 1.0:
            raise ConfigError(f"policy ado, floor: got {self.floor}, allowed at most 1 / {count} domains; lower it")
        return Mixture(weights=self.mu.copy())

    def update(self, seen: Observation) -> Mixture | None:
        """None before the first curve is fitted."""
        n = self._amounts(seen)
        self._remember(seen.step, n, seen.mean(Signal.TRAIN_LOSS))
        self.credits = self.memory * seen.weights + (1.0 - self.memory) * self.credits
        facts: dict[str, Any] = {}
        if seen.step >= self.first_fit and (self.fitted_at < 0 or seen.step - self.fitted_at >= self.refit):
            self.fitted_at = seen.step
            self._fit()
            facts["laws"] = [_plain(law) for law in self.laws]
        rho = self._preference(n)
        if rho is None:
            return None
        weights = self.weight * rho + (1.0 - self.weight) * self.mean
        weights = weights / weights.sum()
        self.answers += 1
        self.mean = self.mean + (weights - self.mean) / (self.answers + 1)
        return Mixture(weights=weights, facts=facts | {"rho": rho.tolist()})

    def _amounts(self, seen: Observation) -> Floats:
        tokens = np.asarray(seen.tokens, dtype=np.float64)
        if self.axis == "total":
            tokens = np.full(len(tokens), tokens.sum())
        amounts: Floats = tokens / self.tokens_per_unit
        return amounts

    def _remember(self, step: int, n: Floats, loss: Floats) -> None:
        if self.seen_updates % self.stride == 0:
            self.rows.append([float(step), *n.tolist(), *loss.tolist()])
        self.seen_updates += 1
        if len(self.rows) > self.history:
            self.rows, self.stride = self.rows[::2], self.stride * 2

    def _fit(self) -> None:
        rows, k = np.array(self.rows), len(self.domains)
        for at in np.flatnonzero(self.present):
            n, loss = self._curve(rows[:, 0], rows[:, 1 + at], rows[:, 1 + k + at])
            law = fit_law(
                n,
                loss,
                max_alpha=self.max_alpha,
                max_log_beta=self.max_log_beta,
                min_log_epsilon=self.min_log_epsilon,
                polish=int(self.polish),
            )
            # a domain that has too few points keeps the curve it had
            self.laws[at] = law or self.laws[at]

    def _curve(self, step: Floats, n: Floats, loss: Floats) -> tuple[Floats, Floats]:
        """The points that are fitted: where the domain was seen, smoothed, late enough, thinned."""
        from scipy.signal import savgol_filter

        seen = np.isfinite(loss) & (n > 0)
        step, n, loss = step[seen], n[seen], loss[seen]
        window = min(self.window, len(loss))
        window -= 1 - window % 2
        if window > self.order:
            with np.errstate(over="ignore"):
                loss = savgol_filter(loss, window_length=window, polyorder=self.order)
        late = step > self.ignore
        return n[late][:: self.subsample], loss[late][:: self.subsample]

    def _preference(self, n: Floats) -> Floats | None:
        """rho; None when no domain has a curve."""
        logs = np.full(len(n), np.nan)
        for at in np.flatnonzero(self.present):
            law = self.laws[at]
            if law is not None and n[at] > 0:
                credit = self.credit * math.log(max(self.credits[at], 1e-300))
                logs[at] = math.log(self.mu[at]) + credit + law.log_slope(n[at])
        fitted = ~np.isnan(logs)
        if not fitted.any():
            return None
        rest = np.where(self.present & ~fitted, self.mean, 0.0)
        rho = rest + max(1.0 - float(rest.sum()), 0.0) * softmax(np.where(fitted, logs, 0.0), fitted)
        out, _ = lifted(rho / rho.sum(), self.floor, self.present)
        return out

    def state_dict(self) -> dict[str, Any]:
        rows = [[None if math.isnan(x) else x for x in row] for row in self.rows]
        return super().state_dict() | {"rows": rows, "laws": [_plain(law) for law in self.laws]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.rows = [[math.nan if x is None else float(x) for x in row] for row in state["rows"]]
        self.laws = [None if law is None else Law(**law) for law in state["laws"]]


def _plain(law: Law | None) -> dict[str, float] | None:
    if law is None:
        return None
    return {"alpha": law.alpha, "log_beta": law.log_beta, "log_epsilon": law.log_epsilon, "error": law.error}
