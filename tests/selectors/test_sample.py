"""Bottom-k samples: exactly the k smallest hashes, whatever the order of merging."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, DatasetError
from penstock.seeding import rehash
from penstock.selectors.sample import BottomK, Sampling

Row = tuple[int, str, str]  # id_hash, domain, text


def batch(rows: list[Row]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(
        {
            "doc_id": pa.array([f"d{i:03}" for i in range(len(rows))], pa.string()),
            "id_hash": pa.array([r[0] for r in rows], pa.uint64()),
            "domain": pa.array([r[1] for r in rows], pa.string()),
            "text": pa.array([r[2] for r in rows], pa.string()),
        }
    )


def oracle(sampling: Sampling, rows: pa.RecordBatch) -> list[tuple[str, str]]:
    """(stratum, doc_id) kept, row by row as the docstring says it."""
    hashes = rehash(rows["id_hash"].to_numpy(), sampling.seed, sampling.purpose)
    items = [
        (r["domain"] if sampling.stratum else "", int(h), r["doc_id"], len(r["text"].encode()))
        for r, h in zip(rows.to_pylist(), hashes, strict=True)
    ]
    kept = []
    for stratum in sorted({i[0] for i in items}):
        size = 0
        ranked = sorted(i for i in items if i[0] == stratum)
        for _, _, doc_id, length in ranked[: sampling.rows]:
            if sampling.max_bytes is not None and size >= sampling.max_bytes:
                break
            kept.append((stratum, doc_id))
            size += length
    return kept


def kept(sample: BottomK) -> list[tuple[str, str]]:
    return [(name, doc) for name, rows in sample.strata() for doc in rows["doc_id"].to_pylist()]


ROWS = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from("ab"), st.sampled_from(["", "é", "xyz", "wörter"])), max_size=25
)


@settings(max_examples=100, deadline=None)
@given(
    rows=ROWS,
    limit=st.tuples(st.none() | st.integers(1, 6), st.none() | st.integers(1, 20)).filter(lambda x: x != (None, None)),
    stratum=st.sampled_from([None, "domain"]),
    seed=st.integers(0, 1000),
)
def test_any_split_and_merge_order_keeps_exactly_the_oracle_rows(
    rows: list[Row], limit: tuple[int | None, int | None], stratum: str | None, seed: int
) -> None:
    sampling = Sampling(seed=7, purpose="test", stratum=stratum, rows=limit[0], max_bytes=limit[1])
    whole = batch(rows)
    rng = np.random.default_rng(seed)
    parts = [sampling.of(whole.take(pa.array(i, pa.int64()))) for i in np.array_split(rng.permutation(len(rows)), 4)]
    while len(parts) > 1:  # a random tree of merges
        a, b = sorted(rng.choice(len(parts), 2, replace=False))
        parts[a] = parts[a].merge(parts.pop(b))
    once = sampling.of(whole)
    assert kept(once) == oracle(sampling, whole)
    assert parts[0].to_table().equals(once.to_table(), check_metadata=True)


def test_a_row_that_crossed_the_budget_still_stands_in_front_after_a_merge() -> None:
    sampling = Sampling(seed=0, purpose="p", max_bytes=10)
    ids = np.arange(50, dtype=np.uint64)
    first, giant, later = (int(i) for i in ids[np.argsort(rehash(ids, 0, "p"))][:3])
    rows = batch([(first, "a", "x" * 4), (giant, "a", "x" * 1000), (later, "a", "x")])
    merged = sampling.of(rows.slice(0, 2)).merge(sampling.of(rows.slice(2)))
    assert kept(merged) == [("", "d000"), ("", "d001")]


def test_purposes_and_seeds_draw_independent_samples() -> None:
    rows = batch([(i * 7919, "a", "t") for i in range(400)])
    names = [
        {d for _, d in kept(Sampling(seed=s, purpose=p, rows=100).of(rows))} for s, p in ((0, "a"), (0, "b"), (1, "a"))
    ]
    for x, y in ((0, 1), (0, 2), (1, 2)):
        assert 5 < len(names[x] & names[y]) < 50  # 25 expected


def test_chosen_columns_survive_a_round_trip_through_a_table() -> None:
    sampling = Sampling(seed=1, purpose="p", columns=("text", "domain"), stratum="domain", rows=2)
    sample = sampling.of(batch([(5, "b", "five"), (6, "a", "six"), (7, "b", "seven")]))
    again = BottomK.from_table(sample.to_table())
    assert again.sampling == sampling
    assert again.rows.schema.names == ["doc_id", "text", "domain"]
    assert again.merge(sampling.of(batch([]))).to_table().equals(sample.to_table())
    assert sorted(again.rows["text"].to_pylist()) == ["five", "seven", "six"]


def test_merging_an_empty_sample_changes_nothing_and_all_empty_is_empty() -> None:
    sampling = Sampling(seed=1, purpose="p", rows=3)
    empty = functools.reduce(BottomK.merge, [sampling.of(batch([]))] * 3)
    assert empty.num_rows == 0
    assert list(empty.strata()) == []


def test_samples_of_different_settings_do_not_merge() -> None:
    a, b = (Sampling(seed=1, purpose="p", rows=n).of(batch([])) for n in (3, 4))
    with pytest.raises(DatasetError, match="different settings"):
        a.merge(b)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({}, "got neither rows nor max_bytes"),
        ({"rows": 0}, "sample rows: got 0, allowed >= 1"),
        ({"max_bytes": -1}, "sample max_bytes: got -1, allowed >= 1"),
        ({"rows": 1, "columns": ("text", "text")}, "allowed distinct names"),
        ({"rows": 1, "columns": ("doc_id",)}, "allowed distinct names"),
    ],
)
def test_impossible_settings_are_refused(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampling(seed=0, purpose="p", **settings_)
