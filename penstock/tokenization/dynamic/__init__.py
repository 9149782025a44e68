"""Tokens merged batch by batch, and embeddings for those that a model has never seen."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "BaseVocabulary": "penstock.tokenization.dynamic.vocabulary",
        "CalibrationTable": "penstock.tokenization.dynamic.calibration",
        "CompositionRows": "penstock.tokenization.dynamic.embeddings",
        "DynamicBatch": "penstock.tokenization.dynamic.batch",
        "DynamicModel": "penstock.tokenization.dynamic.wrappers",
        "DynamicTokenizer": "penstock.tokenization.dynamic.batch",
        "DynamicTokens": "penstock.tokenization.dynamic.row_work",
        "HypernetConfig": "penstock.tokenization.dynamic.hypernet_training",
        "HypernetRows": "penstock.tokenization.dynamic.hypernet",
        "LargeVocabulary": "penstock.tokenization.dynamic.generation",
        "OutputIndex": "penstock.tokenization.dynamic.output_index",
        "RowCache": "penstock.tokenization.dynamic.cache",
        "Sampling": "penstock.tokenization.dynamic.generation",
        "calibrate": "penstock.tokenization.dynamic.calibration",
        "keyed_batches": "penstock.tokenization.dynamic.row_work",
        "train_hypernet": "penstock.tokenization.dynamic.hypernet_training",
    },
)
