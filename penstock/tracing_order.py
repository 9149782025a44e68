"""Which sequences hold a document, and which training steps read them: the mixture log, asked the other way round.

Packed sequences name the document of every segment. A training run keeps what its order is made of: the settings in its
key, the mixtures in ``policy_log``, the sizes of its domains in the manifest of the sequences, the end of its mixture
log in its checkpoint. From them the whole log is made again, and must end as the checkpoint's does. Where a domain's
rows stand in the order is then computed, read by read, and the reads of the wanted rows are kept.

Price: the names of the segments of one domain (about 1 % of its bytes); then 0.05 µs for each sequence of the domain
that training read, 0.2 µs with ``group_rows``, a million at a time.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.dataset import Dataset, FileEntry
from penstock.errors import DatasetError
from penstock.tracing_rows import rows_with

if TYPE_CHECKING:
    from penstock.training.mixture import MixtureLog
    from penstock.training.store import Store

Ints = NDArray[np.int64]
_AT_ONCE = 1 << 20  # cursors


@dataclass(frozen=True)
class Piece:
    """Tokens of a document that stand together in one sequence."""

    split: str
    domain: str
    row: int  # sequence of its split and domain, from 0: what a mixture counts
    segment: int  # in the sequence, from 0
    begin: int  # first token, from 0
    tokens: int
    file: str
    place: int  # sequence of the file, from 0


@dataclass(frozen=True)
class Read:
    """A sequence with the document that training read."""

    step: int  # optimiser step, from 1
    sequence: int  # place in the training order, from 0
    domain: str
    row: int
    epoch: int  # how often the domain was read whole before
    mixture_version: int
    losses: tuple[float | None, ...]  # nats per token of each piece in it, in their order; None where there is none
    skipped: str | None  # why the step's gradient was refused: nothing was learned


def pieces_of(sequences: Dataset, doc_id: str, places: Collection[tuple[str, str]]) -> list[Piece]:
    """Where a document stands in packed sequences, in their order.

    Args:
        places: splits and domains to look in.
    """
    out: list[Piece] = []
    for split, domains in sequences.manifest.stats["domains"].items():
        for index, domain in enumerate(domains):
            table = sequences.manifest.tables.get(f"{split}/{index}")
            if table is None or (split, domain) not in places:
                continue
            first = 0
            for file in table.files:
                out += [
                    Piece(split, domain, first + place, segment, begin, tokens, file.path, place)
                    for place, segment, begin, tokens in _segments(sequences, file, doc_id)
                ]
                first += file.rows
    return out


def _segments(sequences: Dataset, file: FileEntry, doc_id: str) -> Iterator[tuple[int, int, int, int]]:
    """Sequence in the file, segment, first token and tokens of each piece of a document."""
    folder = sequences.folder
    path = folder.join(file.path)
    try:
        with pa.memory_map(path) if folder.is_local else folder.open_read(file.path) as source:
            names = pa.ipc.open_file(source).schema.names
            wanted = [names.index(name) for name in ("segment_lengths", "segment_docs")]
            # tokens are not looked at, and in a store not fetched
            reader = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=wanted))
            first = 0
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                for row, segment, begin, tokens in _in_batch(batch, doc_id):
                    yield first + row, segment, begin, tokens
                first += batch.num_rows
    except (OSError, pa.ArrowInvalid, ValueError) as error:
        raise DatasetError(f"{path}: {error}; run the build again") from error


def _in_batch(batch: pa.RecordBatch, doc_id: str) -> Iterator[tuple[int, int, int, int]]:
    lists = batch["segment_docs"]
    hits = np.flatnonzero(np.asarray(pc.equal(lists.flatten(), doc_id)))
    starts = np.asarray(lists.offsets).astype(np.int64)
    starts -= starts[0]
    ends = np.cumsum(np.asarray(batch["segment_lengths"].flatten()).astype(np.int64))
    for at in hits.tolist():
        row = int(np.searchsorted(starts, at, side="right")) - 1
        first = int(starts[row])
        before = int(ends[first - 1]) if first else 0
        begin = int(ends[at - 1]) - before if at > first else 0
        yield row, at - first, begin, int(ends[at]) - before - begin


def reads_of(model: Dataset, sequences: Dataset, doc_id: str, pieces: Iterable[Piece]) -> list[Read]:
    """The steps of a training run that read a document, in order.

    Args:
        pieces: of the document in the sequences that the run was trained on.

    Raises:
        DatasetError: the run's order cannot be made again from what it kept.
    """
    by_row: dict[tuple[str, int], list[Piece]] = {}
    for piece in pieces:
        if piece.split == "train":
            by_row.setdefault((piece.domain, piece.row), []).append(piece)
    if not by_row:
        return []
    order = order_of(model, sequences)
    log, batch = order.log, order.batch_size
    losses = {
        (found.row["sequence"], found.row["segment"]): found.row["loss"]
        for found in rows_with(model, "signals", "doc_id", doc_id)
    }
    found: list[tuple[int, str, int, int, int]] = []
    for domain in sorted({domain for domain, _ in by_row}):
        wanted = np.array([row for of, row in by_row if of == domain], dtype=np.int64)
        numbers, rows, epochs = reads(log, domain, wanted, order.stop)
        versions = log.versions(numbers)
        found += zip(
            numbers.tolist(), [domain] * len(rows), rows.tolist(), epochs.tolist(), versions.tolist(), strict=True
        )
    steps = {number // batch + 1 for number, *_ in found}
    skipped = _skipped(model, steps, order.begins)
    return [
        Read(
            step=(step := number // batch + 1),
            sequence=number,
            domain=domain,
            row=row,
            epoch=epoch,
            mixture_version=version,
            losses=tuple(losses.get((number, piece.segment)) for piece in by_row[domain, row]),
            skipped=skipped.get(step),
        )
        for number, domain, row, epoch, version in sorted(found)
    ]


def reads(log: MixtureLog, domain: str, rows: Ints, stop: int) -> tuple[Ints, Ints, Ints]:
    """Sequence numbers below ``stop`` that read some rows of a domain, rising; the row and the epoch of each.

    Args:
        rows: of the domain, (r,).
    """
    from penstock.training.blocks import block_order, tie_ranks
    from penstock.training.permutation import shuffled_rows

    k, ties = log.domains.index(domain), tie_ranks(log.domains, log.seed)
    ends = [phase.begins for phase in log.phases[1:]] + [stop]
    out: list[tuple[Ints, Ints, Ints]] = []
    for phase, end in zip(log.phases, ends, strict=True):
        quota, total, count = phase.quotas[k], sum(phase.quotas), min(end, stop) - phase.begins
        if not quota or count <= 0:
            continue
        dataset = log.dataset(phase.generation)
        places = np.flatnonzero(block_order(phase.quotas, ties)[0] == k)
        last = phase.base[k] + -(-count // total) * quota  # the last block may be cut short
        for begin in range(phase.base[k], last, _AT_ONCE):
            cursors = np.arange(begin, min(begin + _AT_ONCE, last), dtype=np.int64)
            read = shuffled_rows(
                cursors,
                dataset.rows[k],
                seed=log.seed,
                domain=domain,
                generation=phase.generation,
                group_rows=dataset.group_rows,
            )
            hit = np.flatnonzero(np.isin(read, rows))
            full, item = np.divmod(cursors[hit] - phase.base[k], quota)
            numbers = phase.begins + full * total + places[item]
            inside = numbers < phase.begins + count
            out.append((numbers[inside], read[hit][inside], cursors[hit][inside] // dataset.rows[k]))
    if not out:
        return (np.zeros(0, np.int64),) * 3
    numbers, found, epochs = (np.concatenate(column) for column in zip(*out, strict=True))
    return numbers, found, epochs


@dataclass(frozen=True)
class _Sizes:
    """What shares of a mixture depend on, without the files."""

    domains: tuple[str, ...]
    rows: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Order:
    """The order in which a training run read its sequences."""

    log: MixtureLog
    begins: int  # steps before its first one: a run may go on from an earlier one's
    steps: int
    batch_size: int

    @property
    def stop(self) -> int:
        """The sequence after its last one."""
        return (self.begins + self.steps) * self.batch_size


def order_of(model: Dataset, sequences: Dataset) -> Order:
    """The order of a training run, with its whole mixture log.

    Raises:
        DatasetError: the sequences are others than it was trained on, or the run's checkpoint holds another log.
    """
    from penstock.training.mixture import MixtureLog
    from penstock.training.shares import sequence_quotas

    name, said = sequences.manifest.step, model.manifest.step
    if model.manifest.parents[name]["digest"] != sequences.digest:
        raise DatasetError(f"{said} was trained on another {name} than the one that lies here; run the recipe again")
    settings, stats, tables = model.manifest.key_parts["settings"], sequences.manifest.stats, sequences.manifest.tables
    domains = tuple(d for i, d in enumerate(stats["domains"].get("train", [])) if f"train/{i}" in tables)
    counted = [stats["tokens"]["train"][domain] for domain in domains]
    sizes = _Sizes(domains, tuple(c["sequences"] for c in counted), tuple(c["packed"] for c in counted))
    kept = _kept_log(model)
    mixtures = [row for batch in model.batches("policy_log") for row in batch.to_pylist()]
    mixtures.sort(key=lambda row: row["step"])
    if not mixtures or tuple(mixtures[0]["domains"]) != domains or tuple(kept["domains"]) != domains:
        raise DatasetError(f"{said}: its policy_log is not one of {', '.join(domains)}; run the recipe again")

    def quotas(weights: list[float]) -> tuple[int, ...]:
        return sequence_quotas(cast("Store", sizes), weights, settings["mixture_block"])

    first, begun = mixtures[0], mixtures[0]["new_weights"]
    entry = {
        "effective_from": first["effective_from_sequence"],
        "quotas": list(quotas(begun)),
        "base": [0] * len(domains),
        "weights": begun,
    }
    # limits, seed and the dataset's number are the same from the first entry to the last
    log = MixtureLog.from_json(
        {**kept, "first_version": first["mixture_version"], "entries": [{**kept["entries"][-1], **entry}]}
    )
    for row in mixtures[1:]:
        if row["mixture_version"] > log.newest_version:  # else the policy left the mixture as it was
            log = log.append(row["effective_from_sequence"], quotas(row["new_weights"]), row["new_weights"])
    order = Order(log, first["step"], settings["steps"], settings["batch_size"])
    if json.loads(json.dumps(log.trimmed(order.stop).to_json())) != kept:
        raise DatasetError(
            f"{said}: its checkpoint holds another mixture than its policy_log tells, so the steps that saw a row "
            "cannot be computed; its signals list those that learned from it"
        )
    return order


def _kept_log(model: Dataset) -> dict[str, Any]:
    """The end of the mixture log, as the last checkpoint holds it."""
    artifacts = model.manifest.artifacts
    names = sorted(name for name in artifacts if name.startswith("checkpoints/") and name.endswith("/state.json"))
    state: dict[str, Any] = model.folder.read_json(artifacts[names[-1]].path)
    kept: dict[str, Any] = state["loader"]["log"]
    return kept


def _skipped(model: Dataset, steps: Collection[int], begins: int) -> dict[int, str]:
    """Why the gradient of each of these steps was refused, for those of which it was."""
    out: dict[int, str] = {}
    with model.folder.open_read(model.manifest.artifacts["metrics.jsonl"].path) as file:
        for step, line in enumerate(file, start=begins + 1):
            if step in steps and b'"skipped"' in line:
                out[step] = str(json.loads(line)["skipped"])
    return out
