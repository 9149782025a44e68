"""The index of benchmark items that documents are searched for: n-grams, short items whole, and MinHash bands.

Each item gives up to three fields: ``question``, ``answer`` and ``question+answer`` (the two joined). Of a field of at
least ``ngram`` folded words (``folded.py``) every run of ``ngram`` words is indexed with a pointer back to (benchmark,
item, field, position); a shorter one of at least ``min_words`` is indexed whole. What cannot be checked is listed with
its reason:

    empty          no words
    too_short      fewer than ``min_words`` words
    short_answer   an answer of fewer than ``ngram`` words: alone it is a phrase anyone may write ("he closes the door
                   and walks away"); it still counts at the end of its question
    common         every n-gram of it is common

An n-gram is **common**, and not indexed, when it occurs in ``common_benchmarks`` different benchmarks, in more than
``max_matches`` items of different text (the template of a benchmark: an item listed twice is one), or in a text of
``boilerplate``.

Sources: decontamination by n-grams after GPT-3 (arXiv 2005.14165, appendix C) and lm-evaluation-harness, n = 13;
``max_matches`` after NeMo Curator, which counts matches in the corpus, so that an item leaked often enough escapes:
here it counts items.

Price: 25 bytes an n-gram of the benchmarks on disk and about as much again in memory; indexing takes 1 µs an n-gram.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import ConfigError, DatasetError
from penstock.selectors import artifact
from penstock.selectors.folded import UNICODE, Words, folded_words

FORMAT = 1  # of the arrays; raised when an older index would be read wrongly
FIELDS = ("question", "answer", "question+answer")
NOT_CHECKABLE = pa.schema(
    [
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("field", pa.string(), nullable=False),
        pa.field("words", pa.int32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
_BITS_PER_KEY = 5  # the bitmap has 2 ** 5 bits a key: one look-up in 32 goes on to the keys


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """What decides an index beside the benchmarks. Raises ConfigError for settings that can find nothing."""

    ngram: int = 13
    """Words of an n-gram."""
    min_words: int = 5
    """Items shorter than `ngram` are matched whole from this many words on."""
    common_benchmarks: int = 3
    """N-grams found in this many benchmarks are common phrases."""
    max_matches: int = 10
    """N-grams found in more different items than this are a template."""
    boilerplate: tuple[str, ...] = ()
    """Texts whose n-grams count for nothing."""
    near_shingle: int = 1
    """Words of a shingle of the near-duplicate level."""
    near_min_words: int = 10
    """Items shorter than this are left out of the near-duplicate level."""
    near_bands: int = 16
    """Bands of the MinHash signature."""
    near_rows: int = 4
    """Permutations in a band."""

    def __post_init__(self) -> None:
        for field, least, most in (
            ("ngram", 2, 64),
            ("min_words", 2, 64),
            ("common_benchmarks", 2, 1_000_000),
            ("max_matches", 1, 1_000_000),
            ("near_shingle", 1, 16),
            ("near_min_words", 1, 10_000),
            ("near_bands", 1, 256),
            ("near_rows", 1, 32),
        ):
            value = getattr(self, field)
            if not least <= value <= most:
                raise ConfigError(f"{field}: got {value}, allowed {least} to {most}; the default is tried")
        if self.min_words > self.ngram:
            raise ConfigError(
                f"min_words: got {self.min_words}, allowed 2 to ngram ({self.ngram}); longer items have n-grams"
            )
        if self.near_min_words < self.near_shingle:
            raise ConfigError(
                f"near_min_words: got {self.near_min_words}, allowed >= near_shingle ({self.near_shingle}); raise it"
            )
        if isinstance(self.boilerplate, str):
            raise ConfigError("boilerplate: got one text, allowed a list of texts; put it in brackets")


class Item(NamedTuple):
    """One item of a benchmark; ``answer`` is None where the benchmark has none."""

    benchmark: str
    name: str
    question: str | None
    answer: str | None = None


class Fields(NamedTuple):
    """What an index knows of each field of each item: arrays (fields,)."""

    item: NDArray[np.int32]
    part: NDArray[np.int8]  # place in FIELDS
    words: NDArray[np.int32]
    grams: NDArray[np.int32]  # n-grams indexed, 1 for a short item, 0 where it cannot be checked


class BenchmarkIndex(NamedTuple):
    """A loaded index."""

    settings: IndexSettings
    benchmarks: tuple[str, ...]
    benchmark_of: NDArray[np.int32]  # of each item
    names: pa.StringArray  # of each item
    fields: Fields
    keys: NDArray[np.uint64]  # sorted hashes of n-grams and short items
    firsts: NDArray[np.int64]  # pointers of key k are firsts[k] to firsts[k + 1]
    field: NDArray[np.int32]
    position: NDArray[np.int32]
    lengths: NDArray[np.int64]  # window lengths to look up
    known: NDArray[np.uint64]
    bits: int
    near_keys: NDArray[np.uint64]  # sorted band keys
    near_known: NDArray[np.uint64]
    near_bits: int
    near_field: NDArray[np.int32]  # place in the sets, by band key
    near_of: NDArray[np.int32]  # field of each set
    near_rows: NDArray[np.int64]
    near_members: NDArray[np.uint64]


@dataclass
class Indexed:
    """What ``save_index`` made."""

    path: str
    digest: str
    not_checkable: pa.Table
    items: dict[str, int]  # by benchmark
    checkable: dict[str, int]  # items of which a field can be checked


def save_index(folder: str, items: Sequence[Item], settings: IndexSettings) -> Indexed:
    """Index ``items`` and write the artifact; equal items and settings give equal bytes.

    Raises:
        ConfigError: there is no item at all.
    """
    if not items:
        raise ConfigError("benchmarks: got no item, allowed one or more; look at their files")
    benchmarks = tuple(dict.fromkeys(item.benchmark for item in items))
    numbers = {name: i for i, name in enumerate(benchmarks)}
    benchmark_of = np.array([numbers[item.benchmark] for item in items], np.int32)
    texts, item_of, parts = _texts(items)
    words = folded_words(pa.array(texts, pa.large_string()))
    count = np.diff(words.rows)
    wanted = np.minimum(count, settings.ngram)
    short_answer = (parts == FIELDS.index("answer")) & (count < settings.ngram)
    wanted[(count < settings.min_words) | short_answer] = 0

    hashes, field, position = _windows(words, wanted)
    common = _common(hashes, item_of[field], benchmark_of, _same_items(words, parts, item_of), settings)
    order = np.flatnonzero(~common)
    order = order[np.lexsort((position[order], field[order], hashes[order]))]
    hashes, field, position = hashes[order], field[order], position[order]
    keys, firsts = np.unique(hashes, return_index=True)
    grams = np.bincount(field, minlength=len(texts)).astype(np.int32)

    near = _near(words, settings)
    names = pa.array([item.name for item in items], pa.large_string())
    offsets, letters = _flat(names)
    arrays: dict[str, NDArray[Any]] = {
        "benchmark_of": benchmark_of,
        "name_offsets": offsets,
        "name_letters": letters,
        "item": item_of,
        "part": parts,
        "words": count.astype(np.int32),
        "grams": grams,
        "keys": keys,
        "firsts": np.append(firsts, len(hashes)).astype(np.int64),
        "field": field.astype(np.int32),
        "position": position.astype(np.int32),
        **near,
    }
    facts = {
        "format": FORMAT,
        "unicode": UNICODE,
        "settings": asdict(settings),
        "benchmarks": list(benchmarks),
        "lengths": [int(length) for length in np.unique(wanted[grams > 0])],
    }
    path, digest = artifact.save(folder, "benchmarks", arrays, facts)
    reasons = np.full(len(texts), "common", object)
    reasons[wanted == 0] = "too_short"
    reasons[short_answer] = "short_answer"
    reasons[count == 0] = "empty"
    lost = np.flatnonzero(grams == 0)
    not_checkable = pa.table(
        [
            [benchmarks[benchmark_of[item_of[f]]] for f in lost],
            [items[item_of[f]].name for f in lost],
            [FIELDS[parts[f]] for f in lost],
            count[lost].astype(np.int32),
            reasons[lost],
        ],
        schema=NOT_CHECKABLE,
    )
    of_item = benchmark_of[np.unique(item_of[grams > 0])]
    return Indexed(
        path,
        digest,
        not_checkable,
        {name: int((benchmark_of == i).sum()) for name, i in numbers.items()},
        {name: int((of_item == i).sum()) for name, i in numbers.items()},
    )


def _texts(items: Iterable[Item]) -> tuple[list[str], NDArray[np.int32], NDArray[np.int8]]:
    """All fields in order: texts, their items and their parts. An item without an answer has its question alone."""
    texts, item_of, parts = [], [], []
    for number, item in enumerate(items):
        fields = [(0, item.question or "")]
        if item.answer is not None:
            fields += [(1, item.answer), (2, f"{item.question or ''}\n{item.answer}")]
        for part, text in fields:
            texts.append(text)
            item_of.append(number)
            parts.append(part)
    return texts, np.array(item_of, np.int32), np.array(parts, np.int8)


def _windows(
    words: Words, wanted: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """(hash, field, position) of the windows of ``wanted[f]`` words of each field f; none where that is 0."""
    from penstock.selectors import decontaminate_kernels as kernels

    hashes: list[Any] = [np.empty(0, np.uint64)]
    fields: list[Any] = [np.empty(0, np.int64)]
    positions: list[Any] = [np.empty(0, np.int64)]
    for length in np.unique(wanted[wanted > 0]).tolist():
        rows, found = kernels.window_hashes(words.rows, words.hashes, length)
        of = np.repeat(np.arange(len(rows) - 1), np.diff(rows))
        chosen = wanted[of] == length
        hashes.append(found[chosen])
        fields.append(of[chosen])
        positions.append((np.arange(len(found)) - rows[of])[chosen])
    return np.concatenate(hashes), np.concatenate(fields), np.concatenate(positions)


def _same_items(words: Words, parts: NDArray[np.int8], item_of: NDArray[np.int32]) -> NDArray[np.uint64]:
    """The hash of each item's longest field: equal for items of equal text."""
    from penstock.selectors import decontaminate_kernels as kernels

    whole = kernels.whole_hashes(words.rows, words.hashes)
    out = np.empty(int(item_of[-1]) + 1, np.uint64)
    out[item_of] = whole  # an item's fields follow each other and the joined one is last
    return out


