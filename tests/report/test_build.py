"""The record of a real run: its numbers are those of the manifests, and what is missing or stale is left out."""

from __future__ import annotations

import dataclasses
import html
import json
import os
import shutil
import subprocess
import time
from collections import Counter
from datetime import datetime
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pyarrow.compute as pc
import pytest

from penstock.dataset import Dataset
from penstock.errors import DatasetError, OtherRecipeError
from penstock.pipelines.plan import plan
from penstock.recipe import Recipe
from penstock.report import render
from penstock.report.build import write_report
from penstock.report.record import RunRecord
from penstock.run import read_timings, report_again, run
from penstock.storage import Folder

SPLITS = ("train", "validation", "test")


def record_of(root) -> RunRecord:
    return RunRecord.from_json((root / "record.json").read_text())


def manifest(root, name):
    return Dataset(f"{root}/{name}").manifest


@pytest.fixture
def copy(finished, tmp_path):
    """(run folder that a test may change, recipe)."""
    base, recipe, _ = finished
    shutil.copytree(base / "run", tmp_path / "run")
    return tmp_path / "run", recipe


@pytest.fixture(scope="module")
def seen(finished):
    """(record, run folder) of the finished run."""
    base, _, _ = finished
    return record_of(base / "run"), base / "run"


def test_step_rows_are_the_manifests_counts(seen, finished):
    record, root = seen
    assert [s.name for s in record.steps] == [s.name for s in plan(finished[1])]
    for step in record.steps:
        found = manifest(root, step.name)
        counts = found.counts
        assert (step.rows_in, step.rows_made, step.rows_kept, step.rows_dropped) == (
            counts.rows_in,
            counts.made,
            counts.kept,
            counts.dropped_total,
        )
        assert (step.key, step.digest) == (found.key, found.digest)
        assert {p.name: p.digest for p in step.parents} == {n: p["digest"] for n, p in found.parents.items()}


def test_tokens_of_a_step_are_those_of_its_rows(seen):
    record, root = seen
    tokens = {s.name: s.tokens for s in record.steps}
    scored = Dataset(f"{root}/scored").read("documents", ["tokens"])
    assert tokens["scored"] == pc.sum(scored["tokens"]).as_py()
    for number in (1, 2):
        rows = [Dataset(f"{root}/dataset-{number}").read(s, ["tokens"]) for s in SPLITS]
        assert tokens[f"dataset-{number}"] == sum(pc.sum(r["tokens"]).as_py() for r in rows)
    assert tokens["documents"] is None


def test_the_outcome_is_the_last_dataset(seen):
    record, root = seen
    rows = [r for s in SPLITS for r in Dataset(f"{root}/dataset-2").read(s).to_pylist()]
    out = record.outcome
    assert out.rows == len(rows) == manifest(root, "dataset-2").counts.kept
    assert out.bytes == sum(len(r["text"].encode()) for r in rows)
    assert out.tokens == sum(r["tokens"] for r in rows)
    assert (out.domains, out.rounds) == (3, 2)
    losses = manifest(root, "model-2").stats["validation"]
    weights = manifest(root, "sequences-2").stats["tokens"]["validation"]
    total = sum(weights[d]["packed"] for d in losses)
    assert out.final_loss == pytest.approx(sum(losses[d] * weights[d]["packed"] / total for d in losses))


def test_stages_chain_from_the_source_to_the_last_dataset_and_nothing_warns(seen):
    record, root = seen
    stages = record.stages
    assert stages[0].rows_in == 0
    assert stages[0].rows_made == manifest(root, "documents").counts.rows_in
    for before, after in pairwise(stages):
        assert after.rows_in == before.rows_kept
    kept = {stage.step: stage.rows_kept for stage in stages}  # of each step's last stage
    assert kept == {s: manifest(root, s).counts.kept for s in ("documents", "deduplicated", "dataset-2")}
    assert record.warnings == ()
    assert render.checks(record) == []


def test_stage_reasons_are_the_manifests(seen):
    record, root = seen
    for step in ("documents", "deduplicated", "dataset-2"):
        shown = {s.name: dict(s.reasons) for s in record.stages if s.step == step and s.reasons}
        counted = manifest(root, step).counts.dropped
        assert shown == {name.removeprefix("source."): reasons for name, reasons in counted.items()}


