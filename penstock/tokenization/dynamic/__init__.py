"""Tokens merged batch by batch, and embeddings for those that a model has never seen."""

from __future__ import annotations

from penstock._lazy import exports

_PACKAGE = "penstock.tokenization.dynamic"

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "BaseVocabulary": f"{_PACKAGE}.vocabulary",
        "CalibrationTable": f"{_PACKAGE}.calibration",
        "CompositionRows": f"{_PACKAGE}.embeddings",
        "DynamicBatch": f"{_PACKAGE}.batch",
        "DynamicModel": f"{_PACKAGE}.wrappers",
        "DynamicTokenizer": f"{_PACKAGE}.batch",
        "DynamicTokens": f"{_PACKAGE}.row_work",
        "HypernetConfig": f"{_PACKAGE}.hypernet_training",
        "HypernetRows": f"{_PACKAGE}.hypernet",
        "LargeVocabulary": f"{_PACKAGE}.generation",
        "OutputIndex": f"{_PACKAGE}.output_index",
        "RowCache": f"{_PACKAGE}.cache",
        "Sampling": f"{_PACKAGE}.generation",
        "calibrate": f"{_PACKAGE}.calibration",
        "keyed_batches": f"{_PACKAGE}.row_work",
        "train_hypernet": f"{_PACKAGE}.hypernet_training",
    },
)
