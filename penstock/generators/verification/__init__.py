"""Is an answer right, and is a variant still the same problem: verifier workers and the verification ladder."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "AnswerVerifier": "penstock.generators.verification.workers",
        "Check": "penstock.generators.verification.base",
        "EmbeddingBand": "penstock.generators.verification.band",
        "Judge": "penstock.generators.verification.judge",
        "Judged": "penstock.generators.verification.ladder",
        "Ladder": "penstock.generators.verification.ladder",
        "ModelCheck": "penstock.generators.verification.base",
        "Pair": "penstock.generators.verification.base",
        "SolveAgreement": "penstock.generators.verification.agreement",
        "Verified": "penstock.generators.verification.workers",
        "checks_of": "penstock.generators.verification.catalogue",
        "final_answer": "penstock.generators.verification.answers",
    },
)
