"""RegMix: regress the loss of small runs on their mixtures, and train on the best of many simulated ones.

    mixtures     Dirichlet draws around the token shares: prior ~ share ** 0.5, concentration 0.1 … 5;
                 shares below 2e-4 become 0; none above 15 times its token share
    regression   gradient-boosted trees on (mixture, loss) of the runs made with such mixtures
    result       mean of the 128 best predicted of 100,000 fresh draws

Liu et al., ICLR 2025 (arXiv 2407.01492), with 512 runs of a model of 1M parameters on 1B tokens each. The trees are
LightGBM's, as there, with the settings and the judgement of ``penstock.selectors.search.surrogate``: what stops them is
a split of their own, not the runs that judge them, and runs that they explain no better than their mean are refused. Or
any object with ``fit`` and ``predict`` that is handed in.

``candidates`` gives mixtures to run, ``mean_of_best`` the result; ``RegMix`` is the result as a policy that stays.

Traps:

- the mean of the best draws is a hedge against errors of the regression: the single best draw is where it errs most;
- trees predict nothing beyond what the runs cover: simulate with the prior that the runs were drawn from;
- with many domains of like size few draws keep the bound of 15 token shares: 28 % with 32, 4 % with 64, none with 200,
  which is refused;
- small runs rank mixtures for large ones only as far as ranks carry over; check two or three before spending.

Price: the runs; then seconds for 100,000 predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.seeding import derive, stream
from penstock.selectors.search.surrogate import LEAST, fit_surrogate
from penstock.training.mixing.base import Cadence, Floats, Mixture, Observation, Signal
from penstock.training.mixing.rule import Rule, setting
from penstock.training.mixing.runs import Runs, read_runs

TEMPERATURE = 0.5
STRENGTHS = np.logspace(np.log10(0.1), np.log10(5.0), 15)
MINIMUM = 2e-4
MOST = 15.0  # times the token share


def candidates(tokens: NDArray[Any], count: int, *, seed: int, name: str = "runs") -> Floats:
    """Mixtures around the token shares: (count, K), rows sum to 1.

    Args:
        tokens: of each domain, at least one above 0: (K,); domains without any stay at 0.
        name: of the stream of randomness: draws under another name are independent.

    Raises:
        ConfigError: no tokens, or hardly any draw keeps the bound of 15 times the token share.
    """
    held = np.asarray(tokens, dtype=np.float64)
    if held.ndim != 1 or not np.isfinite(held).all() or (held < 0).any() or not held.sum() > 0:
        raise ConfigError(f"regmix: got tokens {held.tolist()}, allowed numbers >= 0, at least one above 0")
    if count < 1:
        raise ConfigError(f"regmix: got {count} mixtures, allowed >= 1")
    share = held / held.sum()
    present = held > 0
    prior = share[present] ** TEMPERATURE
    prior /= prior.sum()
    rng = stream(seed, "regmix", name)
    found: list[Floats] = []
    have = drawn = 0
    while have < count:
        if drawn > 1000 * (count + 100):
            raise ConfigError(
                f"regmix: of {drawn} draws {have} keep every domain within {MOST:g} times its token share; use "
                "fewer domains"
            )
        strengths = rng.choice(STRENGTHS, size=4096)
        # normalised gamma draws are Dirichlet; a small concentration may give a row of zeros, which is left out
        rows = rng.standard_gamma(strengths[:, None] * prior)
        drawn += len(rows)
        rows = rows[rows.sum(axis=1) > 0]
        rows /= rows.sum(axis=1, keepdims=True)
        rows[rows < MINIMUM] = 0.0
        rows /= rows.sum(axis=1, keepdims=True)
        rows = rows[(rows <= MOST * share[present]).all(axis=1)]
        found.append(rows)
        have += len(rows)
    out = np.zeros((count, len(held)))
    out[:, present] = np.concatenate(found)[:count]
    return out


def mean_of_best(
    mixtures: Floats,
    losses: Floats,
    tokens: NDArray[Any],
    *,
    seed: int,
    regressor: Any = None,
    simulate: int = 100_000,
    top: int = 128,
) -> tuple[Floats, Floats]:
    """The mean of the best predicted mixtures.

    Args:
        mixtures: of the runs: (n, K).
        losses: what to make small, one number a run: (n,).
        tokens: of each domain: (K,).
        regressor: any object with ``fit(X, y)`` and ``predict(X)``; None is gradient-boosted trees.

    Returns:
        The mixture (K,), and the predicted losses of the ``top`` mixtures it is the mean of, best first.

    Raises:
        ConfigError: the runs are too few or do not fit the domains, or the trees predict the loss of runs that they
            did not see no better than the mean does.
    """
    x, y = np.asarray(mixtures, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    fits = x.ndim == 2 and y.shape == (len(x),) and x.shape[1] == len(tokens)
    if not fits or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ConfigError(
            f"regmix: got mixtures {x.shape} and losses {y.shape}, allowed finite (n, {len(tokens)}) and (n,)"
        )
    if not 1 <= top <= simulate:
        raise ConfigError(f"regmix, top: got {top}, allowed 1 to the {simulate} simulated mixtures")
    if len(x) < LEAST:
        raise ConfigError(f"regmix: got {len(x)} runs, allowed at least {LEAST}; the paper has 512")
    model = regressor
    if model is None:
        model = fit_surrogate(x, y, seed=derive(seed, "regmix", "trees"))
        # with a single domain there is nothing to choose, hence nothing to explain
        if model.refusal is not None and model.fit.coordinates:
            raise ConfigError(f"regmix: {model.refusal}")
    else:
        model.fit(x, y)
    simulated = candidates(tokens, simulate, seed=seed, name="simulate")
    predicted = np.asarray(model.predict(simulated), dtype=np.float64)
    best = np.argsort(predicted, kind="stable")[:top]
    mean: Floats = simulated[best].mean(axis=0)
    return mean / mean.sum(), predicted[best]


@dataclass(kw_only=True, eq=False)
class RegMix(Rule):
    """The result as a mixture that stays.

    Args:
        runs: a file of runs, see ``runs``.
        target: weights of the runs' losses in what to make small; None is their mean.
        simulate, top: draws, and how many of the best are averaged.
        seed: of draws and trees.
    """

    name: str = field(default="regmix", init=False)
    cadence: Cadence = field(default_factory=Cadence)
    runs: str
    target: Mapping[str, float] | None = None
    simulate: int = 100_000
    top: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        setting(self, "simulate", least=1)
        setting(self, "top", least=1, most=self.simulate)
        setting(self, "seed", least=0)

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset()

    def start(self, domains: tuple[str, ...], tokens: NDArray[np.int64]) -> Mixture:
        self.begin(domains, tokens)
        runs: Runs = read_runs(self.runs, domains)
        weights, predicted = mean_of_best(
            runs.mixtures,
            runs.objective(self.target),
            tokens,
            seed=int(self.seed),
            simulate=int(self.simulate),
            top=int(self.top),
        )
        return Mixture(weights=weights, facts={"runs": len(runs.mixtures), "predicted": float(predicted.mean())})

    def update(self, seen: Observation) -> Mixture | None:
        return None
