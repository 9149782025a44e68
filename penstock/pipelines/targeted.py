"""A method's scores of the whole pool, as a step: fit on the target, score every part.

    scores-METHOD   pool, target -> a state, then ``scores``: a row a document, in the pool's parts

    term-statistics, …   summaries of the pool that the method asks for
    score                part -> its scores

Scores do not depend on the budget: another budget chooses again (``pipelines/choice.py``) and scores nothing. A part is
scored once: a rerun after a kill scores what is missing, and so does one over a pool whose parts are partly the same
when the state came out equal.

Price: that of the method; beside it 50 bytes a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from penstock import work as rowwork
from penstock.dataset import Dataset, read_part
from penstock.embedding.base import Embed
from penstock.embedding.config import EmbedConfig
from penstock.pipelines.candidates import POOL, TARGET
from penstock.pipelines.documents import part_splits
from penstock.pipelines.embed import AlignedSplit, aligned, aligned_splits, embedder_of
from penstock.pipelines.fit import merge_summaries, write_summary
from penstock.pipelines.passes import PartWriter, Split
from penstock.selectors.targeted.base import state_fingerprint, target_fingerprint
from penstock.step import Built, Context, Settings, Step
from penstock.storage import Folder

EMBEDDING = "embedding"
EMBEDDER, EMBEDDED = "embedder", "embedded"
CARRIED = ("doc_id", "id_hash", "domain", "tokens")  # of every row; `score` and the scorer's other columns follow


def scores_of(method: str) -> str:
    """Folder of a method's scores."""
    return f"scores-{method}"


@dataclass(frozen=True)
class Rows:
    """Reads the pool, with its vectors where they are asked for."""

    pool: Folder
    embedded: Folder | None
    columns: tuple[str, ...]

    def read(self, split: Split) -> Iterator[pa.RecordBatch]:
        piece = split.payload
        if isinstance(piece, AlignedSplit):
            assert self.embedded is not None
            yield from aligned(self.pool, self.embedded, piece, [c for c in self.columns if c != EMBEDDING])
        else:
            yield from read_part(self.pool, piece.file, self.columns)


@dataclass(frozen=True)
class SummariseRows:
    """The summary of one part of the pool."""

    rows: Rows
    summarise: Any

    def __call__(self, split: Split, out: PartWriter) -> None:
        merged: Any = None
        for batch in self.rows.read(split):
            summary = self.summarise(batch)
            merged = summary if merged is None else merged.merge(summary)
        if merged is not None:
            write_summary(out, merged)


@dataclass(frozen=True)
class PoolRows:
    """The pool as ``fit`` sees it: batches in order of parts, and summaries as passes."""

    context: Context
    rows: Rows
    splits: Sequence[Split]

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for split in self.splits:
            yield from self.rows.read(split)

    def summarise(self, name: str, summarise: Any, kind: Any) -> Any:
        """See ``base.summary_of``."""
        receipts = self.context.run(name, SummariseRows(self.rows, summarise), self.splits)
        return merge_summaries(self.context.folder, receipts, kind)


@dataclass(frozen=True)
class ScoreRows:
    """The scores of one part of the pool."""

    rows: Rows
    scorer: Any
    column: str

    def __call__(self, split: Split, out: PartWriter) -> None:
        more = [name for name in self.scorer.adds if name != self.column]
        for batch in self.rows.read(split):
            out.count(rows_in=batch.num_rows, kept=batch.num_rows)
            result = rowwork.apply([self.scorer], batch)
            out.applied(result)
            scores = result.batch[self.column]
            out.add_stats({"without_score": scores.null_count})
            columns = [result.batch[name] for name in CARRIED] + [scores] + [result.batch[name] for name in more]
            # an embedding keeps its name, so that what chooses finds it
            out.write("scores", pa.RecordBatch.from_arrays(columns, [*CARRIED, "score", *more]))


class Scores(Step):
    """A method's scores of the whole pool, and the state that gave them."""

    revision = 1

    def __init__(self, method: str, selector: Any, embed: EmbedConfig | None = None) -> None:
        self.name, self.selector, self.embed = scores_of(method), selector, embed
        self.libraries = tuple(getattr(selector, "libraries", ()))  # type: ignore[misc]  # those of the method
        self.parents = (TARGET, POOL, *((EMBEDDER, EMBEDDED) if EMBEDDING in selector.reads else ()))

    def config(self) -> dict[str, Any]:
        described = rowwork.describe(self.selector)
        for name in getattr(self.selector, "paths", ()):
            described["config"].pop(name)  # what lies there is in the inputs
        if EMBEDDING in self.selector.reads:
            assert self.embed is not None
            described["characters"] = self.embed.characters
        return described

    def inputs(self, settings: Settings) -> dict[str, str]:
        files = self.selector.files() if hasattr(self.selector, "files") else ()
        return {file.name: settings.fingerprint(file) for file in files}

    def build(self, context: Context) -> Built:
        target, pool = context.parents[TARGET], context.parents[POOL]
        wanted = target.read("documents")
        embedded: Dataset | None = None
        if EMBEDDING in self.selector.reads:
            embedded = context.parents[EMBEDDED]
            wanted = self._with_vectors(wanted, context.parents[EMBEDDER])
        wanted = _with_tokens(wanted.sort_by("doc_id")).combine_chunks()
        table = pool.table("documents")
        splits = part_splits(table) if embedded is None else aligned_splits(self.name, pool, embedded)
        embedded_at = None if embedded is None else embedded.folder
        columns = tuple(dict.fromkeys(c for c in self.selector.reads if c in (*table.columns, EMBEDDING)))
        seen = PoolRows(context, Rows(pool.folder, embedded_at, columns), splits)
        scorer = self.selector.fit(wanted, seen, context.folder.join(context.prefix))

        columns = tuple(dict.fromkeys((*CARRIED, *scorer.reads)))
        work = ScoreRows(Rows(pool.folder, embedded_at, columns), scorer, self.selector.column)
        layout = {"state": state_fingerprint(scorer), "revision": scorer.revision}
        receipts = context.run("score", work, splits, reuse=layout)
        built = context.collect(receipts, "scores")
        built.stats["provenance"] = {
            "method": self.selector.name,
            "target_fingerprint": target_fingerprint(wanted),
            "state_fingerprint": layout["state"],
        }
        if hasattr(scorer, "facts"):
            built.stats["fit"] = scorer.facts()
        for path in artifacts_of(scorer):
            built.artifacts |= context.adopt_artifact(path)
        without = built.stats.get("without_score", 0)
        if without:
            context.reporter.note(f"{self.name}: {without:,} of {table.rows:,} rows have no score")
        return built

    def _with_vectors(self, target: pa.Table, embedder: Dataset) -> pa.Table:
        """The target's rows with their vectors; a target is small, so this process makes them."""
        assert self.embed is not None
        work = Embed(embedder=embedder_of(embedder, self.embed.model), characters=self.embed.characters)
        batches = target.combine_chunks().to_batches()
        return pa.Table.from_batches([rowwork.apply([work], batch).batch for batch in batches])


def _with_tokens(rows: pa.Table) -> pa.Table:
    """The rows with a column ``tokens``, null where they have none."""
    if "tokens" in rows.column_names:
        return rows
    return rows.append_column("tokens", pa.nulls(rows.num_rows, pa.int64()))


def artifacts_of(scorer: Any) -> tuple[str, ...]:
    """Artifacts that stay with the scores: those that the scorer names, else its ``path``."""
    if hasattr(scorer, "artifacts"):
        return tuple(scorer.artifacts())
    path = getattr(scorer, "path", None)
    return () if path is None else (path,)
