"""Find benchmark items in documents, and drop or cut what holds them.

Two levels, both against an index of the items (``benchmark_index.py``):

1. **n-grams.** A run of ``ngram`` folded words (13; case, punctuation, spacing and width do not count) that an item
   has too, anywhere in a document of any length; items of fewer words are matched whole. Every hit is recorded with
   its benchmark, item, field and bytes in the original text. ``coverage`` is the share of the field's indexed n-grams
   that the document has.
2. **Near-duplicates.** The document, each of its paragraphs and each of its lines is compared with the items by
   MinHash bands, and each candidate verified by the exact Jaccard similarity of the two sets of words: at least
   ``near`` (0.8). With single words as shingles this reaches what n-grams cannot: items of fewer than ``ngram`` words
   with a word changed, and items with a word changed in every ten. Units of more than twice the words of the longest
   item over ``near`` are not compared.

A paraphrase in other words is found by neither.

``policy`` says what a hit does: ``drop`` the document with the reason ``contaminated:<benchmark>`` (that of the highest
coverage); ``excise`` what is around the hits, ``window`` characters on each side, to the next space; pieces between
cuts shorter than ``min_piece`` characters go too, and a document with more than ``max_cuts`` cuts, or without a piece
left, is dropped; ``report`` changes nothing. The cut's defaults are those of GPT-3 (arXiv 2005.14165, appendix C).

Price on one core and English prose: level 1 alone 100 MB/s; both 12 MB/s where every line is long enough to be compared
(hard-wrapped novels), more where few are. Memory: 60 bytes a word of the batch, and the index.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock import work as rowwork
from penstock.errors import ConfigError
from penstock.selectors.benchmark_index import (
    FIELDS,
    BenchmarkIndex,
    IndexSettings,
    load_index,
    near_bands,
    shingle_sets,
)
from penstock.selectors.folded import Words, folded_words

REASON = "contaminated"
POLICIES = ("drop", "excise", "report")
CONTAMINATION = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("field", pa.string(), nullable=False),  # question, answer or question+answer
        pa.field("kind", pa.string(), nullable=False),  # ngram, whole (a short item) or near
        pa.field("start", pa.int64(), nullable=False),  # bytes of the text as it was
        pa.field("stop", pa.int64(), nullable=False),
        pa.field("coverage", pa.float32(), nullable=False),  # of the field by the document; of near, the similarity
        pa.field("text", pa.string()),  # the matched text: nothing, masked and cut short, or all; see `dropped`
    ]
)
REMOVED = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),  # bytes of the text as it was
        pa.field("stop", pa.int64(), nullable=False),
        pa.field("text", pa.string()),
    ]
)
_SPACE_WITHIN = 32  # characters a cut may move to end at a space
_GAP = "\n\n"  # between what a cut leaves on both its sides


@dataclass
class Screened:
    """What became of a batch. ``columns`` replace those of the whole batch, dropped rows unchanged among them."""

    reasons: pa.StringArray
    columns: dict[str, pa.Array]
    contamination: pa.RecordBatch
    removed: pa.RecordBatch


class Records(NamedTuple):
    """Matched spans of a batch, by row, field and start: arrays (spans,)."""

    row: NDArray[np.int64]
    field: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    coverage: NDArray[np.float64]
    near: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Decontaminate:
    """Filter: gives documents with benchmark items a reason; ``screen`` also cuts, and says what was found where.

    Raises ConfigError for settings out of range; DatasetError, on use, for an index of another make.
    """

    path: str
    digest: str
    index: IndexSettings = field(default_factory=IndexSettings)
    policy: str = "drop"
    near: float | None = 0.8
    """Least Jaccard similarity of a near-duplicate; None looks for none."""
    min_coverage: float = 0.0
    """Hits that cover less of an item are recorded and change nothing."""
    window: int = 200
    min_piece: int = 200
    max_cuts: int = 10

    name: ClassVar[str] = "decontaminate"
    revision: ClassVar[int] = 1
    reads: ClassVar[tuple[str, ...]] = ("text",)
    adds: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ConfigError(f"policy: got {self.policy!r}, allowed {', '.join(POLICIES)}; choose one")
        if self.near is not None and not 0.5 <= self.near <= 1:
            raise ConfigError(
                f"near: got {self.near}, allowed 0.5 to 1, or null for none; texts less alike share only common words"
            )
        if not 0 <= self.min_coverage <= 1:
            raise ConfigError(f"min_coverage: got {self.min_coverage}, allowed 0 to 1; it is a share of an item")
        for name, least in (("window", 0), ("min_piece", 0), ("max_cuts", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: got {getattr(self, name)}, allowed >= {least}; the default is tried")

    def setup(self) -> None:
        """Read the index and compile, or load what an earlier process compiled."""
        self._records(pa.array(["a b c"]))

    def decide(self, batch: pa.RecordBatch) -> pa.StringArray:
        """The reason of each row that is to be dropped under ``policy``, null for the others. Shape (rows,)."""
        return self._outcome(batch["text"], self._records(batch["text"]))[0]

    def screen(self, batch: pa.RecordBatch, *, keep: str = "sample") -> Screened:
        """Everything about a batch with ``doc_id`` and ``text``, and ``content_hash`` and ``learn`` if it has them.

        Args:
            keep: what to keep of matched and removed text: ``ids``, ``sample`` (masked) or ``full``.
        """
        records = self._records(batch["text"])
        reasons, cuts = self._outcome(batch["text"], records)
        removed = self._removed(batch, records, cuts, keep)
        columns: dict[str, pa.Array] = {}
        if cuts:
            from penstock.spans import replace_spans

            flat = [(row, start, stop, gap) for row, of_row in sorted(cuts.items()) for start, stop, gap in of_row]
            rows, starts, stops, gaps = zip(*flat, strict=True)
            columns = replace_spans(batch, np.array(rows), np.array(starts), np.array(stops), pa.array(gaps))
        return Screened(reasons, columns, self._table(batch, records, keep), removed)

    def _load(self) -> BenchmarkIndex:
        return load_index(self.path, self.digest, self.index)

    def _records(self, text: pa.Array) -> Records:
        index = self._load()
        words = folded_words(text)
        found = _ngram_records(words, index)
        if self.near is None or not len(index.near_of):
            return found
        from penstock.text import row_views

        near = _near_records(words, index, self.near, *row_views(text))
        # what level 1 found is not said twice
        taken = set(zip(found.row.tolist(), found.field.tolist(), strict=True))
        new = np.array([pair not in taken for pair in zip(near.row.tolist(), near.field.tolist(), strict=True)], bool)
        columns: list[Any] = [np.concatenate([a, b[new]]) for a, b in zip(found, near, strict=True)]
        order = np.lexsort((columns[2], columns[1], columns[0]))
        return Records(*(column[order] for column in columns))

    def _outcome(
        self, text: pa.Array, records: Records
    ) -> tuple[pa.StringArray, dict[int, list[tuple[int, int, str]]]]:
        """Reasons of the rows to drop, and (start, stop, replacement) of the cuts of those that stay."""
        reasons: list[str | None] = [None] * len(text)
        cuts: dict[int, list[tuple[int, int, str]]] = {}
        if self.policy == "report":
            return pa.array(reasons, pa.string()), cuts
        index = self._load()
        acted = np.flatnonzero(records.near | (records.coverage >= self.min_coverage))
        rows, first = np.unique(records.row[acted], return_index=True)
        for row, own in zip(rows.tolist(), np.split(acted, first)[1:], strict=True):
            if self.policy == "excise":
                spans = sorted(zip(records.start[own].tolist(), records.stop[own].tolist(), strict=True))
                found = excision(text[row].as_py(), spans, self.window, self.min_piece, self.max_cuts)
                if found is not None:
                    cuts[row] = found
                    continue
            best = own[np.argmax(records.coverage[own])]
            reasons[row] = f"{REASON}:{_benchmark(index, records.field[best])}"
        return pa.array(reasons, pa.string()), cuts

    def _table(self, batch: pa.RecordBatch, records: Records, keep: str) -> pa.RecordBatch:
        index = self._load()
        item = index.fields.item[records.field]
        kind = np.where(index.fields.words[records.field] < index.settings.ngram, "whole", "ngram")
        spans = zip(records.row.tolist(), records.start.tolist(), records.stop.tolist(), strict=True)
        ids = batch["doc_id"].take(pa.array(records.row))
        return pa.RecordBatch.from_arrays(
            [
                ids,
                pa.array(index.benchmarks, pa.string()).take(pa.array(index.benchmark_of[item])),
                index.names.take(pa.array(item)),
                pa.array(FIELDS).take(pa.array(index.fields.part[records.field])),
                pa.array(np.where(records.near, "near", kind).astype(object), pa.string()),
                pa.array(records.start),
                pa.array(records.stop),
                pa.array(records.coverage.astype(np.float32)),
                _kept(ids, [] if keep == "ids" else _pieces(batch["text"], spans), keep),
            ],
            schema=CONTAMINATION,
        )

    def _removed(
        self, batch: pa.RecordBatch, records: Records, cuts: dict[int, list[tuple[int, int, str]]], keep: str
    ) -> pa.RecordBatch:
        index = self._load()
        spans = [(row, start, stop) for row, of_row in sorted(cuts.items()) for start, stop, _ in of_row]
        rows = pa.array([row for row, _, _ in spans], pa.int64())
        ids = batch["doc_id"].take(rows)
        best: dict[int, tuple[float, int]] = {}
        for row, found, coverage in zip(records.row.tolist(), records.field.tolist(), records.coverage, strict=True):
            if row in cuts and (row not in best or coverage > best[row][0]):
                best[row] = (coverage, found)
        return pa.RecordBatch.from_arrays(
            [
                ids,
                pa.array([_benchmark(index, best[row][1]) for row, _, _ in spans], pa.string()),
                pa.array([start for _, start, _ in spans], pa.int64()),
                pa.array([stop for _, _, stop in spans], pa.int64()),
                _kept(ids, [] if keep == "ids" else _pieces(batch["text"], spans), keep),
            ],
            schema=REMOVED,
        )


def _benchmark(index: BenchmarkIndex, number: Any) -> str:
    return index.benchmarks[int(index.benchmark_of[index.fields.item[number]])]


def _pieces(text: pa.Array, spans: Any) -> list[str]:
    """Pieces (row, start, stop) of a text column; each row is encoded once for all of its pieces in a run."""
    out, last, data = [], -1, b""
    for row, start, stop in spans:
        if row != last:
            last, data = row, text[row].as_py().encode()
        out.append(data[start:stop].decode())
    return out


def _kept(ids: pa.Array, pieces: list[str], keep: str) -> pa.Array:
    """As much of removed text as ``keep`` allows, masked as in the ``dropped`` table."""
    if keep == "ids":
        return pa.nulls(len(ids), pa.string())
    rows = pa.RecordBatch.from_arrays([ids, pa.array(pieces, pa.string())], names=["doc_id", "text"])
    return rowwork.drop_rows(rows, pa.array([REASON] * len(ids), pa.string()), step="", keep=keep)["text"]


def _ngram_records(words: Words, index: BenchmarkIndex) -> Records:
    """Level 1: runs of hits of a field that touch or overlap are one span."""
    from penstock.selectors import decontaminate_kernels as kernels

    first, last, key = kernels.find(words.rows, words.hashes, index.lengths, index.known, index.bits, index.keys)
    counts = index.firsts[key + 1] - index.firsts[key]
    hit = np.repeat(np.arange(len(key)), counts)
    pointer = np.arange(len(hit)) - np.repeat(np.cumsum(counts) - counts, counts) + index.firsts[key][hit]
    found, position = index.field[pointer].astype(np.int64), index.position[pointer].astype(np.int64)
    row = np.searchsorted(words.rows, first, side="right")[hit] - 1
    order = np.lexsort((first[hit], found, row))
    row, found, position, hit = row[order], found[order], position[order], hit[order]

    opens = np.ones(len(row), np.bool_)
    opens[1:] = (row[1:] != row[:-1]) | (found[1:] != found[:-1])
    group = np.cumsum(opens) - 1
    pairs = np.unique(np.stack([group, position]), axis=1)[0] if len(group) else group
    share = np.bincount(pairs, minlength=int(opens.sum())) / np.maximum(index.fields.grams[found[opens]], 1)
    start, stop = first[hit], last[hit]  # in words: windows of one field are as long as each other
    cuts = opens.copy()
    cuts[1:] |= start[1:] > stop[:-1] + 1
    begins = np.flatnonzero(cuts)
    ends = np.append(begins[1:], len(cuts)) - 1 if len(begins) else begins
    return Records(
        row[begins],
        found[begins],
        words.starts[start[begins]],
        words.ends[stop[ends]],
        share[group[begins]],
        np.zeros(len(begins), np.bool_),
    )


def _near_records(
    words: Words, index: BenchmarkIndex, least: float, offsets: NDArray[np.int64], data: NDArray[np.uint8]
) -> Records:
    """Level 2: the most similar unit of each row for each field that has one similar enough."""
    from penstock.selectors import decontaminate_kernels as kernels

    first, stop = _units(words, offsets, data)
    sizes = np.diff(index.near_rows)
    longest = 2 * int(index.fields.words[index.near_of].max()) / least
    fits = (stop - first >= least * sizes.min()) & (stop - first <= longest)
    first, stop = first[fits], stop[fits]
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(stop - first)])
    place = np.arange(bounds[-1]) - np.repeat(bounds[:-1] - first, np.diff(bounds))
    of_unit = Words(bounds, place, place, words.hashes[place])
    rows, members = shingle_sets(of_unit, index.settings.near_shingle)
    bands = near_bands(rows, members, index.settings)
    unit, other = kernels.pairs(bands, index.near_known, index.near_bits, index.near_keys, index.near_field)
    pair = np.unique(unit * len(sizes) + other)
    unit, other = pair // len(sizes), pair % len(sizes)
    alike = kernels.jaccard(rows, members, index.near_rows, index.near_members, unit, other)
    kept = alike >= least
    unit, found, alike = unit[kept], index.near_of[other[kept]].astype(np.int64), alike[kept]
    row = np.searchsorted(words.rows, first[unit], side="right") - 1
    # the best of a row and field; of equal ones the shortest
    order = np.lexsort(((stop - first)[unit], -alike, found, row))
    row, found, alike, unit = row[order], found[order], alike[order], unit[order]
    opens = np.ones(len(row), np.bool_)
    opens[1:] = (row[1:] != row[:-1]) | (found[1:] != found[:-1])
    row, found, alike, unit = row[opens], found[opens], alike[opens], unit[opens]
    return Records(
        row, found, words.starts[first[unit]], words.ends[stop[unit] - 1], alike, np.ones(len(row), np.bool_)
    )


def _units(
    words: Words, offsets: NDArray[np.int64], data: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First word and the one after the last of every document, paragraph (blank line) and line, each once."""
    of_word = np.repeat(np.arange(len(words.rows) - 1), np.diff(words.rows))
    breaks = np.flatnonzero(data[offsets[0] : offsets[-1]] == 0x0A) + offsets[0]
    line = np.searchsorted(breaks, words.starts + offsets[:-1][of_word])
    units = []
    for gap in (1, 2, None):
        opens = np.ones(len(of_word), np.bool_)
        opens[1:] = of_word[1:] != of_word[:-1]
        if gap is not None:
            opens[1:] |= line[1:] - line[:-1] >= gap
        begins = np.flatnonzero(opens)
        units.append(begins * (len(opens) + 1) + np.append(begins[1:], len(opens))[: len(begins)])
    found = np.unique(np.concatenate(units))
    return found // (len(opens) + 1), found % (len(opens) + 1)


