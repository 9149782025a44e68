"""The parameters of QuaDMix and its formulas on plain arrays: ranks, S(r), the budget, copies (arXiv 2504.16511v2).

Everything here is a pure function of its arguments; ``penstock.selectors.quadmix`` has the passes.
Price: vectorised over bins or rows; the budget with a cap takes about 60 sums over the occupied bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError

EtaMode = Literal["exponent", "product"]
Scope = Literal["global", "domain"]
RankAt = Literal["inclusive", "midpoint", "exclusive"]


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """A score column and which end of it is good: ``higher`` or ``lower``."""

    column: str
    direction: Literal["higher", "lower"]

    def __post_init__(self) -> None:
        if self.direction not in ("higher", "lower"):
            raise ConfigError(
                f"criterion {self.column}: got direction {self.direction!r}, allowed 'higher' or 'lower'; say which"
            )


@dataclass(frozen=True, kw_only=True)
class DomainParameters:
    """theta of one domain: ``alpha`` weighs the criteria and sums to 1; the others shape S(r).

    ``lam`` is the steepness, ``omega`` the last rank inside the window, ``eta`` the scaling, ``eps`` the floor.
    """

    alpha: tuple[float, ...]
    lam: float
    omega: float
    eta: float
    eps: float


@dataclass(frozen=True, kw_only=True)
class QuaDMixParameters:
    """The whole of theta, and the readings of the paper it is meant under.

    Args:
        criteria: the scores, in the order of every ``alpha``.
        default: parameters of a domain that ``domains`` does not name.
        domains: (domain, parameters) pairs.
        eta_mode: ``exponent`` raises the base to eta; ``product`` multiplies it.
        normalizer_scope: sigma ranks a score among all documents or among those of its domain.
        rank_at: where in its own tie a document stands: ``inclusive`` (the paper's), ``midpoint``, ``exclusive``.
        target_tokens: expected tokens of the selection; None takes S as it is.
        copy_cap: upper bound of S'; a document then has at most ceil(copy_cap) copies.
        lam_max, omega_max, eps_max: the box. The paper's omega ends at 0.1, which suits hundreds of billions
            of tokens; raise ``omega_max`` for a small corpus.
    """

    criteria: tuple[Criterion, ...]
    default: DomainParameters
    domains: tuple[tuple[str, DomainParameters], ...] = ()
    eta_mode: EtaMode = "exponent"
    normalizer_scope: Scope = "global"
    rank_at: RankAt = "inclusive"
    target_tokens: int | None = None
    copy_cap: float | None = None
    lam_max: float = 1000.0
    omega_max: float = 0.1
    eps_max: float = 0.001

    def __post_init__(self) -> None:
        for field, allowed in (
            ("eta_mode", ("exponent", "product")),
            ("normalizer_scope", ("global", "domain")),
            ("rank_at", ("inclusive", "midpoint", "exclusive")),
        ):
            got = getattr(self, field)
            if got not in allowed:
                raise ConfigError(f"quadmix {field}: got {got!r}, allowed {', '.join(allowed)}; choose one")
        columns = [c.column for c in self.criteria]
        if not columns or len(set(columns)) < len(columns):
            raise ConfigError(f"quadmix criteria: got {columns}, allowed one or more different columns; name each once")
        names = [name for name, _ in self.domains]
        if len(set(names)) < len(names):
            raise ConfigError(f"quadmix domains: got {names}, allowed each domain once; remove the repeats")
        if not 0.0 < self.omega_max <= 1.0:
            raise ConfigError(f"quadmix omega_max: got {self.omega_max}, allowed above 0 and at most 1 (a rank)")
        for name, value in (("target_tokens", self.target_tokens), ("copy_cap", self.copy_cap)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"quadmix {name}: got {value}, allowed above 0; leave it out for none")
        self._check("default", self.default)
        for name, theta in self.domains:
            self._check(f"domain {name!r}", theta)

    def _check(self, where: str, theta: DomainParameters) -> None:
        alpha = theta.alpha
        if len(alpha) != len(self.criteria) or min(alpha) < 0 or not math.isclose(sum(alpha), 1.0, abs_tol=1e-6):
            raise ConfigError(
                f"quadmix {where}: got alpha {list(alpha)}, allowed {len(self.criteria)} weights >= 0 that sum to 1, "
                "one per criterion; divide them by their sum"
            )
        for name, value, low, high, hint in (
            ("lam", theta.lam, 0.0, self.lam_max, "raise lam_max"),
            ("omega", theta.omega, 0.0, self.omega_max, "raise omega_max (a small corpus needs it)"),
            ("eta", theta.eta, 0.0, 1.0, "choose it inside"),
            ("eps", theta.eps, 0.0, self.eps_max, "raise eps_max"),
        ):
            if not low <= value <= high:
                raise ConfigError(f"quadmix {where}: got {name} {value}, allowed {low:g} to {high:g}; {hint}")

    def of(self, domain: str) -> DomainParameters:
        """The parameters of a domain, or the default."""
        return dict(self.domains).get(domain, self.default)


def sampling_value(
    r: NDArray[np.float64], *, lam: float, omega: float, eta: float, eps: float, eta_mode: EtaMode
) -> NDArray[np.float64]:
    """S(r), the expected copies before any budget: same shape as ``r``.

    In the window (r <= omega) the base lies in [1, 2), so S - eps lies in [1, 2**eta) for ``exponent`` and in
    [eta, 2 eta) for ``product``; it falls with r and drops to eps behind omega.
    """
    r = np.asarray(r, dtype=np.float64)
    base = 2.0 / (1.0 + np.exp(-np.clip(lam * (omega - r), -60.0, 60.0)))
    inside = base**eta if eta_mode == "exponent" else base * eta
    return np.where(r <= omega, inside, 0.0) + eps


def mid_rank(tokens: NDArray[np.int64], *, higher_is_better: bool) -> NDArray[np.float64]:
    """Share of tokens in better bins plus half of the bin's own: 0 best, 1 worst. Bins ascend by value."""
    total = max(int(tokens.sum()), 1)
    below = np.cumsum(tokens) - tokens
    better = total - below - tokens if higher_is_better else below
    rank: NDArray[np.float64] = (better + 0.5 * tokens) / total
    return rank


def token_rank(tokens: NDArray[np.int64], rank_at: RankAt) -> NDArray[np.float64]:
    """r of every bin of one domain, best bin first: the share of tokens up to it; 1 throughout without tokens."""
    total = int(tokens.sum())
    if total == 0:
        return np.ones(len(tokens))
    upto = np.cumsum(tokens)
    own = {"inclusive": 0.0, "midpoint": 0.5, "exclusive": 1.0}[rank_at]
    rank: NDArray[np.float64] = (upto - own * tokens) / total
    return rank


def budget_factor(
    values: NDArray[np.float64], tokens: NDArray[np.int64], *, target: int | None, cap: float | None
) -> float:
    """f such that sum min(f values, cap) tokens = target; 1.0 without a target.

    Closed form without a cap, bisection to the last float with one.

    Raises:
        ConfigError: the target cannot be reached; the message has the numbers.
    """
    if target is None:
        return 1.0
    total = float((values * tokens).sum())
    if total <= 0.0:
        raise ConfigError(
            f"quadmix target_tokens: got {target:,}, but S is 0 for every document; raise omega, eta or eps"
        )
    if cap is None:
        return target / total
    reach = float((np.where(values > 0.0, cap, 0.0) * tokens).sum())
    if reach < target:
        open_tokens = int(tokens[values > 0.0].sum())
        raise ConfigError(
            f"quadmix target_tokens: got {target:,}, allowed at most {reach:,.0f} = copy_cap {cap:g} x {open_tokens:,} "
            "tokens that have S > 0; lower target_tokens, raise copy_cap or widen omega"
        )

    def spent(f: float) -> float:
        return float((np.minimum(f * values, cap) * tokens).sum())

    low, high = 0.0, target / total
    while spent(high) < target:
        low, high = high, 2.0 * high
    while low < (middle := 0.5 * (low + high)) < high:
        low, high = (middle, high) if spent(middle) < target else (low, middle)
    return high


def copies_of(values: NDArray[np.float32], coin: NDArray[np.float64]) -> NDArray[np.int32]:
    """floor(S') + [coin < frac(S')]: shape (n,); its mean over coins is S', and it never falls when S' grows."""
    value = np.asarray(values, dtype=np.float64)
    whole = np.floor(value)
    return (whole + (coin < value - whole)).astype(np.int32)
