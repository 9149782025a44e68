"""A step makes one dataset from its parents: the unit of skipping, resuming, lineage and reporting.

``key`` says what would be built: the parents' digests, the resolved settings, the step's revision,
the digests of outside inputs and the versions of libraries that decide the output. An equal key in
the manifest skips the step. ``digest`` says what was built; a step whose rebuilt digest equals the
old one leaves everything downstream untouched.

    documents ── deduplicated ─┬─ tokenizer ─┬─ scored ── selection-1 ─┬─ dataset-1
                               └─ quality ───┘                         └─ sequences-1 ── model-1 ── …
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, Protocol

from penstock.dataset import (
    MANIFEST,
    Counts,
    Dataset,
    FileEntry,
    Manifest,
    TableEntry,
    hash_json,
    read_manifest,
)
from penstock.errors import DatasetError
from penstock.pipelines.passes import (
    Engine,
    Pass,
    Receipt,
    Split,
    Work,
    add_numbers,
    merge_counts,
    merge_parts,
    run_pass,
)
from penstock.reuse import PASSES, Earlier, KeptPass, dump_passes, kept_files, named_files, own_files, parts_of
from penstock.selectors.guard import check_drops
from penstock.storage import Folder


class Reporter(Protocol):
    """Hears what happens; the terminal, Prefect and tests each have one."""

    def step_started(self, step: Step, why: str) -> None: ...
    def progress(self, step: Step, what: str, done: int, total: int) -> None: ...
    def step_finished(self, result: StepResult) -> None: ...
    def note(self, message: str) -> None: ...
    def warn(self, message: str) -> None: ...


class Silent:
    """A reporter that says nothing."""

    def step_started(self, step: Step, why: str) -> None: ...
    def progress(self, step: Step, what: str, done: int, total: int) -> None: ...
    def step_finished(self, result: StepResult) -> None: ...
    def note(self, message: str) -> None: ...
    def warn(self, message: str) -> None: ...


@dataclass(frozen=True)
class Settings:
    """What every step of a run shares and what does not decide its output, ``seed`` and ``dropped`` apart."""

    seed: int = 0
    dropped: str = "sample"
    split_bytes: int = 32 << 20
    fingerprint: Callable[[Any], str] = str
    since: Folder | None = None  # an earlier run: fitted steps are kept, unchanged parts are taken over
    max_dropped: Mapping[str, float] = field(default_factory=dict)  # share of rows by name: see selectors.guard


@dataclass
class Built:
    """What a step's build hands over to be committed."""

    counts: Counts = field(default_factory=Counts)
    tables: dict[str, TableEntry] = field(default_factory=dict)
    artifacts: dict[str, FileEntry] = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)


