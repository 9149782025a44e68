"""Charts of made data as inline SVG: diversity over rounds, accepted against rejected, a map of the items.

Drawn as charts.py draws. Price: a point a round for each voyage; at most 1,500 dots.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from penstock.report.charts import DROPPED, KEPT, MUTED, ROWS, SERIES, WIDTH, Data, convert, palette
from penstock.report.record import MadeMap, VoyageRecord
from penstock.report.text import labels

MAX_ROUNDS = 400  # drawn of a voyage, evenly spaced
_KNOWN = {"rejected": MUTED, "seed": SERIES[3], "voyager": SERIES[0]}  # those not here have the other colours in turn
_OTHERS = [colour for colour in SERIES if colour not in _KNOWN.values()]


def diversity_over_items(voyages: Sequence[VoyageRecord]) -> str:
    """Vendi score of all accepted items against their number, a line a voyage: equal numbers compare."""
    names = labels(voyage.name for voyage in voyages)
    values: Data = [
        {"items": point.total, "vendi": point.vendi, "how": names[voyage.name]}
        for voyage in voyages
        for point in voyage.rounds[:: max(1, len(voyage.rounds) // MAX_ROUNDS)]
    ]
    chart = (
        alt.Chart(ROWS, width=WIDTH, height=230)
        .mark_line(point=alt.OverlayMarkDef(size=12))
        .encode(
            x=alt.X("items:Q", title="items accepted", axis=alt.Axis(format="~s", grid=False, tickCount=8)),
            y=alt.Y("vendi:Q", title="Vendi score of them"),
            color=alt.Color("how:N", scale=palette(list(names.values()), [SERIES[0], *_OTHERS])),
        )
    )
    return convert(chart, values, f"Vendi score against the number of items, {len(voyages)} lines")


def accepted_against_rejected(voyage: VoyageRecord) -> str:
    """Items accepted and rejected, a bar a round."""
    points = voyage.rounds[:: max(1, len(voyage.rounds) // MAX_ROUNDS)]
    values: Data = []
    for point in points:
        shared = {"round": point.round}
        values.append({**shared, "what": "accepted", "from": 0, "to": point.accepted})
        values.append({**shared, "what": "rejected", "from": point.accepted, "to": point.proposed})
    chart = (
        alt.Chart(ROWS, width=WIDTH, height=150)
        .mark_bar()
        .encode(
            x=alt.X("round:O", title="round", axis=alt.Axis(labelOverlap=True, labelAngle=0)),
            y=alt.Y("from:Q", title="items"),
            y2="to:Q",
            color=alt.Color("what:N", scale=palette(["accepted", "rejected"], [KEPT, DROPPED])),
        )
    )
    return convert(chart, values, f"Items accepted and rejected in {len(points)} rounds")


def made_map(shown: MadeMap) -> str:
    """Items as dots where their embeddings put them, by what they are."""
    kinds = sorted(set(shown.kinds), key=shown.kinds.index)
    names = labels(kinds)
    others = [kind for kind in kinds if kind not in _KNOWN]
    colours = [_KNOWN.get(kind) or _OTHERS[others.index(kind) % len(_OTHERS)] for kind in kinds]
    values: Data = [
        {"x": x, "y": y, "kind": names[kind]} for x, y, kind in zip(shown.x, shown.y, shown.kinds, strict=True)
    ]
    scale = alt.Scale(domain=[-1.04, 1.04], nice=False)
    chart = (
        alt.Chart(ROWS, width=WIDTH - 20, height=WIDTH * 0.62)
        .mark_square(size=10, opacity=0.75)
        .encode(
            x=alt.X("x:Q", axis=None, scale=scale),
            y=alt.Y("y:Q", axis=None, scale=scale),
            color=alt.Color("kind:N", scale=palette(list(names.values()), colours)),
        )
    )
    return convert(chart, values, f"Map of {len(shown.x)} items of {len(kinds)} kinds")
