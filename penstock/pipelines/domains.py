"""Which domains the documents of a recipe can have, as far as the recipe tells: a misspelt one is told before the run.

Price: nothing is read.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from penstock.errors import ConfigError
from penstock.recipe import Recipe
from penstock.sources.environment import EnvironmentSource
from penstock.sources.files import FileSource
from penstock.sources.procedural import ProceduralSource


def domains_of(source: Any) -> frozenset[str] | None:
    """Those of a source; None where rows or names of files say it."""
    if isinstance(source, EnvironmentSource):
        return frozenset(source.include) - frozenset(source.exclude)
    if isinstance(source, ProceduralSource):
        return frozenset(source.families if source.domain == "family" else (source.name,))
    if isinstance(source, FileSource) and all(entry.wanted.domain is None for entry in source.entries):
        return frozenset(entry.domain for entry in source.entries if entry.domain is not None)
    return None


def check_targets(recipe: Recipe, sources: Sequence[Any], made: Sequence[str]) -> None:
    """Refuse a target of a mixing policy that no document can belong to, or that has no sequences to look at.

    Args:
        sources: of the recipe.
        made: domains of what the run makes.

    Raises:
        ConfigError: with the nearest domain.
    """
    models = {} if recipe.train is None else {"train": recipe.train}
    models |= {f"beside.{name}": config for name, config in recipe.trained_beside().items()}
    targets = {where: config.policy.target for where, config in models.items() if config.policy is not None}
    own = [frozenset(made), *map(domains_of, sources)]
    decided = [of for of in own if of is not None]
    open_ended = len(decided) < len(own) or (recipe.group is not None and recipe.group.as_domain)  # as_domain: clusters
    known = sorted(frozenset[str]().union(*decided))
    for where, target in targets.items():
        if target and not recipe.splits.validation:
            raise ConfigError(
                f"{where}.policy.target: its validation sequences are looked at, which splits.validation 0 leaves "
                "empty; raise it"
            )
        for name in () if open_ended else target:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
                hint = f"did you mean {near[0]}?" if near else "name one of them"
                allowed = f"allowed the domains of the documents: {', '.join(known)}"
                raise ConfigError(f"{where}.policy.target: got {name}, {allowed}; {hint}")
