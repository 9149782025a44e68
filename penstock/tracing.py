"""What became of one row: ``penstock trace DOC_ID --run FOLDER``.

From the source that it was read from, through every step that kept, changed or dropped it, to the copies that each
round selected, the shard that it was published in, the sequences that hold it and the training steps that read them.
All of it is read from the datasets of a run as they lie; nothing is kept for it.

>>> found = trace("rivers.jsonl#12", "runs/small")
>>> [(event.step, event.what) for event in found.events]
[('documents', 'kept'), ('deduplicated', 'kept'), ('scored', 'kept'), ('selection-1', 'selected'), …

Price: see ``tracing_rows`` and ``tracing_order``: where ids stand in the order of their files, seconds for a corpus of
many millions of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from penstock.dataset import MANIFEST, Dataset, read_manifest
from penstock.errors import DatasetError
from penstock.inspect import datasets_below
from penstock.storage import Folder, storage_errors
from penstock.tracing_order import Piece, Read, pieces_of, reads_of
from penstock.tracing_rows import HEAVY, Found, id_column, resolve, rows_with

What = Literal["made", "kept", "changed", "dropped", "selected", "not selected", "published", "listed", "asked"]
MEMBERS = 50  # of a cluster that are named
_SPLITS = ("train", "validation", "test")
_ORIGIN = ("source", "domain", "url", "title", "date", "license")
# columns that are told elsewhere, or tell nothing by themselves
_NOT_FACTS = (*HEAVY, *_ORIGIN, "doc_id", "problem_id", "id_hash", "content_hash", "text", "learn", "split")
_OF_TRAINING = ("signals", "rollouts", "embeddings", "clusters")
_FACTS_OF_CLUSTER = ("cluster", "cluster_size")


@dataclass(frozen=True)
class Event:
    """What a step did with the row."""

    step: str
    what: What
    by: str | None = None  # the row work that dropped it, the table that lists it
    reason: str | None = None
    detail: str | None = None  # the survivor of a duplicate, the position of a bad record
    bytes: tuple[int, int] | None = None  # of the text before and after, where it was changed
    facts: Mapping[str, Any] = field(default_factory=dict)  # columns that are new here or have another value


@dataclass(frozen=True)
class Cluster:
    """The rows that are like this one."""

    survivor: str
    size: int
    members: tuple[tuple[str, str], ...]  # id and how it came to the cluster, at most ``MEMBERS``


@dataclass(frozen=True)
class Placed:
    """A row of a published dataset."""

    dataset: str
    split: str
    file: str
    place: int  # row in the file, from 0
    copies: int | None


@dataclass(frozen=True)
class Packed:
    """A document in packed sequences."""

    sequences: str  # the step
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Trained:
    """A document in a training run."""

    model: str  # the step
    steps: int  # that it took
    reads: tuple[Read, ...]
    unknown: str | None = None  # why its reads cannot be told


@dataclass(frozen=True)
class Trace:
    """All that a run knows of a row."""

    doc_id: str
    run: str
    file: str | None  # inside of its source
    row: int | None  # in that file, from 0
    origin: Mapping[str, str]
    split: str | None
    events: tuple[Event, ...]
    cluster: Cluster | None
    scores: Mapping[str, float | None]
    placed: tuple[Placed, ...]
    packed: tuple[Packed, ...]
    trained: tuple[Trained, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON values, by the names of the fields."""
        return asdict(self)


def trace(doc_id: str, run: str) -> Trace:
    """What became of a row.

    Args:
        doc_id: of a document, or ``problem_id`` of a problem; the beginning of one is enough if no other begins so.
        run: folder or URL of a run, or of a dataset: with those beside it that it was made from, or that were made
            from it.

    Raises:
        ConfigError: no row has such an id, or several do.
        DatasetError: there is no dataset, or a file is missing or damaged.
    """
    datasets = connected(run)
    return _Tracer(datasets, resolve(datasets, doc_id), run).trace()


