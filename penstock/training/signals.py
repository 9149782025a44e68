"""What training saw: the loss of every segment, as a table that the next selection reads.

``excess_loss`` is a segment's loss minus the running mean of its domain. The mean of domain k after
step t is N_k / D_k with, at every step that holds predicted tokens of k::

    N_k <- decay * N_k + sum of the step's token losses in k
    D_k <- decay * D_k + the step's predicted tokens in k

Predicted tokens are here those that are learned as well; a segment with none has no row. The mean weighs tokens,
needs no bias correction, includes the step itself, and stays put while a domain is absent. Losses fall during
training; a mean over all steps would call every late segment easy.

The table is written in parts named by the steps they hold, one for each rank: a rank writes what it trained on, against
means over all ranks. A part ends at every checkpoint, so a resumed run removes the parts after its checkpoint and none
straddles it. A step whose gradient was refused has no rows: nothing was learned from them.

Price: one row per segment with at least one predicted token, about 30 bytes on disk; rows of one part
in memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from penstock import schema
from penstock.errors import DatasetError
from penstock.storage import storage_errors
from penstock.training.loader import Batch

Floats = NDArray[np.float64]

_PART = re.compile(r"part-(\d{8})-(\d{8})(?:\.(\d{5})-of-(\d{5}))?\.parquet")
_POLICY_PART = re.compile(r"part-(\d{8})\.parquet")


class SignalWriter:
    """Collects segment losses step by step and writes them as parts of the ``signals`` table."""

    def __init__(
        self,
        folder: Path,
        domains: Sequence[str],
        *,
        decay: float,
        every: int,
        rank: int = 0,
        world_size: int = 1,
        begins: int = 0,
    ) -> None:
        """
        Args:
            folder: of the parts; made when the first is written.
            domains: names in the order of ``Batch.domain``.
            decay: of the running mean, 0 <= decay < 1.
            every: steps per part.
            rank, world_size: this writer among those of the run.
            begins: step that the run's first one comes after.
        """
        self.folder, self.domains, self.decay, self.every = folder, tuple(domains), decay, every
        self.begins = begins
        self.rank, self.world_size = rank, world_size
        self._losses = np.zeros(len(domains))  # N_k
        self._tokens = np.zeros(len(domains))  # D_k
        self._first = 0
        self._batches: list[pa.RecordBatch] = []

    @property
    def means(self) -> Floats:
        """Running mean loss by domain, nan for one not seen yet: shape (K,)."""
        out = np.full(len(self.domains), np.nan)
        np.divide(self._losses, self._tokens, out=out, where=self._tokens > 0)
        return out

    def observe(
        self,
        step: int,
        batch: Batch,
        sums: Floats,
        tokens: Floats,
        *,
        over_ranks: tuple[Floats, Floats] | None = None,
    ) -> dict[str, float]:
        """Take in one step and return its mean loss by domain, in nats per token.

        Args:
            step: number of the update, counted from 1.
            batch: the sequences of this rank, S segments together.
            sums, tokens: summed loss and tokens with a loss of each segment, shape (S,).
            over_ranks: sums and tokens by domain of all ranks, (K,) each; None takes those of this batch.
        """
        row = np.repeat(np.arange(len(batch.numbers)), batch.segment_counts)
        domain = batch.domain[row]
        own = [np.bincount(domain, weights=values, minlength=len(self.domains)) for values in (sums, tokens)]
        of_domain, count = own if over_ranks is None else over_ranks
        present = count > 0
        self._losses[present] = self.decay * self._losses[present] + of_domain[present]
        self._tokens[present] = self.decay * self._tokens[present] + count[present]

        first_of_row = np.cumsum(batch.segment_counts) - batch.segment_counts
        segment = np.arange(len(row)) - first_of_row[row]
        seen = np.flatnonzero(tokens > 0)  # a segment of one token predicts nothing, one of a prompt is not learned
        loss = sums[seen] / tokens[seen]
        names = pa.DictionaryArray.from_arrays(pa.array(domain[seen], pa.int32()), pa.array(self.domains, pa.string()))
        columns = {
            "doc_id": batch.segment_docs.take(pa.array(seen)),
            "domain": names.dictionary_decode(),
            "sequence": pa.array(batch.numbers[row[seen]]),
            "segment": pa.array(segment[seen], pa.int32()),
            "tokens": pa.array(tokens[seen].astype(np.int32)),
            "loss": pa.array(loss.astype(np.float32)),
            "excess_loss": pa.array((loss - self.means[domain[seen]]).astype(np.float32)),
            "step": pa.array(np.full(len(seen), step, dtype=np.int64)),
            "mixture_version": pa.array(batch.mixture_version[row[seen]].astype(np.int32)),
        }
        self._batches.append(pa.RecordBatch.from_arrays(list(columns.values()), schema=schema.SIGNALS))
        self._end_step(step)
        return {self.domains[k]: float(of_domain[k] / count[k]) for k in np.flatnonzero(present)}

    def skip(self, step: int) -> None:
        """Take note of a step that leaves no rows: its gradient was refused."""
        self._end_step(step)

    def _end_step(self, step: int) -> None:
        self._first = self._first or step
        if step % self.every == 0:
            self.flush(step)

    def flush(self, step: int) -> None:
        """Write what is held as the part that ends with ``step``; no step since the last part, nothing written."""
        if self._first:
            part = "" if self.world_size == 1 else f".{self.rank + 1:05d}-of-{self.world_size:05d}"
            name = f"part-{self._first:08d}-{step:08d}{part}.parquet"
            write_table(pa.Table.from_batches(self._batches, schema=schema.SIGNALS), self.folder / name)
        self._batches, self._first = [], 0

    def state_dict(self) -> dict[str, Any]:
        """The running means; call after ``flush``, which leaves no rows behind."""
        return {"domains": list(self.domains), "losses": self._losses.tolist(), "tokens": self._tokens.tolist()}

    def restore(self, step: int, state: Mapping[str, Any] | None) -> None:
        """Go back to just after ``step``: take the running means and remove parts of later steps.

        ``state`` is None for step 0; a domain that it does not know begins without a mean. Raises DatasetError when a
        part of an earlier step is missing.
        """
        self._batches, self._first = [], 0
        if state is None:
            self._losses, self._tokens = np.zeros(len(self.domains)), np.zeros(len(self.domains))
        else:
            known = dict(zip(state["domains"], zip(state["losses"], state["tokens"], strict=True), strict=True))
            found = np.array([known.get(name, (0.0, 0.0)) for name in self.domains], dtype=np.float64)
            self._losses, self._tokens = found[:, 0].copy(), found[:, 1].copy()
        spans: dict[tuple[int, int], list[int]] = {}
        for path in sorted(self.folder.glob("*")):
            named = _PART.fullmatch(path.name)
            if path.name.startswith(".tmp-") or (named and int(named[2]) > step):
                if self.rank == 0:
                    path.unlink()
            elif named:
                spans.setdefault((int(named[1]), int(named[2])), []).append(int(named[4] or 1))
        reached = self.begins
        for (first, last), parts_of in sorted(spans.items()):
            # every part says how many ranks wrote one
            if first == reached + 1 and len(parts_of) == parts_of[0]:
                reached = last
        if reached != step:
            raise DatasetError(
                f"{self.folder}: the parts reach step {reached} without a gap, the checkpoint is at {step}; "
                "put the missing part back, or remove the run's folder to start anew"
            )


def read_signals(folder: str | Path) -> pa.Table:
    """All parts of a run's ``signals`` folder in step order; no parts give an empty table."""
    paths = sorted(path for path in Path(folder).glob("*.parquet") if _PART.fullmatch(path.name))
    return pa.concat_tables([schema.SIGNALS.empty_table(), *(pq.read_table(path) for path in paths)])


