"""Rules that set the shares of domains while a model trains: one interface, one file each."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "AdaptiveDataOptimization": "penstock.training.mixing.ado",
        "Cadence": "penstock.training.mixing.base",
        "Cooldown": "penstock.training.mixing.cooldown",
        "DoReMi": "penstock.training.mixing.doremi",
        "DynamicGradientAlignment": "penstock.training.mixing.dga",
        "ImportanceSampling": "penstock.training.mixing.importance",
        "Mixer": "penstock.training.mixing.mixer",
        "MixingLaws": "penstock.training.mixing.mixing_laws",
        "MixingPolicy": "penstock.training.mixing.base",
        "Mixture": "penstock.training.mixing.base",
        "Observation": "penstock.training.mixing.base",
        "OnlineDataMixing": "penstock.training.mixing.odm",
        "PolicyConfig": "penstock.training.mixing.config",
        "PostStage": "penstock.training.mixing.post",
        "RegMix": "penstock.training.mixing.regmix",
        "RegroupAndBalance": "penstock.training.mixing.rnb",
        "Signal": "penstock.training.mixing.base",
        "Static": "penstock.training.mixing.static",
        "Update": "penstock.training.mixing.mixer",
        "candidates": "penstock.training.mixing.regmix",
        "histogram": "penstock.training.mixing.importance",
        "mean_of_best": "penstock.training.mixing.regmix",
        "policy_of": "penstock.training.mixing.config",
        "starting_weights": "penstock.training.mixing.mixer",
        "votes": "penstock.training.mixing.importance",
    },
)
