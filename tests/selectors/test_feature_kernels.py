"""Hashed word features, against a tokeniser written with a regular expression."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock.selectors._feature_kernels import count_features, mean_weight

BITS = 18
ALPHABET = "aZ09 .,\n\té\u2019\u2014\u0e01\u3000数한👍\u207f\u2080\x00\x7f"
_WIDE = r"[\u3000-\uffff\U00010000-\U0010ffff]"
_BLANK = r"[\x00-\x09\x0b-\x20\x7f\u2000-\u207f]"
_MARK = r"[\n!-/:-@\[-`{-~]"
TOKEN = re.compile(rf"{_WIDE}|{_MARK}|(?:(?!{_WIDE}|{_MARK}|{_BLANK}).)+", re.DOTALL)


def tokens(text: str) -> list[bytes]:
    folded = re.sub(r"[0-9]", "0", re.sub(r"[A-Z]", lambda m: m[0].lower(), text))
    return [token.encode() for token in TOKEN.findall(folded)]


def fnv(data: bytes) -> int:
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h


def bucket(h: int) -> int:
    return (h * 0x9E3779B97F4A7C15 % 2**64) >> (64 - BITS)


def expected(text: str) -> list[int]:
    out, last = [], None
    for h in map(fnv, tokens(text)):
        if last is not None:
            out.append(bucket((last * 0xBF58476D1CE4E5B9 % 2**64) ^ h))
        out.append(bucket(h))
        last = h
    return out


def features(texts: list[bytes], limit: int = 1 << 20) -> list[list[int]]:
    data = np.frombuffer(b"".join(texts), dtype=np.uint8)
    starts = np.cumsum([0, *map(len, texts)])
    indptr, buckets = count_features(data, starts, limit, BITS)
    return [buckets[a:b].tolist() for a, b in itertools.pairwise(indptr)]


def test_the_tokeniser_of_this_test_cuts_as_described() -> None:
    assert tokens("Über 12 a-b\u2014c\n数学x") == [
        *("Über".encode(), b"00", b"a", b"-", b"b", b"c", b"\n"),
        *("数".encode(), "学".encode(), b"x"),
    ]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(ALPHABET, max_size=12), max_size=4))
@example(["Über 12 a-b\u2014c\n数学x", "", "Zz"])
def test_features_equal_those_of_the_described_tokens(texts: list[str]) -> None:
    assert features([t.encode() for t in texts]) == [expected(t) for t in texts]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=12), max_size=4), st.integers(1, 12))
def test_scores_are_the_mean_weight_of_the_features_even_of_cut_or_broken_bytes(texts: list[bytes], limit: int) -> None:
    weights = np.random.default_rng(0).normal(size=1 << BITS).astype(np.float32)
    data = np.frombuffer(b"".join(texts), dtype=np.uint8)
    starts = np.cumsum([0, *map(len, texts)])
    got = mean_weight(data, starts, limit, BITS, weights)
    assert features([t[:limit] for t in texts]) == features(texts, limit)
    wanted = [float(weights[f].astype(float).mean()) if f else 0.0 for f in features(texts, limit)]
    assert got.tolist() == pytest.approx(wanted, abs=1e-6)
