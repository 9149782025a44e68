"""penstock: make, choose, tokenise and feed training data for language models.

The names below load on first use, so ``import penstock`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "Dataset": "penstock.dataset",
    "Manifest": "penstock.dataset",
    "PenstockError": "penstock.errors",
    "Recipe": "penstock.recipe",
    "apply": "penstock.work",
    "run": "penstock.run",
}

__all__ = ["Dataset", "Manifest", "PenstockError", "Recipe", "__version__", "apply", "run"]

if TYPE_CHECKING:
    from penstock.dataset import Dataset, Manifest
    from penstock.errors import PenstockError
    from penstock.recipe import Recipe
    from penstock.run import run
    from penstock.work import apply


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'penstock' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
