"""Perplexity of a text under an n-gram model of a reference set: how little it surprises who knows the reference.

Interpolated Kneser-Ney (Kneser and Ney 1995; Chen and Goodman 1999), with one discount D an order::

    P_k(w | h) = (max(c(h w) - D_k, 0) + D_k t(h) P_{k-1}(w | h')) / c(h)     t(h): different symbols seen after h
    P_k(w | h) = P_{k-1}(w | h')                                             where h was never seen
    P_0(w)     = 1 / V

c counts occurrences at the highest order, and below it the different symbols seen before: a symbol that follows many
others is likely anywhere. D_k = n1 / (n1 + 2 n2), from the n-grams seen once and twice. What is taken off is what the
lower order gives, so the probabilities of the next symbol sum to one after every context. CCNet (arXiv 1911.00359)
orders web pages by such a perplexity.

Symbols are bytes, or ``words``: the tokens of ``quality``, each by 18 bits of its hash, so that words that share a
bucket are one symbol and no word is unknown. N-grams are kept as whole integers; none shares a number with another.
Before a text stand line breaks. The summary counts n-grams of the highest order alone, as the others follow from
them; counts are whole numbers, so merging in any order gives the same bytes.

A document of the reference set is expected by a model that counted it. Take a reference that is not the corpus, or
compare documents of the reference with each other alone.

Price: counting 14 MB/s a core of bytes, 40 MB/s of words; the fit takes seconds. 16 bytes a different n-gram of each
order, in memory and on disk (1.5 million for 11 MB of English at 6 bytes). Scoring reads about 30 MB/s a core of what
lies inside the prefix, and 7 MB/s of noise, which backs off at every symbol; the model is held once a process, at 32 to
64 bytes an n-gram.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import ConfigError, DatasetError
from penstock.selectors import artifact
from penstock.selectors.histogram import train_rows
from penstock.selectors.scorers.base import Direction, score_array

BITS = {"byte": 8, "word": 18}
LONGEST = {"byte": 7, "word": 3}  # n-grams that fit into a key beside their length
MINIMUM_SYMBOLS = 1000
_BLOCK = 4 << 20  # bytes whose n-grams are sorted at once


@dataclass(frozen=True, kw_only=True)
class PerplexityModel:
    """Fitted: n-grams of the reference set's training rows -> ``PerplexityScore``.

    Args:
        unit: ``byte`` suits any language and small references; ``word`` sees the order of words, and wants megabytes.
        order: symbols of the longest n-gram, 2 to 7 bytes or 2 to 3 words; None is 6 or 3.
        prefix_bytes: bytes of a text that count, in training and in scoring.
    """

    unit: Literal["byte", "word"] = "byte"
    order: int | None = None
    prefix_bytes: int = 8192

    name: ClassVar[str] = "perplexity_model"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text", "split")
    adds: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.unit not in BITS:
            raise ConfigError(f"perplexity unit: got {self.unit!r}, allowed byte or word; byte suits any language")
        if not 2 <= self.length <= LONGEST[self.unit]:
            raise ConfigError(
                f"perplexity order: got {self.order}, allowed 2 to {LONGEST[self.unit]} for unit {self.unit}; leave "
                "it out for the usual one"
            )
        if self.prefix_bytes < 1:
            raise ConfigError(f"perplexity prefix_bytes: got {self.prefix_bytes}, allowed >= 1; 8192 is usual")

    @property
    def length(self) -> int:
        """Symbols of the longest n-gram."""
        return self.order if self.order is not None else {"byte": 6, "word": 3}[self.unit]

    def summarise(self, batch: pa.RecordBatch) -> NgramCounts:
        """N-grams of the batch's training rows."""
        from penstock.selectors.scorers import perplexity_kernels as kernels
        from penstock.text import row_views

        offsets, data = row_views(batch["text"].filter(pa.array(train_rows(batch))))
        words = self.unit == "word"
        parts = [NgramCounts.none(self.unit, self.length)]
        sizes = np.cumsum(np.minimum(np.diff(offsets), self.prefix_bytes))
        start = 0
        while start < len(offsets) - 1:
            done = int(sizes[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(sizes, done + _BLOCK)))
            keys = kernels.keys(offsets[start : stop + 1], data, self.prefix_bytes, words, self.length)
            parts.append(NgramCounts(self.unit, self.length, *np.unique(keys, return_counts=True)))
            start = stop
        return NgramCounts.concat(parts)

    def fit(self, summary: NgramCounts, folder: str) -> PerplexityScore:
        """The model of the counts, saved under ``folder``.

        Raises:
            ConfigError: the reference set holds fewer than 1,000 symbols.
        """
        symbols = int(summary.counts.sum())
        if symbols < MINIMUM_SYMBOLS:
            raise ConfigError(
                f"perplexity reference: got {symbols} {self.unit}s in its training documents, allowed >= "
                f"{MINIMUM_SYMBOLS}; name domains or files that hold more"
            )
        bits = BITS[self.unit]
        keys, logp, backoff, facts = kneser_ney(summary.keys, summary.counts, self.length, bits)
        path, digest = artifact.save(
            folder,
            "perplexity",
            {"keys": keys, "logp": logp, "backoff": backoff},
            {"unit": self.unit, "order": self.length, "prefix_bytes": self.prefix_bytes, "symbols": symbols, **facts},
        )
        return PerplexityScore(path=path, digest=digest)


