"""The file of `penstock serve`: what it may say, when it means, and what is refused before a server starts."""

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock
import penstock.flows
from penstock.errors import ConfigError
from penstock.flows.deployments import EXAMPLE, Deployments, Entry, Schedule

ROOT = Path(penstock.__file__).parents[1]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe's file in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text("name: small\nsource: {files: '*.jsonl'}\nselect: null\n")
    return "r.yaml"


def one(text):
    """A file with one deployment: the flow mapping ``text``."""
    return f"deployments:\n  - {{name: a, {text}}}\n"


def test_the_example_is_one_that_can_be_served(monkeypatch):
    monkeypatch.chdir(ROOT)
    read = Deployments.parse(EXAMPLE)
    assert {d.name: d.verb for d in read.deployments} == {
        "nightly": "build",
        "weekly": "train",
        "rounds": "refresh",
        "publish": "push",
        "problems": "generate",
    }
    assert read.limits == {"gpu": 1}
    assert read.later == {}


def test_keys_of_an_entry_become_arguments_of_its_verb_and_the_policy_of_its_runs(recipe):
    text = "verb: build, recipe: r.yaml, set: [seed=3], out: there, workers: 2, retries: 1, retry_seconds: 5"
    (made,) = Deployments.parse(one(text)).deployments
    assert made.arguments == {
        "recipe": "r.yaml",
        "overrides": ("seed=3",),
        "out": "there",
        "since": None,
        "workers": 2,
        "split_mb": 32.0,
        "runner": None,
        "runner_options": (),
        "shared_disk": False,
    }
    assert made.parameters() == made.arguments | {
        "overrides": ["seed=3"],
        "runner_options": [],
        "retries": 1,
        "retry_seconds": 5.0,
        "occupies": [],
    }
    assert (made.entry.concurrency.limit, made.entry.concurrency.collision) == (1, "ENQUEUE")


