"""Decontamination as steps: index the benchmarks once, then screen every part of the corpus against the index.

    benchmarks       files of each benchmark -> items -> the index, and a list of what cannot be checked
    decontaminated   part + index -> part, with what was found, cut and dropped

The index's key holds the fingerprints of the benchmark files, so a benchmark that changes is indexed again and
everything after it follows. Screening depends on a part and the index alone: parts that have not changed are taken
over from an earlier build.

Price: benchmarks are read twice, once a column, by one worker a benchmark, which holds its texts; see
``selectors/decontaminate.py`` for screening.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock import work as rowwork
from penstock.dataset import Dataset, read_part
from penstock.errors import ConfigError
from penstock.pipelines.documents import PartSplit, config_of, domain_stats, part_splits
from penstock.pipelines.passes import PartWriter, Split, splits_of
from penstock.selectors.benchmark_index import IndexSettings, Item, save_index
from penstock.selectors.decontaminate import Decontaminate
from penstock.sources import base
from penstock.sources.files import FileEntry, FileSource
from penstock.step import Built, Context, Settings, Step
from penstock.storage import Folder

SAMPLES = 5  # items of a benchmark shown in the report
ITEMS = pa.schema(
    [
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("question", pa.string()),
        pa.field("answer", pa.string()),
    ]
)
_NOTHING = ("empty_text", "missing_text")  # a record that is fine but for the text: an item without that field


@dataclass(frozen=True, kw_only=True)
class BenchmarkFiles:
    """A benchmark: files whose records have a question and, if ``answer`` names a column, an answer.

    Raises ConfigError where an entry names columns itself.
    """

    name: str
    entries: tuple[FileEntry, ...]
    question: str = "question"
    answer: str | None = None

    def __post_init__(self) -> None:
        base.check_name(self.name)
        if not self.entries:
            raise ConfigError(f"files of benchmark {self.name}: got none, allowed one or more; give a path")
        if any(entry.columns for entry in self.entries):
            raise ConfigError(
                f"files of benchmark {self.name}: got columns, allowed none here; name them by question and answer"
            )
        if self.question == self.answer:
            raise ConfigError(
                f"benchmark {self.name}: got {self.question!r} as question and as answer, allowed two different "
                "columns; leave answer out where there is none"
            )

    def source(self, column: str) -> FileSource:
        """The files with ``column`` as their text."""
        return FileSource(name=self.name, entries=tuple(replace(e, columns={"text": column}) for e in self.entries))


@dataclass(frozen=True)
class ReadBenchmarks:
    """Read one benchmark a split: items with their question and answer, joined by record."""

    benchmarks: tuple[BenchmarkFiles, ...]
    split_bytes: int

    def __call__(self, split: Split, out: PartWriter) -> None:
        benchmark = next(b for b in self.benchmarks if b.name == split.payload)
        questions, problems = self._column(benchmark, benchmark.question)
        answers: dict[str, str] = {}
        if benchmark.answer is not None:
            answers, _ = self._column(benchmark, benchmark.answer)
        names = [*questions, *(name for name, reason in problems.items() if reason in _NOTHING)]
        for first in range(0, len(names), base.BATCH_ROWS):
            some = names[first : first + base.BATCH_ROWS]
            columns = [
                [benchmark.name] * len(some),
                some,
                [questions.get(n) for n in some],
                [answers.get(n) for n in some],
            ]
            out.write("items", pa.RecordBatch.from_arrays([pa.array(c, pa.string()) for c in columns], schema=ITEMS))
        lost: dict[str, int] = {}
        for reason in problems.values():
            if reason not in _NOTHING:
                lost[reason] = lost.get(reason, 0) + 1
        dropped = {f"benchmark.{benchmark.name}": lost} if lost else {}
        out.count(rows_in=len(names) + sum(lost.values()), kept=len(names), dropped=dropped)

    def _column(self, benchmark: BenchmarkFiles, column: str) -> tuple[dict[str, str], dict[str, str]]:
        """Texts by record, and of the records without one the reasons."""
        source = benchmark.source(column)
        texts: dict[str, str] = {}
        problems: dict[str, str] = {}
        for piece in source.plan(self.split_bytes):
            for rows in source.read(piece, dropped="ids"):
                texts.update(zip(rows.documents["doc_id"].to_pylist(), rows.documents["text"].to_pylist(), strict=True))
                problems.update(
                    zip(rows.dropped["doc_id"].to_pylist(), rows.dropped["reason"].to_pylist(), strict=True)
                )
        return texts, problems


class Benchmarks(Step):
    """Benchmark files to the index that documents are searched for."""

    revision = 1

    def __init__(
        self,
        name: str,
        benchmarks: tuple[BenchmarkFiles, ...],
        settings: IndexSettings,
        budget: float | None = None,
    ) -> None:
        names = [benchmark.name for benchmark in benchmarks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if not names or twice:
            got = f"{', '.join(twice)} twice" if twice else "none"
            raise ConfigError(f"benchmarks: got {got}, allowed one or more of different names; rename or add one")
        self.name, self.benchmarks, self.settings, self.budget = name, benchmarks, settings, budget

    def config(self) -> dict[str, Any]:
        return {
            "benchmarks": [config_of(b) for b in self.benchmarks],
            "source_revision": FileSource.revision,
            "index": asdict(self.settings),
        }

    def guarded(self) -> tuple[str, ...]:
        return (self.name, *(b.name for b in self.benchmarks))

    def inputs(self, settings: Settings) -> dict[str, str]:
        return {
            f"{b.name}:{file.name}": settings.fingerprint(file)
            for b in self.benchmarks
            for file in b.source(b.question).inputs()
        }

    def build(self, context: Context) -> Built:
        work = ReadBenchmarks(self.benchmarks, context.settings.split_bytes)
        receipts = context.run("read", work, splits_of(b.name for b in self.benchmarks))
        built = context.collect(receipts, "items")
        items = list(_items(context.folder, built))
        if not items:
            raise ConfigError(
                f"{self.name}: got no record from {', '.join(b.name for b in self.benchmarks)}, allowed one or more; "
                "look at decontaminate.benchmarks"
            )
        indexed = save_index(context.folder.join(context.prefix), items, self.settings)
        built.artifacts |= context.adopt_artifact(indexed.path)
        sink = io.BytesIO()
        pq.write_table(indexed.not_checkable, sink, compression="zstd")
        built.artifacts["not_checkable.parquet"] = context.write_artifact("not_checkable.parquet", sink.getvalue())
        built.stats["index"] = {"path": context.adopt(indexed.path).path, "digest": indexed.digest}
        reasons: dict[str, dict[str, int]] = {name: {} for name in indexed.items}
        counts = indexed.not_checkable.group_by(["benchmark", "reason"], use_threads=False).aggregate(
            [([], "count_all")]
        )
        for row in counts.to_pylist():
            reasons[row["benchmark"]][row["reason"]] = row["count_all"]
        built.stats["benchmarks"] = {
            name: {"items": count, "checkable": indexed.checkable[name], "not_checkable_fields": reasons[name]}
            for name, count in indexed.items.items()
        }
        return built


def _items(folder: Folder, built: Built) -> Iterator[Item]:
    for file in built.tables["items"].files if "items" in built.tables else ():
        for batch in read_part(folder, file):
            yield from (Item(*row.values()) for row in batch.to_pylist())


@dataclass(frozen=True)
class Screen:
    """Screen one part: drop, cut or annotate, and write what was found."""

    parent: Folder
    work: Decontaminate
    dropped: str

    def __call__(self, split: Split, out: PartWriter) -> None:
        piece: PartSplit = split.payload
        for batch in read_part(self.parent, piece.file):
            screened = self.work.screen(batch, keep=self.dropped)
            out.write("contamination", screened.contamination)
            out.write("removed", screened.removed)
            gone = pc.is_valid(screened.reasons)
            reasons = screened.reasons.drop_null()
            out.drop(batch.filter(gone), reasons, step=self.work.name, keep=self.dropped)
            kept = rowwork.with_columns(batch, screened.columns).filter(pc.invert(gone))
            out.count(rows_in=batch.num_rows, kept=kept.num_rows)
            removed = screened.removed
            if removed.num_rows:
                size = pc.sum(pc.subtract(removed["stop"], removed["start"])).as_py()
                documents = pc.count_distinct(removed["doc_id"]).as_py()
                out.add_stats({"excised": {"documents": documents, "spans": removed.num_rows, "bytes": size}})
            out.add_stats({"domains": domain_stats(kept)})
            out.write("documents", kept)


class Decontaminated(Step):
    """The corpus without the benchmarks; ``work`` is the screening but for the index, which the parent has."""

    revision = 1

    def __init__(
        self, name: str, parent: str, benchmarks: str, work: Decontaminate, budget: float | None = None
    ) -> None:
        self.name, self.parents, self.work, self.budget = name, (parent, benchmarks), work, budget

    def config(self) -> dict[str, Any]:
        said = rowwork.describe(self.work)
        # where the index lies is no setting; what is in it is in the parent's digest
        said["config"] = {k: v for k, v in said["config"].items() if k not in ("path", "digest")}
        return {"work": said}

    def guarded(self) -> tuple[str, ...]:
        return (self.name, self.work.name)

    def build(self, context: Context) -> Built:
        parent, benchmarks = (context.parents[name] for name in self.parents)
        index = benchmarks.manifest.stats["index"]
        work = replace(self.work, path=benchmarks.folder.join(index["path"]), digest=index["digest"])
        table = parent.table("documents")
        receipts = context.run(
            "screen",
            Screen(parent.folder, work, context.settings.dropped),
            part_splits(table),
            reuse=self.config() | {"index": index["digest"]},
        )
        built = context.collect(receipts, "documents", "dropped", "contamination", "removed")
        built.stats["contamination"] = contamination_stats(context.folder, built, benchmarks)
        return built


def contamination_stats(folder: Folder, built: Built, benchmarks: Dataset) -> dict[str, Any]:
    """By benchmark: items, those that can be checked and those found, their mean coverage, documents, and samples.

    ``coverage`` is the mean over found items of the best one document has of them.
    """
    best: dict[str, dict[str, tuple[Any, ...]]] = {name: {} for name in benchmarks.manifest.stats["benchmarks"]}
    documents = dict.fromkeys(best, 0)
    last: dict[str, str] = {}
    files = built.tables["contamination"].files if "contamination" in built.tables else ()
    for file in files:
        for batch in read_part(folder, file):
            for row in batch.to_pylist():
                name, doc_id = row["benchmark"], row["doc_id"]
                if last.get(name) != doc_id:  # a document's rows follow each other
                    documents[name] += 1
                    last[name] = doc_id
                this = (-row["coverage"], doc_id, row["start"], row["field"], row["kind"], row["text"])
                if row["item"] not in best[name] or this[:3] < best[name][row["item"]][:3]:
                    best[name][row["item"]] = this
    removed: dict[str, int] = {}
    for reason, count in built.counts.dropped.get(Decontaminate.name, {}).items():
        removed[reason.partition(":")[2]] = count
    out = {}
    for name, counted in benchmarks.manifest.stats["benchmarks"].items():
        found = best[name]
        order = sorted(found, key=lambda item: (found[item][:3], item))[:SAMPLES]
        out[name] = {
            "items": counted["items"],
            "checkable": counted["checkable"],
            "found": len(found),
            "coverage": round(-sum(hit[0] for hit in found.values()) / len(found), 4) if found else 0.0,
            "documents": documents[name],
            "dropped": removed.get(name, 0),
            "samples": [
                {
                    "item": item,
                    "doc_id": found[item][1],
                    "field": found[item][3],
                    "kind": found[item][4],
                    "coverage": round(-found[item][0], 4),
                    "text": _masked(found[item][5]),
                }
                for item in order
            ],
        }
    return out


def _masked(text: str | None) -> str | None:
    """A sample for people, whatever the recipe keeps of dropped text."""
    if text is None:
        return None
    masked: str = rowwork.kept_text(pa.array([text], pa.string()))[0].as_py()
    return masked
