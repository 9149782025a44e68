"""The surrogate: gradient-boosted trees from points to losses, judged on points they were not fitted to.

    settings   by points per coordinate n / p:   < 3        3 to 8     >= 8
               trees                             300        500        at most 1000, stopped
               learning rate                     0.01       0.02       0.05
               depth, leaves                     4, 7       -, 15      -, 31
               L1 = L2                           1          1          0
    leaf size  max(5, n / 16): with LightGBM's 20 and more, few points allow no split and every prediction is the mean
    stopping   where points are plenty, a fifth of those to learn from is held out to choose the number of trees, which
               is then fitted to all of them; the points that judge are never among these. Where they are few a fifth
               says too little: with 64 points a fixed number gave R2 0.39 where stopping gave 0.24, and noise a worse
               R2 than stopping does
    columns    half of the coordinates for each tree, from 16 coordinates on
    judgement  5 folds, each predicted by a fit that never saw it: R2, Spearman, mean absolute error, deviation of the
               residuals; below 500 points the mean over three ways of folding. R2 <= 0 means that the mean predicts as
               well: such a surrogate is not searched. Of sets of 64 points of pure noise one way of folding let 22 %
               pass, three let 10 %

Losses are scaled to deviation 1 before the fit, so that the penalties mean the same for every loss. Coordinates that do
not vary count neither as p nor as features. LightGBM (Ke et al., NeurIPS 2017) by rows, deterministic and with seeds
fixed: one thread or many give the same trees.

Price: 6 fits, 16 below 500 points, on one thread, on which data this small is fastest. See docs/quadmix.md for figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.seeding import derive, stream

Floats = NDArray[np.float64]

FOLDS, WAYS = 5, 3
LEAST = 10  # two points a fold
_PATIENCE = 50
_PLENTY = 8.0  # points per coordinate
_MANY = 500  # points whose one way of folding says enough


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What the folds say of a surrogate.

    Attributes:
        points, coordinates: n, and how many of the coordinates vary.
        trees: of the fit to all points.
        r2: 1 - squared residuals / squared deviations from the mean, out of fold.
        spearman: of predicted and measured, out of fold; 0 where a side does not vary.
        mae, residual_sd: out of fold, in the unit of the loss. They hold the noise of a measurement too.
    """

    points: int
    coordinates: int
    trees: int
    r2: float
    spearman: float
    mae: float
    residual_sd: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A fitted surrogate; made by ``fit_surrogate``. ``out_of_fold`` (n,) predicts each point by fits without it."""

    fit: Fit
    names: tuple[str, ...]
    out_of_fold: Floats
    _columns: NDArray[np.intp]
    _mean: float
    _scale: float
    _model: Any
    _threads: int
    _constant: bool

    @property
    def refusal(self) -> str | None:
        """Why this surrogate must not be searched, or None."""
        if self._constant:  # a fit without a single split would pass for a model
            return f"the surrogate predicts the same loss for all {self.fit.points} points; measure more points"
        if self.fit.r2 > 0.0:
            return None
        return (
            f"the surrogate explains nothing: out-of-fold R2 {self.fit.r2:.3f} over {self.fit.points} points, allowed "
            "above 0; measure more points, lengthen the measurement, or search fewer domains and criteria"
        )

    def predict(self, points: Floats) -> Floats:
        """Losses: (n,)."""
        chosen = np.ascontiguousarray(np.asarray(points, dtype=np.float64)[:, self._columns])
        raw = self._model.predict(chosen, num_threads=self._threads)
        return self._mean + self._scale * np.asarray(raw, dtype=np.float64)

    def importances(self) -> dict[str, float]:
        """Share of the gain of all splits by coordinate, largest first; coordinates without a split are left out."""
        gain = np.asarray(self._model.feature_importance(importance_type="gain"), dtype=np.float64)
        share = gain / gain.sum() if gain.sum() > 0.0 else gain
        order = np.argsort(-share, kind="stable")
        return {self.names[self._columns[i]]: float(share[i]) for i in order if share[i] > 0.0}


def fit_surrogate(
    points: Floats, losses: Floats, *, seed: int, names: Sequence[str] | None = None, threads: int = 1
) -> Surrogate:
    """Fit, and judge by 5 folds.

    Args:
        points: (n, P).
        losses: (n,).
        names: of the coordinates.
        threads: of LightGBM; results do not depend on it.

    Raises:
        ConfigError: fewer than 10 points, shapes that do not fit or numbers that are not finite.
    """
    x, y = np.asarray(points, dtype=np.float64), np.asarray(losses, dtype=np.float64)
    if x.ndim != 2 or y.shape != (len(x),) or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ConfigError(f"surrogate: got points {x.shape} and losses {y.shape}, allowed finite (n, P) and (n,)")
    if len(x) < LEAST:
        raise ConfigError(f"surrogate: got {len(x)} measured points, allowed >= {LEAST}; measure more")
    labels = tuple(names) if names is not None else tuple(f"x{i}" for i in range(x.shape[1]))
    assert len(labels) == x.shape[1]
    varies = np.flatnonzero(np.ptp(x, axis=0) > 0.0)
    # a column is needed even where nothing varies
    columns = varies if len(varies) else np.arange(1)
    x = x[:, columns]
    mean, scale = float(y.mean()), float(y.std()) or 1.0
    target = (y - mean) / scale

    held = np.array([_held_out(x, target, seed, way, threads) for way in range(WAYS if len(x) < _MANY else 1)])
    booster, trees = _boosted(x, target, derive(seed, "surrogate", "all"), threads)
    fitted = np.asarray(booster.predict(x, num_threads=threads))
    residual = target - held
    # the target has mean 0 and, unless it is constant, deviation 1
    varies_at_all = float(np.ptp(y)) > 0.0
    fit = Fit(
        points=len(x),
        coordinates=len(varies),
        trees=trees,
        r2=1.0 - float((residual**2).mean()) if varies_at_all else 0.0,
        spearman=float(np.mean([_spearman(one, target) for one in held])),
        mae=scale * float(np.abs(residual).mean()),
        residual_sd=scale * float(residual.std(axis=1, ddof=1).mean()),
    )
    return Surrogate(
        fit=fit,
        names=labels,
        out_of_fold=mean + scale * held.mean(axis=0),
        _columns=columns,
        _mean=mean,
        _scale=scale,
        _model=booster,
        _threads=threads,
        _constant=not np.ptp(fitted) > 0.0,
    )


def _held_out(x: Floats, y: Floats, seed: int, way: int, threads: int) -> Floats:
    """Predictions of every point by fits without its fold: (n,)."""
    order = stream(seed, "surrogate", "folds", way).permutation(len(x))
    held = np.empty(len(x))
    for fold in range(FOLDS):
        test = np.sort(order[fold::FOLDS])
        train = np.setdiff1d(np.arange(len(x)), test)
        booster, _ = _boosted(x[train], y[train], derive(seed, "surrogate", "fold", way, fold), threads)
        held[test] = booster.predict(x[test], num_threads=threads)
    return held


def _regime(n: int, p: int) -> tuple[int, dict[str, Any]]:
    """(most trees, LightGBM's parameters) for n points of p coordinates."""
    ratio = n / max(p, 1)
    own: dict[str, Any] = {"min_data_in_leaf": max(5, n // 16), "feature_fraction": 0.5 if p >= 16 else 1.0}
    if ratio < _PLENTY:
        own |= {"lambda_l1": 1.0, "lambda_l2": 1.0}
    if ratio < 3.0:
        return 300, own | {"learning_rate": 0.01, "max_depth": 4, "num_leaves": 7}
    if ratio < _PLENTY:
        return 500, own | {"learning_rate": 0.02, "num_leaves": 15}
    return 1000, own | {"learning_rate": 0.05, "num_leaves": 31}


def _boosted(x: Floats, y: Floats, seed: int, threads: int) -> tuple[Any, int]:
    """(booster, its trees)."""
    import lightgbm

    trees, parameters = _regime(len(x), x.shape[1])
    parameters |= {
        "objective": "regression",
        "metric": "l2",
        "seed": seed % 2**31,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": threads,
        "verbosity": -1,
    }
    if len(x) >= _PLENTY * x.shape[1]:
        order = stream(seed, "stopping").permutation(len(x))
        held = len(x) // 5
        valid, train = np.sort(order[:held]), np.sort(order[held:])
        part = lightgbm.Dataset(x[train], y[train])
        check = lightgbm.Dataset(x[valid], y[valid], reference=part)
        stop = lightgbm.early_stopping(_PATIENCE, verbose=False)
        first = lightgbm.train(parameters, part, num_boost_round=trees, valid_sets=[check], callbacks=[stop])
        trees = max(first.best_iteration, 1)
    return lightgbm.train(parameters, lightgbm.Dataset(x, y), num_boost_round=trees), trees


def _spearman(a: Floats, b: Floats) -> float:
    if np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return 0.0
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)
