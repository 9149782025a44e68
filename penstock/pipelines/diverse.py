"""A step that chooses documents unlike each other, by greedy MAP in two rounds over their embeddings.

    bucket    part -> its vectors by shard, and the summary of its Vendi score
    keep      shard -> up to ``count`` rows of it, and a sample of its rows
    union     what all shards kept -> ``selection``; what two rounds lose, on the sample

A shard is a range of a hash of the document's id, and how many there are follows from the number of documents alone. So
the selection depends on the rows, not on parts, workers or order (``diversity.rounds`` has the mathematics).

``selection`` has one row a chosen document: ``doc_id``, ``rank`` from 0, ``log_gain`` (the sum over ranks is the log
determinant) and ``shard``. Documents without a vector, or without the score that ``quality`` names, are left out.

Price: one read of the vectors and one write of them by shard; a shard in memory (1.5 kB a row at 384 dimensions), and
rows x count x dimensions multiplications in the first round, all shards in parallel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.dataset import TableEntry, hash_json, read_part
from penstock.diversity.greedy import greedy_map
from penstock.diversity.rounds import measure_loss
from penstock.diversity.vendi_score import VendiSummary, vendi
from penstock.embedding.base import unit_vectors
from penstock.errors import ConfigError, DatasetError
from penstock.pipelines.embed import aligned, aligned_splits
from penstock.pipelines.fit import merge_summaries, write_summary
from penstock.pipelines.passes import PartWriter, Receipt, Slices, Split, merge_parts, splits_of
from penstock.pipelines.verdicts import ranges_for, rows_by_bucket
from penstock.seeding import coins, rehash
from penstock.step import Built, Context, Step
from penstock.storage import Folder

_UNITS = 1e6  # of a score: sums of whole numbers do not depend on their order
_ORDERS = (1.0, 2.0)  # Vendi scores that are noted
_DIGITS = 6  # numbers are rounded, so that threads and batches cannot change a digest
_FEWEST = 4  # rows of the sample in a shard for each row that it keeps


@dataclass(frozen=True, kw_only=True)
class DiverseConfig:
    """How documents are chosen.

    Args:
        count: documents wanted; fewer are chosen where nothing new is left.
        objective: ``logdet``, or ``logdet_plus_identity``, whose loss is bounded and which never runs out of rank.
        quality: a score column of the documents; a row's weight is ``exp(beta * standardised score)``.
        beta: how much quality counts; 0 ignores it, a large one chooses by score alone. Needs ``quality``.
        shard_rows: documents that one shard holds at most, about: fewer shards lose less and need more memory.
        sample: documents, about, on which the loss of two rounds is measured; 0 leaves that out. Of a sample with
            fewer than four rows a shard for each row wanted, fewer are chosen to measure by.
    """

    count: int
    objective: Literal["logdet", "logdet_plus_identity"] = "logdet"
    quality: str | None = None
    beta: float = 1.0
    shard_rows: int = 65_536
    sample: int = 8_192

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("shard_rows", 1), ("sample", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"diverse.{name}: got {getattr(self, name)}, allowed >= {least}; see its description")
        if self.objective not in ("logdet", "logdet_plus_identity"):
            raise ConfigError(f"diverse.objective: got {self.objective!r}, allowed logdet, logdet_plus_identity")
        if not math.isfinite(self.beta):
            raise ConfigError(f"diverse.beta: got {self.beta}, allowed a finite number; 1 is usual")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the documents that are read."""
        return ("id_hash",) if self.quality is None else ("id_hash", self.quality)


@dataclass(frozen=True)
class BucketRows:
    """One part's vectors, one bucket a shard, and the summary of all of them."""

    documents: Folder
    embedded: Folder
    diverse: DiverseConfig
    shards: int
    seed: int

    def __call__(self, split: Split, out: PartWriter) -> None:
        blocks: list[pa.RecordBatch] = []
        summary = VendiSummary()
        for batch in aligned(self.documents, self.embedded, split.payload, self.diverse.columns):
            vectors = unit_vectors(batch["embedding"])
            summary = summary.merge(VendiSummary.of(vectors))
            here = vectors.any(axis=1)
            scores = self._scores(batch)
            known = np.isfinite(scores)
            out.add_stats(
                {
                    "no_vector": int((~here).sum()),
                    "no_score": int((here & ~known).sum()),
                    "candidates": int((here & known).sum()),
                    "score": _moments(scores[here & known]),
                }
            )
            arrays = [batch["doc_id"], batch["id_hash"], batch["embedding"], pa.array(scores)]
            rows = pa.RecordBatch.from_arrays(arrays, ["doc_id", "id_hash", "embedding", "score"])
            blocks.append(rows.filter(pa.array(here & known)))
        if not blocks:
            return
        write_summary(out, summary)
        table = pa.Table.from_batches(blocks)
        # the high bits say the shard, as everywhere where hashes are cut into ranges
        hashes = rehash(table["id_hash"].to_numpy(), self.seed, "diverse shard")
        shard = (hashes >> np.uint64(32)).astype(np.int64) * self.shards >> 32
        rows_by_bucket(out, "vectors", shard, table, _shard_name)

    def _scores(self, batch: pa.RecordBatch) -> NDArray[np.float64]:
        if self.diverse.quality is None:
            return np.zeros(batch.num_rows)
        values: NDArray[np.float64] = batch[self.diverse.quality].cast(pa.float64()).to_numpy(zero_copy_only=False)
        return values


