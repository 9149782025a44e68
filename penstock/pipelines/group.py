"""Steps that group documents by meaning and drop those that mean the same.

    groups    a sample of vectors -> centroids, their names, a map for the report
    grouped   part -> its documents with ``group`` and ``score.group_similarity``, semantic duplicates dropped

    sample    part -> some of its vectors, by hash           (groups)
    terms     part -> beginnings of some texts of each group
    map       some vectors -> two coordinates
    bucket    part -> vectors by group                       (grouped, for semantic duplicates)
    judge     group -> verdicts, by part
    apply     part + its verdicts -> part

``groups`` is fitted: a nightly build keeps the groups that it found first, and only new parts are grouped.

Price: one read of the text for names and one to write; vectors of a group are compared in memory (512 bytes a document
at 256 dimensions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock import work as rowwork
from penstock.embedding.base import unit_vectors
from penstock.pipelines.documents import domain_stats
from penstock.pipelines.embed import AlignedSplit, aligned, aligned_splits
from penstock.pipelines.fit import merge_summaries, write_summary
from penstock.pipelines.passes import PartWriter, Slices, Split
from penstock.pipelines.verdicts import digests_of, judged_splits, rows_by_bucket, write_verdicts
from penstock.selectors import artifact
from penstock.selectors.kmeans import NO_GROUP, SIMILARITY, AssignGroups, GroupConfig, KMeans
from penstock.selectors.names import name_groups
from penstock.selectors.projection import project
from penstock.selectors.sample import BottomK, Sampling
from penstock.selectors.semantic import SemanticDuplicates
from penstock.step import Built, Context, Step
from penstock.storage import Folder

NAMED_FROM = 6_400  # texts that name all groups together
NAME_CHARACTERS = 512  # of each of them
MAP_POINTS = 3_000
FEW_A_CLUSTER = 39  # below, faiss calls a clustering poorly founded


@dataclass(frozen=True)
class SampleVectors:
    """A bottom-k sample of one part's vectors."""

    documents: Folder
    embedded: Folder
    kmeans: KMeans

    def __call__(self, split: Split, out: PartWriter) -> None:
        merged: BottomK | None = None
        for batch in aligned(self.documents, self.embedded, split.payload, ("id_hash", "domain")):
            summary = self.kmeans.summarise(batch)
            merged = summary if merged is None else merged.merge(summary)
        if merged is not None:
            write_summary(out, merged)


