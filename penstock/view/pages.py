"""The pages: what the browser asks for, made from a corpus and its index.

Documents are hostile. Every printed string is made visible and escaped by the templates' environment, addresses are
quoted, and no page but the map may run a script (``app``).

Price: milliseconds, but for clusters, which are counted once, and a trace (``tracing``).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any
from urllib.parse import urlencode

import jinja2

from penstock.errors import ConfigError
from penstock.report import text
from penstock.report.templates import environment
from penstock.terminal import count
from penstock.tracing import MEMBERS, Trace, trace
from penstock.tracing_print import runs, seen, together, told, value
from penstock.view.corpus import Corpus, Sample
from penstock.view.index import ORDERS, SEARCHED, Index, Query
from penstock.view.map import Map

PAGE = 25  # rows
DROPPED = 50  # rows of a reason that are shown
SIDES = 12  # rows of a cluster whose texts are shown
DOMAINS = 1000  # to choose from
_COMPARED = 1500  # words of a text whose differences are marked
_CELL = 20_000  # characters of any one string but the text of a row


class Pages:
    """HTML by address; ``at`` are the parameters of the address."""

    def __init__(self, corpus: Corpus, sample: Sample, index: Index, map_: Map | None = None) -> None:
        self.corpus, self.sample, self.index, self.drawn = corpus, sample, index, map_
        self._environment = _environment(
            {
                "name": corpus.dataset.manifest.step,
                "folder": corpus.url,
                "sample": sample,
                "mapped": map_ is not None,
                "has_clusters": corpus.clustered is not None,
            }
        )

    def search(self, at: Mapping[str, str]) -> str:
        """Rows that match, a page of them; a domain is known by its place, as its name may hold anything."""
        at = dict.fromkeys(("q", "domain", "table", "score", "low", "high"), "") | {"order": ORDERS[0]} | dict(at)
        domains = list(self.index.domains)[:DOMAINS]
        chosen = _whole("domain", at, len(domains))
        query = Query(
            words=at["q"],
            domain=domains[chosen] if chosen < len(domains) else None,
            table=at["table"] or None,
            score=at["score"] or None,
            low=_number("low", at),
            high=_number("high", at),
            order=at["order"],
        )
        page = max(_whole("page", at, 1), 1)
        found, hits = self.index.find(query, first=(page - 1) * PAGE, most=PAGE)
        kept = {name: of for name, of in at.items() if of and name != "page"}
        return self._page(
            "search",
            at=at,
            count=found,
            hits=hits,
            first=(page - 1) * PAGE + 1,
            orders=ORDERS,
            domains={name: self.index.domains[name] for name in domains},
            tables=self.index.tables,
            scores={name: self.index.range(name) for name in self.index.scores},
            before=_address("", kept | {"page": str(page - 1)}) if page > 1 else None,
            after=_address("", kept | {"page": str(page + 1)}) if page * PAGE < found else None,
        )

    def row(self, at: Mapping[str, str]) -> str:
        """One row: its text, what is known of it, what became of it."""
        name = at.get("id", "")
        found: Trace = trace(name, self.corpus.url)
        known = self.index.row(found.doc_id)
        shown = known["text"] if known is not None else self.corpus.text_of(found.doc_id)
        whole = len(shown or "") if known is None else known["characters"]
        return self._page(
            "row",
            trace=found,
            text=None if shown is None else shown[:SEARCHED],
            whole=whole,
            known=known,
            told=told,
            seen=seen,
            runs=runs,
            together=together,
            value=value,
        )

    def drops(self, at: Mapping[str, str]) -> str:
        """What every step dropped, by reason."""
        counts = {dataset.manifest.step: dataset.manifest.counts for dataset in self.corpus.datasets}
        moved = {step: of for step, of in counts.items() if of.rows_in or of.made}
        return self._page("drops", drops=self.corpus.drops(), counts=moved)

    def drop(self, at: Mapping[str, str]) -> str:
        """Rows that were dropped for one reason."""
        step, by, reason = (at.get(name, "") for name in ("step", "by", "reason"))
        rows = {(s, b, r): n for s, b, r, n in self.corpus.drops()}.get((step, by, reason), 0)
        found = self.corpus.dropped(step, by, reason, DROPPED)
        return self._page("drop", step=step, by=by, reason=reason, rows=rows, found=found)

    def clusters(self, at: Mapping[str, str]) -> str:
        """The largest clusters of duplicates."""
        return self._page("clusters", clusters=self.corpus.clusters)

    def cluster(self, at: Mapping[str, str]) -> str:
        """The rows of a cluster side by side, each compared with the one that stayed."""
        found = trace(at.get("id", ""), self.corpus.url).cluster
        if found is None:
            raise ConfigError(f"cluster: got {at.get('id', '')}, which is like no other row; take one of the list")
        members = sorted(found.members, key=lambda member: member[0] != found.survivor)
        texts = self.corpus.texts_of([name for name, _ in members[:SIDES]])
        base = texts.get(found.survivor)
        sides = [
            (name, kind, None if texts[name] is None else compared(base, str(texts[name])))
            for name, kind in members[:SIDES]
        ]
        return self._page("cluster", cluster=found, sides=sides, listed=members[SIDES:], most=MEMBERS)

    def map(self, at: Mapping[str, str]) -> str:
        """The page around the map."""
        drawn = self._map()
        domain = self._domain(drawn, at)
        points = len(drawn) if domain is None else drawn.domains[domain]
        domains = dict(drawn.domains.most_common(DOMAINS))
        at = {"by": drawn.default, "domain": "", **at}
        return self._page("map", at=at, map=drawn, drawn=points, domains=domains)

    def spec(self, at: Mapping[str, str]) -> dict[str, Any]:
        """What the map's page draws."""
        drawn = self._map()
        return drawn.spec(at.get("by", drawn.default), self._domain(drawn, at))

    def _map(self) -> Map:
        if self.drawn is None:
            raise ConfigError("map: there are no embeddings here; give the recipe a section embed, or group")
        return self.drawn

    def _domain(self, drawn: Map, at: Mapping[str, str]) -> str | None:
        names = [name for name, _ in drawn.domains.most_common(DOMAINS)]
        place = _whole("domain", at, len(names))
        return names[place] if place < len(names) else None

    def error(self, message: str) -> str:
        """A page that says what went wrong."""
        return self._page("error", message=message)

    def _page(self, template: str, **values: Any) -> str:
        return self._environment.get_template(f"{template}.html.j2").render(page=template, **values)


