"""Criteria that are learned: the perplexity model as a step, and a quality classifier that was trained before.

    perplexity   the corpus so far, sources of the reference set -> n-gram model
    quality      a folder of ``penstock quality train``          -> the same artifact as that of ``QualityStep``

Passes: sample, sample-reference. Counts of n-grams are whole numbers, so parts merge in any order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from penstock import work as rowwork
from penstock.errors import ConfigError, DatasetError
from penstock.pipelines.documents import config_of, part_splits
from penstock.pipelines.fit import SampleSide, SampleSource, Side, adopted, merge_summaries
from penstock.pipelines.passes import Receipt, splits_of
from penstock.selectors import artifact
from penstock.selectors.normalise import Normalise, NotEmpty
from penstock.selectors.quality import MINIMUM_ROWS, QualityClassifier, QualityScore
from penstock.selectors.scorers.perplexity import NgramCounts, PerplexityModel
from penstock.selectors.splits import AssignSplit
from penstock.sources.base import InputFile
from penstock.sources.files import FileEntry, FileSource
from penstock.step import Built, Context, Settings, Step
from penstock.storage import Folder

POINTER = "quality.json"  # names the artifact of a trained classifier in its folder


class PerplexityStep(Step):
    """An n-gram model of a reference set."""

    revision = 1
    fitted = True

    def __init__(
        self,
        name: str,
        parent: str,
        *,
        reference: Side,
        works: tuple[Any, ...],
        assign: AssignSplit,
        model: PerplexityModel,
        budget: float | None = None,
    ) -> None:
        self.name, self.parents, self.budget = name, (parent,), budget
        self.domains, self.sources = reference
        self.works, self.model = (*works, assign), model

    def config(self) -> dict[str, Any]:
        return {
            "model": rowwork.describe(self.model),
            "works": [rowwork.describe(w) for w in self.works],
            "domains": list(self.domains),
            "sources": [{"name": s.name, "revision": s.revision, "config": config_of(s)} for s in self.sources],
        }

    def inputs(self, settings: Settings) -> dict[str, str]:
        return {f"reference:{s.name}:{i.name}": settings.fingerprint(i) for s in self.sources for i in s.inputs()}

    def build(self, context: Context) -> Built:
        parent = context.parents[self.parents[0]]
        receipts: list[Receipt] = []
        if self.domains:
            work = SampleSide(parent.folder, self.domains, (), self.model)
            receipts += context.run("sample", work, part_splits(parent.table("documents")))
        if self.sources:
            pieces = [p for s in self.sources for p in s.plan(context.settings.split_bytes)]
            of_side = SampleSource(self.sources, "reference", self.works, self.model)
            receipts += context.run("sample-reference", of_side, splits_of(pieces))
        merged = merge_summaries(context.folder, receipts, NgramCounts)
        if merged is None:
            raise DatasetError(f"{self.name}: the reference set has no row; look at scores.perplexity.reference")
        return adopted(context, self.model.fit(merged, context.folder.join(context.prefix)))


class TrainedQuality(Step):
    """A quality classifier that ``penstock quality train`` wrote."""

    revision = 1

    def __init__(self, name: str, folder: str, budget: float | None = None) -> None:
        self.name, self.folder, self.budget = name, folder, budget

    def config(self) -> dict[str, Any]:
        return {}

    def inputs(self, settings: Settings) -> dict[str, str]:
        path = Path(trained(self.folder).path)
        return {
            file.name: settings.fingerprint(InputFile.local(file)) for file in (path, path.with_suffix(".safetensors"))
        }

    def build(self, context: Context) -> Built:
        given = trained(self.folder)
        found = artifact.load(given.path, given.digest)
        home = context.folder.join(context.prefix)
        path, digest = artifact.save(home, "quality", found.arrays, found.facts)
        return adopted(context, QualityScore(path=path, digest=digest))


def trained(folder: str) -> QualityScore:
    """The classifier in a folder that ``train_quality`` wrote.

    Raises:
        ConfigError: there is none.
    """
    try:
        said = json.loads((Path(folder) / POINTER).read_text("utf-8"))
        return QualityScore(path=str(Path(folder) / str(said["model"])), digest=str(said["digest"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"quality.model: got {folder}, where no {POINTER} of a trained classifier is ({type(error).__name__}); "
            "make one with penstock quality train"
        ) from error


def train_quality(
    positive: Sequence[str],
    negative: Sequence[str],
    out: str,
    *,
    text_column: str | None = None,
    rows_per_side: int = 5000,
    seed: int = 0,
) -> QualityScore:
    """Train a quality classifier on files and write it below ``out``, with a pointer that recipes read.

    Texts are cleaned as a corpus is, and each is taken once: a text of both sides counts for the positive one. A fifth
    of each side is held out and measured.

    Raises:
        ConfigError: a side has fewer than 20 documents.
        InputError: a file cannot be read.
    """
    classifier = QualityClassifier(
        positive=("positive",), negative=("negative",), seed=seed, rows_per_side=rows_per_side
    )
    works = (Normalise(), NotEmpty())
    seen: set[bytes] = set()
    sample: Any = None
    columns = {} if text_column is None else {"text": text_column}
    for side, paths in (("positive", positive), ("negative", negative)):
        # named by place: a folder that moved makes the same classifier
        entries = tuple(FileEntry(path=path, name=f"{side}-{i}", columns=columns) for i, path in enumerate(paths))
        source = FileSource(name=side, entries=entries)
        count = 0
        for piece in source.plan(32 << 20):
            for rows in source.read(piece, dropped="ids"):
                batch = rowwork.apply(works, rows.documents, dropped="ids").batch
                batch = batch.filter(pa.array(_fresh(batch["content_hash"], seen), pa.bool_()))
                count += batch.num_rows
                told = {
                    name: pa.repeat(pa.scalar(value), batch.num_rows)
                    for name, value in (("domain", side), ("split", "train"))
                }
                summary = classifier.summarise(rowwork.with_columns(batch, told))
                sample = summary if sample is None else sample.merge(summary)
        if count < MINIMUM_ROWS:
            raise ConfigError(
                f"--{side}: got {count} different documents, allowed >= {MINIMUM_ROWS}; name files that hold more"
            )
    score = classifier.fit(sample, out)
    said = {"model": score.path.rpartition("/")[2], "digest": score.digest}
    Folder(out).write_bytes(POINTER, json.dumps(said, indent=1).encode() + b"\n")
    return score


def _fresh(hashes: pa.Array, seen: set[bytes]) -> list[bool]:
    """Whether each hash is new; they are seen afterwards."""
    out = []
    for hashed in hashes.to_pylist():
        out.append(hashed not in seen)
        seen.add(hashed)
    return out
