"""How well a tokenizer fits the text: the figures a report shows, by domain.

Conventions. ``tokens`` of a document count its end-of-document id, which is not text, so one a document
is taken off. Bytes are UTF-8 of the text as it is encoded. A word is a run of characters that are not Unicode
white space; languages written without spaces have no such words, so read their ``tokens_per_word`` as noise and
their ``bytes_per_token`` instead. A share of the vocabulary counts every id, special tokens too.

Price: one pass over the text for words (50 MB/s), one over the ids; nothing per row in Python.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock import schema
from penstock.errors import ConfigError, DatasetError

# RE2's \s is ASCII without \v; with the separators, NEL and the four information separators it equals str.split()
_WORD = r"[^\s\x0b\x1c-\x1f\x{85}\p{Z}]+"
_COUNTS = ("documents", "bytes", "characters", "words", "tokens")

FIGURES = pa.schema(
    [
        pa.field("domain", pa.string(), nullable=False),
        *(pa.field(name, pa.int64(), nullable=False) for name in _COUNTS),
        pa.field("bytes_per_token", pa.float64()),  # null without tokens
        pa.field("tokens_per_word", pa.float64()),  # "fertility"; null without words
    ]
)


@dataclass(frozen=True, kw_only=True)
class LongToken:
    """A token, how many bytes it stands for, and how often it was used."""

    token_id: int
    text: str  # bytes that are no whole character appear as U+FFFD
    bytes: int
    used: int


def by_domain(table: pa.Table) -> pa.Table:
    """Counts and ratios of each domain, in the order of its name: a table of ``FIGURES``.

    Args:
        table: columns ``text``, ``domain``, and ``tokens`` as ``Encode`` adds them.

    Figures of parts add up: see ``merge``. Raises DatasetError when a column is missing or ``tokens`` is null.
    """
    schema.require(table.schema.names, ("text", "domain", "tokens"), where="tokenizer figures")
    if table["tokens"].null_count:
        raise DatasetError(
            f"tokenizer figures: got {table['tokens'].null_count} rows without tokens; encode them first"
        )
    text = table["text"]
    rows = pa.table(
        {
            "domain": table["domain"].cast(pa.string()),
            "documents": pa.array(np.ones(table.num_rows, dtype=np.int64)),
            "bytes": pc.binary_length(text).cast(pa.int64()),
            "characters": pc.utf8_length(text).cast(pa.int64()),
            "words": pc.count_substring_regex(text, _WORD).cast(pa.int64()),
            "tokens": pc.subtract(table["tokens"].cast(pa.int64()), 1),
        }
    )
    return merge([rows])


def merge(parts: list[pa.Table]) -> pa.Table:
    """Figures of several passes as one: counts are added by domain, ratios made anew."""
    columns = ["domain", *_COUNTS]
    empty = pa.schema([FIGURES.field(name) for name in columns]).empty_table()
    rows = pa.concat_tables([empty, *(part.select(columns).cast(empty.schema) for part in parts)])
    sums = rows.group_by("domain").aggregate([(name, "sum") for name in _COUNTS]).sort_by("domain")
    return _with_ratios(sums.rename_columns({f"{name}_sum": name for name in _COUNTS}))


def overall(figures: pa.Table, name: str = "all") -> pa.Table:
    """All domains of a ``FIGURES`` table as one row called ``name``."""
    sums: dict[str, Any] = {column: pa.array([pc.sum(figures[column]).as_py() or 0]) for column in _COUNTS}
    return _with_ratios(pa.table({"domain": pa.array([name]), **sums}))


def count_ids(token_ids: pa.Array | pa.ChunkedArray, vocabulary: int) -> NDArray[np.int64]:
    """How often each id occurs in a list column: (vocabulary,). Counts of parts add up.

    Raises DatasetError when an id is outside the vocabulary.
    """
    chunks = token_ids.chunks if isinstance(token_ids, pa.ChunkedArray) else [token_ids]
    counts = np.zeros(vocabulary, dtype=np.int64)
    for chunk in chunks:
        found = np.bincount(chunk.flatten().to_numpy(), minlength=vocabulary)
        if len(found) > vocabulary:
            raise DatasetError(
                f"token ids: got {len(found) - 1}, allowed 0 to {vocabulary - 1}; were they made by another tokenizer?"
            )
        counts += found
    return counts


def vocabulary_share(counts: NDArray[np.int64]) -> float:
    """Share of the vocabulary that occurs at all; ``counts`` (vocabulary,) as ``count_ids`` returns it."""
    return float(np.count_nonzero(counts)) / len(counts) if len(counts) else 0.0


def longest_tokens(tokenizer: bytes, counts: NDArray[np.int64], n: int = 20) -> list[LongToken]:
    """The ``n`` longest tokens in use, longest first, then by id.

    Args:
        tokenizer: content of a ``tokenizer.json`` whose model is byte-level BPE.
        counts: (vocabulary,) uses of each id.

    Raises ConfigError when the tokenizer is not byte-level, since its tokens then have no bytes to count.
    """
    from tokenizers import Tokenizer

    state = json.loads(tokenizer)
    if (state.get("decoder") or {}).get("type") != "ByteLevel":
        raise ConfigError("tokenizer: got one without a ByteLevel decoder, allowed byte-level BPE such as train_bpe's")
    special = {token["id"] for token in state["added_tokens"]}
    # a byte-level vocabulary spells every byte as one character
    sizes = np.zeros(len(counts), dtype=np.int64)
    for token, token_id in state["model"]["vocab"].items():
        if token_id not in special and token_id < len(counts) and counts[token_id]:
            sizes[token_id] = len(token)
    chosen = np.argsort(-sizes, kind="stable")[: max(n, 0)]
    decoder = Tokenizer.from_buffer(tokenizer)
    return [
        LongToken(token_id=i, text=decoder.decode([i], skip_special_tokens=False), bytes=size, used=used)
        for i, size, used in zip(chosen.tolist(), sizes[chosen].tolist(), counts[chosen].tolist(), strict=True)
        if size
    ]


def _with_ratios(sums: pa.Table) -> pa.Table:
    def ratio(over: str, under: str) -> pa.ChunkedArray:
        divisor = sums[under].cast(pa.float64())
        return pc.divide(sums[over].cast(pa.float64()), pc.if_else(pc.equal(divisor, 0.0), None, divisor))

    columns = [sums["domain"], *(sums[name] for name in _COUNTS), ratio("bytes", "tokens"), ratio("tokens", "words")]
    return pa.Table.from_arrays(columns, schema=FIGURES)
