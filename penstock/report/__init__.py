"""The HTML report of a run."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "RunRecord": "penstock.report.record",
        "write_report": "penstock.report.build",
    },
)
