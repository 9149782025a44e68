"""What a report shows of trained models: curves, the mixture over time, what was seen. Part of the record of a run.

Units are those of ``record``: losses in nats per token, seconds of wall time, exact counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from penstock.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Numbers logged against the optimiser step at which they were taken; steps rise. Values may be NaN or infinite."""

    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.values):
            raise ConfigError(
                f"curve: got {len(self.steps)} steps and {len(self.values)} values, allowed equally many; "
                "log them together"
            )

    @property
    def last(self) -> float | None:
        return self.values[-1] if self.values else None


@dataclass(frozen=True, kw_only=True)
class MixtureRecord:
    """The mixture of a run, one entry a version, from its table ``policy_log``.

    ``effective_from`` are the first sequences of the training order that each version holds for, rising from 0;
    ``weights`` shares of tokens by domain, one a version.
    """

    policy: str
    sequences_a_step: int
    effective_from: tuple[int, ...]
    weights: Mapping[str, tuple[float, ...]]
    target: tuple[str, ...] = ()  # domains that the policy trains towards

    def __post_init__(self) -> None:
        sizes = {len(self.effective_from), *(len(shares) for shares in self.weights.values())}
        if len(sizes) != 1:
            raise ConfigError(f"mixture: got {sorted(sizes)} versions and shares, allowed equally many")


@dataclass(frozen=True, kw_only=True)
class SeenDocument:
    """A document that training saw: the steps at which it did, and its loss (nats per token) at first and at last."""

    doc_id: str
    domain: str
    steps: tuple[int, ...]  # rising, the first few; ``visits`` counts all
    visits: int
    first_loss: float
    last_loss: float


@dataclass(frozen=True, kw_only=True)
class SeenRecord:
    """Which documents training saw in which step, from the table ``signals``.

    ``visits`` counts documents by the number of steps that saw them. ``samples`` are those of the smallest hash of
    their id, so two runs show the same ones.
    """

    documents: int
    visits: Mapping[str, int]  # "1", "2", "3 to 4", … in order
    samples: tuple[SeenDocument, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """One run of training, from its metrics file: of a round, or one trained beside it, which has a ``name``.

    ``train_loss`` is the mean loss of the step's predicted tokens, unsmoothed: the renderer smooths.
    ``validation_loss`` holds, by domain, the mean over that domain's validation tokens. ``tokens`` is the
    number of predicted tokens, ``seconds`` the wall time of the loop, evaluation included.
    ``tokens_per_second`` is predicted tokens over wall time since the step logged before. ``domain_loss`` holds the
    training loss of each domain by step. ``target_loss`` is that of the held-out rows of the policy's target,
    ``effective_samples`` the effective sample size over the number of samples, 1 where all weigh the same.
    """

    round: int  # from 1
    name: str = ""
    model: str  # "Llama, 4 layers, width 256"
    parameters: int  # trainable numbers, tied ones once
    device: str
    steps: int  # optimiser steps done
    tokens: int
    seconds: float
    train_loss: Curve = Curve()
    learning_rate: Curve = Curve()
    tokens_per_second: Curve = Curve()
    validation_loss: Mapping[str, Curve] = dataclasses.field(default_factory=dict)
    domain_loss: Mapping[str, Curve] = dataclasses.field(default_factory=dict)
    target_loss: Curve = Curve()
    effective_samples: Curve = Curve()
    mixture: MixtureRecord | None = None
    seen: SeenRecord | None = None
