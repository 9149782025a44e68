"""The n-gram proxy against its formulas over dictionaries, and what it must rank."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import ConfigError, DatasetError
from penstock.selectors.proxies.ngram import NgramConfig, NgramIndex, NgramProxy

VOCABULARY = 6
BEFORE = -1  # stands before a document
document = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=8)
pools = st.lists(st.tuples(document, st.integers(0, 3)), min_size=1, max_size=8)


def model_of(rows, copies, order, discount):
    """P(token | what came before) straight from the formulas, with counts in dictionaries."""
    counts = [defaultdict(Counter) for _ in range(order)]
    for row, times in zip(rows, copies, strict=True):
        padded = [BEFORE] * (order - 1) + row
        for i, token in enumerate(row):
            for k in range(order):
                history = tuple(padded[i + order - 1 - k : i + order - 1])
                if times:
                    counts[k][history][token] += times

    def probability(token, history):
        padded = (BEFORE,) * (order - 1) + tuple(history)
        p = 1.0 / VOCABULARY
        for k in range(order):
            seen = counts[k][padded[len(padded) - k :]]
            total = sum(seen.values())
            if total:
                p = (max(seen[token] - discount, 0.0) + discount * len(seen) * p) / total
        return p

    return probability


@pytest.mark.parametrize("order", [2, 3, 4, 5])
@settings(deadline=None, max_examples=60)
@given(pool=pools, target=st.lists(document, min_size=1, max_size=5), discount=st.sampled_from([0.1, 0.75, 0.9]))
def test_every_token_has_the_probability_of_the_formulas(proxy_data, order, pool, target, discount):
    rows, copies = [row for row, _ in pool], [times for _, times in pool]
    index = NgramIndex.of(proxy_data(rows, target, VOCABULARY), order)
    nats = index.token_losses(np.array(copies, np.int32), discount=discount)
    probability = model_of(rows, copies, order, discount)
    wanted = [-math.log(probability(token, row[:i])) for row in target for i, token in enumerate(row)]
    assert nats.tolist() == pytest.approx(wanted, rel=1e-12)


@settings(deadline=None, max_examples=60)
@given(pool=pools, history=st.lists(st.integers(0, VOCABULARY - 1), max_size=3))
def test_probabilities_sum_to_one_over_the_vocabulary_after_any_history(proxy_data, pool, history):
    rows, copies = [row for row, _ in pool], np.array([times for _, times in pool], np.int32)
    target = [[*history, token] for token in range(VOCABULARY)]
    nats = NgramIndex.of(proxy_data(rows, target, VOCABULARY), 3).token_losses(copies, discount=0.75)
    last = nats.reshape(VOCABULARY, len(history) + 1)[:, -1]
    assert np.exp(-last).sum() == pytest.approx(1.0, abs=1e-12)


def test_two_copies_are_two_documents(proxy_data):
    rows, target = [[2, 3, 4, 1], [3, 3, 1], [2, 4, 1]], [[2, 3, 1]]
    twice = NgramIndex.of(proxy_data([*rows, rows[1]], target, 6), 3)
    once = NgramIndex.of(proxy_data(rows, target, 6), 3)
    one = once.token_losses(np.array([1, 2, 0], np.int32), discount=0.75)
    two = twice.token_losses(np.array([1, 1, 0, 1], np.int32), discount=0.75)
    assert one.tolist() == two.tolist()


def test_documents_without_copies_and_the_order_of_documents_change_nothing(proxy_data, languages):
    pool, target = languages("good", 30, 1), languages("good", 5, 2)
    copies = np.random.default_rng(0).integers(0, 3, 30).astype(np.int32)
    order = np.random.default_rng(1).permutation(30)
    losses = NgramIndex.of(proxy_data(pool, target, 26), 3).token_losses(copies, discount=0.75)
    shuffled = NgramIndex.of(proxy_data([pool[i] for i in order], target, 26), 3)
    assert shuffled.token_losses(copies[order], discount=0.75).tolist() == losses.tolist()
    taken = np.flatnonzero(copies)
    only = NgramIndex.of(proxy_data([pool[i] for i in taken], target, 26), 3)
    assert only.token_losses(copies[taken], discount=0.75).tolist() == losses.tolist()


def test_without_any_copy_all_tokens_are_equally_likely(proxy_data):
    index = NgramIndex.of(proxy_data([[2, 1]], [[2, 3, 1]], 8), 3)
    assert index.token_losses(np.zeros(1, np.int32), discount=0.75).tolist() == pytest.approx([math.log(8)] * 3)


def test_a_selection_like_the_target_has_the_lower_loss_and_repeats_cost_something(proxy_data, languages, tmp_path):
    pool = [*languages("good", 80, 1), *languages("other", 80, 1), *languages("noise", 80, 1)]
    target = [*languages("good", 20, 2), *languages("other", 5, 2)]
    data = proxy_data(pool, target, 26, parts=["good"] * 20 + ["other"] * 5)
    proxy = NgramProxy.of(data, NgramConfig(), str(tmp_path))

    def measured(good, other, noise):
        copies = np.repeat([good, other, noise], 80).astype(np.int32)
        return proxy.measure(copies, seed=0)

    good, other, noise, even = measured(1, 0, 0), measured(0, 1, 0), measured(0, 0, 1), measured(1, 1, 1)
    assert good.losses["good"] < even.losses["good"] < noise.losses["good"]
    assert max(other.losses["other"], even.losses["other"]) < min(good.losses["other"], noise.losses["other"])
    few = np.zeros(240, np.int32)
    few[:10] = 8
    assert good.loss < proxy.measure(few, seed=0).loss, "ten documents eight times are worth less than eighty"
    tokens = {"good": sum(map(len, target[:20])), "other": sum(map(len, target[20:]))}
    mean = sum(good.losses[name] * tokens[name] for name in tokens) / sum(tokens.values())
    assert good.loss == pytest.approx(mean, abs=1e-6)


def test_the_proxy_is_the_same_from_its_files(proxy_data, languages, tmp_path):
    data = proxy_data(languages("good", 12, 1), languages("good", 3, 2), 26)
    copies = np.ones(12, np.int32)
    one, two = (NgramProxy.of(data, NgramConfig(order=2), str(tmp_path / name)) for name in ("a", "b"))
    assert one.identity() == two.identity()
    assert one.measure(copies, seed=1) == two.measure(copies, seed=2)
    assert NgramProxy.of(data, NgramConfig(order=4), str(tmp_path)).identity() != one.identity()
    nats = NgramIndex.of(data, 2).token_losses(copies, discount=0.75)
    assert one.measure(copies, seed=1).loss == pytest.approx(nats.mean(), abs=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"order": 1}, "ngram.order: got 1, allowed 2 to 5"),
        ({"order": True}, "ngram.order: got True, allowed 2 to 5"),
        ({"discount": 0.0}, "ngram.discount: got 0.0, allowed above 0 and below 1"),
        ({"discount": float("nan")}, "ngram.discount: got nan"),
    ],
)
def test_settings_out_of_range_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        NgramConfig(**config)


def test_empty_sides_and_ids_outside_the_vocabulary_are_refused(proxy_data):
    with pytest.raises(DatasetError, match="target: got no token to measure a loss on"):
        proxy_data([[1]], [], 4)
    with pytest.raises(DatasetError, match="pool: got no token to learn from"):
        proxy_data([[]], [[1]], 4)
    with pytest.raises(DatasetError, match="got 9, allowed below the vocabulary of 4"):
        proxy_data([[1]], [[9]], 4)
