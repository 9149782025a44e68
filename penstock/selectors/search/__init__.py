"""Search of selection parameters over small training runs: space, surrogate, proposals, guard."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "Measured": "penstock.selectors.search.trials",
        "MixtureSpace": "penstock.selectors.search.mixture_space",
        "Pool": "penstock.selectors.search.pool",
        "SearchResult": "penstock.selectors.search.result",
        "SearchSettings": "penstock.selectors.search.settings",
        "ThetaSpace": "penstock.selectors.search.space",
        "Trial": "penstock.selectors.search.trials",
        "fit_surrogate": "penstock.selectors.search.surrogate",
    },
)
