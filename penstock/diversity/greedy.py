"""Greedy MAP of a determinantal point process: rows that are each as new as can be, given those before.

The next row is the one of largest gain ``det L(S + i) / det L(S)`` (Chen, Zhang and Zhou 2018, "Fast greedy MAP
inference for determinantal point process"), so ``sum of log gains = log det L_S``. It stops at ``k`` rows, or where
every row's gain is below ``tolerance`` of its L_ii: numerical rank, after which choices would be noise.

Objectives: ``logdet`` (L = K; submodular, but not monotone once gains are below 1, so without a bound) and
``logdet_plus_identity`` (L = K + I; monotone, so at least 1 - 1/e of the best log det of k rows).

**Picks are those of float64 arithmetic**, also of float32 features, which are widened as they are read. On CUDA a
float32 product with all rows only narrows the choice: rows whose gain could still be the largest are computed in
float64, and one of those is taken. Gains that differ
by less than 1e-12 of the row's L_ii are a tie, and the lowest row number wins; so one thread, many threads, and
both forms of ``forms`` choose alike.

Two ways to keep gains up to date, of equal result:

    sweep   after every pick one coefficient of every row: a matrix-vector product that reads all features
    lazy    gains only fall, so an old gain is an upper bound (Hemmi et al. 2022, arXiv 2206.05947): only rows whose
            bound reaches the largest gain are brought up to date, all coefficients they lack in one matrix product

Lazy pays on redundant data alone: on random directions it computes nearly every coefficient too, and later. So
``lazy="auto"`` sweeps; after 32, 64, 128 … picks it looks at the share of rows whose gain of half as many picks ago
would still reach the largest one, and goes over to lazy where hardly any would (and back, where the rows it brings up
to date turn out to be many).

Price: O(n d) a pick by features, O(n (d + m)) by rows, with m rows chosen; memory beside the features 51 bytes a row
and 8 d bytes a pick by features, 8 n bytes a pick by rows. See docs/diversity.md for seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from penstock.diversity.arrays import Array, copied, host, largest, like, namespace, where_true, zeros
from penstock.diversity.forms import Form, form_of
from penstock.diversity.kernels import BLOCK, FeatureKernel, kernel_of, weighted
from penstock.errors import ConfigError

TIE = 1e-12  # of the diagonal of the row of largest gain
TOLERANCE = 1e-10
_LOOK = 16  # picks before the first snapshot of gains, and between two looks at what lazy computes
_LAZY_BELOW = 0.05  # share of rows whose gains of the snapshot still reach the largest
_SWEEP_ABOVE = 0.25  # share of all coefficients that was computed since the last look
_LIKE = 16  # picks between the stamps of rows that are brought up to date together
_FIRST_BATCH = 32  # rows brought up to date at once, four times as many while the largest gain is in doubt

Objective = Literal["logdet", "logdet_plus_identity"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Greedy:
    """Rows in the order they were chosen.

    ``gains`` are the determinants' ratios, one a pick, of the objective's L; ``stop`` says why it ended: ``count``,
    ``rank`` (nothing new is left) or ``all`` (no row is left). ``products`` is the share of all row x pick coefficients
    that was computed one by one in float64, 0 for a choice by sweeps that was never in doubt.
    """

    picks: NDArray[np.int64]  # (m,)
    gains: NDArray[np.float64]  # (m,)
    stop: Literal["count", "rank", "all"]
    objective: Objective
    fingerprint: str
    lazy: int  # picks that were made lazily
    products: float

    @property
    def log_gains(self) -> NDArray[np.float64]:
        out: NDArray[np.float64] = np.log(self.gains)
        return out

    @property
    def log_determinant(self) -> float:
        """log det L_S of the rows chosen; 0 for none."""
        return math.fsum(self.log_gains)


def greedy_map(
    kernel_or_features: Any,
    k: int,
    *,
    quality: Any = None,
    objective: Objective = "logdet",
    form: Literal["auto", "features", "rows"] = "auto",
    lazy: bool | Literal["auto"] = "auto",
    tolerance: float = TOLERANCE,
) -> Greedy:
    """Choose up to ``k`` rows of a kernel by greedy MAP.

    Args:
        kernel_or_features: a kernel, or embeddings (n, d) of NumPy or torch, which stand for their ``Cosine``.
        k: rows wanted; 0 chooses none, more than there are chooses until nothing new is left.
        quality: (n,) positive numbers q; L is then ``q_i K_ij q_j``. ``exp(beta * standardised score)`` weighs a score
            against diversity: beta 0 ignores it, a large beta chooses by score alone.
        objective: ``logdet`` or ``logdet_plus_identity``.
        form: ``features`` needs a Linear or Cosine kernel; ``rows`` works for all and keeps 8 n bytes a pick.
        lazy: see the head of this file; no choice depends on it.
        tolerance: of a row's own L_ii, below which its gain counts as none (``logdet`` only).

    Raises:
        ConfigError: k is negative, or an option is not one of those named.
        InputError: features or quality are not acceptable, with the rows.
    """
    kernel = kernel_of(kernel_or_features)
    if quality is not None:
        kernel = weighted(kernel, quality)
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 0:
        raise ConfigError(f"k: got {k!r}, allowed a whole number >= 0")
    for name, value, allowed in (
        ("objective", objective, ("logdet", "logdet_plus_identity")),
        ("form", form, ("auto", "features", "rows")),
        ("lazy", lazy, (True, False, "auto")),
    ):
        if value not in allowed:
            raise ConfigError(f"{name}: got {value!r}, allowed {', '.join(map(str, allowed))}")
    if form == "features" and not isinstance(kernel, FeatureKernel):
        raise ConfigError(f"form: got features for the kernel {kernel.describe()['kind']}, allowed rows; it has none")
    if not 0 < tolerance < 1:
        raise ConfigError(f"tolerance: got {tolerance}, allowed between 0 and 1; {TOLERANCE} is usual")
    identity = objective == "logdet_plus_identity"
    diagonal = kernel.diagonal() + (1.0 if identity else 0.0)
    search = _Search(form_of(kernel, form, plus_identity=identity), diagonal, lazy)
    ended, gains = search.run(min(int(k), kernel.n), 0.0 if identity else tolerance)
    return Greedy(
        picks=np.array(search.picks, dtype=np.int64),
        gains=np.array(gains, dtype=np.float64),
        stop="rank" if ended else "count" if k == len(gains) else "all",
        objective=objective,
        fingerprint=kernel.fingerprint,
        lazy=search.lazy_picks,
        products=search.products / max(1, kernel.n * len(gains)),
    )


class _Search:
    """The state of one choice.

    ``gains`` are the working values: exact after sweeps in float64, within ``doubt`` after sweeps in float32. Beside
    them ``exact`` holds each row's float64 gain over the first ``stamp`` picks, and ``bounds`` what it is at most now.
    All three are -inf for rows that are chosen or have nothing new.
    """

    def __init__(self, form: Form, diagonal: Array, lazy: bool | str) -> None:
        self.form, self.auto, self.lazy = form, lazy == "auto", lazy is True
        self.diagonal, self.n = diagonal, int(diagonal.shape[0])
        self.gains = copied(diagonal)
        self.exact = self.bounds = copied(diagonal)
        self.stamp = zeros((self.n,), diagonal, "int32")
        self.largest = float(diagonal.max()) if self.n else 0.0
        self.picks: list[int] = []
        self.products = self.lazy_picks = 0
        self._swept = 0  # sweeps since the working values were exact
        self._before: Any = None  # working values at the last snapshot
        self._next = _LOOK  # picks at which to look again
        self._work = 0  # products at the last look

    def run(self, count: int, tolerance: float) -> tuple[bool, list[float]]:
        """Whether nothing new was left before ``count`` rows were chosen, and the gains of those chosen."""
        gains: list[float] = []
        while len(gains) < count:
            j, gain = self._choose()
            if gain == -math.inf:
                return True, gains
            if gain <= tolerance * float(self.diagonal[j]):
                self._leave_out(tolerance)
                continue
            gains.append(self.form.append(j))
            self.picks.append(j)
            self.gains[j] = self.exact[j] = self.bounds[j] = -math.inf
            if len(gains) < count:
                self._update(len(gains))
        return False, gains

    def _leave_out(self, tolerance: float) -> None:
        """Strike off rows known to have nothing new."""
        least = tolerance * self.diagonal
        gone = self.gains <= least if self._sure else (self.stamp == len(self.picks)) & (self.exact <= least)
        rows = where_true(gone)
        self.gains[rows] = self.exact[rows] = self.bounds[rows] = -math.inf

    @property
    def _sure(self) -> bool:
        """Whether the working values are float64 gains."""
        return not self.picks or (not self.lazy and self.form.error == 0)

    @property
    def doubt(self) -> float:
        """How far a working value may be from the float64 gain, of the row's diagonal: the errors of all sweeps, by
        Cauchy and Schwarz."""
        error, sweeps = self.form.error, self._swept
        return 2 * error * math.sqrt(sweeps) + error * error * sweeps

    def _update(self, picked: int) -> None:
        if self.auto and picked == self._next and self._look():
            return
        if self.lazy:
            self.lazy_picks += 1
            return
        self.form.sweep(self.gains)
        self._swept += 1

    def _choose(self) -> tuple[int, float]:
        """The row of largest gain, and that gain in float64; -inf where no row is left."""
        if self._sure:
            top, tie = self._top(self.gains, slice(None))
            return int(where_true(self.gains >= top - tie)[0]), top
        if self.lazy:
            top, tie = self._settle()
        else:
            near = self._near()
            self._refresh(near)
            top, tie = self._top(self.exact, near)
        fresh = where_true((self.stamp == len(self.picks)) & (self.exact >= top - tie))
        return (int(fresh[0]) if len(fresh) else -1), top

    def _top(self, values: Array, rows: Any) -> tuple[float, float]:
        """The largest of some rows' values, and what differs from it by less is a tie."""
        some = values[rows]
        at = int(some.argmax())
        return float(some[at]), TIE * float(self.diagonal[rows][at])

    def _near(self) -> Array:
        """Rows whose float64 gain may be the largest, by working values that are in doubt."""
        doubt = self.doubt
        near = where_true(self.gains >= float(self.gains.max()) - 2 * doubt * self.largest)
        if len(near) > _FIRST_BATCH:  # where diagonals differ much, each row's own decides
            gains, own = self.gains[near], doubt * self.diagonal[near]
            near = near[gains + own >= float((gains - own).max())]
        return near

    def _settle(self) -> tuple[float, float]:
        """Bring rows up to date, those of largest bounds first, until no other bound reaches the largest gain."""
        batch, top, tie = _FIRST_BATCH, -math.inf, 0.0
        while True:
            least = max(top - tie, -1.0)  # -1: below every bound but those of rows that are out
            stale = where_true((self.stamp < len(self.picks)) & (self.bounds >= least))
            if not len(stale):
                return top, tie
            rows = stale[largest(self.bounds[stale], batch)]
            self._refresh(rows)
            top, tie = max((top, tie), self._top(self.exact, rows))
            batch *= 4

    def _refresh(self, rows: Array) -> None:
        """``exact`` of some rows at the picks so far."""
        xp, now = namespace(rows), len(self.picks)
        rows = rows[self.stamp[rows] < now]
        rows = rows[xp.argsort(self.stamp[rows])]  # rows of like age together: the oldest decides what is computed
        ages = host(self.stamp[rows])
        start = 0
        while start < len(rows):
            since = int(ages[start])
            end = min(start + BLOCK, int(np.searchsorted(ages, since + _LIKE)))
            some, start = rows[start:end], end
            stamps = self.stamp[some]
            found = self.form.coefficients(some, since) ** 2
            if int(stamps[-1]) > since:
                columns = like(np.arange(since, now, dtype=np.int32), self.gains)
                found = found * (columns[None, :] >= stamps[:, None])
            self.exact[some] = self.exact[some] - found.sum(1)
            self.bounds[some] = self.exact[some]
            self.stamp[some] = now
            self.products += len(some) * (now - since)

    def _look(self) -> bool:
        """Go over to the cheaper way; True where that made the working values those of all picks so far."""
        if self.lazy:
            self._next += _LOOK
            work, self._work = self.products - self._work, self.products
            if work < _SWEEP_ABOVE * _LOOK * self.n:
                return False
            self._refresh(where_true(self.exact > -math.inf))
            self.gains, self.lazy, self._swept, self._before = copied(self.exact), False, 0, None
            return True
        top = float(self.gains.max())
        reach = 1.0 if self._before is None else float((host(self._before) >= top).mean())
        if reach >= _LAZY_BELOW:
            self._before, self._next = copied(self.gains), 2 * self._next
            return False
        if self.form.error == 0:
            self.exact, self.stamp = self.gains, self.stamp * 0 + (len(self.picks) - 1)
        self.bounds = self.gains + self.doubt * self.diagonal
        self.lazy, self._before, self._next, self._work = True, None, self._next + _LOOK, self.products
        return False
