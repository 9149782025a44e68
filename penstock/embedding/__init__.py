"""Texts as vectors: a static model, a sentence-transformers folder, or an HTTP endpoint."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "Embed": "penstock.embedding.base",
        "EmbedConfig": "penstock.embedding.config",
        "Embedder": "penstock.embedding.base",
        "Endpoint": "penstock.embedding.endpoint",
        "ModelConfig": "penstock.embedding.config",
        "SentenceFolder": "penstock.embedding.sentences",
        "StaticVectors": "penstock.embedding.static",
        "unit_vectors": "penstock.embedding.base",
    },
)
