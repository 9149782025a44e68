"""Passes over splits, at home and on Beam runners, and the steps made of them."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "BeamEngine": "penstock.pipelines.beam",
        "HomeEngine": "penstock.pipelines.home",
        "Pass": "penstock.pipelines.passes",
        "Split": "penstock.pipelines.passes",
        "run_pass": "penstock.pipelines.passes",
    },
)
