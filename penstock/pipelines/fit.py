"""Global facts as passes: summarise every part, merge in any order, fit once.

``fit_over`` is the whole idea: a summary of each part is written beside it as a small table; the
driver merges equal numbers of parts together, so its memory is a few summaries whatever the number of parts.

The tokenizer step samples the train split, trains a byte-level BPE and publishes ``tokenizer.json``, or publishes that
of the bytes.
The quality step samples a positive and a negative set and publishes a classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock import work as rowwork
from penstock.dataset import Dataset, TableEntry, hash_json, read_part
from penstock.digest import TableDigest
from penstock.errors import ConfigError, DatasetError
from penstock.pipelines.documents import PartSplit, config_of, part_splits
from penstock.pipelines.passes import PartWriter, Receipt, Split, splits_of
from penstock.selectors.quality import MINIMUM_ROWS, QualityClassifier
from penstock.selectors.sample import BottomK, Sampling
from penstock.selectors.splits import AssignSplit
from penstock.step import Built, Context, Settings, Step
from penstock.storage import Folder
from penstock.tokenization.bpe import END, PAD, SPECIAL, BPEConfig, train_bpe_from_table, vocabulary_size
from penstock.tokenization.patches.bytes import byte_tokenizer


def write_summary(out: PartWriter, summary: Any) -> None:
    """A summary as a part of its own, with the schema's metadata kept."""
    table = summary.to_table()

    def write(sink: Any) -> TableDigest:
        pq.write_table(table, sink, compression="zstd")
        return TableDigest.of(table)

    out.file("summary", write, "parquet", table.num_rows, table.schema)


def merge_all(summaries: Iterable[Any]) -> Any:
    """The sum of summaries; None without any.

    Those made of equally many are merged first: one after the other would touch what is there once for each, n * n in
    all, where this takes n log n. At most log n are held.
    """
    held: list[tuple[int, Any]] = []
    for summary in summaries:
        level = 0
        while held and held[-1][0] == level:
            summary = held.pop()[1].merge(summary)
            level += 1
        held.append((level, summary))
    merged: Any = None
    while held:
        one = held.pop()[1]
        merged = one if merged is None else one.merge(merged)
    return merged


def merge_summaries(folder: Folder, receipts: Sequence[Receipt], kind: Any) -> Any:
    """The merged summary of all splits; None when no split wrote one."""

    def read() -> Iterator[Any]:
        for receipt in receipts:
            if "summary" in receipt.parts:
                with folder.open_read(receipt.parts["summary"].file.path) as file, pq.ParquetFile(file) as parquet:
                    yield kind.from_table(parquet.read(use_threads=False))

    return merge_all(read())


@dataclass(frozen=True)
class Summarise:
    """Summarise one part: ``summarise(batch)`` after optional annotators, on rows of ``only`` split."""

    parent: Folder
    columns: tuple[str, ...]
    summarise: Callable[[pa.RecordBatch], Any]
    works: tuple[Any, ...] = ()
    only: str | None = None

    def __call__(self, split: Split, out: PartWriter) -> None:
        merged = merge_all(self._summaries(split.payload))
        if merged is not None:
            write_summary(out, merged)

    def _summaries(self, piece: PartSplit) -> Iterator[Any]:
        columns = tuple(dict.fromkeys((*self.columns, "split") if self.only else self.columns))
        for batch in read_part(self.parent, piece.file, columns):
            if self.only is not None:
                batch = batch.filter(pc.equal(batch["split"], self.only))
            yield self.summarise(rowwork.apply(self.works, batch).batch)


def fit_over(
    context: Context,
    name: str,
    table: TableEntry,
    work: Summarise,
    kind: Any,
) -> Any:
    """Run a summary pass over a parent's table and return the merged summary.

    Raises:
        DatasetError: the parent has no rows at all.
    """
    layout = "" if not work.works else rowwork_layout(work.works)
    receipts = context.run(name, work, part_splits(table, layout))
    merged = merge_summaries(context.folder, receipts, kind)
    if merged is None:
        raise DatasetError(f"{context.step.name}: no rows to learn from; look at the drop reasons of the steps before")
    return merged


def rowwork_layout(works: tuple[Any, ...]) -> str:
    return hash_json([rowwork.describe(w) for w in works])


