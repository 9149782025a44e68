"""Texts that a voyage begins beside: anchors that are never pruned, and what copies one of them is a duplicate.

They make a voyage look for what a corpus lacks: an item's gain is that given them and the anchors of the voyage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.dataset import Dataset
from penstock.diversity.factor import TOLERANCE, AnchorFactor
from penstock.embedding.base import unit_vectors
from penstock.generators.items import Item
from penstock.generators.voyager.kernel import RunKernel, words
from penstock.generators.voyager.records import Decision

PREFIX = "known:"  # of their ids in decisions, which no item of a voyage has


class Known(NamedTuple):
    """A text that is there already."""

    doc_id: str
    text: str
    vector: NDArray[np.float32]  # (d,) of length 1, by the embedder of the voyage


def known_in(dataset: Dataset) -> list[Known]:
    """The texts of a dataset's table ``anchors``: ``doc_id``, ``text`` and ``vector``."""
    if "anchors" not in dataset.manifest.tables:
        return []
    table = dataset.read("anchors").combine_chunks()
    vectors = unit_vectors(table["vector"].combine_chunks())
    return [Known(*of) for of in zip(table["doc_id"].to_pylist(), table["text"].to_pylist(), vectors, strict=True)]


def as_decisions(known: Sequence[Known]) -> list[Decision]:
    """As accepted items that no explorer proposed."""
    return [
        Decision(
            item_id=f"{PREFIX}{one.doc_id}",
            item=Item(text=one.text),
            explorer_id="",
            round=-1,
            rank=0,
            position=place,
            vector=one.vector,
        )
        for place, one in enumerate(known)
    ]


def fingerprint_of(known: Sequence[Known]) -> str:
    """32 hex digits of the ids, texts and vectors, in order."""
    hashed = hashlib.blake2b(digest_size=16)
    for one in known:
        for part in (
            one.doc_id.encode(),
            one.text.encode("utf-8", "surrogatepass"),
            one.vector.astype("<f4").tobytes(),
        ):
            hashed.update(len(part).to_bytes(8, "little") + part)
    return hashed.hexdigest()


def independent(kernel: RunKernel, rows: Sequence[Decision]) -> list[Decision]:
    """Rows that no earlier ones span under this kernel: anchors have to be independent."""
    vectors = [one.vector for one in rows if one.vector is not None]
    factor = AnchorFactor(kernel.over(vectors, [words(one.item.text) for one in rows]))
    out = []
    for place, one in enumerate(rows):
        if factor.gains([place])[0] > TOLERANCE:
            factor.append(place)
            out.append(one)
    return out
