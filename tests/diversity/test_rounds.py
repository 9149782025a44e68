"""Two rounds against one. Run: pytest tests/diversity/test_rounds.py"""

import numpy as np
import pytest
import torch

from penstock.diversity import greedy_map, two_rounds
from penstock.diversity.rounds import measure_loss
from penstock.errors import InputError
from penstock.seeding import stream


def skewed(n, d, kinds):
    """Rows near a few directions, most of them near the first."""
    rng = stream(0, "skewed")
    kind = np.minimum(rng.pareto(1, n).astype(int), kinds - 1)
    return rng.normal(size=(kinds, d))[kind] + 0.3 * rng.normal(size=(n, d))


@pytest.mark.parametrize("objective", ["logdet", "logdet_plus_identity"])
def test_one_shard_is_one_round_and_each_round_is_greedy(normal, objective):
    x = normal(120, 16)
    one = greedy_map(x, 10, objective=objective)
    two = two_rounds(x, np.zeros(120, int), 10, objective=objective)
    assert two.picks.tolist() == one.picks.tolist()
    shards = np.arange(120) % 3
    kept = np.sort(
        np.concatenate([np.flatnonzero(shards == s)[greedy_map(x[shards == s], 10).picks] for s in range(3)])
    )
    found = two_rounds(x, shards, 10)
    assert found.picks.tolist() == kept[greedy_map(x[kept], 10).picks].tolist()
    assert two_rounds(torch.from_numpy(x), shards, 10).picks.tolist() == found.picks.tolist()
    assert found.log_determinant <= greedy_map(x, 10).log_determinant + 1e-9


def test_quality_goes_with_its_rows(normal):
    x, shards = normal(60, 12), np.arange(60) % 4
    quality = np.exp(30 * stream(1, "q").normal(size=60))
    assert sorted(two_rounds(x, shards, 6, quality=quality).picks.tolist()) == sorted(np.argsort(-quality)[:6].tolist())


@pytest.mark.parametrize("objective", ["logdet", "logdet_plus_identity"])
def test_little_is_lost_in_two_rounds_and_all_of_it_by_chance(objective):
    x = skewed(1200, 24, 30)
    found = measure_loss(x, np.arange(1200) % 4, 12, objective=objective)
    assert found.random < found.two_rounds <= found.central
    assert found.picks == 12
    assert 0 <= found.share < 0.15
    assert found.central == pytest.approx(greedy_map(x, 12, objective=objective).log_determinant)
    # as many shards as rows that are wanted of all: nothing is cut in the first round
    assert measure_loss(x, np.arange(1200) // 12, 12).two_rounds == pytest.approx(
        measure_loss(x, x[:, 0] * 0, 12).central
    )


def test_a_loss_is_not_defined_where_random_rows_are_dependent_or_nothing_is_chosen():
    x = np.repeat(np.eye(4), 5, axis=0)
    found = measure_loss(x, np.arange(20) % 2, 4)
    assert (found.central, found.random, found.share) == (0, None, None)
    assert measure_loss(x, np.arange(20) % 2, 1).share is None


def test_edges(normal):
    assert two_rounds(np.zeros((0, 3)), np.zeros(0, int), 4).picks.tolist() == []
    with pytest.raises(InputError, match=r"shards: got shape \(2,\), allowed \(5,\)"):
        two_rounds(normal(5, 3), [0, 1], 2)
