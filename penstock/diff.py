"""What changed between two runs or two datasets: ``penstock diff A B``.

Digests are compared first: where they are equal, the datasets are the same and no row is read. Otherwise the manifests
give settings, inputs and drops, and the rows of both are matched by id (``diff_rows``). Of two runs the rows of
``scored`` (or the last step before it that both have) are compared with their texts, and those of the last published
dataset by id and columns.

Price: the manifests; with other rows, one read of the small columns of both tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.dataset import Dataset, Manifest, read_manifest
from penstock.diff_rows import Group, Progress, RowChanges, Texts, compare_rows, masked, read_samples, texts_of
from penstock.errors import DatasetError
from penstock.inspect import datasets_below
from penstock.step import changes
from penstock.storage import Folder

DOCUMENTS = ("scored", "grouped", "decontaminated", "deduplicated", "documents")  # the furthest that both have
BEFORE = 40  # characters shown before the first that differs
Drops = dict[tuple[str, str, str], list[int]]


@dataclass(frozen=True)
class Sample:
    """One row that differs, as it may be shown: masked, cut, from a little before the first difference."""

    kind: str  # only_a, only_b, changed
    doc_id: str
    domain: str | None
    a: str | None
    b: str | None


@dataclass(frozen=True)
class TableChanges:
    """Rows of one table (or of the splits of a published dataset) that differ."""

    name: str
    rows: RowChanges
    columns_a: tuple[str, ...]  # columns with their types that only A has
    columns_b: tuple[str, ...]
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True)
class Pair:
    """A step of both sides; ``a`` or ``b`` is None where only the other has it."""

    name: str
    a: Manifest | None
    b: Manifest | None

    @property
    def same(self) -> bool:
        return self.a is not None and self.b is not None and self.a.digest == self.b.digest


@dataclass
class Changes:
    """All that differs between A and B."""

    a: str
    b: str
    pairs: list[Pair]
    settings: dict[str, list[str]] = field(default_factory=dict)
    inputs: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    drops: Drops = field(default_factory=dict)
    tables: list[TableChanges] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Equal digests throughout: what was built is the same, whatever it was built with."""
        return all(pair.same for pair in self.pairs)

    def to_json(self) -> dict[str, Any]:
        return {
            "a": self.a,
            "b": self.b,
            "same": self.same,
            "datasets": [{"name": p.name, "same": p.same, "a": _brief(p.a), "b": _brief(p.b)} for p in self.pairs],
            "settings": self.settings,
            "inputs": self.inputs,
            "drops": [{"step": s, "by": w, "reason": r, "a": n[0], "b": n[1]} for (s, w, r), n in self.drops.items()],
            "tables": [_table_json(table) for table in self.tables],
        }


def _brief(manifest: Manifest | None) -> dict[str, Any] | None:
    if manifest is None:
        return None
    counts = manifest.counts
    return {
        "digest": manifest.digest,
        "rows_in": counts.rows_in,
        "made": counts.made,
        "kept": counts.kept,
        "dropped": counts.dropped_total,
    }


def _table_json(table: TableChanges) -> dict[str, Any]:
    rows = table.rows

    def groups(of: dict[str, Group]) -> dict[str, Any]:
        return {name: vars(group) for name, group in sorted(of.items())}

    return {
        "name": table.name,
        "rows": list(rows.rows),
        "same": rows.same,
        "changed": rows.changed,
        "only": rows.only,
        "moved": rows.moved,
        "texts_only": rows.texts_only,
        "columns": {"changed": rows.columns, "only_a": list(table.columns_a), "only_b": list(table.columns_b)},
        "domains": groups(rows.domains),
        "splits": groups(rows.splits),
        "samples": [vars(sample) for sample in table.samples],
    }


