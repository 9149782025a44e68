"""Verbs as functions, as Prefect flows and as deployments; flows order steps and pass paths."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "Deployments": "penstock.flows.deployments",
        "Outcome": "penstock.flows.verbs",
        "TokenizerMade": "penstock.flows.tokenizing",
        "build": "penstock.flows.verbs",
        "calibrate": "penstock.flows.choosing",
        "compare_tokenizers": "penstock.flows.tokenizing",
        "extend_tokenizer": "penstock.flows.tokenizing",
        "generate": "penstock.flows.verbs",
        "infer_tokenizer_mixture": "penstock.flows.tokenizing",
        "prune_tokenizer": "penstock.flows.tokenizing",
        "push": "penstock.flows.verbs",
        "refresh": "penstock.flows.verbs",
        "run": "penstock.flows.verbs",
        "score": "penstock.flows.choosing",
        "screen": "penstock.flows.choosing",
        "select": "penstock.flows.choosing",
        "train": "penstock.flows.verbs",
        "train_tokenizer": "penstock.flows.tokenizing",
        "transform": "penstock.flows.verbs",
    },
)
