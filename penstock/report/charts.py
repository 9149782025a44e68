"""Charts of a run as inline SVG: drawn by Vega-Lite through altair, converted by vl-convert.

No JavaScript and no network: the converter runs here, may open no URL, and what it returns is read as XML,
reduced to a short list of elements without handlers or links, and written again. Names that come from data
never become field names, expressions or colours: they travel as values of fixed fields, made visible and
short first (the converter aborts the process on a control character). Colours are CSS variables of the page,
so one SVG serves light and dark.

Price: 1 s once for altair and the converter, then under 0.1 s a chart; 5 to 80 kB a chart, since curves are
reduced to 300 points (charts_training.py) and no more than 12 domains are drawn, largest first (the tables hold more).
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import altair as alt
import numpy as np

from penstock.report.record import (
    Distribution,
    DomainPoint,
    MapRecord,
    RoundChange,
    Stage,
    TokenizerRecord,
)
from penstock.report.text import count, labels, one_line, percent

MAX_DOMAINS = 12

KEPT, DROPPED, MUTED = "var(--kept)", "var(--dropped)", "var(--muted-bar)"
SERIES = tuple(f"var(--series-{i})" for i in range(1, 7))
WIDTH = 880  # of a plot with its axis; the page is about 1,030 wide inside

_CONFIG: dict[str, Any] = {
    "aria": False,  # the figure carries one label; a label a bar would double the size
    "background": None,
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "gridColor": "var(--grid)",
        "domainColor": "var(--axis)",
        "tickColor": "var(--axis)",
        "labelLimit": 260,
    },
    "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
    "header": {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 11, "labelLimit": 190},
    "legend": {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "labelFontSize": 11,
        "labelLimit": 210,
        "orient": "top",
        "title": None,
        "symbolStrokeWidth": 3,
        "symbolOpacity": 1,
    },
    "text": {"color": "currentColor", "fontSize": 11},
    "line": {"strokeWidth": 1.8},
}

_ELEMENTS = frozenset({"svg", "g", "path", "rect", "line", "text", "tspan", "circle"})
# fmt: off
_ATTRIBUTES = frozenset({
    "width", "height", "viewBox", "d", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "dx", "dy",
    "transform", "fill", "fill-opacity", "opacity", "stroke", "stroke-width", "stroke-opacity",
    "stroke-dasharray", "stroke-miterlimit", "stroke-linecap", "text-anchor", "font-family", "font-size",
    "font-weight", "font-style",
})
# fmt: on
_LONG_DECIMAL = re.compile(r"(-?\d+\.\d\d)\d+")

Data = list[dict[str, Any]]
# by name, since altair would check every row against the schema of Vega-Lite: half of all the time
ROWS = alt.NamedData(name="rows")


def convert(chart: Any, values: Data, label: str) -> str:
    """``chart`` of ``values`` as the text of one SVG element that reads out as ``label``.

    Raises:
        ValueError: the converter returned an element that a drawing has no need of.
    """
    import vl_convert

    specification = chart.to_dict()
    specification["datasets"] = {ROWS.name: values}
    svg = vl_convert.vegalite_to_svg(
        specification,
        vl_version=".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2]),
        config=_CONFIG,
        allowed_base_urls=[],
    )
    root = ET.fromstring(svg)
    _clean(root)
    root.set("role", "img")
    root.set("aria-label", one_line(label, 300))
    return ET.tostring(root, encoding="unicode")


def draw_nothing() -> None:
    """Start the converter, which the first drawing of a process waits a quarter of a second for."""
    convert(alt.Chart(ROWS).mark_bar(), [], "nothing")


def _clean(element: ET.Element) -> None:
    """Keep what draws: known elements and attributes, no empty paths, two decimals."""
    element.tag = element.tag.rpartition("}")[2]
    if element.tag not in _ELEMENTS:
        raise ValueError(f"chart: got element {element.tag!r}, allowed {sorted(_ELEMENTS)}; draw it without")
    element.attrib = {k: _LONG_DECIMAL.sub(r"\1", v) for k, v in element.attrib.items() if k in _ATTRIBUTES}
    for child in list(element):
        if child.get("display") == "none" or (child.tag.endswith("}path") and not child.get("d", "").strip("M0,hvZ")):
            element.remove(child)
        else:
            _clean(child)
            if child.tag == "g" and not len(child):
                element.remove(child)


_SI = "format(datum.value, '~s')"  # unlike the axis format "~s" it writes 0 as 0, not as 0k


def in_order() -> alt.EncodingSortField:
    """Sort by the field `order`, so that no name enters the specification as code."""
    return alt.EncodingSortField(field="order", op="min")


def palette(names: Sequence[str], colours: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=list(names), range=[colours[i % len(colours)] for i in range(len(names))])


def largest(sizes: Mapping[str, float], limit: int = MAX_DOMAINS) -> list[str]:
    """Names of the largest sizes, largest first, ties by name: the domains that charts draw."""
    return sorted(sizes, key=lambda name: (-sizes[name], name))[:limit]


def waterfall(stages: Sequence[Stage]) -> str:
    """Rows that each stage keeps (full bar) and drops (end of the bar), from the sources down."""
    numbered = labels(f"{i}. {stage.name}" for i, stage in enumerate(stages, 1))
    values: Data = []
    for order, (stage, label) in enumerate(zip(stages, numbered.values(), strict=True)):
        arrived = stage.rows_in + stage.rows_made
        dropped = stage.rows_dropped
        note = f"−{count(dropped)} ({percent(dropped, arrived)})" if dropped else ""
        if stage.rows_made:
            note = f"+{count(stage.rows_made)}" + (f"  {note}" if note else "")
        shared = {"order": order, "stage": label}
        grown = max(0, stage.rows_kept - stage.rows_made)
        values.append({**shared, "what": "kept", "from": 0, "to": grown, "note": "", "end": arrived})
        values.append({**shared, "what": "made", "from": grown, "to": stage.rows_kept, "note": "", "end": arrived})
        values.append(
            {**shared, "what": "dropped", "from": stage.rows_kept, "to": arrived, "note": note, "end": arrived}
        )
    base = alt.Chart(ROWS, width=WIDTH - 70, height=alt.Step(20)).encode(
        y=alt.Y("stage:N", sort=in_order(), title=None, axis=alt.Axis(grid=False))
    )
    bars = base.mark_bar(height=13).encode(
        x=alt.X("from:Q", title="rows", axis=alt.Axis(labelExpr=_SI, tickCount=6)),
        x2="to:Q",
        color=alt.Color("what:N", scale=palette(["kept", "made", "dropped"], [KEPT, SERIES[2], DROPPED])),
    )
    notes = base.mark_text(align="left", dx=5).encode(x="end:Q", text="note:N")
    last, first = stages[-1], max(stage.rows_in + stage.rows_made for stage in stages)
    return convert(
        bars + notes,
        values,
        f"Rows after each of {len(stages)} stages, from {count(first)} down to {count(last.rows_kept)}",
    )


def domain_shares(points: Sequence[DomainPoint]) -> str:
    """Each domain's share of the tokens (or of the bytes, where some point has no tokens) at every point."""
    measure = "tokens" if all(a.tokens is not None for p in points for a in p.domains.values()) else "bytes"
    totals = [sum(getattr(a, measure) for a in point.domains.values()) for point in points]
    sizes: dict[str, float] = {}
    for point, total in zip(points, totals, strict=True):
        for name, held in point.domains.items():
            sizes[name] = max(sizes.get(name, 0.0), getattr(held, measure) / max(total, 1))
    drawn = labels(largest(sizes))
    steps = labels(point.name for point in points)
    values: Data = []
    for order, (name, label) in enumerate(drawn.items()):
        for at, (point, total) in enumerate(zip(points, totals, strict=True)):
            there = point.domains.get(name)
            share = getattr(there, measure) / total if there is not None and total else 0.0
            values.append({"order": order, "domain": label, "at": at, "point": steps[point.name], "share": share})
    chart = (
        alt.Chart(ROWS, width=WIDTH - 60, height=alt.Step(11, **{"for": "offset"}))
        .mark_bar()
        .encode(
            x=alt.X("share:Q", title=f"share of {measure}", axis=alt.Axis(format="~%", tickCount=6)),
            y=alt.Y(
                "domain:N", sort=in_order(), title=None, axis=alt.Axis(grid=False), scale=alt.Scale(paddingInner=0.25)
            ),
            yOffset=alt.YOffset("at:O"),
            color=alt.Color(
                "point:N",
                scale=palette(list(steps.values()), [MUTED, SERIES[4], *SERIES[:4]]),
                legend=alt.Legend(columns=4),
            ),
        )
    )
    return convert(chart, values, f"Share of {measure} of {len(drawn)} domains at {len(points)} points of the run")


