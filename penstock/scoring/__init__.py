"""Texts read by a causal language model: scores of one forward pass, and flags by calibrated thresholds."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "LanguageModelScores": "penstock.scoring.lm_scores",
        "load_causal_lm": "penstock.scoring.model",
        "pack_texts": "penstock.scoring.model",
    },
)