@dataclass
class Context:
    """All that a build may use."""

    step: Step
    folder: Folder
    key: str
    parents: Mapping[str, Dataset]
    engine: Engine
    reporter: Reporter
    settings: Settings
    earlier: Sequence[Earlier] = ()
    kept: dict[str, KeptPass] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """Folder of this key's parts, below the step's folder."""
        return self.key[:12]

    def run(
        self, name: str, work: Work, splits: Sequence[Split], *, reuse: Mapping[str, Any] | None = None
    ) -> list[Receipt]:
        """Run a pass of this step; splits already done under the same key are kept.

        Args:
            reuse: the settings that, with a split's memo, decide what it makes (JSON values). Receipts of splits
                with a memo are then kept with the dataset, and those of an earlier build with the same settings are
                taken over. None for a pass whose splits depend on anything else.
        """
        job = Pass(self.folder, f"{self.prefix}/{name}", work)

        def progress(done: int, total: int) -> None:
            self.reporter.progress(self.step, name, done, total)

        if reuse is None:
            return run_pass(job, splits, self.engine, progress)
        signature = hash_json(
            {
                "step": type(self.step).__name__,
                "revision": self.step.revision,
                "pass": name,
                "settings": reuse,
                "seed": self.settings.seed,
                "dropped": self.settings.dropped,
                "libraries": library_versions(self.step.libraries),
            }
        )
        known: dict[str, Receipt] = {}
        for build in self.earlier:
            wanting = [split for split in splits if split.id not in known]
            known |= build.take(name, signature, wanting, self.folder)
        receipts = run_pass(job, splits, self.engine, progress, known)
        by_memo = {split.memo: receipt for split, receipt in zip(splits, receipts, strict=True) if split.memo}
        self.kept[name] = KeptPass(signature, by_memo)
        if known:
            self.reporter.note(f"{self.step.name}: {name} took over {len(known):,} of {len(splits):,} parts")
        return receipts

    def write_artifact(self, name: str, data: bytes, path: str | None = None) -> FileEntry:
        """Write a small file that belongs to the dataset, under this key's folder unless ``path`` is given."""
        path = path or f"{self.prefix}/{name}"
        with self.folder.open_write(path) as file:
            file.write(data)
        return FileEntry(path, file.bytes, file.sha256)

    def adopt(self, path: str) -> FileEntry:
        """The entry of a file that was written below this step's folder."""
        name = path.removeprefix(self.folder.path.rstrip("/") + "/")
        data = self.folder.read_bytes(name)
        return FileEntry(name, len(data), hashlib.sha256(data).hexdigest())

    def adopt_artifact(self, path: str) -> dict[str, FileEntry]:
        """Entries, by file name, of a file below this step's folder; of an ``artifact`` (.json) with its arrays."""
        paths = (path, path.removesuffix(".json") + ".safetensors") if path.endswith(".json") else (path,)
        entries = [self.adopt(path) for path in paths]
        return {entry.path.rpartition("/")[2]: entry for entry in entries}

    def collect(self, receipts: Sequence[Receipt], *tables: str) -> Built:
        """Counters and named tables of a pass, merged over its splits, with the timing-free statistics."""
        built = Built(counts=merge_counts(receipts))
        for name in tables:
            entry = merge_parts(receipts, name)
            if entry is not None:
                built.tables[name] = entry
        rows: dict[str, list[int]] = {}
        for receipt in receipts:
            for work, (before, after) in receipt.rows.items():
                known = rows.setdefault(work, [0, 0])
                known[0] += before
                known[1] += after
            add_numbers(built.stats, receipt.stats)
        if rows:
            built.stats["row_work"] = rows
        return built


