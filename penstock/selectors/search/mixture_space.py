"""Shares of the domains alone, without any quality: RegMix's Dirichlet draws (arXiv 2407.01492) as a space.

    point      share of the selected tokens of each domain: (K,), sum 1, at most 15 times the domain's token share
    draw       ``penstock.training.mixing.regmix.candidates``
    expected   min(f share_d / tokens_d, copy_cap) for every row of domain d, f solved for the budget; what a full
               domain cannot give goes to the others in proportion

Price: a draw is vectorised; ``expected`` is one division a domain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.errors import ConfigError
from penstock.selectors.quadmix_theta import budget_factor
from penstock.selectors.search.pool import Pool
from penstock.selectors.search.space import AverageSpace, Floats
from penstock.training.mixing.regmix import MINIMUM, MOST, candidates


@dataclass(frozen=True, kw_only=True)
class MixtureSpace:
    """Mixtures of domains.

    Args:
        domains: names.
        tokens: of each domain, above 0; draws spread around their shares.
    """

    domains: tuple[str, ...]
    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.domains or len(set(self.domains)) < len(self.domains):
            raise ConfigError(f"search domains: got {list(self.domains)}, allowed one or more, each once")
        if len(self.tokens) != len(self.domains) or min(self.tokens) < 1:
            raise ConfigError(
                f"search tokens: got {list(self.tokens)}, allowed a count above 0 for each of the {len(self.domains)} "
                "domains"
            )

    @classmethod
    def of(cls, pool: Pool) -> MixtureSpace:
        """All domains of a pool that have tokens."""
        held = zip(pool.domains, pool.domain_tokens(), strict=True)
        pairs = [(name, int(count)) for name, count in held if count > 0]
        return cls(domains=tuple(name for name, _ in pairs), tokens=tuple(count for _, count in pairs))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{domain}.share" for domain in self.domains)

    def draw(self, count: int, *, seed: int, name: str) -> Floats:
        """Different mixtures, as far as there are so many: the corners would be drawn again and again.

        Raises:
            ConfigError: hardly any draw keeps the bound of 15 token shares (many domains of like size).
        """
        tokens = np.array(self.tokens)
        points = candidates(tokens, count, seed=seed, name=f"search {name}")
        for again in range(20):
            _, first = np.unique(points, axis=0, return_index=True)
            points = points[np.sort(first)]
            if len(points) >= count:
                break
            more = candidates(tokens, count, seed=seed, name=f"search {name}, again {again}")
            points = np.concatenate([points, more])
        return points[:count]

    def cross(self, a: Floats, b: Floats, rng: np.random.Generator) -> Floats:
        """A coin a domain."""
        child: Floats = np.where(rng.random(a.shape) < 0.5, a, b)
        return child

    def mutate(self, points: Floats, rate: float, rng: np.random.Generator) -> Floats:
        fresh = candidates(np.array(self.tokens), len(points), seed=int(rng.integers(2**63)), name="mutation")
        child: Floats = np.where(rng.random(points.shape) < rate, fresh, points)
        return child

    def repair(self, points: Floats) -> Floats:
        """Shares below 2e-4 become 0, the rest sums to 1, and what exceeds a bound goes to the others."""
        held = np.array(self.tokens) / sum(self.tokens)
        bound = np.minimum(MOST * held, 1.0)
        out = np.where(points < MINIMUM, 0.0, points)
        out = np.where(out.sum(axis=1, keepdims=True) > 0.0, out, held)
        out /= out.sum(axis=1, keepdims=True)
        full = np.zeros(out.shape, dtype=bool)
        for _ in range(len(self.domains)):
            full |= out > bound
            if not full.any():
                break
            rest = 1.0 - np.where(full, bound, 0.0).sum(axis=1, keepdims=True)
            open_share = np.where(full, 0.0, out)
            total = open_share.sum(axis=1, keepdims=True)
            # nothing left to scale: the rest goes where there is room, by token share
            spread = np.where(full, 0.0, held)
            room = spread.sum(axis=1, keepdims=True)
            scaled = np.where(
                total > 0.0, open_share / np.where(total > 0.0, total, 1.0), spread / np.maximum(room, 1e-300)
            )
            out = np.where(full, bound, rest * scaled)
            if not (out > bound + 1e-15).any():
                break
        return out

    def mean(self, points: Floats, *, average: AverageSpace) -> Floats:
        """Coordinates are shares, so both averages are the same."""
        assert average in ("unit", "value")
        mean: Floats = points.mean(axis=0) / points.mean(axis=0).sum()
        return mean

    def baselines(self, pool: Pool) -> dict[str, Floats]:
        """Of this space's own domains and tokens."""
        assert set(self.domains) <= set(pool.domains)
        held = np.array(self.tokens, dtype=np.float64)
        return {"uniform": np.full(len(held), 1.0 / len(held)), "natural": held / held.sum()}

    def expected(self, pool: Pool, unit: Floats, *, target_tokens: int | None, copy_cap: float | None) -> Floats:
        """Without a target as many tokens as the pool holds.

        Raises:
            ConfigError: the point is no mixture of these domains; the pool lacks one that has a share; the budget
                cannot be reached.
        """
        point = np.asarray(unit, dtype=np.float64)
        if point.shape != (len(self.domains),):
            raise ConfigError(
                f"search: got a mixture of shape {point.shape}, allowed ({len(self.domains)},), one share a domain"
            )
        if not np.isfinite(point).all() or point.min() < 0.0 or abs(point.sum() - 1.0) > 1e-6:
            raise ConfigError(f"search: got the mixture {point.tolist()}, allowed shares >= 0 that sum to 1")
        held = pool.domain_tokens()
        share = dict(zip(self.domains, point, strict=True))
        lacking = [n for n, s in share.items() if s > 0.0 and not held[[d == n for d in pool.domains]].any()]
        if lacking:
            raise ConfigError(f"search: the pool has no tokens of {', '.join(lacking)}, which have a share; drop them")
        value = np.array([share.get(name, 0.0) for name in pool.domains]) / np.maximum(held, 1.0)
        tokens = held.astype(np.int64)
        target = int(held.sum()) if target_tokens is None else target_tokens
        factor = budget_factor(value, tokens, target=target, cap=copy_cap)
        scaled: Floats = np.minimum(factor * value, np.inf if copy_cap is None else copy_cap)[pool.domain]
        return scaled

    def describe(self, unit: Floats) -> dict[str, Any]:
        """Share of each domain."""
        return {"kind": "mixture", "shares": dict(zip(self.domains, (float(v) for v in unit), strict=True))}
