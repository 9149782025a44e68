"""Flags from calibrated scores, as evidence beside every row; and which cells hold more of them than chance.

    work = Screen(path=…, digest=…)        # of a calibration
    rows = apply([work], scores).batch     # + p.lm_*, flags, cell, threshold_id

``Screen`` drops nothing. A row gets ``machine:z`` or ``membership:minkpp`` where its score exceeds the threshold of its
cell (domain, language, length), and the p value of each score among the reference texts. A row without a threshold, one
whose score is not usable in its domain, and one that is itself a reference text have null there.

At a rate of 1 % one innocent text in a hundred is flagged. Before a domain is called anything, ``excess`` asks whether
its flags are more than that: of m texts the number flagged is beta-binomial, Beta(n + 1 - k, k) being the rate that the
order statistic really has; the p values of all cells and scores are then held to a false discovery rate (Benjamini and
Hochberg 1995).

Price: a binary search per row and score.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from penstock.scoring.calibration import (
    SCREENED,
    Calibration,
    cell_name,
    cells_of,
    hashes_of,
    order,
    p_values,
    values_of,
)
from penstock.scoring.formulas import SCORES, column


def flag(score: str) -> str:
    """``machine:z``: the kind of suspicion, and the score."""
    return f"{SCORES[score].kind}:{score}"


def p_column(score: str) -> str:
    return f"p.lm_{score}"


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Annotator: flags and p values of scores by a saved calibration (``path`` and ``digest`` of its artifact)."""

    path: str
    digest: str

    name: ClassVar[str] = "screen"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("content_hash", "domain", "lm_tokens", *(column(s) for s in SCREENED))
    adds: ClassVar[tuple[str, ...]] = (*(p_column(s) for s in SCREENED), "flags", "cell", "threshold_id")

    def setup(self) -> None:
        Calibration.load(self.path, self.digest)

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        calibration = Calibration.load(self.path, self.digest)
        rows = pa.Table.from_batches([batch])
        cells = cells_of(rows, calibration.settings)
        known = is_known(calibration, batch["content_hash"])
        flags: list[list[str] | None] = [None] * batch.num_rows
        labels = np.empty(batch.num_rows, dtype=object)
        columns: dict[str, pa.Array] = {}
        for cell, places in cells.items():
            labels[places] = cell_name(cell, calibration.settings)
        for score in SCREENED:
            p = np.full(batch.num_rows, np.nan, dtype=np.float32)
            values = values_of(rows, score)
            for cell, places in cells.items():
                threshold = calibration.thresholds.get((score, cell))
                if threshold is None:
                    continue
                tested = places[~known[places] & ~np.isnan(values[places])]
                p[tested] = p_values(calibration.reference[score, cell], values[tested])
                for row in tested:
                    found = flags[row]
                    flags[row] = found = [] if found is None else found
                    if values[row] > threshold:
                        found.append(flag(score))
            columns[p_column(score)] = pa.array(p, pa.float32(), from_pandas=True)
        columns["flags"] = pa.array(flags, pa.list_(pa.string()))
        columns["cell"] = pa.array(labels, pa.string())
        columns["threshold_id"] = pa.repeat(pa.scalar(self.digest[:12]), batch.num_rows)
        return columns


def is_known(calibration: Calibration, content_hash: pa.Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether each text is one of the reference set: thresholds say nothing about those they were found on."""
    hashes = hashes_of(content_hash)
    place = np.searchsorted(calibration.hashes, hashes)
    inside = place < len(calibration.hashes)
    found = np.zeros(len(hashes), dtype=bool)
    found[inside] = calibration.hashes[place[inside]] == hashes[inside]
    return found


def excess(
    calibration: Calibration, tested: Mapping[str, Mapping[str, Mapping[str, int]]], *, fdr: float
) -> list[dict[str, Any]]:
    """Cells and scores, the least likely first, with a p value of as many flags by chance and its adjusted q.

    Args:
        tested: cell name -> score -> ``{"texts": m, "flagged": flags}``.
        fdr: false discovery rate at which a cell is named.
    """
    from scipy.stats import betabinom, false_discovery_control

    sizes = {
        (cell_name(cell, calibration.settings), score): len(values)
        for (score, cell), values in calibration.reference.items()
    }
    out: list[dict[str, Any]] = []
    for cell, scores in sorted(tested.items()):
        for score, counts in sorted(scores.items()):
            n = sizes[cell, score]
            k = order(n, calibration.settings.rate)
            # P(as many or more): the survival function leaves out its own argument
            p = float(betabinom.sf(counts["flagged"] - 1, counts["texts"], n + 1 - k, k))
            out.append(
                {
                    "cell": cell,
                    "score": score,
                    "texts": counts["texts"],
                    "flagged": counts["flagged"],
                    "expected": round(counts["texts"] * (n + 1 - k) / (n + 1), 2),
                    "p": p,
                }
            )
    if out:
        for entry, q in zip(out, false_discovery_control([entry["p"] for entry in out]), strict=True):
            entry |= {"q": float(q), "named": bool(q <= fdr)}
    return sorted(out, key=lambda entry: (entry["p"], entry["cell"], entry["score"]))
