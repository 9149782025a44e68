from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import penstock.report
from penstock.report import charts, charts_training
from penstock.report.record import (
    Amount,
    Curve,
    DomainPoint,
    MixtureRecord,
    Stage,
    TokenizerDomain,
    TokenizerRecord,
    TrainingRecord,
)

HOSTILE = (
    "<script>document.title='x'</script>",
    "</svg><script>1</script>",
    "&lt;b&gt; &amp; \"quotes\" 'single' `tick`",
    "\x1b[31mred\0\x07 \u202egnp.exe \ud800 \uffff",
    "javascript:alert(1)",
    "datum.value + a[0].b['c'] \\",
    "x" * 10_000,
    "",
    "日本語 👩\u200d💻 é",
)


def texts(svg: str) -> list[str]:
    return [e.text or "" for e in ET.fromstring(svg).iter("text")]


def tokenizer(names):
    return TokenizerRecord(
        kind="k",
        vocabulary=9,
        domains=tuple(TokenizerDomain(domain=n, bytes=400 + i, tokens=100) for i, n in enumerate(names)),
    )


def test_hostile_domain_names_are_text_in_the_drawing():
    svg = charts.bytes_per_token(tokenizer(HOSTILE))
    shown = " ".join(texts(svg))
    assert "<script>document.title='x'</script>" in shown
    assert "</svg><script>1</script>" in shown
    assert "⟨ESC⟩[31mred⟨NUL⟩⟨BEL⟩ ⟨U+202E⟩gnp" in shown
    assert "(empty)" in shown
    assert {e.tag for e in ET.fromstring(svg).iter()} <= {"svg", "g", "path", "rect", "line", "text"}
    assert "<script" not in svg
    assert "javascript:" in svg


def test_all_charts_of_a_record_hold_only_drawing_elements(record):
    change = record.changes[0]
    drawn = [
        charts.waterfall(record.stages),
        charts.domain_shares(record.domains),
        *map(charts.distribution, record.distributions),
        charts.bytes_per_token(record.tokenizer),
        charts_training.training_loss(record.training),
        charts_training.validation_loss(record.training),
        charts_training.domain_loss([*record.training, *record.beside]),
        charts_training.mixture(record.training[0]),
        charts_training.curve_of(record.training, "learning_rate", "learning rate", "~g"),
        charts.round_shares(change),
        charts.excess_loss(change),
    ]
    for svg in drawn:
        root = ET.fromstring(svg)
        assert root.get("role") == "img"
        assert len(root.get("aria-label")) > 20
        names = {name for e in root.iter() for name in e.attrib}
        assert not {n for n in names if n.startswith("on") or "href" in n or n in ("style", "class", "id")}
        assert "http" not in svg
        assert not re.search(r"\d\.\d{3}", re.sub(r"<text.*?</text>", "", svg)), "coordinates are cut to two decimals"
        assert len(svg) < 100_000


def test_an_element_that_is_no_drawing_is_refused():
    with pytest.raises(ValueError, match="got element 'image'"):
        charts._clean(
            ET.fromstring('<svg xmlns="http://www.w3.org/2000/svg"><g><image href="http://x/y.png"/></g></svg>')
        )


def widths(svg: str, fill: str) -> list[float]:
    """Horizontal extents of the bars with this fill, in document order."""
    found = [
        re.match(r"M[-\d.]+,[-\d.]+h([-\d.]+)v", e.get("d", ""))
        for e in ET.fromstring(svg).iter("path")
        if e.get("fill") == fill
    ]
    return [abs(float(m[1])) for m in found if m and "v13h" in m.string]


def test_waterfall_bars_have_the_proportions_of_the_rows():
    stages = (
        Stage(name="source", step="d", rows_in=0, rows_made=1000, rows_kept=1000),
        Stage(name="filter", step="d", rows_in=1000, rows_made=0, rows_kept=600, reasons={"a": 300, "b": 100}),
        Stage(name="filter", step="d", rows_in=600, rows_made=0, rows_kept=150, reasons={"a": 450}),
    )
    svg = charts.waterfall(stages)
    made, kept, dropped = (widths(svg, f) for f in ("var(--series-3)", "var(--kept)", "var(--dropped)"))
    unit = made[0] / 1000
    assert made == pytest.approx([1000 * unit, 0, 0], abs=0.02)
    assert kept == pytest.approx([0, 600 * unit, 150 * unit], abs=0.02)
    assert dropped == pytest.approx([0, 400 * unit, 450 * unit], abs=0.02)
    assert [t for t in texts(svg) if re.match(r"\d\. |[+−]", t)] == [
        "1. source",
        "2. filter",
        "3. filter",
        "+1,000",
        "−400 (40.0 %)",
        "−450 (75.0 %)",
    ]