def document_map(shown: MapRecord, by: Literal["group", "domain"]) -> str:
    """Documents as dots where their embeddings put them; the largest groups (or domains) coloured and named there."""
    of_point = shown.groups if by == "group" else shown.domains
    sizes: dict[str, float] = {}
    for name in of_point:
        sizes[name] = sizes.get(name, 0) + 1
    drawn = labels(largest(sizes), 28)
    colour = {name: SERIES[i % len(SERIES)] for i, name in enumerate(drawn)}
    values: Data = [
        {"x": x, "y": y, "colour": colour.get(name, MUTED), "note": ""}
        for x, y, name in zip(shown.x, shown.y, of_point, strict=True)
    ]
    for name, label in drawn.items():
        mine = [i for i, other in enumerate(of_point) if other == name]
        x, y = (float(np.median([side[i] for i in mine])) for side in (shown.x, shown.y))
        values.append({"x": x, "y": y, "colour": "", "note": label})
    scale = alt.Scale(domain=[-1.04, 1.04], nice=False)
    base = alt.Chart(ROWS, width=WIDTH - 20, height=WIDTH * 0.62).encode(
        x=alt.X("x:Q", axis=None, scale=scale), y=alt.Y("y:Q", axis=None, scale=scale)
    )
    dots = (
        base.transform_filter("datum.colour != ''")
        .mark_square(size=9, opacity=0.75)
        .encode(color=alt.Color("colour:N", scale=None))
    )
    notes = base.transform_filter("datum.note != ''").mark_text(fontWeight="bold").encode(text="note:N")
    return convert(dots + notes, values, f"Map of {len(shown.x)} documents by {by}, {len(drawn)} of {len(sizes)} named")


