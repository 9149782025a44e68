"""What a procedural voyage is compared with: explorers for the same runner, gates and accounting.

    default              the prior, unchanged; no threshold
    uniform              every family alike; no threshold
    hierarchical         topics first: families of the prior, all different in a batch, one problem each; no threshold
    gate_only            the prior, unchanged; the threshold alone decides
    random_refinement    moves of the same number and sizes as Voyager's, of families and levels drawn by lot

The first three are baselines of the paper that need no model (arXiv 2512.12072); the last two are Voyager without
one of its parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from penstock.errors import ConfigError
from penstock.generators.explorers.families import families
from penstock.generators.explorers.procedural import Evidence, Prior, ProceduralExplorer
from penstock.generators.items import Item
from penstock.generators.voyager.settings import ThresholdSettings, VoyagerSettings


@dataclass(frozen=True, kw_only=True)
class Hierarchical(ProceduralExplorer):
    """Draws topics first: no family twice in a batch as long as there are others."""

    def _families(self, count: int, draws: np.random.Generator) -> list[str]:
        names = self.state.names
        found: list[str] = []
        while len(found) < count:
            size = min(count - len(found), len(names))
            chosen = draws.choice(len(names), size=size, replace=False, p=self.state.shares)
            found += [names[i] for i in chosen]
        return found


@dataclass(frozen=True, kw_only=True)
class RandomRefinement(ProceduralExplorer):
    """Moves as far as the evidence would take it, but families and levels are drawn by lot."""

    ground: ClassVar[str] = "put down by lot to"

    def _evidence(self, items: Sequence[Item], draws: np.random.Generator) -> Evidence:
        by_family, by_level = super()._evidence(items, draws)
        order = draws.permutation(len(self.state.names))
        other = {name: self.state.names[order[i]] for i, name in enumerate(by_family)}
        moved: Counter[tuple[str, str, int]] = Counter()
        for (name, _, _), count in by_level.items():
            knobs = families()[other[name]].knobs
            if knobs:
                knob = knobs[int(draws.integers(len(knobs)))]
                moved[other[name], knob.name, int(draws.integers(len(knob.levels)))] += count
        return Counter({other[name]: count for name, count in by_family.items()}), moved


def _open(settings: VoyagerSettings) -> VoyagerSettings:
    return replace(
        settings, threshold=ThresholdSettings(strategy="none"), prune="latest", refine="never", explorer_weight="none"
    )


_Made = Callable[[Prior, int, VoyagerSettings], tuple[ProceduralExplorer, VoyagerSettings]]
BASELINES: Mapping[str, _Made] = {
    "default": lambda prior, seed, settings: (ProceduralExplorer.root(prior, seed=seed), _open(settings)),
    "uniform": lambda prior, seed, settings: (
        ProceduralExplorer.root(Prior.uniform(prior.weights), seed=seed),
        _open(settings),
    ),
    "hierarchical": lambda prior, seed, settings: (Hierarchical.root(prior, seed=seed), _open(settings)),
    "gate_only": lambda prior, seed, settings: (
        ProceduralExplorer.root(prior, seed=seed),
        replace(settings, refine="never"),
    ),
    "random_refinement": lambda prior, seed, settings: (RandomRefinement.root(prior, seed=seed), settings),
}


def baseline(
    name: str, prior: Prior, *, seed: int, settings: VoyagerSettings
) -> tuple[ProceduralExplorer, VoyagerSettings]:
    """Root explorer and settings of a baseline.

    Args:
        name: one of ``BASELINES``.
        prior: of the proposer; ``uniform`` takes its families alone.
        seed: of the run.
        settings: of the voyage that it is compared with.

    Raises:
        ConfigError: there is no such baseline.
    """
    if name not in BASELINES:
        raise ConfigError(f"baseline: got {name!r}, allowed {', '.join(BASELINES)}; choose one")
    return BASELINES[name](prior, seed, settings)
