"""Feeding a training loop and learning from it."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "Batch": "penstock.training.batch",
        "CausalCollator": "penstock.training.collate",
        "DynamicGradientAlignment": "penstock.training.mixing.dga",
        "GradientProbe": "penstock.training.probes",
        "MixtureCallback": "penstock.training.hf_trainer",
        "MixtureLoader": "penstock.training.loader",
        "Mixer": "penstock.training.mixing.mixer",
        "ModelConfig": "penstock.training.config",
        "PolicyConfig": "penstock.training.mixing.config",
        "PostStage": "penstock.training.mixing.post",
        "SampleWeighter": "penstock.training.weighter",
        "SequenceStore": "penstock.training.sequences",
        "StreamStore": "penstock.training.streams",
        "Target": "penstock.training.probes",
        "TrainConfig": "penstock.training.config",
        "TrainData": "penstock.training.config",
        "TrainResult": "penstock.training.config",
        "WeightingConfig": "penstock.training.weighting",
        "chunked_cross_entropy": "penstock.training.losses",
        "document_scores": "penstock.training.signals",
        "export_megatron": "penstock.training.megatron",
        "loss_weights": "penstock.training.weighting",
        "open_megatron": "penstock.training.megatron",
        "read_signals": "penstock.training.signals",
        "segment_losses": "penstock.training.collate",
        "starting_weights": "penstock.training.mixing.mixer",
        "store_from_dataset": "penstock.training.huggingface",
        "train": "penstock.training.loop",
    },
)
