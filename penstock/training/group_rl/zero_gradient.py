"""How often a group of right-or-wrong answers has no gradient: all of them right, or all wrong.

Answers are independent, right with probability p_m under phrasing m. Of G answers to each of M + 1 phrasings in one
group, and of n answers to one phrasing,

    Z_pool = prod_m p_m^G + prod_m (1 - p_m)^G        Z_single(p, n) = p^n + (1 - p)^n

With p_0 the original's and p-bar the mean of the p_m:

    T1  Z_pool <= Z_single(p_0, G)                 a larger group
    T2  Z_pool <= Z_single(p-bar, (M + 1) G)       equal budget, the average phrasing; equal only if all p_m are
    T3  Z_pool <= mean_m Z_single(p_m, (M + 1) G)  equal budget, each phrasing for itself

T2 is the inequality of the arithmetic and the geometric mean, T3 follows as Z_single is convex in p. What does *not*
hold is Z_pool <= Z_single(p_0, (M + 1) G): at p_0 = 1/2, p_1 = 1, G = 2 the pool has no gradient in 1/4 of the cases
and four answers to the original in 1/8. Pooling beats repeating the average phrasing, not always the original one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from penstock.errors import ConfigError
from penstock.training.group_rl.records import Floats


def z_single(p: ArrayLike, n: ArrayLike) -> Floats:
    """Probability that n answers to one phrasing are all right or all wrong.

    Args:
        p: probability that an answer is right.
        n: answers, >= 1; broadcasts with ``p``.

    Raises:
        ConfigError: p outside [0, 1], or n below 1.
    """
    chance, count = _checked(p, n)
    out: Floats = chance**count + (1.0 - chance) ** count
    return out


def z_pool(p: ArrayLike, g: ArrayLike) -> Floats:
    """Probability that g answers to each phrasing of a question are all right or all wrong together.

    Args:
        p: (…, M + 1) probability that an answer is right, by phrasing.
        g: answers to each phrasing, >= 1; broadcasts with (…).

    Raises:
        ConfigError: p outside [0, 1] or without an axis of phrasings, or g below 1.
    """
    chance, count = _checked(p, g)
    if not chance.ndim or not chance.shape[-1]:
        raise ConfigError(f"p: got shape {chance.shape}, allowed (…, M + 1), one probability a phrasing; use z_single")
    out: Floats = chance.prod(axis=-1) ** count + (1.0 - chance).prod(axis=-1) ** count
    return out


def _checked(p: ArrayLike, count: ArrayLike) -> tuple[Floats, Floats]:
    chance, number = np.asarray(p, dtype=np.float64), np.asarray(count, dtype=np.float64)
    if not ((chance >= 0) & (chance <= 1)).all():
        raise ConfigError(f"p: got {chance.tolist()}, allowed probabilities from 0 to 1; give shares of right answers")
    if not (number >= 1).all():
        raise ConfigError(f"answers: got {number.tolist()}, allowed >= 1; ask for one at least")
    return chance, number
