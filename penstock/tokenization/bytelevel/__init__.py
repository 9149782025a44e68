"""Exact next-byte probabilities from language models of tokens, and what stands on them."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "AlignTokenizers": "penstock.tokenization.bytelevel.alignment",
        "ByteDistributions": "penstock.tokenization.bytelevel.distributions",
        "ByteModel": "penstock.tokenization.bytelevel.model",
        "ByteSource": "penstock.tokenization.bytelevel.distributions",
        "ByteState": "penstock.tokenization.bytelevel.state",
        "ByteTokenizer": "penstock.tokenization.bytelevel.tokenizer",
        "Ensemble": "penstock.tokenization.bytelevel.ensemble",
        "InfillLayout": "penstock.tokenization.bytelevel.infilling",
        "Sampling": "penstock.tokenization.bytelevel.sampling",
        "ServerModel": "penstock.tokenization.bytelevel.server",
        "TokenServer": "penstock.tokenization.bytelevel.token_server",
        "align": "penstock.tokenization.bytelevel.alignment",
        "generate": "penstock.tokenization.bytelevel.sampling",
        "generate_tokens": "penstock.tokenization.bytelevel.sampling",
        "heal_tokens": "penstock.tokenization.bytelevel.healing",
        "infill": "penstock.tokenization.bytelevel.infilling",
        "middle_logprob": "penstock.tokenization.bytelevel.infilling",
        "prompt_tokens": "penstock.tokenization.bytelevel.healing",
        "read": "penstock.tokenization.bytelevel.distributions",
    },
)