class Step(ABC):
    """Base of all steps. Instances are small and cheap; ``build`` does the work."""

    name: str  # folder below the run's root
    parents: tuple[str, ...] = ()
    revision: ClassVar[int]  # raised whenever the output may change
    modules: ClassVar[tuple[str, ...]] = ()  # code the revision vouches for besides what the class names itself
    libraries: ClassVar[tuple[str, ...]] = ()  # distributions whose version decides the output
    fitted: ClassVar[bool] = False  # learned from a sample of the corpus: a build since another keeps it
    budget: float | None = None  # seconds the recipe allows; shown, not enforced

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The resolved part of the recipe that decides the output (JSON values)."""

    def guarded(self) -> tuple[str, ...]:
        """Names by which ``max_dropped`` knows this step and what drops rows in it."""
        return (self.name,)

    def inputs(self, settings: Settings) -> dict[str, str]:
        """Outside inputs by name, each with a digest of its bytes; asked for before the parents are there, too.

        Raises:
            PenstockError: one is not there.
        """
        return {}

    @abstractmethod
    def build(self, context: Context) -> Built: ...

    def finish(self, folder: Folder, manifest: Manifest) -> None:
        """Write files derived from the manifest (a card); runs before the manifest is committed."""
        return None


@dataclass(frozen=True)
class Check:
    """What a run would do with a step, and why."""

    step: Step
    skip: bool
    why: str
    key: str | None = None  # None while a parent has yet to run
    key_parts: dict[str, Any] | None = None
    keeps: Earlier | None = None  # the earlier build of a fitted step that this run goes on with


@dataclass(frozen=True)
class StepResult:
    """What a run did with a step."""

    step: Step
    folder: Folder
    skipped: bool
    why: str
    seconds: float
    manifest: Manifest


def library_versions(names: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in names:
        if name == "python":
            found[name] = platform.python_version()
            continue
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def key_parts(step: Step, parents: Mapping[str, Manifest], settings: Settings) -> dict[str, Any]:
    """Everything the key is a hash of, kept readable so that a change can be named."""
    parts = {
        "step": type(step).__name__,
        "revision": step.revision,
        "settings": step.config(),
        "seed": settings.seed,
        "dropped": settings.dropped,
        "inputs": step.inputs(settings),
        "parents": {name: parents[name].digest for name in step.parents},
        "libraries": library_versions(step.libraries),
    }
    # as a manifest gives them back: tuples become lists
    readable: dict[str, Any] = json.loads(json.dumps(parts))
    return readable


def changes(old: Any, new: Any, path: str = "") -> list[str]:
    """Paths at which two JSON values differ, with short values: ``settings.minimum: 5 -> 6``."""
    if isinstance(old, dict) and isinstance(new, dict):
        out = []
        for name in sorted(set(old) | set(new)):
            out += changes(old.get(name), new.get(name), f"{path}.{name}" if path else name)
        return out
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [c for i, (a, b) in enumerate(zip(old, new, strict=True)) for c in changes(a, b, f"{path}.{i}")]
    if old == new:
        return []

    def short(value: Any) -> str:
        text = "absent" if value is None else str(value)
        return text if len(text) <= 24 else text[:20] + "…"

    return [f"{path}: {short(old)} -> {short(new)}"]


def check_step(step: Step, root: Folder, known: Mapping[str, Manifest], settings: Settings) -> Check:
    """Compare the step's key with its manifest; ``known`` holds the manifests of its parents.

    What a step that waits for others names is looked for at once, so that a wrong path is told before their hours.

    Raises:
        PenstockError: an input of the step is not there, or a manifest cannot be read.
    """
    waiting = [name for name in step.parents if name not in known]
    kept = keeps(step, known, settings) if step.fitted and settings.since is not None else None
    if kept is not None:
        return Check(
            step, True, f"kept as fitted in {kept.folder.url}", kept.manifest.key, kept.manifest.key_parts, kept
        )
    if waiting:
        step.inputs(replace(settings, fingerprint=_unread))
        return Check(step, False, f"after {', '.join(waiting)}")
    parts = key_parts(step, known, settings)
    key = hash_json(parts)
    folder = root / step.name
    manifest = read_manifest(folder)
    if manifest is None:
        unfinished = any(name.startswith(key[:12]) for name in folder.files())
        return Check(step, False, "resumes an unfinished build" if unfinished else "not built yet", key, parts)
    if not is_whole(manifest):
        return Check(step, False, "its manifest is damaged", key, parts)
    if manifest.key != key:
        found = changes(manifest.key_parts, parts) or ["key"]
        more = f" and {len(found) - 2} more" if len(found) > 2 else ""
        return Check(step, False, "changed: " + "; ".join(found[:2]) + more, key, parts)
    missing = Dataset(folder).missing()
    if missing:
        return Check(step, False, f"{len(missing)} file(s) missing or cut, first {missing[0]}", key, parts)
    return Check(step, True, "up to date", key, parts)


def _unread(file: Any) -> str:
    """In place of a file's fingerprint, where it matters only that the file is there."""
    return ""


def keeps(step: Step, known: Mapping[str, Manifest], settings: Settings) -> Earlier | None:
    """The build of a fitted step in ``settings.since``, if made as this one would be, from other rows perhaps."""
    assert settings.since is not None
    folder = settings.since / step.name
    manifest = read_manifest(folder)
    if manifest is None or not is_whole(manifest) or Dataset(folder).missing():
        return None
    parts = key_parts(step, {name: manifest for name in step.parents}, settings)
    if any(manifest.key_parts.get(name) != value for name, value in parts.items() if name != "parents"):
        return None
    return Earlier(folder, manifest, lambda message: None)


def check_steps(steps: Sequence[Step], root: Folder, settings: Settings) -> list[Check]:
    """What a run would do, without doing it."""
    known: dict[str, Manifest] = {}
    out = []
    for step in steps:
        check = check_step(step, root, known, settings)
        if check.skip:
            manifest = check.keeps.manifest if check.keeps else read_manifest(root / step.name)
            if manifest is not None:
                known[step.name] = manifest
        out.append(check)
    return out


def run_step(step: Step, root: Folder, engine: Engine, reporter: Reporter, settings: Settings) -> StepResult:
    """Build one step whose parents are committed, or skip it, and commit its manifest.

    Raises:
        DatasetError: a parent is not committed, or the step's counters do not balance.
    """
    started = time.perf_counter()
    known = {name: Dataset(root / name).manifest for name in step.parents}
    check = check_step(step, root, known, settings)
    folder = root / step.name
    if check.keeps is not None and read_manifest(folder) != check.keeps.manifest:
        bring(check.keeps, folder, step)
    if check.skip:
        manifest = Dataset(folder).manifest
        clear(folder, manifest)  # a kill right after the commit left the attempt's files
        result = StepResult(step, folder, True, check.why, 0.0, manifest)
        reporter.step_finished(result)
        return result
    if check.key is None or check.key_parts is None:
        raise DatasetError(f"{step.name}: {check.why} has to run first")
    reporter.step_started(step, check.why)
    parents = {name: Dataset(root / name) for name in step.parents}
    context = Context(step, folder, check.key, parents, engine, reporter, settings)
    context.earlier = earlier_builds(step, root, reporter, settings)
    built = step.build(context)
    check_drops(step.name, built.counts, built.stats, settings.max_dropped)
    manifest = commit(step, folder, check.key, check.key_parts, known, built, context.kept)
    result = StepResult(step, folder, False, check.why, time.perf_counter() - started, manifest)
    reporter.step_finished(result)
    return result


