"""Fill a run's record from its datasets and write ``record.json`` and ``report.html``.

Numbers come from manifests, metrics and small columns; text is read only for a few samples. A run folder
whose later steps are missing, or were made from datasets that have since changed, gives a record without them.

Price: seconds; memory of the selection tables' small columns when there is more than one round.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from penstock import __version__
from penstock.card import SPLITS
from penstock.dataset import Dataset, Manifest, hash_json, read_manifest
from penstock.errors import DatasetError
from penstock.pipelines.plan import MADE, plan, sources_of
from penstock.pipelines.publish import SCORE_BINS
from penstock.recipe import Recipe
from penstock.report import record as rec
from penstock.report.changes import change_between
from penstock.report.generation import asked_records, generation_record
from penstock.report.policy import policy_record
from penstock.report.samples import CLEANING, dropped_samples, kept_samples
from penstock.report.selection import search_record, selection_record
from penstock.report.training import training_record
from penstock.run import read_timings
from penstock.step import Step, library_versions
from penstock.storage import Folder
from penstock.training.group_rl.step import PolicyStep

LIBRARIES = ("python", "apache-beam", "pyarrow", "tokenizers", "torch", "transformers", "scikit-learn", "prefect")
FILES_NAMED = 5
MAP_POINTS = 1500  # drawn; each takes some 100 bytes of the page


def write_report(
    recipe: Recipe, root: Folder, built: Collection[str] | None = None, began: datetime | None = None
) -> str:
    """Write the report of the datasets that are there and return its path.

    When the run built nothing and a report of the same datasets exists, it stays.

    Args:
        built: names of the steps that the run built; None when there was no run.
        began: when the run did; None gives the sum of the steps' last builds as its seconds.

    Raises:
        DatasetError: no step of the recipe has a dataset in ``root``.
    """
    steps, stale = shown_steps(recipe, root)
    if not steps:
        raise DatasetError(f"{root.url}: no dataset of recipe {recipe.name}, so nothing to report; run it first")
    manifests = {step.name: Dataset(root / step.name).manifest for step in steps}
    shown = {step.name: [manifests[step.name].key, manifests[step.name].digest, step.budget] for step in steps}
    stamp = hash_json({"steps": shown, "stale": stale, "version": __version__})
    if built is not None and not built and root.exists("report.html") and _stamp(root) == stamp:
        return root.join("report.html")
    record = build_record(recipe, root, steps, manifests, built or (), began, stale)
    from penstock.report.render import write

    root.write_bytes("record.json", record.to_json().encode())
    write(record, root.join("report.html"))
    root.write_json(".report.json", {"stamp": stamp})
    return root.join("report.html")


def shown_steps(recipe: Recipe, root: Folder) -> tuple[list[Step], list[str]]:
    """Steps whose datasets fit together, in order, and names of those whose parents have changed or gone since."""
    digests: dict[str, str] = {}
    steps, stale = [], []
    for step in plan(recipe):
        manifest = read_manifest(root / step.name)
        if manifest is None:
            continue
        if all(digests.get(name) == manifest.parents.get(name, {}).get("digest", "") for name in step.parents):
            digests[step.name] = manifest.digest
            steps.append(step)
        else:
            stale.append(step.name)
    return steps, stale


def _stamp(root: Folder) -> str | None:
    try:
        value = root.read_json(".report.json")["stamp"]
    except (FileNotFoundError, KeyError, TypeError, json.JSONDecodeError):
        return None
    return str(value)


def build_record(
    recipe: Recipe,
    root: Folder,
    steps: Sequence[Step],
    manifests: dict[str, Manifest],
    built: Collection[str],
    began: datetime | None,
    stale: Sequence[str],
) -> rec.RunRecord:
    """Everything the report shows."""
    timings = {name: t for name, t in read_timings(root).items() if name in manifests}
    rounds = [n for n in range(1, recipe.rounds + 1) if f"dataset-{n}" in manifests]
    training = tuple(
        training_record(root, manifests[f"model-{n}"], n)
        for n in range(1, recipe.rounds + 1)
        if f"model-{n}" in manifests
    )
    warnings = [w for n in rounds for w in manifests[f"selection-{n}"].stats.get("warnings", [])]
    if stale:
        warnings.append(
            f"Not shown: {', '.join(stale)}, made from datasets that have changed since. "
            "Run the recipe to build them again."
        )
    started, seconds = _when(timings, began)
    return rec.RunRecord(
        recipe=recipe.name,
        seed=recipe.seed,
        started=started.isoformat(timespec="seconds"),
        seconds=seconds,
        peak_memory_bytes=max((t["peak_memory"] for t in timings.values()), default=0),
        machine=_machine(training[-1].device if training else "cpu"),
        outcome=_outcome(manifests, rounds, training),
        versions={"penstock": __version__, **library_versions(LIBRARIES)},
        sources=_sources(recipe, manifests),
        made=generation_record(root, manifests),
        asked=asked_records(root, manifests),
        steps=tuple(_step(step, manifests[step.name], step.name in built, timings) for step in steps),
        stages=tuple(_stages(manifests, rounds)),
        domains=tuple(_domains(manifests, rounds)),
        groups=_groups_found(manifests),
        map=_map(root, manifests),
        distributions=tuple(_distributions(manifests, rounds)),
        selections=tuple(
            found for n in rounds if (found := selection_record(root, manifests[f"selection-{n}"], n)) is not None
        ),
        search=search_record(root, manifests["search"]) if "search" in manifests else None,
        kept=kept_samples(root, rounds),
        dropped=dropped_samples(root, manifests, rounds),
        contamination=_contamination(manifests),
        tokenizer=_tokenizer(root, manifests),
        training=training,
        beside=tuple(
            training_record(root, manifests[f"model-1-{name}"], 1, name)
            for name in recipe.beside
            if f"model-1-{name}" in manifests
        ),
        policy=next(
            (policy_record(root, manifests[step.name]) for step in steps if isinstance(step, PolicyStep)), None
        ),
        changes=tuple(change_between(root, a, b, training) for a, b in pairwise(rounds)),
        warnings=tuple(warnings),
    )


def _when(timings: dict[str, Any], began: datetime | None) -> tuple[datetime, float]:
    """Start and wall time of the run; without a run, of the last builds of its steps."""
    now = datetime.now(UTC)
    if began is not None:
        return began, (now - began).total_seconds()
    starts = [datetime.fromisoformat(t["finished"]) - timedelta(seconds=t["seconds"]) for t in timings.values()]
    return min(starts, default=now), sum(t["seconds"] for t in timings.values())


def _machine(device: str) -> rec.Machine:
    import psutil

    processor = platform.processor()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor = next((line.split(":", 1)[1].strip() for line in file if "model name" in line), processor)
    except OSError:
        processor = processor or "unknown"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = psutil.virtual_memory().total
    with suppress(OSError, ValueError):  # no control group, or "max": no limit
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return rec.Machine(
        system=platform.platform(),
        processor=processor or platform.machine(),
        cores=cores,
        memory_bytes=memory,
        accelerator=None if device == "cpu" else device,
    )


def _outcome(
    manifests: dict[str, Manifest], rounds: list[int], training: tuple[rec.TrainingRecord, ...]
) -> rec.Outcome:
    last = manifests.get(f"dataset-{rounds[-1]}") if rounds else manifests.get("documents")
    if last is None:
        return rec.Outcome(rows=0, bytes=0, domains=0)
    by_split = [last.stats["domains"].get(s, {}) for s in SPLITS] if rounds else [last.stats.get("domains", {})]
    tokens = sum(sum(last.stats.get("tokens", {}).get(s, {}).values()) for s in SPLITS) if rounds else None
    return rec.Outcome(
        rows=sum(d["rows"] for domains in by_split for d in domains.values()),
        bytes=sum(d["bytes"] for domains in by_split for d in domains.values()),
        domains=len({name for domains in by_split for name in domains}),
        rounds=max(len(rounds), 1),
        tokens=tokens,
        final_loss=_validation_mean(manifests, len(training)) if training else None,
    )


def _validation_mean(manifests: dict[str, Manifest], number: int) -> float | None:
    """Validation loss of a round over domains, weighted by their validation tokens."""
    losses = manifests[f"model-{number}"].stats["validation"]
    tokens = manifests[f"sequences-{number}"].stats["tokens"].get("validation", {})
    total = sum(tokens[d]["packed"] for d in losses)
    return sum(losses[d] * tokens[d]["packed"] for d in losses) / total if total else None


def _sources(recipe: Recipe, manifests: dict[str, Manifest]) -> tuple[rec.SourceRecord, ...]:
    documents = manifests.get("documents")
    if documents is None:
        return ()
    out = []
    for source in sources_of(recipe):
        prefix = f"{source.name}:"
        files = [n.removeprefix(prefix) for n in documents.key_parts["inputs"] if n.startswith(prefix)]
        counted = documents.stats.get("sources", {}).get(source.name, {"rows": 0, "bytes": 0})
        entries = getattr(source, "entries", ())
        location = ", ".join(entry.path for entry in entries) or "this installation"
        kind = type(source).__name__.removesuffix("Source").lower().replace("file", "files")
        out.append(
            rec.SourceRecord(
                name=source.name,
                kind=kind,
                location=location if kind != "procedural" else "made on the spot",
                files=tuple(files[:FILES_NAMED]),
                files_total=len(files),
                rows=counted["rows"],
                bytes=counted["bytes"],
            )
        )
    if recipe.generate is not None:
        counted = documents.stats.get("sources", {}).get(MADE, {"rows": 0, "bytes": 0})
        made = rec.SourceRecord(name=MADE, kind="made", location="made by this run", files=(), files_total=0, **counted)
        out.append(made)
    return tuple(out)


def _step(step: Step, manifest: Manifest, built: bool, timings: dict[str, Any]) -> rec.StepRecord:
    from penstock.inspect import tokens_by_domain

    counts = manifest.counts
    tokens = sum(tokens_by_domain(manifest).values()) or manifest.stats.get("tokens")
    return rec.StepRecord(
        name=step.name,
        status="run" if built else "skipped",
        rows_in=counts.rows_in,
        rows_made=counts.made,
        rows_kept=counts.kept,
        rows_dropped=counts.dropped_total,
        seconds=timings.get(step.name, {}).get("seconds", 0.0),
        key=manifest.key,
        digest=manifest.digest,
        tokens=tokens if isinstance(tokens, int) else None,
        budget_seconds=step.budget,
        parents=tuple(rec.Parent(name=n, digest=p["digest"]) for n, p in manifest.parents.items()),
        parameters=manifest.key_parts["settings"],
    )


def _stages(manifests: dict[str, Manifest], rounds: list[int]) -> list[rec.Stage]:
    """The way of the document rows: sources, filters in order, duplicates, the last selection."""
    out: list[rec.Stage] = []
    rows = 0
    documents = manifests.get("documents")
    if documents is None:
        return out
    dropped = documents.counts.dropped

    def add(name: str, step: str, rows: int, reasons: dict[str, int], made: int = 0) -> int:
        kept = rows + made - sum(reasons.values())
        out.append(rec.Stage(name=name, step=step, rows_in=rows, rows_made=made, rows_kept=kept, reasons=reasons))
        return kept

    for name, counted in sorted(documents.stats.get("sources", {}).items()):
        rows = add(name, "documents", rows, dropped.get(f"source.{name}", {}), counted["rows"])
    # the counters are sorted by name; the order of the work is in the step's settings
    for work in documents.key_parts["settings"]["works"]:
        if dropped.get(work["name"]):
            rows = add(work["name"], "documents", rows, dropped[work["name"]])
    later = [step for step in (*CLEANING, *(f"dataset-{n}" for n in rounds[-1:])) if step in manifests]
    for step in later:
        rows = manifests[step].counts.rows_in  # what the stages above kept; the report warns when it is not
        for name, reasons in manifests[step].counts.dropped.items():
            rows = add(name, step, rows, reasons)
    return out


def _domains(manifests: dict[str, Manifest], rounds: list[int]) -> list[rec.DomainPoint]:
    out = []
    documents, scored = manifests.get("documents"), manifests.get("scored")
    if documents is not None:
        out.append(_point("sources", documents.stats.get("domains_in", {})))
    if scored is not None:
        out.append(_point("cleaned", scored.stats.get("domains", {}), scored.stats.get("tokens", {})))
    for number in rounds:
        domains: dict[str, rec.Amount] = {}
        for split in manifests[f"selection-{number}"].stats["domains"].values():
            for name, count in split.items():
                old = domains.get(name, rec.Amount(rows=0, bytes=0, tokens=0))
                domains[name] = rec.Amount(
                    rows=old.rows + count["copies"],
                    bytes=old.bytes + count["bytes"],
                    tokens=(old.tokens or 0) + count["tokens"],
                )
        out.append(rec.DomainPoint(name=f"selected, round {number}", domains=domains))
    return out


def _point(name: str, counted: dict[str, Any], tokens: dict[str, int] | None = None) -> rec.DomainPoint:
    return rec.DomainPoint(
        name=name,
        domains={
            d: rec.Amount(rows=c["rows"], bytes=c["bytes"], tokens=None if tokens is None else tokens.get(d))
            for d, c in counted.items()
        },
    )


def _groups_found(manifests: dict[str, Manifest]) -> tuple[rec.GroupRecord, ...]:
    """Groups by rows, largest first."""
    if "grouped" not in manifests:
        return ()
    stats = manifests["grouped"].stats
    found = [
        rec.GroupRecord(
            name=name,
            rows=of["rows"],
            bytes=of["bytes"],
            similarity=of["similarity"] / 1e4 / max(of["rows"], 1),
            terms=tuple(stats["terms"].get(name, ())),
        )
        for name, of in stats.get("groups", {}).items()
    ]
    return tuple(sorted(found, key=lambda group: (-group.rows, group.name)))


def _map(root: Folder, manifests: dict[str, Manifest]) -> rec.MapRecord | None:
    if "groups" not in manifests or "map" not in manifests["groups"].tables:
        return None
    points = Dataset(root / "groups").read("map").slice(0, MAP_POINTS)
    return rec.MapRecord(
        method=manifests["groups"].key_parts["settings"]["map"]["method"],
        x=tuple(round(float(x), 4) for x in points["x"].to_pylist()),
        y=tuple(round(float(y), 4) for y in points["y"].to_pylist()),
        groups=tuple(points["group"].to_pylist()),
        domains=tuple(points["domain"].to_pylist()),
    )


def _distributions(manifests: dict[str, Manifest], rounds: list[int]) -> list[rec.Distribution]:
    if not rounds:
        return []
    stats = manifests[f"dataset-{rounds[-1]}"].stats
    lengths = stats.get("lengths", {})
    bins = sorted({int(b) for side in lengths.values() for domain in side.values() for b in domain})
    out = []
    if bins:
        places = range(bins[0], bins[-1] + 1)
        edges = tuple(float(2**b) for b in range(bins[0], bins[-1] + 2))
        out.append(
            rec.Distribution(
                title="Length",
                unit="bytes",
                scale="log",
                edges=edges,
                groups=_groups(lengths, [str(b) for b in places]),
            )
        )
    names = sorted({name for side in stats.get("scores", {}).values() for name in side})
    for name in names:
        sides = {side: scores.get(name, {}) for side, scores in stats["scores"].items()}
        if name == "score.excess_loss" or not any(sides.values()):
            continue  # a loss is not bounded by 0 and 1; the rounds section shows it
        edges = tuple(i / SCORE_BINS for i in range(SCORE_BINS + 1))
        title = name.removeprefix("score.").replace("_", " ").capitalize() + " score"
        groups = _groups(sides, [str(b) for b in range(SCORE_BINS)])
        out.append(rec.Distribution(title=title, unit="", scale="linear", edges=edges, groups=groups))
    return out


def _groups(sides: dict[str, dict[str, dict[str, int]]], bins: list[str]) -> tuple[rec.DistributionGroup, ...]:
    domains = sorted({domain for side in sides.values() for domain in side})

    def counts(side: str, domain: str) -> tuple[int, ...]:
        found = sides.get(side, {}).get(domain, {})
        return tuple(found.get(b, 0) for b in bins)

    return tuple(
        rec.DistributionGroup(domain=d, selected=counts("selected", d), not_selected=counts("not_selected", d))
        for d in domains
    )


def _contamination(manifests: dict[str, Manifest]) -> tuple[rec.ContaminationRecord, ...]:
    if "decontaminated" not in manifests:
        return ()
    found = manifests["decontaminated"].stats["contamination"]
    return tuple(
        rec.ContaminationRecord(
            benchmark=name,
            **{k: v for k, v in of.items() if k != "samples"},
            samples=tuple(rec.ContaminatedSample(**sample) for sample in of["samples"]),
        )
        for name, of in sorted(found.items())
    )


def _tokenizer(root: Folder, manifests: dict[str, Manifest]) -> rec.TokenizerRecord | None:
    if "tokenizer" not in manifests:
        return None
    from penstock.tokenization.metrics import longest_tokens

    stats = manifests["tokenizer"].stats
    figures = manifests["scored"].stats.get("figures", {}) if "scored" in manifests else {}
    data = (root / "tokenizer").read_bytes(manifests["tokenizer"].artifacts["tokenizer.json"].path)
    longest = longest_tokens(data, np.ones(stats["vocabulary"], dtype=np.int64))
    return rec.TokenizerRecord(
        kind=stats.get("kind", "byte-level BPE"),
        vocabulary=stats["vocabulary"],
        domains=tuple(
            rec.TokenizerDomain(domain=d, bytes=f["bytes"], tokens=f["tokens"], words=f["words"])
            for d, f in sorted(figures.items())
        ),
        longest=tuple(rec.LongToken(id=t.token_id, text=t.text, bytes=t.bytes) for t in longest),
        trained_on_bytes=stats.get("sample_bytes"),
    )
