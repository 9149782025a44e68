"""Diverse generation guarded by a determinantal anchor set (Voyager, arXiv 2512.12072), and its baselines."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "Decision": "penstock.generators.voyager.records",
        "RoundRecord": "penstock.generators.voyager.records",
        "Spending": "penstock.generators.voyager.records",
        "ThresholdSettings": "penstock.generators.voyager.settings",
        "Voyage": "penstock.generators.voyager.records",
        "VoyagerSettings": "penstock.generators.voyager.settings",
        "explore": "penstock.generators.voyager.loop",
    },
)