def test_what_another_deployment_makes_may_be_missing_for_now(tmp_path):
    (tmp_path / "scored").mkdir()
    (tmp_path / "scored" / "manifest.json").write_text("{")
    entry = f"{{name: b, verb: transform, given: [{tmp_path}/scored], out: x}}"
    read = Deployments.parse(f"deployments: [{entry}, {{name: c, verb: push, folder: {tmp_path}/no, dest: d}}]")
    assert list(read.later) == ["b"]
    assert "manifest.json" in read.later["b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("deployments: [", "f.yaml:1:15: not YAML"),
        ("- a", "got no list of deployments"),
        ("deployments: []", "got no list of deployments"),
        (
            one("verb: biuld"),
            "deployments.0: verb: got 'biuld', allowed run, build, train, refresh, generate, transform, push",
        ),
        (one("verb: build"), "f.yaml:2:5: deployments.0.recipe: Field required"),
        (one("verb: build, recipe: r.yaml, otu: x"), "unknown key deployments.0.otu; did you mean out?"),
        (one("verb: push, folder: a, dest: b, recipe: r.yaml"), "unknown key deployments.0.recipe"),
        ("at_onec: 2\n" + one("verb: push, folder: a, dest: b"), "unknown key at_onec; did you mean at_once?"),
        ("at_once: 0\n" + one("verb: push, folder: a, dest: b"), "at_once: Input should be greater than or equal to 1"),
        (one("verb: build, recipe: none.yaml"), "deployments.a: recipe none.yaml: cannot be read"),
        (one("verb: build, recipe: r.yaml, set: [trian.steps=3]"), "deployments.a: --set trian.steps=3: unknown key"),
        (one("verb: train, recipe: r.yaml"), "deployments.a: step model-1: this recipe has documents"),
        (one("verb: run, recipe: r.yaml, runner: DirectRunner"), "deployments.a: runner: got 'DirectRunner'"),
        (one("verb: run, recipe: r.yaml, runner_options: [--x=1]"), "runner_options: got --x=1 without a runner"),
        (one("verb: run, recipe: r.yaml, split_mb: 0"), "deployments.a: split_mb: got 0.0, allowed above 0"),
        (
            one("verb: generate, out: x, settings: {voyge: {}}"),
            "deployments.a: unknown key voyge; did you mean voyage?",
        ),
        (one("verb: transform, given: [a], out: x, set: [kind=1]"), "deployments.a: unknown key kind"),
        (one("verb: push, folder: a, dest: 'hf://datasets/x'"), "deployments.a: hf://datasets/x: allowed hf://"),
        (one("verb: push, folder: a, dest: 'nope://x'"), "deployments.a: nope://x: protocol nope is not known"),
        (one("verb: push, folder: a, dest: b, schedule: {cron: 0 25 * * *}"), "schedule: Invalid cron string"),
        (one("verb: push, folder: a, dest: b, schedule: {rrule: FREQ=NEVER}"), "schedule: Invalid RRule string"),
        (one("verb: push, folder: a, dest: b, schedule: {interval: 5x}"), "got '5x', allowed a whole number and s, m"),
        (one("verb: push, folder: a, dest: b, schedule: {interval: 0h}"), "got '0h', allowed a whole number"),
        (one("verb: push, folder: a, dest: b, schedule: {}"), "got none of cron, interval and rrule"),
        (one("verb: push, folder: a, dest: b, schedule: {interval: 1h, cron: 0 3 * * *}"), "got cron and interval of"),
        (
            one("verb: push, folder: a, dest: b, schedule: {interval: 1h, timezone: Mars}"),
            "got 'Mars', allowed an IANA",
        ),
        (one("verb: push, folder: a, dest: b, retries: -1"), "retries: Input should be greater than or equal to 0"),
        (one("verb: push, folder: a, dest: b, concurrency: {collision: WAIT}"), "collision: Input should be 'ENQUEUE'"),
        (one("verb: push, folder: a, dest: b, occupies: [gpu]"), "deployments.a.occupies: got gpu, which is no limit"),
        ("deployments:\n" + 2 * "  - {name: a, verb: push, folder: a, dest: b}\n", "got a more than once"),
        (one("verb: push, folder: a, dest: b").replace("name: a", "name: a/b"), "name: String should match pattern"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_allowed(recipe, text, words):
    with pytest.raises(ConfigError) as error:
        Deployments.parse(text, "f.yaml")
    assert str(error.value).startswith("f.yaml")
    assert words in str(error.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        Deployments.load(tmp_path / "none.yaml")


# ── when ─────────────────────────────────────────────────────────────────────────────────────────


def times(start, number=3, **given):
    return [t.isoformat() for t in Schedule(**given).next_times(number, datetime.fromisoformat(start))]


def test_times_of_a_cron_are_of_its_zone_over_the_end_of_summer_time():
    assert times("2026-10-23T12:00:00+00:00", cron="0 3 * * *", timezone="Europe/Berlin") == [
        "2026-10-24T03:00:00+02:00",
        "2026-10-25T03:00:00+01:00",
        "2026-10-26T03:00:00+01:00",
    ]


def test_a_rule_of_weeks_names_its_day_and_hour_in_its_zone():
    rule = "FREQ=WEEKLY;BYDAY=SA;BYHOUR=4;BYMINUTE=30"
    assert times("2026-03-20T00:00:00+00:00", rrule=rule, timezone="America/New_York", number=2) == [
        "2026-03-21T04:30:00-04:00",
        "2026-03-28T04:30:00-04:00",
    ]


@settings(max_examples=25, deadline=None)
@given(
    number=st.integers(1, 500),
    unit=st.sampled_from("smhd"),
    start=st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),
    later=st.timedeltas(timedelta(0), timedelta(days=3)),
)
def test_an_interval_is_counted_from_one_day_however_often_serving_starts(number, unit, start, later):
    schedule = Schedule(interval=f"{number}{unit}")
    seconds = number * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]
    for moment in (start, start + later):
        first, second = schedule.next_times(2, moment)
        assert first >= moment > first - timedelta(seconds=seconds)
        assert (first - datetime(2020, 1, 1, tzinfo=UTC)).total_seconds() % seconds == 0
        assert (second - first).total_seconds() == seconds


def test_the_dry_run_shows_what_would_run_when_and_starts_nothing(tmp_path, home_in):
    file = tmp_path / "d.yaml"
    file.write_text(
        "limits: {gpu: 2}\ndeployments:\n"
        "  - {name: nightly, verb: push, folder: a, dest: b, occupies: [gpu], tags: [x, y],\n"
        "     schedule: {cron: 0 3 * * *, timezone: Europe/Berlin}}\n"
        "  - {name: by-hand, verb: push, folder: a, dest: b, concurrency: null}\n"
    )
    home = home_in(tmp_path)
    code, out, err = home.run("serve", file, "--dry-run")
    assert (code, err) == (0, "")
    title, head, *lines = out.splitlines()
    assert title == f"Deployments of {file}"
    assert head.split() == ["deployment", "verb", "schedule", "next", "at", "once", "occupies", "tags"]
    assert lines[0].startswith("nightly     push  cron 0 3 * * * Europe/Berlin  ")
    assert lines[0].split()[-5:] == ["1,", "ENQUEUE", "gpu", "x,", "y"]
    assert [" 03:00 +0" in line for line in lines[:3]] == [True, True, True]
    assert lines[3].split() == ["by-hand", "push", "when", "triggered", "any", "number"]
    assert not list(home.prefect.glob("*.db"))


def test_the_example_is_printed_and_no_file_is_a_word_of_advice(tmp_path, home_in):
    home = home_in(tmp_path)
    assert home.run("serve", "--example") == (0, EXAMPLE, "")
    code, out, err = home.run("serve")
    assert (code, out) == (1, "")
    assert err == "penstock: serve: got no file of deployments; write one, penstock serve --example shows how\n"
    assert not os.path.exists(home.prefect)


# ── the page ─────────────────────────────────────────────────────────────────────────────────────


def test_what_the_page_shows_can_be_served_and_what_it_names_exists(monkeypatch):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "operating.md").read_text()
    (text,) = re.findall(r"```yaml\n(deployments:.*?)```", page, re.DOTALL)
    assert [d.name for d in Deployments.parse(text).deployments] == ["nightly"]
    section = page.partition("## Flows and schedules")[2]
    keys = set(re.findall(r"`(\w+)`", re.findall(r"\| key .*?\n\n", section, re.DOTALL)[0]))
    known = {"concurrency", "occupies", "retries", "retry_seconds", "schedule", "tags", "description"}
    assert known == set(Entry.model_fields) - {"name", "verb"}
    assert known <= keys
    for name in re.findall(r"from penstock\.flows import (.*)", section)[0].split(", "):
        assert name in penstock.flows.__all__
