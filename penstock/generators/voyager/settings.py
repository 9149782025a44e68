"""How a voyage goes: its size, its threshold, what becomes of anchors and explorers.

Defaults are the paper's where it gives a number (arXiv 2512.12072: 3 explorers, 10 anchors, 200 rounds, batches of 10,
a first sample of 100). It gives none for the threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from penstock.errors import ConfigError

Strategy = Literal["quantile", "geometric", "paper", "none"]
Decay = Literal["none", "exp"]
Prune = Literal["kdpp", "greedy", "latest"]
Refine = Literal["rejected", "always", "never"]
ExplorerWeight = Literal["none", "acceptance"]


@dataclass(frozen=True, kw_only=True)
class ThresholdSettings:
    """The gain that an item needs.

    Args:
        strategy: how the first threshold comes from a first sample Y with S a k-DPP draw of ``anchors`` of its rows.
            ``quantile``: the (1 - acceptance)-quantile of the gains of the rest of Y given S, so that this share of
            items like Y would pass. ``geometric``: alpha times the mean gain det(K_S)^(1/k), clipped. ``paper``: alpha
            times det K_S, clipped; a product of k gains, to which one gain is then compared. ``none``: every item
            passes, there is no first sample, no kernel and no gain.
        acceptance: of ``quantile``.
        alpha: of ``geometric`` (0.75 by default, which takes the mean of gains against 0 to k - 1 anchors to the gain
            against all k) and ``paper`` (1 by default).
        lowest, highest: where ``geometric`` and ``paper`` are clipped; ``quantile`` is never above ``highest``.
        decay: ``exp`` multiplies the first threshold by exp(-round / horizon), ``none`` keeps it.
        horizon: rounds after which it has fallen to 1/e; it is not the number of rounds allowed.
    """

    strategy: Strategy = "quantile"
    acceptance: float = 0.35
    alpha: float | None = None
    lowest: float = 0.05
    highest: float = 0.95
    decay: Decay = "exp"
    horizon: float = 200.0

    def __post_init__(self) -> None:
        _one_of("threshold.strategy", self.strategy, Strategy)
        _one_of("threshold.decay", self.decay, Decay)
        if not 0 < self.acceptance < 1:
            raise ConfigError(f"threshold.acceptance: got {self.acceptance}, allowed between 0 and 1; 0.35 is usual")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise ConfigError(f"threshold.alpha: got {self.alpha}, allowed a number above 0; leave it out for its own")
        if self.alpha is not None and self.strategy not in ("geometric", "paper"):
            raise ConfigError(f"threshold.alpha: got one for {self.strategy}, allowed for geometric and paper; remove")
        if not 0 <= self.lowest <= self.highest <= 1:
            raise ConfigError(
                f"threshold: got lowest {self.lowest} and highest {self.highest}, allowed 0 <= lowest <= highest <= 1"
            )
        if not 0 < self.horizon < math.inf:
            raise ConfigError(
                f"threshold.horizon: got {self.horizon}, allowed rounds above 0; decay: none switches off"
            )


@dataclass(frozen=True, kw_only=True)
class VoyagerSettings:
    """A voyage.

    Args:
        count: items wanted; the voyage ends with the one that completes it.
        explorers: that live on after a round.
        anchors: that are left after each batch.
        rounds: after so many it ends.
        batch: items that an explorer is asked for at once.
        sample: items of the first sample, which the kernel's bandwidth and the threshold are fitted to.
        reuse_sample: let the first sample go through acceptance, as if explorers had proposed it. Without, its items
            are dropped as ``first_sample``.
        threshold: the gain that an item needs.
        prune: how anchors are chosen among the old and the newly accepted: a ``kdpp`` draw, ``greedy`` MAP (keeps what
            is furthest apart), or the ``latest``.
        refine: when explorers have successors: where items were ``rejected`` for what they resemble, ``always``, or
            ``never``.
        explorer_weight: successors are drawn by a k-DPP over their prompts; ``acceptance`` weighs each by the share of
            its parent's batch that was accepted.
        patience: it ends after so many rounds in a row without an accepted item.
        near: share of word 5-grams (Jaccard) from which a text is a near-duplicate of an accepted one.
    """

    count: int = 500
    explorers: int = 3
    anchors: int = 10
    rounds: int = 200
    batch: int = 10
    sample: int = 100
    reuse_sample: bool = True
    threshold: ThresholdSettings = field(default_factory=ThresholdSettings)
    prune: Prune = "kdpp"
    refine: Refine = "rejected"
    explorer_weight: ExplorerWeight = "none"
    patience: int = 10
    near: float = 0.8

    def __post_init__(self) -> None:
        for name in ("count", "explorers", "anchors", "rounds", "batch", "patience"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}, allowed >= 1; see its description")
        _one_of("prune", self.prune, Prune)
        _one_of("refine", self.refine, Refine)
        _one_of("explorer_weight", self.explorer_weight, ExplorerWeight)
        if self.threshold.strategy == "none":
            if self.prune != "latest":
                raise ConfigError(f"prune: got {self.prune} without a threshold, allowed latest; no kernel is fitted")
        elif self.sample < 2:
            raise ConfigError(f"sample: got {self.sample}, allowed >= 2; the threshold is fitted to it, 100 is usual")
        if not 0 < self.near <= 1:
            raise ConfigError(f"near: got {self.near}, allowed above 0 and up to 1; 1 finds equal texts alone")


def _one_of(name: str, value: str, kind: object) -> None:
    if value not in get_args(kind):
        raise ConfigError(f"{name}: got {value!r}, allowed {', '.join(get_args(kind))}; choose one")