def terms_sampling(seed: int, clusters: int) -> Sampling:
    """Texts that name each group: the fewer groups, the more of each."""
    rows = min(100, max(5, NAMED_FROM // clusters))
    return Sampling(seed=seed, purpose="names", columns=("id_hash", "group", "head"), stratum="group", rows=rows)


@dataclass(frozen=True)
class SampleTexts:
    """Beginnings of some texts of each group in one part."""

    documents: Folder
    embedded: Folder
    assign: AssignGroups
    sampling: Sampling

    def __call__(self, split: Split, out: PartWriter) -> None:
        merged: BottomK | None = None
        for batch in aligned(self.documents, self.embedded, split.payload, ("id_hash", "text")):
            head = pc.utf8_slice_codeunits(batch["text"], 0, NAME_CHARACTERS)
            rows = rowwork.with_columns(rowwork.apply([self.assign], batch).batch, {"head": head})
            summary = self.sampling.of(rows.filter(pc.not_equal(rows["group"], NO_GROUP)))
            merged = summary if merged is None else merged.merge(summary)
        if merged is not None:
            write_summary(out, merged)


@dataclass(frozen=True)
class DrawMap:
    """Two coordinates of some documents."""

    points: pa.Table  # doc_id, domain, group, embedding
    method: str
    seed: int

    def __call__(self, split: Split, out: PartWriter) -> None:
        x, y = project(unit_vectors(self.points["embedding"]), method=self.method, seed=self.seed).T
        table = self.points.select(["doc_id", "domain", "group"]).append_column("x", pa.array(x))
        for batch in table.append_column("y", pa.array(y)).combine_chunks().to_batches():
            out.write("map", batch)


class Groups(Step):
    """Centroids and names of groups, from samples."""

    revision = 1
    libraries = ("faiss-cpu", "faiss-gpu", "numpy", "scikit-learn")
    fitted = True

    def __init__(
        self, name: str, documents: str, embedded: str, group: GroupConfig, seed: int, budget: float | None = None
    ) -> None:
        self.name, self.parents, self.group, self.seed, self.budget = name, (documents, embedded), group, seed, budget
        self.kmeans = KMeans(
            seed=seed,
            clusters=group.clusters,
            points_per_cluster=group.points_per_cluster,
            iterations=group.iterations,
        )

    def config(self) -> dict[str, Any]:
        return {
            "kmeans": rowwork.describe(self.kmeans),
            "names": asdict(terms_sampling(self.seed, self.group.clusters)),
            "characters": NAME_CHARACTERS,
            "map": {"method": self.group.map, "points": MAP_POINTS},
            "assign": AssignGroups.revision,
        }

    def build(self, context: Context) -> Built:
        documents, embedded = (context.parents[name] for name in self.parents)
        splits = aligned_splits(self.name, documents, embedded)
        at = (documents.folder, embedded.folder)

        reuse: dict[str, Any] = {"kmeans": rowwork.describe(self.kmeans)}
        receipts = context.run("sample", SampleVectors(*at, self.kmeans), splits, reuse=reuse)
        sample = merge_summaries(context.folder, receipts, BottomK)
        self._say(context, sample.num_rows, documents.table("documents").rows)
        home = context.folder.join(context.prefix)
        unnamed = self.kmeans.fit(sample, home)

        sampling = terms_sampling(self.seed, self.group.clusters)
        reuse = {"sampling": asdict(sampling), "characters": NAME_CHARACTERS, "groups": unnamed.digest}
        receipts = context.run("terms", SampleTexts(*at, unnamed, sampling), splits, reuse=reuse)
        texts = merge_summaries(context.folder, receipts, BottomK).rows
        assign, terms = self._named(unnamed, texts, home)

        points = sample.rows.slice(0, MAP_POINTS).combine_chunks()
        group = assign.annotate(points.to_batches()[0])["group"]
        points = points.select(["doc_id", "domain", "embedding"]).append_column("group", group)
        drawn = context.run("map", DrawMap(points, self.group.map, self.seed), [Split(0, {"groups": assign.digest})])

        built = context.collect(drawn, "map")
        built.artifacts |= context.adopt_artifact(assign.path)
        built.stats = {
            "groups": {"path": context.adopt(assign.path).path, "digest": assign.digest},
            "terms": terms,
            "sampled": sample.num_rows,
        }
        return built

    def _named(self, unnamed: AssignGroups, texts: pa.Table, home: str) -> tuple[AssignGroups, dict[str, list[str]]]:
        """The same groups under names that their texts give them, and the terms of each by name."""
        heads: dict[str, list[str]] = {name: [] for name in unnamed.names()}
        for row in texts.select(["group", "head"]).to_pylist():
            heads[row["group"]].append(row["head"])
        named = name_groups(list(heads.values()), reserved=(NO_GROUP,))
        centroids = artifact.load(unnamed.path, unnamed.digest).arrays["centroids"]
        path, digest = artifact.save(home, "groups", {"centroids": centroids}, {"names": [of.name for of in named]})
        return AssignGroups(path=path, digest=digest), {of.name: list(of.terms) for of in named}

    def _say(self, context: Context, sampled: int, rows: int) -> None:
        clusters = self.group.clusters
        if sampled < rows:
            context.reporter.note(f"{self.name}: {clusters} groups are learned from {sampled:,} of {rows:,} documents")
        if sampled < FEW_A_CLUSTER * clusters:
            context.reporter.warn(
                f"{self.name}: {sampled:,} documents for {clusters} groups is fewer than {FEW_A_CLUSTER} a group; "
                "lower group.clusters"
            )


@dataclass(frozen=True)
class BucketVectors:
    """One part's vectors with their positions, one bucket a group."""

    documents: Folder
    embedded: Folder
    assign: AssignGroups
    grouped: SemanticDuplicates

    def __call__(self, split: Split, out: PartWriter) -> None:
        blocks, row = [], 0
        for batch in aligned(self.documents, self.embedded, split.payload, ("doc_id",)):
            position = pa.array(np.arange(row, row + batch.num_rows), pa.int64())
            rows = rowwork.apply([self.assign], batch).batch
            here = pc.not_equal(rows["group"], NO_GROUP)
            blocks.append(self.grouped.keyed(rows).append_column("row", position.filter(here)))
            row += batch.num_rows
        table = pa.concat_tables(blocks).combine_chunks()
        names = self.assign.names()
        number = pc.index_in(table["key"], pa.array(names, pa.string())).to_numpy()
        rows_by_bucket(out, "vectors", number, table, names.__getitem__)


@dataclass(frozen=True)
class JudgeGroup:
    """Verdicts for one group, one bucket per part they apply to."""

    vectors: Slices
    grouped: SemanticDuplicates

    def __call__(self, split: Split, out: PartWriter) -> None:
        group = self.vectors.read(split.payload["group"], numbered=True)
        if group is not None:
            write_verdicts(out, self.grouped.judge(group))


@dataclass(frozen=True)
class ApplyGroups:
    """Name each row's group and drop the rows that verdicts name."""

    documents: Folder
    embedded: Folder
    assign: AssignGroups
    verdicts: Slices | None
    dropped: str

    def __call__(self, split: Split, out: PartWriter) -> None:
        piece: AlignedSplit = split.payload
        found = None if self.verdicts is None else self.verdicts.read(str(piece.part))
        # each group that judged rows of this part wrote its own
        found = None if found is None else found.sort_by("row")
        gone = np.zeros(0, np.int64) if found is None else found["row"].to_numpy()
        first = 0
        for batch in aligned(self.documents, self.embedded, piece):
            low, high = np.searchsorted(gone, [first, first + batch.num_rows])
            keep = np.ones(batch.num_rows, dtype=bool)
            keep[gone[low:high] - first] = False
            first += batch.num_rows
            out.count(rows_in=batch.num_rows)
            if found is not None and low < high:
                lost, verdicts = batch.filter(pa.array(~keep)), found.slice(low, high - low).combine_chunks()
                out.drop(
                    lost,
                    verdicts["reason"].chunk(0),
                    step=SemanticDuplicates.name,
                    keep=self.dropped,
                    detail=verdicts["survivor"].chunk(0),
                )
            result = rowwork.apply([self.assign], batch.filter(pa.array(keep)), dropped=self.dropped)
            out.applied(result)
            kept = result.batch.drop_columns(["embedding"])
            out.count(kept=kept.num_rows)
            out.add_stats({"domains": domain_stats(kept), "groups": group_stats(kept)})
            out.write("documents", kept)


def group_stats(rows: pa.RecordBatch) -> dict[str, dict[str, int]]:
    """Rows, bytes of text and summed similarity (in units of 1e-4, so that sums are exact) by group."""
    similarity = np.rint(rows[SIMILARITY].to_numpy(zero_copy_only=False).astype(np.float64) * 1e4).astype(np.int64)
    table = pa.table({"group": rows["group"], "bytes": pc.binary_length(rows["text"]), "similarity": similarity})
    sums = table.group_by("group", use_threads=False).aggregate(
        [([], "count_all"), ("bytes", "sum"), ("similarity", "sum")]
    )
    return {
        row["group"]: {"rows": row["count_all"], "bytes": row["bytes_sum"] or 0, "similarity": row["similarity_sum"]}
        for row in sums.to_pylist()
    }


class Grouped(Step):
    """Documents with the group each belongs to; semantic duplicates dropped where asked for."""

    revision = 1

    def __init__(
        self,
        name: str,
        documents: str,
        embedded: str,
        groups: str,
        *,
        as_domain: bool = False,
        semantic: SemanticDuplicates | None = None,
        budget: float | None = None,
    ) -> None:
        self.name, self.parents, self.budget = name, (documents, embedded, groups), budget
        self.as_domain, self.semantic = as_domain, semantic

    def config(self) -> dict[str, Any]:
        return {
            "assign": {"revision": AssignGroups.revision, "as_domain": self.as_domain},
            "semantic": None if self.semantic is None else rowwork.describe(self.semantic),
        }

    def guarded(self) -> tuple[str, ...]:
        return (self.name, *(() if self.semantic is None else (self.semantic.name,)))

    def build(self, context: Context) -> Built:
        documents, embedded, groups = (context.parents[name] for name in self.parents)
        splits = aligned_splits(self.name, documents, embedded)
        at = (documents.folder, embedded.folder)
        facts = groups.manifest.stats["groups"]
        assign = AssignGroups(path=groups.folder.join(facts["path"]), digest=facts["digest"], as_domain=self.as_domain)
        verdicts: Slices | None = None
        if self.semantic is not None:
            verdicts, splits = self._judge(context, self.semantic, replace(assign, as_domain=False), splits, at)
        work = ApplyGroups(*at, assign, verdicts, context.settings.dropped)
        receipts = context.run("apply", work, splits, reuse=self.config() | {"groups": assign.digest})
        built = context.collect(receipts, "documents", "dropped")
        built.stats["terms"] = groups.manifest.stats["terms"]
        return built

    def _judge(
        self,
        context: Context,
        semantic: SemanticDuplicates,
        assign: AssignGroups,
        splits: Sequence[Split],
        at: tuple[Folder, Folder],
    ) -> tuple[Slices, list[Split]]:
        """Verdicts on semantic duplicates, and the splits with what becomes of their rows in their memos."""
        reuse = {"groups": assign.digest, "revision": SemanticDuplicates.revision}
        emitted = context.run("bucket", BucketVectors(*at, assign, semantic), splits, reuse=reuse)
        vectors = Slices.of(context.folder, emitted, "vectors")
        payloads = [{"group": name, "layout": vectors.layout} for name in sorted(vectors.slices)]
        judged = context.run(
            "judge", JudgeGroup(vectors, semantic), [Split(i, payload) for i, payload in enumerate(payloads)]
        )
        return Slices.of(context.folder, judged, "verdicts"), judged_splits(splits, digests_of(judged))