class Tokenizer(Step):
    """A byte-level BPE trained on a bottom-k-by-hash sample of the train split."""

    revision = 2
    libraries = ("tokenizers",)
    fitted = True

    def __init__(
        self, name: str, parent: str, config: BPEConfig, sample_bytes: int, seed: int, budget: float | None = None
    ) -> None:
        self.name, self.parents, self.bpe, self.budget = name, (parent,), config, budget
        self.sampling = Sampling(
            seed=seed, purpose="tokenizer", columns=("text", "id_hash", "domain"), max_bytes=sample_bytes
        )

    def config(self) -> dict[str, Any]:
        return {"bpe": asdict(self.bpe), "sampling": asdict(self.sampling)}

    def build(self, context: Context) -> Built:
        parent = context.parents[self.parents[0]]
        reads = tuple(dict.fromkeys(("id_hash", "doc_id", *self.sampling.columns)))
        work = Summarise(parent.folder, reads, self.sampling.of, only="train")
        sample = fit_over(context, "sample", parent.table("documents"), work, BottomK)
        if not sample.num_rows:
            raise DatasetError(
                f"{self.name}: none of the {parent.table('documents').rows:,} documents is in the train split; lower "
                "splits.validation and splits.test, or bring more documents"
            )
        data = train_bpe_from_table(sample.rows, self.bpe)
        entry = context.write_artifact("tokenizer.json", data)
        size = int(pc.sum(pc.binary_length(sample.rows["text"])).as_py() or 0)
        return Built(
            artifacts={"tokenizer.json": entry},
            stats={
                "vocabulary": vocabulary_size(data),
                "end_id": SPECIAL.index(END),
                "pad_id": SPECIAL.index(PAD),
                "sample_documents": sample.num_rows,
                "sample_bytes": size,
            },
        )


class ByteTokenizer(Step):
    """The tokenizer whose tokens are the bytes: nothing is learned, so it has no parents."""

    revision = 1
    libraries = ("tokenizers",)

    def __init__(self, name: str, special: tuple[str, ...], budget: float | None = None) -> None:
        self.name, self.special, self.budget = name, special, budget

    def config(self) -> dict[str, Any]:
        return {"special": list(self.special)}

    def build(self, context: Context) -> Built:
        data = byte_tokenizer(self.special)
        return Built(
            artifacts={"tokenizer.json": context.write_artifact("tokenizer.json", data)},
            stats={
                "kind": "bytes",
                "vocabulary": vocabulary_size(data),
                "end_id": SPECIAL.index(END),
                "pad_id": SPECIAL.index(PAD),
            },
        )


@dataclass(frozen=True)
class SampleSide:
    """Summarise the rows of a part that belong to a side of the quality classifier, or to one reference set."""

    parent: Folder
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    classifier: Any  # a QualityClassifier, or what learns from the positive side alone

    def __call__(self, split: Split, out: PartWriter) -> None:
        merged = merge_all(self._summaries(split.payload))
        if merged is not None:
            write_summary(out, merged)

    def _summaries(self, piece: PartSplit) -> Iterator[Any]:
        columns = tuple(dict.fromkeys((*self.classifier.reads, "domain")))
        for batch in read_part(self.parent, piece.file, columns):
            for side, own, other in (
                ("positive", self.positive, self.negative),
                ("negative", self.negative, self.positive),
            ):
                if own:
                    rows = batch.filter(_member(batch["domain"], own, other))
                    yield self.classifier.summarise(_as_side(rows, side))


def _member(domain: pa.Array, own: tuple[str, ...], other: tuple[str, ...]) -> pa.Array:
    """Rows of the named domains; ``*`` is every domain that the other side does not name."""
    if "*" in own:
        return pc.invert(pc.is_in(domain, pa.array([d for d in other if d != "*"], pa.string())))
    return pc.is_in(domain, pa.array(own, pa.string()))


def _as_side(rows: pa.RecordBatch, side: str) -> pa.RecordBatch:
    return rowwork.with_columns(rows, {"domain": pa.repeat(pa.scalar(side), rows.num_rows)})


