"""Verbs as functions, as Prefect flows and as deployments; flows order steps and pass paths."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "Deployments": "penstock.flows.deployments",
        "Outcome": "penstock.flows.verbs",
        "build": "penstock.flows.verbs",
        "generate": "penstock.flows.verbs",
        "push": "penstock.flows.verbs",
        "run": "penstock.flows.verbs",
        "train": "penstock.flows.verbs",
        "transform": "penstock.flows.verbs",
    },
)
