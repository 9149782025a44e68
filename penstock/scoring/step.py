"""Scoring as steps: texts in; token counts of a reference, and a table of scores, out.

    reference   split -> token counts; merged -> an artifact        (when DC-PDD has a reference corpus)
    scores      split -> one forward pass -> part

``scores`` holds one row a text and no text: ids, domain, ``lm_tokens``, ``lm_truncated``, ``score.lm_*`` and what they
were made with: ``model_fp``, ``tokenizer_fp``, ``ref_id``. Splits already scored are kept, whichever moment a run was
stopped at, and parts of texts that did not change are taken over from the build before.

Price: ``lm_scores``; a split in flight is lost when a run is stopped.
"""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock import work as rowwork
from penstock.dataset import Dataset
from penstock.errors import DatasetError
from penstock.pipelines.fit import merge_summaries, write_summary
from penstock.pipelines.passes import PartWriter, Split
from penstock.scoring import model as models
from penstock.scoring.corpus import TEXTS_PER_SPLIT, Corpus, carried, read_range
from penstock.scoring.formulas import SCORES, column
from penstock.scoring.lm_scores import LanguageModelScores
from penstock.scoring.reference import Reference, ReferenceTokens, TokenCounts
from penstock.step import Built, Context, Settings, Step
from penstock.storage import Folder

REFERENCE, TABLE = "reference", "scores"


class OfTexts(Step, ABC):
    """Reads texts: those of a dataset, or of the step before that read files."""

    def __init__(self, name: str, texts: Corpus | str) -> None:
        """``texts`` is a dataset of others or the name of a step."""
        self.name, self.texts = name, texts
        self.parents = (texts,) if isinstance(texts, str) else ()

    def inputs(self, settings: Settings) -> dict[str, str]:
        return {} if isinstance(self.texts, str) else {"texts": self.texts.digest}

    def corpus(self, context: Context) -> Corpus:
        return Corpus.of(context.parents[self.texts]) if isinstance(self.texts, str) else self.texts


# ── reference ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class CountTokens:
    """Token counts of one split."""

    folder: Folder
    work: ReferenceTokens

    def __call__(self, split: Split, out: PartWriter) -> None:
        merged: TokenCounts | None = None
        for batch in read_range(self.folder, split.payload):
            out.count(rows_in=batch.num_rows, kept=batch.num_rows)
            summary = self.work.summarise(batch)
            merged = summary if merged is None else merged.merge(summary)
        if merged is not None:
            write_summary(out, merged)


class ReferenceCounts(OfTexts):
    """Token counts of a corpus, for DC-PDD."""

    revision = 1
    libraries = ("tokenizers", "transformers")
    fitted = True

    def __init__(self, name: str, texts: Corpus | str, work: ReferenceTokens) -> None:
        super().__init__(name, texts)
        self.work = work

    def config(self) -> dict[str, Any]:
        return {"counts": {"revision": self.work.revision, "max_tokens": self.work.max_tokens}}

    def inputs(self, settings: Settings) -> dict[str, str]:
        # the tokenizer and not the model: its checkpoints share their counts
        tokenizer = models.load_tokenizer(models.resolve(self.work.model))
        return {"tokenizer": models.tokenizer_fingerprint(tokenizer)} | super().inputs(settings)

    def build(self, context: Context) -> Built:
        corpus = self.corpus(context)
        receipts = context.run("count", CountTokens(corpus.folder, self.work), corpus.splits())
        merged = merge_summaries(context.folder, receipts, TokenCounts)
        if merged is None:
            raise DatasetError(f"reference: {corpus.folder.url} holds no text; name another corpus")
        built = context.collect(receipts)
        reference = self.work.fit(merged, context.folder.join(context.prefix))
        built.artifacts |= context.adopt_artifact(reference.path)
        path = context.adopt(reference.path).path
        built.stats[REFERENCE] = {"path": path, "digest": reference.digest} | reference.facts()
        return built


