"""The report's section of benchmark items found: from a step's statistics to the page."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

from penstock.report.build import _contamination
from penstock.report.record import ContaminatedSample, ContaminationRecord, RunRecord
from penstock.report.render import render

SAMPLE = {
    "item": "test.jsonl#7",
    "doc_id": "web.jsonl#12",
    "field": "question",
    "kind": "ngram",
    "coverage": 0.75,
    "text": "How many <b>apples</b> are left?",
}
STATS = {
    "contamination": {
        "svamp": {
            "items": 10,
            "checkable": 9,
            "found": 0,
            "coverage": 0.0,
            "documents": 0,
            "dropped": 0,
            "samples": [],
        },
        "gsm8k": {
            "items": 1319,
            "checkable": 1300,
            "found": 26,
            "coverage": 0.875,
            "documents": 41,
            "dropped": 40,
            "samples": [SAMPLE, SAMPLE | {"text": None}],
        },
    }
}


def section(page: str) -> str:
    return page.split('<section id="contamination">')[1].split("</section>")[0]


def test_statistics_of_the_step_become_a_record_by_benchmark():
    found = _contamination({"decontaminated": SimpleNamespace(stats=STATS)})
    assert [of.benchmark for of in found] == ["gsm8k", "svamp"]
    assert dataclasses.replace(found[0], samples=()) == ContaminationRecord(
        benchmark="gsm8k", items=1319, checkable=1300, found=26, coverage=0.875, documents=41, dropped=40
    )
    assert found[0].samples[0] == ContaminatedSample(**SAMPLE)
    assert found[0].samples[1].text is None
    assert _contamination({}) == ()


def test_the_page_shows_shares_samples_and_nothing_as_markup(bare):
    found = _contamination({"decontaminated": SimpleNamespace(stats=STATS)})
    record = dataclasses.replace(bare, contamination=found)
    shown = section(render(RunRecord.from_json(record.to_json())))
    for piece in ("gsm8k", "1,319", "1,300", "26", "2.0 %", "41", "40", "test.jsonl#7", "web.jsonl#12", "svamp"):
        assert piece in shown
    assert "How many &lt;b&gt;apples&lt;/b&gt; are left?" in shown
    assert shown.count("<pre") == 1
    assert shown.count("<details") == 1, "a benchmark without a find has no samples to open"


def test_a_run_that_looked_for_no_benchmark_says_so(bare):
    assert "No benchmark was looked for." in section(render(bare))
