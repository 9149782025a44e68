"""What was made: from the datasets of a voyage, its baseline and variants to the record, the charts and the page."""

from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree as ET

import numpy as np
import pyarrow as pa
import pytest

from penstock.dataset import Counts
from penstock.embedding.base import embedding_array
from penstock.errors import ConfigError
from penstock.generators.meter import Meter
from penstock.generators.spending import remember
from penstock.generators.voyager.rows import DROPPED, ROUNDS
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.passes import splits_of
from penstock.report import charts, charts_generation
from penstock.report.generation import MAP_POINTS, asked_records, generation_record
from penstock.report.record import MadeMap, RunRecord, VoyageRecord, VoyageRound
from penstock.report.render import render
from penstock.schema import PROBLEMS
from penstock.step import Settings, Silent, Step, run_step
from penstock.storage import Folder


@dataclasses.dataclass(frozen=True)
class Write:
    tables: dict

    def __call__(self, split, out):
        for name, table in self.tables.items():
            for batch in table.to_batches():
                out.write(name, batch)


class Told(Step):
    """A step whose tables and statistics are given."""

    revision = 1

    def __init__(self, name, tables, stats, dropped):
        self.name, self.tables, self.stats, self.dropped = name, tables, stats, dropped

    def config(self):
        return {}

    def build(self, context):
        built = context.collect(context.run("write", Write(self.tables), splits_of([0])), *self.tables)
        gone = sum(n for reasons in self.dropped.values() for n in reasons.values())
        built.counts = Counts(made=gone + 3, kept=3, dropped=self.dropped)
        built.stats = self.stats
        return built


def told(round_, gain=0.5):
    return json.dumps({"round": round_, "gain": gain, "threshold": 0.25, "gradient_text": "too many sums"})


def voyage(root, name, vendi=7.5, kinds=("seed", "accepted", "rejected", "accepted", "accepted")):
    """Commit a voyage of three accepted problems and return its manifest."""
    problems = [
        {"problem_id": f"{name}#{i}", "group_id": f"{name}#{i}", "variant": "original", "answer": "1"}
        | {"prompt": f"<b>What</b> is {i}?", "original_prompt": "", "provenance": told(i)}
        for i in range(3)
    ]
    dropped = [
        {"doc_id": f"{name}#9", "step": name, "reason": "low_gain", "stage": "diversity", "text": "Again?"}
        | {"provenance": told(1, 0.125)}
    ]
    rounds = [
        {"round": r, "threshold": 0.25, "proposed": 5, "accepted": a, "rejected": 5 - a, "rate": a / 5, "vendi": v}
        | {"mean_gain": 0.5, "total": t, "steps": 1, "explorers": "[]", "dropped": "{}"}
        for r, a, v, t in ((-1, 1, 1.0, 1), (0, 2, vendi, 3))
    ]
    vectors = np.eye(4, dtype=np.float32)[np.arange(len(kinds)) % 4]
    tables = {
        "problems": pa.Table.from_pylist(problems, schema=PROBLEMS),
        "dropped": pa.Table.from_pylist(dropped, schema=DROPPED),
        "rounds": pa.Table.from_pylist(rounds, schema=ROUNDS),
        "vectors": pa.table(
            {
                "id": [f"{name}#{i}" for i in range(len(kinds))],
                "kind": list(kinds),
                "embedding": embedding_array(vectors),
            }
        ),
    }
    facts = {"wanted": 3, "accepted": 3, "detail": "3 accepted", "vendi": vendi, "proposed": 10, "explorers": 4}
    stats = {"voyage": facts | {"calls": 8}}
    return commit(root, Told(name, tables, stats, {"selection": {"low_gain": 6}, "item": {"not_json": 1}}))


def commit(root, step):
    return run_step(step, root, HomeEngine(0), Silent(), Settings()).manifest


@pytest.fixture
def root(tmp_path):
    return Folder(str(tmp_path))


def section(page):
    return page.split('<section id="made">')[1].split("</section>")[0]


def page_of(bare, **parts):
    return section(render(dataclasses.replace(bare, **parts)))


def test_a_run_that_made_nothing_says_so(root, bare):
    assert generation_record(root, {}) is None
    assert "Nothing was made by this run" in page_of(bare)


