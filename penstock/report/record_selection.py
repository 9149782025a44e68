"""What a report shows of a selection: kept and lost by criterion, theta, the edge, and the search that found theta.

Part of the record of a run. Ranks, values and shares are as QuaDMix defines them; losses are nats per token.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CriterionChoice:
    """One score in one domain of the train split, from the statistics of the selection.

    Means are of the raw score, over documents with at least one copy and over those with none; None without any.
    """

    criterion: str  # without "score."
    domain: str
    kept: int
    lost: int
    unscored: int
    mean_kept: float | None
    mean_lost: float | None


@dataclass(frozen=True, kw_only=True)
class ThetaDomain:
    """The parameters of one domain: weights of the criteria, which sum to 1, and the shape of S(r)."""

    domain: str
    weights: Mapping[str, float]
    lam: float
    omega: float
    eta: float
    eps: float
    multiplier: float | None = None


@dataclass(frozen=True, kw_only=True)
class EdgeDocument:
    """A document whose rank lies next to the end of its domain's window; ``copies`` says on which side it fell."""

    doc_id: str
    domain: str
    rank: float
    omega: float
    copies: int
    text: str  # its beginning
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A setting that was measured again with fresh seeds: what was expected of it, and what came out.

    ``predicted`` is the surrogate's loss, ``first`` the measurement that made it a candidate (None where there was
    none), ``again`` the new ones.
    """

    name: str
    predicted: float | None
    first: float | None
    again: tuple[float, ...]
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class ProxyPoint:
    """A proxy run: its loss, and the surrogate's prediction for it from the folds that did not hold it."""

    measured: float
    predicted: float


@dataclass(frozen=True, kw_only=True)
class SearchRecord:
    """The search for theta, from the artifact of the step ``search``."""

    method: str
    proxy: str
    proxies: int
    diverged: int
    target: tuple[str, ...]
    claim: bool  # whether the surrogate's own winner was taken
    why: str
    facts: Mapping[str, float] = dataclasses.field(default_factory=dict)  # out-of-fold R2, Spearman, residual sd, …
    candidates: tuple[Candidate, ...] = ()
    points: tuple[ProxyPoint, ...] = ()
    importances: Mapping[str, float] = dataclasses.field(default_factory=dict)  # share of all gain, largest first


@dataclass(frozen=True, kw_only=True)
class SelectionRecord:
    """How the documents of a round were chosen."""

    round: int
    budget_factor: float
    criteria: tuple[CriterionChoice, ...]
    theta: tuple[ThetaDomain, ...]
    edge: tuple[EdgeDocument, ...] = ()
