"""What may be searched: the protocol of a space, and QuaDMix's theta by its Algorithm 1 (arXiv 2504.16511v2).

    a_1 … a_N ~ U(0, 1), divided by their sum                               once a draw: weights of the criteria
    for every domain:  b_1 … b_N ~ U(0, 1);  alpha_n = a_n b_n / sum a b
                       l, w, h, e ~ U(0, 1)
                       lam   = lam_max ** l  ("log")  or  lam_max * l  ("linear")
                       omega = omega_max * w;   eta = h;   eps = eps_max * e
                       g     = multiplier_max ** (2 v - 1), v ~ U(0, 1)     only with ``domain_multiplier``

Without the global weights every criterion would have the mean weight 1 / N over the domains in nearly every draw, so
that none could lead everywhere. A point is kept, and searched, as (alpha, l, w, h, e[, v]) of each domain: (N + 4) M or
(N + 5) M numbers in [0, 1]. The mean of points is taken over these coordinates (``unit``) or over the parameters that
they stand for (``value``); the two differ where the scale is logarithmic, by the geometric against the arithmetic mean.

Price: a draw is vectorised, 100,000 draws of 182 numbers in half a second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.seeding import stream
from penstock.selectors.quadmix_theta import (
    Criterion,
    DomainParameters,
    EtaMode,
    QuaDMixParameters,
    RankAt,
    Scope,
)
from penstock.selectors.search.pool import Pool

Floats = NDArray[np.float64]
AverageSpace = Literal["unit", "value"]
LambdaScale = Literal["log", "linear"]


class Space(Protocol):
    """Points in unit coordinates, and what each makes of a pool."""

    @property
    def names(self) -> tuple[str, ...]:
        """One per coordinate: "news.alpha.quality", "news.omega"."""

    def draw(self, count: int, *, seed: int, name: str) -> Floats:
        """Random points: (count, P). Draws under another name are independent."""

    def cross(self, a: Floats, b: Floats, rng: np.random.Generator) -> Floats:
        """Children of the parents ``a`` and ``b``, row by row: (n, P), not repaired."""

    def mutate(self, points: Floats, rate: float, rng: np.random.Generator) -> Floats:
        """Each coordinate, with probability ``rate``, taken from a fresh draw: (n, P), not repaired."""

    def repair(self, points: Floats) -> Floats:
        """The nearest points that are allowed, up to rescaling: (n, P)."""

    def mean(self, points: Floats, *, average: AverageSpace) -> Floats:
        """One point between several: (P,)."""

    def baselines(self, pool: Pool) -> dict[str, Floats]:
        """The points that ignore quality: ``uniform`` (each domain the same tokens), ``natural`` (as in the pool)."""

    def expected(self, pool: Pool, unit: Floats, *, target_tokens: int | None, copy_cap: float | None) -> Floats:
        """Expected copies of every row of the pool: (n,)."""

    def describe(self, unit: Floats) -> dict[str, Any]:
        """What the point stands for, as JSON."""


@dataclass(frozen=True, kw_only=True)
class ThetaSpace:
    """QuaDMix's theta of some domains.

    Args:
        criteria: scores, in the order of every alpha.
        domains: names; the order of the blocks of coordinates.
        lambda_scale: which reading of Algorithm 1 lam is drawn by; ``log`` spreads over the decades.
        domain_multiplier: one more coordinate a domain, which moves its share; the paper has none.
        multiplier_max: g lies within [1 / multiplier_max, multiplier_max].
        lam_max, omega_max, eps_max, eta_mode, normalizer_scope, rank_at: see ``QuaDMixParameters``.
    """

    criteria: tuple[Criterion, ...]
    domains: tuple[str, ...]
    lambda_scale: LambdaScale = "log"
    domain_multiplier: bool = False
    multiplier_max: float = 10.0
    eta_mode: EtaMode = "exponent"
    normalizer_scope: Scope = "global"
    rank_at: RankAt = "inclusive"
    lam_max: float = 1000.0
    omega_max: float = 0.1
    eps_max: float = 0.001

    def __post_init__(self) -> None:
        if self.lambda_scale not in ("log", "linear"):
            raise ConfigError(f"search lambda_scale: got {self.lambda_scale!r}, allowed 'log' or 'linear'; choose one")
        if not self.domains or len(set(self.domains)) < len(self.domains):
            raise ConfigError(f"search domains: got {list(self.domains)}, allowed one or more, each once")
        if not self.criteria:
            raise ConfigError("search criteria: got [], allowed one or more different columns; name each once")
        for name, value, least in (
            ("lam_max", self.lam_max, 1.0),
            ("multiplier_max", self.multiplier_max, 1.0),
            ("eps_max", self.eps_max, 0.0),
        ):
            if not (value > least and math.isfinite(value)):
                raise ConfigError(f"search {name}: got {value}, allowed above {least:g} and finite")
        # the other settings are checked where they are used
        self.parameters(self._flat(1.0))

    @property
    def width(self) -> int:
        """Coordinates of a domain."""
        return len(self.criteria) + 4 + self.domain_multiplier

    @property
    def names(self) -> tuple[str, ...]:
        own = [f"alpha.{c.column.removeprefix('score.')}" for c in self.criteria] + ["lam", "omega", "eta", "eps"]
        own += ["multiplier"] if self.domain_multiplier else []
        return tuple(f"{domain}.{name}" for domain in self.domains for name in own)

    def draw(self, count: int, *, seed: int, name: str) -> Floats:
        return self._draw(count, stream(seed, "search", "theta", name))

    def _draw(self, count: int, rng: np.random.Generator) -> Floats:
        n, m = len(self.criteria), len(self.domains)
        # in (0, 1]: weights that are all zero cannot be divided by their sum
        weights = 1.0 - rng.random((count, 1, n))
        points = np.empty((count, m, self.width))
        alpha = weights * (1.0 - rng.random((count, m, n)))
        points[:, :, :n] = alpha / alpha.sum(axis=2, keepdims=True)
        points[:, :, n:] = rng.random((count, m, self.width - n))
        return points.reshape(count, -1)

    def cross(self, a: Floats, b: Floats, rng: np.random.Generator) -> Floats:
        """Two coins a domain: one for its alpha, one for the rest of its block."""
        n = len(self.criteria)
        left, right = self._blocks(a), self._blocks(b)
        own = rng.random((len(a), len(self.domains), 2)) < 0.5
        mask = np.repeat(own, (n, self.width - n), axis=2)
        child: Floats = np.where(mask, left, right).reshape(a.shape)
        return child

    def mutate(self, points: Floats, rate: float, rng: np.random.Generator) -> Floats:
        fresh = self._draw(len(points), rng)
        child: Floats = np.where(rng.random(points.shape) < rate, fresh, points)
        return child

    def repair(self, points: Floats) -> Floats:
        n = len(self.criteria)
        blocks = np.maximum(self._blocks(points), 0.0)
        blocks[:, :, n:] = np.minimum(blocks[:, :, n:], 1.0)
        total = blocks[:, :, :n].sum(axis=2, keepdims=True)
        blocks[:, :, :n] = np.where(total > 0.0, blocks[:, :, :n] / np.where(total > 0.0, total, 1.0), 1.0 / n)
        repaired: Floats = blocks.reshape(points.shape)
        return repaired

    def mean(self, points: Floats, *, average: AverageSpace) -> Floats:
        blocks = self._blocks(points)
        out = blocks.mean(axis=0)
        logs = [] if average == "unit" else self._logarithmic()
        for column, base, shift, slope in logs:
            mean = (base ** (shift + slope * blocks[:, :, column])).mean(axis=0)
            out[:, column] = (np.log(mean) / np.log(base) - shift) / slope
        return self.repair(out.reshape(1, -1)).reshape(-1)

    def _logarithmic(self) -> list[tuple[int, float, float, float]]:
        """(column, base, shift, slope) of every coordinate u that stands for base ** (shift + slope u)."""
        n = len(self.criteria)
        logs = [(n, self.lam_max, 0.0, 1.0)] if self.lambda_scale == "log" else []
        logs += [(n + 4, self.multiplier_max, -1.0, 2.0)] if self.domain_multiplier else []
        return logs

    def baselines(self, pool: Pool) -> dict[str, Floats]:
        """Without a window S is eps for all rows: equal in all domains, or inversely as their tokens."""
        held = dict(zip(pool.domains, pool.domain_tokens(), strict=True))
        tokens = np.array([held.get(name, 0.0) for name in self.domains])
        least = tokens[tokens > 0].min()
        share = np.where(tokens > 0, least / np.where(tokens > 0, tokens, 1.0), 1.0)
        return {"uniform": self._flat(share), "natural": self._flat(1.0)}

    def _flat(self, eps: Any) -> Floats:
        """The point with an empty window everywhere and the floor ``eps``, a share of its maximum: (P,)."""
        n, m = len(self.criteria), len(self.domains)
        block = np.zeros((m, self.width))
        block[:, :n] = 1.0 / n
        block[:, n : n + 3] = 0.5, 0.0, 0.0
        block[:, n + 3] = eps
        block[:, n + 4 :] = 0.5
        return block.reshape(-1)

    def parameters(
        self, unit: Floats, *, target_tokens: int | None = None, copy_cap: float | None = None
    ) -> QuaDMixParameters:
        """Theta at a point; a domain that the space does not name has the mean of its values.

        Raises:
            ConfigError: the point has another size, or lies outside the box.
        """
        point = np.asarray(unit, dtype=np.float64)
        if point.shape != (len(self.names),):
            raise ConfigError(
                f"search: got a theta of shape {point.shape}, allowed ({len(self.names)},) = {len(self.domains)} "
                f"domains x {self.width} (weights of {len(self.criteria)} criteria, lam, omega, eta, eps"
                f"{', multiplier' if self.domain_multiplier else ''})"
            )
        if not (np.isfinite(point).all() and point.min() >= 0.0 and point.max() <= 1.0):
            raise ConfigError("search: got a theta with a coordinate outside [0, 1]; repair it first")
        own = [self._domain(block) for block in point.reshape(len(self.domains), self.width)]
        middle = self._domain(self._blocks(point[None]).mean(axis=1)[0])
        return QuaDMixParameters(
            criteria=self.criteria,
            default=middle,
            domains=tuple(zip(self.domains, own, strict=True)),
            eta_mode=self.eta_mode,
            normalizer_scope=self.normalizer_scope,
            rank_at=self.rank_at,
            target_tokens=target_tokens,
            copy_cap=copy_cap,
            lam_max=self.lam_max,
            omega_max=self.omega_max,
            eps_max=self.eps_max,
        )

    def _domain(self, block: Floats) -> DomainParameters:
        n = len(self.criteria)
        lam, omega, eta, eps = (float(v) for v in block[n : n + 4])
        return DomainParameters(
            alpha=tuple(float(v) for v in block[:n]),
            lam=self.lam_max**lam if self.lambda_scale == "log" else self.lam_max * lam,
            omega=self.omega_max * omega,
            eta=eta,
            eps=self.eps_max * eps,
            multiplier=self.multiplier_max ** (2.0 * float(block[n + 4]) - 1.0) if self.domain_multiplier else 1.0,
        )

    def expected(self, pool: Pool, unit: Floats, *, target_tokens: int | None, copy_cap: float | None) -> Floats:
        """Raises ConfigError where the point, the pool or the budget do not fit."""
        return pool.expected(self.parameters(unit, target_tokens=target_tokens, copy_cap=copy_cap))

    def describe(self, unit: Floats) -> dict[str, Any]:
        """Per domain: alpha by criterion, lam, omega, eta, eps, multiplier."""
        columns = [c.column.removeprefix("score.") for c in self.criteria]
        found: dict[str, Any] = {}
        for name, own in self.parameters(unit).domains:
            found[name] = {
                "alpha": dict(zip(columns, own.alpha, strict=True)),
                "lam": own.lam,
                "omega": own.omega,
                "eta": own.eta,
                "eps": own.eps,
                "multiplier": own.multiplier,
            }
        return {"kind": "theta", "domains": found}

    def _blocks(self, points: Floats) -> Floats:
        blocks: Floats = points.reshape(len(points), len(self.domains), self.width)
        return blocks