def test_rows_lost_between_two_steps_are_warned_of(copy):
    """The first stage of a step shows what the step really took in, so the check can fail."""
    root, recipe = copy
    path = root / "deduplicated" / "manifest.json"
    value = json.loads(path.read_text())
    value["counts"]["rows_in"] -= 1
    value["counts"]["kept"] -= 1
    path.write_text(json.dumps(value))
    write_report(recipe, Folder(str(root)))
    assert any("Stage exact_duplicates took in 227 rows, but" in w for w in render.checks(record_of(root)))


def test_sources_and_domains_are_the_rows_that_were_read(seen, finished):
    record, root = seen
    (source,) = record.sources
    assert (source.name, source.kind) == ("files", "files")
    assert source.location == f"{finished[0]}/corpus/*.jsonl"
    assert (source.files, source.files_total) == (("letters.jsonl", "machines.jsonl", "rivers.jsonl"), 3)
    assert source.rows == manifest(root, "documents").counts.rows_in == 243
    points = {p.name: p.domains for p in record.domains}
    assert list(points) == ["sources", "cleaned", "selected, round 1", "selected, round 2"]
    texts = Dataset(f"{root}/scored").read("documents", ["domain", "text", "tokens"]).to_pylist()
    cleaned = {d: (a.rows, a.bytes, a.tokens) for d, a in points["cleaned"].items()}
    assert cleaned == {
        d: (
            sum(r["domain"] == d for r in texts),
            sum(len(r["text"].encode()) for r in texts if r["domain"] == d),
            sum(r["tokens"] for r in texts if r["domain"] == d),
        )
        for d in ("letters", "machines", "rivers")
    }
    for number in (1, 2):
        rows = Dataset(f"{root}/selection-{number}").read("selection").to_pylist()
        for domain, amount in points[f"selected, round {number}"].items():
            own = [r for r in rows if r["domain"] == domain]
            assert amount.rows == sum(r["copies"] for r in own)
            assert amount.tokens == sum(r["copies"] * r["tokens"] for r in own)
            assert amount.bytes == sum(r["copies"] * r["bytes"] for r in own)


def test_lengths_and_scores_count_every_row_that_training_could_have_had_once(seen):
    record, root = seen
    splits = Dataset(f"{root}/scored").read("documents", ["split"])["split"].to_pylist()
    selected = Dataset(f"{root}/dataset-2").table("train").rows
    assert [d.title for d in record.distributions] == ["Length", "Language score", "Quality score"]
    for shown in record.distributions:
        assert sum(sum(g.selected) for g in shown.groups) == selected
        assert sum(sum(g.not_selected) for g in shown.groups) == splits.count("train") - selected > 0


def test_the_rounds_section_shows_what_moved(seen):
    record, root = seen
    (change,) = record.changes
    old, new = (Dataset(f"{root}/selection-{n}").read("selection").to_pylist() for n in (1, 2))
    pairs = [(a, b) for a, b in zip(old, new, strict=True) if a["split"] == "train"]
    assert all(a["doc_id"] == b["doc_id"] for a, b in pairs)
    assert (change.before, change.after) == (1, 2)
    losses = {n: manifest(root, f"model-{n}").stats["validation"] for n in (1, 2)}
    for domain in change.domains:
        own = [(a, b) for a, b in pairs if a["domain"] == domain.domain]
        assert domain.tokens_before == sum(a["copies"] * a["tokens"] for a, _ in own)
        assert domain.tokens_after == sum(b["copies"] * b["tokens"] for _, b in own)
        assert domain.copies_up == sum(b["copies"] > a["copies"] for a, b in own)
        assert domain.copies_down == sum(b["copies"] < a["copies"] for a, b in own)
        heard = [(b["score.excess_loss"], b["tokens"]) for _, b in own if b["score.excess_loss"] is not None]
        assert domain.excess_loss == pytest.approx(sum(x * n for x, n in heard) / sum(n for _, n in heard))
        assert domain.validation_before == pytest.approx(losses[1][domain.domain])
        assert domain.validation_after == pytest.approx(losses[2][domain.domain])
    moves = {a["doc_id"]: (a["copies"], b["copies"]) for a, b in pairs if a["copies"] != b["copies"]}
    assert len(change.moved) == min(20, len(moves)) > 0
    sizes = [abs(m.copies_after - m.copies_before) for m in change.moved]
    assert sizes == sorted((abs(b - a) for a, b in moves.values()), reverse=True)[: len(sizes)]
    texts = {
        r["doc_id"]: r["text"] for r in Dataset(f"{root}/scored").read("documents", ["doc_id", "text"]).to_pylist()
    }
    for moved in change.moved:
        assert moves[moved.doc_id] == (moved.copies_before, moved.copies_after)
        assert moved.text == texts[moved.doc_id][:1200]


