"""What a report shows of made data, from the datasets of the steps that made it.

Price: seconds for a few thousand items, most of it the map.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.dataset import Dataset, Manifest
from penstock.generators.spending import spending
from penstock.report import record as rec
from penstock.seeding import hash_ids
from penstock.storage import Folder

MAP_POINTS = 1500  # drawn, of all kinds together
SAMPLES = 4  # of accepted items, and of each reason
REASONS = 8  # with samples
TEXT_CHARACTERS = 600
GENERATED, TRANSFORMED = "generated", "transformed"


def generation_record(root: Folder, manifests: Mapping[str, Manifest]) -> rec.GenerationRecord | None:
    """The record of what the run made; None where it made nothing."""
    if GENERATED not in manifests:
        return None
    names = [GENERATED, *sorted(name for name in manifests if name.startswith(f"{GENERATED}-"))]
    made = {_title(name): Dataset(root / name) for name in names}
    return rec.GenerationRecord(
        voyages=tuple(_voyage(name, dataset) for name, dataset in made.items()),
        map=_map(made),
        samples=tuple(_samples(made[_title(GENERATED)])),
        variants=_variants(manifests[TRANSFORMED]) if TRANSFORMED in manifests else None,
    )


def asked_records(root: Folder, manifests: Mapping[str, Manifest]) -> tuple[rec.AskedRecord, ...]:
    """What the last build of every step asked of models, in order of the steps."""
    took = spending(root)
    return tuple(
        rec.AskedRecord(
            step=step,
            model=model,
            **{name: of[name] for name in ("requests", "kept", "prompt_tokens", "completion_tokens", "cost", "failed")},
            p50=of["latency"]["p50"],
            p99=of["latency"]["p99"],
        )
        for step in manifests
        for model, of in took.get(step, {}).items()
    )


def _title(step: str) -> str:
    """``voyager`` or the baseline's name."""
    return step.removeprefix(f"{GENERATED}-") if step != GENERATED else "voyager"


def _voyage(name: str, dataset: Dataset) -> rec.VoyageRecord:
    stats, counts = dataset.manifest.stats["voyage"], dataset.manifest.counts
    rejected = {f"{stage}: {reason}": n for stage, reasons in counts.dropped.items() for reason, n in reasons.items()}
    facts = ("wanted", "accepted", "detail", "vendi", "proposed", "explorers", "calls")
    fields = ("round", "proposed", "accepted", "total", "vendi", "threshold", "mean_gain")
    rows = dataset.read("rounds").select(fields).to_pylist() if "rounds" in dataset.manifest.tables else []
    return rec.VoyageRecord(
        name=name,
        **{fact: stats[fact] for fact in facts},
        rejected=rejected,
        rounds=tuple(rec.VoyageRound(**row) for row in rows),
    )


def _map(made: Mapping[str, Dataset]) -> rec.MadeMap | None:
    """Every kind has the same share of the points, so that none hides the others by its number."""
    from penstock.embedding.base import unit_vectors
    from penstock.selectors.projection import project

    found: list[tuple[str, pa.Table]] = []
    for name, dataset in made.items():
        if "vectors" not in dataset.manifest.tables:
            continue
        rows = dataset.read("vectors").combine_chunks()
        kinds = pc.if_else(pc.equal(rows["kind"], "accepted"), name, rows["kind"])
        wanted = ("rejected", "seed", name) if name == "voyager" else (name,)
        found += [(kind, rows.filter(pc.equal(kinds, kind))) for kind in wanted]
    found = [(kind, _some(rows, MAP_POINTS // len(found))) for kind, rows in found if rows.num_rows]
    if not found:
        return None
    points = project(np.concatenate([unit_vectors(rows["embedding"]) for _, rows in found]))
    return rec.MadeMap(
        x=tuple(round(float(x), 4) for x in points[:, 0]),
        y=tuple(round(float(y), 4) for y in points[:, 1]),
        kinds=tuple(kind for kind, rows in found for _ in range(rows.num_rows)),
    )


def _some(rows: pa.Table, most: int) -> pa.Table:
    """At most so many rows, by hash of their id."""
    order = np.argsort(hash_ids(rows["id"].to_pylist()), kind="stable")[:most]
    return rows.take(pa.array(order)).combine_chunks()


def _samples(dataset: Dataset) -> list[rec.MadeSample]:
    out = []
    for table, item, text in (("problems", "problem_id", "prompt"), ("documents", "doc_id", "text")):
        if table in dataset.manifest.tables:
            rows = dataset.read(table).select([item, text, "provenance"]).rename_columns(["id", "text", "provenance"])
            out += [_sample(row, None) for row in _some(rows, SAMPLES).to_pylist()]
    if "dropped" in dataset.manifest.tables:
        names = ["doc_id", "text", "provenance", "reason"]
        rows = dataset.read("dropped").select(names).rename_columns(["id", "text", "provenance", "reason"])
        for reason in sorted(pc.unique(rows["reason"]).to_pylist())[:REASONS]:
            these = _some(rows.filter(pc.equal(rows["reason"], reason)), SAMPLES)
            out += [_sample(row, reason) for row in these.to_pylist()]
    return out


def _sample(row: Mapping[str, Any], reason: str | None) -> rec.MadeSample:
    told = json.loads(row["provenance"])
    return rec.MadeSample(
        item=row["id"],
        round=told["round"],
        reason=reason,
        gain=told["gain"],
        threshold=told["threshold"],
        gradient=told["gradient_text"],
        text=None if row["text"] is None else row["text"][:TEXT_CHARACTERS],
    )


def _variants(manifest: Manifest) -> rec.VariantsRecord:
    stats = manifest.stats
    return rec.VariantsRecord(
        sizes=stats.get("sizes", {}),
        transforms=tuple(
            rec.TransformRow(
                name=name,
                kept=of.get("kept", 0),
                not_applicable=sum(of.get("not_applicable", {}).values()),
                rejected=of.get("rejected", {}),
            )
            for name, of in sorted(stats.get("transforms", {}).items())
        ),
    )
