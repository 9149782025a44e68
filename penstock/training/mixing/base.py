"""What a mixing policy sees and gives back: one interface for every rule that sets a mixture while training runs.

A policy does no training and knows no loop. Whoever runs it (``mixer.Mixer``) collects the signals that it declares,
hands them over as sums and counts since the last update, and passes the mixture that comes back through the common
post-stage (``post.PostStage``) to the loader. Sums and counts rather than means: ranks and accumulation steps add up.

All arrays over domains have shape (K,) in the order of ``Observation.domains``; weights are shares of *tokens*.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError

Floats = NDArray[np.float64]


class Signal(StrEnum):
    """What a policy may ask for. Sums are float64; a count of 0 means not seen since the last update."""

    TRAIN_LOSS = "train_loss"  # sum of token losses in nats, counts are tokens: (K,)
    EXCESS_LOSS = "excess_loss"  # sum over tokens of max(loss - reference loss, 0), counts are tokens: (K,)
    VALIDATION_LOSS = "validation_loss"  # held-out loss, nats per token times tokens, counts are tokens: (K,)
    TARGET_DOT = "target_dot"  # products of a domain's gradient with the target's, counts are probes: (K,)
    TARGET_LOSS = "target_loss"  # loss of the target's probe rows, counts are tokens: (1,)
    GRADIENT_GRAM = "gradient_gram"  # products of two domains' gradients, counts are how often both were seen: (K, K)


@dataclass(frozen=True, kw_only=True)
class Cadence:
    """When a policy is asked: after steps ``warmup + every``, ``warmup + 2 every``, … (steps count from 1)."""

    every: int = 100
    warmup: int = 0

    def __post_init__(self) -> None:
        if self.every < 1 or self.warmup < 0:
            raise ConfigError(f"cadence: got every {self.every}, warmup {self.warmup}; allowed every >= 1, warmup >= 0")

    def due(self, step: int) -> bool:
        """Whether the policy is asked after step ``step``."""
        return step > self.warmup and (step - self.warmup) % self.every == 0


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What was seen since the last update, reduced over all ranks."""

    step: int  # optimiser steps done
    domains: tuple[str, ...]
    weights: Floats  # (K,) shares of tokens that the observed sequences were drawn under
    mixture_version: int  # of the newest sequence observed
    tokens: NDArray[np.int64]  # (K,) tokens trained on since the run began
    sums: Mapping[Signal, Floats] = field(default_factory=dict)
    counts: Mapping[Signal, Floats] = field(default_factory=dict)

    def mean(self, signal: Signal) -> Floats:
        """Sums over counts, nan where nothing was counted."""
        sums, counts = self.sums[signal], self.counts[signal]
        out = np.full(sums.shape, np.nan)
        np.divide(sums, counts, out=out, where=counts > 0)
        return out


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """What a policy wants from now on, before the post-stage."""

    weights: Floats  # (K,) shares of tokens, >= 0, sum 1
    multipliers: Floats | None = None  # (K,) of the loss of each domain's tokens; None is 1 everywhere
    facts: Mapping[str, Any] = field(default_factory=dict)  # JSON values for the policy log


@runtime_checkable
class MixingPolicy(Protocol):
    """A rule that sets the mixture. Implementations are dataclasses whose fields are their settings."""

    name: str
    cadence: Cadence

    @property
    def needs(self) -> frozenset[Signal]:
        """Signals to collect; nothing else is."""
        ...

    def start(self, domains: tuple[str, ...], tokens: NDArray[np.int64]) -> Mixture:
        """The mixture at step 0 and a fresh state; ``tokens`` (K,) is what each domain holds."""
        ...

    def update(self, seen: Observation) -> Mixture | None:
        """The next mixture, or None to leave it as it is."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that later updates depend on, as JSON values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state that ``state_dict`` gave."""
        ...


def not_finite(seen: Observation, needs: frozenset[Signal]) -> str | None:
    """Which needed signal holds a number that is not finite, and where; None when all is well.

    Whoever runs a policy asks this first, so that no rule has to guard itself: such an observation is refused and the
    mixture stays.
    """
    for signal in sorted(needs):
        values = np.asarray(seen.sums[signal], dtype=np.float64)
        bad = np.argwhere(~np.isfinite(values) & (np.asarray(seen.counts[signal]) > 0))
        if len(bad):
            at = int(bad[0][0])
            where = seen.domains[at] if values.shape[0] == len(seen.domains) else str(at)
            return f"{signal.value} of {where} is {values[tuple(bad[0])]}"
    return None