def connected(url: str) -> list[Dataset]:
    """The datasets of a run, or a dataset with all that it is related to beside it; parents before children.

    Raises:
        DatasetError: there is none.
    """
    folder = Folder(url)
    if read_manifest(folder) is None:
        found = datasets_below(folder)
        if not found:
            raise DatasetError(
                f"{url}: no manifest.json here or one level below, so no dataset; give the folder of a run or of one "
                "of its datasets"
            )
        return found
    beside = _beside(folder)
    name = folder.path.rpartition("/")[2]
    related, new = {name}, {name}
    while new:
        new = {
            other
            for other, dataset in beside.items()
            if other not in related
            and (new.intersection(dataset.manifest.parents) or any(other in beside[n].manifest.parents for n in new))
        }
        related |= new
    waiting, placed = sorted(related), list[str]()
    while waiting:
        ready = (n for n in waiting if not any(parent in waiting for parent in beside[n].manifest.parents))
        placed.append(next(ready, waiting[0]))  # manifests that name each other in a circle come as they are
        waiting.remove(placed[-1])
    return [beside[name] for name in placed]


def _beside(folder: Folder) -> dict[str, Dataset]:
    """The datasets of the folder above by their folders' names, this one among them; damaged ones are none."""
    above, _, own = folder.path.rpartition("/")
    out = {own: Dataset(folder)}
    root = Folder(above or "/")
    with storage_errors(root.path):
        entries = root.fs.ls(root.path, detail=True)
    for entry in sorted(entries, key=lambda entry: str(entry["name"])):
        name = str(entry["name"]).rstrip("/").rpartition("/")[2]
        if name == own or entry["type"] != "directory" or not (root / name).exists(MANIFEST):
            continue
        with suppress(DatasetError):  # who looks at one dataset need not mend its neighbours
            if read_manifest(root / name) is not None:
                out[name] = Dataset(root / name)
    return out


