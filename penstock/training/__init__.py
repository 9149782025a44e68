"""Feeding a training loop and learning from it."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "MixtureLoader": "penstock.training.loader",
        "ModelConfig": "penstock.training.config",
        "SequenceStore": "penstock.training.sequences",
        "TrainConfig": "penstock.training.config",
        "TrainData": "penstock.training.config",
        "TrainResult": "penstock.training.config",
        "document_scores": "penstock.training.signals",
        "read_signals": "penstock.training.signals",
        "train": "penstock.training.loop",
    },
)
