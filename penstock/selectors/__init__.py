"""Choosing rows: cleaning, filters, duplicates, quality, QuaDMix, feedback from training."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "AssignSplit": "penstock.selectors.splits",
        "BottomK": "penstock.selectors.sample",
        "C4Lines": "penstock.selectors.c4",
        "C4Quality": "penstock.selectors.c4",
        "C4Rules": "penstock.selectors.c4",
        "ExactDuplicates": "penstock.selectors.exact",
        "ExceptDomains": "penstock.selectors.scope",
        "FineWebQuality": "penstock.selectors.fineweb",
        "GopherQuality": "penstock.selectors.gopher",
        "GopherRepetition": "penstock.selectors.gopher",
        "LanguageFilter": "penstock.selectors.language",
        "LanguageId": "penstock.selectors.language",
        "LicenseFilter": "penstock.selectors.licenses",
        "Normalise": "penstock.selectors.normalise",
        "NotEmpty": "penstock.selectors.normalise",
        "PiiFilter": "penstock.selectors.pii",
        "PiiMask": "penstock.selectors.pii",
        "PiiRules": "penstock.selectors.pii",
        "QuaDMixParameters": "penstock.selectors.quadmix_theta",
        "QualityClassifier": "penstock.selectors.quality",
        "RefinedWebLines": "penstock.selectors.refinedweb",
        "RefinedWebQuality": "penstock.selectors.refinedweb",
        "RefinedWebRules": "penstock.selectors.refinedweb",
        "Sampling": "penstock.selectors.sample",
        "SignalScore": "penstock.selectors.feedback",
        "UrlBlocklist": "penstock.selectors.blocklist",
        "WordBlocklist": "penstock.selectors.blocklist",
    },
)
