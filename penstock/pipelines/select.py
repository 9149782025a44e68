"""The selection: QuaDMix over the small columns of the scored documents, once a round.

Three passes that read no text: token histograms of each criterion, of the merged score by domain, then
copies by the row's own coin. From the second round on, what training saw of a document is a criterion
like any other (``score.excess_loss``).

The ``selection`` table has one row per scored document in the same parts and order, so later steps join it
by position.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock import work as rowwork
from penstock.dataset import read_part
from penstock.errors import DatasetError
from penstock.pipelines.documents import config_of, part_splits
from penstock.pipelines.fit import Summarise, fit_over, rowwork_layout
from penstock.pipelines.passes import PartWriter, Split
from penstock.pipelines.search import ARTIFACT, parameters_in
from penstock.selectors.feedback import SignalScore
from penstock.selectors.histogram import TokenHistogram
from penstock.selectors.quadmix import (
    Criterion,
    CriterionHistograms,
    MergedHistograms,
    MergedScore,
    QuaDMixParameters,
    QuaDMixSample,
)
from penstock.step import Built, Context, Step
from penstock.storage import Folder

COLUMNS = ("doc_id", "id_hash", "domain", "split", "tokens", "bytes")
KEPT = ("doc_id", "domain", "split", "tokens", "bytes")


@dataclass(frozen=True)
class Sample:
    """Annotate one part's small columns with copies."""

    parent: Folder
    columns: tuple[str, ...]
    works: tuple[Any, ...]
    kept: tuple[str, ...]

    def __call__(self, split: Split, out: PartWriter) -> None:
        for batch in read_part(self.parent, split.payload.file, self.columns):
            result = rowwork.apply(self.works, batch)
            out.applied(result)
            out.count(rows_in=batch.num_rows, kept=result.batch.num_rows)
            out.add_stats({"domains": by_domain(result.batch), "criteria": by_criterion(result.batch)})
            out.write("selection", result.batch.select(list(self.kept)))


def by_domain(batch: pa.RecordBatch) -> dict[str, dict[str, dict[str, int]]]:
    """Per split and domain: rows with copies, copies, and their tokens (copies counted)."""
    table = pa.table(
        {
            "split": batch["split"],
            "domain": batch["domain"],
            "selected": pc.cast(pc.greater(batch["copies"], 0), pa.int64()),
            "copies": pc.cast(batch["copies"], pa.int64()),
            "tokens": pc.multiply(pc.cast(batch["copies"], pa.int64()), pc.cast(batch["tokens"], pa.int64())),
            "bytes": pc.multiply(pc.cast(batch["copies"], pa.int64()), pc.cast(batch["bytes"], pa.int64())),
        }
    )
    names = ("selected", "copies", "tokens", "bytes")
    out: dict[str, dict[str, dict[str, int]]] = {}
    for row in table.group_by(["split", "domain"]).aggregate([(n, "sum") for n in names]).to_pylist():
        out.setdefault(row["split"], {})[row["domain"]] = {n: row[f"{n}_sum"] for n in names}
    return out


SCORE_STEP = 1e-4  # sums of scores are integers of this step, so that they commute


def by_criterion(batch: pa.RecordBatch) -> dict[str, dict[str, dict[str, int]]]:
    """Per domain and score of the train split: rows that are kept and lost, and the sums of their scores in steps.

    ``none_rows`` counts rows without a score. Scores beyond 1e9 count as 1e9.
    """
    train = batch.filter(pc.equal(batch["split"], "train"))
    side = pc.if_else(pc.greater(train["copies"], 0), "kept", "lost")
    out: dict[str, dict[str, dict[str, int]]] = {}
    for column in (name for name in train.schema.names if name.startswith("score.")):
        score = train[column].cast(pa.float64())
        value = np.clip(score.fill_null(0.0).to_numpy(zero_copy_only=False), -1e9, 1e9)
        steps = np.rint(value / SCORE_STEP).astype(np.int64)
        rows = pa.table(
            {"domain": train["domain"], "side": pc.if_else(score.is_valid(), side, "none"), "steps": pa.array(steps)}
        )
        sums = rows.group_by(["domain", "side"], use_threads=False).aggregate([("steps", "sum"), ("steps", "count")])
        for row in sums.to_pylist():
            found = out.setdefault(row["domain"], {}).setdefault(column, {})
            found[f"{row['side']}_rows"] = row["steps_count"]
            if row["side"] != "none":
                found[f"{row['side']}_steps"] = row["steps_sum"]
    return out


@dataclass(frozen=True, kw_only=True)
class OneCopy:
    """Annotator: ``copies`` is 1 for every row."""

    name: ClassVar[str] = "one_copy"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ()
    adds: ClassVar[tuple[str, ...]] = ("copies",)

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """``copies`` (int32)."""
        return {"copies": pa.repeat(pa.scalar(1, pa.int32()), batch.num_rows)}


