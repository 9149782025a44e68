"""First thresholds against closed forms of equicorrelated kernels, and how they fall."""

import math

import numpy as np
import pytest

from penstock.diversity.kernels import Cosine, Gram
from penstock.diversity.sampling import kdpp
from penstock.generators.voyager import ThresholdSettings
from penstock.generators.voyager.threshold import FLOOR, first_threshold, threshold_at
from penstock.seeding import stream


def equal(n, r):
    return Gram(np.full((n, n), r) + (1 - r) * np.eye(n))


def first(kernel, k=10, **changes):
    return first_threshold(kernel, k, ThresholdSettings(**changes), stream(1, "threshold"))


@pytest.mark.parametrize(("k", "gain"), [(1, 0.7648), (5, 0.6000), (10, 0.5616)])
def test_a_quantile_of_equal_gains_is_their_closed_form(k, gain):
    r = 0.485
    assert gain == pytest.approx(1 - k * r * r / (1 + (k - 1) * r), abs=5e-5)
    assert first(equal(60, r), k) == pytest.approx(1 - k * r * r / (1 + (k - 1) * r), rel=1e-9)


def test_the_determinant_readings_are_its_closed_form():
    n, r = 10, 0.485
    determinant = (1 - r) ** (n - 1) * (1 + (n - 1) * r)
    mean = determinant ** (1 / n)
    none = {"lowest": 0.0, "highest": 1.0}
    assert first(equal(40, r), n, strategy="paper", **none) == pytest.approx(determinant, rel=1e-9)
    assert first(equal(40, r), n, strategy="geometric", **none) == pytest.approx(0.75 * mean, rel=1e-9)
    assert first(equal(40, r), n, strategy="geometric", alpha=0.5, **none) == pytest.approx(0.5 * mean, rel=1e-9)
    assert first(equal(40, r), n, strategy="paper") == 0.05
    assert first(equal(40, r), n, strategy="paper", alpha=1e9) == 0.95


@pytest.mark.parametrize("acceptance", [0.2, 0.35, 0.6])
def test_the_share_that_is_asked_for_of_the_sample_s_rest_would_pass(acceptance):
    rows = np.random.default_rng(0).normal(size=(200, 12)) + 1.5
    kernel = Cosine(rows)
    chosen = kdpp(kernel, 6, stream(1, "threshold")).rows
    found = first(kernel, 6, acceptance=acceptance)
    rest = np.setdiff1d(np.arange(200), chosen)
    whole = [np.linalg.slogdet(kernel.dense(np.append(chosen, row)))[1] for row in rest]
    gains = np.exp(np.array(whole) - np.linalg.slogdet(kernel.dense(chosen))[1])
    assert abs((gains >= found).mean() - acceptance) <= 1 / len(rest)


def test_a_sample_that_is_all_anchors_gives_the_gains_given_all_others():
    r, n = 0.485, 6
    assert first(equal(n, r), 10) == pytest.approx(1 - (n - 1) * r * r / (1 + (n - 2) * r), rel=1e-9)


def test_one_item_and_copies_of_one_item_give_a_threshold_that_can_be_reached():
    assert first(equal(1, 0.0)) == 0.95
    assert first(Gram(np.ones((30, 30)))) == FLOOR


def test_a_threshold_decays_over_its_own_horizon():
    falls = ThresholdSettings(decay="exp", horizon=50)
    assert threshold_at(0.4, 0, falls) == threshold_at(0.4, -3, falls) == 0.4
    assert threshold_at(0.4, 50, falls) == pytest.approx(0.4 / math.e)
    assert threshold_at(0.4, 10**6, falls) == FLOOR
    assert threshold_at(0.4, 10**6, ThresholdSettings(decay="none")) == 0.4
