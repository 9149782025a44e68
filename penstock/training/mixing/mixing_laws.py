"""Data mixing laws: an exponential of the mixture for each validation loss, and the mixture with the least of them.

    L_i(r) = c_i + k_i exp(sum_j t_ij r_j)

Ye et al. 2024 (arXiv 2403.16952), fitted to small runs with Huber loss 0.01 by L-BFGS. The law is convex in r
wherever k > 0, so the best mixture for a weighted mean of losses is unique up to flat directions and found by convex
optimisation, where the authors search a grid of powers of two.

As the shares sum to 1, a constant added to all t_ij is a factor in k_i: the fit fixes k = 1 and the result is given
with mean t of 0. Not here: the paper's nesting with laws of steps and model size, and its implicit domains (an MLP
and AdaBoost): losses of runs at the size at hand are what is fitted.

Traps:

- K + 1 parameters a loss: with fewer runs than that the fit is arbitrary, and refused;
- the optimum of an exponential likes corners that no run has seen: by default each share stays within the range that
  the runs cover;
- a few runs with a mixture of their own shape decide t: spread the runs (``regmix.candidates``).

Price: the runs; then well under a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.training.mixing.base import Cadence, Floats, Mixture, Observation, Signal
from penstock.training.mixing.rule import Rule, choice
from penstock.training.mixing.runs import read_runs

DELTA = 0.01
# starts for c, as shares of the least loss: the rest of the law is linear in its logarithm once c is known
_STARTS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.995)
_LARGEST_EXPONENT = 50.0


@dataclass(frozen=True, kw_only=True, eq=False)
class MixingLaw:
    """c + k exp(t . r) of one loss."""

    c: float
    k: float
    t: Floats  # (K,), mean 0
    error: float  # mean Huber loss of the fit

    def predict(self, mixtures: Floats) -> Floats:
        """Loss of each mixture: (n, K) -> (n,)."""
        values: Floats = self.c + self.k * np.exp(mixtures @ self.t)
        return values


def fit_mixing_law(mixtures: Floats, losses: Floats) -> MixingLaw:
    """The law of one loss: mixtures (n, K), losses (n,), n >= K + 1.

    Raises:
        ConfigError: too few runs, or numbers that are no losses.
    """
    from scipy.optimize import minimize

    r, y = np.asarray(mixtures, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if r.ndim != 2 or y.shape != (len(r),) or not (np.isfinite(r).all() and np.isfinite(y).all()) or (y <= 0).any():
        raise ConfigError(f"mixing_laws: got mixtures {r.shape} and losses {y.shape}, allowed (n, K) and n numbers > 0")
    n, k = r.shape
    if n < k + 1:
        raise ConfigError(f"mixing_laws: got {n} runs of {k} domains, allowed at least {k + 1}; make more runs")

    def objective(p: Floats) -> tuple[float, Floats]:
        exponential = np.exp(np.clip(r @ p[1:], -_LARGEST_EXPONENT, _LARGEST_EXPONENT))
        error = p[0] + exponential - y
        slope = np.clip(error, -DELTA, DELTA)
        value = np.where(np.abs(error) <= DELTA, 0.5 * error**2, DELTA * (np.abs(error) - 0.5 * DELTA))
        gradient = np.concatenate([[slope.mean()], (slope * exponential) @ r / n])
        # over delta, so that the gradient is of order 1 and the optimiser's tolerances mean something
        return float(value.mean()) / DELTA, gradient / DELTA

    best: tuple[float, Floats] | None = None
    for share in _STARTS:
        c = share * float(y.min())
        start, *_ = np.linalg.lstsq(r, np.log(y - c), rcond=None)
        found = minimize(
            objective,
            np.concatenate([[c], start]),
            jac=True,
            method="L-BFGS-B",
            bounds=[(0.0, float(y.min()))] + [(None, None)] * k,
            options={"maxiter": 2000, "maxfun": 20_000, "ftol": 1e-13, "gtol": 1e-9},
        )
        if best is None or found.fun < best[0]:
            best = (float(found.fun), found.x)
    assert best is not None
    value, p = best
    mean = float(p[1:].mean())
    return MixingLaw(c=float(p[0]), k=float(np.exp(mean)), t=p[1:] - mean, error=value * DELTA)


def best_mixture(
    laws: list[MixingLaw], weights: Floats, *, low: Floats, high: Floats, start: Floats
) -> tuple[Floats, float]:
    """The mixture with the least weighted mean of laws.

    Args:
        weights: of the laws, >= 0: (M,).
        low, high: bounds of each share: (K,).
        start: a mixture within them: (K,).

    Returns:
        The mixture (K,) and its predicted loss.
    """
    from scipy.optimize import minimize

    def objective(x: Floats) -> tuple[float, Floats]:
        value, gradient = 0.0, np.zeros(len(x))
        for law, weight in zip(laws, weights, strict=True):
            exponential = law.k * float(np.exp(law.t @ x))
            value += weight * (law.c + exponential)
            gradient += weight * exponential * law.t
        return value, gradient

    found = minimize(
        objective,
        start,
        jac=True,
        method="SLSQP",
        bounds=list(zip(low, high, strict=True)),
        constraints=[{"type": "eq", "fun": lambda x: x.sum() - 1.0, "jac": np.ones_like}],
        options={"maxiter": 1000, "ftol": 1e-12},
    )
    x: Floats = np.clip(found.x, low, high)
    x = x / x.sum()
    # convex: no worse than where it began, or the optimiser failed and the start stands
    if not np.isfinite(found.fun) or objective(x)[0] > objective(start)[0]:
        x = start
    return x, objective(x)[0]


@dataclass(kw_only=True, eq=False)
class MixingLaws(Rule):
    """The best mixture under the laws, as one that stays.

    Args:
        runs: a file of runs, see ``runs``.
        target: weights of the runs' losses in what to make small; None is their mean.
        extrapolate: allow shares that no run had.
    """

    name: str = field(default="mixing_laws", init=False)
    cadence: Cadence = field(default_factory=Cadence)
    runs: str
    target: Mapping[str, float] | None = None
    extrapolate: bool = False

    def __post_init__(self) -> None:
        choice(self, "extrapolate", (True, False))

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset()

    def start(self, domains: tuple[str, ...], tokens: NDArray[np.int64]) -> Mixture:
        self.begin(domains, tokens)
        runs = read_runs(self.runs, domains)
        if (runs.mixtures[:, ~self.present] > 0).any():
            raise ConfigError(f"runs {self.runs}: a run has a share of a domain that holds no tokens here")
        laws = [fit_mixing_law(runs.mixtures[:, self.present], losses) for losses in runs.losses.T]
        mixtures = runs.mixtures[:, self.present]
        low, high = mixtures.min(axis=0), mixtures.max(axis=0)
        if self.extrapolate:
            low, high = np.zeros(len(low)), np.ones(len(high))
        inside, predicted = best_mixture(
            laws, runs.weights(self.target), low=low, high=high, start=mixtures.mean(axis=0)
        )
        weights = np.zeros(len(domains))
        weights[self.present] = inside
        facts: dict[str, Any] = {
            "predicted": predicted,
            "laws": {
                name: {"c": law.c, "k": law.k, "t": law.t.tolist(), "error": law.error}
                for name, law in zip(runs.names, laws, strict=True)
            },
        }
        return Mixture(weights=weights, facts=facts)

    def update(self, seen: Observation) -> Mixture | None:
        return None