def diff(a: str, b: str, *, sample: int = 0, progress: Progress | None = None) -> Changes:
    """Compare two runs or two datasets, by path or URL.

    Args:
        sample: rows of each kind (only in A, only in B, other text) to show.
        progress: hears (what, rows read, rows in all).

    Raises:
        DatasetError: one holds no dataset, they are of different kinds of step, or have no step or table in common.
    """
    sides = _open(a), _open(b)
    pairs = _pairs(a, b, *sides)
    out = Changes(a, b, [Pair(name, x.manifest if x else None, y.manifest if y else None) for name, x, y in pairs])
    for pair in out.pairs:
        if pair.a is not None and pair.b is not None:
            _settings(pair.name, pair.a, pair.b, out)
    drops = [_drops(pairs, side) for side in (0, 1)]
    for key in dict.fromkeys([*drops[0], *drops[1]]):
        out.drops[key] = [of.get(key, 0) for of in drops]
    for name, of_a, of_b, text in _rows_of(pairs, single=any(isinstance(side, Dataset) for side in sides)):
        out.tables.append(_compare(name, of_a, of_b, text, sample, progress))
    return out


def _open(url: str) -> Dataset | dict[str, Dataset]:
    """A dataset, or the datasets of a run by the names of their steps, parents first."""
    folder = Folder(url)
    if read_manifest(folder) is not None:
        return Dataset(folder)
    found = datasets_below(folder)
    if not found:
        raise DatasetError(
            f"{url}: no manifest.json here or one level below, so no dataset; give the folder or URL of a run or of "
            "one of its datasets, or run the build to its end"
        )
    return {dataset.manifest.step: dataset for dataset in found}


def _kind(dataset: Dataset) -> str:
    return str(dataset.manifest.key_parts.get("step", dataset.manifest.step))


def _pairs(
    a: str, b: str, x: Dataset | dict[str, Dataset], y: Dataset | dict[str, Dataset]
) -> list[tuple[str, Dataset | None, Dataset | None]]:
    """Datasets that belong together."""
    if isinstance(x, dict) and isinstance(y, dict):
        names = [*x, *(name for name in y if name not in x)]
        if not set(x) & set(y):
            raise DatasetError(f"{a} and {b}: no step in common; got {', '.join(x)} and {', '.join(y)}")
        return [(name, x.get(name), y.get(name)) for name in names]
    if isinstance(x, Dataset) and isinstance(y, dict):
        y = _like(x, b, y)
    elif isinstance(x, dict) and isinstance(y, Dataset):
        x = _like(y, a, x)
    assert isinstance(x, Dataset)
    assert isinstance(y, Dataset)
    if _kind(x) != _kind(y):
        raise DatasetError(
            f"{a} is a dataset of step {x.manifest.step} ({_kind(x)}), {b} one of {y.manifest.step} ({_kind(y)}); "
            "give two of one kind, or two runs"
        )
    have = set(x.manifest.tables), set(y.manifest.tables)
    if have[0] and have[1] and not have[0] & have[1]:
        raise DatasetError(f"{a} and {b}: no table in common; got {', '.join(have[0])} and {', '.join(have[1])}")
    return [(x.manifest.step, x, y)]


def _like(one: Dataset, url: str, run: dict[str, Dataset]) -> Dataset:
    """The dataset of a run to compare a single dataset with: of the same name, else the last of the same kind."""
    same = run.get(one.manifest.step)
    found = [same] if same is not None else [dataset for dataset in run.values() if _kind(dataset) == _kind(one)]
    if not found:
        raise DatasetError(
            f"{url}: a run without a step like {one.manifest.step}; it has {', '.join(run)}; give two of one kind"
        )
    return found[-1]


def _settings(name: str, a: Manifest, b: Manifest, out: Changes) -> None:
    """Key parts that differ, parents apart: they follow."""
    of_a, of_b = ({k: v for k, v in m.key_parts.items() if k not in ("parents", "inputs")} for m in (a, b))
    found = changes(of_a, of_b)
    if found:
        out.settings[name] = found
    x, y = (m.key_parts.get("inputs", {}) for m in (a, b))
    inputs = {
        "added": sorted(set(y) - set(x)),
        "removed": sorted(set(x) - set(y)),
        "changed": sorted(n for n in set(x) & set(y) if x[n] != y[n]),
    }
    if any(inputs.values()):
        out.inputs[name] = inputs


