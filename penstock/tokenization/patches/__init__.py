"""Cutting text without a vocabulary: bytes, words, entropy patches, windows of equal information."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "ByteLM": "penstock.tokenization.patches.byte_lm",
        "EncodeEqualInfo": "penstock.tokenization.patches.equal_info",
        "PATCHES": "penstock.tokenization.patches.schema",
        "PatchRule": "penstock.tokenization.patches.entropy",
        "byte_tokenizer": "penstock.tokenization.patches.bytes",
        "entropies": "penstock.tokenization.patches.byte_lm",
        "pool": "penstock.tokenization.patches.words",
        "read_patches": "penstock.tokenization.patches.schema",
        "segment": "penstock.tokenization.patches.entropy",
        "threshold_for": "penstock.tokenization.patches.entropy",
        "train_byte_lm": "penstock.tokenization.patches.byte_lm",
        "window_patches": "penstock.tokenization.patches.equal_info",
        "word_patches": "penstock.tokenization.patches.words",
        "write_patches": "penstock.tokenization.patches.schema",
    },
)
