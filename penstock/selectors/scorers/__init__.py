"""Criteria for the selection: scorers that turn a text into a number, each with the end of it that is good."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "AskLLM": "penstock.selectors.scorers.askllm",
        "ClassifierScore": "penstock.selectors.scorers.classifier",
        "HeuristicScore": "penstock.selectors.scorers.heuristic",
        "PerplexityModel": "penstock.selectors.scorers.perplexity",
        "PerplexityScore": "penstock.selectors.scorers.perplexity",
        "Scorer": "penstock.selectors.scorers.base",
    },
)
