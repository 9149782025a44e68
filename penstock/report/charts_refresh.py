"""The chart of rounds as inline SVG: how both models' losses differ, with the error. Drawn as charts.py draws."""

from __future__ import annotations

import math

import altair as alt

from penstock.report.charts import ROWS, SERIES, WIDTH, Data, convert, in_order, palette
from penstock.report.record_refresh import RefreshRecord

MAX_ROUNDS = 60  # drawn, the last ones
SPLITS = {"new": "new sequences", "old": "older sequences"}
_WIDE = 1.96  # standard errors to each side


def differences(refresh: RefreshRecord) -> str:
    """New minus older loss by round, a colour for each split, 95 % intervals; a cross where it was not accepted."""
    values: Data = []
    for one in refresh.rounds[-MAX_ROUNDS:]:
        for of in one.losses:
            if math.isfinite(of.difference) and of.split in SPLITS:
                reach = _WIDE * (of.error or 0.0)
                values.append(
                    {
                        "round": f"{one.number}",
                        "order": one.number,
                        "difference": of.difference,
                        "low": of.difference - reach,
                        "high": of.difference + reach,
                        "split": SPLITS[of.split],
                        "verdict": "accepted" if one.accepted else "not accepted",
                    }
                )
    x = alt.X("round:O", title="round", sort=in_order(), axis=alt.Axis(labelAngle=0))
    colour = alt.Color("split:N", scale=palette(list(SPLITS.values()), SERIES))
    beside = alt.XOffset("split:N", scale=alt.Scale(domain=list(SPLITS.values())))
    title = "new minus older loss (nats per token)"
    base = alt.Chart(ROWS, width=WIDTH, height=200).encode(x=x, xOffset=beside, color=colour)
    spans = base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    points = base.mark_point(size=50, filled=True, opacity=1).encode(
        y=alt.Y("difference:Q", title=title),
        shape=alt.Shape("verdict:N", scale=alt.Scale(domain=["accepted", "not accepted"], range=["circle", "cross"])),
    )
    return convert(spans + points, values, f"New minus older loss over {len(refresh.rounds)} rounds")
