"""Screening as steps: scores of innocent texts in, a calibration out; scores and a calibration in, flags out.

    calibration   the reference's scores, kept; thresholds and controls as an artifact
    flags         part of scores -> the same rows with flags and p values

Price: a calibration holds the columns it needs of its sets in memory (about 100 bytes a text); flags are one read and
one write of the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from penstock import work as rowwork
from penstock.dataset import Dataset, TableEntry, TableWriter, read_manifest, read_part
from penstock.digest import columns_of
from penstock.errors import ConfigError, DatasetError
from penstock.pipelines.documents import part_splits
from penstock.pipelines.passes import PartWriter, Split
from penstock.scoring.calibration import SCREENED, Calibration, CalibrationSettings, calibrate
from penstock.scoring.formulas import column
from penstock.scoring.run import open_scores
from penstock.scoring.screen import Screen, excess, flag, p_column
from penstock.scoring.step import TABLE
from penstock.step import Built, Context, Settings, Step
from penstock.storage import Folder

CALIBRATION, FLAGS = "calibration", "flags"
_KEPT = ("doc_id", "content_hash", "domain", "language", "lm_tokens")


class Calibrated(Step):
    """Thresholds from a reference set."""

    revision = 1
    libraries = ("numpy",)

    def __init__(
        self,
        name: str,
        reference: Dataset,
        settings: CalibrationSettings,
        *,
        control: Dataset | None = None,
        positive: Dataset | None = None,
    ) -> None:
        """All are datasets of scores.

        Raises:
            ConfigError: their scores were made differently, two of them are one, or DC-PDD is asked for and missing.
        """
        self.name, self.settings = name, settings
        named = {"reference": reference, "control": control, "positive": positive}
        self.sets = {what: dataset for what, dataset in named.items() if dataset is not None}
        made = {what: fingerprints_of(dataset) for what, dataset in self.sets.items()}
        for what, own in made.items():
            different = [name for name, value in own.items() if made["reference"].get(name) != value]
            if different:
                raise ConfigError(
                    f"{what}: {self.sets[what].folder.url} was scored with another {', '.join(different)} than the "
                    "reference; score both alike"
                )
            if what != "reference" and self.sets[what].digest == reference.digest:
                raise ConfigError(f"{what}: got the reference set itself, allowed other texts; name another set")
        if "dcpdd" in settings.scores and made["reference"]["reference"] is None:
            raise ConfigError("scores: got dcpdd, which these texts lack; score them with --reference, or leave it out")

    def config(self) -> dict[str, Any]:
        return {"calibration": asdict(self.settings)}

    def inputs(self, settings: Settings) -> dict[str, str]:
        return {what: dataset.digest for what, dataset in self.sets.items()}

    def build(self, context: Context) -> Built:
        scores = [column(score) for score in self.settings.scores]
        sets = {what: _read(dataset, scores) for what, dataset in self.sets.items()}
        path, digest = calibrate(
            sets["reference"],
            self.settings,
            fingerprints_of(self.sets["reference"]),
            context.folder.join(context.prefix),
            control=sets.get("control"),
            positive=sets.get("positive"),
        )
        built = Built(artifacts=context.adopt_artifact(path))
        built.tables["reference"] = write_table(context, "reference.parquet", sets["reference"])
        facts = Calibration.load(path, digest).facts
        built.stats[CALIBRATION] = {"path": context.adopt(path).path, "digest": digest} | dict(facts)
        return built


def _read(dataset: Dataset, scores: Sequence[str]) -> pa.Table:
    present = dataset.table(TABLE).columns
    return dataset.read(TABLE, [name for name in (*_KEPT, *scores) if name in present])


def write_table(context: Context, name: str, rows: pa.Table) -> TableEntry:
    """A table of one file below the step's folder."""
    path = f"{context.prefix}/{name}"
    writer = TableWriter(context.folder.open_write(path), rows.schema)
    for batch in rows.to_batches():
        writer.write(batch)
    writer.close()
    kinds = columns_of(writer.schema)
    return TableEntry((writer.entry(path),), writer.digest.rows, writer.digest.hex(kinds), kinds)


def fingerprints_of(scores: Dataset) -> dict[str, Any]:
    """What scores were made with."""
    found: dict[str, Any] = scores.manifest.stats["scores"]
    return found