def test_kept_and_dropped_samples_are_real_rows(seen):
    record, root = seen
    kept = {r["doc_id"]: r for s in SPLITS for r in Dataset(f"{root}/dataset-2").read(s).to_pylist()}
    assert {s.domain for s in record.kept} == {"letters", "machines", "rivers"}
    for sample in record.kept:
        row = kept[sample.doc_id]
        assert sample.text == row["text"][:1200]
        assert sample.copies == row["copies"]
        assert sample.scores["quality"] == pytest.approx(row["score.quality"])
    dropped = {}
    for step in ("documents", "deduplicated", "dataset-2"):
        for row in Dataset(f"{root}/{step}").read("dropped").to_pylist():
            dropped[row["doc_id"], row["reason"]] = row
    shown = Counter(s.reason for s in record.dropped)
    assert shown == {"gopher_short_doc": 3, "invalid_json": 3, "exact_duplicate": 3, "not_selected": 3}
    for sample in record.dropped:
        row = dropped[sample.doc_id, sample.reason]
        assert (sample.text, sample.detail, sample.domain) == (row["text"], row["detail"], row["domain"])


def test_tokenizer_and_training_are_those_of_the_run(seen):
    record, root = seen
    assert record.tokenizer.vocabulary == manifest(root, "tokenizer").stats["vocabulary"] == 512
    assert [t.round for t in record.training] == [1, 2]
    for training in record.training:
        lines = Path(Dataset(f"{root}/model-{training.round}").artifact("metrics.jsonl")).read_text().splitlines()
        logged = [json.loads(line) for line in lines]
        assert training.steps == 12
        assert list(training.train_loss.steps) == [r["step"] for r in logged]
        assert list(training.train_loss.values) == pytest.approx([r["loss"] for r in logged])
        assert training.seconds > 0
        assert {d: c.steps for d, c in training.validation_loss.items()} == dict.fromkeys(
            ("letters", "machines", "rivers"), (6, 12)
        )


STEERED = [
    "rounds=1",
    "train.policy={name: dga, target: [letters], every: 2, lag: 2, probe_sequences: 2}",
    "train.weighting={strategy: linupper, warmup_steps: 4}",
    "beside={static: {policy: {name: static, target: [letters]}}}",
]


def test_the_mixture_of_a_run_is_its_log_and_what_it_saw_is_in_its_signals(finished, tmp_path):
    """One round that trains towards a target with sample weights, beside a model on a fixed mixture."""
    root, recipe = tmp_path / "run", Recipe.parse(finished[1].to_yaml(), STEERED)
    shutil.copytree(finished[0] / "run", root)
    for name in ("selection-2", "dataset-2", "sequences-2", "model-2"):
        shutil.rmtree(root / name)
    run(recipe, out=str(root), workers=0)
    record = record_of(root)
    (static,) = record.beside
    assert (static.round, static.name) == (1, "static")
    assert static.mixture.effective_from == (0,)
    assert static.target_loss.steps == (6, 12)
    (steered,) = record.training
    assert steered.effective_samples.steps == tuple(range(5, 13))
    assert steered.target_loss.steps == (6, 12)
    assert (steered.mixture.policy, steered.mixture.target) == ("dga", ("letters",))
    # asked after steps 2, 4, … 8 and in force two steps later; what would begin at step 12 never holds
    assert steered.mixture.effective_from == (0, 16, 24, 32, 40)
    assert all(sum(w[i] for w in steered.mixture.weights.values()) == pytest.approx(1) for i in range(5))
    table = Dataset(f"{root}/model-1").read("signals").to_pylist()
    steps = {}
    for row in table:
        steps.setdefault(row["doc_id"], set()).add(row["step"])
    assert steered.seen.documents == len(steps)
    assert sum(steered.seen.visits.values()) == len(steps)
    assert steered.seen.visits["1"] == sum(len(of) == 1 for of in steps.values())
    for document in steered.seen.samples:
        assert set(document.steps) <= steps[document.doc_id]
        assert document.visits == len(steps[document.doc_id])
        first = [r for r in table if r["doc_id"] == document.doc_id and r["step"] == document.steps[0]]
        mean = sum(r["loss"] * r["tokens"] for r in first) / sum(r["tokens"] for r in first)
        assert document.first_loss == pytest.approx(mean, rel=1e-5)