def excision(
    text: str, spans: list[tuple[int, int]], window: int, min_piece: int, max_cuts: int
) -> list[tuple[int, int, str]] | None:
    """Byte spans to cut and what replaces each, around byte ``spans`` (ascending); None where too little would stay.

    Args:
        window: characters that go on each side, on to the next space if it is near.
        min_piece: characters of the shortest piece that stays.
        max_cuts: more cuts than this give up the text.
    """
    data = text.encode()
    at_byte = at_character = 0

    def character(byte: int) -> int:
        nonlocal at_byte, at_character
        if byte < at_byte:
            at_byte = at_character = 0
        at_character += len(data[at_byte:byte].decode())
        at_byte = byte
        return at_character

    cuts: list[list[int]] = []
    for start, stop in spans:
        low, high = _to_space(text, max(0, character(start) - window), -1), character(stop) + window
        high = _to_space(text, min(len(text), high), 1)
        if cuts and low <= cuts[-1][1]:
            cuts[-1][1] = max(cuts[-1][1], high)
        else:
            cuts.append([low, high])
    if len(cuts) > max_cuts:
        return None
    kept: list[list[int]] = []
    last = 0
    for low, high in cuts:
        if low - last >= max(min_piece, 1):
            kept.append([last, low])
        last = high
    if len(text) - last >= max(min_piece, 1):
        kept.append([last, len(text)])
    if not kept:
        return None
    edges = [0, *(edge for piece in kept for edge in piece), len(text)]
    out, byte, before = [], 0, 0
    for low, high in zip(edges[::2], edges[1::2], strict=True):
        if low == high:
            continue
        byte += len(text[before:low].encode())
        size = len(text[low:high].encode())
        out.append((byte, byte + size, _GAP if low > 0 and high < len(text) else ""))
        byte, before = byte + size, high
    return out


def _to_space(text: str, at: int, step: int) -> int:
    """``at`` moved outwards to the end of a word, if that is near, and over the space there."""
    moved = at
    for _ in range(_SPACE_WITHIN):
        if not 0 < moved < len(text) or text[moved - 1].isspace() or text[moved].isspace():
            at = moved
            break
        moved += step
    while 0 < at < len(text) and text[at - 1 if step < 0 else at].isspace():
        at += step
    return at
