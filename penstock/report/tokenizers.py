"""A comparison of tokenizers as one HTML page that loads nothing and runs nothing, under the fences of ``render``.

Charts show the twelve groups with most text and the first six tokenizers; the table shows up to ``MAX_ROWS`` rows, the
JSON file beside the page has all.

Price: one to two seconds, nearly all of it charts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from penstock.report.render import _environment
from penstock.report.text import labels
from penstock.tokenization.compare import ALL, FIGURES

if TYPE_CHECKING:
    from penstock.tokenization.compare import Comparison

MAX_ROWS = 600
MAX_TOKENIZERS = 6  # in charts
CHARTS = ("bytes_per_token", "parity", "fertility", "strr", "renyi_nominal", "lexicon_share")
OF_WORDS = ("fertility", "strr")  # mean nothing without spaces between words
PERCENT = ("strr", "lexicon_share", "purity", "vocabulary_use")


def shown(name: str, value: float | None) -> str:
    """A figure for a person."""
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if name in PERCENT else f"{value:.3f}"


def page(found: Comparison) -> str:
    """The page as a string."""
    measured = found.measured()
    rows = [
        {
            "group": figure["group"],
            "tokenizer": figure["tokenizer"],
            "spaced": figure["spaced"],
            "cells": [shown(name, figure[name]) for name in measured],
        }
        for group in found.groups()
        for figure in found.figures
        if figure["group"] == group
    ]
    html: str = (
        _environment()
        .get_template("tokenizers.html.j2")
        .render(
            tokenizers=[one.__dict__ for one in found.tokenizers],
            parallel=found.conventions["parity"] is not None,
            conventions=found.conventions,
            columns=[_title(name, found) for name in measured],
            rows=rows[:MAX_ROWS],
            hidden=max(0, len(rows) - MAX_ROWS),
            charts=[_chart(found, name) for name in CHARTS if name in measured and _drawn(found, name)],
        )
    )
    return html.lstrip()


def _title(name: str, found: Comparison) -> str:
    title = FIGURES[name][0]
    return f"{title} (α = {found.conventions['renyi_alpha']:g})" if name.startswith("renyi") else title


def _drawn(found: Comparison, name: str) -> list[str]:
    """Groups that have the figure, most text first; those of words only where there are words."""
    sizes: dict[str, int] = {}
    for figure in found.figures:
        if figure[name] is not None and figure["group"] != ALL and (figure["spaced"] or name not in OF_WORDS):
            sizes[figure["group"]] = figure["bytes"]
    return sorted(sizes, key=lambda group: (-sizes[group], group))[:12]


def _chart(found: Comparison, name: str) -> dict[str, Any]:
    import altair as alt

    from penstock.report.charts import ROWS, SERIES, WIDTH, convert, in_order, palette

    drawn = labels(sorted(_drawn(found, name)))
    tokenizers = labels([one.name for one in found.tokenizers][:MAX_TOKENIZERS])
    values: list[dict[str, Any]] = [
        {"order": i, "group": label, "at": at, "tokenizer": tokenizers[of], "value": found.value(of, group, name)}
        for i, (group, label) in enumerate(drawn.items())
        for at, of in enumerate(tokenizers)
        if found.value(of, group, name) is not None
    ]
    title = _title(name, found)
    axis = alt.Axis(tickCount=6, format="~%") if name in PERCENT else alt.Axis(tickCount=6)
    chart = (
        alt.Chart(ROWS, width=WIDTH - 110, height=alt.Step(11, **{"for": "offset"}))
        .mark_bar()
        .encode(
            x=alt.X("value:Q", title=title, axis=axis),
            y=alt.Y("group:N", sort=in_order(), title=None, axis=alt.Axis(grid=False), scale=_apart()),
            yOffset=alt.YOffset("at:O"),
            color=alt.Color("tokenizer:N", scale=palette(list(tokenizers.values()), SERIES)),
        )
    )
    svg = convert(chart, values, f"{title} of {len(tokenizers)} tokenizers in {len(drawn)} groups")
    return {"title": title, "svg": Markup(svg), "note": _note(found, name, list(drawn))}


def _apart() -> Any:
    import altair as alt

    return alt.Scale(paddingInner=0.25)


def _note(found: Comparison, name: str, drawn: Sequence[str]) -> str:
    better = FIGURES[name][1]
    said = [f"{better} is better" if better else ""]
    if name in OF_WORDS and any(not figure["spaced"] for figure in found.figures if figure["group"] != ALL):
        said.append("groups without spaces between words are left out")
    if len(found.groups()) - (ALL in found.groups()) > len(drawn) == 12:
        said.append("the twelve groups with most text")
    return "; ".join(part for part in said if part)
