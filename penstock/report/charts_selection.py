"""Charts of the search for theta as inline SVG: predicted against measured, and what the surrogate looked at.

Drawn as charts.py draws. Price: at most 1,000 points and 20 bars.
"""

from __future__ import annotations

import math

import altair as alt

from penstock.report.charts import KEPT, MUTED, ROWS, WIDTH, Data, convert, in_order
from penstock.report.record import SearchRecord
from penstock.report.text import labels

MAX_POINTS = 1000
MAX_BARS = 20


def predicted_against_measured(search: SearchRecord) -> str:
    """Every proxy's loss against the prediction of the folds that did not hold it, with the diagonal."""
    points = [p for p in search.points if math.isfinite(p.measured) and math.isfinite(p.predicted)][:MAX_POINTS]
    low = min(min(p.measured, p.predicted) for p in points)
    high = max(max(p.measured, p.predicted) for p in points)
    values: Data = [{"measured": p.measured, "predicted": p.predicted, "kind": "proxy"} for p in points]
    values += [{"measured": at, "predicted": at, "kind": "equal"} for at in (low, high)]
    scale = alt.Scale(zero=False)
    base = alt.Chart(ROWS, width=400, height=230).encode(
        x=alt.X("measured:Q", title="measured loss (nats per token)", scale=scale, axis=alt.Axis(grid=False)),
        y=alt.Y("predicted:Q", title="predicted, out of fold", scale=scale),
    )
    chart = base.transform_filter("datum.kind === 'equal'").mark_line(
        color=MUTED, strokeDash=[4, 4]
    ) + base.transform_filter("datum.kind === 'proxy'").mark_circle(color=KEPT, size=28, opacity=0.8)
    return convert(chart, values, f"Predicted against measured loss of {len(points)} proxies")


def importances(search: SearchRecord) -> str:
    """Share of the surrogate's gain by parameter, largest first."""
    found = sorted(search.importances.items(), key=lambda item: (-item[1], item[0]))[:MAX_BARS]
    shown = labels(name for name, _ in found)
    values: Data = [{"name": shown[name], "share": share, "order": order} for order, (name, share) in enumerate(found)]
    chart = (
        alt.Chart(ROWS, width=WIDTH - 560, height=max(60, 16 * len(values)))
        .mark_bar(color=KEPT)
        .encode(
            y=alt.Y("name:N", sort=in_order(), title=None),
            x=alt.X("share:Q", title="share of the gain", axis=alt.Axis(format="%", tickCount=4)),
        )
    )
    return convert(chart, values, f"What the surrogate looked at, {len(values)} parameters")
