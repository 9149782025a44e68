"""Groups and the map of documents in a report. Run: pytest tests/report/test_groups.py"""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ET

import pytest

from penstock.errors import ConfigError
from penstock.report import charts
from penstock.report.build import build_record, shown_steps
from penstock.report.record import MapRecord, RunRecord
from penstock.report.render import render
from penstock.storage import Folder


def texts(svg: str) -> list[str]:
    return [e.text or "" for e in ET.fromstring(svg).iter("text")]


def dots(svg: str) -> list[str]:
    """Colours of the dots in the order drawn."""
    found = [
        e for e in ET.fromstring(svg).iter("path") if e.get("transform") and e.get("fill", "").startswith("var(--")
    ]
    return [e.get("fill", "") for e in found]


def a_map(groups, domains=None, x=None, y=None):
    n = len(groups)
    place = [i / max(n - 1, 1) * 2 - 1 for i in range(n)]
    return MapRecord(
        method="pca",
        x=tuple(place if x is None else x),
        y=tuple(place if y is None else y),
        groups=tuple(groups),
        domains=tuple(domains or ["web"] * n),
    )


def test_each_document_is_a_dot_in_its_groups_colour_with_the_name_in_place():
    svg = charts.document_map(a_map(["sea"] * 3 + ["law"] * 2), "group")
    assert sorted(texts(svg)) == ["law", "sea"]
    colours = dots(svg)
    assert len(colours) == 5
    assert colours[:3] == [charts.SERIES[0]] * 3
    assert colours[3:] == [charts.SERIES[1]] * 2


def test_the_map_by_domain_names_domains():
    svg = charts.document_map(a_map(["sea", "law"], ["books", "court"]), "domain")
    assert sorted(texts(svg)) == ["books", "court"]
    assert "by domain" in svg


def test_groups_beyond_the_largest_are_muted_and_nameless():
    groups = [f"g{i:02d}" for i in range(charts.MAX_DOMAINS + 3) for _ in range(20 - i)]
    svg = charts.document_map(a_map(groups), "group")
    assert sorted(texts(svg)) == [f"g{i:02d}" for i in range(charts.MAX_DOMAINS)]
    assert dots(svg).count(charts.MUTED) == sum(20 - i for i in range(charts.MAX_DOMAINS, charts.MAX_DOMAINS + 3))
    assert f"{charts.MAX_DOMAINS} of {charts.MAX_DOMAINS + 3} named" in svg


def test_dots_stand_where_their_coordinates_say():
    svg = charts.document_map(a_map(["a"] * 4, x=[-1, 1, -1, 1], y=[-1, -1, 1, 1]), "group")
    places = re.findall(r'transform="translate\(([\d.]+),([\d.]+)\)"[^>]*fill="var\(--', svg)
    # groups of the drawing move dots as a whole; up is smaller in an SVG
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = [(float(x), float(y)) for x, y in places[-4:]]
    assert x0 == x2 < x1 == x3
    assert y2 == y3 < y0 == y1


HOSTILE = ["<script>alert(1)</script>", "</svg>", "\x1b[31m\x00\u202e", "datum.x || 1", "x" * 5000, ""]


def test_hostile_names_are_text():
    svg = charts.document_map(a_map(HOSTILE, HOSTILE[::-1]), "group")
    assert len(texts(svg)) == len(HOSTILE)
    assert "<script" not in svg
    assert {e.tag for e in ET.fromstring(svg).iter()} <= {"svg", "g", "path", "rect", "line", "text", "tspan"}


def test_a_map_of_unequal_lengths_is_refused():
    with pytest.raises(ConfigError, match="allowed equally many"):
        MapRecord(method="pca", x=(0.0,), y=(), groups=("a",), domains=("b",))


def test_the_record_keeps_groups_and_map(record):
    again = RunRecord.from_json(record.to_json())
    assert (again.groups, again.map) == (record.groups, record.map)


def test_the_table_lists_groups_with_shares_and_terms(record):
    page = render(record)
    section = page[page.index('<section id="groups">') : page.index('<section id="distributions">')]
    cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", section)
    total = sum(g.rows for g in record.groups)
    first = record.groups[0]
    assert cells[6:12] == [
        first.name,
        f"{first.rows:,}",
        f"{100 * first.rows / total:.1f} %",
        "15.0 MB",
        "0.810",
        ", ".join(first.terms),
    ]
    assert section.count("<svg") == 2
    assert "largest variance (PCA)" in section


def test_the_words_below_the_map_are_those_of_its_method_and_one_domain_needs_no_second_map(record):
    shown = dataclasses.replace(record.map, method="tsne", domains=("web",) * len(record.map.x))
    page = render(dataclasses.replace(record, map=shown))
    section = page[page.index('<section id="groups">') : page.index('<section id="distributions">')]
    assert "t-SNE" in section
    assert section.count("<svg") == 1


def test_groups_without_a_map_are_listed(record):
    page = render(dataclasses.replace(record, map=None))
    assert record.groups[0].name in page
    assert "A sample of" not in page


def test_a_run_with_groups_is_recorded(tmp_path, static_folder, corpus):
    """From a real run: the groups' numbers, the map, and the rows that semantic duplicates took from the waterfall."""
    from penstock.dataset import Dataset
    from penstock.recipe import Recipe
    from penstock.run import run

    recipe = Recipe.parse(
        f"name: g\nsource: {{files: [{{path: '{corpus}/*.jsonl', columns: {{domain: domain}}}}]}}\n"
        f"embed: {{model: {{path: '{static_folder}'}}}}\ngroup: {{clusters: 3}}\n"
        "deduplicate: {semantic: {threshold: 0.98}}\nselect: {criteria: {group_similarity: {}}, omega: 0.9}\n"
        "tokenizer: {vocabulary_size: 300}\n"
    )
    root = Folder(str(tmp_path / "run"))
    run(recipe, out=root.url, workers=0, report=False)
    steps, stale = shown_steps(recipe, root)
    manifests = {step.name: Dataset(root / step.name).manifest for step in steps}
    made = build_record(recipe, root, steps, manifests, set(), None, stale)
    counts = manifests["grouped"].counts
    assert sum(g.rows for g in made.groups) == counts.kept
    assert [g.rows for g in made.groups] == sorted((g.rows for g in made.groups), reverse=True)
    assert all(0 < g.similarity <= 1 and g.terms[:3] == tuple(g.name.split("-")) for g in made.groups)
    assert made.map is not None
    assert set(made.map.groups) <= {g.name for g in made.groups}
    assert set(made.map.domains) == {"rivers", "machines", "letters"}
    assert counts.dropped_total > 0
    (stage,) = [s for s in made.stages if s.name == "semantic_duplicates"]
    assert (stage.step, stage.rows_in, stage.rows_kept) == ("grouped", counts.rows_in, counts.kept)
    assert any(s.reason == "semantic_duplicate" and s.detail for s in made.dropped)
    assert "does not balance" not in render(made)
