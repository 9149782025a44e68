"""penstock: make, choose, tokenise and feed training data for language models.

The names below load on first use, so ``import penstock`` costs nothing.
"""

from __future__ import annotations

from penstock._lazy import exports

__version__ = "0.1.0"

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "Dataset": "penstock.dataset",
        "Manifest": "penstock.dataset",
        "PenstockError": "penstock.errors",
        "Recipe": "penstock.recipe",
        "apply": "penstock.work",
        "trace": "penstock.tracing",
    },
)