def compared(base: str | None, other: str) -> list[tuple[str, bool]]:
    """A text in pieces, and whether each differs from ``base``; beyond some words it is one piece."""
    if base is None or base == other:
        return [(other, False)]
    a, b = (re.findall(r"\s+|\S+", side) for side in (base, other))
    rest = "".join(b[_COMPARED:])
    out: list[tuple[str, bool]] = []
    for kind, _, _, low, high in difflib.SequenceMatcher(
        None, a[:_COMPARED], b[:_COMPARED], autojunk=False
    ).get_opcodes():
        if low < high:
            out.append(("".join(b[low:high]), kind != "equal"))
    return [*out, (rest, False)] if rest else out


def _address(page: str, parameters: Mapping[str, str]) -> str:
    return f"{page}?{urlencode(parameters, errors='replace')}" if parameters else page


def _number(name: str, at: Mapping[str, str]) -> float | None:
    said = at.get(name, "").strip()
    if not said:
        return None
    try:
        found = float(said)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ConfigError(f"{name}: got {said}, allowed a finite number; leave it empty for no bound")
    return found


def _whole(name: str, at: Mapping[str, str], default: int) -> int:
    said = at.get(name, "")
    return int(said) if said.isascii() and said.isdecimal() and len(said) < 10 else default


def _environment(everywhere: Mapping[str, Any]) -> jinja2.Environment:
    made = environment(resources.files("penstock.view") / "templates", _finalise)
    made.filters |= {
        "count": text.count,
        "counted": count,
        "line": lambda value: text.one_line(str(value), 400),
        "number": lambda value: text.number(value, 4),
        "short": lambda digest: digest[:8],
        "whole": lambda value: _Whole(str(value)),
    }
    made.globals |= {**everywhere, "address": _address, "percent": text.percent}
    return made


class _Whole(str):
    """A text that is shown in its full length."""


def _finalise(value: Any) -> Any:
    """Every printed string made visible and bounded; ready-made markup and numbers as they are."""
    if hasattr(value, "__html__") or not isinstance(value, str):
        return value
    return text.visible(value if isinstance(value, _Whole) else text.shorten(value, _CELL))
