"""The report of a folder of rounds: that of its last round, with all rounds side by side.

Price: that of a run's report; a small file a round beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from datetime import datetime

from penstock import __version__
from penstock.checked import sealed, unsealed
from penstock.dataset import Dataset, hash_json, read_manifest
from penstock.recipe import Recipe
from penstock.refreshing.ledger import Ledger
from penstock.refreshing.plan import COVERAGE, round_steps
from penstock.report.build import build_record
from penstock.report.plain import to_plain
from penstock.report.record_refresh import CoverageRow, RefreshRecord
from penstock.run import read_timings
from penstock.storage import Folder

_STAMP = ".report.json"


def write_report(recipe: Recipe, root: Folder, ledger: Ledger, built: Collection[str], began: datetime) -> str | None:
    """Write ``report.html`` and ``record.json`` and return the path of the former.

    A report of the same rounds stays. None when no round ended yet, or the folder of the last one is gone.

    Args:
        built: names of the steps that this call built.
        began: when it did.
    """
    last, current = ledger.last, ledger.current
    if last is None or current is None:
        return None
    # whether a round was sent is not shown
    stamp = hash_json([[to_plain(dataclasses.replace(one, sent=False)) for one in ledger.rounds], __version__])
    if root.exists("report.html") and _stamp(root) == stamp:
        return root.join("report.html")
    folder = root / last.folder
    base = None if last.base is None else root / ledger.rounds[last.base - 1].folder
    manifests = {
        step.name: manifest
        for step in round_steps(recipe, last.number, base)
        if (manifest := read_manifest(folder / step.name)) is not None
    }
    if not manifests:
        return None
    steps = [step for step in round_steps(recipe, last.number, base) if step.name in manifests]
    record = build_record(recipe, folder, steps, manifests, built, began, [])
    record = dataclasses.replace(record, refresh=refresh_record(root, ledger))
    from penstock.report.render import write

    root.write_bytes("record.json", record.to_json().encode())
    write(record, root.join("report.html"))
    root.write_json(_STAMP, sealed({"stamp": stamp}))
    return root.join("report.html")


def _stamp(root: Folder) -> str | None:
    """Of the report that is there."""
    try:
        return str(unsealed(root.read_json(_STAMP))["stamp"])
    except (FileNotFoundError, ValueError, KeyError):
        return None


def refresh_record(root: Folder, ledger: Ledger) -> RefreshRecord:
    """The record of rounds that ended."""
    last, current = ledger.last, ledger.current
    assert last is not None, "no round ended"
    assert current is not None, "the first round is always accepted"
    seconds = []
    for one in ledger.rounds:
        timings = read_timings(root / one.folder)
        seconds.append(sum(step["seconds"] for step in timings.values()) if timings else None)
    return RefreshRecord(
        current=current.number,
        rounds=ledger.rounds,
        seconds=tuple(seconds),
        coverage=_coverage(root / last.folder / COVERAGE),
    )


def _coverage(folder: Folder) -> tuple[CoverageRow, ...]:
    if read_manifest(folder) is None:
        return ()
    found = Dataset(folder).manifest.stats["coverage"]
    rows = [CoverageRow(domain=name, **of) for name, of in found.items()]
    return tuple(sorted(rows, key=lambda row: (-(row.gain if row.gain is not None else 0.0), row.domain)))