def screen_of(path: str) -> tuple[Screen, Dataset]:
    """The row work of the calibration at ``path``, or of that below the folder a verb wrote it into.

    Raises:
        DatasetError: there is none.
    """
    folder = Folder(path)
    for place in (folder, folder / CALIBRATION):
        manifest = read_manifest(place)
        if manifest is not None and CALIBRATION in manifest.stats:
            facts = manifest.stats[CALIBRATION]
            return Screen(path=place.join(facts["path"]), digest=facts["digest"]), Dataset(place)
    raise DatasetError(f"{path}: no calibration there; make one with: penstock screen calibrate SCORES --out {path}")


# ── flags ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class FlagRows:
    """Flags of one part of scores."""

    folder: Folder
    work: Screen

    def __call__(self, split: Split, out: PartWriter) -> None:
        for batch in read_part(self.folder, split.payload.file):
            result = rowwork.apply([self.work], batch)
            out.applied(result)
            out.count(rows_in=batch.num_rows, kept=result.batch.num_rows)
            out.add_stats({"tested": tested(result.batch, self.work)})
            out.write(FLAGS, result.batch)


def tested(rows: pa.RecordBatch, work: Screen) -> dict[str, dict[str, dict[str, int]]]:
    """How many texts of each cell had a threshold of each score, and how many exceeded it."""
    out: dict[str, dict[str, dict[str, int]]] = {}
    calibration = Calibration.load(work.path, work.digest)
    cells = rows["cell"].to_pylist()
    flags = rows["flags"].to_pylist()
    for score in calibration.settings.scores:
        name = flag(score)
        for i in pc.indices_nonzero(pc.is_valid(rows[p_column(score)])).to_pylist():
            counts = out.setdefault(cells[i], {}).setdefault(score, {"texts": 0, "flagged": 0})
            counts["texts"] += 1
            counts["flagged"] += name in flags[i]
    return out


class Flagged(Step):
    """Scores with flags by a calibration; every row stays."""

    revision = 1
    libraries = ("numpy", "scipy")

    def __init__(self, name: str, scores: Dataset, work: Screen, *, fdr: float = 0.05) -> None:
        """``fdr`` is the false discovery rate at which cells are named.

        Raises:
            ConfigError: a rate outside (0, 1).
            DatasetError: the calibration is of scores made otherwise.
        """
        if not 0 < fdr < 1:
            raise ConfigError(f"fdr: got {fdr}, allowed above 0 and below 1; 0.05 is usual")
        self.name, self.scores, self.work, self.fdr = name, scores, work, fdr
        Calibration.load(work.path, work.digest).check(fingerprints_of(scores), scores.folder.url)

    def config(self) -> dict[str, Any]:
        return {"screen": {"revision": self.work.revision, "fdr": self.fdr}}

    def inputs(self, settings: Settings) -> dict[str, str]:
        return {"scores": self.scores.digest, CALIBRATION: self.work.digest}

    def build(self, context: Context) -> Built:
        splits = part_splits(self.scores.table(TABLE))
        reuse = {"screen": self.work.revision, CALIBRATION: self.work.digest}
        receipts = context.run("flag", FlagRows(self.scores.folder, self.work), splits, reuse=reuse)
        built = context.collect(receipts, FLAGS)
        calibration = Calibration.load(self.work.path, self.work.digest)
        built.stats["excess"] = excess(calibration, built.stats.get("tested", {}), fdr=self.fdr)
        built.stats["screened"] = {
            "threshold_id": self.work.digest[:12],
            "rate": calibration.settings.rate,
            "fdr": self.fdr,
            "controlled": bool(calibration.facts["controlled"]),
            "unusable": sorted([score, domain] for score, domain in calibration.unusable),
        }
        return built


def calibrate_steps(
    reference: str,
    *,
    scores: Sequence[str] = (),
    control: str | None = None,
    positive: str | None = None,
    **settings: Any,
) -> list[Step]:
    """The step of ``penstock screen calibrate``, from folders of scores.

    Args:
        scores: which get thresholds; by default all that the reference set has.
        settings: the others of ``CalibrationSettings``.
    """
    opened = [None if path is None else open_scores(path) for path in (reference, control, positive)]
    assert opened[0] is not None
    if not scores:
        scores = [s for s in SCREENED if s != "dcpdd" or fingerprints_of(opened[0])["reference"] is not None]
    made = CalibrationSettings(scores=tuple(scores), **settings)
    return [Calibrated(CALIBRATION, opened[0], made, control=opened[1], positive=opened[2])]


def apply_steps(scores: str, calibration: str, *, fdr: float = 0.05) -> list[Step]:
    """The step of ``penstock screen apply``, from folders of scores and of a calibration."""
    work, _ = screen_of(calibration)
    return [Flagged(FLAGS, open_scores(scores), work, fdr=fdr)]