def test_times_memory_and_machine_are_those_of_the_run(seen, finished):
    record, root = seen
    timings = read_timings(Folder(str(root)))
    assert {s.name: s.seconds for s in record.steps} == {n: t["seconds"] for n, t in timings.items()}
    assert {s.status for s in record.steps} == {"run"}
    assert sum(s.seconds for s in record.steps) <= record.seconds <= finished[2].seconds
    first = min(datetime.fromisoformat(t["finished"]).timestamp() - t["seconds"] for t in timings.values())
    assert datetime.fromisoformat(record.started).timestamp() <= first + 1  # stamps have whole seconds
    last = max(datetime.fromisoformat(t["finished"]).timestamp() for t in timings.values())
    assert datetime.fromisoformat(record.started).timestamp() + record.seconds >= last - 1
    assert record.peak_memory_bytes > 50_000_000
    assert record.machine.cores == len(os.sched_getaffinity(0))
    assert 0 < record.machine.memory_bytes <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert record.machine.accelerator is None
    assert record.versions["pyarrow"]


def test_a_report_without_a_run_shows_the_last_builds(copy):
    root, recipe = copy
    before = record_of(root)
    assert report_again(recipe, out=str(root)) == str(root / "report.html")
    again = record_of(root)
    assert {s.status for s in again.steps} == {"skipped"}
    assert [s.seconds for s in again.steps] == [s.seconds for s in before.steps]
    assert again.seconds == pytest.approx(sum(s.seconds for s in before.steps))
    same = {"started": "", "seconds": 0.0, "steps": ()}
    assert dataclasses.replace(again, **same) == dataclasses.replace(before, **same)


def test_a_step_built_again_is_the_only_one_marked_run(copy):
    root, recipe = copy
    times = {n: t["seconds"] for n, t in read_timings(Folder(str(root))).items()}
    os.unlink(root / "selection-1" / "manifest.json")
    run(recipe, out=str(root), workers=0)
    record = record_of(root)
    assert [s.name for s in record.steps if s.status == "run"] == ["selection-1"]
    assert {s.name: s.seconds for s in record.steps if s.name != "selection-1"} == {
        n: s for n, s in times.items() if n != "selection-1"
    }


def test_the_report_is_not_written_again_when_nothing_changed(copy):
    root, recipe = copy
    (root / "report.html").write_text("as it was")
    run(recipe, out=str(root), workers=0)
    assert (root / "report.html").read_text() == "as it was"
    run(Recipe.parse(recipe.to_yaml(), ["budgets.scored=0.5"]), out=str(root), workers=0)
    assert (root / "report.html").read_text() != "as it was"
    os.unlink(root / "report.html")
    run(recipe, out=str(root), workers=0)
    assert "<html" in (root / "report.html").read_text()


@pytest.mark.parametrize(
    ("overrides", "only", "steps"),
    [
        ([], ["documents"], ["documents"]),
        ([], ["dataset-1"], 7),
        (["train=null", "rounds=1"], None, 7),
        (["quality=null", "select.criteria={language: {}}", "train=null", "rounds=1"], ["dataset-1"], 6),
    ],
    ids=["documents", "build", "no training", "no quality"],
)
def test_a_part_of_a_run_has_a_report(copy, overrides, only, steps):
    root, recipe = copy
    part = Recipe.parse(recipe.to_yaml(), overrides)
    wanted = {s.name for s in plan(part)} if only is None else {"documents", *only}
    for name in os.listdir(root):
        if name not in {"documents", "deduplicated", "tokenizer", "quality", "scored", "selection-1", *wanted}:
            path = root / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if only == ["documents"]:
        for name in ("deduplicated", "tokenizer", "quality", "scored", "selection-1"):
            shutil.rmtree(root / name)
    result = run(part, out=str(root), workers=0, only=only)
    record = record_of(root)
    assert (len(record.steps) if isinstance(steps, int) else [s.name for s in record.steps]) == steps
    assert len(record.steps) == len(result.steps)
    assert record.training == () == record.changes
    assert "<html" in (root / "report.html").read_text()
    assert render.checks(record) == []


