"""Small pools and targets as token ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from penstock.seeding import hash_ids
from penstock.selectors.proxies.data import ProxyData, TokenDocuments


def documents_of(rows: Sequence[Sequence[int]], groups: Sequence[str] | None = None) -> TokenDocuments:
    return TokenDocuments.of(pa.array(list(rows), pa.list_(pa.uint16())), groups or ["all"] * len(rows))


def data_of(
    pool: Sequence[Sequence[int]],
    target: Sequence[Sequence[int]],
    vocabulary: int,
    *,
    domains: Sequence[str] | None = None,
    parts: Sequence[str] | None = None,
) -> ProxyData:
    hashes = hash_ids(f"doc-{i}" for i in range(len(pool)))
    return ProxyData(documents_of(pool, domains), hashes, documents_of(target, parts), vocabulary, 0)


@pytest.fixture(scope="session")
def documents():
    """``documents(rows, groups)`` are token documents."""
    return documents_of


@pytest.fixture(scope="session")
def proxy_data():
    """``proxy_data(pool, target, vocabulary, domains=, parts=)``: two lists of documents as lists of ids."""
    return data_of


@pytest.fixture(scope="session")
def languages():
    """``languages(kind, count, seed)``: documents of a small language; each kind follows words by other words."""

    def make(kind: str, count: int, seed: int, words: int = 24) -> list[list[int]]:
        rng = np.random.default_rng([seed, len(kind), *kind.encode()])
        step = {"good": 5, "other": 7}.get(kind)
        out = []
        for _ in range(count):
            word, row = int(rng.integers(2, 2 + words)), []
            for _ in range(int(rng.integers(20, 40))):
                row.append(word)
                jump = int(rng.integers(0, words)) if step is None or rng.random() < 0.1 else step
                word = 2 + (word - 2 + jump) % words
            out.append([*row, 1])
        return out

    return make
