"""pass@k without bias, from more answers than k: Chen et al. 2021 (arXiv 2107.03374).

Of n answers c are right; of all ways to take k of them, those without a right one are C(n - c, k) of C(n, k). One
minus this share is a problem's pass@k. The share is taken as the product of c factors, so that no binomial overflows.

Price: as many passes over the arrays as the most right answers of a problem.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from penstock.errors import ConfigError
from penstock.training.group_rl.records import Floats, Ints


def pass_at_k(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> Floats:
    """Probability that k of a problem's n answers, drawn without return, hold a right one.

    ``pass_at_k(n[:, None], c[:, None], [1, 2, 4])`` is (problems, 3); the mean over problems is the score.

    Args:
        n: answers of each problem.
        c: how many of them are right, 0 to n.
        k: 1 to n. All three are whole numbers, or arrays of them that broadcast.

    Returns:
        float64, of the shape they broadcast to.

    Raises:
        ConfigError: no whole numbers, or outside their ranges.
    """
    answers, right, drawn = np.broadcast_arrays(*(_whole(*given) for given in (("n", n), ("c", c), ("k", k))))
    for name, values, least in (("c", right, 0), ("k", drawn, 1)):
        bad = np.flatnonzero((values < least) | (values > answers))
        if len(bad):
            raise ConfigError(
                f"pass@k: got {name} = {values.flat[bad[0]]} with n = {answers.flat[bad[0]]}, allowed {least} to n; "
                "sample more answers or ask for a smaller k"
            )
    none = np.ones(answers.shape)
    for i in range(int(right.max(initial=0))):
        # j = n - i of the product over j = n - c + 1 … n of 1 - k / j; where fewer than k answers are wrong j reaches k
        factor = 1.0 - drawn / np.maximum(answers - i, 1)
        none *= np.where(i < right, factor, 1.0)
    return 1.0 - none


def _whole(name: str, values: ArrayLike) -> Ints:
    found = np.asarray(values)
    if found.dtype.kind not in "iu" and found.size:
        raise ConfigError(f"pass@k: got {name} of {found.dtype}, allowed whole numbers; count answers")
    return found.astype(np.int64)