def _common(
    hashes: NDArray[np.uint64],
    item: NDArray[np.int32],
    benchmark_of: NDArray[np.int32],
    same: NDArray[np.uint64],
    settings: IndexSettings,
) -> NDArray[np.bool_]:
    """Which n-grams are common: shape (n-grams,)."""
    from penstock.selectors import decontaminate_kernels as kernels

    _, gram = np.unique(hashes, return_inverse=True)

    def different(values: NDArray[Any]) -> NDArray[np.int64]:
        """How many different values each n-gram occurs with."""
        order = np.lexsort((values, gram))
        g, v = gram[order], values[order]
        new = np.ones(len(g), np.bool_)
        new[1:] = (g[1:] != g[:-1]) | (v[1:] != v[:-1])
        return np.bincount(g[new], minlength=int(gram.max(initial=-1)) + 1)

    common = different(benchmark_of[item]) >= settings.common_benchmarks
    common |= different(same[item]) > settings.max_matches
    out: NDArray[np.bool_] = common[gram]
    if settings.boilerplate:
        words = folded_words(pa.array(settings.boilerplate, pa.large_string()))
        for length in range(settings.min_words, settings.ngram + 1):
            out |= np.isin(hashes, kernels.window_hashes(words.rows, words.hashes, length)[1])
    return out


