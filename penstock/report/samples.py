"""Rows that a report shows: some that were kept, some of every reason that dropped them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock.dataset import Dataset, Manifest
from penstock.report import record as rec
from penstock.seeding import hash_ids
from penstock.storage import Folder

DROPPED_PER_REASON = 3
DROPPED_ROWS_READ = 20_000
SAMPLE_CHARACTERS = 1200
CLEANING = ("deduplicated", "trimmed", "decontaminated", "grouped")  # steps that drop documents, in order


def kept_samples(root: Folder, rounds: list[int]) -> tuple[rec.KeptSample, ...]:
    """Some rows of the last published dataset, as its samples hold them."""
    if not rounds:
        return ()
    dataset = Dataset(root / f"dataset-{rounds[-1]}")
    if "samples.parquet" not in dataset.manifest.artifacts:
        return ()
    with dataset.folder.open_read(dataset.manifest.artifacts["samples.parquet"].path) as file:
        rows = pq.read_table(file).to_pylist()
    return tuple(
        rec.KeptSample(
            doc_id=r["doc_id"],
            domain=r["domain"],
            source=r["source"],
            text=r["text"][:SAMPLE_CHARACTERS],
            copies=r["copies"],
            scores={n.removeprefix("score."): v for n, v in r.items() if n.startswith("score.") and v is not None},
        )
        for r in rows
    )


def dropped_samples(root: Folder, manifests: dict[str, Manifest], rounds: list[int]) -> tuple[rec.DroppedSample, ...]:
    """A few rows of every reason, by hash of their id, among the first rows of each ``dropped`` table."""
    out = []
    for name in ("documents", *CLEANING, *([f"dataset-{rounds[-1]}"] if rounds else [])):
        if name not in manifests or "dropped" not in manifests[name].tables:
            continue
        seen: list[pa.RecordBatch] = []
        for batch in Dataset(root / name).batches("dropped"):
            seen.append(batch)
            if sum(b.num_rows for b in seen) >= DROPPED_ROWS_READ:
                break
        table = pa.Table.from_batches(seen)
        table = table.append_column("hash", pa.array(hash_ids(table["doc_id"].to_pylist()))).sort_by("hash")
        for reason in sorted(pc.unique(table["reason"]).to_pylist()):
            rows = table.filter(pc.equal(table["reason"], reason)).slice(0, DROPPED_PER_REASON).to_pylist()
            out += [
                rec.DroppedSample(
                    doc_id=r["doc_id"],
                    domain=r["domain"],
                    step=r["step"],
                    reason=r["reason"],
                    detail=r["detail"],
                    text=None if r["text"] is None else r["text"][:SAMPLE_CHARACTERS],
                )
                for r in rows
            ]
    return tuple(out)
