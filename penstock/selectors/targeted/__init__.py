"""Selectors that look at a target set: one interface, and the methods by name.

The modules of the methods, and what they need, are imported when a method is asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

from penstock.errors import ConfigError

METHODS = {
    "random": "penstock.selectors.targeted.baseline:Random",
    "bm25": "penstock.selectors.targeted.bm25:BM25",
    "importance": "penstock.selectors.targeted.importance:Importance",
    "loss": "penstock.selectors.targeted.loss_based:LossBased",
    "diverse": "penstock.selectors.targeted.diverse:Diverse",
    "less": "penstock.selectors.targeted.less:LESS",
    "mona": "penstock.selectors.targeted.mona:MONA",
}


def method(name: str) -> type[Any]:
    """The class of a selector by its name.

    Raises:
        ConfigError: no method has the name.
    """
    if name not in METHODS:
        raise ConfigError(f"method: got {name!r}, allowed {', '.join(METHODS)}; choose one")
    module, _, attribute = METHODS[name].partition(":")
    found: type[Any] = getattr(importlib.import_module(module), attribute)
    return found
