"""Thresholds of scores at a named false-positive rate, from a reference set that is kept with them.

A reference set is text that is known to be innocent: written by people, for machine-text scores; never trained on and
of the same source and time, for membership scores. In every cell (domain, language where it is known, length bucket)
the threshold is the k-th smallest of the n reference values in the suspicious direction,

    k = ceil((n + 1) (1 - rate)),        none where k > n

so that a fresh innocent text exceeds it with a probability of at most ``rate``, whatever the distribution, as long as
it is exchangeable with the reference (split conformal prediction; Vovk et al. 2005). n = 99 is the least for a rate of
1 %. The rate that one calibration then really has is Beta(n + 1 - k, k): 500 texts for 5 % +- 1 point, 1,100 for
1 % +- 0.3.

**Negative control**: a second innocent set, of another month, say. A score that tells the two apart (area under the ROC
curve above 0.55, one way or the other, compared within cells) reads time or topic: it is marked as not usable in that
domain. **Positive control**: texts that should be found; the share that is, by cell.

Thresholds hold for the scores they were made from. The artifact carries their fingerprints (model, tokenizer, reference
counts, ``max_tokens`` and the rest), and is refused for scores of others.

Price: the reference set in memory, 4 bytes a score, and a sort.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.errors import ConfigError, DatasetError
from penstock.scoring.formulas import SCORES, column
from penstock.selectors import artifact

Values = NDArray[np.float32]
Cell = tuple[str, str, int]  # domain, language ("" where it is not known), length bucket

SEPARATES = 0.55  # area of a negative control above which a score is not usable (Maini and Suri 2025)
SCREENED = tuple(name for name, score in SCORES.items() if score.kind != "likelihood")


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """How thresholds are found.

    Args:
        rate: false-positive rate of each threshold.
        scores: which scores get thresholds, by name; those of ``SCREENED``.
        edges: token counts at which length buckets begin, after the first, which begins at 0.
        machine_tokens: machine-text scores get no threshold in buckets that begin below: there a text says too little.
    """

    rate: float = 0.01
    scores: tuple[str, ...] = SCREENED
    edges: tuple[int, ...] = (100, 200, 400)
    machine_tokens: int = 100

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ConfigError(
                f"rate: got {self.rate}, allowed above 0 and below 1; 0.01 flags one innocent text in 100"
            )
        unknown = [name for name in self.scores if name not in SCREENED]
        if unknown or not self.scores or len(set(self.scores)) < len(self.scores):
            raise ConfigError(
                f"scores: got {', '.join(self.scores) or 'none'}, allowed each of {', '.join(SCREENED)} once"
            )
        if any(edge < 1 for edge in self.edges) or list(self.edges) != sorted(set(self.edges)):
            raise ConfigError(f"edges: got {list(self.edges)}, allowed rising token counts >= 1, such as 100, 200, 400")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CalibrationSettings:
        """From what ``asdict`` gave, after it went through JSON."""
        given: dict[str, Any] = {name: tuple(of) if isinstance(of, list) else of for name, of in value.items()}
        return cls(**given)

    def buckets(self, tokens: NDArray[Any]) -> NDArray[np.int64]:
        """The length bucket of each text, by the token count at which it begins: (n,)."""
        begins = np.array([0, *self.edges], dtype=np.int64)
        found: NDArray[np.int64] = begins[np.searchsorted(begins, tokens, side="right") - 1]
        return found

    def bucket_name(self, begin: int) -> str:
        """``100-199``, or ``400+``."""
        later = [edge for edge in self.edges if edge > begin]
        return f"{begin}-{later[0] - 1}" if later else f"{begin}+"

    def tests(self, score: str, bucket: int) -> bool:
        """Whether a score may have a threshold in a bucket."""
        return SCORES[score].kind != "machine" or bucket >= self.machine_tokens


# ── order statistics ─────────────────────────────────────────────────────────────────────────────


def suspicion(score: str, values: NDArray[Any]) -> Values:
    """Values turned so that large is suspicious; NaN stays: float32 (n,)."""
    sign = np.float32(1 if SCORES[score].suspicious == "large" else -1)
    return sign * values.astype(np.float32)


def order(n: int, rate: float) -> int:
    """k of the order statistic; more than n when n texts are too few for the rate."""
    return max(1, math.ceil((n + 1) * (1 - rate) - 1e-9))


def threshold_of(reference: Values, rate: float) -> float | None:
    """The k-th smallest of sorted suspicious values (n,); None when n is too small for the rate."""
    k = order(len(reference), rate)
    return None if k > len(reference) else float(reference[k - 1])


def least_texts(rate: float) -> int:
    """The fewest reference texts that a rate needs."""
    return math.ceil((1 - rate) / rate - 1e-9)


def p_values(reference: Values, values: Values) -> NDArray[np.float32]:
    """(1 + reference values at least as suspicious) / (n + 1), at most ``rate`` where flagged: (m,) of m values."""
    at_least = len(reference) - np.searchsorted(reference, values, side="left")
    return ((1 + at_least) / (len(reference) + 1)).astype(np.float32)


def pairs_won(one: Values, other: Values) -> float:
    """How many of the pairs have the larger value in ``other``; ties count half (Mann and Whitney's U)."""
    if not len(one) or not len(other):
        return 0.0
    ordered = np.sort(one)
    below = np.searchsorted(ordered, other, side="left")
    not_above = np.searchsorted(ordered, other, side="right")
    return float((below + not_above).sum()) / 2


# ── a table of scores by cell ────────────────────────────────────────────────────────────────────


def cells_of(rows: pa.Table, settings: CalibrationSettings) -> dict[Cell, NDArray[np.int64]]:
    """Places of the rows of each cell, cells sorted."""
    languages = rows["language"] if "language" in rows.column_names else pa.nulls(rows.num_rows, pa.string())
    table = pa.table(
        {
            "domain": rows["domain"],
            "language": pc.fill_null(languages, ""),
            "bucket": settings.buckets(rows["lm_tokens"].to_numpy()),
            "row": np.arange(rows.num_rows),
        }
    )
    groups = table.group_by(["domain", "language", "bucket"], use_threads=False).aggregate([("row", "list")])
    found = {
        (domain, language, bucket): np.asarray(rows_of, dtype=np.int64)
        for domain, language, bucket, rows_of in zip(
            groups["domain"].to_pylist(),
            groups["language"].to_pylist(),
            groups["bucket"].to_pylist(),
            groups["row_list"].to_pylist(),
            strict=True,
        )
    }
    return dict(sorted(found.items()))


def values_of(rows: pa.Table, score: str) -> Values:
    """Suspicious values of a score, NaN where a text has none: (n,)."""
    return suspicion(score, rows[column(score)].to_numpy(zero_copy_only=False))


def sorted_values(values: Values, rows: NDArray[np.int64]) -> Values:
    """Those of some rows that have one, sorted."""
    some = values[rows]
    return np.sort(some[~np.isnan(some)])


# ── calibration ──────────────────────────────────────────────────────────────────────────────────


def calibrate(
    reference: pa.Table,
    settings: CalibrationSettings,
    fingerprints: Mapping[str, Any],
    folder: str,
    *,
    control: pa.Table | None = None,
    positive: pa.Table | None = None,
) -> tuple[str, str]:
    """Find thresholds and controls and save them under ``folder``: (path, digest) of the artifact.

    Args:
        reference: rows of a table of scores (``content_hash``, ``domain``, ``lm_tokens``, ``score.lm_*``).
        fingerprints: what the scores were made with, as their dataset states it.
        control, positive: rows of the controls.

    Raises:
        ConfigError: there is no reference text at all.
    """
    if not reference.num_rows:
        raise ConfigError("reference: got no text, allowed known innocent texts; score some and name them")
    arrays: dict[str, NDArray[Any]] = {"hashes": np.sort(hashes_of(reference["content_hash"]))}
    cells = cells_of(reference, settings)
    thresholds: list[dict[str, Any]] = []
    for score in settings.scores:
        values = values_of(reference, score)
        found = None if positive is None else (cells_of(positive, settings), values_of(positive, score))
        for cell, rows in cells.items():
            known = sorted_values(values, rows)
            entry = _threshold(score, cell, known, settings)
            if found is not None and entry["threshold"] is not None:
                texts = sorted_values(found[1], found[0].get(cell, np.zeros(0, dtype=np.int64)))
                entry["positive"] = {"texts": len(texts), "found": int((texts > entry["threshold"]).sum())}
            arrays[f"reference.{len(thresholds)}"] = known
            thresholds.append(entry)
    facts = {
        "settings": asdict(settings),
        "fingerprints": dict(fingerprints),
        "thresholds": thresholds,
        "controls": [] if control is None else controls_of(reference, control, settings),
        "controlled": control is not None,
        "texts": reference.num_rows,
    }
    return artifact.save(folder, "calibration", arrays, facts)


def _threshold(score: str, cell: Cell, known: Values, settings: CalibrationSettings) -> dict[str, Any]:
    domain, language, bucket = cell
    value, why = threshold_of(known, settings.rate), None
    if not settings.tests(score, bucket):
        value, why = None, f"texts below {settings.machine_tokens} tokens"
    elif value is None:
        why = f"{len(known)} texts, {least_texts(settings.rate)} needed"
    return {
        "score": score,
        "domain": domain,
        "language": language,
        "bucket": bucket,
        "texts": len(known),
        "threshold": value,  # in the suspicious direction: a score that is suspicious when small has its sign turned
        "why": why,
    }


def controls_of(reference: pa.Table, control: pa.Table, settings: CalibrationSettings) -> list[dict[str, Any]]:
    """The area under the ROC curve between two innocent sets, by domain and score, over cells that both have."""
    ours, others = cells_of(reference, settings), cells_of(control, settings)
    out = []
    for score in settings.scores:
        one, other = values_of(reference, score), values_of(control, score)
        sums: dict[str, list[float]] = {}
        for cell in ours.keys() & others.keys():
            if settings.tests(score, cell[2]):
                a, b = sorted_values(one, ours[cell]), sorted_values(other, others[cell])
                won = sums.setdefault(cell[0], [0.0, 0.0, 0, 0])
                for i, more in enumerate((pairs_won(a, b), len(a) * len(b), len(a), len(b))):
                    won[i] += more
        for domain, (won_pairs, pairs, texts, control_texts) in sorted(sums.items()):
            if pairs:
                area = won_pairs / pairs
                out.append(
                    {
                        "score": score,
                        "domain": domain,
                        "auc": round(area, 6),
                        "texts": int(texts),
                        "control_texts": int(control_texts),
                        "usable": max(area, 1 - area) <= SEPARATES,
                    }
                )
    return out


def hashes_of(content_hash: pa.Array | pa.ChunkedArray) -> NDArray[np.uint64]:
    """The first eight bytes of each 16-byte hash: (n,). Two texts share them once in 10^19 pairs."""
    data = b"".join(content_hash.to_pylist())
    return np.ascontiguousarray(np.frombuffer(data, dtype="<u8").reshape(-1, 2)[:, 0]).astype(np.uint64)


@dataclass(frozen=True)
class Calibration:
    """A saved calibration, read once a process."""

    settings: CalibrationSettings
    fingerprints: Mapping[str, Any]
    thresholds: Mapping[tuple[str, Cell], float]  # of usable scores, by score and cell
    reference: Mapping[tuple[str, Cell], Values]
    unusable: frozenset[tuple[str, str]]  # score, domain
    hashes: NDArray[np.uint64]  # sorted, of the reference texts
    facts: Mapping[str, Any]

    @classmethod
    def load(cls, path: str, digest: str) -> Calibration:
        """Raises DatasetError when a file is missing or changed."""
        return _load(path, digest)

    def check(self, fingerprints: Mapping[str, Any], where: str) -> None:
        """Raise DatasetError unless scores were made as those of the reference set were."""
        ours = dict(self.fingerprints)
        theirs = dict(fingerprints)
        if "dcpdd" not in self.settings.scores:
            ours.pop("reference", None)
            theirs.pop("reference", None)
        different = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
        if different:
            text = "; ".join(
                f"{name} {_short(theirs.get(name))} there, {_short(ours.get(name))} here" for name in different
            )
            raise DatasetError(
                f"{where}: scores that this calibration is not of: {text}; calibrate again with such scores"
            )


def _short(value: Any) -> str:
    return str(value)[:12] if isinstance(value, str) else str(value)


@functools.lru_cache(maxsize=2)
def _load(path: str, digest: str) -> Calibration:
    saved = artifact.load(path, digest)
    unusable = frozenset((c["score"], c["domain"]) for c in saved.facts["controls"] if not c["usable"])
    thresholds, reference = {}, {}
    for i, entry in enumerate(saved.facts["thresholds"]):
        cell = (entry["domain"], entry["language"], entry["bucket"])
        if entry["threshold"] is not None and (entry["score"], entry["domain"]) not in unusable:
            thresholds[entry["score"], cell] = entry["threshold"]
            reference[entry["score"], cell] = saved.arrays[f"reference.{i}"]
    return Calibration(
        CalibrationSettings.from_json(saved.facts["settings"]),
        saved.facts["fingerprints"],
        thresholds,
        reference,
        unusable,
        saved.arrays["hashes"],
        saved.facts,
    )


def cell_name(cell: Cell, settings: CalibrationSettings) -> str:
    """``wikipedia/en/100-199``."""
    domain, language, bucket = cell
    return "/".join([domain, *([language] if language else []), settings.bucket_name(bucket)])
