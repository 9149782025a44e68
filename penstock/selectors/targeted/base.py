"""One interface for selectors that look at a target set: a target in, a score for every row and a selection out.

    fit      target rows + the pool -> a Scorer: frozen, picklable, known by a fingerprint
    annotate batch of the pool -> ``score.<name>``, higher is nearer the target
    choose   all scores -> ranks and who is selected

A selector is a frozen keyword-only dataclass of its settings. ``fit`` may look at the pool, by iterating it (more than
once if it must) or by a mergeable summary (``summary_of``), which the step makes as a pass over parts on any engine;
what is learned may not depend on the order of rows or on how they are cut. A Scorer is row work: it sees a batch and
the fitted state, nothing else. Ranks go by score, then by ``doc_id``.

``choose`` takes the highest scores. A selector whose selection is no such prefix (copies, sampling, a set that is kept
diverse) has a method ``choose`` of its own with the arguments of ``Chooses``.

Price: choosing holds every row's id and score in memory (about 60 bytes a row) and sorts them once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock import schema
from penstock import work as rowwork
from penstock.dataset import hash_json
from penstock.digest import TableDigest
from penstock.errors import ConfigError, DatasetError

Unit = Literal["examples", "tokens"]

# what `choose` adds, and what the step adds to it
CHOSEN = ("score", "rank", "selected")
PROVENANCE = ("method", "target_fingerprint", "state_fingerprint")

_WHERE = ("path", "model", "device", "batch_tokens")
_SIGNIFICANT = 16  # bits of a score that count: nearly five decimal digits


class Scorer(Protocol):
    """Row work made by ``fit``: an annotator that adds the selector's column (float32; null where a row has none).

    It is a frozen dataclass that holds paths and digests of artifacts and small settings, so it pickles in a few bytes.
    """

    name: ClassVar[str]
    revision: ClassVar[int]

    @property
    def reads(self) -> tuple[str, ...]: ...
    @property
    def adds(self) -> tuple[str, ...]: ...
    def annotate(self, batch: pa.RecordBatch) -> dict[str, pa.Array]: ...


class TargetSelector(Protocol):
    """A method: its settings, frozen.

    Attributes:
        name: of the method; the column is ``score.<name>``.
        reads: columns of target and pool that ``fit`` and the scorer see, of ``schema.DOCUMENTS`` and beside these
            ``embedding`` (made by the run where asked for) and ``tokens`` (null where the pool has no counts).

    By option:
        libraries: distributions whose version decides the scores (``step.Step.libraries``).
        paths: names of fields that say where files lie; they stay out of the step's key, the files' digests do not.
        files(): those files, as ``sources.base.InputFile``.

    A Scorer may have ``setup()``, ``facts()`` (JSON values for the manifest) and ``artifacts()`` (paths of the JSONs of
    ``selectors.artifact`` that are kept with the scores; by default its ``path``).
    """

    name: ClassVar[str]
    revision: ClassVar[int]

    @property
    def column(self) -> str: ...
    @property
    def reads(self) -> tuple[str, ...]: ...
    def fit(self, target: pa.Table, pool: Iterable[pa.RecordBatch], folder: str) -> Any:
        """A Scorer.

        Args:
            target: rows with the columns of ``reads``; their ``domain`` is the task they stand for.
            pool: batches with the same columns; may be iterated more than once.
            folder: path or URL where artifacts are written (``selectors.artifact``).

        Raises:
            ConfigError: the target is empty, or the settings do not fit the rows.
        """


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much is selected: a fraction of the pool or a count, of examples or of tokens.

    Raises:
        ConfigError: neither or both are given, or one is out of its range.
    """

    fraction: float | None = None
    count: int | None = None
    unit: Unit = "examples"

    def __post_init__(self) -> None:
        if (self.fraction is None) == (self.count is None):
            given = "neither a fraction nor a count" if self.fraction is None else "a fraction and a count"
            raise ConfigError(f"budget: got {given}, allowed one of them; give fraction=0.05 or count=1000")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ConfigError(f"budget fraction: got {self.fraction}, allowed 0 < fraction <= 1; 0.05 is 5 %")
        if self.count is not None and self.count < 1:
            raise ConfigError(f"budget count: got {self.count}, allowed >= 1; ask for at least one")
        if self.unit not in ("examples", "tokens"):
            raise ConfigError(f"budget unit: got {self.unit!r}, allowed examples, tokens; choose one")

    def sizes(self, rows: pa.Table) -> NDArray[np.int64]:
        """What each row costs: 1, or its tokens. Shape (n,), int64.

        Raises:
            DatasetError: tokens are asked for and the rows have no counts, or a negative one.
        """
        if self.unit == "examples":
            return np.ones(rows.num_rows, dtype=np.int64)
        if "tokens" not in rows.column_names or rows["tokens"].null_count:
            raise DatasetError(
                "budget in tokens: got rows without token counts, allowed a pool with a column tokens; give a run's "
                "scored dataset, name a tokenizer, or ask for examples"
            )
        sizes: NDArray[np.int64] = rows["tokens"].to_numpy().astype(np.int64)
        if len(sizes) and sizes.min() < 0:
            raise DatasetError(f"budget in tokens: got a count of {sizes.min()}, allowed >= 0; count tokens again")
        return sizes

    def amount(self, sizes: NDArray[np.int64]) -> int:
        """What may be spent on rows of these sizes; more than there is when more was asked for."""
        if self.count is not None:
            return self.count
        assert self.fraction is not None
        # the nearest whole number, and never nothing of something
        return max(1, math.floor(self.fraction * int(sizes.sum()) + 0.5))


