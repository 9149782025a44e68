"""The closed loop, a round a call: new data, the signals of the last model, a new model beside the older one."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "Ledger": "penstock.refreshing.ledger",
        "Refreshed": "penstock.refreshing.loop",
        "Round": "penstock.refreshing.ledger",
        "refresh": "penstock.refreshing.loop",
    },
)
