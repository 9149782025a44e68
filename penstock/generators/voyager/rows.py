"""A voyage as tables.

    problems    accepted items with an answer, as ``schema.PROBLEMS``
    documents   accepted items without one, as ``schema.DOCUMENTS`` and ``provenance``
    dropped     the others, as ``schema.DROPPED`` and ``stage``, ``nearest``, ``gain``, ``threshold``, ``provenance``
    rounds      a row a round
    vectors     an embedding for every item that has one, accepted or not, and for the seed set, to draw a map of

``provenance`` is a JSON object: what made the item (its ``origin``: model, revision, request key, prompt hash, sample
index, usage; or family, parameters, item seed) and how it came to be accepted. Equal voyages give equal tables: what a
replay from kept answers does not repeat, such as cost, is in no table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock import __version__, schema
from penstock import work as rowwork
from penstock.embedding.base import embedding_array
from penstock.generators.voyager.known import PREFIX
from penstock.generators.voyager.records import Decision, Voyage
from penstock.sources.base import documents_batch

PROVENANCE = pa.field("provenance", pa.string())
DOCUMENTS = schema.DOCUMENTS.append(PROVENANCE)
MORE = (
    pa.field("stage", pa.string(), nullable=False),
    pa.field("nearest", pa.string()),
    pa.field("gain", pa.float64()),
    pa.field("threshold", pa.float64()),
    PROVENANCE,
)
DROPPED = pa.schema([*schema.DROPPED, *MORE])
ROUNDS = pa.schema(
    [
        pa.field("round", pa.int32(), nullable=False),  # -1 is the first sample
        pa.field("threshold", pa.float64()),
        pa.field("proposed", pa.int64(), nullable=False),
        pa.field("accepted", pa.int64(), nullable=False),
        pa.field("rejected", pa.int64(), nullable=False),
        pa.field("rate", pa.float64(), nullable=False),  # accepted / proposed
        pa.field("mean_gain", pa.float64()),
        pa.field("vendi", pa.float64(), nullable=False),  # of all accepted so far: cosine kernel, order 1
        pa.field("total", pa.int64(), nullable=False),  # accepted so far
        pa.field("steps", pa.int64(), nullable=False),  # times explorers were asked
        pa.field("calls", pa.int64()),  # of a model; null without one
        pa.field("calls_per_accepted", pa.float64()),
        pa.field("explorers", pa.string(), nullable=False),  # JSON: id, parent, proposed, accepted
        pa.field("dropped", pa.string(), nullable=False),  # JSON: stage -> reason -> items
    ]
)
_DIGITS = 6  # of gains and scores: their last bits may differ from machine to machine


def row_id(name: str, one: Decision) -> str:
    """``problem_id`` or ``doc_id`` of an item."""
    return f"{name}#{one.item_id}"


def _id_of(name: str, item_id: str) -> str:
    """The id of an item's row, or of a known text's document."""
    return item_id.removeprefix(PREFIX) if item_id.startswith(PREFIX) else f"{name}#{item_id}"


def provenance(voyage: Voyage, one: Decision, strategy: str) -> str:
    """How an item came about, as canonical JSON; the ``seed`` of its origin is ``request_seed`` here."""
    explorer = voyage.explorers[one.explorer_id]
    return json.dumps(
        {
            **{"request_seed" if name == "seed" else name: value for name, value in one.item.origin.items()},
            "explorer_id": explorer.explorer_id,
            "parent_explorer_id": explorer.parent_id,
            "explorer_prompt": explorer.prompt,
            "gradient_text": explorer.gradient,
            "round": one.round,
            "batch_position": one.position,
            "gain": _rounded(one.gain),
            "threshold": _rounded(one.threshold),
            "threshold_strategy": strategy,
            "anchor_fingerprint": one.anchors,
            "kernel_fingerprint": None if voyage.kernel is None else voyage.kernel["fingerprint"],
            "seed": voyage.seed,
            "code_version": __version__,
        },
        sort_keys=True,
        ensure_ascii=True,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)


def problems(voyage: Voyage, name: str, strategy: str) -> pa.Table:
    """Accepted items with an answer."""
    rows: list[dict[str, Any]] = [
        {
            "problem_id": row_id(name, one),
            "group_id": row_id(name, one),
            "variant": "original",
            "prompt": one.item.text,
            "original_prompt": one.item.text,
            "answer": one.item.answer,
            "verdicts": [verdict._asdict() for verdict in one.item.verdicts],
            "parents": [],
            "provenance": provenance(voyage, one, strategy),
        }
        for one in voyage.accepted
        if one.item.answer is not None
    ]
    return pa.Table.from_pylist(rows, schema=schema.PROBLEMS)


def documents(voyage: Voyage, name: str, strategy: str) -> pa.Table:
    """Accepted items without an answer; source and domain are ``name``."""
    found = [one for one in voyage.accepted if one.item.answer is None]
    batch = documents_batch(
        [row_id(name, one) for one in found],
        [one.item.text for one in found],
        source=name,
        domains=[name] * len(found),
    )
    told = pa.array([provenance(voyage, one, strategy) for one in found], pa.string())
    return pa.Table.from_arrays([*batch.columns, told], schema=DOCUMENTS)


def dropped(voyage: Voyage, name: str, strategy: str, keep: str) -> pa.Table:
    """Items that were not accepted.

    Args:
        keep: how much of their text, as in ``Settings.dropped``.
    """
    found = voyage.rejected
    texts = [one.item.text.encode("utf-8", "replace").decode() for one in found]
    rows = pa.RecordBatch.from_pydict(
        {
            "doc_id": pa.array([row_id(name, one) for one in found], pa.string()),
            "text": pa.array(texts, pa.string()),
            "source": pa.array([name] * len(found), pa.string()),
            "domain": pa.array([name] * len(found), pa.string()),
        }
    )
    plain = rowwork.drop_rows(rows, pa.array([one.reason for one in found], pa.string()), step=name, keep=keep)
    near = [one.nearest for one in found]
    more = [
        pa.array([one.stage for one in found], pa.string()),
        pa.array([None if other is None else _id_of(name, other) for other in near], pa.string()),
        pa.array([_rounded(one.gain) for one in found], pa.float64()),
        pa.array([_rounded(one.threshold) for one in found], pa.float64()),
        pa.array([provenance(voyage, one, strategy) for one in found], pa.string()),
    ]
    return pa.Table.from_arrays([*plain.columns, *more], schema=DROPPED)


def rounds(voyage: Voyage) -> pa.Table:
    """A row a round."""
    rows = [
        {
            **{name: getattr(one, name) for name in ("round", "proposed", "accepted", "rejected", "rate")},
            **{name: getattr(one, name) for name in ("total", "steps", "calls")},
            **{name: _rounded(getattr(one, name)) for name in ("threshold", "mean_gain", "vendi")},
            "calls_per_accepted": None if one.calls is None or not one.accepted else one.calls / one.accepted,
            "explorers": json.dumps([list(explorer) for explorer in one.explorers]),
            "dropped": json.dumps(one.dropped, sort_keys=True),
        }
        for one in voyage.rounds
    ]
    return pa.Table.from_pylist(rows, schema=ROUNDS)


def vectors(voyage: Voyage, name: str, seeds: NDArray[np.float32] | None = None) -> pa.Table:
    """``id``, ``kind`` and ``embedding`` of every item that has one, in order, and of the seed set before them.

    Kinds are ``accepted``, ``rejected`` and ``seed``.

    Args:
        seeds: embeddings of a seed set, (s, d).
    """
    found: Sequence[Decision] = [one for one in voyage.decisions if one.vector is not None]
    own = [one.vector for one in found if one.vector is not None]
    given = [] if seeds is None else list(seeds)
    width = len((given + own)[0]) if given or own else 1
    embeddings = np.array([*given, *own], dtype=np.float32).reshape(len(given) + len(own), width)
    ids = [f"{name}#seed-{place}" for place in range(len(given))] + [row_id(name, one) for one in found]
    kinds = ["seed"] * len(given) + ["accepted" if one.accepted else "rejected" for one in found]
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "kind": pa.array(kinds, pa.string()),
            "embedding": embedding_array(embeddings),
        }
    )
