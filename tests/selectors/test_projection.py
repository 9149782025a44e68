"""The map of documents. Run: pytest tests/selectors/test_projection.py"""

import numpy as np
import pytest

from penstock.embedding.base import normalised
from penstock.selectors.projection import project


def clouds(rows=120, noise=0.05):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, rows)
    return normalised(np.eye(8)[label] + rng.normal(0, noise, (rows, 8))), label


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_what_is_alike_is_near_and_the_same_every_time(method):
    vectors, label = clouds()
    found = project(vectors, method=method, seed=3)
    assert found.dtype == np.float32
    assert abs(found).max(axis=0) == pytest.approx([1, 1])
    assert (found == project(vectors, method=method, seed=3)).all()
    centre = np.stack([found[label == group].mean(axis=0) for group in range(3)])
    nearest = ((found[:, None] - centre) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == label).mean() > 0.98


def test_the_axes_of_pca_are_those_of_largest_variance_and_their_signs_are_fixed():
    vectors, _ = clouds(noise=0.3)
    centred = vectors - vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(centred.astype(np.float64))
    found = project(vectors)
    for axis in range(2):
        along = centred @ axes[axis]
        along /= along[abs(along).argmax()]
        assert found[:, axis] == pytest.approx(along, abs=1e-4)
    assert found.max(axis=0) == pytest.approx([1, 1])


@pytest.mark.parametrize("method", ["pca", "tsne"])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 5])
def test_a_handful_of_points_and_equal_points_have_a_place(method, rows):
    equal = project(np.tile(normalised(np.ones((1, 4))), (rows, 1)), method=method)
    assert equal.shape == (rows, 2)
    assert np.isfinite(equal).all()
    assert project(clouds(rows)[0], method=method).shape == (rows, 2)
    assert project(normalised(np.ones((rows, 1))), method="pca").shape == (rows, 2)
