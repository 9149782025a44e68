"""Diversity of a set from determinants of a similarity kernel: choosing, sampling, gains, effective number."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "AnchorFactor": "penstock.diversity.factor",
        "CholeskyFactor": "penstock.diversity.factor",
        "Cosine": "penstock.diversity.kernels",
        "Gram": "penstock.diversity.kernels",
        "Greedy": "penstock.diversity.greedy",
        "KDPP": "penstock.diversity.sampling",
        "Kernel": "penstock.diversity.kernels",
        "Linear": "penstock.diversity.kernels",
        "Mixture": "penstock.diversity.kernels",
        "RBF": "penstock.diversity.kernels",
        "Sample": "penstock.diversity.sampling",
        "TokenJaccard": "penstock.diversity.kernels",
        "Vendi": "penstock.diversity.vendi_score",
        "VendiSummary": "penstock.diversity.vendi_score",
        "greedy_map": "penstock.diversity.greedy",
        "kdpp": "penstock.diversity.sampling",
        "logdet_gain": "penstock.diversity.factor",
        "two_rounds": "penstock.diversity.rounds",
        "vendi": "penstock.diversity.vendi_score",
        "weighted": "penstock.diversity.kernels",
    },
)
