"""A step that drops nearly everything stops before its commit.

A filter made for another language, a list with an entry too many or a source of another format can throw a corpus away
without an error. The guard looks at what a step counted: every row work, every source and benchmark (its bad records)
and the step as a whole may drop at most a share of their rows, ``default`` or their own, once they saw ``LEAST_ROWS``.
What has a share of its own does not count towards the step as a whole, and what a selection leaves out is no drop.
Receipts of the splits stay, so that a rerun with the share raised reads nothing again. Shares decide nothing about
rows: they are no part of a key.

Price: none that can be measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.errors import DropGuardError

if TYPE_CHECKING:
    from penstock.dataset import Counts

LEAST_ROWS = 100
DEFAULT = 0.95
_SOURCE, _BENCHMARK = "source.", "benchmark."
_CHOSEN = ("selection",)  # counts its rows as dropped because it is asked to


class Drops(NamedTuple):
    """What one row work, source or step dropped of the rows it saw."""

    name: str
    rows: int
    reasons: Mapping[str, int]

    @property
    def dropped(self) -> int:
        return sum(self.reasons.values())


def check_drops(step: str, counts: Counts, stats: Mapping[str, Any], allowed: Mapping[str, float]) -> None:
    """Raise DropGuardError for the first row work, source or step that dropped a larger share than it may.

    Args:
        step: name of the step, which also names the step as a whole in ``allowed``.
        stats: of the step; ``row_work`` and ``sources`` say what each saw.
        allowed: share by name; ``default`` for all others.
    """
    for drops in _drops(step, counts, stats, allowed):
        share = allowed.get(drops.name, allowed.get("default", DEFAULT))
        if drops.rows < LEAST_ROWS or drops.dropped <= share * drops.rows:
            continue
        found = sorted(drops.reasons.items(), key=lambda item: (-item[1], item[0]))
        reasons = ", ".join(f"{reason} {rows:,}" for reason, rows in found[:3]) + (", …" if len(found) > 3 else "")
        where = step if drops.name == step else f"{step}: {drops.name}"
        raise DropGuardError(
            f"{where} dropped {drops.dropped / drops.rows:.1%} of {drops.rows:,} rows ({reasons}), allowed "
            f"{share:.1%}; mend it, or allow it with --set max_dropped.{drops.name}=1 (nothing was committed; the rows "
            "read are kept, so such a rerun goes on from here)"
        )


def _drops(step: str, counts: Counts, stats: Mapping[str, Any], allowed: Mapping[str, float]) -> Iterator[Drops]:
    rows_in = counts.rows_in + counts.made
    total: dict[str, int] = {}
    for name, reasons in counts.dropped.items():
        if name in _CHOSEN:
            continue
        rows, known = rows_in, name
        if name in stats.get("row_work", {}):
            rows = stats["row_work"][name][0]
        elif name.startswith(_SOURCE):
            known = name.removeprefix(_SOURCE)
            rows = stats.get("sources", {}).get(known, {}).get("rows", rows_in)
        elif name.startswith(_BENCHMARK):
            known = name.removeprefix(_BENCHMARK)
            rows = stats.get("benchmarks", {}).get(known, {}).get("items", 0) + sum(reasons.values())
        yield Drops(known, rows, reasons)
        if known not in allowed:
            total |= {f"{known}.{reason}": n for reason, n in reasons.items()}
    yield Drops(step, rows_in, total)
