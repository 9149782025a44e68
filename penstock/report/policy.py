"""What a report shows of a model that learned from groups: curves, pass@k, rewards by transform, some answers.

Price: the metrics file, and of the answers all columns that are short.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.dataset import Dataset, Manifest
from penstock.report import record as rec
from penstock.report.training import curve, lines
from penstock.seeding import hash_ids
from penstock.storage import Folder
from penstock.training.group_rl.step import ends

SAMPLES = 3  # of each outcome
TEXT_CHARACTERS = 600
_SHOWN = ["step", "problem_id", "transform", "question", "text", "outcome", "reward"]


def policy_record(root: Folder, manifest: Manifest) -> rec.PolicyRecord:
    """The record of a step ``policy-OBJECTIVE``."""
    folder, stats = root / manifest.step, manifest.stats
    steps = lines(folder, manifest.artifacts["metrics.jsonl"].path)
    log = f"logs/{manifest.step}/timings.jsonl"
    times = lines(root, log) if root.exists(log) else []
    shares = [{"step": step["step"], **step["groups"]["of_groups"]} for step in steps if "groups" in step]
    outcomes: Counter[str] = Counter()
    for step in steps:
        outcomes.update(step.get("outcomes", {}))
    return rec.PolicyRecord(
        objective=stats["objective"],
        model=stats["model"],
        device=stats["device"],
        parameters=stats["parameters"],
        groups=stats["groups"],
        problems=stats["problems"],
        held_out=stats["held_out"],
        steps=stats["steps"],
        answers=stats["answers"],
        seconds=sum(time["seconds"] for time in times),
        reward=curve(steps, "reward"),
        zero_gradient=curve(shares, "zero_gradient"),
        all_zero=curve(shares, "all_zero"),
        all_one=curve(shares, "all_one"),
        transforms=_by_transform(steps),
        passes=tuple(
            rec.PassRecord(
                name=name,
                problems=of["problems"],
                samples=of["samples"],
                **{part: tuple(of[part]) for part in ("ks", "before", "after", "error")},
            )
            for name, of in sorted(stats["passes"].items())
        ),
        outcomes=dict(outcomes),
        dropped=manifest.counts.dropped.get(manifest.step, {}),
        samples=_samples(Dataset(folder)),
    )


def _by_transform(steps: Sequence[Mapping[str, Any]]) -> tuple[rec.TransformReward, ...]:
    """The original first."""
    found = [step.get("reward_by_transform", {}) for step in steps]
    names = sorted({name for of in found for name in of}, key=lambda name: (name != "original", name))
    return tuple(rec.TransformReward(transform=name, **ends([of.get(name) for of in found])) for name in names)


def _samples(dataset: Dataset) -> tuple[rec.AnswerSample, ...]:
    """Some answers of the last tenth of the steps, the same number of each outcome; by hash of problem and text."""
    rows = dataset.read("rollouts", _SHOWN)
    late = rows.filter(pc.greater_equal(rows["step"], 0.9 * (pc.max(rows["step"]).as_py() or 0)))
    out = []
    for outcome in sorted(pc.unique(late["outcome"]).to_pylist()):
        of = late.filter(pc.equal(late["outcome"], outcome))
        keys = pc.binary_join_element_wise(of["problem_id"], of["text"], "\n").to_pylist()
        _, first = np.unique(hash_ids(keys), return_index=True)  # in the order of the hashes, equal answers once
        out += [_sample(row) for row in of.take(pa.array(first[:SAMPLES])).to_pylist()]
    return tuple(out)


def _sample(row: Mapping[str, Any]) -> rec.AnswerSample:
    return rec.AnswerSample(
        step=row["step"],
        problem=row["problem_id"],
        transform=row["transform"],
        reward=row["reward"],
        outcome=row["outcome"],
        question=row["question"][:TEXT_CHARACTERS],
        text=row["text"][:TEXT_CHARACTERS],
    )
