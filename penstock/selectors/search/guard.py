"""The winner's curse guard: whether a proposed point may be called better, decided on fresh measurements.

The best of many noisy measurements is better than it deserves: by 2.4 deviations of the noise at 64 points, 3.6 at
3,000. The best of many predictions is worse still, since it is where the surrogate errs most to the good side. So:

    candidates  the proposed point, the best measured ones, uniform and natural proportions; every one is measured
                again under the same fresh seeds, and only these measurements decide
    gain        best re-measured mean among the others - prediction of the proposed point, moved by what the fresh
                seeds change for everyone
    claim       the proposed point's own re-measured mean is the best of all, and by ``evidence``
                predicted   gain > z * s_cv
                measured    lead in re-measured means > z * its standard error
    no claim    the best re-measured point is returned, whichever it is

s_cv is the deviation of the surrogate's out-of-fold residuals. It holds the noise of one measurement already, so that
noise is reported beside it and not added. Trees predict the best too tamely, so ``predicted`` refuses much that turns
out well, and hardly ever claims wrongly. ``measured`` asks the fresh measurements alone. Seeds are common to all
candidates, so their noise is what a table of candidates by seeds leaves beyond its rows and columns: s_e, with
(candidates - 1)(seeds - 1) degrees of freedom, and a difference of two means has the error s_e sqrt(2 / seeds).

Price: candidates x seeds more measurements, 12 with the defaults.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from penstock.errors import TrainingError
from penstock.selectors.search.settings import Evidence

PROPOSED = "predicted best"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A point that was measured again.

    Attributes:
        label: ``PROPOSED``, "draw 12", "uniform", "natural".
        unit: the point.
        predicted: by the surrogate; None without one.
        measured: its first measurement, None where it had none.
        again: losses under the fresh seeds; those that diverged are missing.
        diverged: how many did.
    """

    label: str
    unit: tuple[float, ...]
    predicted: float | None
    measured: float | None
    again: tuple[float, ...]
    diverged: int = 0

    @property
    def mean(self) -> float:
        """Of the fresh measurements; infinite where one diverged or there is none."""
        return math.inf if self.diverged or not self.again else float(np.mean(self.again))

    def to_json(self) -> dict[str, Any]:
        mean = self.mean
        return asdict(self) | {"mean": mean if math.isfinite(mean) else None}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Which candidate to use, and whether it may be called better.

    Attributes:
        winner: place among the candidates.
        claim, why: see the head of this file.
        gain: predicted gain over the best of the others, None without a proposed point.
        needed: what the evidence had to exceed; None likewise.
        measured_gain: the lead in re-measured means, negative where it is none; None where the point diverged.
        measured_gain_error: its standard error.
    """

    winner: int
    claim: bool
    why: str
    gain: float | None = None
    needed: float | None = None
    measured_gain: float | None = None
    measured_gain_error: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def lead_error(candidates: Sequence[Candidate]) -> float | None:
    """Standard error of the difference of two candidates' re-measured means; None without two finite rows and seeds."""
    rows = np.array([c.again for c in candidates if math.isfinite(c.mean)])
    if rows.ndim != 2 or min(rows.shape) < 2:
        return None
    left = rows - rows.mean(axis=1, keepdims=True) - rows.mean(axis=0, keepdims=True) + rows.mean()
    noise = float((left**2).sum()) / ((rows.shape[0] - 1) * (rows.shape[1] - 1))
    return math.sqrt(2.0 * noise / rows.shape[1])


def decide(
    candidates: Sequence[Candidate],
    *,
    residual_sd: float,
    z: float,
    refusal: str | None,
    shift: float = 0.0,
    evidence: Evidence = "predicted",
) -> Verdict:
    """The verdict over the candidates.

    Args:
        residual_sd: s_cv.
        z: how many deviations, or errors, a gain must exceed.
        refusal: why no point was proposed, None where one was.
        shift: how much the fresh seeds raise every loss against the seed that predictions are for.
        evidence: what a claim needs, see the head of this file.

    Raises:
        TrainingError: every candidate diverged.
    """
    means = np.array([c.mean for c in candidates])
    if not np.isfinite(means).any():
        raise TrainingError(
            f"search: all {len(candidates)} candidates diverged when measured again; lower the proxies' learning rate"
        )
    winner = int(np.argmin(means))
    place = next((i for i, c in enumerate(candidates) if c.label == PROPOSED), None)
    if place is None:
        assert refusal is not None
        return Verdict(winner=winner, claim=False, why=f"no claim: {refusal}")
    proposed = candidates[place]
    assert proposed.predicted is not None
    others = np.delete(means, place)
    if not np.isfinite(others).any():
        return Verdict(winner=winner, claim=False, why="no claim: every other candidate diverged when measured again")
    best = float(others.min())
    rival = next(c.label for c in candidates if c is not proposed and c.mean == best)
    gain, lead = best - (proposed.predicted + shift), best - proposed.mean
    error = lead_error(candidates)
    if evidence == "predicted":
        what, got, needed = "predicted gain", gain, z * residual_sd
        unit = f"z {z:g} x residual deviation {residual_sd:.4f}"
    else:
        what, got, needed = "measured lead", lead, math.inf if error is None else z * error
        unit = f"z {z:g} x its error {math.inf if error is None else error:.4f}"
    claim = False
    if not math.isfinite(lead):
        why = f"no claim: the {PROPOSED} point diverged when measured again"
    elif lead <= 0.0:
        why = f"no claim: predicted to be {gain:.4f} better, but measured again {rival} is {-lead:.4f} better"
    elif got <= needed:
        why = f"no claim: {what} {got:.4f} over {rival}, needed more than {needed:.4f} = {unit}"
    else:
        claim = True
        why = f"{what} {got:.4f} over {rival}, more than {needed:.4f} = {unit}; measured again {lead:.4f} better"
    return Verdict(
        winner=winner,
        claim=claim,
        why=why,
        gain=gain,
        needed=needed if math.isfinite(needed) else None,
        measured_gain=lead if math.isfinite(lead) else None,
        measured_gain_error=error,
    )
