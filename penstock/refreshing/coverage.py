"""What the current corpus covers: a bounded sample of it, and the documents of the sample that tell most of the others.

    sample     part of the accepted round's documents -> a bottom-k sample by hash of their ids
    write      its embeddings -> ``anchors``

The anchors are a greedy MAP of the determinantal kernel that generation uses (``generators.voyager.kernel``), its
bandwidth fitted to the sample. Whatever is generated next is measured against them, and they are never pruned.
Conditioning on more rows only lowers a gain, so the gain given the anchors is an upper bound of the gain given the
whole corpus; greedy picks each time what the ones before tell least about.

By domain, the mean gain of the sampled documents that are no anchors says how thin the anchors cover it: near 0 they
tell everything about it, near 1 nothing.

Price: one read of the text; an n x n kernel of the sample (8 MB for 1,000 documents), memory of their beginnings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock import work as rowwork
from penstock.dataset import Dataset
from penstock.diversity.arrays import host
from penstock.diversity.factor import AnchorFactor
from penstock.diversity.greedy import greedy_map
from penstock.embedding.base import embedding_array
from penstock.embedding.config import EmbedConfig
from penstock.generators.voyager.kernel import Embeddings, RunKernel, words
from penstock.pipelines.embed import embedder_of
from penstock.pipelines.fit import Summarise, fit_over
from penstock.pipelines.passes import PartWriter, Split, splits_of
from penstock.refreshing.config import Coverage
from penstock.selectors.sample import BottomK, Sampling
from penstock.step import Built, Context, Settings, Step
from penstock.storage import Folder

COLUMNS = ("doc_id", "id_hash", "domain", "text")
TOLERANCE = 1e-6  # gain of an anchor: those that rounding cannot tell apart make no factor


@dataclass(frozen=True)
class Beginnings:
    """A bottom-k sample of a batch, of each text its beginning."""

    sampling: Sampling
    characters: int

    def __call__(self, batch: pa.RecordBatch) -> BottomK:
        head = pc.utf8_slice_codeunits(batch["text"], 0, self.characters)
        return self.sampling.of(rowwork.with_columns(batch, {"text": head}))


@dataclass(frozen=True)
class WriteAnchors:
    """The table that the driver holds, as a part."""

    table: pa.Table

    def __call__(self, split: Split, out: PartWriter) -> None:
        for batch in self.table.combine_chunks().to_batches():
            out.write("anchors", batch)


class CoverageStep(Step):
    """Anchors of the accepted round's corpus, and how thin they cover each domain."""

    revision = 1
    libraries = ("numpy", "scipy")

    def __init__(
        self, name: str, embedder: str, source: Folder, coverage: Coverage, embed: EmbedConfig, seed: int
    ) -> None:
        """
        Args:
            source: the dataset ``scored`` of the accepted round.
            embed: says where the embedder of the step ``embedder`` is.
        """
        self.name, self.parents, self.source = name, (embedder,), source
        self.coverage, self.embed, self.seed = coverage, embed, seed

    def config(self) -> dict[str, Any]:
        return self.coverage.model_dump() | {"characters": self.embed.characters, "seed": self.seed}

    def inputs(self, settings: Settings) -> dict[str, str]:
        """The documents, by their digest; DatasetError when they are not there."""
        return {"documents": Dataset(self.source).digest}

    def build(self, context: Context) -> Built:
        table = Dataset(self.source).table("documents")
        sampling = Sampling(
            seed=self.seed, purpose="coverage", columns=("domain", "text"), rows=self.coverage.documents
        )
        work = Summarise(self.source, COLUMNS, Beginnings(sampling, self.embed.characters))
        sample = fit_over(context, "sample", table, work, BottomK).rows
        embeddings = Embeddings(embedder_of(context.parents[self.parents[0]], self.embed.model), self.embed.characters)
        vectors = np.array(embeddings.of(sample["text"].to_pylist()))
        with_vector = np.flatnonzero(vectors.any(axis=1))
        rows, vectors = sample.take(pa.array(with_vector)), vectors[with_vector]
        picks, gains = _chosen(vectors, rows["text"].to_pylist(), embeddings.identity, self.coverage.anchors, self.seed)
        chosen = rows.take(pa.array(picks)).append_column("vector", embedding_array(vectors[picks]))
        receipts = context.run("write", WriteAnchors(chosen), splits_of([{"of": self.inputs(context.settings)}]))
        built = context.collect(receipts, "anchors")
        built.stats["coverage"] = _by_domain(rows["domain"].to_pylist(), picks, gains)
        built.stats["sampled"] = len(sample)
        return built


def _chosen(
    vectors: NDArray[np.float32], texts: list[str], embedder: dict[str, Any], most: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows of the anchors, and the gain of every row given them: 0 for the anchors themselves."""
    gains = np.zeros(len(texts))
    if not len(texts):
        return np.zeros(0, np.int64), gains
    kernel = RunKernel.fitted(list(vectors), embedder, seed).over(list(vectors), [words(text) for text in texts])
    picks = greedy_map(kernel, most, tolerance=TOLERANCE).picks
    rest = np.setdiff1d(np.arange(len(texts)), picks)
    gains[rest] = host(AnchorFactor(kernel, picks.tolist()).gains(rest))
    return picks, gains


def _by_domain(domains: list[str], picks: NDArray[np.int64], gains: NDArray[np.float64]) -> dict[str, dict[str, Any]]:
    """Documents of the sample, anchors among them, and the mean gain of the others; None where all are anchors."""
    names, anchors = np.array(domains, dtype=object), np.zeros(len(domains), dtype=np.bool_)
    anchors[picks] = True
    out = {}
    for name in sorted(set(domains)):
        own = names == name
        others = gains[own & ~anchors]
        gain = round(float(others.mean()), 6) if len(others) else None
        out[name] = {"documents": int(own.sum()), "anchors": int((own & anchors).sum()), "gain": gain}
    return out
