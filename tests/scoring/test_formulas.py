"""Scores of a text, by hand and by their statistics: ``python -m pytest tests/scoring/test_formulas.py``."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock.scoring.formulas import SCORES, first_occurrences, scores_of
from penstock.scoring.positions import statistics_of

# three tokens over four symbols; the first has no context, so two are predicted
P = np.array([[0.5, 0.25, 0.125, 0.125], [0.7, 0.1, 0.1, 0.1]])
TARGETS = [1, 0]
LN2 = math.log(2)


def by_hand():
    """(l, mu, var) of both predicted tokens, summed symbol by symbol."""
    log_p = [math.log(P[t, TARGETS[t]]) for t in range(2)]
    mean = [sum(p * math.log(p) for p in row) for row in P]
    variance = [sum(p * math.log(p) ** 2 for p in row) - m**2 for row, m in zip(P, mean, strict=True)]
    return np.array([log_p, mean, variance])


def test_the_three_numbers_of_a_token_are_those_by_hand():
    # 1.75 bits of entropy; second moment 1/2 + 1 + 9/8 + 9/8 = 3.75 bits^2, so a variance of 3.75 - 1.75^2
    first = [-2 * LN2, -1.75 * LN2, (3.75 - 1.75**2) * LN2**2]
    np.testing.assert_allclose(by_hand()[:, 0], first, rtol=1e-12)
    found = statistics_of(torch.from_numpy(np.log(P) + 3.0), torch.tensor(TARGETS))  # logits are free of a constant
    np.testing.assert_allclose(found.numpy(), by_hand(), rtol=1e-12)


def test_every_score_on_the_hand_example():
    log_p, mean, variance = by_hand()
    l1, l2 = -2 * LN2, math.log(0.7)
    mu1, mu2 = -1.75 * LN2, 0.7 * math.log(0.7) + 0.3 * math.log(0.1)
    v1 = (3.75 - 1.75**2) * LN2**2
    v2 = 0.7 * math.log(0.7) ** 2 + 0.3 * math.log(0.1) ** 2 - mu2**2
    reference = np.log([0.2, 0.001])
    found = scores_of(
        log_p,
        mean,
        variance,
        min_k=0.5,
        compressed_bytes=11,
        first=np.array([True, True]),
        reference_log_p=reference,
        cap=0.5,
    )
    want = {
        "loss": -(l1 + l2) / 2,
        "entropy": -(mu1 + mu2) / 2,
        "zlib": (l1 + l2) / 2 / 11,
        "mink": l1,  # the lower of the two
        "minkpp": min((l1 - mu1) / math.sqrt(v1), (l2 - mu2) / math.sqrt(v2)),
        # 0.25 * 1.609 = 0.402; 0.7 * 6.908 = 4.84 is cut at 0.5
        "dcpdd": (0.25 * -math.log(0.2) + 0.5) / 2,
        "zs": abs((l1 + l2) / 2 - (mu1 + mu2) / 2),
        "zs_signed": (l1 + l2) / 2 - (mu1 + mu2) / 2,
        "zs_ratio": (l1 + l2) / -(mu1 + mu2),
        "z": (l1 + l2 - mu1 - mu2) / math.sqrt(v1 + v2),
    }
    assert list(found) == list(SCORES)
    for score, value in want.items():
        assert found[score] == pytest.approx(value, rel=1e-12), score


@pytest.mark.parametrize(
    ("n", "k", "kept"), [(2, 0.2, 1), (9, 0.2, 1), (10, 0.2, 2), (10, 0.3, 3), (10, 1.0, 10), (100, 0.07, 7)]
)
def test_min_k_keeps_the_floor_of_its_share_and_at_least_one(n, k, kept):
    log_p = -np.arange(1.0, n + 1)
    found = scores_of(log_p, np.zeros(n), np.ones(n), min_k=k, compressed_bytes=1)
    assert found["mink"] == pytest.approx(np.sort(log_p)[:kept].mean())
    assert found["minkpp"] == pytest.approx(np.sort(log_p)[:kept].mean())


def test_a_repeated_token_counts_once_in_dcpdd_and_the_cap_holds_each_token():
    assert first_occurrences(np.array([4, 7, 4, 4, 9, 7], np.int32)).tolist() == [True, True, False, False, True, False]
    log_p = np.log([0.1, 0.9, 0.5])
    reference = np.log([0.5, 0.5, 0.5])
    keep = {"min_k": 0.2, "compressed_bytes": 1, "reference_log_p": reference}
    once = scores_of(log_p, np.zeros(3), np.ones(3), first=np.array([True, False, True]), cap=10.0, **keep)
    assert once["dcpdd"] == pytest.approx((0.1 * LN2 + 0.5 * LN2) / 2)
    capped = scores_of(log_p, np.zeros(3), np.ones(3), first=np.array([True, False, True]), cap=0.1, **keep)
    assert capped["dcpdd"] == pytest.approx((0.1 * LN2 + 0.1) / 2)
    none = scores_of(log_p, np.zeros(3), np.ones(3), first=np.zeros(3, bool), cap=0.1, **keep)
    assert none["dcpdd"] is None


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_predicted_tokens_have_no_score(n):
    found = scores_of(np.full(n, -1.0), np.full(n, -1.0), np.ones(n), min_k=0.2, compressed_bytes=5)
    assert found == dict.fromkeys(SCORES)


def test_where_the_model_leaves_no_choice_quotients_are_null_and_the_rest_is_finite():
    n = 5
    found = scores_of(np.zeros(n), np.zeros(n), np.zeros(n), min_k=0.2, compressed_bytes=0)
    assert {score for score, value in found.items() if value is None} == {"zlib", "dcpdd", "zs_ratio", "z"}
    assert found["minkpp"] == found["loss"] == found["zs"] == 0.0


def test_a_token_that_cannot_come_is_no_nan():
    logits = torch.tensor([[0.0, 0.0, float("-inf")]])
    found = statistics_of(logits.clone(), torch.tensor([0]))
    np.testing.assert_allclose(found.numpy()[:, 0], [-LN2, -LN2, 0.0], atol=1e-6)
    assert torch.isfinite(statistics_of(logits, torch.tensor([2]))).all()


@given(hnp.arrays(np.float32, (3, 7), elements=st.floats(-30, 30, width=32)), st.integers(0, 6))
@settings(max_examples=200, deadline=None)
def test_float32_statistics_are_those_of_float64(logits, target):
    wide = logits.astype(np.float64)
    log_p = wide - np.log(np.exp(wide - wide.max(1, keepdims=True)).sum(1, keepdims=True)) - wide.max(1, keepdims=True)
    p = np.exp(log_p)
    mean = (p * log_p).sum(1)
    want = np.stack([log_p[:, target], mean, (p * (log_p - mean[:, None]) ** 2).sum(1)])
    found = statistics_of(torch.from_numpy(logits), torch.full((3,), target)).numpy()
    np.testing.assert_allclose(found, want, rtol=2e-5, atol=2e-5)


def test_bfloat16_logits_are_reduced_in_float32():
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = statistics_of(logits, torch.arange(4))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, statistics_of(logits.float(), torch.arange(4)), rtol=0, atol=0)
