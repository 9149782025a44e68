"""Bytes as tokens: a ``tokenizer.json`` of 256 tokens and the special ones, which is read like any other.

END is 0 and PAD 1, as those of ``bpe``; special tokens follow, then the bytes in their order. There are no merges.
Encoder, packer, loop, reports and ``transformers`` take it as it is.
"""

from __future__ import annotations

import json

from penstock.tokenization.bpe import SPECIAL, BPEConfig, train_bpe
from penstock.tokenization.digits import compact
from penstock.tokenization.pieces import byte_letters


def byte_tokenizer(special: tuple[str, ...] = ()) -> bytes:
    """The content of ``tokenizer.json``.

    Args:
        special: more special tokens, such as the markers of a chat template.

    Raises:
        ConfigError: special tokens that are empty, or there twice.
    """
    size = len(SPECIAL) + len(special) + 256
    state = json.loads(train_bpe(["a"], BPEConfig(vocabulary_size=size, special=special)))
    names = (*SPECIAL, *special)
    letters = byte_letters()
    state["model"]["vocab"] = {token: i for i, token in enumerate((*names, *letters))}
    return compact(state)