def reference_of(dataset: Dataset) -> Reference:
    """The token counts that a committed ``reference`` dataset holds."""
    facts = dataset.manifest.stats[REFERENCE]
    return Reference(path=dataset.folder.join(facts["path"]), digest=facts["digest"])


# ── scores ───────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class ScoreTexts:
    """Scores of one split."""

    folder: Folder
    work: LanguageModelScores

    def __call__(self, split: Split, out: PartWriter) -> None:
        facts = self.work.facts()
        for batch in read_range(self.folder, split.payload):
            result = rowwork.apply([self.work], batch)
            out.applied(result)
            out.count(rows_in=batch.num_rows, kept=batch.num_rows)
            reference = None if self.work.reference is None else self.work.reference.id
            beside = carried(batch)
            columns = {name: beside[name] for name in beside.schema.names}
            columns |= {name: result.batch[name] for name in self.work.adds}
            for name, value in (
                ("model_fp", self.work.digest),
                ("tokenizer_fp", facts["tokenizer"]),
                ("ref_id", reference),
            ):
                columns[name] = pa.repeat(pa.scalar(value, pa.string()), batch.num_rows)
            rows = pa.RecordBatch.from_pydict(columns)
            out.add_stats({"domains": domain_figures(rows)})
            out.write(TABLE, rows)


def domain_figures(rows: pa.RecordBatch) -> dict[str, dict[str, Any]]:
    """By domain: texts, tokens, texts that were cut, and of every score how many have it and their sum."""
    out: dict[str, dict[str, Any]] = {}
    domains = rows["domain"]
    for domain in pc.unique(domains).to_pylist():
        some = rows.filter(pc.equal(domains, domain))
        figures: dict[str, Any] = {
            "texts": some.num_rows,
            "tokens": int(pc.sum(some["lm_tokens"]).as_py() or 0),
            "truncated": int(pc.sum(some["lm_truncated"]).as_py() or 0),
        }
        for score in SCORES:
            values = some[column(score)].drop_null().to_numpy(zero_copy_only=False).astype(np.float64)
            figures[score] = {"texts": len(values), "sum": float(values.sum())}
        out[domain] = figures
    return out


class ScoredTexts(OfTexts):
    """Scores of texts by one language model."""

    revision = 1
    libraries = ("tokenizers", "torch", "transformers")

    def __init__(
        self,
        name: str,
        texts: Corpus | str,
        work: LanguageModelScores,
        *,
        reference: str | None = None,
        texts_per_split: int = TEXTS_PER_SPLIT,
    ) -> None:
        """``reference`` is the step that counts tokens; without it ``work.reference`` stands."""
        super().__init__(name, texts)
        self.work, self.reference, self.texts_per_split = work, reference, texts_per_split
        if reference is not None:
            self.parents = (*self.parents, reference)

    def config(self) -> dict[str, Any]:
        return {"scores": {"revision": self.work.revision} | self.work.decides()}

    def inputs(self, settings: Settings) -> dict[str, str]:
        reference = {} if self.work.reference is None else {"reference": self.work.reference.digest}
        return {"model": self.work.digest} | reference | super().inputs(settings)

    def build(self, context: Context) -> Built:
        work, corpus = self.work, self.corpus(context)
        if self.reference is not None:
            work = replace(work, reference=reference_of(context.parents[self.reference]))
        reference = None if work.reference is None else work.reference.digest
        reuse = self.config() | {"model": work.digest, "reference": reference}
        splits = corpus.splits(self.texts_per_split)
        receipts = context.run("score", ScoreTexts(corpus.folder, work), splits, reuse=reuse)
        built = context.collect(receipts, TABLE)
        if TABLE not in built.tables:
            raise DatasetError(f"{corpus.folder.url}: holds no text to score; name another corpus")
        tokenizer = models.load_tokenizer(models.resolve(work.model))
        built.stats["scores"] = work.decides() | {
            "model": work.digest,
            "tokenizer": models.tokenizer_fingerprint(tokenizer),
            "reference": None if work.reference is None else work.reference.id,
        }
        return built
