"""The map: points that can be pointed at, zoomed and followed to their rows, drawn by Vega-Lite in the browser.

Vega, Vega-Lite and Vega-Embed come from the package that draws the report's charts (vl-convert) as one script of this
server's own. Expressions are interpreted (``ast``), so the page's policy needs to allow no ``eval``; names that come
from data travel as values of fixed fields, made visible and short.

Price: 2 s once for the script; 400 bytes a point.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from importlib import resources
from typing import Any

from penstock.report.text import labels, number, one_line
from penstock.view.points import SCORE_COLUMN, Points

POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
COLOURS = 10  # names that have one of their own
_OTHERS = "(others)"
_NONE = "(none)"


class Map:
    """Points, and how they may be coloured."""

    def __init__(self, points: Points) -> None:
        """``points`` as ``points_of`` gives them."""
        self.of, self._rows = points.of, points.table.to_pylist()
        names = points.table.column_names
        scores = {name.removeprefix(SCORE_COLUMN): name for name in names if name.startswith(SCORE_COLUMN)}
        # what the address says, and the column
        self.colours = {name: name for name in ("domain", "group") if name in names} | scores
        self.domains = Counter(row["domain"] for row in self._rows if row["domain"] is not None)
        self.default = "domain" if self.domains or "group" not in self.colours else "group"

    def __len__(self) -> int:
        return len(self._rows)

    def spec(self, by: str, domain: str | None) -> dict[str, Any]:
        """What Vega-Embed draws.

        Args:
            by: what the colours tell: ``domain``, ``group`` or a score; anything else is the domain.
            domain: of the points that are drawn; None is all.
        """
        column = self.colours.get(by, "domain")
        rows = [row for row in self._rows if domain is None or row["domain"] == domain]
        scored = column.startswith(SCORE_COLUMN)
        shown = {} if scored else self._names(column)
        values = [
            {
                "id": row["id"],
                "row": one_line(row["id"], 200),
                "x": row["x"],
                "y": row["y"],
                "of": one_line(row["domain"] or _NONE, 80),
                "text": one_line(row["text"], 300),
                "colour": row[column] if scored else shown.get(row[column], _OTHERS if row[column] else _NONE),
                "said": number(row[column], 4) if scored else one_line(row[column] or _NONE, 80),
            }
            for row in rows
        ]
        title = one_line(by if scored else column, 60)
        colour: dict[str, Any] = {"field": "colour", "title": title}
        if scored:
            colour |= {"type": "quantitative", "scale": {"scheme": "viridis"}}
        else:
            domains = [
                *shown.values(),
                *(name for name in (_OTHERS, _NONE) if any(v["colour"] == name for v in values)),
            ]
            colour |= {"type": "nominal", "scale": {"domain": domains, "scheme": "tableau20"}}
        axis = {"title": None, "grid": False, "labels": False, "ticks": False, "domain": False}
        tooltip = [
            {"field": "row", "title": "row"}, {"field": "of", "title": "domain"},
            *([] if column == "domain" else [{"field": "said", "title": title}]), {"field": "text", "title": "text"},
        ]  # fmt: skip
        return {
            "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
            "width": "container",
            "height": 640,
            "background": None,
            "data": {"values": values},
            "params": [{"name": "zoom", "select": "interval", "bind": "scales"}],
            "mark": {"type": "circle", "size": 34, "opacity": 0.75, "cursor": "pointer"},
            "encoding": {
                "x": {"field": "x", "type": "quantitative", "axis": axis, "scale": {"zero": False}},
                "y": {"field": "y", "type": "quantitative", "axis": axis, "scale": {"zero": False}},
                "color": colour,
                "tooltip": tooltip,
            },
            "config": {
                "view": {"stroke": None},
                "legend": {"labelColor": "currentColor", "titleColor": "currentColor", "labelLimit": 240},
            },
        }

    def _names(self, column: str) -> Mapping[str, str]:
        """The most frequent names of a column, and what is shown of each."""
        counts = Counter(row[column] for row in self._rows if row[column])
        names = sorted(counts, key=lambda name: (-counts[name], name))[:COLOURS]
        return labels(names)


@functools.lru_cache(maxsize=1)
def script() -> str:
    """Vega with what draws the map on its page."""
    import vl_convert

    own = (resources.files("penstock.view") / "templates" / "map.js").read_text(encoding="utf-8")
    return str(vl_convert.javascript_bundle(own))
