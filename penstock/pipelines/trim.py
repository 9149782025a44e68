"""Trim text that the corpus repeats: lines, paragraphs and passages, judged together over all parts.

    units   part -> keys of its units, each once with its count, by hash range
    judge   hash range -> keys that repeat, with the place of their first occurrence, by part
    apply   part + its verdicts -> part without the copies; documents left too short are dropped

Levels (``RepeatedLines`` for lines and paragraphs, ``RepeatedSubstrings``) read the same text, the one before any cut;
what any of them cuts is cut. Only keys and ids are regrouped. A unit that repeats ten million times in a part is one
row of the first pass. Parts whose content and verdicts are those of an earlier build are taken over.

Price: text is read twice; see ``selectors/repeated.py`` and ``selectors/substring.py`` for keys. A range is judged in
some 300 MB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock import work as rowwork
from penstock.dataset import read_part
from penstock.errors import ConfigError
from penstock.pipelines.documents import PartSplit, domain_stats, part_splits
from penstock.pipelines.passes import PartWriter, Slices, Split, splits_of
from penstock.pipelines.verdicts import count_digests, digests_of, judged_splits, ranges_for, rows_by_bucket
from penstock.selectors.repeated import RepeatedLines, Units, combine
from penstock.selectors.substring import RepeatedSubstrings
from penstock.spans import replace_spans
from penstock.step import Built, Context, Step
from penstock.storage import Folder
from penstock.tokenization.packing import hash_range

STEP = "trimmed"
REASON = "too_short_after_trimming"
BYTES_PER_RANGE = 16 << 20  # of parts as they lie on disk, whose keys are judged together
PENDING = 1_000_000  # keys of a part that are held before equal ones are joined
SHOWN = 100  # most repeated texts of a range and level that are written out
TOP = 20  # of them that the manifest names
Level = RepeatedLines | RepeatedSubstrings
REPEATED = pa.schema(
    [
        pa.field("level", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
        pa.field("bytes", pa.int32(), nullable=False),  # of the first occurrence
        pa.field("doc_id", pa.string(), nullable=False),  # of the first occurrence
        pa.field("text", pa.string()),  # of the first occurrence, as much as `dropped` allows
    ]
)


@dataclass(frozen=True)
class EmitUnits:
    """Keys of one part's units, a table for each level, one bucket per hash range."""

    parent: Folder
    levels: tuple[Level, ...]
    ranges: int

    def __call__(self, split: Split, out: PartWriter) -> None:
        piece: PartSplit = split.payload
        held: list[list[pa.Table]] = [[] for _ in self.levels]
        for batch in read_part(self.parent, piece.file, ("doc_id", "text")):
            for level, tables in zip(self.levels, held, strict=True):
                tables.append(level.keyed(batch))
                if sum(table.num_rows for table in tables[1:]) > max(PENDING, tables[0].num_rows):
                    tables[:] = [combine(pa.concat_tables(tables))]
        for level, tables in zip(self.levels, held, strict=True):
            if tables:
                table = combine(pa.concat_tables(tables))
                rows_by_bucket(out, level.name, hash_range(table["key"].to_numpy(), self.ranges), table, str)


@dataclass(frozen=True)
class JudgeUnits:
    """Verdicts of one level and hash range, one bucket per part that has the unit."""

    units: dict[str, Slices]
    levels: tuple[Level, ...]

    def __call__(self, split: Split, out: PartWriter) -> None:
        level = next(of for of in self.levels if of.name == split.payload["level"])
        group = self.units[level.name].read(split.payload["range"], numbered=True)
        if group is None:
            return
        verdicts = level.judge(group)
        key = verdicts["key"].to_numpy()
        first = np.flatnonzero(
            np.diff(key, prepend=key[:1] + np.uint64(1))
        )  # a row of each key; they follow each other
        order = np.argsort(-verdicts["count"].to_numpy()[first], kind="stable")[:SHOWN]
        shown = np.isin(key, key[first[order]])
        part = verdicts["part"].to_numpy()
        order = np.lexsort((key, part))
        rows = verdicts.drop_columns(["part"]).append_column("shown", pa.array(shown)).take(pa.array(order))
        rows_by_bucket(out, level.name, part[order], rows, str)
        count_digests(out, level.name, part[order], rows)


