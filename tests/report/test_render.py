from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from penstock.errors import StorageError
from penstock.report import render as rendering
from penstock.report.record import (
    Amount,
    Curve,
    Distribution,
    DomainPoint,
    DroppedSample,
    Parent,
    RunRecord,
    Stage,
    StepRecord,
)
from penstock.report.render import checks, domain_table, lineage, quantile, render, summary, write
from penstock.report.text import percent, visible

SECTIONS = [
    "head",
    "steps",
    "sources",
    "made",
    "waterfall",
    "domains",
    "groups",
    "distributions",
    "selection",
    "kept",
    "dropped",
    "contamination",
    "tokenizer",
    "training",
    "mixture",
    "learned",
    "rounds",
    "refresh",
    "lineage",
    "warnings",
]
DOMAIN = "library docs"
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Elements, the text of each section, and its tables as rows of cell texts."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.outside_charts: list[tuple[str, tuple[str, ...]]] = []
        self._text: dict[str, list[str]] = {}
        self.tables: dict[str, list[list[list[str]]]] = {}
        self._open: list[str] = []
        self._section = ""
        self._cell: list[str] | None = None
        self.feed(page)
        self.close()
        assert self._open == [], "every element is closed"
        self.text = {section: "".join(parts) for section, parts in self._text.items()}

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), "no attribute twice"
        if "svg" not in self._open:
            self.outside_charts.append((tag, tuple(name for name, _ in attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag in ("section", "header"):
            self._section = dict(attrs)["id"]
        if tag == "table":
            self.tables.setdefault(self._section, []).append([])
        if tag == "tr":
            self.tables[self._section][-1].append([])
        if tag in ("td", "th"):
            self._cell = []

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag
        if tag in ("td", "th"):
            self.tables[self._section][-1][-1].append("".join(self._cell or []).strip())
            self._cell = None

    def handle_data(self, data):
        if self._open and self._open[-1] == "style":
            return
        self._text.setdefault(self._section, []).append(data)
        if self._cell is not None:
            self._cell.append(data)

    @property
    def all_text(self) -> str:
        return "\n".join(self.text.values())

    def attribute_values(self, name: str) -> list[str | None]:
        return [attrs[name] for _, attrs in self.elements if name in attrs]


@pytest.fixture(scope="module")
def html(record) -> str:
    return render(record)


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


# --- hostile text -------------------------------------------------------------------------------------------------

HOSTILE = {  # short enough for a name, which is cut at 200 characters
    "markup": '</pre></code></td></svg></style></title><script>alert(1)</script><img src=x onerror="alert(1)">',
    "attributes": '" onmouseover="alert(1)" x=\' <a href="javascript:alert(1)">javascript:alert(1)</a>',
    "outside": '<iframe src="https://a.org/"></iframe><link rel=stylesheet href=//a.org/x> {{ 7*7 }} {% raw %} {# x #}',
    "entities": "&lt;script&gt; &#60;script&#62; &amp;amp; &quot; -->]]><!-- <![CDATA[",
    "unseen": "\x1b[31mred\x1b[0m\x07\0\x9b \u202egpj.exe\u202c \u2066x\u2069 \u200b\ud800\ufffe\u2028",
}


def poison(value, hostile: str, marks: dict[str, str], field: str = ""):
    """``value`` with ``hostile`` and a mark of its own before every string, keys too; equal strings stay equal."""

    def poisoned(text: str) -> str:
        return marks.setdefault(text, f"{hostile}¤{len(marks)}¤{text}")

    if dataclasses.is_dataclass(value):
        names = (f.name for f in dataclasses.fields(value))
        return dataclasses.replace(value, **{n: poison(getattr(value, n), hostile, marks, n) for n in names})
    if isinstance(value, dict):
        return {poisoned(k): poison(v, hostile, marks) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(poison(v, hostile, marks, field) for v in value)
    if isinstance(value, str) and field not in ("status", "scale", "method", "split"):  # these hold words of ours
        if field in ("key", "digest", "state"):  # shown by their first digits, or not at all
            return hostile + value
        return poisoned(value)
    return value


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_string_in_every_text_field_is_only_ever_text(record, page, hostile):
    marks: dict[str, str] = {}
    html = render(poison(record, hostile, marks))
    poisoned = Page(html)
    # outside charts the page has the very same elements with the very same attributes
    assert poisoned.outside_charts == page.outside_charts
    assert not [
        tag for tag, _ in poisoned.elements if tag in ("script", "img", "iframe", "link", "object", "base", "form")
    ]
    for _, attrs in poisoned.elements:
        assert not [name for name in attrs if name.startswith("on") or name in ("src", "style", "srcset", "action")]
    assert all(re.fullmatch("#[a-z]+", href) for href in poisoned.attribute_values("href"))
    # and every field's text is there to read
    shown = poisoned.all_text
    assert len(marks) > 120
    assert [text for text in marks.values() if visible(text.split("¤")[1]) not in shown] == []
    lost = [mark for mark in (f"¤{i}¤" for i in range(len(marks))) if mark not in shown]
    assert lost == []
    assert shown.count(visible(hostile)) >= len(marks) // 2
    # no character that acts unseen is left anywhere in the page
    assert visible(html) == html


def test_text_inside_charts_is_hostile_too(record):
    marks: dict[str, str] = {}
    poisoned = render(poison(record, "<script>1</script>", marks))
    charts = re.findall(r"<svg.*?</svg>", poisoned, re.DOTALL)
    assert len(charts) == 28
    assert sum(svg.count("&lt;script&gt;1&lt;/script&gt;") for svg in charts) > 40
    assert not any("<script" in svg for svg in charts)


def test_the_policy_forbids_everything_but_inline_style(page):
    policies = [a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_the_page_names_no_address(html):
    assert "http:" not in html
    assert "https:" not in html
    assert "url(" not in html
    assert "@import" not in html


def test_a_huge_text_is_cut_and_says_so(bare):
    sample = DroppedSample(doc_id="d", domain=None, step="s", reason="r", text="\0" * 50_000_000)
    html = render(dataclasses.replace(bare, dropped=(sample,)))
    assert "… (50,000,000 characters)" in html
    assert len(html) < 60_000


# --- what is shown ------------------------------------------------------------------------------------------------


def test_every_section_has_its_id_and_its_place_in_the_navigation(page):
    ids = page.attribute_values("id")
    assert [i for i in ids if i in SECTIONS] == SECTIONS
    assert len(ids) == len(set(ids))
    assert page.attribute_values("href") == [f"#{i}" for i in SECTIONS]


def test_every_table_has_a_caption_and_every_chart_a_label(page):
    tags = [tag for tag, _ in page.elements]
    assert tags.count("table") == tags.count("caption") > 8
    assert [a.get("role") for tag, a in page.elements if tag == "svg"] == ["img"] * 28
    assert all(a["aria-label"] for tag, a in page.elements if tag == "svg")


def test_the_page_of_a_typical_run_is_small(html):
    assert len(html.encode()) < 1_000_000


def test_the_same_record_gives_the_same_page(record, html):
    assert render(RunRecord.from_json(record.to_json())) == html


def test_step_rows_show_the_record(page, record):
    rows = page.tables["steps"][0][1:]
    assert len(rows) == len(record.steps) == 11
    for row, step in zip(rows, record.steps, strict=True):
        assert row[:2] == [step.name, step.status]
        assert row[2:6] == [f"{n:,}" for n in (step.rows_in, step.rows_made, step.rows_kept, step.rows_dropped)]
        assert row[7] == ("–" if step.tokens is None else f"{step.tokens:,}")
        assert row[10:] == [step.digest[:8], step.key[:8]]
    assert rows[0][6] == "29.5 %"
    assert rows[0][8:10] == ["41.7 s", "1 min 00 s"]


def test_stage_rows_show_the_record_with_reasons_by_size(page, record):
    rows = page.tables["waterfall"][0][1:]
    expected = []
    for n, stage in enumerate(record.stages, 1):
        counts = (stage.rows_in, stage.rows_made, stage.rows_kept, stage.rows_dropped)
        expected.append([f"{n}. {stage.name}", stage.step, *(f"{c:,}" for c in counts)])
        expected += [[r, f"{c:,}"] for r, c in sorted(stage.reasons.items(), key=lambda item: -item[1])]
    assert [row[:-1] for row in rows] == expected


def test_domain_rows_show_the_record_and_its_totals(page, record):
    rows = page.tables["domains"][0][2:]
    for row in rows[:-1]:
        for i, point in enumerate(record.domains):
            held = point.domains[row[0]]
            assert (row[1 + 3 * i], row[3 + 3 * i]) == (f"{held.rows:,}", f"{held.tokens:,}")
    assert rows[-1][0] == "all"
    assert rows[-1][1::3] == [f"{sum(a.rows for a in p.domains.values()):,}" for p in record.domains]
    assert rows[-1][3::3] == [f"{sum(a.tokens for a in p.domains.values()):,}" for p in record.domains]


def test_round_rows_show_the_record(page, record):
    domains, moved = page.tables["rounds"]
    before = sum(d.tokens_before for d in record.changes[0].domains)
    for row, d in zip(domains[2:], record.changes[0].domains, strict=True):
        assert row[:3] == [d.domain, f"{d.tokens_before:,}", f"{100 * d.tokens_before / before:.1f} %"]
        assert row[6:8] == [f"{d.copies_up:,}", f"{d.copies_down:,}"]
        assert row[8:10] == [f"{d.validation_before:.3f}", f"{d.validation_after:.3f}"]
    assert [row[5] for row in domains[2:]] == ["−0.081", "+0.034", "+0.127", "−0.022", "–", "−0.058"]
    assert domains[3][10] == "−0.060"
    assert [row[2:4] for row in moved[1:]] == [
        ["0 → 4", "+0.914"],
        ["0 → 3", "+0.722"],
        ["4 → 1", "−0.510"],
        ["1 → 3", "+0.481"],
        ["2 → 0", "–"],
    ]


def test_training_rows_show_the_record(page, record):
    rounds, validation = page.tables["training"]
    trained = (*record.training, *record.beside)
    assert [row[0] for row in rounds[1:]] == ["1", "2", "1, static"]
    for row, t in zip(rounds[1:], trained, strict=True):
        assert row[2] == f"{t.parameters:,}"
        assert row[4:6] == [f"{t.steps:,}", f"{t.tokens:,}"]
        assert row[7] == f"{t.tokens / t.seconds:,.0f}"
        assert row[8] == f"{sum(t.train_loss.values[-75:]) / 75:.3f}"
    for row in validation[1:]:
        assert row[1:] == [f"{t.validation_loss[row[0]].values[-1]:.3f}" for t in trained]


def test_the_mixture_and_what_was_seen_are_told_for_every_run(page, record):
    tables = page.tables["mixture"]
    assert len(tables) == 6  # shares and documents of three runs
    shares = {row[0]: row[1:] for row in tables[0][1:]}
    assert shares[DOMAIN] == ["16.7 %", "60.0 %", "16.7 %", "60.0 %"]
    assert len(shares) == 6
    first, second = tables[1][1:]
    assert first == ["docs/guide.md#4", "library docs", "3, 411", "5.500", "3.250"]
    assert second[2] == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, … (40)"
    told = page.text["mixture"]
    assert "Policy dga, towards library docs: 8 versions of the mixture." in told
    assert "41,200 documents were seen: 38,000 in 1 step; 3,100 in 2 steps; 100 in 3 to 4 steps." in told


def test_what_was_learned_from_groups_is_told(page, record):
    policy = record.policy
    passes, transforms, outcomes = page.tables["learned"]
    expected = [
        [of.name, "64", "16", f"{k}", percent(before, 1), percent(after, 1), f"+{after - before:.3f}"]
        for of in policy.passes
        for k, before, after in zip(of.ks, of.before, of.after, strict=True)
    ]
    assert [row[:7] for row in passes[1:]] == expected
    assert [row[7] for row in passes[1:4]] == ["0.031", "0.028", "0.012"]
    assert transforms[1:] == [["original", "0.310", "0.660"], ["rename_names", "0.220", "–"]]
    assert outcomes[1:] == [
        ["wrong", "31,310", "51.0 %"],
        ["correct", "30,100", "49.0 %"],
        ["timeout", "30", "< 0.1 %"],
    ]
    told = " ".join(page.text["learned"].split())
    assert "61,440 answers to 410 questions in 1,502 phrasings, in 120 steps and 6 min 52 s." in told
    assert "48 questions were held out; problems left out: pad 1, too_long 6." in told
    assert "original · step 1 · correct · reward 1.00" in told
    assert "· step 90 · timeout </pre>" in told  # no reward, and then the texts


def test_tokenizer_rows_show_the_record(page, record):
    for row, d in zip(page.tables["tokenizer"][0][1:], record.tokenizer.domains, strict=True):
        assert row[0] == d.domain
        assert row[2] == f"{d.tokens:,}"
        assert row[3:] == [f"{d.bytes / d.tokens:.3f}", f"{d.tokens / d.words:.3f}"]


def test_samples_are_shown_under_their_domain_and_reason(page, record):
    assert all(s.text in page.text["kept"] or "\x1b" in s.text for s in record.kept)
    assert all(s.doc_id in page.text["kept"] for s in record.kept)
    assert page.text["dropped"].count("text not kept") == 2
    for s in record.dropped:
        assert f"{s.step} · {s.reason}" in page.text["dropped"]
        assert (s.text or "") in page.text["dropped"]


def test_the_head_names_the_run(page):
    head = page.text["head"]
    for fact in (
        "quickstart",
        "2026-03-02T09:14:55Z",
        "17",
        "AMD EPYC 7B13",
        "2 cores",
        "NVIDIA L4",
        "2.87 GB",
        "torch 2.13.0",
    ):
        assert fact in head


def test_the_summary_says_what_was_made_in_plain_words(record, bare):
    assert summary(record) == (
        "From 64,214 rows of 2 sources, this run made a dataset of 19,570 rows (33.7 MB, 9.1 million tokens) in "
        "6 domains, selected in 2 rounds. A model of 6.3 million parameters was trained on 6.1 million tokens of it "
        "and ended at a validation loss of 3.214 nats per token."
    )
    assert summary(bare) == "This run made a dataset of 0 rows (0 B) in 0 domains."


# --- missing parts ------------------------------------------------------------------------------------------------


def test_missing_parts_are_each_said_in_one_line(bare):
    page = Page(render(bare))
    said = {i: page.text[i].split("\n")[2:3] for i in SECTIONS[1:]}
    assert said == {
        "steps": ["This record holds no steps."],
        "sources": ["This record names no sources."],
        "made": ["Nothing was made by this run."],
        "waterfall": ["No row work was recorded."],
        "domains": ["No statistics by domain were recorded."],
        "groups": ["Documents were not grouped."],
        "distributions": ["No distributions were recorded."],
        "selection": ["Every document was taken once."],
        "kept": ["No kept rows were sampled."],
        "dropped": ["No dropped rows were sampled."],
        "contamination": ["No benchmark was looked for."],
        "tokenizer": ["No tokenizer was used in this run."],
        "training": ["Nothing was trained in this run."],
        "mixture": ["Nothing was trained in this run."],
        "learned": ["Nothing was learned from groups in this run."],
        "refresh": ["This is no folder of rounds."],
        "rounds": ["There was one round only: nothing to compare."],
        "lineage": ["This record holds no datasets."],
        "warnings": ["None."],
    }
    assert all(len(page.text[i].split()) < 16 for i in SECTIONS[1:-1])
    assert "svg" not in {tag for tag, _ in page.elements}


OPTIONAL = [f.name for f in dataclasses.fields(RunRecord) if f.default is not dataclasses.MISSING]


@pytest.mark.parametrize(
    "parts",
    [
        ("sources", "steps", "stages", "versions"),
        ("domains", "distributions", "kept", "dropped"),
        ("tokenizer", "training", "changes", "warnings"),
    ],
)
def test_some_parts_may_be_missing(record, bare, parts):
    page = Page(render(dataclasses.replace(record, **{part: getattr(bare, part) for part in parts})))
    assert [i for i in page.attribute_values("id") if i in SECTIONS] == SECTIONS


@pytest.mark.parametrize("part", OPTIONAL)
def test_any_one_part_may_be_alone(record, bare, part):
    Page(render(dataclasses.replace(bare, **{part: getattr(record, part)})))


def test_empty_insides_are_shown(record, bare):
    """Parts that are there and hold nothing: no domains, no curve, no rows, no tokens."""
    empty = dataclasses.replace(
        bare,
        domains=(DomainPoint(name="sources", domains={}),),
        distributions=(
            dataclasses.replace(
                record.distributions[0],
                edges=(1.0, 2.0),
                groups=tuple(
                    dataclasses.replace(g, selected=(0,), not_selected=(0,)) for g in record.distributions[0].groups
                ),
            ),
        ),
        tokenizer=dataclasses.replace(
            record.tokenizer,
            longest=(),
            domains=(dataclasses.replace(record.tokenizer.domains[0], tokens=0, bytes=0, words=None),),
        ),
        training=(
            dataclasses.replace(
                record.training[0],
                seconds=0.0,
                train_loss=Curve(),
                learning_rate=Curve(),
                tokens_per_second=Curve(),
                validation_loss={"docs": Curve()},
            ),
        ),
        changes=(dataclasses.replace(record.changes[0], domains=(), moved=()),),
        stages=(Stage(name="none", step="s", rows_in=0, rows_made=0, rows_kept=0),),
    )
    page = Page(render(empty))
    assert page.tables["tokenizer"][0][1][1:] == ["0 B", "0", "–", "–"]
    assert page.tables["distributions"][0][1][1:] == ["0", "–", "0", "–"]
    assert page.tables["training"][0][1][7:] == ["–", "–"]


# --- parts that compute -------------------------------------------------------------------------------------------


def test_accounts_that_do_not_balance_and_budgets_passed_are_warned_of(record, bare):
    assert checks(record) == ["Step model-1 took 2 min 11 s; its budget is 2 min 00 s."]
    assert checks(bare) == []
    steps = (dataclasses.replace(record.steps[1], rows_kept=37_635),)
    stages = (record.stages[0], dataclasses.replace(record.stages[2], rows_in=10, rows_kept=1))
    training = (dataclasses.replace(record.training[0], train_loss=Curve(steps=(1, 2), values=(1.0, float("nan")))),)
    odd = dataclasses.replace(record, steps=steps, stages=stages, training=training)
    assert checks(odd) == [
        "Step deduplicated does not balance: 45,289 rows in + 0 made is not 37,635 kept + 7,655 dropped.",
        "Stage clean does not balance: 10 rows in + 0 made is not 1 kept + 221 dropped.",
        "Stage clean took in 10 rows, but environment before it kept 58,214.",
        "Training round 1: 1 logged loss value not finite; the charts leave them out.",
    ]
    assert Page(render(odd)).text["warnings"].count("does not balance") == 2


@pytest.mark.parametrize(
    ("scale", "counts", "q", "expected"),
    [
        ("linear", (0, 0, 0), 0.5, None),
        ("linear", (4, 0, 0), 0.5, 5.5),
        ("linear", (1, 0, 1), 0.5, 10.0),
        ("linear", (1, 2, 1), 0.5, 55.0),
        ("linear", (0, 0, 3), 1.0, 1000.0),
        ("log", (0, 2, 0), 0.5, 31.622776601683793),
        ("log", (2, 2, 0), 0.25, 10**0.5),
    ],
)
def test_quantiles_of_a_histogram(scale, counts, q, expected):
    shown = Distribution(title="t", unit="", scale=scale, edges=(1.0, 10.0, 100.0, 1000.0), groups=())
    assert quantile(shown, counts, q) == (None if expected is None else pytest.approx(expected))


def test_the_domain_table_sums_what_it_leaves_out(monkeypatch):
    monkeypatch.setattr(rendering, "MAX_DOMAIN_ROWS", 2)
    first = DomainPoint(name="p", domains={f"d{i}": Amount(rows=i, bytes=10 * i, tokens=i) for i in range(1, 5)})
    second = DomainPoint(name="q", domains={"d1": Amount(rows=7, bytes=1), "new": Amount(rows=9, bytes=1, tokens=2)})
    rows = [(r.name, r.amounts) for r in domain_table([first, second])]
    assert rows == [
        ("new", (None, Amount(rows=9, bytes=1, tokens=2))),
        ("d4", (Amount(rows=4, bytes=40, tokens=4), None)),
        ("3 other domains", (Amount(rows=6, bytes=60, tokens=6), Amount(rows=7, bytes=1, tokens=None))),
        ("all", (Amount(rows=10, bytes=100, tokens=10), Amount(rows=16, bytes=2, tokens=None))),
    ]


def step(name: str, *parents: str) -> StepRecord:
    return StepRecord(
        name=name,
        status="run",
        rows_in=0,
        rows_made=0,
        rows_kept=0,
        rows_dropped=0,
        seconds=0.0,
        key="k" + name,
        digest="d" + name,
        parents=tuple(Parent(name=p, digest="d" + p) for p in parents),
    )


def told(nodes):
    return [(n.name + ("*" if n.again else "") + ("?" if n.step is None else ""), told(n.parents)) for n in nodes]


def test_lineage_tells_each_dataset_once_from_the_results_down():
    steps = (step("a", "other-run"), step("b", "a"), step("c", "a", "b"), step("d", "a"))
    assert told(lineage(steps)) == [
        ("d", [("a", [("other-run?", [])])]),
        ("c", [("a*", []), ("b", [("a*", [])])]),
    ]


def test_lineage_of_a_cycle_ends():
    assert told(lineage((step("a", "b"), step("b", "a")))) == [("b", [("a", [("b*", [])])])]


def test_samples_are_bounded_by_group():
    samples = tuple(
        DroppedSample(doc_id=f"{r}-{i}", domain=None, step="s", reason=f"r{r}", text="t")
        for r in range(70)
        for i in range(15)
    )
    groups = rendering._groups(samples, lambda s: s.reason)
    assert list(groups) == [f"r{r}" for r in range(60)]
    assert {len(g) for g in groups.values()} == {10}
    assert [s.doc_id for s in groups["r3"]] == [f"3-{i}" for i in range(10)]


def test_many_reasons_end_in_one_line_that_sums_the_rest():
    shown = rendering._top_reasons({f"r{i:03d}": i for i in range(1, 203)})
    assert shown[0] == ("r202", 202)
    assert shown[-1] == ("2 other reasons", 3)
    assert len(shown) == 201


def test_step_parameters_are_shown_as_json(page, record):
    assert json.dumps({"vocabulary": 8192}, indent=2) in page.text["lineage"]


# --- writing ------------------------------------------------------------------------------------------------------


def test_the_page_is_written_as_utf8_in_one_piece(tmp_path, bare):
    target = tmp_path / "run" / "report.html"
    write(bare, target)
    assert target.read_text("utf-8") == render(bare)
    assert [p.name for p in target.parent.iterdir()] == ["report.html"]


def test_a_path_that_cannot_be_written_is_a_storage_error(tmp_path, bare):
    (tmp_path / "report.html").mkdir()
    with pytest.raises((StorageError, OSError)):
        write(bare, tmp_path / "report.html")