@dataclass(frozen=True)
class SampleSource:
    """Summarise a source that is one side of the quality classifier, or a reference set, cleaned as the corpus is.

    Rows whose content falls into validation or test are left out: the split hashes the content, so a text
    that the corpus holds out is held out here too.
    """

    sources: tuple[Any, ...]
    side: str
    works: tuple[Any, ...]
    classifier: Any

    def __call__(self, split: Split, out: PartWriter) -> None:
        merged = merge_all(self._summaries(split.payload))
        if merged is not None:
            write_summary(out, merged)

    def _summaries(self, piece: Any) -> Iterator[Any]:
        source = next(s for s in self.sources if s.name == piece.source)
        for rows in source.read(piece, dropped="ids"):
            batch = rowwork.apply(self.works, rows.documents, dropped="ids").batch
            yield self.classifier.summarise(_as_side(batch, self.side))


def adopted(context: Context, score: Any) -> Built:
    """What the step of a fitted scorer is committed as: its artifact, and what the fit found."""
    built = Built(stats={"model": {"path": context.adopt(score.path).path, "digest": score.digest}})
    built.stats["facts"] = score.facts()
    built.artifacts |= context.adopt_artifact(score.path)
    return built


_NAMED = 12  # domains listed in a message

Side = tuple[tuple[str, ...], tuple[Any, ...]]  # domains of the corpus, sources of its own


class QualityStep(Step):
    """A quality classifier trained from a positive and a negative set."""

    revision = 1
    libraries = ("scikit-learn",)
    fitted = True

    def __init__(
        self,
        name: str,
        parent: str,
        *,
        positive: Side,
        negative: Side,
        works: tuple[Any, ...],
        assign: AssignSplit,
        rows_per_side: int,
        seed: int,
        budget: float | None = None,
    ) -> None:
        both = sorted(set(positive[0]) & set(negative[0]))
        if both:
            raise ConfigError(
                f"quality: got {', '.join(both)} in positive.domains and in negative.domains, allowed in one of them; "
                "take it out of the other"
            )
        self.name, self.parents, self.budget = name, (parent,), budget
        self.sides = {"positive": positive, "negative": negative}
        self.works = (*works, assign)
        self.classifier = QualityClassifier(
            positive=("positive",), negative=("negative",), seed=seed, rows_per_side=rows_per_side
        )

    def config(self) -> dict[str, Any]:
        return {
            "classifier": rowwork.describe(self.classifier),
            "works": [rowwork.describe(w) for w in self.works],
            "sides": {
                side: {
                    "domains": list(domains),
                    "sources": [{"name": s.name, "revision": s.revision, "config": config_of(s)} for s in sources],
                }
                for side, (domains, sources) in self.sides.items()
            },
        }

    def inputs(self, settings: Settings) -> dict[str, str]:
        return {
            f"{side}:{s.name}:{i.name}": settings.fingerprint(i)
            for side, (_, sources) in self.sides.items()
            for s in sources
            for i in s.inputs()
        }

    def build(self, context: Context) -> Built:
        parent = context.parents[self.parents[0]]
        positive, negative = self.sides["positive"][0], self.sides["negative"][0]
        receipts: list[Receipt] = []
        if positive or negative:
            work = SampleSide(parent.folder, positive, negative, self.classifier)
            receipts += context.run("sample", work, part_splits(parent.table("documents")))
        for side, (_, sources) in self.sides.items():
            if sources:
                pieces = [p for s in sources for p in s.plan(context.settings.split_bytes)]
                of_side = SampleSource(sources, side, self.works, self.classifier)
                receipts += context.run(f"sample-{side}", of_side, splits_of(pieces))
        merged = merge_summaries(context.folder, receipts, BottomK)
        if merged is None:
            raise DatasetError(f"{self.name}: neither set has a row; look at quality.positive and quality.negative")
        self._check_sides(merged, parent)
        return adopted(context, self.classifier.fit(merged, context.folder.join(context.prefix)))

    def _check_sides(self, sample: BottomK, parent: Dataset) -> None:
        """Say in the recipe's words which side has too few documents."""
        found = rowwork.value_counts(sample.rows["label"])
        for side, label in (("positive", 1), ("negative", 0)):
            if found.get(label, 0) < MINIMUM_ROWS:
                names = sorted(parent.manifest.stats.get("domains", {}))
                domains = ", ".join(map(repr, names[:_NAMED])) + (", …" if len(names) > _NAMED else "")
                raise ConfigError(
                    f"quality.{side}: got {found.get(label, 0)} training documents, allowed >= {MINIMUM_ROWS}; name "
                    f"domains or files that hold more (the corpus has {domains}), or do without: "
                    "quality: null and another criterion, such as select.criteria: {language: {}}"
                )
