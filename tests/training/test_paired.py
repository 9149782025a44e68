"""Two models on the same sequences: the difference of a mean over tokens, and its error by sequence."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from penstock.training.config import TrainConfig, TrainData
from penstock.training.evaluation import evaluate
from penstock.training.model import build_model, logits_function, token_losses
from penstock.training.paired import paired, sequence_losses, shared_rows
from penstock.training.sequences import SequenceStore

Make = Callable[..., TrainConfig]

sums = st.floats(0, 1e4, allow_nan=False)


@given(st.lists(st.tuples(sums, sums), min_size=2, max_size=30))
def test_with_equally_many_tokens_it_is_the_paired_t_test_s_mean_and_error(pairs: list[tuple[float, float]]) -> None:
    before, after = np.array(pairs).T
    found = paired(before, after, np.full(len(pairs), 8.0))
    assert found is not None
    per_token = (after - before) / 8
    assert found.difference == pytest.approx(per_token.mean(), abs=1e-9)
    assert found.error == pytest.approx(float(stats.sem(per_token)), abs=1e-9)
    assert found.after - found.before == pytest.approx(found.difference, abs=1e-9)


def test_the_error_of_unequal_sequences_is_that_of_the_bootstrap() -> None:
    rng = np.random.default_rng(3)
    tokens = rng.integers(1, 60, 400).astype(float)
    before = tokens * rng.normal(3.0, 1.0, 400)
    after = before + tokens * rng.normal(-0.05, 0.2, 400)
    found = paired(before, after, tokens)
    assert found is not None
    draws = rng.integers(0, 400, (4000, 400))
    means = (after - before)[draws].sum(axis=1) / tokens[draws].sum(axis=1)
    assert found.error == pytest.approx(float(means.std()), rel=0.06)
    # sequences are hard or easy for both models: unpaired, the error would be many times as large
    assert found.error is not None
    assert found.error < 0.3 * float(stats.sem(before / tokens))


def test_sequences_without_a_predicted_token_do_not_count() -> None:
    found = paired(np.array([8.0, 0.0, 4.0]), np.array([6.0, 0.0, 4.0]), np.array([2.0, 0.0, 2.0]))
    assert found is not None
    assert (found.sequences, found.tokens, found.before, found.after, found.difference) == (2, 4, 3.0, 2.5, -0.5)
    assert found.error == pytest.approx(0.5)
    one = paired(np.array([1.0]), np.array([2.0]), np.array([1.0]))
    assert one is not None
    assert one.error is None
    assert paired(np.zeros(3), np.zeros(3), np.zeros(3)) is None


def test_losses_by_sequence_add_up_to_the_evaluation_s(tiny_data: TrainData, tiny_config: Make) -> None:
    config = tiny_config()
    store = SequenceStore.open(tiny_data.validation)
    model: Any = build_model(config.model, vocab_size=32, length=store.length, seed=3)
    logits_of = logits_function(model)
    domain, row = shared_rows(store, 1000)
    assert len(row) == 12
    nats, tokens = sequence_losses(model, lambda inputs: token_losses(logits_of, inputs), store, domain, row, size=5)
    expected = evaluate(model, store, dataclasses.replace(config, eval_sequences=100))
    for k, name in enumerate(store.domains):
        assert nats[domain == k].sum() / tokens[domain == k].sum() == pytest.approx(expected[name], rel=1e-5)
    alone, _ = sequence_losses(
        model, lambda inputs: token_losses(logits_of, inputs), store, domain[3:4], row[3:4], size=1
    )
    assert math.isclose(alone[0], nats[3], rel_tol=1e-5)


class Rows:
    def __init__(self, *rows: int) -> None:
        self.rows = rows


@pytest.mark.parametrize(
    ("rows", "most", "expected"),
    [((5, 7), 12, (5, 7)), ((5, 7), 6, (2, 3)), ((1, 999), 100, (1, 99)), ((0, 8), 4, (0, 4)), ((3, 3), 2, (1, 1))],
)
def test_every_domain_has_its_share_of_the_rows_and_at_least_one(
    rows: tuple[int, ...], most: int, expected: tuple[int, ...]
) -> None:
    domain, row = shared_rows(Rows(*rows), most)  # type: ignore[arg-type]
    assert tuple(np.bincount(domain, minlength=2)) == expected
    assert all((row[domain == k] == np.arange(n)).all() for k, n in enumerate(expected))