def test_the_datasets_of_a_voyage_and_of_a_baseline_become_a_record(root):
    manifests = {name: voyage(root, name, vendi) for name, vendi in (("generated", 7.5), ("generated-default", 2.5))}
    found = generation_record(root, manifests)
    assert [(v.name, v.vendi, v.proposed, v.calls) for v in found.voyages] == [
        ("voyager", 7.5, 10, 8),
        ("default", 2.5, 10, 8),
    ]
    first = found.voyages[0]
    assert first.rejected == {"selection: low_gain": 6, "item: not_json": 1}
    assert [(r.round, r.total, r.vendi) for r in first.rounds] == [(-1, 1, 1.0), (0, 3, 7.5)]
    assert sorted(found.map.kinds) == ["default"] * 3 + ["rejected", "seed"] + ["voyager"] * 3
    assert [(s.reason, s.gain) for s in found.samples] == [(None, 0.5)] * 3 + [("low_gain", 0.125)]
    assert found.samples[-1].text == "Again?"


def test_the_map_draws_a_bounded_number_of_every_kind(root):
    kinds = ("accepted",) * 2 * MAP_POINTS + ("rejected",) * 2 * MAP_POINTS
    found = generation_record(root, {"generated": voyage(root, "generated", kinds=kinds)}).map
    assert found.kinds.count("voyager") == found.kinds.count("rejected") == MAP_POINTS // 3


def test_variants_are_told_by_transform_and_check(root, bare):
    stats = {
        "sizes": {"0": 2, "3": 5},
        "transforms": {"rename_names": {"kept": 10, "not_applicable": {"no_name": 2}, "rejected": {"undo": 1}}},
    }
    manifests = {
        "generated": voyage(root, "generated"),
        "transformed": commit(root, Told("transformed", {}, stats, {})),
    }
    made = generation_record(root, manifests)
    (row,) = made.variants.transforms
    assert (row.name, row.kept, row.not_applicable, row.rejected) == ("rename_names", 10, 2, {"undo": 1})
    shown = page_of(bare, made=made)
    assert "2 problems without a verified variant" in shown
    assert "5 problems in groups of 3" in shown
    assert "rename_names" in shown
    assert "undo 1" in shown


def test_requests_are_told_by_step_and_model(root, bare):
    meter = Meter(requests=8, kept=7, asked=1, prompt_tokens=70, completion_tokens=90, cost=0.5)
    remember(root / "generated", {"small": meter, "judge": Meter(requests=2, kept=2)})
    remember(root / "gone", {"small": meter})
    asked = asked_records(root, {"generated": voyage(root, "generated")})
    assert [(a.step, a.model, a.requests, a.kept, a.cost) for a in asked] == [
        ("generated", "judge", 2, 2, None),
        ("generated", "small", 8, 7, 0.5),
    ]
    assert asked[0].p50 is None
    shown = page_of(bare, asked=asked)
    assert "Requests to models" in shown
    assert "small" in shown


def test_the_page_shows_the_record_and_lets_no_text_be_markup(root, bare):
    made = generation_record(root, {"generated": voyage(root, "generated")})
    record = dataclasses.replace(bare, made=made)
    assert RunRecord.from_json(record.to_json()) == record
    shown = section(render(record))
    assert "&lt;b&gt;What&lt;/b&gt; is 0?" in shown
    assert "<b>What" not in shown
    assert "too many sums" in shown
    assert shown.count("<svg") == 3


def texts(svg):
    return [e.text or "" for e in ET.fromstring(svg).iter("text")]


def a_voyage(name, totals):
    rounds = tuple(VoyageRound(round=i, proposed=10, accepted=4, total=t, vendi=float(t)) for i, t in enumerate(totals))
    return VoyageRecord(name=name, wanted=9, accepted=9, detail="", vendi=1.0, proposed=9, explorers=1, rounds=rounds)


def test_every_voyage_is_a_line_named_in_the_legend():
    svg = charts_generation.diversity_over_items([a_voyage("voyager", (1, 5, 9)), a_voyage("<i>x", (2, 4))])
    assert {"voyager", "<i>x"} <= set(texts(svg))
    assert "2 lines" in svg


def test_kinds_on_the_map_have_colours_of_their_own():
    kinds = ("rejected", "seed", "voyager", "default", "uniform")
    svg = charts_generation.made_map(MadeMap(x=(0.0,) * 5, y=(0.0,) * 5, kinds=kinds))
    assert set(kinds) <= set(texts(svg))
    colours = {e.get("fill") for e in ET.fromstring(svg).iter("path") if e.get("fill", "").startswith("var(")}
    assert len(colours) == 5
    assert charts.SERIES[0] in colours
    assert charts.KEPT not in colours  # the same blue


def test_rounds_are_bars_of_accepted_and_rejected():
    svg = charts_generation.accepted_against_rejected(a_voyage("voyager", (1, 5, 9)))
    assert {"accepted", "rejected"} <= set(texts(svg))
    assert "3 rounds" in svg


def test_a_map_needs_a_kind_for_every_point():
    with pytest.raises(ConfigError, match="equally"):
        MadeMap(x=(0.0,), y=(0.0,), kinds=())
