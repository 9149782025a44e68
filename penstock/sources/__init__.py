"""Where rows come from."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "EnvironmentSource": "penstock.sources.environment",
        "FileEntry": "penstock.sources.files",
        "FileSource": "penstock.sources.files",
        "HubEntry": "penstock.sources.hub",
        "ProceduralSource": "penstock.sources.procedural",
    },
)