def bring(build: Earlier, folder: Folder, step: Step) -> None:
    """Commit another run's build of a step in this folder as it is."""
    for name in sorted(named_files(build.folder, build.manifest)):
        folder.copy_from(build.folder, name)
    step.finish(folder, build.manifest)
    folder.write_json(MANIFEST, build.manifest.to_json())


def earlier_builds(step: Step, root: Folder, reporter: Reporter, settings: Settings) -> list[Earlier]:
    """Committed builds of a step that its new build may take parts over from: this folder's, then ``since``'s."""
    roots = [root] if settings.since is None or settings.since.path == root.path else [root, settings.since]
    found = [(at / step.name, read_manifest(at / step.name)) for at in roots]
    return [Earlier(folder, manifest, reporter.warn) for folder, manifest in found if manifest is not None]


def digest_of(tables: Mapping[str, TableEntry], artifacts: Mapping[str, FileEntry]) -> str:
    """What a dataset is, by its rows and artifacts alone: not by the parts that rows lie in."""
    return hash_json(
        {
            "tables": {name: table.digest for name, table in tables.items()},
            "artifacts": {name: file.sha256 for name, file in artifacts.items()},
        }
    )


def is_whole(manifest: Manifest) -> bool:
    """Whether what a manifest says twice agrees, as it does unless the file was damaged."""
    tables = manifest.tables.values()
    rows = all(table.rows == sum(file.rows for file in table.files) for table in tables)
    return rows and manifest.counts.balances and manifest.digest == digest_of(manifest.tables, manifest.artifacts)


def commit(
    step: Step,
    folder: Folder,
    key: str,
    parts: dict[str, Any],
    parents: Mapping[str, Manifest],
    built: Built,
    kept: Mapping[str, KeptPass] | None = None,
) -> Manifest:
    """Check the accounting, write the manifest (the only commit) and clear what it does not name."""
    if not built.counts.balances:
        raise DatasetError(
            f"{step.name}: rows in {built.counts.rows_in} + made {built.counts.made} is not "
            f"kept {built.counts.kept} + dropped {built.counts.dropped_total}; nothing was published"
        )
    passes = None
    if kept:
        path = f"{key[:12]}/{PASSES}"
        with folder.open_write(path) as file:
            file.write(dump_passes(kept))
        passes = FileEntry(path, file.bytes, file.sha256)
    manifest = Manifest(
        step=step.name,
        revision=step.revision,
        key=key,
        key_parts=parts,
        digest=digest_of(built.tables, built.artifacts),
        parents={name: {"key": m.key, "digest": m.digest} for name, m in parents.items()},
        counts=built.counts,
        tables=built.tables,
        artifacts=built.artifacts,
        stats=built.stats,
        passes=passes,
    )
    step.finish(folder, manifest)
    folder.write_json(MANIFEST, manifest.to_json())
    clear(folder, manifest, kept or {})
    return manifest


# parts of any key, files of a published dataset, small files whose rename never came
_MADE_BY_STEPS = re.compile(r"[0-9a-f]{12}/|data/|dropped/|samples\.parquet$|(.*/)?\.tmp-")


def clear(folder: Folder, manifest: Manifest, passes: Mapping[str, KeptPass] | None = None) -> None:
    """Remove files of builds that the manifest does not name; files of other makers (``.git``, notes) stay.

    Args:
        passes: those that the dataset keeps; by default they are read.
    """
    named = own_files(manifest)
    stale = [name for name in folder.files() if name not in named and _MADE_BY_STEPS.match(name)]
    if stale:
        kept = parts_of(passes) if passes is not None else kept_files(folder, manifest)
        stale = [name for name in stale if name not in kept]
    if stale:
        folder.remove(stale)
        folder.prune_empty()
