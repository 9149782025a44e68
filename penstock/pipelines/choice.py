"""What each method chooses from its scores under a budget, and how the choices differ, as steps.

    by-METHOD     scores -> ``selection`` (ranks, who is selected), ``documents`` (those that are)
    comparison    by-METHOD, all of them -> ``overlap``, ``domains``

    choose    all scores -> ranks, one bucket a part
    take      part + its ranks -> the documents that are selected
    compare   all selections -> two tables

Price: choosing reads the scores of the whole pool in one worker (see ``selectors/targeted/base.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock import work as rowwork
from penstock.dataset import Dataset, FileEntry, hash_json, read_part
from penstock.pipelines.candidates import POOL
from penstock.pipelines.documents import aligned_parts, config_of, domain_stats, part_splits
from penstock.pipelines.passes import PartWriter, Slices, Split
from penstock.pipelines.targeted import EMBEDDING, scores_of
from penstock.selectors.targeted.base import PROVENANCE, Budget, Chooses, choose, facts_of
from penstock.selectors.targeted.overlap import domain_shares, overlaps
from penstock.step import Built, Context, Step
from penstock.storage import Folder

COMPARISON = "comparison"
_COMPARED = ("doc_id", "domain", "tokens", "selected", "copies")


def selection_of(method: str) -> str:
    """Folder of what a method chooses."""
    return f"by-{method}"


@dataclass(frozen=True)
class ChooseRows:
    """Ranks of the whole pool, written by the parts that the rows came from."""

    scores: Folder
    parts: tuple[FileEntry, ...]
    selector: Any
    budget: Budget
    provenance: dict[str, str]
    layout: str  # what the choice depends on, for the split's receipt

    def __call__(self, split: Split, out: PartWriter) -> None:
        rows = pa.concat_tables(
            pa.Table.from_batches([batch]).append_column("part", pa.repeat(pa.scalar(i, pa.int32()), batch.num_rows))
            for i, part in enumerate(self.parts)
            for batch in read_part(self.scores, part)
        )
        if isinstance(self.selector, Chooses):
            chosen = self.selector.choose(rows, self.budget)
        else:
            budget = self.budget
            chosen = choose(rows, fraction=budget.fraction, count=budget.count, unit=budget.unit)
        facts = facts_of(chosen)
        facts["distinct_scores"] = pc.count_distinct(chosen["score"]).as_py()
        facts["asked"] = self.budget.amount(self.budget.sizes(chosen))
        if EMBEDDING in chosen.column_names:
            chosen = chosen.drop_columns([EMBEDDING])
        for name in PROVENANCE:
            value = pa.repeat(pa.scalar(self.provenance[name]), chosen.num_rows)
            chosen = chosen.append_column(name, value)
        selected = chosen["selected"]
        without = chosen["score"].null_count
        taken = int(pc.sum(selected).as_py() or 0)
        left = {"not_selected": chosen.num_rows - taken - without, "no_score": without}
        out.count(rows_in=chosen.num_rows, kept=taken, dropped={"selection": {k: n for k, n in left.items() if n}})
        copies = chosen["copies"].filter(selected) if "copies" in chosen.column_names else None
        size = chosen["tokens"].filter(selected)
        facts["examples"] = taken if copies is None else int(pc.sum(copies).as_py() or 0)
        if not size.null_count:
            facts["tokens"] = int(pc.sum(size if copies is None else pc.multiply(size, copies)).as_py() or 0)
        out.add_stats({"choice": facts})
        part = chosen["part"].to_numpy()
        chosen = chosen.drop_columns(["part"]).take(pa.array(np.argsort(part, kind="stable")))
        ends = np.cumsum(np.bincount(part, minlength=len(self.parts)))
        for i, end in enumerate(ends.tolist()):
            begin = end - self.parts[i].rows
            for batch in chosen.slice(begin, end - begin).combine_chunks().to_batches():
                out.bucket("selection", str(i), batch)


@dataclass(frozen=True)
class TakeRows:
    """The selected documents of one part, with their score, rank and copies."""

    pool: Folder
    selection: Slices

    def __call__(self, split: Split, out: PartWriter) -> None:
        ranks = self.selection.read(str(split.payload.part))
        if ranks is None:
            return
        ranks = ranks.filter(ranks["selected"]).combine_chunks()
        names = [name for name in ("score", "rank", "copies") if name in ranks.column_names]
        for batch in read_part(self.pool, split.payload.file):
            place = pc.index_in(batch["doc_id"], value_set=ranks["doc_id"])
            there = place.is_valid()
            rows = batch.filter(there)
            found = ranks.take(place.filter(there)).combine_chunks()
            columns = {name: found[name].combine_chunks() for name in names}
            rows = rowwork.with_columns(rows, columns)
            out.add_stats({"domains": domain_stats(rows)})
            out.write("documents", rows)


class Selection(Step):
    """What a method chooses from the pool under a budget."""

    revision = 1

    def __init__(self, method: str, selector: Any, budget: Budget) -> None:
        self.name, self.selector, self.asked = selection_of(method), selector, budget
        self.parents = (POOL, scores_of(method))

    def config(self) -> dict[str, Any]:
        return {"budget": config_of(self.asked), "choice": rowwork.describe(self.selector) if self._own else None}

    @property
    def _own(self) -> bool:
        return isinstance(self.selector, Chooses)

    def build(self, context: Context) -> Built:
        pool, scores = (context.parents[name] for name in self.parents)
        parts = aligned_parts(self.name, pool, scores, "scores")
        provenance = scores.manifest.stats["provenance"]
        layout = hash_json([part.sha256 for part in parts])
        work = ChooseRows(scores.folder, parts, self.selector, self.asked, provenance, layout)
        chosen = context.run("choose", work, [Split(0, {"scores": layout})])
        selection = Slices.of(context.folder, chosen, "selection")
        take = TakeRows(pool.folder, selection)
        taken = context.run("take", take, part_splits(pool.table("documents"), selection.layout))
        built = context.collect(chosen, "selection")
        rest = context.collect(taken, "documents")
        built.tables |= rest.tables
        built.stats |= rest.stats
        self._say(context, built.stats["choice"], built.counts.kept, built.counts.rows_in)
        return built

    def _say(self, context: Context, facts: dict[str, Any], kept: int, rows: int) -> None:
        warn = context.reporter.warn
        if facts["distinct_scores"] == 1 and rows > 1:
            warn(f"{self.name}: every row has the same score, so ranks are the order of their ids; look at the target")
        spent = facts["examples"] if self.asked.unit == "examples" else facts["tokens"]
        if self.asked.count is not None and kept and spent < facts["asked"] and not self._own:
            available = kept == rows - context.parents[self.parents[1]].manifest.stats.get("without_score", 0)
            if available:
                warn(f"{self.name}: asked for {facts['asked']:,} {self.asked.unit}, the pool has {spent:,}; took all")


@dataclass(frozen=True)
class Compare:
    """Tables over the selections of all methods."""

    selections: tuple[tuple[str, Dataset], ...]

    def __call__(self, split: Split, out: PartWriter) -> None:
        selected: dict[str, pa.Array] = {}
        for method, dataset in self.selections:
            there = dataset.table("selection").columns
            rows = dataset.read("selection", [name for name in _COMPARED if name in there])
            selected[method] = rows["doc_id"].filter(rows["selected"]).combine_chunks()
            for batch in domain_shares(method, rows).combine_chunks().to_batches():
                out.write("domains", batch)
        for batch in overlaps(selected).to_batches():
            out.write("overlap", batch)


class Comparison(Step):
    """Overlap of all methods' selections, and their domains before and after."""

    revision = 1

    def __init__(self, methods: Sequence[str]) -> None:
        self.name, self.methods = COMPARISON, tuple(methods)
        self.parents = tuple(selection_of(method) for method in methods)

    def config(self) -> dict[str, Any]:
        return {"methods": list(self.methods)}

    def build(self, context: Context) -> Built:
        datasets = tuple((method, context.parents[selection_of(method)]) for method in self.methods)
        work = Compare(datasets)
        split = Split(0, {method: dataset.digest for method, dataset in datasets})
        return context.collect(context.run("compare", work, [split]), "overlap", "domains")