def distribution(shown: Distribution) -> str:
    """One histogram a domain: rows the last selection took, and below the same axis those it did not, stacked."""
    sizes = {g.domain: float(sum(g.selected) + sum(g.not_selected)) for g in shown.groups}
    chosen = set(largest(sizes))
    drawn = labels(g.domain for g in shown.groups if g.domain in chosen)
    groups = {g.domain: g for g in shown.groups}
    values: Data = []
    for order, (domain, label) in enumerate(drawn.items()):
        group = groups[domain]
        for (low, high), taken, left in zip(pairwise(shown.edges), group.selected, group.not_selected, strict=True):
            shared = {"order": order, "domain": label, "low": low, "high": high}
            if taken:
                values.append({**shared, "what": "selected", "from": 0, "to": taken})
            if left:
                values.append({**shared, "what": "not selected", "from": taken, "to": taken + left})
    title = f"{shown.title} ({shown.unit})" if shown.unit else shown.title
    scale = alt.Scale(type=shown.scale, domain=[shown.edges[0], shown.edges[-1]], nice=False)
    chart = (
        alt.Chart(ROWS, width=(WIDTH - 100) / 3, height=86)
        .mark_rect()
        .encode(
            x=alt.X(
                "low:Q", scale=scale, title=None, axis=alt.Axis(format="~s", tickCount=4, grid=False, labelOverlap=True)
            ),
            x2="high:Q",
            y=alt.Y("from:Q", title=None, axis=alt.Axis(labelExpr=_SI, tickCount=3)),
            y2="to:Q",
            color=alt.Color("what:N", scale=palette(["selected", "not selected"], [KEPT, MUTED])),
            facet=alt.Facet("domain:N", sort=in_order(), title=None, columns=3, spacing={"row": 60, "column": 48}),
        )
        .resolve_scale(y="independent")
        .resolve_axis(x="independent")
        .properties(bounds="flush")  # plots in line, whatever the width of their labels
    )
    return convert(
        chart, values, f"{title} of selected and not selected rows, one histogram for each of {len(drawn)} domains"
    )


