"""Choosing rows: cleaning, filters, duplicates, quality, QuaDMix, feedback from training."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "AssignSplit": "penstock.selectors.splits",
        "BottomK": "penstock.selectors.sample",
        "ExactDuplicates": "penstock.selectors.exact",
        "ExceptDomains": "penstock.selectors.scope",
        "GopherQuality": "penstock.selectors.gopher",
        "GopherRepetition": "penstock.selectors.gopher",
        "LanguageFilter": "penstock.selectors.language",
        "LanguageId": "penstock.selectors.language",
        "Normalise": "penstock.selectors.normalise",
        "NotEmpty": "penstock.selectors.normalise",
        "QuaDMixParameters": "penstock.selectors.quadmix_theta",
        "QualityClassifier": "penstock.selectors.quality",
        "Sampling": "penstock.selectors.sample",
        "SignalScore": "penstock.selectors.feedback",
    },
)