def shingle_sets(words: Words, shingle: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """The set of ``shingle``-word runs of each row, sorted."""
    from penstock.selectors import decontaminate_kernels as kernels

    rows, members = kernels.sorted_sets(*kernels.window_hashes(words.rows, words.hashes, shingle))
    return rows, members


def near_bands(rows: NDArray[np.int64], members: NDArray[np.uint64], settings: IndexSettings) -> NDArray[np.uint64]:
    """MinHash band keys of sets: shape (sets, bands)."""
    from penstock.selectors import minhash_kernels
    from penstock.selectors.minhash import permutations

    a, b = permutations(settings.near_bands * settings.near_rows, 1)
    signatures = minhash_kernels.signatures(rows, (members >> np.uint64(32)).astype(np.uint32), a, b)
    return minhash_kernels.band_keys(signatures, settings.near_bands)


def _near(words: Words, settings: IndexSettings) -> dict[str, NDArray[Any]]:
    """Arrays of the near-duplicate level: band keys and sets of the fields that are long enough."""
    rows, members = shingle_sets(words, settings.near_shingle)
    long = np.flatnonzero(np.diff(words.rows) >= settings.near_min_words)
    sizes = np.diff(rows)[long]
    kept = np.concatenate([members[rows[f] : rows[f + 1]] for f in long]) if len(long) else members[:0]
    own = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    bands = near_bands(own, kept, settings)
    keys, places = bands.reshape(-1), np.repeat(np.arange(len(long)), settings.near_bands)
    order = np.lexsort((places, keys))
    return {
        "near_keys": keys[order],
        "near_field": places[order].astype(np.int32),
        "near_of": long.astype(np.int32),
        "near_rows": own,
        "near_members": kept,
    }


def _flat(names: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    from penstock.text import row_views

    offsets, data = row_views(names)
    return offsets - offsets[0], data[offsets[0] : offsets[-1]]


@cache
def load_index(path: str, digest: str, settings: IndexSettings) -> BenchmarkIndex:
    """Read an index once per process.

    Raises:
        DatasetError: a file is missing or damaged, or the index was made by another version or with other settings.
    """
    from penstock.selectors import decontaminate_kernels as kernels

    loaded = artifact.load(path, digest)
    arrays, facts = loaded.arrays, loaded.facts
    rebuild = "build it again with the step benchmarks"
    if facts.get("format") != FORMAT:
        raise DatasetError(f"{path}: index format {facts.get('format')}, this penstock reads {FORMAT}; {rebuild}")
    if facts["unicode"] != UNICODE:
        raise DatasetError(f"{path}: made with Unicode {facts['unicode']}, this Python has {UNICODE}; {rebuild}")
    wanted = asdict(settings) | {"boilerplate": list(settings.boilerplate)}
    was = facts["settings"]
    other = [f"{name} {was.get(name)!r}, not {wanted[name]!r}" for name in wanted if was.get(name) != wanted[name]]
    if other:
        raise DatasetError(f"{path}: made with {'; '.join(other)}; {rebuild}")
    keys = arrays["keys"]
    bits, near_bits = (max(6, len(of).bit_length() + _BITS_PER_KEY) for of in (keys, arrays["near_keys"]))
    names = pa.LargeStringArray.from_buffers(
        len(arrays["name_offsets"]) - 1, pa.py_buffer(arrays["name_offsets"]), pa.py_buffer(arrays["name_letters"])
    )
    return BenchmarkIndex(
        settings=settings,
        benchmarks=tuple(facts["benchmarks"]),
        benchmark_of=arrays["benchmark_of"],
        names=names.cast(pa.string()),
        fields=Fields(arrays["item"], arrays["part"], arrays["words"], arrays["grams"]),
        keys=keys,
        firsts=arrays["firsts"],
        field=arrays["field"],
        position=arrays["position"],
        lengths=np.array(facts["lengths"], np.int64),
        known=kernels.bitmap(keys, bits),
        bits=bits,
        near_keys=arrays["near_keys"],
        near_known=kernels.bitmap(arrays["near_keys"], near_bits),
        near_bits=near_bits,
        near_field=arrays["near_field"],
        near_of=arrays["near_of"],
        near_rows=arrays["near_rows"],
        near_members=arrays["near_members"],
    )