def bytes_per_token(tokenizer: TokenizerRecord) -> str:
    """Compression by domain: more bytes a token is better."""
    sizes = {d.domain: float(d.bytes) for d in tokenizer.domains if d.tokens}
    drawn = labels(largest(sizes))
    ratio = {d.domain: d.bytes_per_token for d in tokenizer.domains}
    ranked = sorted(drawn, key=lambda name: (-ratio[name], name))
    values: Data = [
        {"order": i, "domain": drawn[name], "ratio": ratio[name], "note": f"{ratio[name]:.2f}"}
        for i, name in enumerate(ranked)
    ]
    base = alt.Chart(ROWS, width=WIDTH - 110, height=alt.Step(20)).encode(
        y=alt.Y("domain:N", sort=in_order(), title=None, axis=alt.Axis(grid=False)),
        x=alt.X("ratio:Q", title="bytes per token", axis=alt.Axis(tickCount=6)),
    )
    chart = base.mark_bar(height=13, color=SERIES[0]) + base.mark_text(align="left", dx=5).encode(text="note:N")
    return convert(chart, values, f"Bytes per token of {len(drawn)} domains")


def round_shares(change: RoundChange) -> str:
    """Each domain's share of the selected tokens in the earlier round and in the later, joined by a line."""
    before, after = (
        max(1, sum(d)) for d in zip(*((c.tokens_before, c.tokens_after) for c in change.domains), strict=True)
    )
    share = {c.domain: (c.tokens_before / before, c.tokens_after / after) for c in change.domains}
    drawn = labels(largest({name: max(pair) for name, pair in share.items()}))
    names = [f"round {change.before}", f"round {change.after}"]
    values: Data = [
        {"order": i, "domain": label, "round": names[k], "share": share[name][k], "other": share[name][1 - k]}
        for i, (name, label) in enumerate(drawn.items())
        for k in range(2)
    ]
    base = alt.Chart(ROWS, width=WIDTH - 110, height=alt.Step(20)).encode(
        y=alt.Y("domain:N", sort=in_order(), title=None)
    )
    x = alt.X("share:Q", title="share of selected tokens", axis=alt.Axis(format="~%", tickCount=6, grid=False))
    chart = base.mark_rule(strokeWidth=2, color="var(--axis)").encode(x=x, x2="other:Q") + base.mark_circle(
        size=80, opacity=1
    ).encode(x=x, color=alt.Color("round:N", scale=palette(names, SERIES)))
    return convert(chart, values, f"Share of selected tokens of {len(drawn)} domains in {names[0]} and {names[1]}")


def excess_loss(change: RoundChange) -> str:
    """Mean excess loss by domain: right of zero training found it harder than its running mean."""
    known = {
        c.domain: c.excess_loss for c in change.domains if c.excess_loss is not None and math.isfinite(c.excess_loss)
    }
    drawn = labels(largest({name: abs(loss) for name, loss in known.items()}))
    ranked = sorted(drawn, key=lambda name: (-known[name], name))
    values: Data = [{"order": i, "domain": drawn[n], "loss": known[n]} for i, n in enumerate(ranked)]
    chart = (
        alt.Chart(ROWS, width=WIDTH - 110, height=alt.Step(20))
        .mark_bar(height=13, color=SERIES[3])
        .encode(
            x=alt.X("loss:Q", title="mean excess loss (nats per token)", axis=alt.Axis(tickCount=6)),
            y=alt.Y("domain:N", sort=in_order(), title=None, axis=alt.Axis(grid=False)),
        )
    )
    return convert(chart, values, f"Mean excess loss of {len(drawn)} domains in round {change.before}")