def _drops(pairs: Sequence[tuple[str, Dataset | None, Dataset | None]], side: int) -> dict[tuple[str, str, str], int]:
    """Rows dropped by step, row work and reason; a published dataset alone remembers those of the steps before it."""
    out: dict[tuple[str, str, str], int] = {}
    for name, *datasets in pairs:
        dataset = datasets[side]
        if dataset is None:
            continue
        steps = [(name, dataset.manifest.counts.dropped)]
        if len(pairs) == 1:
            steps = [(s["step"], s["dropped"]) for s in dataset.manifest.stats.get("built_from", [])] + steps
        for step, dropped in steps:
            for work, reasons in dropped.items():
                for reason, rows in reasons.items():
                    out[step, work, reason] = rows
    return out


def _rows_of(
    pairs: Sequence[tuple[str, Dataset | None, Dataset | None]], *, single: bool
) -> Iterator[tuple[str, Texts, Texts, bool]]:
    """Tables whose rows are compared: name, both, and whether with their texts."""
    both = {name: (x, y) for name, x, y in pairs if x is not None and y is not None}
    chosen = list(both)
    if not single:
        documents = [name for name in DOCUMENTS if name in both][:1]
        published = [name for name in both if _kind(both[name][0]) == _kind(both[name][1]) == "Published"][-1:]
        chosen = documents + published
    for name in chosen:
        x, y = (texts_of(dataset) for dataset in both[name])
        if x is None or y is None:
            continue
        digests = ([side.dataset.table(table).digest for table, _ in side.tables] for side in (x, y))
        if next(digests) != next(digests):
            # a published dataset of a run holds the texts of the run's documents
            yield name, x, y, single or name in DOCUMENTS


def _compare(name: str, x: Texts, y: Texts, text: bool, sample: int, progress: Progress | None) -> TableChanges:
    rows = compare_rows(x, y, text=text, sample=sample, progress=progress)
    only_a, only_b = (
        tuple(f"{c}: {kind}" for c, kind in own.items() if other.get(c) != kind)
        for own, other in ((x.columns, y.columns), (y.columns, x.columns))
    )
    samples: list[Sample] = []
    if sample:
        wanted = [(kind, i, j) for kind, found in rows.found.items() for i, j in found]
        from_a = read_samples(x, [i for _, i, _ in wanted if i >= 0])
        from_b = read_samples(y, [j for _, _, j in wanted if j >= 0])
        samples = [_sample(kind, from_a.get(i), from_b.get(j)) for kind, i, j in wanted]
    return TableChanges(name, rows, only_a, only_b, tuple(samples))


def _sample(kind: str, a: dict[str, Any] | None, b: dict[str, Any] | None) -> Sample:
    row = a or b
    assert row is not None
    old, new = (None if side is None else side.get("text") for side in (a, b))
    start = 0 if old is None or new is None else _before_difference(old, new)
    old, new = (t if t is None else ("…" if start else "") + masked([t[start:]])[0] for t in (old, new))
    return Sample(kind, row["doc_id"], row.get("domain"), old, new)


def _before_difference(a: str, b: str) -> int:
    """Where to start showing two texts: at a word, a little before they differ.

    Never inside an address or a number, whose second half would not be known for one.
    """
    low, high = 0, min(len(a), len(b))
    while low < high:  # the longest common beginning
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    first = max(0, low - 5 * BEFORE)
    words = [m.end() for m in re.finditer(r"\s(?=[^\W\d])", a[first : max(0, low - BEFORE)])]
    return first + words[-1] if words else first if first == 0 else max(0, low - BEFORE)