class Selection(Step):
    """How many copies of each document a round trains on."""

    revision = 1

    def __init__(
        self,
        name: str,
        scored: str,
        parameters: QuaDMixParameters | None,
        seed: int,
        signals: str | None = None,
        budget: float | None = None,
        *,
        search: str | None = None,
        feedback: tuple[float, str] | None = None,
    ) -> None:
        """
        Args:
            parameters: without them all is taken once.
            signals: names the training step whose signals are a criterion of the parameters.
            search: names the step that found parameters, which take the place of the given ones.
            feedback: weight and direction of the signals among the criteria of what was found.
        """
        self.name, self.parents = name, tuple(n for n in (scored, signals, search) if n is not None)
        self.parameters, self.seed, self.signals, self.budget = parameters, seed, signals, budget
        self.search, self.feedback = search, feedback

    def config(self) -> dict[str, Any]:
        if self.parameters is None:
            return {"parameters": None, "works": {OneCopy.name: OneCopy.revision}}
        works = (CriterionHistograms, MergedScore, MergedHistograms, QuaDMixSample, SignalScore)
        found = {} if self.search is None else {"search": self.search, "feedback": self.feedback}
        return {
            # found ones are known by the digest of the search
            "parameters": config_of(self.parameters) if self.search is None else None,
            **found,
            "seed": self.seed,
            "signals": self.signals,
            "works": {work.name: work.revision for work in works},
        }

    def build(self, context: Context) -> Built:
        scored = context.parents[self.parents[0]]
        table = scored.table("documents")
        if self.parameters is None:
            everything = Sample(scored.folder, COLUMNS, (OneCopy(),), (*KEPT, *OneCopy.adds))
            return context.collect(
                context.run("sample", everything, part_splits(table), reuse=self.config()), "selection"
            )
        parameters = self.parameters if self.search is None else self._found(context, self.search)
        home = context.folder.join(context.prefix)
        before: tuple[Any, ...] = ()
        made: list[str] = []
        if self.signals is not None:
            before = (self._signal_score(context, made),)
        added = {c for w in before for c in w.adds}
        columns = (*COLUMNS, *(c.column for c in parameters.criteria if c.column not in added))
        absent = [c for c in columns if c not in table.columns]
        if absent:
            raise DatasetError(
                f"{self.name}: {', '.join(absent)} not in {scored.folder.url}; add the step that scores it"
            )

        criteria = CriterionHistograms(parameters=parameters)
        counted = Summarise(scored.folder, columns, criteria.summarise, before)
        merge = criteria.fit(fit_over(context, "criteria", table, counted, TokenHistogram), home)
        ranks = MergedHistograms(parameters=parameters, seed=self.seed)
        counted = Summarise(scored.folder, columns, ranks.summarise, (*before, merge))
        sample = ranks.fit(fit_over(context, "ranks", table, counted, TokenHistogram), home)

        works = (*before, merge, sample)
        scores = tuple(c.column for c in parameters.criteria)
        kept = (*KEPT, *scores, *sample.adds)
        work = Sample(scored.folder, columns, works, kept)
        receipts = context.run("sample", work, part_splits(table, rowwork_layout(works)))
        built = context.collect(receipts, "selection")
        facts = sample.facts()
        built.stats["budget_factor"] = facts["budget_factor"]
        built.stats["expected_tokens"] = facts["expected_tokens"]
        built.stats["theta"] = theta_by_domain(parameters, [f["domain"] for f in facts["domains"]])
        built.stats["warnings"] = [*merge.facts()["warnings"], *facts["warnings"]]
        for warning in built.stats["warnings"]:
            context.reporter.warn(f"{self.name}: {warning}")
        made += [merge.path, sample.path]
        for path in made:
            built.artifacts |= context.adopt_artifact(path)
        return built

    def _found(self, context: Context, search: str) -> QuaDMixParameters:
        """The parameters of the search, with the signals as one more criterion where there are some."""
        found = context.parents[search]
        parameters = parameters_in(json.loads(found.folder.read_bytes(found.manifest.artifacts[ARTIFACT].path)))
        return parameters if self.feedback is None else with_feedback(parameters, *self.feedback)

    def _signal_score(self, context: Context, made: list[str]) -> SignalScore:
        """Aggregate the signals to one row a document and hand them to the annotator."""
        from penstock.training.signals import document_scores

        assert self.signals is not None
        scores = document_scores(context.parents[self.signals].read("signals")).sort_by("doc_id")
        sink = io.BytesIO()
        pq.write_table(scores, sink, compression="zstd")
        entry = context.write_artifact("signals-by-document.parquet", sink.getvalue())
        path = context.folder.join(entry.path)
        made.append(path)
        return SignalScore(path=path, digest=entry.sha256)


def theta_by_domain(parameters: QuaDMixParameters, domains: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The parameters in force in every domain as JSON values; ``weights`` of the criteria by column."""
    columns = [criterion.column for criterion in parameters.criteria]
    out = {}
    for domain in domains:
        values = asdict(parameters.of(domain))
        out[domain] = {"weights": dict(zip(columns, values.pop("alpha"), strict=True)), **values}
    return out


def with_feedback(parameters: QuaDMixParameters, weight: float, direction: str) -> QuaDMixParameters:
    """The parameters with ``score.excess_loss`` as one more criterion of relative ``weight``."""

    def widen(alpha: tuple[float, ...]) -> tuple[float, ...]:
        total = 1.0 + weight
        return (*(a / total for a in alpha), weight / total)

    criterion = Criterion(column="score.excess_loss", direction="lower" if direction == "lower" else "higher")
    return replace(
        parameters,
        criteria=(*parameters.criteria, criterion),
        default=replace(parameters.default, alpha=widen(parameters.default.alpha)),
        domains=tuple((name, replace(theta, alpha=widen(theta.alpha))) for name, theta in parameters.domains),
    )
