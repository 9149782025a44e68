"""The parameters of QuaDMix and its formulas on plain arrays: ranks, S(r), the budget, copies (arXiv 2504.16511v2).

Everything here is a pure function of its arguments; ``penstock.selectors.quadmix`` has the passes.
Price: vectorised over bins or rows; the budget with a cap takes a few sums over the occupied bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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

    ``lam`` is the steepness, ``omega`` the last rank inside the window (0: no window), ``eta`` the scaling, ``eps``
    the floor. ``multiplier`` is g, the factor of the domain's S: with a budget it moves the domain's share, which
    the others hardly can, since S never exceeds 2 in the window.
    """

    alpha: tuple[float, ...]
    lam: float
    omega: float
    eta: float
    eps: float
    multiplier: float = 1.0


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
        if not (theta.multiplier >= 0.0 and math.isfinite(theta.multiplier)):
            raise ConfigError(
                f"quadmix {where}: got multiplier {theta.multiplier}, allowed >= 0 and finite; 1 changes nothing"
            )

    def of(self, domain: str) -> DomainParameters:
        """The parameters of a domain, or the default."""
        return dict(self.domains).get(domain, self.default)


def sampling_value(
    r: NDArray[np.float64], *, lam: float, omega: float, eta: float, eps: float, eta_mode: EtaMode
) -> NDArray[np.float64]:
    """S(r), the expected copies before any budget: same shape as ``r``.

    In the window (r <= omega) the base lies in [1, 2), so S - eps lies in [1, 2**eta) for ``exponent`` and in
    [eta, 2 eta) for ``product``; it falls with r and drops to eps behind omega. omega 0 leaves no window, also where
    ``exclusive`` ranks start at 0.
    """
    r = np.asarray(r, dtype=np.float64)
    base = 2.0 / (1.0 + np.exp(-np.clip(lam * (omega - r), -60.0, 60.0)))
    inside = base**eta if eta_mode == "exponent" else base * eta
    return np.where((r <= omega) & (omega > 0.0), inside, 0.0) + eps


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

    Closed form without a cap; with one, what the full bins cannot take is given to the others until none fills up.

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

    factor = target / total
    while True:
        full = factor * values >= cap
        rest = float((np.where(full, 0.0, values) * tokens).sum())
        if rest <= 0.0:
            # the target is what the cap allows
            return cap / float(values[values > 0.0].min())
        needed = (target - cap * float(tokens[full].sum())) / rest
        # what is full stays full while the factor grows, so the factor only grows until nothing more fills up
        if needed <= factor:
            return factor
        factor = needed


def values_of_bins(
    parameters: QuaDMixParameters, domains: Sequence[str], bounds: NDArray[np.int64], tokens: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float32], float]:
    """(r, S', budget factor) of every bin: S' = min(f g S, copy_cap), g being the domain's multiplier.

    Args:
        domains: one name per run of bins.
        bounds: run d is [bounds[d], bounds[d + 1]), its best bin first: shape (domains + 1,).
        tokens: of every bin.

    Raises:
        ConfigError: the budget cannot be reached.
    """
    rank = np.empty(len(tokens))
    value = np.empty(len(tokens))
    for d, domain in enumerate(domains):
        own = parameters.of(domain)
        run = slice(bounds[d], bounds[d + 1])
        rank[run] = token_rank(tokens[run], parameters.rank_at)
        value[run] = own.multiplier * sampling_value(
            rank[run], lam=own.lam, omega=own.omega, eta=own.eta, eps=own.eps, eta_mode=parameters.eta_mode
        )
    factor = budget_factor(value, tokens, target=parameters.target_tokens, cap=parameters.copy_cap)
    most = math.inf if parameters.copy_cap is None else parameters.copy_cap
    return rank, np.minimum(factor * value, most).astype(np.float32), factor


def copies_of(values: NDArray[np.float32], coin: NDArray[np.float64]) -> NDArray[np.int32]:
    """floor(S') + [coin < frac(S')]: shape (n,); its mean over coins is S', and it never falls when S' grows."""
    value = np.asarray(values, dtype=np.float64)
    whole = np.floor(value)
    return (whole + (coin < value - whole)).astype(np.int32)
