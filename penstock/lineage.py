"""Where a dataset comes from, as counts that can be published: the steps before it, what each took in and dropped.

Price: one manifest a step.
"""

from __future__ import annotations

from typing import Any

from penstock.dataset import Dataset, Manifest, read_manifest
from penstock.storage import Folder


def steps_before(datasets: list[Dataset]) -> list[dict[str, Any]]:
    """The given datasets and all they were made from, parents first, as far as they lie beside each other.

    Each is ``{"step", "revision", "digest", "rows_in", "made", "kept", "dropped"}``, with ``sources`` (name ->
    ``rows`` and ``bytes`` read) where the step read some. Paths and settings stay out: they may name what is private.
    """
    out: dict[str, dict[str, Any]] = {}

    def add(folder: Folder, manifest: Manifest) -> None:
        if manifest.step in out:
            return
        for name, parent in manifest.parents.items():
            beside = Folder(folder.path.rpartition("/")[0]) / name
            found = read_manifest(beside)
            if found is not None and found.digest == parent["digest"]:
                add(beside, found)
        counts = manifest.counts
        step: dict[str, Any] = {
            "step": manifest.step,
            "revision": manifest.revision,
            "digest": manifest.digest,
            "rows_in": counts.rows_in,
            "made": counts.made,
            "kept": counts.kept,
            "dropped": counts.dropped,
        }
        if "sources" in manifest.stats:
            step["sources"] = manifest.stats["sources"]
        out[manifest.step] = step

    for dataset in datasets:
        add(dataset.folder, dataset.manifest)
    return list(out.values())