def _shard_name(shard: int) -> str:
    return f"{shard:05d}"


def _moments(scores: NDArray[np.float64]) -> dict[str, int]:
    """Sums of scores and of their squares as whole numbers."""
    whole = [round(float(score) * _UNITS) for score in scores]  # Python's integers do not overflow
    return {"sum": sum(whole), "squares": sum(value * value for value in whole)}


@dataclass(frozen=True)
class Standard:
    """Mean and deviation of the scores of all candidates."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, receipts: Sequence[Receipt], candidates: int) -> Standard:
        total = sum(r.stats["score"]["sum"] for r in receipts if "score" in r.stats)
        squares = sum(r.stats["score"]["squares"] for r in receipts if "score" in r.stats)
        # in whole numbers up to the root, so that no digits cancel
        spread = max(candidates * squares - total * total, 0)
        return cls(total / candidates / _UNITS, math.sqrt(spread) / candidates / _UNITS)

    def weights(self, scores: NDArray[np.float64], beta: float) -> NDArray[np.float64]:
        """``exp(beta * standardised score)``; 1 where all scores are equal."""
        if self.deviation == 0:
            return np.ones(len(scores))
        # the largest determinants of products stay within float64
        out: NDArray[np.float64] = np.exp(np.clip(beta * (scores - self.mean) / self.deviation, -50.0, 50.0))
        return out


@dataclass(frozen=True)
class KeepRows:
    """The rows that one shard keeps, in order of choice, and those of its rows that are in the sample."""

    vectors: Slices
    diverse: DiverseConfig
    standard: Standard
    share: float  # of all rows in the sample
    seed: int

    def __call__(self, split: Split, out: PartWriter) -> None:
        shard = split.payload["shard"]
        found = self.vectors.read(_shard_name(shard))
        assert found is not None, "a split a bucket"
        rows = found.sort_by("doc_id").append_column("shard", pa.repeat(pa.scalar(shard, pa.int32()), found.num_rows))
        chosen = choose(rows, self.diverse, self.standard)
        kept = rows.take(pa.array(chosen.picks)).combine_chunks()
        for batch in kept.to_batches():
            out.write("kept", batch)
        coin = coins(rows["id_hash"].to_numpy(), self.seed, "diverse sample")
        for batch in rows.filter(pa.array(coin < self.share)).combine_chunks().to_batches():
            out.write("sample", batch)
        out.add_stats({"kept": len(chosen.picks)})


def choose(rows: pa.Table, diverse: DiverseConfig, standard: Standard) -> Any:
    """``greedy_map`` over rows with ``embedding`` and ``score``."""
    return greedy_map(
        unit_vectors(rows["embedding"]),
        diverse.count,
        quality=_weights(rows, diverse, standard),
        objective=diverse.objective,
    )


def _weights(rows: pa.Table, diverse: DiverseConfig, standard: Standard) -> NDArray[np.float64] | None:
    return None if diverse.quality is None else standard.weights(rows["score"].to_numpy(), diverse.beta)


@dataclass(frozen=True)
class Union:
    """The second round, and what two rounds lose."""

    folder: Folder
    kept: TableEntry
    sample: TableEntry | None
    diverse: DiverseConfig
    standard: Standard
    shards: int
    seed: int

    def __call__(self, split: Split, out: PartWriter) -> None:
        rows = self._read(self.kept)
        chosen = choose(rows, self.diverse, self.standard)
        picked = rows.take(pa.array(chosen.picks)).combine_chunks()
        columns = {
            "doc_id": picked["doc_id"],
            "rank": pa.array(np.arange(picked.num_rows, dtype=np.int64)),
            "log_gain": pa.array(np.round(chosen.log_gains, _DIGITS)),
            "shard": picked["shard"],
        }
        for batch in pa.table(columns).combine_chunks().to_batches():
            out.write("selection", batch)
        vectors = unit_vectors(picked["embedding"])
        out.add_stats(
            {
                "chosen": picked.num_rows,
                "log_determinant": round(chosen.log_determinant, _DIGITS),
                "vendi": {_order(q): round(vendi(vectors, q).value, _DIGITS) for q in _ORDERS},
                "loss": self._loss(),
            }
        )

    def _loss(self) -> dict[str, float]:
        if self.sample is None:
            return {}
        rows = self._read(self.sample)
        found = measure_loss(
            unit_vectors(rows["embedding"]),
            rows["shard"].to_numpy(),
            # a shard that keeps all its rows of the sample loses nothing: fewer are chosen where the sample is small
            min(self.diverse.count, max(1, rows.num_rows // (_FEWEST * self.shards))),
            quality=_weights(rows, self.diverse, self.standard),
            objective=self.diverse.objective,
            seed=self.seed,
        )
        numbers = asdict(found) | {"share": found.share}
        return {name: round(value, _DIGITS) for name, value in numbers.items() if value is not None}

    def _read(self, table: TableEntry) -> pa.Table:
        parts = [batch for file in table.files for batch in read_part(self.folder, file)]
        return pa.Table.from_batches(parts).combine_chunks().sort_by("doc_id")


def _order(q: float) -> str:
    return f"q{q:g}"


class Diverse(Step):
    """Documents chosen to be unlike each other."""

    revision = 1
    libraries = ("numpy", "scipy")

    def __init__(
        self, name: str, documents: str, embedded: str, diverse: DiverseConfig, seed: int, budget: float | None = None
    ) -> None:
        self.name, self.parents, self.diverse, self.seed, self.budget = (
            name,
            (documents, embedded),
            diverse,
            seed,
            budget,
        )

    def config(self) -> dict[str, Any]:
        return asdict(self.diverse)

    def build(self, context: Context) -> Built:
        documents, embedded = (context.parents[name] for name in self.parents)
        table = documents.table("documents")
        quality = self.diverse.quality
        if quality is not None and quality not in table.columns:
            scores = ", ".join(sorted(name for name in table.columns if name.startswith("score.")))
            raise ConfigError(f"diverse.quality: got {quality}, allowed {scores or 'none, as nothing is scored'}")
        shards = ranges_for(table.rows, self.diverse.shard_rows)
        work = BucketRows(documents.folder, embedded.folder, self.diverse, shards, self.seed)
        reuse = {"columns": list(self.diverse.columns), "shards": shards, "seed": self.seed}
        bucketed = context.run("bucket", work, aligned_splits(self.name, documents, embedded), reuse=reuse)
        candidates = sum(r.stats.get("candidates", 0) for r in bucketed)
        if not candidates:
            raise DatasetError(f"{self.name}: none of {table.rows:,} documents has a vector and the score asked for")
        standard = Standard.of(bucketed, candidates)

        vectors = Slices.of(context.folder, bucketed, "vectors")
        share = min(1.0, self.diverse.sample / candidates)
        keep = KeepRows(vectors, self.diverse, standard, share, self.seed)
        payloads = [{"shard": int(name), "layout": vectors.layout} for name in sorted(vectors.slices)]
        kept = context.run("keep", keep, splits_of(payloads))
        table_kept = merge_parts(kept, "kept")
        assert table_kept is not None, "every shard keeps a row"
        sample = merge_parts(kept, "sample")
        union = Union(context.folder, table_kept, sample, self.diverse, standard, len(payloads), self.seed)
        layout = hash_json([file.path for file in table_kept.files])
        last = context.run("union", union, [Split(0, {"layout": layout})])

        built = context.collect(last, "selection")
        corpus = merge_summaries(context.folder, bucketed, VendiSummary)
        built.stats |= {
            "candidates": candidates,
            "shards": len(payloads),
            "no_vector": sum(r.stats.get("no_vector", 0) for r in bucketed),
            "no_score": sum(r.stats.get("no_score", 0) for r in bucketed),
            "corpus_vendi": {_order(q): round(corpus.result(q).value, _DIGITS) for q in _ORDERS},
        }
        self._say(context, built.stats)
        return built

    def _say(self, context: Context, stats: dict[str, Any]) -> None:
        chosen, loss = stats["chosen"], stats["loss"]
        if chosen < min(self.diverse.count, stats["candidates"]):
            context.reporter.warn(
                f"{self.name}: {chosen:,} documents and not {self.diverse.count:,}: no other is independent of them "
                "(numerical rank, at most the dimensions of the embedding); "
                "objective: logdet_plus_identity goes on beyond it"
            )
        if "share" in loss:
            context.reporter.note(
                f"{self.name}: choosing {loss['picks']:,} of a sample of {loss['rows']:,} documents in two rounds over "
                f"{stats['shards']} shards loses {loss['share']:.1%} of what choosing gains over chance"
            )
