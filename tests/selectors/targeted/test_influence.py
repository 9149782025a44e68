"""Influence of examples on a target. Run: pytest tests/selectors/targeted/test_influence.py"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from penstock.errors import ConfigError
from penstock.selectors.targeted.influence import (
    adam_direction,
    best_task,
    checkpoint_weights,
    influence,
    linear_decay,
    mean_rates,
    task_means,
    unit_rows,
)


def test_the_direction_of_adam_by_hand():
    first, second = torch.tensor([0.0, 1e-4, -0.5], dtype=torch.float64), torch.tensor([0.0, 0.0, 4.0])
    gradient = torch.tensor([[0.0, 1e-4, 2.0]], dtype=torch.float64)
    found = adam_direction(gradient, first, second.double())[0].tolist()
    # m' = 0, 1e-4 and -0.25; v' = 0, 1e-11 and 4
    want = [0.0, 1e-4 / math.sqrt(1e-11 + 1e-8), -0.25 / math.sqrt(4.0 + 1e-8)]
    assert found == pytest.approx(want, rel=1e-9)
    # eps outside the root would give 31.5 in the second place, a correction for bias other values in all places
    assert found[1] == pytest.approx(0.9995, abs=1e-4)
    assert 1e-4 / (math.sqrt(1e-11) + 1e-8) == pytest.approx(31.5, abs=0.1)


def test_rates_of_the_published_run_and_their_weights():
    # 4 epochs of 422 steps: a rise over 3 % of the steps to 2e-5, then a line to 0
    rates = mean_rates([422] * 4, 2e-5, 0.03)
    assert rates == pytest.approx([1.6877e-5, 1.2859e-5, 7.703e-6, 2.5616e-6], rel=0.01)
    weights = checkpoint_weights(rates.tolist())
    assert weights.sum() == pytest.approx(1)
    assert weights == pytest.approx(rates / rates.sum())
    assert checkpoint_weights([3e-5]) == [1.0]


def test_no_step_has_the_rate_zero_and_the_top_is_reached():
    found = [linear_decay(step, 8, 0.25) for step in range(8)]
    assert found == pytest.approx([1 / 3, 2 / 3, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert linear_decay(0, 1, 0.03) == pytest.approx(0.5)
    assert [linear_decay(step, 2, 0.0) for step in range(2)] == [1.0, 0.5]


def test_epochs_of_unequal_length_have_the_mean_of_their_own_steps():
    found = mean_rates([1, 3], 1.0, 0.0)
    assert found == pytest.approx([1.0, (0.75 + 0.5 + 0.25) / 3])


def test_the_mean_is_inside_a_task_and_the_largest_over_tasks():
    # one example, two tasks of two target examples: influences 9 and 1, 4 and 4. The largest mean is 5 (the first
    # task), the mean of the largest is 6.5
    train, target = np.array([[1.0]]), np.array([[9.0], [1.0], [4.0], [4.0]])
    means = task_means(target, np.array([0, 0, 1, 1]), 2)
    assert best_task(influence([train], [means], np.array([1.0]))) == [5.0]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), checkpoints=st.integers(1, 4), tasks=st.integers(1, 3))
def test_a_product_with_a_mean_is_the_mean_of_the_products(seed, checkpoints, tasks):
    draw = np.random.default_rng(seed)
    train = [draw.normal(size=(5, 6)).astype(np.float32) for _ in range(checkpoints)]
    target = [draw.normal(size=(7, 6)).astype(np.float32) for _ in range(checkpoints)]
    task = np.concatenate([np.arange(tasks), draw.integers(0, tasks, 7 - tasks)])
    weights = checkpoint_weights(draw.random(checkpoints) + 0.1)
    by_hand = np.zeros((5, tasks))
    for n in range(5):
        for k in range(tasks):
            of_task = [
                sum(
                    weights[c] * float(train[c][n].astype(float) @ target[c][m].astype(float))
                    for c in range(checkpoints)
                )
                for m in np.flatnonzero(task == k)
            ]
            by_hand[n, k] = np.mean(of_task)
    found = influence(train, [task_means(part, task, tasks) for part in target], weights)
    assert found == pytest.approx(by_hand, rel=1e-5, abs=1e-9)
    assert best_task(found) == pytest.approx(by_hand.max(axis=1), rel=1e-5, abs=1e-9)


def test_rows_have_length_one_and_zeros_stay_zeros():
    found = unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0], [float("nan"), 1.0]]))
    assert found[0].tolist() == pytest.approx([0.6, 0.8])
    assert found[1].tolist() == [0, 0]
    assert found[2].isnan().all()


def test_checkpoints_that_do_not_belong_together_are_refused():
    with pytest.raises(ConfigError, match="got 2, 1 and 2 checkpoints"):
        influence([np.ones((1, 2))] * 2, [np.ones((1, 2))], np.ones(2) / 2)


# ── against what is retrained ────────────────────────────────────────────────────────────────────

EPOCHS, EXAMPLES, WIDTH, BATCH, RATE = 4, 64, 8, 8, 0.05


def regression(seed):
    """Logistic regression: a third of the examples have their label turned round, a target without such."""
    draw = np.random.default_rng(seed)
    true = draw.normal(size=WIDTH)
    x, of_target = draw.normal(size=(EXAMPLES, WIDTH)), draw.normal(size=(400, WIDTH))
    y = (x @ true > 0).astype(float)
    y[: EXAMPLES // 3] = 1 - y[: EXAMPLES // 3]
    return x, y, of_target, (of_target @ true > 0).astype(float)


def gradients_of(weights, x, y):
    return (1 / (1 + np.exp(-(x @ weights))) - y)[:, None] * x


def loss_of(weights, x, y):
    scores = x @ weights
    return float(np.mean(np.logaddexp(0, scores) - y * scores))


def trained(x, y, left_out=None):
    """Adam in batches of 8 over four epochs, the order fixed; what is left out leaves its batch smaller. Gives the
    checkpoints (weights, first and second moment) at the ends of epochs, and the last weights."""
    weights, first, second = np.zeros(WIDTH), np.zeros(WIDTH), np.zeros(WIDTH)
    steps, checkpoints = EPOCHS * EXAMPLES // BATCH, []
    for step in range(steps):
        begin = step * BATCH % EXAMPLES
        rows = [i for i in range(begin, begin + BATCH) if i != left_out]
        gradient = gradients_of(weights, x[rows], y[rows]).sum(axis=0) / BATCH
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        corrected = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        weights = weights - RATE * linear_decay(step, steps, 0.03) * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
        if begin + BATCH == EXAMPLES:
            checkpoints.append((weights, first, second))
    return checkpoints, weights


def influences(x, y, of_target, target_y, *, unit):
    checkpoints, last = trained(x, y)
    rates = mean_rates([EXAMPLES // BATCH] * EPOCHS, RATE, 0.03)
    train, target = [], []
    for weights, first, second in checkpoints:
        step = adam_direction(*(torch.from_numpy(part) for part in (gradients_of(weights, x, y), first, second)))
        mean = gradients_of(weights, of_target, target_y).mean(axis=0, keepdims=True)
        train.append((unit_rows(step) if unit else step).numpy())
        target.append(unit_rows(torch.from_numpy(mean)).numpy() if unit else mean)
    return influence(train, target, checkpoint_weights(rates))[:, 0], last


def test_influence_ranks_examples_as_retraining_without_each_of_them_does():
    found = {True: [], False: []}
    for seed in range(4):
        x, y, of_target, target_y = regression(seed)
        for unit in (True, False):
            said, whole = influences(x, y, of_target, target_y, unit=unit)
            # what the target's loss would lose without each example, by training 64 times more
            cost = [loss_of(trained(x, y, i)[1], of_target, target_y) for i in range(EXAMPLES)]
            found[unit].append(spearmanr(said, np.array(cost) - loss_of(whole, of_target, target_y)).statistic)
            harmful = np.argsort(said)[: EXAMPLES // 3]
            assert (harmful < EXAMPLES // 3).mean() > 0.7  # the examples whose label is wrong
    assert np.mean(found[False]) > 0.85  # 0.91 as measured
    assert np.mean(found[True]) > 0.8  # 0.87
