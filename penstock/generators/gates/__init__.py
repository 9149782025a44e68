"""Gates on generated rows: refusals, template leaks, relevance, contamination, near copies of the seed set, a jury."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "Contamination": "penstock.generators.gates.contamination",
        "GatesConfig": "penstock.generators.gates.config",
        "Jury": "penstock.generators.gates.jury",
        "Language": "penstock.generators.gates.language",
        "Leaks": "penstock.generators.gates.leaks",
        "Length": "penstock.generators.gates.length",
        "Refusal": "penstock.generators.gates.refusal",
        "Relevance": "penstock.generators.gates.relevance",
        "RelevanceJudge": "penstock.generators.gates.relevance",
        "SeedCopies": "penstock.generators.gates.seeds",
        "index_benchmarks": "penstock.generators.gates.contamination",
        "judged": "penstock.generators.gates.passing",
    },
)
