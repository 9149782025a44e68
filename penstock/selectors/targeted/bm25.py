"""BM25: pool documents by the words that they share with a target set (Robertson and Zaragoza 2009).

    score(d, q) = sum over w in q of c_q(w) idf(w) tf (k1 + 1) / (tf + k1 (1 - b + b |d| / avgdl))
    idf(w)      = ln(1 + (N - n_w + 0.5) / (n_w + 0.5))                    never below 0

c_q(w) is how often a target example q uses w, tf how often d does, |d| the words of d, avgdl their mean, n_w the
documents of the pool that hold w. The mean over M examples is linear in c_q, so M queries are one query of mean counts:
the cost of a document is its own words, whatever M is. The maximum over examples keeps M queries, as a sparse product.

Words are folded (``selectors.folded``): case, width and composition do not matter. What is learned from the pool is the
document frequency of the target's words alone, the number of documents and of their words: integers that add up in any
order.

Price: two passes over text, together 85 MB/s a core (cutting words takes most of it); 20 bytes a distinct word of the
target. ``max`` takes n x M sums besides, half as fast for 200 examples.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.selectors import artifact
from penstock.selectors.folded import UNICODE, Words, folded_words
from penstock.selectors.targeted.base import check_target, scores_array, summary_of


@dataclass(frozen=True, eq=False)
class TermStatistics:
    """Summary: documents, their words, and in how many of them each term of the target stands."""

    documents: int
    words: int
    frequencies: NDArray[np.int64]  # (V,)

    def merge(self, other: TermStatistics) -> TermStatistics:
        assert len(self.frequencies) == len(other.frequencies), "frequencies of other terms"
        return TermStatistics(
            self.documents + other.documents, self.words + other.words, self.frequencies + other.frequencies
        )

    def to_table(self) -> pa.Table:
        """The frequencies; the totals travel in the schema's metadata."""
        totals = json.dumps({"documents": self.documents, "words": self.words})
        return pa.table({"documents": self.frequencies}).replace_schema_metadata({"totals": totals})

    @classmethod
    def from_table(cls, table: pa.Table) -> TermStatistics:
        totals = json.loads(table.schema.metadata[b"totals"])
        return cls(totals["documents"], totals["words"], table["documents"].to_numpy())

    @property
    def mean_length(self) -> float:
        """Words of a document; 1 where no document has any, so that it may be divided by."""
        return self.words / self.documents if self.words else 1.0

    def idf(self) -> NDArray[np.float64]:
        """ln(1 + (N - n_w + 0.5) / (n_w + 0.5)) of each term: shape (V,), > 0."""
        n = self.frequencies.astype(np.float64)
        return np.log1p((self.documents - n + 0.5) / (n + 0.5))


@dataclass(frozen=True, eq=False)
class CountTerms:
    """Counts the target's terms in batches of the pool."""

    terms: NDArray[np.uint64]  # (V,), distinct

    def __call__(self, batch: pa.RecordBatch) -> TermStatistics:
        words = folded_words(batch["text"])
        table = _table(self.terms.tobytes())
        found = _kernels().document_frequencies(words.rows, words.hashes, table.hashes, table.places, table.size)
        return TermStatistics(batch.num_rows, int(words.rows[-1]), found)


