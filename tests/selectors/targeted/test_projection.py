"""Random projections. Run: pytest tests/selectors/targeted/test_projection.py"""

from itertools import pairwise

import numpy as np
import pytest
import torch

from penstock.errors import ConfigError
from penstock.seeding import mix64
from penstock.selectors.targeted.projection import Projection, _mix64

KINDS = ("count_sketch", "rademacher")


def projected(projection, vectors, cuts=()):
    out = projection.zeros(len(vectors))
    bounds = [0, *cuts, vectors.shape[1]]
    for begin, end in pairwise(bounds):
        projection.add(out, vectors[:, begin:end], begin)
    return out


def unit_rows(rows, width, seed=0):
    vectors = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return vectors / vectors.norm(dim=1, keepdim=True)


def test_the_mixer_is_that_of_every_other_coin():
    words = np.array([0, 1, 2**63, 2**64 - 1, 0x123456789ABCDEF0], dtype=np.uint64)
    assert (_mix64(torch.from_numpy(words.view(np.int64))).numpy().view(np.uint64) == mix64(words)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_any_size_and_order_give_the_same_projection(kind, monkeypatch):
    vectors = unit_rows(3, 5000)
    projection = Projection(kind=kind, dimensions=96, seed=4)
    whole = projected(projection, vectors)
    assert whole.abs().sum() > 0
    for cuts in ([1], [17, 18, 4999], list(range(700, 5000, 700))):
        assert torch.allclose(projected(projection, vectors, cuts), whole, rtol=0, atol=1e-12)
    backwards = projection.zeros(3)
    for begin in reversed(range(0, 5000, 1250)):
        projection.add(backwards, vectors[:, begin : begin + 1250], begin)
    assert torch.allclose(backwards, whole, rtol=0, atol=1e-12)
    for name in ("_SIGNS", "_SKETCHED"):
        monkeypatch.setattr(f"penstock.selectors.targeted.projection.{name}", 960)
    assert torch.allclose(projected(projection, vectors), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_decides_the_matrix(kind):
    vectors = unit_rows(2, 800)
    one, same, other = (projected(Projection(kind=kind, dimensions=64, seed=s), vectors) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert (one - other).abs().max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimensions", [64, 1000])
def test_inner_products_of_unit_vectors_are_kept_within_four_standard_errors(kind, dimensions):
    vectors = unit_rows(40, 3000, seed=7)
    vectors[1::2] = 0.6 * vectors[::2] + 0.8 * vectors[1::2]  # pairs that have something in common
    made = projected(Projection(kind=kind, dimensions=dimensions, seed=3), vectors)
    error = (made @ made.T - vectors @ vectors.T)[~torch.eye(40, dtype=torch.bool)]
    assert error.abs().max() < 4 / dimensions**0.5 * 1.4  # of correlated pairs the variance is up to (1 + c^2) / D
    assert error.std() == pytest.approx(dimensions**-0.5, rel=0.25)


@pytest.mark.parametrize("kind", KINDS)
def test_inner_products_are_right_in_the_mean_over_seeds(kind):
    a, b = unit_rows(2, 50, seed=1)
    found = []
    for seed in range(600):
        made = projected(Projection(kind=kind, dimensions=16, seed=seed), torch.stack([a, b]))
        found.append(float(made[0] @ made[1]))
    true, bound = float(a @ b), (float(a @ b) ** 2 + 1) / 16
    assert np.mean(found) == pytest.approx(true, abs=4 * (bound / 600) ** 0.5)
    assert np.var(found) < 1.25 * bound


def test_buckets_and_signs_are_even():
    bucket, sign = Projection(dimensions=10, seed=5).buckets(10**12, 20_000)
    assert np.bincount(bucket.numpy(), minlength=10) == pytest.approx(np.full(10, 2000), abs=200)
    assert abs(float(sign.sum())) < 600
    signs = Projection(kind="rademacher", dimensions=70).signs(3, 4000)
    assert signs.shape == (4000, 70)
    assert set(signs.unique().tolist()) == {-1, 1}
    assert signs.double().mean(dim=0).abs().max() < 0.08


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "gaussian"}, "got 'gaussian', allowed count_sketch, rademacher"),
        ({"dimensions": 0}, "got 0, allowed 1 to"),
        ({"dimensions": 2**21}, "allowed 1 to 2\\*\\*20"),
    ],
)
def test_a_projection_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Projection(**settings)