def document_scores(signals: pa.Table, *, last_visit: bool = False) -> pa.Table:
    """Signals by document: means over its segments, weighted by predicted tokens.

    Args:
        signals: rows of the ``signals`` table.
        last_visit: count only the segments of the last step in which the document was seen. Pieces of
            one document that trained in different steps are then not pooled: the later piece counts.

    Returns:
        Columns doc_id, excess_loss and loss (float64, nats per token) and tokens (int64), sorted by doc_id.
    """
    schema.require(signals.schema.names, ("doc_id", "tokens", "loss", "excess_loss", "step"), where="signals")
    encoded = pc.dictionary_encode(signals["doc_id"].combine_chunks())
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    document, ids = np.asarray(encoded.indices), encoded.dictionary
    tokens = signals["tokens"].to_numpy().astype(np.float64)
    if last_visit:
        step = signals["step"].to_numpy()
        last = np.full(len(ids), -1, dtype=np.int64)
        np.maximum.at(last, document, step)
        tokens = np.where(step == last[document], tokens, 0.0)
    total = np.bincount(document, weights=tokens, minlength=len(ids))

    def mean(column: str) -> pa.Array:
        values = signals[column].to_numpy().astype(np.float64)
        return pa.array(np.bincount(document, weights=values * tokens, minlength=len(ids)) / total)

    columns = [ids, mean("excess_loss"), mean("loss"), pa.array(total.astype(np.int64))]
    table = pa.table(columns, names=["doc_id", "excess_loss", "loss", "tokens"])
    return table.sort_by("doc_id")


def write_policy_entry(
    folder: Path,
    *,
    step: int,
    effective_from: int,
    version: int,
    policy: str,
    domains: Sequence[str],
    old: Sequence[float],
    new: Sequence[float],
    signals: str | None = None,
) -> Path:
    """Write one row of the ``policy_log`` table as the part of its step.

    Args:
        effective_from: sequence from which the new weights hold.
        version: of the mixture after the step.
        old, new: shares of tokens, (K,); equal when the mixture stays.
        signals: JSON of what the policy saw and said.
    """
    row = [step, effective_from, version, policy, list(domains), signals, list(old), list(new)]
    columns = [pa.array([value], kind.type) for value, kind in zip(row, schema.POLICY_LOG, strict=True)]
    path = folder / f"part-{step:08d}.parquet"
    write_table(pa.Table.from_arrays(columns, schema=schema.POLICY_LOG), path)
    return path


def drop_policy_entries(folder: Path, after: int) -> None:
    """Remove the entries of steps later than ``after``, which a resumed run writes again."""
    for path in folder.glob("*"):
        named = _POLICY_PART.fullmatch(path.name)
        if path.name.startswith(".tmp-") or (named and int(named[1]) > after):
            path.unlink()


def write_table(table: pa.Table, path: Path) -> None:
    """Write a Parquet file that is either whole or not there."""
    temporary = path.with_name(f".tmp-{path.name}")
    with storage_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
