from __future__ import annotations

import dataclasses
import json
import math

import pytest

import penstock.report.record as report_record
from penstock.errors import ConfigError, DatasetError
from penstock.report.record import Curve, Distribution, DistributionGroup, RunRecord, StepRecord, TrainingRecord


def test_a_full_record_survives_json(record):
    text = record.to_json()
    again = RunRecord.from_json(text)
    assert again == record
    assert again.to_json() == text
    assert text.isascii()


def test_a_bare_record_survives_json(bare):
    assert RunRecord.from_json(bare.to_json()) == bare


def test_every_field_of_every_class_is_in_the_full_record(record):
    """The fixture leaves no optional part at its default, so the round trip above covers all of them.

    Rounds of a refresh are kept by their ledger, and have a round trip there.
    """
    seen: dict[type, set[str]] = {}

    def visit(value):
        if dataclasses.is_dataclass(value):
            for f in dataclasses.fields(value):
                held = getattr(value, f.name)
                filled = held is not None and held != () and held != {}
                seen.setdefault(type(value), set()).update({f.name} if filled else ())
                visit(held)
        elif isinstance(value, dict):
            [visit(v) for v in value.values()]
        elif isinstance(value, tuple):
            [visit(v) for v in value]

    visit(record)
    seen = {cls: names for cls, names in seen.items() if cls.__module__ != "penstock.refreshing.ledger"}
    missing = {cls.__name__: {f.name for f in dataclasses.fields(cls)} - names for cls, names in seen.items()}
    assert {name: gap for name, gap in missing.items() if gap} == {}
    assert seen.keys() == {c for c in vars(report_record).values() if dataclasses.is_dataclass(c)}


def test_values_that_are_not_finite_survive_json(bare):
    outcome = dataclasses.replace(bare.outcome, final_loss=math.inf)
    curve = Curve(steps=(1, 2, 3), values=(math.nan, -math.inf, 2.5))
    training = dataclasses.replace(make_training(), train_loss=curve)
    text = dataclasses.replace(bare, outcome=outcome, training=(training,)).to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    again = RunRecord.from_json(text)
    assert again.outcome.final_loss == math.inf
    assert again.training[0].train_loss.values[1:] == (-math.inf, 2.5)
    assert math.isnan(again.training[0].train_loss.values[0])


def make_training():
    return TrainingRecord(round=1, model="m", parameters=1, device="cpu", steps=3, tokens=9, seconds=1.0)


def test_half_of_a_surrogate_pair_survives_json(bare):
    odd = dataclasses.replace(bare, warnings=("file \udce9.txt", "nul \0", "\u2028"))
    assert RunRecord.from_json(odd.to_json()) == odd


def edited(record, edit):
    value = json.loads(record.to_json())
    edit(value)
    return json.dumps(value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda v: v.update(format=2), "not of format 1"),
        (lambda v: v.update(speed=1), r"record: unknown \['speed'\], missing nothing"),
        (lambda v: v.pop("seed"), r"record: unknown nothing, missing \['seed'\]"),
        (lambda v: v.update(seed="17"), r"record\.seed: got '17', allowed <class 'int'>"),
        (lambda v: v.update(seed=True), r"record\.seed: got True"),
        (lambda v: v.update(seconds="soon"), r"record\.seconds: got 'soon'"),
        (lambda v: v.update(seconds=True), r"record\.seconds: got True"),
        (lambda v: v["steps"][3].update(rows_in=1.5), r"record\.steps\[3\]\.rows_in: got 1\.5"),
        (lambda v: v["steps"][0].update(status="done"), r"record\.steps\[0\]\.status: got 'done'.*'run', 'skipped'"),
        (lambda v: v["stages"][2]["reasons"].update(empty=None), r"record\.stages\[2\]\.reasons\['empty'\]: got None"),
        (lambda v: v["distributions"][0]["edges"].pop(), r"distributions\[0\]: counts of 'Length' for domain"),
        (lambda v: v.update(warnings="none"), r"record\.warnings: got 'none'"),
    ],
)
def test_a_wrong_record_is_refused_with_its_place(record, edit, message):
    with pytest.raises(DatasetError, match=message):
        RunRecord.from_json(edited(record, edit))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}"])
def test_what_is_no_record_is_refused(text):
    with pytest.raises(DatasetError, match="run record: not"):
        RunRecord.from_json(text)


@pytest.mark.parametrize(
    ("scale", "edges", "message"),
    [
        ("linear", (0.0,), "two or more rising"),
        ("linear", (0.0, 0.0), "two or more rising"),
        ("linear", (1.0, 0.5, 2.0), "two or more rising"),
        ("linear", (0.0, math.nan), "two or more rising"),
        ("linear", (0.0, math.inf), "finite"),
        ("log", (0.0, 1.0), "above 0 on a log scale"),
    ],
)
def test_edges_that_make_no_histogram_are_refused(scale, edges, message):
    with pytest.raises(ConfigError, match=message):
        Distribution(title="x", unit="", scale=scale, edges=edges, groups=())


def test_counts_that_do_not_fit_the_edges_are_refused():
    group = DistributionGroup(domain="d", selected=(1, 2), not_selected=(1,))
    with pytest.raises(ConfigError, match="got 2 and 1, allowed 2; give one count a bin"):
        Distribution(title="x", unit="", scale="linear", edges=(0.0, 1.0, 2.0), groups=(group,))


def test_a_curve_needs_as_many_steps_as_values():
    with pytest.raises(ConfigError, match="got 2 steps and 1 values"):
        Curve(steps=(1, 2), values=(0.5,))


def test_the_balance_is_what_is_unaccounted_for():
    step = StepRecord(
        name="s", status="run", rows_in=10, rows_made=5, rows_kept=8, rows_dropped=4, seconds=0.0, key="", digest=""
    )
    assert step.balance == 3