def test_shares_are_of_bytes_where_a_point_has_no_tokens():
    points = (
        DomainPoint(name="sources", domains={"a": Amount(rows=1, bytes=75), "b": Amount(rows=1, bytes=25)}),
        DomainPoint(name="cleaned", domains={"a": Amount(rows=1, bytes=9, tokens=3)}),
    )
    assert "share of bytes" in texts(charts.domain_shares(points))
    assert "share of tokens" in texts(charts.domain_shares(points[1:]))


def test_only_the_largest_domains_are_drawn():
    names = [f"domain-{i:02d}" for i in range(30)]
    drawn = [t for t in texts(charts.bytes_per_token(tokenizer(names))) if t.startswith("domain-")]
    assert sorted(drawn) == names[-charts.MAX_DOMAINS :]


def test_largest_breaks_ties_by_name():
    assert charts.largest({"b": 1, "a": 1, "c": 2, "d": 0}, 3) == ["c", "a", "b"]


def test_thin_takes_means_of_equal_runs_and_leaves_out_what_is_not_finite():
    curve = Curve(steps=(1, 2, 3, 4, 5, 6), values=(1.0, math.nan, 3.0, 5.0, math.inf, 7.0))
    assert charts_training.thin(curve, 2) == ([2.0, 5.0], [2.0, 6.0])
    assert charts_training.thin(curve, 9) == ([1.0, 3.0, 4.0, 6.0], [1.0, 3.0, 5.0, 7.0])
    assert charts_training.thin(Curve(), 9) == ([], [])


def test_thin_keeps_the_mean_of_a_long_curve():
    values = tuple(float(i % 7) for i in range(9_999))
    steps, means = charts_training.thin(Curve(steps=tuple(range(9_999)), values=values), 300)
    assert len(means) == 300
    assert steps == sorted(steps)
    assert sum(means) / 300 == pytest.approx(sum(values) / 9_999, abs=0.01)


def test_smooth_is_a_centred_mean_that_narrows_at_the_ends():
    assert charts_training.smooth([8.0, 1.0, 3.0, 5.0, 0.0], 1) == [8.0, 4.0, 3.0, pytest.approx(8 / 3), 0.0]
    assert charts_training.smooth([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 5) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert charts_training.smooth([], 3) == []


def test_a_curve_of_one_point_and_a_lost_curve_are_drawn(record):
    one = dataclasses.replace(record.training[0], train_loss=Curve(steps=(1,), values=(4.0,)))
    lost = dataclasses.replace(record.training[1], train_loss=Curve(steps=(1, 2), values=(math.nan, math.nan)))
    assert "training loss (nats per token)" in texts(charts_training.training_loss([one, lost]))


def test_the_mixture_steps_at_the_sequence_where_a_version_begins():
    training = TrainingRecord(
        round=1,
        model="m",
        parameters=1,
        device="cpu",
        steps=10,
        tokens=1,
        seconds=1.0,
        mixture=MixtureRecord(
            policy="dga", sequences_a_step=4, effective_from=(0, 20), weights={"a": (0.5, 0.75), "b": (0.5, 0.25)}
        ),
    )
    svg = charts_training.mixture(training)
    assert {"a", "b", "share of tokens"} <= set(texts(svg))
    # 10 steps over 880 units, all shares over 230: a version that begins at step 5 begins at 440
    drawn = {e.get("d") for e in ET.fromstring(svg).iter("path")}
    assert {"M0,115h440v115h-440Z", "M0,0h440v115h-440Z", "M440,57.5h440v172.5h-440Z", "M440,0h440v57.5h-440Z"} <= drawn


def test_many_domains_are_drawn_as_the_largest_and_the_rest():
    weights = {f"d{i:02d}": ((i + 1) / 210.0,) for i in range(20)}
    training = TrainingRecord(
        round=1,
        name="static",
        model="m",
        parameters=1,
        device="cpu",
        steps=10,
        tokens=1,
        seconds=1.0,
        mixture=MixtureRecord(policy="p", sequences_a_step=4, effective_from=(0,), weights=weights),
    )
    found = texts(charts_training.mixture(training))
    assert [t for t in found if t.startswith("d") and t[1:].isdigit()] == [f"d{i:02d}" for i in range(19, 7, -1)]
    assert "others" in found


def test_altair_is_imported_by_the_charts_alone():
    folder = Path(penstock.report.__file__).parent
    users = sorted(p.name for p in folder.rglob("*.py") if re.search(r"altair|vl_convert", p.read_text("utf-8")))
    kinds = ("generation", "policy", "refresh", "selection", "training")
    # tokenizers.py is a page of its own, which no run's report loads
    assert users == ["charts.py", *(f"charts_{of}.py" for of in kinds), "tokenizers.py"]
    code = (
        "import sys, penstock.report.render; sys.exit(any(m in sys.modules for m in ('altair', 'vl_convert', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
