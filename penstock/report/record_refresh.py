"""What a report shows of the rounds of ``penstock refresh``. Part of the record."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.refreshing.ledger import Round


@dataclass(frozen=True, kw_only=True)
class CoverageRow:
    """A domain of the accepted corpus in the sample that new items were measured against.

    ``gain`` is the mean gain of the sampled documents that are no anchors, given the anchors: near 1, the anchors tell
    nothing of them and the domain is thinly covered; None where all are anchors.
    """

    domain: str
    documents: int
    anchors: int
    gain: float | None


@dataclass(frozen=True, kw_only=True)
class RefreshRecord:
    """All rounds of a folder, in order, as ``rounds.json`` has them.

    ``seconds`` are the sums of the last builds of the steps of each round, None where its folder is gone. ``current``
    is the number of the accepted one. ``coverage`` is that of the last round, largest gain first.
    """

    current: int
    rounds: tuple[Round, ...]
    seconds: tuple[float | None, ...]
    coverage: tuple[CoverageRow, ...] = ()
