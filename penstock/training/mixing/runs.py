"""Small training runs as pairs of a mixture and its losses: what ``regmix`` and ``mixing_laws`` are fitted to.

A file of JSON lines, one run each::

    {"mixture": {"web": 0.7, "code": 0.3}, "losses": {"wikipedia": 3.91, "stories": 4.05}}

Mixtures are shares of tokens over the training domains (those left out have 0); losses are validation losses in nats
per token under any names, the same in every run.

Price: one pass over the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from penstock.errors import ConfigError, InputError
from penstock.training.mixing.base import Floats
from penstock.training.mixing.rule import check_names, numbers


@dataclass(frozen=True, eq=False)
class Runs:
    """n runs over K domains with M losses each."""

    domains: tuple[str, ...]
    names: tuple[str, ...]  # of the losses
    mixtures: Floats  # (n, K), rows sum to 1
    losses: Floats  # (n, M), nats per token

    def __post_init__(self) -> None:
        n, k = self.mixtures.shape if self.mixtures.ndim == 2 else (0, 0)
        shapes = k == len(self.domains) and self.losses.shape == (n, len(self.names)) and n > 0 and len(self.names) > 0
        if not shapes:
            raise ConfigError(
                f"runs: got mixtures of shape {self.mixtures.shape} and losses {self.losses.shape} for "
                f"{len(self.domains)} domains and {len(self.names)} losses, allowed (n, K) and (n, M)"
            )
        if not np.isfinite(self.losses).all():
            raise ConfigError("runs: a loss is not finite; leave that run out")
        if (self.mixtures < 0).any() or not np.allclose(self.mixtures.sum(axis=1), 1.0, atol=1e-6):
            raise ConfigError("runs: a mixture is no distribution, allowed shares >= 0 that sum to 1")

    def objective(self, target: Mapping[str, float] | None) -> Floats:
        """One loss per run: the mean of all, or a weighted mean of some: (n,)."""
        return self.losses @ self.weights(target)

    def weights(self, target: Mapping[str, float] | None) -> Floats:
        """Weight of each loss in the objective: (M,), sum 1; ConfigError for an unknown name or a bad number."""
        if target is None:
            return np.full(len(self.names), 1.0 / len(self.names))
        if not isinstance(target, Mapping):
            raise ConfigError(f"target: got {target!r}, allowed a weight per loss, or nothing for their mean")
        check_names(target, self.names, "target")
        given = numbers([target.get(name, 0.0) for name in self.names], "target")
        if not given.sum() > 0:
            raise ConfigError(f"target: got {dict(target)}, allowed weights >= 0, at least one above 0")
        total: Floats = given / given.sum()
        return total


def read_runs(path: str | Path, domains: Sequence[str]) -> Runs:
    """The runs of a JSON-lines file, over the given training domains.

    Raises:
        InputError: the file is missing, or a line is no run.
        ConfigError: an unknown domain, or numbers out of range.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"runs {path}: cannot be read ({error}); give a file of JSON lines") from error
    mixtures, losses, names = [], [], tuple[str, ...]()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"runs {path}, line {number}"
        try:
            run = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where}: no JSON ({error}); a line is one run") from error
        mixture, loss = _part(run, "mixture", where), _part(run, "losses", where)
        check_names(mixture, domains, where)
        names = names or tuple(loss)
        if set(loss) != set(names):
            raise InputError(
                f"{where}: losses {', '.join(loss)}, the first run has {', '.join(names)}; give all runs the same"
            )
        row = numbers([mixture.get(name, 0.0) for name in domains], where)
        if not row.sum() > 0:
            raise ConfigError(f"{where}: the mixture is 0 everywhere, allowed shares that sum to 1")
        mixtures.append(row / row.sum())
        losses.append(numbers([loss[name] for name in names], where))
    if not mixtures:
        raise InputError(f"runs {path}: holds no run; write one JSON line per run")
    return Runs(tuple(domains), names, np.stack(mixtures), np.stack(losses))


def _part(run: Any, key: str, where: str) -> dict[str, float]:
    part = run.get(key) if isinstance(run, dict) else None
    if not isinstance(part, dict) or not part:
        raise InputError(f'{where}: no {key}, allowed {{"mixture": {{domain: share}}, "losses": {{name: nats}}}}')
    for name, value in part.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise InputError(f"{where}: {key} of {name} is {value!r}, allowed a finite number")
    return part
