"""Question transforms: the same problem in other words, names or forms, with the same answer."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "Edit": "penstock.generators.transforms.base",
        "KINDS": "penstock.generators.transforms.prompted",
        "Maker": "penstock.generators.transforms.making",
        "NotApplicable": "penstock.generators.transforms.base",
        "Problem": "penstock.generators.transforms.base",
        "PromptedTransform": "penstock.generators.transforms.prompted",
        "TransformConfig": "penstock.generators.transforms.config",
        "Variant": "penstock.generators.transforms.base",
        "model_transforms": "penstock.generators.transforms.prompted",
        "rules_of": "penstock.generators.transforms.rules",
    },
)