class NgramCounts:
    """Summary: how often each n-gram of one length occurs; ``keys`` (uint64) ascend, ``counts`` are int64."""

    def __init__(self, unit: str, order: int, keys: NDArray[np.uint64], counts: NDArray[np.int64]) -> None:
        self.unit, self.order = unit, order
        self.keys, self.counts = keys, counts.astype(np.int64, copy=False)

    @classmethod
    def none(cls, unit: str, order: int) -> NgramCounts:
        return cls(unit, order, np.zeros(0, np.uint64), np.zeros(0, np.int64))

    @classmethod
    def concat(cls, parts: list[NgramCounts]) -> NgramCounts:
        """The sum of one or more.

        Raises:
            DatasetError: they count other n-grams.
        """
        kinds = {(part.unit, part.order) for part in parts}
        if len(kinds) > 1:
            raise DatasetError(f"n-gram counts of {sorted(kinds)} cannot be added; count the reference set again")
        keys = np.concatenate([part.keys for part in parts])
        counts = np.concatenate([part.counts for part in parts])
        return cls(parts[0].unit, parts[0].order, *_summed(keys, counts))

    def merge(self, other: NgramCounts) -> NgramCounts:
        return NgramCounts.concat([self, other])

    def to_table(self) -> pa.Table:
        """One row an n-gram; unit and order travel in the schema's metadata."""
        told = json.dumps({"unit": self.unit, "order": self.order})
        table = pa.table({"key": pa.array(self.keys, pa.uint64()), "count": pa.array(self.counts, pa.int64())})
        return table.replace_schema_metadata({"ngrams": told})

    @classmethod
    def from_table(cls, table: pa.Table) -> NgramCounts:
        """What ``to_table`` wrote."""
        metadata = table.schema.metadata or {}
        if b"ngrams" not in metadata:
            raise DatasetError("n-gram counts: the schema has no 'ngrams' metadata; pass what to_table wrote")
        told = json.loads(metadata[b"ngrams"])
        return cls(told["unit"], told["order"], table["key"].to_numpy(), table["count"].to_numpy())