def test_datasets_of_an_earlier_build_are_left_out_and_named(copy):
    """A filter changed and only the first dataset was built: the rest belongs to other documents."""
    root, recipe = copy
    changed = Recipe.parse(recipe.to_yaml(), ["filters.gopher_quality.min_words=100"])
    run(changed, out=str(root), workers=0, only=["dataset-1"])
    record = record_of(root)
    built = ["documents", "deduplicated", "tokenizer", "quality", "scored", "selection-1", "dataset-1"]
    assert [s.name for s in record.steps] == built
    assert record.warnings == (
        "Not shown: sequences-1, model-1, selection-2, dataset-2, sequences-2, model-2, made from "
        "datasets that have changed since. Run the recipe to build them again.",
    )
    assert record.outcome.rows == manifest(root, "dataset-1").counts.kept
    assert record.outcome.rounds == 1


def test_a_folder_without_datasets_or_of_another_recipe_gets_no_report(copy, tmp_path):
    root, recipe = copy
    with pytest.raises(DatasetError, match="no dataset of recipe small"):
        report_again(recipe, out=str(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(OtherRecipeError, match="'other'"):
        report_again(Recipe.parse(recipe.to_yaml(), ["name=other"]), out=str(root))


def test_damaged_timings_cost_only_the_times(copy):
    root, recipe = copy
    (root / "timings.json").write_text("{")
    report_again(recipe, out=str(root))
    record = record_of(root)
    assert (record.seconds, {s.seconds for s in record.steps}) == (0, {0})
    assert abs(datetime.fromisoformat(record.started).timestamp() - time.time()) < 60


SCRIPT = "<script>document.title='owned'</script>"
DOMAIN = f"{SCRIPT}\x1b[31m[red]\u202e</title><img src=x onerror=\"document.title='owned'\">"


class Elements(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def hostile(finished, tmp_path_factory):
    """A run over the usual corpus with a script in a domain's name and in every one of its documents."""
    base, recipe, _ = finished
    folder = tmp_path_factory.mktemp("hostile")
    shutil.copytree(base / "corpus", folder / "corpus")
    rows = [json.loads(line) for line in (base / "corpus" / "rivers.jsonl").read_text().splitlines() if line[1] == '"']
    planted = [{"text": f"{SCRIPT} \x1b[2J {r['text']}", "domain": DOMAIN} for r in rows]
    planted += [{"text": f"{SCRIPT} short", "domain": DOMAIN}] * 2
    (folder / "corpus" / "planted.jsonl").write_text("\n".join(map(json.dumps, planted)))
    overrides = [f"source.files=[{{path: '{folder}/corpus/*.jsonl', columns: {{domain: domain}}}}]", "train.steps=6"]
    run(Recipe.parse(recipe.to_yaml(), overrides), out=str(folder / "run"), workers=0)
    return folder / "run"


def test_a_planted_script_in_text_and_domain_is_shown_and_not_run(hostile):
    page = (hostile / "report.html").read_text()
    found = Elements(page)
    assert not found.tags & {"script", "img"}
    assert not {a for a in found.attributes if a.startswith("on")}
    assert found.text.count(SCRIPT) >= 6
    assert not set(page) & {"\x1b", "\u202e"}
    assert "⟨ESC⟩[31m[red]⟨U+202E⟩" in html.unescape(page)
    record = record_of(hostile)
    assert DOMAIN in record.domains[-1].domains
    assert any(s.domain == DOMAIN and s.text.startswith(SCRIPT) for s in record.kept)
    assert any(s.domain == DOMAIN and s.reason == "gopher_short_doc" and SCRIPT in s.text for s in record.dropped)
    assert render.checks(record) == []


@pytest.mark.browser
def test_the_planted_script_does_not_run_in_a_browser(hostile, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on PATH; install Debian's package chromium")
    switches = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=2000"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [chromium, *switches, "--dump-dom", profile, (hostile / "report.html").as_uri()]
    document = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=True).stdout
    assert "<title>small · penstock run</title>" in document
