"""A dataset in the browser: search, drops, clusters, a map of embeddings, what became of a row."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(__name__, {"serve_view": "penstock.view.server"})
