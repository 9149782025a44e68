"""pytest tests/training/mixing/test_importance.py"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from penstock.errors import ConfigError
from penstock.seeding import stream
from penstock.training.mixing.importance import ImportanceSampling, histogram, votes

DOMAINS = ("a", "b", "c")


def test_the_mixture_is_the_targets_histogram_and_importance_its_ratio_to_the_data() -> None:
    mixture = ImportanceSampling(histogram={"a": 1, "c": 3}).start(DOMAINS, np.array([50, 30, 20]))
    assert mixture.weights.tolist() == [0.25, 0.0, 0.75]
    assert mixture.facts["importance"] == pytest.approx([0.5, 0.0, 3.75])
    assert mixture.facts["left_out"] == 0.0


def test_a_target_like_the_data_has_importance_one_everywhere() -> None:
    mixture = ImportanceSampling(histogram={"a": 5, "b": 3, "c": 2}).start(DOMAINS, np.array([50, 30, 20]))
    assert mixture.facts["importance"] == pytest.approx([1, 1, 1])


def test_mass_on_domains_without_tokens_is_left_out_and_told() -> None:
    mixture = ImportanceSampling(histogram={"a": 1, "b": 2, "c": 1}).start(DOMAINS, np.array([50, 0, 20]))
    assert mixture.weights.tolist() == [0.5, 0.0, 0.5]
    assert mixture.facts["left_out"] == 0.5


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "an empty target has no importance"),
        ({"a": 0}, "an empty target has no importance"),
        ({"a": -1}, "got -1"),
        ({"aa": 1}, "unknown domain 'aa'; did you mean a?"),
        ({"b": 1}, "all of it lies in domains without sequences"),
        ([1, 2, 3], "a number per domain"),
    ],
)
def test_a_histogram_without_use_is_refused(given: Any, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        ImportanceSampling(histogram=given).start(DOMAINS, np.array([50, 0, 20]))
    assert text in str(error.value)


def test_the_nearest_centroid_decides_a_document() -> None:
    centroids = np.eye(3)
    targets = np.array([[0.9, 0.1, 0.2], [0.0, 0.3, 0.8], [0.6, 0.5, 0.1], [0.1, 0.2, 0.9]])
    assert histogram(targets, centroids, ["a", "b", "c"]) == {"a": 0.5, "b": 0.0, "c": 0.5}
    # a domain may have several centroids
    assert histogram(targets, centroids, ["a", "b", "a"]) == {"a": 1.0, "b": 0.0}


def test_votes_of_the_nearest_two_by_hand() -> None:
    centroids = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    # nearest two: (1, 0) -> first, second; (0, 1) -> third, second; ties go to the earlier centroid
    targets = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert votes(targets, centroids, ["a", "b", "c"], k=2) == pytest.approx({"a": 2 / 6, "b": 3 / 6, "c": 1 / 6})


def test_votes_equal_a_search_by_brute_force_beyond_one_chunk() -> None:
    rng = stream(3, "votes")
    targets, centroids = rng.normal(size=(5000, 4)), rng.normal(size=(15, 4))
    names = [f"d{i // 5}" for i in range(15)]
    counts = dict.fromkeys(names, 0)
    for target in targets.astype(np.float32):
        products = [float(target @ c) for c in centroids.astype(np.float32)]
        for i in sorted(range(15), key=lambda i: -products[i])[:5]:
            counts[names[i]] += 1
    assert votes(targets, centroids, names) == pytest.approx({n: c / 25_000 for n, c in counts.items()})


@pytest.mark.parametrize(
    ("targets", "centroids", "names", "k", "text"),
    [
        (np.zeros((0, 2)), np.eye(2), ["a", "b"], 1, "the target has no document"),
        (np.zeros((3, 4)), np.eye(2), ["a", "b"], 1, "got targets of shape (3, 4)"),
        (np.zeros((3, 2)), np.eye(2), ["a"], 1, "1 domains"),
        (np.zeros((3, 2)), np.eye(2), ["a", "b"], 3, "k: got 3, allowed 1 to the 2 centroids"),
        (np.full((1, 2), np.nan), np.eye(2), ["a", "b"], 1, "not finite"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(targets: Any, centroids: Any, names: Any, k: int, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        votes(targets, centroids, names, k=k)
    assert text in str(error.value)