@dataclass(frozen=True, kw_only=True)
class BM25:
    """BM25 of pool documents to the examples of a target.

    Args:
        k1: how slowly more of the same word stops to count.
        b: how much long documents are held back; 0 not at all, 1 in proportion.
        aggregate: over target examples: ``mean``, one collapsed query, or ``max``, the nearest example.
    """

    k1: float = 1.5
    b: float = 0.75
    aggregate: Literal["mean", "max"] = "mean"

    name: ClassVar[str] = "bm25"
    revision: ClassVar[int] = 1
    column: ClassVar[str] = "score.bm25"
    reads: ClassVar[tuple[str, ...]] = ("text",)

    def __post_init__(self) -> None:
        if not (self.k1 >= 0 and math.isfinite(self.k1)):
            raise ConfigError(f"bm25.k1: got {self.k1}, allowed >= 0 and finite; 1.5 is usual")
        if not 0 <= self.b <= 1:
            raise ConfigError(f"bm25.b: got {self.b}, allowed 0 to 1; 0.75 is usual")
        if self.aggregate not in ("mean", "max"):
            raise ConfigError(f"bm25.aggregate: got {self.aggregate!r}, allowed mean, max; choose one")

    def fit(self, target: pa.Table, pool: Iterable[pa.RecordBatch], folder: str) -> BM25Score:
        """Count the target's words in the pool (one pass) and save their weights under ``folder``.

        Raises:
            ConfigError: the target has no rows, or no word; the pool has no rows.
        """
        check_target(target, self.reads, method=self.name)
        # in an order of their own, so that the state is the same for any order of examples
        words = folded_words(target["text"].sort().combine_chunks())
        if not len(words.hashes):
            raise ConfigError(
                f"bm25 target: got {target.num_rows} row(s) without a word, allowed texts with words; look at its files"
            )
        terms = np.unique(words.hashes)
        statistics: TermStatistics = summary_of(pool, "term-statistics", CountTerms(terms), TermStatistics)
        arrays: dict[str, NDArray[Any]] = {"terms": terms, "idf": statistics.idf()}
        if self.aggregate == "mean":
            place = np.searchsorted(terms, words.hashes)
            arrays["weights"] = np.bincount(place, minlength=len(terms)) / target.num_rows * arrays["idf"]
        else:
            queries = _queries(words, terms)
            arrays |= {"query_rows": queries.indptr, "query_terms": queries.indices, "query_counts": queries.data}
        facts = {
            "k1": self.k1,
            "b": self.b,
            "aggregate": self.aggregate,
            "mean_length": statistics.mean_length,
            "documents": statistics.documents,
            "examples": target.num_rows,
            "unicode": UNICODE,
        }
        path, digest = artifact.save(folder, self.name, arrays, facts)
        return BM25Score(path=path, digest=digest)


@dataclass(frozen=True, kw_only=True)
class BM25Score:
    """Annotator: ``score.bm25``, from 0; a text without a word of the target has 0."""

    path: str
    digest: str

    name: ClassVar[str] = "bm25"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ("score.bm25",)

    def setup(self) -> None:
        artifact.load(self.path, self.digest)
        _kernels()

    def facts(self) -> dict[str, Any]:
        """``documents`` and ``mean_length`` of the pool, ``examples`` of the target, and the settings."""
        return dict(artifact.load(self.path, self.digest).facts)

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        state = artifact.load(self.path, self.digest)
        facts = state.facts
        words = folded_words(batch["text"])
        table = _table(state.arrays["terms"].tobytes())
        found = _kernels().term_counts(words.rows, words.hashes, table.hashes, table.places, table.size)
        lengths = np.diff(words.rows)
        if facts["aggregate"] == "mean":
            settings = (facts["k1"], facts["b"], facts["mean_length"])
            values = _kernels().score(*found, lengths, state.arrays["weights"], *settings)
        else:
            values = self._nearest(found, lengths)
        return {"score.bm25": scores_array(values)}

    def _nearest(self, found: tuple[NDArray[Any], ...], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        """The highest score over target examples: shape (n,)."""
        from scipy import sparse

        arrays, facts = artifact.load(self.path, self.digest).arrays, artifact.load(self.path, self.digest).facts
        indptr, terms, counts = found
        k1, b = facts["k1"], facts["b"]
        slow = np.repeat(k1 * (1 - b + b * lengths / facts["mean_length"]), np.diff(indptr))
        weights = arrays["idf"][terms] * counts * (k1 + 1) / (counts + slow)
        size, examples = len(arrays["terms"]), facts["examples"]
        documents = sparse.csr_matrix((weights, terms, indptr), shape=(len(lengths), size))
        query = (arrays["query_counts"], arrays["query_terms"], arrays["query_rows"])
        queries = sparse.csr_matrix(query, shape=(examples, size))
        out: NDArray[np.float64] = (documents @ queries.T).max(axis=1).toarray().ravel()
        return out


def _queries(words: Words, terms: NDArray[np.uint64]) -> Any:
    """How often each target example uses each term: CSR, shape (M, V), terms of a row in order."""
    from scipy import sparse

    place = np.searchsorted(terms, words.hashes).astype(np.int32)
    matrix = sparse.csr_matrix(
        (np.ones(len(place)), place, words.rows), shape=(len(words.rows) - 1, len(terms)), dtype=np.float64
    )
    matrix.sum_duplicates()
    return matrix


@lru_cache(maxsize=4)
def _table(terms: bytes) -> Any:
    return _kernels().TermTable.of(np.frombuffer(terms, dtype=np.uint64))


@cache
def _kernels() -> Any:
    from penstock.selectors.targeted import _bm25_kernels

    return _bm25_kernels