@runtime_checkable
class Chooses(Protocol):
    """A selector with a choice of its own.

    ``scores`` has ``doc_id``, ``id_hash``, ``domain``, ``tokens``, ``score`` and the further columns of the scorer's
    ``adds``, in any order of rows; the answer has all of these and ``rank`` and ``selected`` (perhaps ``copies``), in
    order of rank. A ``score`` may be replaced.
    """

    def choose(self, scores: pa.Table, budget: Budget) -> pa.Table: ...


def choose(
    scores: pa.Table, *, fraction: float | None = None, count: int | None = None, unit: Unit = "examples"
) -> pa.Table:
    """The rows in order of rank, with ``rank`` (int64, from 1) and ``selected`` (bool).

    Selected is the longest beginning of the ranks that costs no more than the budget; with fewer rows than asked for,
    all of them. A row without a score has no rank and is never selected.

    Args:
        scores: ``doc_id`` (unique) and ``score``; with unit tokens ``tokens`` too. Other columns are carried along.
        fraction, count, unit: see ``Budget``.

    Raises:
        ConfigError: the budget is wrong, or the highest row alone costs more than it.
        DatasetError: token counts are needed and absent, a score is NaN, or a ``doc_id`` comes twice.
    """
    ordered = in_rank_order(scores)
    taken = prefix_within(ordered, Budget(fraction=fraction, count=count, unit=unit))
    return with_ranks(ordered, np.arange(ordered.num_rows) < taken)


def prefix_within(ordered: pa.Table, budget: Budget) -> int:
    """Length of the longest beginning of rows in rank order that costs no more than the budget.

    Raises:
        ConfigError: the first row alone costs more.
        DatasetError: token counts are needed and absent.
    """
    ranked = ordered.num_rows - ordered["score"].null_count
    sizes = budget.sizes(ordered)
    amount = budget.amount(sizes)
    taken = int(np.searchsorted(np.cumsum(sizes[:ranked]), amount, side="right"))
    if ranked and not taken:
        raise ConfigError(
            f"budget: got {amount:,} {budget.unit}, and the first row alone has {int(sizes[0]):,}; ask for at least as "
            "many"
        )
    return taken


def in_rank_order(scores: pa.Table, order: NDArray[np.int64] | None = None) -> pa.Table:
    """The rows by score from the highest, then by ``doc_id``; rows without a score at the end.

    Args:
        order: another order of the rows, with those without a score at its end.

    Raises:
        DatasetError: a score is NaN, or a ``doc_id`` comes twice.
    """
    schema.require(scores.column_names, ("doc_id", "score"), where="choosing")
    values = scores["score"].cast(pa.float32())
    lost = pc.sum(pc.is_nan(values)).as_py() or 0
    if lost:
        raise DatasetError(f"score: got NaN in {lost} row(s), allowed null where a row has no score; write null")
    if pc.count_distinct(scores["doc_id"]).as_py() != scores.num_rows:
        raise DatasetError("doc_id: got the same id in more than one row, allowed once; give each row its own")
    place = scores.column_names.index("score")
    scores = scores.set_column(place, "score", values)
    places = pc.sort_indices(scores, [("score", "descending"), ("doc_id", "ascending")]) if order is None else order
    return scores.take(pa.array(places)).combine_chunks()


