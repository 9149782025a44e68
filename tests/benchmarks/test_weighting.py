"""The weighting benchmark: what weights do to a batch, and when a loss counts as reached."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import weighting
from benchmarks.small_lm import Job
from benchmarks.weighting import Settings, Weigh

SETTINGS = Settings(warmup=1)
LOSSES = [3.0, 3.1, 3.2, 2.9, 3.05, 3.15, 2.95, 9.0, 3.0, 0.5]


def objective(arm, losses, step=2, seed=0):
    """One step on rows of one token; the row before the last is of the other domain."""
    weigh = Weigh(SETTINGS, arm, 1, seed)
    values = torch.tensor(losses)
    domain = np.zeros(len(losses), dtype=np.int64)
    domain[-2] = 1
    ones = torch.ones(len(losses), dtype=torch.float64)
    out = weigh(SimpleNamespace(domain=domain), values, torch.arange(len(losses)), values.double(), ones, step)
    return float(out), weigh


def test_uniform_and_the_warm_up_are_the_plain_mean():
    for arm, step in (("uniform", 2), ("linupper", 1)):
        value, weigh = objective(arm, LOSSES, step)
        assert value == float(torch.tensor(LOSSES).sum() / 10)
        assert weigh.shares == []


def test_weights_of_a_batch_are_dealt_at_random_with_nothing_added():
    value, weigh = objective("linupper", LOSSES)
    dealt, other = objective("linupper, dealt at random", LOSSES)
    assert value != dealt
    # the same weights on other rows
    assert weigh.effective == pytest.approx(other.effective)
    assert weigh.largest == pytest.approx(other.largest)
    assert weigh.shares != other.shares
    assert weigh.rows == other.rows == [0.1]


def test_a_row_that_is_learned_loses_weight_and_one_far_above_keeps_it():
    _, learned = objective("linupper", [3.0, 3.1, 3.2, 2.9, 3.05, 3.15, 2.95, 3.3, 0.1, 3.0])
    _, garbage = objective("linupper", [3.0, 3.1, 3.2, 2.9, 3.05, 3.15, 2.95, 3.3, 9.0, 3.0])
    assert learned.shares[0] < 0.05 < 0.1 < garbage.shares[0]


def test_the_step_at_which_a_loss_is_reached_is_the_first_evaluated():
    def run(*losses):
        return {"loss": losses[-1], "evaluations": {str(10 * i + 10): loss for i, loss in enumerate(losses)}}

    done = {
        Job("repeats", "uniform", 0): run(6.0, 5.5, 5.0),
        Job("repeats", "linupper", 0): run(6.0, 5.0, 4.9),
        Job("repeats", "uniform", 1): run(6.0, 5.5, 5.0),
        Job("repeats", "linupper", 1): run(6.0, 5.6, 5.1),
        Job("repeats", "linupper", 2): run(6.0, 5.6, 5.1),
    }
    assert weighting.reached(done, "repeats", "linupper") == {0: 20, 1: None}
    (bar,) = weighting.bars(done, Settings(), quick=False)
    assert (bar.value, bar.holds) == (0.5, False)


def test_the_regression_is_fitted_and_a_rate_that_diverges_never_fits():
    assert 300 < weighting.steps_to_fit("uniform", 0.01, 0, most=2000) < 1500
    assert weighting.steps_to_fit("linupper", 0.01, 0, most=2000) < weighting.steps_to_fit(
        "uniform", 0.01, 0, most=2000
    )
    assert weighting.steps_to_fit("uniform", 5.0, 0, most=50) == 50
