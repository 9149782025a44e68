"""Dynamic Gradient Alignment: more of the domains whose gradient points where a small target's does.

    every T steps: one probe batch of each domain and one of the target;
    log a_k += eta * <g_k, g_target>,  then normalise

Fan, Grangier and Ablin 2024 (arXiv 2410.02498): one step of training on the mixture lowers the target's loss by about
the inner product, and the multiplicative update is mirror descent with a KL term. Two forms of the paper are options:

- ``ema``: sampling follows e <- (1 - ema) e + ema a, against overfitting and noise; the recursion of a does not see it.
- ``basis``: with very many domains, N distributions p_j over them (histograms of importance sampling for N tasks,
  say) take the place of domains: log b_j += eta * <gradient on a batch of the mixture p_j, g_target>, sampling from
  sum_j b_j p_j. The price is that of N domains. ``Signal.TARGET_DOT`` then has shape (N,): give the probe the same
  basis.

Defaults as run by GRAPE, whose algorithm with one target this is: T = 100, eta = 1.5 with the learning rate *not*
multiplied in, a uniform start, and gradients clipped to norm 1 before the product, so that an update moves log a by
at most eta.

Traps:

- without the clipping eta depends on the model and the scale of its loss;
- products of different domains differ little (about 0.04 on a small model): at T = 100 a run of 600 steps hardly moves;
- a probe on rows that training cannot have seen hides the memorisation that the method should react to;
- in independent runs it tied with or lost to equal shares on two of three data sets (arXiv 2505.00358): run uniform and
  proportional beside it.

Price: (K + 1) / T gradients of a probe batch per step (GRAPE counts 8 % at K = 7 and 65 % at K = 64 with T = 100 and
probes as large as a training batch), and one gradient's memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.training.mixing.base import Cadence, Floats, Mixture, Observation, Signal
from penstock.training.mixing.rule import Rule, Shares, log_shares, mirror_step, setting, shares, softmax


@dataclass(kw_only=True, eq=False)
class DynamicGradientAlignment(Rule):
    """Mirror descent on the products of gradients with a target's.

    A domain that no probe saw keeps its share, and the others move among themselves.

    Args:
        eta: step size, > 0.
        initial: the mixture to start from; of the domains, or with a basis always uniform over its distributions.
        ema: share of the new mixture in the running one that is sampled from, above 0 and at most 1; None samples
            from the mixture itself.
        basis: distributions over domains, each a share by name (domains left out have 0); at least one.
    """

    kept: ClassVar[tuple[str, ...]] = ("log_weights", "running")

    name: str = field(default="dga", init=False)
    cadence: Cadence = field(default_factory=lambda: Cadence(every=100))
    eta: float = 1.5
    initial: Shares = "uniform"
    ema: float | None = None
    basis: Sequence[Mapping[str, float]] | None = None

    log_weights: Floats = field(init=False, repr=False)  # (K,) of domains, or (N,) of the basis
    running: Floats = field(init=False, repr=False)  # (K,) what is sampled from
    matrix: Floats | None = field(default=None, init=False, repr=False)  # (N, K)

    def __post_init__(self) -> None:
        setting(self, "eta", above=0)
        if self.ema is not None:
            setting(self, "ema", above=0, most=1)
        if self.basis is not None:
            listed = isinstance(self.basis, Sequence) and all(isinstance(p, Mapping) for p in self.basis)
            if not listed or not len(self.basis):
                raise ConfigError(
                    f"policy dga, basis: got {self.basis!r}, allowed a list of mixtures by domain, at least one"
                )
            if self.initial != "uniform":
                raise ConfigError("policy dga: got initial beside basis, allowed one; a basis starts uniform")

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset({Signal.TARGET_DOT})

    def basis_over(self, domains: Sequence[str], tokens: Sequence[int] | NDArray[np.int64]) -> Floats | None:
        """The basis as the array that a probe draws from: (N, K), rows sum to 1; None without one.

        Raises:
            ConfigError: an unknown domain, a bad number, or weight on a domain without tokens.
        """
        if self.basis is None:
            return None
        rows = []
        for number, given in enumerate(self.basis):
            # names that no domain has are refused by ``shares``; domains left out have no share
            whole = dict.fromkeys(domains, 0.0) | dict(given)
            rows.append(shares(whole, domains, tokens, what=f"policy dga, basis {number}"))
        return np.stack(rows)

    def start(self, domains: tuple[str, ...], tokens: NDArray[np.int64]) -> Mixture:
        self.begin(domains, tokens)
        self.matrix = self.basis_over(domains, tokens)
        if self.matrix is None:
            initial = shares(self.initial, domains, tokens, what="policy dga, initial")
            # no factor brings back a weight of 0, so such a domain is left out for good
            self.present = self.present & (initial > 0)
            self.log_weights = log_shares(initial, self.present)
        else:
            self.log_weights = np.full(len(self.matrix), -np.log(len(self.matrix)))
        self.running = self._weights()
        return Mixture(weights=self.running.copy())

    def update(self, seen: Observation) -> Mixture | None:
        """None when no probe saw anything."""
        product = seen.mean(Signal.TARGET_DOT)
        if product.shape != self.log_weights.shape:
            raise ConfigError(
                f"policy dga: got products of shape {product.shape}, allowed {self.log_weights.shape}; the probe "
                "and the policy need the same basis"
            )
        if np.isnan(product).all():
            return None
        everyone = self.present if self.matrix is None else np.ones(len(self.log_weights), dtype=np.bool_)
        self.log_weights = mirror_step(self.log_weights, self._times_eta(product), everyone)
        share = 1.0 if self.ema is None else self.ema
        self.running = (1.0 - share) * self.running + share * self._weights()
        facts: dict[str, Any] = {"products": [None if np.isnan(x) else float(x) for x in product]}
        if self.matrix is not None:
            facts["basis_weights"] = softmax(self.log_weights, everyone).tolist()
        return Mixture(weights=self.running / self.running.sum(), facts=facts)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.matrix = self.basis_over(self.domains, self.present.astype(np.int64))

    def _times_eta(self, product: Floats) -> Floats:
        with np.errstate(over="ignore"):
            step: Floats = self.eta * product
        return step

    def _weights(self) -> Floats:
        if self.matrix is None:
            return softmax(self.log_weights, self.present)
        mixed: Floats = softmax(self.log_weights, np.ones(len(self.log_weights), dtype=np.bool_)) @ self.matrix
        mixed /= mixed.sum()
        return mixed