def with_ranks(ordered: pa.Table, selected: NDArray[np.bool_]) -> pa.Table:
    """Rows in order of rank with ``rank`` and ``selected``; those without a score have rank null."""
    rank = pa.array(np.arange(1, ordered.num_rows + 1), pa.int64())
    rank = pc.if_else(pc.is_valid(ordered["score"]), pa.chunked_array([rank]), None)
    return ordered.append_column("rank", rank).append_column("selected", pa.array(selected))


def scores_array(values: NDArray[Any], present: NDArray[np.bool_] | None = None) -> pa.Array:
    """Scores as they are stored: float32 of 16 significant bits, so that equal rows rank equal on every machine.

    Args:
        values: shape (n,). A value that is no finite number becomes null.
        present: rows that have a score; by default all.
    """
    wide = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(wide)
    mantissa, exponent = np.frexp(np.where(finite, wide, 0.0))
    scale = 2.0**_SIGNIFICANT
    stored = np.ldexp(np.round(mantissa * scale) / scale, exponent).astype(np.float32) + np.float32(0.0)  # no -0.0
    return pa.array(stored, mask=~finite if present is None else ~(finite & present))


def check_target(target: pa.Table, reads: Iterable[str], *, method: str) -> None:
    """Refuse a target without rows, or without a column that the method reads.

    Raises:
        ConfigError: the target is empty.
        DatasetError: a column is missing.
    """
    if target.num_rows == 0:
        raise ConfigError(f"{method} target: got no rows, allowed one or more; name files that hold documents")
    schema.require(target.column_names, reads, where=f"target of {method}")


def target_fingerprint(target: pa.Table) -> str:
    """32 hex digits of the texts and domains of a target; the order of rows and their ids do not matter."""
    rows = target.select(["text", "domain"])
    return TableDigest.of(rows).hex({"text": "string", "domain": "string"})


def state_fingerprint(scorer: Any) -> str:
    """32 hex digits of a scorer: its name, revision and settings with the digests of its artifacts.

    Fields that say where something lies or runs (``path``, ``model``, ``device``, ``batch_tokens``) are left out.
    """

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: bare(entry) for name, entry in value.items() if name not in _WHERE}
        return [bare(entry) for entry in value] if isinstance(value, (list, tuple)) else value

    return hash_json(bare(rowwork.describe(scorer)))


def summary_of(pool: Iterable[pa.RecordBatch], name: str, summarise: Callable[[pa.RecordBatch], Any], kind: Any) -> Any:
    """The merged summary of the pool's rows (``work.Summary``); a pool of a step makes it as a pass over its parts.

    Args:
        name: of the pass.
        summarise: picklable; one summary a batch.
        kind: the summary's class, whose ``from_table`` reads it.

    Raises:
        ConfigError: the pool has no rows.
    """
    as_pass = getattr(pool, "summarise", None)
    if as_pass is not None:
        return as_pass(name, summarise, kind)
    merged: Any = None
    for batch in pool:
        summary = summarise(batch)
        merged = summary if merged is None else merged.merge(summary)
    if merged is None:
        raise ConfigError("pool: got no rows, allowed one or more; look at what was dropped before")
    return merged


def with_facts(chosen: pa.Table, **facts: float) -> pa.Table:
    """The table with numbers about the choice in its schema's metadata, for the step's statistics (``facts_of``)."""
    return chosen.replace_schema_metadata({"facts": json.dumps(facts, allow_nan=False)})


def facts_of(chosen: pa.Table) -> dict[str, float]:
    """What ``with_facts`` put there."""
    found: dict[str, float] = json.loads((chosen.schema.metadata or {}).get(b"facts", b"{}"))
    return found
