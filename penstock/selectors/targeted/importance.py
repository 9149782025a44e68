"""Cluster importance sampling: draw the pool's clusters as often as the target does (CRISP, arXiv 2410.03735).

    clusters     spherical k-means over a sample of the pool's embeddings
    P_s(c)       (n_s(c) + a) / (N_s + a K)      share of target examples whose nearest centroid is c, smoothed by a
    P_g(c)       the pool's share of cluster c, in examples, or in tokens when the budget is in tokens
    w(c)         P_s(c) / P_g(c)                 so drawing c by P_s and then a row of c uniformly is weight w a row
    S_i          min(f w(c_i), epochs)           expected copies, f solved so that their sum is the budget
    copies       floor(S_i) + [coin < frac(S_i)] the coin a hash of the row's id and the seed

The epoch cap hands what it takes from small clusters to the others, because f is solved with it. A cluster in which no
target example lies has weight 0 where a = 0. The score is w; who is selected follows from copies, not from ranks, so a
cluster is thinned out and not taken whole.

With few target examples most clusters are empty and the selection is trapped in narrow pockets; with a small pool it is
repeated until it is learned by heart (arXiv 2410.02498). More smoothing, fewer clusters and a lower cap help; the step
says how much of the pool has weight 0, the effective sample size and how many clusters met the cap.

Price: two passes over embeddings to learn, one to score; k-means as in ``selectors/kmeans.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.embedding.base import unit_vectors
from penstock.errors import ConfigError
from penstock.seeding import coins
from penstock.selectors import artifact
from penstock.selectors.kmeans import KMeans, nearest
from penstock.selectors.quadmix_theta import budget_factor, copies_of
from penstock.selectors.sample import BottomK
from penstock.selectors.targeted.base import (
    Budget,
    check_target,
    in_rank_order,
    scores_array,
    summary_of,
    with_facts,
    with_ranks,
)

Floats = NDArray[np.float64]

CLUSTER = "importance.cluster"
SHARE = "importance.target_share"
EXPECTED = "importance.expected"


@dataclass(frozen=True, eq=False)
class ClusterSizes:
    """Summary: documents of each cluster."""

    documents: NDArray[np.int64]  # (K,)

    def merge(self, other: ClusterSizes) -> ClusterSizes:
        return ClusterSizes(self.documents + other.documents)

    def to_table(self) -> pa.Table:
        return pa.table({"documents": self.documents})

    @classmethod
    def from_table(cls, table: pa.Table) -> ClusterSizes:
        return cls(table["documents"].to_numpy())


@dataclass(frozen=True, eq=False)
class CountClusters:
    """Counts the documents of a batch by nearest centroid; those without a vector are in none."""

    centroids: NDArray[np.float32]  # (K, d)

    def __call__(self, batch: pa.RecordBatch) -> ClusterSizes:
        index, _ = nearest(unit_vectors(batch["embedding"]), self.centroids)
        return ClusterSizes(np.bincount(index[index >= 0], minlength=len(self.centroids)))


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Importance sampling over clusters of embeddings.

    Args:
        clusters: K; more are finer and need a larger target.
        smoothing: a, target examples that every cluster is given; 0 lets clusters without a target example go.
        epochs: no row is expected more often than this.
        points_per_cluster, iterations: of k-means.
        seed: of k-means and of the coins.
    """

    clusters: int = 64
    smoothing: float = 0.01
    epochs: float = 4.0
    points_per_cluster: int = 256
    iterations: int = 20
    seed: int = 0

    name: ClassVar[str] = "importance"
    revision: ClassVar[int] = 1
    column: ClassVar[str] = "score.importance"
    reads: ClassVar[tuple[str, ...]] = ("doc_id", "id_hash", "domain", "embedding")
    libraries: ClassVar[tuple[str, ...]] = ("faiss-cpu", "faiss-gpu", "numpy")

    def __post_init__(self) -> None:
        for name, least in (("clusters", 1), ("points_per_cluster", 1), ("iterations", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"importance.{name}: got {getattr(self, name)}, allowed >= {least}; raise it")
        if not (self.smoothing >= 0 and math.isfinite(self.smoothing)):
            raise ConfigError(f"importance.smoothing: got {self.smoothing}, allowed >= 0 and finite; 0.01 is little")
        if not (self.epochs > 0 and math.isfinite(self.epochs)):
            raise ConfigError(f"importance.epochs: got {self.epochs}, allowed above 0 and finite; 4 is usual")

    def fit(self, target: pa.Table, pool: Iterable[pa.RecordBatch], folder: str) -> ImportanceScore:
        """Learn the clusters (one pass), count them in pool (another) and target, and save them under ``folder``.

        Raises:
            ConfigError: the target has no vector, or the pool fewer vectors than ``clusters``.
            MissingExtraError: faiss is not installed.
        """
        check_target(target, self.reads, method=self.name)
        wanted = unit_vectors(target["embedding"])
        wanted = wanted[wanted.any(axis=1)]
        if not len(wanted):
            raise ConfigError(
                f"importance target: got {target.num_rows} row(s) without a vector, allowed texts that can be "
                "embedded; look at its files"
            )
        kmeans = KMeans(
            seed=self.seed,
            clusters=self.clusters,
            points_per_cluster=self.points_per_cluster,
            iterations=self.iterations,
        )
        sample: BottomK = summary_of(pool, "cluster-sample", kmeans.summarise, BottomK)
        if sample.num_rows < self.clusters:
            raise ConfigError(
                f"importance.clusters: got {self.clusters}, allowed at most {sample.num_rows}, the documents of the "
                "pool with a vector; lower it or bring more documents"
            )
        centroids = kmeans.centroids(sample)
        sizes: ClusterSizes = summary_of(pool, "cluster-sizes", CountClusters(centroids), ClusterSizes)
        index, _ = nearest(wanted, centroids)
        counts = np.bincount(index, minlength=self.clusters)
        share = target_shares(counts, self.smoothing)
        arrays: dict[str, NDArray[Any]] = {
            "centroids": centroids,
            "share": share,
            "weights": weights_of(share, sizes.documents / max(sizes.documents.sum(), 1)),
        }
        held = sizes.documents > 0
        facts = {
            "clusters": self.clusters,
            "examples": int(counts.sum()),
            "clusters_with_examples": int((counts > 0).sum()),
            # target examples that lie where the pool has nothing, and the part of the pool where no example lies
            "share_out_of_reach": float(share[~held].sum()),
            "pool_without_examples": float(sizes.documents[counts == 0].sum() / max(sizes.documents.sum(), 1)),
        }
        path, digest = artifact.save(folder, self.name, arrays, facts)
        return ImportanceScore(path=path, digest=digest)

    def choose(self, scores: pa.Table, budget: Budget) -> pa.Table:
        """Copies of every row by its weight, and ``selected`` where there is one or more.

        Adds ``importance.expected`` (float32) and ``copies`` (int32); ``score`` becomes w in the budget's unit. More
        than the cap allows gives every row of weight above 0 the cap.
        """
        sizes = budget.sizes(scores)
        cluster = scores[CLUSTER].to_numpy().astype(np.int64)
        lies = cluster >= 0
        weight = np.zeros(len(cluster))
        if lies.any():
            pool = np.bincount(cluster[lies], weights=sizes[lies], minlength=int(cluster.max()) + 1)
            share = scores[SHARE].to_numpy()
            weight[lies] = weights_of(share[lies], pool[cluster[lies]] / pool.sum())
        expected, factor = expected_copies(weight, sizes, budget.amount(sizes), self.epochs)
        coin = coins(scores["id_hash"].to_numpy(), self.seed, "targeted", "importance")
        copies = copies_of(expected.astype(np.float32), coin)
        columns = {"score": scores_array(weight, lies), EXPECTED: pa.array(expected, pa.float32()), "copies": copies}
        rows = scores.drop_columns(["score"])
        for name, column in columns.items():
            rows = rows.append_column(name, pa.array(column))
        ordered = in_rank_order(rows)
        chosen = with_ranks(ordered, ordered["copies"].to_numpy() > 0)
        return with_facts(
            chosen,
            budget_factor=factor,
            expected=float((expected * sizes).sum()),
            effective_sample_size=effective_sample_size(weight),
            rows_at_the_cap=int((expected >= self.epochs).sum()),
            rows_of_weight_0=int((weight == 0).sum()),
        )


@dataclass(frozen=True, kw_only=True)
class ImportanceScore:
    """Annotator: ``score.importance``, the weight w of the row's cluster among examples, with the cluster and P_s(c).

    A row without a vector has no score and is in cluster -1.
    """

    path: str
    digest: str

    name: ClassVar[str] = "importance"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("embedding",)
    adds: ClassVar[tuple[str, ...]] = ("score.importance", CLUSTER, SHARE)

    def setup(self) -> None:
        artifact.load(self.path, self.digest)

    def facts(self) -> dict[str, Any]:
        """``clusters_with_examples``, ``share_out_of_reach`` and ``pool_without_examples``."""
        return dict(artifact.load(self.path, self.digest).facts)

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        arrays = artifact.load(self.path, self.digest).arrays
        index, _ = nearest(unit_vectors(batch["embedding"]), arrays["centroids"])
        lies = index >= 0
        return {
            "score.importance": scores_array(arrays["weights"][index], lies),
            CLUSTER: pa.array(index, pa.int32()),
            SHARE: pa.array(np.where(lies, arrays["share"][index], 0.0)),
        }


def target_shares(counts: NDArray[np.int64], smoothing: float) -> Floats:
    """P_s(c) = (n_s(c) + a) / (N_s + a K): shape (K,), sum 1."""
    raised = counts + smoothing
    shares: Floats = raised / raised.sum()
    return shares


def weights_of(target: Floats, pool: Floats) -> Floats:
    """w = P_s / P_g, 0 where the pool has nothing: shape (K,)."""
    return np.divide(target, pool, out=np.zeros(len(target)), where=pool > 0)


def effective_sample_size(weights: Floats) -> float:
    """(sum w)^2 / sum w^2, the rows that a weighted sum is worth; 0 without weight."""
    squares = float(np.square(weights).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def expected_copies(weights: Floats, sizes: NDArray[np.int64], amount: int, cap: float) -> tuple[Floats, float]:
    """(S (n,), f): S = min(f w, cap) with sum S sizes = ``amount``, or the cap wherever w > 0 when that is less.

    Args:
        weights: w of each row, >= 0.
        sizes: what a copy of each row costs.
    """
    most = np.where(weights > 0, cap, 0.0)
    reach = float((most * sizes).sum())
    if reach <= amount:
        return most, 0.0 if reach == 0 else cap / float(weights[weights > 0].min())
    factor = budget_factor(weights, sizes, target=amount, cap=cap)
    return np.minimum(factor * weights, cap), factor
