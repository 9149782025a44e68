"""Explorers: directions that Voyager searches, as prompts, control prefixes or the state of a procedural maker."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "PrefixExplorer": "penstock.generators.explorers.prefix",
        "Prior": "penstock.generators.explorers.procedural",
        "ProceduralExplorer": "penstock.generators.explorers.procedural",
        "PromptExplorer": "penstock.generators.explorers.prompt",
    },
)
