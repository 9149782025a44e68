"""Rounds side by side: the record of a folder of rounds, its chart, and its part of the page."""

from __future__ import annotations

import dataclasses
import json
import math
import xml.etree.ElementTree as ET

import pytest

from penstock.refreshing.ledger import Ledger
from penstock.report import charts_refresh
from penstock.report.record import RunRecord
from penstock.report.refresh import refresh_record
from penstock.report.render import render
from penstock.storage import Folder


def section_of(record):
    return render(record).split('<section id="refresh">')[1].split("</section>")[0]


def test_the_page_has_a_row_a_round_with_files_items_losses_and_the_verdict(record):
    assert RunRecord.from_json(record.to_json()) == record
    section = section_of(record)
    table = ET.fromstring("<table>" + section.split("<table>")[1].split("</table>")[0] + "</table>")
    rows = [["".join(cell.itertext()) for cell in row] for row in table.iter("tr") if row.find("td") is not None]
    assert rows == [
        ["1", "–", "41", "0", "0", "19,500", "–", "–", "9,081,000", "0 to 400", *["–"] * 6, "accepted", "5 min 51 s"],
        [
            *("2", "1", "3", "0", "0", "20,000", "41", "0.620", "9,162,000", "400 to 800"),
            *("3.610", "3.523", "−0.0871 ± 0.0042", "3.610", "3.549", "−0.0612 ± 0.0042", "accepted", "1 min 36 s"),
        ],
        [
            *("3", "2", "1", "0", "2", "20,500", "–", "–", "9,243,000", "800 to 1,200"),
            *("3.610", "3.641", "+0.0311 ± 0.0042", "3.610", "3.612", "+0.0017 ± 0.0042", "not accepted", "–"),
        ],
    ]
    assert "Round 2 is current. Everything else on this page is of round 3, which was not accepted." in section
    assert "because &lt;b&gt;3&lt;/b&gt;" in section
    assert "a &lt;i&gt;thin&lt;/i&gt; one" in section
    assert section.count("<svg") == 1


def test_a_folder_without_losses_has_no_chart(record):
    first = dataclasses.replace(record.refresh, current=1, rounds=record.refresh.rounds[:1], seconds=(1.0,))
    section = section_of(dataclasses.replace(record, refresh=first))
    assert "<svg" not in section
    assert "Everything else on this page is of round 1." in section


def test_the_chart_draws_a_point_and_an_interval_for_each_split_and_leaves_out_what_is_no_number(record):
    rounds = list(record.refresh.rounds)
    broken = tuple(dataclasses.replace(one, difference=math.nan, error=None) for one in rounds[2].losses)
    rounds[2] = dataclasses.replace(rounds[2], losses=(broken[0], rounds[2].losses[1]))
    svg = charts_refresh.differences(dataclasses.replace(record.refresh, rounds=tuple(rounds)))
    assert "NaN" not in svg
    drawn = [e for e in ET.fromstring(svg).iter() if e.get("fill") in ("var(--series-1)", "var(--series-2)")]
    assert len([e for e in drawn if e.tag.endswith("path")]) >= 3
    texts = {e.text for e in ET.fromstring(svg).iter() if e.tag.endswith("text")}
    assert {"new sequences", "older sequences", "accepted", "not accepted", "2", "3"} <= texts


def test_seconds_are_of_the_rounds_whose_folders_are_there(record, tmp_path):
    from penstock.checked import sealed

    root = Folder(str(tmp_path))
    for number, seconds in ((1, (2.5, 1.0)), (3, (4.0,))):
        timings = {f"s{i}": {"seconds": s, "peak_memory": 1, "finished": "x"} for i, s in enumerate(seconds)}
        root.write_json(f"round-000{number}/timings.json", sealed(timings))
    found = refresh_record(root, Ledger(record.refresh.rounds))
    assert (found.current, found.seconds, found.coverage) == (2, (3.5, None, 4.0), ())
    assert json.loads(RunRecord.to_json(dataclasses.replace(record, refresh=found)))["refresh"]["current"] == 2


@pytest.mark.parametrize("gain", [None, 0.5])
def test_a_gain_that_is_unknown_is_a_dash(record, gain):
    made = dataclasses.replace(record.refresh.rounds[1].made, gain=gain)
    second = dataclasses.replace(record.refresh.rounds[1], made=made)
    changed = dataclasses.replace(record.refresh, rounds=(record.refresh.rounds[0], second), seconds=(1.0, 1.0))
    assert ("0.500" if gain else '<td class="n">–</td>') in section_of(dataclasses.replace(record, refresh=changed))
