"""Which questions and which answers of a step count more: DGPO's weights of questions, PODS' choice of answers.

Price: a sort of the rows.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from penstock.errors import ConfigError, InputError
from penstock.training.group_rl.records import Floats, Ints


def question_weights(accuracy: ArrayLike, valid: ArrayLike, *, temperature: float = 2.0) -> Floats:
    """Weights that make hard questions count more (DGPO of MathForge, arXiv 2601.20614): (Q,).

    A valid question's weight is V softmax(-accuracy / temperature) over the V valid ones, so they average to 1; that of
    the others is 0. Multiply a question's advantages with its weight.

    Args:
        accuracy: (Q,) mean reward of each question; of one that is not valid any number, NaN too.
        valid: (Q,) bool, questions that have a gradient: known rewards that are not all equal.
        temperature: > 0, in units of the reward; the larger, the more alike the weights.

    Raises:
        ConfigError: a temperature that is no finite number above 0.
        InputError: other shapes, an accuracy of a valid question that is no finite number.
    """
    means, live = np.asarray(accuracy, dtype=np.float64), np.asarray(valid)
    if not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature: got {temperature}, allowed a finite number > 0; 2 is the published one")
    if means.ndim != 1 or live.shape != means.shape or live.dtype != np.bool_ or not np.isfinite(means[live]).all():
        raise InputError(
            f"question weights: got accuracy {means.shape} and valid {live.shape} of {live.dtype}, allowed (Q,) finite "
            "where valid, and (Q,) of bool; give one entry a question"
        )
    out = np.zeros(len(means))
    if live.any():
        raised = np.exp(-(means[live] - means[live].min()) / temperature)
        out[live] = len(raised) * raised / raised.sum()
    return out


def largest_variance(rewards: ArrayLike, count: int) -> Ints:
    """The ``count`` answers whose rewards vary most (PODS, arXiv 2504.13818): (count,) row numbers, ascending.

    Such a choice is always some of the lowest rewards and some of the highest, so that only where to cut is searched:
    exact up to rounding, in one sort. Of choices that vary alike that with fewer of the lowest is taken; of equal
    rewards, earlier rows are the lower ones.

    Args:
        rewards: (N,) finite; leave out answers whose reward is not known.
        count: how many to keep, 1 to N.

    Raises:
        ConfigError: count outside 1 to N.
        InputError: rewards of another shape, or no finite number among them.
    """
    values = np.asarray(rewards, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise InputError(
            f"down-sampling: got rewards of shape {values.shape}, allowed (N,) finite numbers; leave out answers "
            "without a reward"
        )
    if not 1 <= count <= len(values):
        raise ConfigError(f"count: got {count}, allowed 1 to the {len(values)} answers; keep fewer or sample more")
    order = np.argsort(values, kind="stable")
    # of numbers near 0, so that squares of far ones do not swallow the differences
    ranked = values[order] - values[order].mean()
    sums = np.concatenate([[0.0], np.cumsum(ranked)])
    squares = np.concatenate([[0.0], np.cumsum(np.square(ranked))])
    low = np.arange(count + 1)  # how many of the lowest
    high = len(values) - (count - low)  # where the highest begin
    mean = (sums[low] + sums[-1] - sums[high]) / count
    variance = (squares[low] + squares[-1] - squares[high]) / count - np.square(mean)
    # rounding does not tell apart what varies alike
    cut = int(np.flatnonzero(variance >= variance.max() - 1e-12 * squares[-1])[0])
    chosen: Ints = np.sort(np.concatenate([order[:cut], order[high[cut] :]]))
    return chosen
