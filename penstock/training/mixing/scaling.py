"""Fit of a loss curve L(n) = epsilon + beta * n ** -alpha, as Adaptive Data Optimization does it.

    minimise  mean Huber_delta(log(epsilon + beta n^-alpha) - log L),  delta = 1e-3
    with      0.001 <= alpha <= 0.8,  log beta <= 6.5,  log epsilon >= 0.5

by L-BFGS-B from a grid of 8 x 8 x 6 starts (Jiang et al. 2024, arXiv 2410.11820). In the authors' code the bounds are
penalties of 1000 times the excess, beside errors of about 1e-6: in effect the same; here they are bounds, which keeps
the objective smooth. All 384 starts are scored and the best ``polish`` of them are followed: on 30 noisy curves none of
the others led to a better fit, at twenty times the cost.

Trap: log epsilon >= 0.5 is a loss of 1.65 nats. Curves that go below (models of bytes, code) cannot be fitted; lower
it.

Price: 0.1 to 0.6 s a curve of 1,000 points, most of it on curves that are almost flat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from penstock.training.mixing.base import Floats

DELTA = 1e-3
MIN_ALPHA = 1e-3
MIN_LOG_BETA = -20.0  # below, the curve is flat to the last bit of a float64
MIN_POINTS = 4  # one more than there are parameters


@dataclass(frozen=True, kw_only=True)
class Law:
    """L(n) = epsilon + beta * n ** -alpha."""

    alpha: float
    log_beta: float
    log_epsilon: float
    error: float  # mean Huber loss of the fit

    def loss(self, n: Floats) -> Floats:
        """L at each n, in nats."""
        values: Floats = math.exp(self.log_epsilon) + np.exp(self.log_beta - self.alpha * np.log(n))
        return values

    def log_slope(self, n: float) -> float:
        """log(-dL/dn) at n, where dL/dn = -(alpha / n) (L - epsilon)."""
        return math.log(self.alpha) + self.log_beta - (self.alpha + 1.0) * math.log(n)


def fit_law(
    n: Floats,
    loss: Floats,
    *,
    max_alpha: float = 0.8,
    max_log_beta: float = 6.5,
    min_log_epsilon: float = 0.5,
    polish: int = 16,
) -> Law | None:
    """The law nearest to a curve; None below ``MIN_POINTS`` points with n > 0 and loss > 0.

    Args:
        n: amount of data, in any unit: (T,). The bounds on beta depend on the unit.
        loss: nats per token: (T,).
        polish: starts that are followed to their minimum.
    """
    from scipy.optimize import minimize

    good = (n > 0) & (loss > 0) & np.isfinite(n) & np.isfinite(loss)
    if int(good.sum()) < MIN_POINTS:
        return None
    x, y = np.log(n[good]), np.log(loss[good])

    def objective(p: Floats) -> tuple[float, Floats]:
        # over delta, so that the gradient is of order 1 and the optimiser's tolerances mean something
        b, e = p[1] - p[0] * x, p[2]
        predicted = np.logaddexp(b, e)
        error = predicted - y
        share = np.exp(b - predicted)  # of beta n^-alpha in the prediction
        slope = np.clip(error, -DELTA, DELTA) / DELTA
        size = np.abs(error)
        value = np.where(size <= DELTA, 0.5 * error**2 / DELTA, size - 0.5 * DELTA)
        gradient = np.array([(slope * share * -x).mean(), (slope * share).mean(), (slope * (1.0 - share)).mean()])
        return float(value.mean()), gradient

    low = np.array([MIN_ALPHA, MIN_LOG_BETA, min_log_epsilon])
    high = np.array([max_alpha, max_log_beta, max(min_log_epsilon, float(y.max()))])
    grid = [
        np.linspace(max_alpha / 8, max_alpha, 8),
        np.linspace(max_log_beta - 8.5, max_log_beta, 8),
        np.linspace(min_log_epsilon, max(min_log_epsilon, float(y.min())), 6),
    ]
    starts = np.stack(np.meshgrid(*grid, indexing="ij"), axis=-1).reshape(-1, 3)
    predicted = np.logaddexp(starts[:, 1:2] - starts[:, :1] * x, starts[:, 2:])
    scores = np.minimum(np.abs(predicted - y), 1e300).mean(axis=1)
    best: tuple[float, Floats] | None = None
    for start in starts[np.argsort(scores, kind="stable")[:polish]]:
        found = minimize(
            objective,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(low, high, strict=True)),
            options={"maxiter": 500, "ftol": 1e-12, "gtol": 1e-9},
        )
        if np.isfinite(found.fun) and (best is None or found.fun < best[0]):
            best = (float(found.fun), found.x)
    if best is None:
        return None
    value, (alpha, log_beta, log_epsilon) = best
    return Law(alpha=float(alpha), log_beta=float(log_beta), log_epsilon=float(log_epsilon), error=value * DELTA)