class Verdicts(NamedTuple):
    """What was judged of one level for one part, by key."""

    key: NDArray[np.uint64]
    key2: NDArray[np.uint64]
    doc_id: pa.Array
    position: NDArray[np.int64]
    counts: NDArray[np.int64]
    shown: NDArray[np.bool_]

    @classmethod
    def of(cls, table: pa.Table) -> Verdicts:
        table = table.sort_by("key").combine_chunks()
        columns = (table[name].to_numpy() for name in ("position", "count", "shown"))
        return cls(table["key"].to_numpy(), table["key2"].to_numpy(), table["doc_id"].combine_chunks(), *columns)

    def match(self, units: Units, doc_id: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The verdict of each unit, -1 for none, and whether the unit is its text's first occurrence."""
        from penstock.selectors import repeated_kernels as kernels

        verdict = kernels.lookup(units.key, units.key2, self.key, self.key2)
        first = np.zeros(len(verdict), np.bool_)
        hits = np.flatnonzero(verdict >= 0)
        hits = hits[self.position[verdict[hits]] == units.position[hits]]
        mine, theirs = doc_id.take(pa.array(units.row[hits])), self.doc_id.take(pa.array(verdict[hits]))
        first[hits] = pc.equal(mine, theirs).to_numpy(zero_copy_only=False)
        return verdict, first


@dataclass(frozen=True)
class ApplyCuts:
    """Cut what the verdicts of one part name, and drop what is left too short."""

    parent: Folder
    verdicts: dict[str, Slices]
    levels: tuple[Level, ...]
    min_characters: int
    dropped: str

    def __call__(self, split: Split, out: PartWriter) -> None:
        piece: PartSplit = split.payload
        found: list[tuple[Level, Verdicts]] = []
        for level in self.levels:
            table = self.verdicts[level.name].read(str(piece.part))
            if table is not None:
                found.append((level, Verdicts.of(table)))
        for batch in read_part(self.parent, piece.file):
            spans = [self._cuts(level, verdicts, batch, out) for level, verdicts in found]
            kept = self._apply(batch, spans, out)
            out.count(rows_in=batch.num_rows, kept=kept.num_rows)
            out.add_stats({"domains": domain_stats(kept)})
            out.write("documents", kept)

    def _cuts(self, level: Level, verdicts: Verdicts, batch: pa.RecordBatch, out: PartWriter) -> Any:
        units = level.units(batch["text"])
        verdict, first = verdicts.match(units, batch["doc_id"])
        shown = np.flatnonzero(first & verdicts.shown[verdict])
        self._show(level, units, verdicts, verdict, shown, batch, out)
        if isinstance(level, RepeatedSubstrings):
            rows, starts, stops = level.cuts(batch["text"], verdict, first)
        else:
            rows, starts, stops = level.cuts(units, verdict, first)
        size = int((stops - starts).sum())
        if size:
            out.add_stats({"trimmed": {level.name: {"cuts": len(rows), "bytes": size}}})
        return rows, starts, stops

    def _show(
        self,
        level: Level,
        units: Units,
        verdicts: Verdicts,
        verdict: NDArray[np.int64],
        shown: NDArray[np.int64],
        batch: pa.RecordBatch,
        out: PartWriter,
    ) -> None:
        """Write the first occurrences of the most repeated texts."""
        if not len(shown):
            return
        ids = batch["doc_id"].take(pa.array(units.row[shown]))
        text = pa.nulls(len(shown), pa.string())
        if self.dropped != "ids":
            pieces = [
                batch["text"][row].as_py().encode()[start:stop].decode()
                for row, start, stop in zip(
                    units.row[shown].tolist(), units.start[shown].tolist(), units.stop[shown].tolist(), strict=True
                )
            ]
            text = rowwork.kept_text(pa.array(pieces, pa.string()), self.dropped)
        columns = [
            pa.array([level.name] * len(shown), pa.string()),
            pa.array(verdicts.counts[verdict[shown]]),
            pa.array((units.stop - units.start)[shown].astype(np.int32)),
            ids,
            text,
        ]
        out.write("repeated", pa.RecordBatch.from_arrays(columns, schema=REPEATED))

    def _apply(self, batch: pa.RecordBatch, spans: list[Any], out: PartWriter) -> pa.RecordBatch:
        from penstock.selectors import repeated_kernels as kernels
        from penstock.text import row_views

        rows, starts, stops = (np.concatenate([np.empty(0, np.int64), *(of[i] for of in spans)]) for i in range(3))
        if not len(rows):
            return batch
        order = np.lexsort((starts, rows))
        rows, starts, stops = kernels.merged(rows[order], starts[order], stops[order])
        kernels.tidy(*row_views(batch["text"]), rows, starts, stops)
        columns = replace_spans(batch, rows, starts, stops)
        out.add_stats({"documents_trimmed": len(np.unique(rows)), "bytes_trimmed": int((stops - starts).sum())})
        touched = np.zeros(batch.num_rows, np.bool_)
        touched[rows] = True
        size = pc.utf8_length(pc.utf8_trim_whitespace(columns["text"])).to_numpy()
        gone = touched & (size < self.min_characters)
        lost = batch.filter(pa.array(gone))
        out.drop(lost, pa.array([REASON] * lost.num_rows, pa.string()), step=STEP, keep=self.dropped)
        return rowwork.with_columns(batch, columns).filter(pa.array(~gone))


class Trimmed(Step):
    """Documents without the lines, paragraphs and passages that the corpus repeats."""

    revision = 1
    modules = ("penstock.selectors.repeated.RepeatedParagraphs",)  # a level it may be given

    def __init__(
        self, name: str, parent: str, levels: tuple[Level, ...], min_characters: int = 100, budget: float | None = None
    ) -> None:
        if not levels:
            raise ConfigError("levels: got none, allowed lines, paragraphs, substrings; add one or leave the step out")
        if min_characters < 1:
            raise ConfigError(f"min_characters: got {min_characters}, allowed >= 1; 1 drops only what is empty")
        self.name, self.parents, self.levels, self.budget = name, (parent,), levels, budget
        self.min_characters = min_characters

    def config(self) -> dict[str, Any]:
        return {"levels": [rowwork.describe(level) for level in self.levels], "min_characters": self.min_characters}

    def build(self, context: Context) -> Built:
        parent = context.parents[self.parents[0]]
        table = parent.table("documents")
        splits = part_splits(table)
        ranges = ranges_for(sum(file.bytes for file in table.files), BYTES_PER_RANGE)
        emitted = context.run(
            "units",
            EmitUnits(parent.folder, self.levels, ranges),
            splits,
            reuse={"levels": self.config()["levels"], "ranges": ranges},
        )
        names = [level.name for level in self.levels]
        units = {name: Slices.of(context.folder, emitted, name) for name in names}
        judged = context.run(
            "judge",
            JudgeUnits(units, self.levels),
            splits_of({"level": n, "range": str(r), "layout": units[n].layout} for n in names for r in range(ranges)),
        )
        verdicts = {name: Slices.of(context.folder, judged, name) for name in names}
        work = ApplyCuts(parent.folder, verdicts, self.levels, self.min_characters, context.settings.dropped)
        splits = judged_splits(splits, *(digests_of(judged, name) for name in names))
        receipts = context.run("apply", work, splits, reuse=self.config())
        built = context.collect(receipts, "documents", "dropped", "repeated")
        built.stats["repeated"] = top_repeated(context.folder, built)
        return built


def top_repeated(folder: Folder, built: Built) -> dict[str, list[dict[str, Any]]]:
    """The most repeated texts of each level, from the table ``repeated``: count, bytes and a masked sample."""
    if "repeated" not in built.tables:
        return {}
    top: dict[str, list[dict[str, Any]]] = {}
    for file in built.tables["repeated"].files:
        for batch in read_part(folder, file):
            for row in batch.to_pylist():
                top.setdefault(row.pop("level"), []).append(row)
            for level, rows in top.items():
                top[level] = sorted(rows, key=lambda row: (-row["count"], row["doc_id"], row["bytes"]))[:TOP]
    for rows in top.values():
        for row in rows:
            row["text"] = None if row["text"] is None else _sample(row["text"])
    return top


def _sample(text: str) -> str:
    """A sample for people, masked and cut short, whatever the recipe keeps of dropped text."""
    sample: str = rowwork.kept_text(pa.array([text], pa.string()))[0].as_py()
    return sample