class _Tracer:
    """Goes through datasets, parents first, and takes down what they say of one row."""

    def __init__(self, datasets: list[Dataset], doc_id: str, run: str) -> None:
        self.datasets, self.doc_id, self.run = datasets, doc_id, run
        self.by_name = {dataset.manifest.step: dataset for dataset in datasets}
        self.rows: dict[str, dict[str, Any]] = {}  # by step: the row as it left it
        self.places: dict[str, set[tuple[str, str]]] = {}  # by step: splits and domains of its selection
        self.events: list[Event] = []
        self.notes: list[str] = []
        self.cluster: Cluster | None = None
        self.placed: list[Placed] = []
        self.packed: dict[str, Packed] = {}
        self.trained: list[Trained] = []
        self.first: dict[str, Any] = {}  # the first row that is found

    def trace(self) -> Trace:
        for dataset in self.datasets:
            self._outdated(dataset)
            tables = dataset.manifest.tables
            if any("segment_docs" in table.columns for table in tables.values()):
                self._pack(dataset)
            elif {"signals", "policy_log"} <= tables.keys():
                self._train(dataset)
            else:
                self._look(dataset)
        last = next((row for row in reversed(self.rows.values())), {})
        file, mark, row = self.doc_id.rpartition("#")
        known = bool(mark) and row.isdecimal()
        return Trace(
            doc_id=self.doc_id,
            run=self.run,
            file=file if known else None,
            row=int(row) if known else None,
            origin={name: self.first[name] for name in _ORIGIN if self.first.get(name) is not None},
            split=next((r["split"] for r in reversed(self.rows.values()) if r.get("split") is not None), None),
            events=tuple(self.events),
            cluster=self.cluster,
            scores={name.removeprefix("score."): last[name] for name in last if name.startswith("score.")},
            placed=tuple(self.placed),
            packed=tuple(self.packed.values()),
            trained=tuple(self.trained),
            notes=tuple(self.notes),
        )

    def _outdated(self, dataset: Dataset) -> None:
        for name, parent in dataset.manifest.parents.items():
            beside = self.by_name.get(name)
            if beside is not None and beside.digest != parent["digest"]:
                self.notes.append(
                    f"{dataset.manifest.step} was made from another {name} than the one that lies here; run the recipe "
                    "again"
                )

    def _look(self, dataset: Dataset) -> None:
        """Whatever the tables of a step hold of the row."""
        step = dataset.manifest.step
        for table, entry in dataset.manifest.tables.items():
            column = id_column(entry)
            if column is None or table in _OF_TRAINING:
                continue
            for found in rows_with(dataset, table, column, self.doc_id):
                self.first = self.first or found.row
                if table == "dropped":
                    self._drop(step, found.row)
                elif table == "selection":
                    self._select(step, found.row)
                elif table in _SPLITS:
                    self._place(step, table, found)
                elif table == "documents":
                    self._keep(dataset, found.row)
                elif table in ("problems", "alone"):
                    self.events.append(Event(step, "made", by=table, facts=_facts(found.row)))
                else:
                    self.events.append(Event(step, "listed", by=table, facts=_facts(found.row)))
        if "clusters" in dataset.manifest.tables:
            self._gather(dataset)
        if "rollouts" in dataset.manifest.tables:
            self._asked(dataset)

    def _keep(self, dataset: Dataset, row: dict[str, Any]) -> None:
        manifest = dataset.manifest
        before = next((self.rows[name] for name in manifest.parents if name in self.rows), None)
        self.rows[manifest.step] = row
        facts = _facts(row, before or {})
        if before is None:
            made = manifest.key_parts.get("step") == "Generated"
            self.events.append(Event(manifest.step, "made" if made else "kept", facts=facts))
            return
        sizes = (len(before["text"].encode()), len(row["text"].encode()))
        changed = before["text"] != row["text"]
        self.events.append(
            Event(manifest.step, "changed" if changed else "kept", bytes=sizes if changed else None, facts=facts)
        )

    def _drop(self, step: str, row: dict[str, Any]) -> None:
        self.events.append(Event(step, "dropped", by=row["step"], reason=row["reason"], detail=row["detail"]))

    def _select(self, step: str, row: dict[str, Any]) -> None:
        taken = row["copies"] > 0 if row.get("copies") is not None else bool(row.get("selected"))
        if taken and row.get("split") is not None and row.get("domain") is not None:
            self.places.setdefault(step, set()).add((row["split"], row["domain"]))
        self.events.append(Event(step, "selected" if taken else "not selected", facts=_facts(row)))

    def _place(self, step: str, split: str, found: Found) -> None:
        copies = found.row.get("copies")
        self.placed.append(Placed(step, split, found.file.path, found.place, copies))
        self.events.append(Event(step, "published", facts={} if copies is None else {"copies": copies}))

    def _gather(self, dataset: Dataset) -> None:
        """The cluster of the row, and who else is in it."""
        own = rows_with(dataset, "clusters", "doc_id", self.doc_id, most=1)
        if own:
            name = own[0].row["cluster"]
            others = rows_with(dataset, "clusters", "cluster", name, most=MEMBERS)
            members = tuple((found.row["doc_id"], found.row["kind"]) for found in others)
            self.cluster = Cluster(name, own[0].row["cluster_size"], members)

    def _asked(self, dataset: Dataset) -> None:
        """Steps of learning from groups that asked a problem."""
        heavy = ("question", "text", "prompt", "response", "logprobs")
        rows = [found.row for found in rows_with(dataset, "rollouts", "problem_id", self.doc_id, heavy=heavy)]
        if rows:
            facts = {"steps": sorted({row["step"] for row in rows}), "answers": len(rows)}
            self.events.append(Event(dataset.manifest.step, "asked", facts=facts))

    def _pack(self, dataset: Dataset) -> None:
        places = {place for name in dataset.manifest.parents for place in self.places.get(name, ())}
        pieces = pieces_of(dataset, self.doc_id, places)
        if pieces:
            self.packed[dataset.manifest.step] = Packed(dataset.manifest.step, tuple(pieces))

    def _train(self, dataset: Dataset) -> None:
        manifest = dataset.manifest
        name = next((parent for parent in manifest.parents if parent in self.packed), None)
        if name is None:
            return
        steps = manifest.key_parts["settings"]["steps"]
        try:
            found = reads_of(dataset, self.by_name[name], self.doc_id, self.packed[name].pieces)
        except DatasetError as error:
            self.trained.append(Trained(manifest.step, steps, (), str(error)))
            return
        self.trained.append(Trained(manifest.step, steps, tuple(found)))


def _facts(row: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Columns of a row that the row before does not have, or has with another value; those without a value apart."""
    before = before or {}
    out = {}
    for name, value in row.items():
        if name in _NOT_FACTS or value is None or (name in before and before[name] == value):
            continue
        if name in _FACTS_OF_CLUSTER and row.get("cluster_size") == 1:
            continue  # like no other
        out[name] = value.hex() if isinstance(value, bytes) else value
    return out
