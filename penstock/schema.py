"""The Arrow tables that cross a border between parts of penstock.

``documents`` and ``problems`` grow columns on their way; the constants here are what every row has
from the start. Scores are named ``score.<name>``. Lists of what each column means stand beside it.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from penstock.errors import ConfigError, DatasetError

DOCUMENTS = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),  # "<file>#<row number>": unique, however the file is split
        pa.field("id_hash", pa.uint64(), nullable=False),  # seeding.hash_ids(doc_id): the row's coin
        pa.field("content_hash", pa.binary(16), nullable=False),  # blake2b-128 of the UTF-8 text
        pa.field("text", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),  # which source of the recipe
        pa.field("domain", pa.string(), nullable=False),
        # what the source knows of the text; null where it does not
        pa.field("url", pa.string()),
        pa.field("title", pa.string()),
        pa.field("date", pa.string()),  # ISO 8601, as precise as the source is
        pa.field("license", pa.string()),  # SPDX identifier where there is one
        # byte ranges of the text that training learns from, [start, stop, start, stop, …]; null is all of it
        pa.field("learn", pa.list_(pa.int32())),
    ]
)
ORIGIN = ("url", "title", "date", "license", "learn")  # columns of DOCUMENTS that a source may leave null

PROBLEMS = pa.schema(
    [
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("group_id", pa.string(), nullable=False),  # problem_id of the original
        pa.field("variant", pa.string(), nullable=False),  # "original" or the kind of transform
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("original_prompt", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field(
            "verdicts", pa.list_(pa.struct([("check", pa.string()), ("passed", pa.bool_()), ("detail", pa.string())]))
        ),
        pa.field("parents", pa.list_(pa.string())),
        pa.field("provenance", pa.string()),  # JSON: model, revision, prompt hash, seed, round, gain
    ]
)

DROPPED = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("step", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("source", pa.string()),
        pa.field("domain", pa.string()),
        pa.field("detail", pa.string()),  # the survivor of a duplicate, the position of a bad record, …
        pa.field("text", pa.string()),  # null, a masked sample, or the whole text: see recipe `dropped`
    ]
)

SIGNALS = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("sequence", pa.int64(), nullable=False),  # position in the training order
        pa.field("segment", pa.int32(), nullable=False),  # index of the segment in its sequence
        pa.field("tokens", pa.int32(), nullable=False),  # predicted tokens of the segment that are learned
        pa.field("loss", pa.float32(), nullable=False),  # nats per token, mean over these
        pa.field("excess_loss", pa.float32(), nullable=False),  # minus its domain's running mean at that step
        pa.field("step", pa.int64(), nullable=False),
        pa.field("mixture_version", pa.int32(), nullable=False),
    ]
)

POLICY_LOG = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),
        pa.field("effective_from_sequence", pa.int64(), nullable=False),
        pa.field("mixture_version", pa.int32(), nullable=False),
        pa.field("policy", pa.string(), nullable=False),
        pa.field("domains", pa.list_(pa.string()), nullable=False),
        pa.field("signals", pa.string()),  # JSON: what the policy saw, by domain
        pa.field("old_weights", pa.list_(pa.float64()), nullable=False),
        pa.field("new_weights", pa.list_(pa.float64()), nullable=False),
    ]
)


def token_type(vocabulary: int) -> pa.DataType:
    """The narrowest unsigned type that holds every token id of a vocabulary of this size."""
    if vocabulary < 1 or vocabulary > 2**32:
        raise ConfigError(f"vocabulary size: got {vocabulary}, allowed 1 to 2**32")
    return pa.uint16() if vocabulary <= 2**16 else pa.uint32()


def sequences(length: int, tokens: pa.DataType) -> pa.Schema:
    """Schema of packed training sequences of ``length`` tokens.

    ``segment_lengths`` sums to at most ``length``; what is left at the end is padding. Segment i is
    a run of tokens of document ``segment_docs[i]``. ``loss_mask`` holds the runs [start, stop, start, stop, …] of
    positions whose token is learned where it is predicted; null is all of them. They rise and lie apart.
    """
    return pa.schema(
        [
            pa.field("tokens", pa.list_(pa.field("item", tokens, nullable=False), length), nullable=False),
            pa.field("segment_lengths", pa.list_(pa.int32()), nullable=False),
            pa.field("segment_docs", pa.list_(pa.string()), nullable=False),
            pa.field("domain", pa.string(), nullable=False),
            pa.field("loss_mask", pa.list_(pa.int32())),
        ],
        metadata={"sequence_length": str(length)},
    )


def require(found: Iterable[str], needed: Iterable[str], *, where: str) -> None:
    """Raise DatasetError naming both sides when a column that is needed is not there."""
    found = list(found)
    missing = [name for name in needed if name not in found]
    if missing:
        raise DatasetError(f"{where}: missing column(s) {', '.join(missing)}; found {', '.join(found) or 'none'}")
