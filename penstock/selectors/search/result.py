"""What a search found: the point to use, whether it may be called better, and all it rests on, as JSON.

Price: none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from penstock.selectors.search.guard import Candidate, Verdict
from penstock.selectors.search.settings import SearchSettings
from penstock.selectors.search.surrogate import Fit
from penstock.selectors.search.trials import Measured


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The outcome of ``search``.

    Attributes:
        unit: the winner's point: (P,).
        label: which candidate it is: "predicted best", "draw 12", "uniform", "natural".
        theta: the winner as ``Space.describe`` says it.
        verdict: claim, why, predicted and measured gain.
        candidates: predicted, first and fresh measurements side by side; the winner's place is ``verdict.winner``.
        alternatives: descriptions of the best measured points by label, to try where they can be afforded.
        names: of the coordinates.
        fit: the surrogate's judgement.
        importances: by coordinate, largest first.
        targets: judgement of a surrogate of each target set alone, where there are several; R2 <= 0 marks one whose
            loss the selection hardly moves, or whose measurement is noise.
        out_of_fold: (trial number, measured, predicted by a fit without it) of every point that was fitted.
        averaged: predictions of what the proposed point is the mean of, best first; empty without one.
        noise_sd: deviation of one point's loss over seeds; None where fewer than two are left.
        shift: how much the fresh seeds raise losses against the search's seed, by the baselines.
        measured: everything that was measured, by trial number.
        rounds: what each round of measurements was proposed by.
        warnings: diverged points, criteria that rank nothing.
    """

    unit: tuple[float, ...]
    label: str
    theta: Mapping[str, Any]
    verdict: Verdict
    candidates: tuple[Candidate, ...]
    alternatives: Mapping[str, Mapping[str, Any]]
    names: tuple[str, ...]
    fit: Fit
    importances: Mapping[str, float]
    targets: Mapping[str, Fit]
    out_of_fold: tuple[tuple[int, float, float], ...]
    averaged: tuple[float, ...]
    noise_sd: float | None
    shift: float
    measured: tuple[Measured, ...]
    rounds: tuple[str, ...]
    warnings: tuple[str, ...]
    settings: SearchSettings
    seed: int

    @property
    def claim(self) -> bool:
        """Whether the proposed point may be called better than every other candidate."""
        return self.verdict.claim

    @property
    def why(self) -> str:
        """The reason of ``claim``, with the numbers."""
        return self.verdict.why

    def to_json(self) -> dict[str, Any]:
        """Everything, with numbers that JSON can hold."""
        return {
            "unit": list(self.unit),
            "label": self.label,
            "theta": dict(self.theta),
            "verdict": self.verdict.to_json(),
            "candidates": [c.to_json() for c in self.candidates],
            "alternatives": {name: dict(theta) for name, theta in self.alternatives.items()},
            "names": list(self.names),
            "surrogate": {
                "fit": self.fit.to_json(),
                "importances": dict(self.importances),
                "targets": {name: fit.to_json() for name, fit in self.targets.items()},
                "out_of_fold": [
                    {"trial": number, "measured": measured, "predicted": predicted}
                    for number, measured, predicted in self.out_of_fold
                ],
                "averaged": list(self.averaged),
            },
            "noise_sd": self.noise_sd,
            "shift": self.shift,
            "measured": [m.to_json() for m in self.measured],
            "rounds": list(self.rounds),
            "warnings": list(self.warnings),
            "settings": asdict(self.settings),
            "seed": self.seed,
        }
