"""Cutting text into tokens and tokens into training sequences."""

from __future__ import annotations

from penstock._lazy import exports

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "BPEConfig": "penstock.tokenization.bpe",
        "Encode": "penstock.tokenization.encode",
        "ByteModel": "penstock.tokenization.bytelevel.model",
        "DynamicTokenizer": "penstock.tokenization.dynamic.batch",
        "Merges": "penstock.tokenization.merges",
        "Pairs": "penstock.tokenization.merges",
        "group_from_the_right": "penstock.tokenization.digits",
        "pack": "penstock.tokenization.packing",
        "pack_table": "penstock.tokenization.packing",
        "train_bpe": "penstock.tokenization.bpe",
    },
)
