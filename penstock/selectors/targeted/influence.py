"""How much a step on one example lowers the loss of a target: the arithmetic of LESS (Xia et al., arXiv 2402.04333).

    m' = beta1 m + (1 - beta1) g      v' = beta2 v + (1 - beta2) g^2      Gamma = m' / sqrt(v' + eps)
    Inf(z, task) = SUM_i etabar_i <Gamma_i(z), grad_i(task)>                   over the checkpoints i of a warm-up
    score(z)     = max over tasks of the mean over the task's examples of Inf

Gamma is the step that Adam would take on z with the moments m, v of the checkpoint, which stay as they are: **eps
stands inside the root and nothing is corrected for bias**, as in the authors' code and unlike an optimiser's. etabar_i
is the mean learning rate of epoch i over that of all, so they sum to 1. Both sides are projected and brought to length
1 before the product, as a short example would else count for more than a long one.

Price: 6 operations a parameter for Gamma; D multiplications an example, task and checkpoint for the products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError

if TYPE_CHECKING:
    import torch

BETAS = (0.9, 0.999)
EPSILON = 1e-8

Floats = NDArray[np.float64]


def adam_direction(gradient: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Gamma of gradients (n, m) under the moments ``first`` and ``second``, each (m,): shape (n, m)."""
    import torch

    mean = BETAS[0] * first + (1 - BETAS[0]) * gradient
    square = BETAS[1] * second + (1 - BETAS[1]) * gradient * gradient
    direction: torch.Tensor = mean / torch.sqrt(square + EPSILON)
    return direction


def linear_decay(step: int, steps: int, warmup: float) -> float:
    """The factor of the learning rate at ``step`` (from 0) of ``steps``: up to 1 over the warm-up, then down to near 0.

    Args:
        warmup: share of the steps, rounded up, over which it rises; no step has the rate 0.
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return (steps - step) / (steps - rising)


def mean_rates(steps_of_epoch: Sequence[int], rate: float, warmup: float) -> Floats:
    """Mean learning rate of every epoch of a run with ``linear_decay``: shape (epochs,)."""
    total = sum(steps_of_epoch)
    rates = np.array([rate * linear_decay(step, total, warmup) for step in range(total)])
    ends = np.cumsum(steps_of_epoch)
    return np.array([part.mean() for part in np.split(rates, ends[:-1])])


def checkpoint_weights(rates: Sequence[float]) -> Floats:
    """etabar: mean rates over their sum, shape (checkpoints,)."""
    found = np.asarray(rates, dtype=np.float64)
    assert len(found), "a run has an epoch"
    assert (found > 0).all(), "an epoch without steps has no checkpoint"
    weights: Floats = found / found.sum()
    return weights


def unit_rows(rows: torch.Tensor) -> torch.Tensor:
    """Rows (n, D) brought to length 1; a row of zeros stays one, and one with a value that is no number becomes NaN."""
    length = rows.norm(dim=1, keepdim=True)
    unit: torch.Tensor = rows / length.masked_fill(length == 0, 1.0)
    return unit


def influence(train: Sequence[NDArray[Any]], target: Sequence[NDArray[Any]], weights: Floats) -> Floats:
    """SUM_i weights_i train_i target_i^T: shape (n, M), float64.

    Args:
        train: features of n examples, one array (n, D) a checkpoint.
        target: features of M examples, or of the mean of M tasks, one array (M, D) a checkpoint.
        weights: of the checkpoints.
    """
    if not len(train) == len(target) == len(weights):
        raise ConfigError(
            f"influence: got {len(train)}, {len(target)} and {len(weights)} checkpoints, allowed as many of each"
        )
    out = np.zeros((len(train[0]), len(target[0])))
    for of_train, of_target, weight in zip(train, target, weights, strict=True):
        out += weight * (of_train.astype(np.float64) @ of_target.astype(np.float64).T)
    return out


def task_means(features: NDArray[Any], task: NDArray[np.integer[Any]], tasks: int) -> Floats:
    """Mean of the features (M, D) of each task's examples: shape (tasks, D).

    A product with the mean is the mean of the products, so a target costs one product a task.

    Args:
        task: of each example, below ``tasks``; every task has one.
    """
    sums = np.zeros((tasks, features.shape[1]))
    np.add.at(sums, task, features.astype(np.float64))
    counts = np.bincount(task, minlength=tasks)
    assert counts.all(), "a task without examples has no mean"
    means: Floats = sums / counts[:, None]
    return means


def best_task(of_tasks: Floats) -> Floats:
    """The score of each example: its largest influence on any task. Shape (n,) from (n, tasks)."""
    best: Floats = of_tasks.max(axis=1)
    return best