def _summed(keys: NDArray[np.uint64], counts: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Keys, each once and ascending, with the sums of their counts."""
    if not len(keys):
        return keys, counts
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    return keys[first], np.add.reduceat(counts[order], first)


def kneser_ney(
    keys: NDArray[np.uint64], counts: NDArray[np.int64], order: int, bits: int
) -> tuple[NDArray[np.uint64], NDArray[np.float32], NDArray[np.float32], dict[str, Any]]:
    """The model as one table of n-grams of all lengths.

    Args:
        keys, counts: n-grams of ``order`` symbols of ``bits`` bits each, the last symbol in the lowest bits; ascending.

    Returns:
        (tagged keys, log P of the n-gram, log of the weight that it gives the shorter context as a context, facts).
        A key is tagged with its length (``perplexity_kernels.tagged``). log P is NaN for what is a context alone.
    """
    from penstock.selectors.scorers.perplexity_kernels import tagged

    levels = [(keys, counts)]  # from the longest
    for length in range(order - 1, 0, -1):
        mask = np.uint64((1 << (length * bits)) - 1)
        shorter, before = np.unique(levels[-1][0] & mask, return_counts=True)
        levels.append((shorter, before.astype(np.int64)))
    levels.reverse()

    discounts: list[float] = []
    lower_keys, lower_p = np.zeros(0, np.uint64), np.zeros(0)
    grams: list[tuple[NDArray[np.uint64], NDArray[np.float64]]] = []
    contexts: list[tuple[NDArray[np.uint64], NDArray[np.float64]]] = []
    for length, (own, count) in enumerate(levels, start=1):
        once, twice = int((count == 1).sum()), int((count == 2).sum())
        discount = min(max(once / (once + 2 * twice), 0.1), 0.95) if once and twice else 0.75
        context = own >> np.uint64(bits)
        first = np.flatnonzero(np.r_[True, context[1:] != context[:-1]])
        run = np.diff(np.r_[first, len(own)])
        total = np.add.reduceat(count, first)
        weight = discount * run / total  # of the shorter context
        if length == 1:
            below = np.full(len(own), 2.0**-bits)
        else:
            mask = np.uint64((1 << ((length - 1) * bits)) - 1)
            # every n-gram ends with one that is a symbol shorter and was counted
            below = lower_p[np.searchsorted(lower_keys, own & mask)]
        p = (count - discount) / np.repeat(total, run) + np.repeat(weight, run) * below
        grams.append((tagged(own, length), np.log(p)))
        contexts.append((tagged(context[first], length - 1), np.log(weight)))
        discounts.append(discount)
        lower_keys, lower_p = own, p

    gram_keys = np.concatenate([k for k, _ in grams])
    context_keys = np.concatenate([k for k, _ in contexts])
    every = np.union1d(gram_keys, context_keys)
    logp = np.full(len(every), np.nan, np.float32)
    logp[np.searchsorted(every, gram_keys)] = np.concatenate([v for _, v in grams])
    backoff = np.zeros(len(every), np.float32)
    backoff[np.searchsorted(every, context_keys)] = np.concatenate([v for _, v in contexts])
    facts = {"discounts": discounts, "ngrams": [len(own) for own, _ in levels]}
    return every, logp, backoff, facts


@cache
def _model(path: str, digest: str) -> tuple[Any, Any, Any, Mapping[str, Any]]:
    """(slots, log P, log backoff weight, facts), the table in the order of its slots."""
    from penstock.selectors.scorers import perplexity_kernels as kernels

    found = artifact.load(path, digest)
    arrays = found.arrays
    slots, logp, backoff = kernels.table(arrays["keys"], arrays["logp"], arrays["backoff"])
    return slots, logp, backoff, found.facts


@dataclass(frozen=True, kw_only=True)
class PerplexityScore:
    """Scorer: ``score.perplexity`` of a byte or a word, lower is better; null for a text without one."""

    path: str
    digest: str

    name: ClassVar[str] = "perplexity"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ("score.perplexity",)
    directions: ClassVar[Mapping[str, Direction]] = {"score.perplexity": "lower"}

    def setup(self) -> None:
        _model(self.path, self.digest)

    def facts(self) -> dict[str, Any]:
        """What the fit found: ``symbols``, ``ngrams`` and ``discounts`` by order."""
        return dict(artifact.load(self.path, self.digest).facts)

    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        total, symbols = self.log_likelihood(batch["text"])
        with np.errstate(invalid="ignore", divide="ignore"):
            return {"score.perplexity": score_array(np.exp(-total / symbols))}

    def log_likelihood(self, text: pa.Array) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """(log P in nats, symbols) of the prefix of each text: shape (n,)."""
        from penstock.selectors.scorers import perplexity_kernels as kernels
        from penstock.text import row_views

        slots, logp, backoff, facts = _model(self.path, self.digest)
        offsets, data = row_views(text)
        words = facts["unit"] == "word"
        total, symbols = kernels.log_likelihood(
            offsets, data, facts["prefix_bytes"], words, facts["order"], slots, logp, backoff
        )
        return total, symbols
