"""What a report shows of one trained model: its curves, its mixture and what it saw.

Price: the metrics file; of the signals, the columns of ids, steps and losses (some 60 bytes a segment in memory).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.dataset import Dataset, Manifest
from penstock.report import record as rec
from penstock.seeding import hash_ids
from penstock.storage import Folder

SAMPLED = 20  # documents of which the report names the steps
STEPS_NAMED = 12  # of each of them
MOST_VISITS = (("1", 1, 1), ("2", 2, 2), ("3 to 4", 3, 4), ("5 to 8", 5, 8), ("9 and more", 9, None))


def training_record(root: Folder, manifest: Manifest, round_: int, name: str = "") -> rec.TrainingRecord:
    """The record of the model of a round, or of one trained beside it under ``name``."""
    step = manifest.step
    folder = root / step
    steps = lines(folder, manifest.artifacts["metrics.jsonl"].path)
    log = f"logs/{step}/timings.jsonl"
    times = lines(root, log) if root.exists(log) else []
    model = manifest.stats["model"]
    return rec.TrainingRecord(
        round=round_,
        name=name,
        model=model["path"] or f"Llama, {model['layers']} layers, width {model['hidden_size']}",
        parameters=manifest.stats["parameters"],
        device=manifest.stats["device"],
        steps=manifest.stats["steps"],
        tokens=manifest.stats["tokens"],
        seconds=sum(t["seconds"] for t in times),
        train_loss=curve(steps, "loss"),
        learning_rate=curve(steps, "lr"),
        tokens_per_second=curve(times, "tokens_per_second"),
        validation_loss=_curves(steps, "val_loss_by_domain"),
        domain_loss=_curves(steps, "loss_by_domain"),
        target_loss=curve(steps, "target_loss"),
        effective_samples=curve([s["weighting"] | {"step": s["step"]} for s in steps if "weighting" in s], SHARE),
        mixture=_mixture(Dataset(folder), manifest),
        seen=_seen(Dataset(folder)),
    )


SHARE = "effective_share"


def lines(folder: Folder, path: str) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file."""
    return [json.loads(line) for line in folder.read_bytes(path).splitlines()]  # bytes: U+2028 in a name ends no line


def curve(rows: Sequence[Mapping[str, Any]], name: str) -> rec.Curve:
    """A value by step, where it was logged and is a number."""
    found = [row for row in rows if row.get(name) is not None]
    return rec.Curve(steps=tuple(r["step"] for r in found), values=tuple(float(r[name]) for r in found))


def _curves(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, rec.Curve]:
    """The values of a mapping by step, one curve a key."""
    measured = [row for row in rows if name in row]
    domains = sorted({domain for row in measured for domain in row[name]})
    return {d: curve([{"step": row["step"], d: row[name].get(d)} for row in measured], d) for d in domains}


def _mixture(dataset: Dataset, manifest: Manifest) -> rec.MixtureRecord | None:
    log = dataset.read("policy_log")
    if not log.num_rows:
        return None
    rows = log.sort_by([("mixture_version", "ascending"), ("step", "ascending")]).to_pylist()
    # a policy that was asked and left the mixture as it is has a row, and no version of its own
    # what would have begun after the last step never held
    sequences = manifest.stats["steps"] * manifest.key_parts["settings"]["batch_size"]
    versions = {r["mixture_version"]: r for r in reversed(rows) if r["effective_from_sequence"] < sequences}
    kept = [versions[number] for number in sorted(versions)]
    policy = manifest.key_parts["settings"].get("policy") or {}
    return rec.MixtureRecord(
        policy=kept[-1]["policy"],
        target=tuple(policy.get("target", ())),
        sequences_a_step=manifest.key_parts["settings"]["batch_size"],
        effective_from=tuple(row["effective_from_sequence"] for row in kept),
        weights={
            domain: tuple(float(row["new_weights"][row["domains"].index(domain)]) for row in kept)
            for domain in kept[-1]["domains"]
        },
    )


def _seen(dataset: Dataset) -> rec.SeenRecord | None:
    """Documents by the number of steps that saw them, and a sample with its steps and losses."""
    columns = ["doc_id", "domain", "step", "tokens", "loss"]
    signals = dataset.read("signals").select(columns)
    if not signals.num_rows:
        return None
    # pieces of a document in one step are one visit
    total = pc.multiply(signals["loss"], pc.cast(signals["tokens"], pa.float32()))
    visits = (
        signals.append_column("total", total)
        .group_by(["doc_id", "domain", "step"])
        .aggregate([("total", "sum"), ("tokens", "sum")])
    )
    counted = visits.group_by("doc_id").aggregate([("step", "count")])
    number = counted["step_count"].to_numpy()
    by_visits = {
        name: int(((number >= least) & ((number <= most) if most is not None else True)).sum())
        for name, least, most in MOST_VISITS
    }
    names = counted["doc_id"].to_pylist()
    first = np.argsort(hash_ids(names), kind="stable")[:SAMPLED]
    chosen = visits.filter(pc.is_in(visits["doc_id"], pa.array([names[i] for i in first]))).sort_by("step")
    by_document: dict[str, list[dict[str, Any]]] = {}
    for row in chosen.to_pylist():
        by_document.setdefault(row["doc_id"], []).append(row)
    return rec.SeenRecord(
        documents=len(names),
        visits={name: count for name, count in by_visits.items() if count},
        samples=tuple(
            rec.SeenDocument(
                doc_id=name,
                domain=rows[0]["domain"],
                steps=tuple(row["step"] for row in rows[:STEPS_NAMED]),
                visits=len(rows),
                first_loss=rows[0]["total_sum"] / rows[0]["tokens_sum"],
                last_loss=rows[-1]["total_sum"] / rows[-1]["tokens_sum"],
            )
            for name, rows in sorted(by_document.items())
        ),
    )
