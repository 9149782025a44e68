"""Rounds of the closed loop: what makes one, what it goes on from, the verdict, kills, the report."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest

from penstock.dataset import Dataset
from penstock.errors import ConfigError, FolderInUseError, OtherRecipeError
from penstock.flows.verbs import VERBS
from penstock.lock import FolderLock
from penstock.pipelines.plan import plan
from penstock.pipelines.sequences import files_by_domain
from penstock.push import published
from penstock.recipe import Recipe
from penstock.refreshing.ledger import Files, Ledger
from penstock.refreshing.loop import check, compared_files
from penstock.run import run
from penstock.storage import Folder
from penstock.training.evaluation import evaluate
from penstock.training.model import load_local
from penstock.training.paired import paired
from penstock.training.sequences import SequenceStore
from penstock.training.signals import document_scores

pytestmark = pytest.mark.slow

LATER = [
    "before-model", "before-sequences", "embedder", "coverage", "generated", "before-made", "made-so-far", "documents",
    "deduplicated", "embedded", "tokenizer", "scored", "selection-1", "dataset-1", "sequences-1", "model-1",
    "comparison",
]  # fmt: skip


def dataset(rounds, number, step):
    return Dataset(f"{rounds.out}/round-{number:04d}/{step}")


# ── what makes a round ───────────────────────────────────────────────────────────────────────────


def test_the_first_round_is_a_run_of_its_recipe(rounds):
    first = rounds.done["first"]
    assert (first.why, first.made.accepted, first.made.base, first.made.losses) == ("the first round", True, None, ())
    assert [r.step.name for r in first.steps] == [step.name for step in plan(rounds.recipe)]
    assert first.made.files == Files(total=3, new=3, changed=0, removed=0)


def test_nothing_new_makes_no_round_and_says_so(rounds):
    for name, why in (
        ("nothing new", "nothing new since round 1, no round is made; the signals of round 1 alone make one with"),
        (
            "nothing new after it",
            "nothing new since round 2, no round is made; round 2 was made of it and not accepted",
        ),
    ):
        done = rounds.done[name]
        assert (done.made, done.steps) == (None, ())
        assert done.why.startswith(why)


def test_files_that_came_and_went_are_counted(rounds):
    found = {one.number: one.files for one in rounds.done["accepted"].ledger.rounds}
    assert found[2] == Files(total=4, new=1, changed=0, removed=0)
    assert found[3] == Files(total=3, new=0, changed=0, removed=1)
    assert rounds.done["rejected"].why == "files since round 1: 1 new"
    assert rounds.done["accepted"].why == "files since round 2: 1 removed"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {"a": "1"}, Files(total=1, new=1, changed=0, removed=0)),
        ({"a": "1", "b": "2", "c": "3"}, {"b": "2", "c": "4", "d": "5"}, Files(total=3, new=1, changed=1, removed=1)),
    ],
)
def test_files_are_compared_by_name_and_fingerprint(before, after, expected):
    assert compared_files(before, after) == expected


def test_new_signals_alone_make_a_round_where_the_recipe_wants_it(rounds):
    due, *_ = check(rounds.recipe, out=str(rounds.out))
    assert not due.due
    wanted = Recipe.parse(rounds.recipe.to_yaml(), ["refresh.when=signals"])
    due, _, folder, checks = check(wanted, out=str(rounds.out))
    assert (due.due, due.why) == (True, "signals of round 3, which no round has read")
    assert folder.url.endswith("round-0004")
    assert [c.step.name for c in checks] == LATER
    assert not (rounds.out / "round-0004").exists()


# ── what a round goes on from ────────────────────────────────────────────────────────────────────


def test_what_did_not_change_is_taken_over_and_the_tokenizer_is_the_first_round_s(rounds):
    for name, number in (("rejected", 2), ("accepted", 3)):
        assert [r.step.name for r in rounds.done[name].steps] == LATER
        assert {r.step.name for r in rounds.done[name].steps if r.skipped} == {"embedder", "tokenizer"}
        assert dataset(rounds, number, "tokenizer").digest == dataset(rounds, 1, "tokenizer").digest
        # the files of rivers and machines
        old, new = (dataset(rounds, n, "documents").table("documents").files for n in (number - 1, number))
        assert len({f.sha256 for f in old} & {f.sha256 for f in new}) >= 2


@pytest.mark.parametrize("number", [2, 3])
def test_a_round_stands_on_the_accepted_one_and_never_on_a_rejected_one(rounds, number):
    assert rounds.done["accepted"].ledger.rounds[number - 1].base == 1
    given = dataset(rounds, 1, "model-1")
    assert dataset(rounds, number, "before-model").table("signals").digest == given.table("signals").digest
    seen = {r["doc_id"]: r["excess_loss"] for r in document_scores(given.read("signals")).to_pylist()}
    rows = dataset(rounds, number, "selection-1").read("selection").to_pylist()
    assert any(row["doc_id"] in seen for row in rows)
    for row in rows:
        expected = seen.get(row["doc_id"])
        assert row["score.excess_loss"] == (None if expected is None else pytest.approx(expected, abs=1e-4))
    rejected = document_scores(dataset(rounds, 2, "model-1").read("signals")).to_pylist()
    assert any(abs(r["excess_loss"] - seen[r["doc_id"]]) > 1e-2 for r in rejected if r["doc_id"] in seen)


def test_training_goes_on_where_the_accepted_model_stood(rounds):
    spans = [(one.first_step, one.last_step) for one in rounds.done["accepted"].ledger.rounds]
    assert spans == [(0, 12), (12, 20), (12, 20)]
    for number in (2, 3):
        made = dataset(rounds, number, "model-1")
        (name,) = [n for n in made.manifest.artifacts if n.endswith("state.json")]
        log = json.loads(made.folder.read_bytes(made.manifest.artifacts[name].path))["loader"]["log"]
        (read,) = log["datasets"]
        assert (read["begins"], read["generation"]) == (4 * 12, 1)
        assert read["fingerprint"] == dataset(rounds, number, "sequences-1").digest
        metrics = made.folder.read_bytes(made.manifest.artifacts["metrics.jsonl"].path).splitlines()
        later = rounds.recipe.trained_later()
        assert [json.loads(line)["lr"] for line in metrics] == [later.learning_rate_at(step) for step in range(8)]


def test_what_is_generated_is_new_beside_the_corpus_and_what_was_made_stays(rounds):
    texts = {}
    for number, ids in ((1, "generated#"), (2, "generated-2#"), (3, "generated-3#")):
        rows = dataset(rounds, number, "generated").read("problems", ["problem_id", "prompt"]).to_pylist()
        texts[number] = {row["prompt"] for row in rows}
        assert rows
        assert all(row["problem_id"].startswith(ids) for row in rows)
    assert not texts[1] & (texts[2] | texts[3])
    both = dataset(rounds, 3, "made-so-far").read("problems")
    assert set(both["prompt"].to_pylist()) == texts[1] | texts[3]  # those of the rejected round are not in it
    assert len(set(both["problem_id"].to_pylist())) == both.num_rows
    anchors = dataset(rounds, 3, "coverage").read("anchors")
    assert 0 < anchors.num_rows <= 12
    documents = dataset(rounds, 1, "scored").read("documents", ["doc_id"])["doc_id"].to_pylist()
    assert set(anchors["doc_id"].to_pylist()) <= set(documents)
    made = rounds.done["accepted"].made.made
    gains = [json.loads(t)["gain"] for t in dataset(rounds, 3, "generated").read("problems")["provenance"].to_pylist()]
    assert made.accepted == len(gains)
    assert made.gain == pytest.approx(np.mean(gains), abs=1e-6)
    assert min(gains) >= 0.9 * made.threshold  # it falls a little from one of its rounds to the next


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [2, 3])
def test_losses_are_those_of_both_models_on_both_validation_sets(rounds, number):
    table = dataset(rounds, number, "comparison").read("losses").to_pandas()
    told = {one.split: one for one in rounds.done["accepted"].ledger.rounds[number - 1].losses}
    config = dataclasses.replace(rounds.recipe.train, eval_sequences=10_000)
    for split, of in (("new", number), ("old", 1)):
        rows = table[table["split"] == split]
        packed = dataset(rounds, of, "sequences-1")
        files = files_by_domain(packed.manifest.tables, packed.manifest.stats["domains"], "validation")
        store = SequenceStore.open({d: [packed.folder.join(p) for p in paths] for d, paths in files.items()})
        for column, model in (("before", 1), ("after", number)):
            folder = dataset(rounds, model, "model-1").artifact("model/config.json").rpartition("/")[0]
            for domain, loss in evaluate(load_local(folder), store, config).items():
                own = rows[rows["domain"] == domain]
                assert own[column].sum() / own["tokens"].sum() == pytest.approx(loss, rel=1e-5)
        again = paired(*(rows[name].to_numpy(float) for name in ("before", "after", "tokens")))
        assert told[split].difference == pytest.approx(again.difference, abs=1e-8)
        assert told[split].error == pytest.approx(again.error, abs=1e-8)


def test_a_round_that_does_not_meet_the_rule_is_kept_and_the_older_one_stays_current(rounds):
    ledger = rounds.done["rejected"].ledger
    assert [one.accepted for one in ledger.rounds] == [True, False]
    assert ledger.current.number == 1
    assert "allowed up to -9.0000" in ledger.last.reason
    assert dataset(rounds, 2, "model-1").manifest.stats["steps"] == 20
    assert json.loads((rounds.out / "rounds.json").read_text())["current"] == "round-0003"


def test_what_is_sent_is_the_accepted_dataset(rounds):
    first, rejected, accepted = rounds.pushed
    assert first == rejected == published(f"{rounds.out}/round-0001").manifest.digest
    assert accepted == published(f"{rounds.out}/round-0003").manifest.digest != first
    flags = [(one.push_to is not None, one.sent) for one in rounds.done["accepted"].ledger.rounds]
    assert flags == [(True, True), (False, False), (True, True)]


def test_what_was_not_sent_before_a_kill_is_sent_by_the_next_call(rounds, tmp_path):
    root = Folder(str(tmp_path / "out"))
    shutil.copytree(rounds.out, root.path, ignore=shutil.ignore_patterns(".lock", ".holder.json"))
    ledger, dest = Ledger.load(root), str(tmp_path / "sent")
    cut = dataclasses.replace(ledger.last, sent=False, push_to=dest)
    Ledger((*ledger.rounds[:-1], cut)).save(root)
    assert rounds.call(out=root.path).made is None
    assert Dataset(dest).manifest.digest == rounds.pushed[-1]
    assert Ledger.load(root).last == dataclasses.replace(cut, sent=True)


# ── kills and company ────────────────────────────────────────────────────────────────────────────


def test_a_round_that_was_killed_ends_in_the_same_bytes(rounds):
    assert len(rounds.killed) >= 2
    for killed in rounds.killed:
        assert json.loads(killed.before)["current"] == "round-0001"
        assert killed.after == rounds.record
        for step in LATER:
            found = Dataset(f"{killed.out}/round-0003/{step}")
            found.verify()
            assert found.digest == dataset(rounds, 3, step).digest, (killed.where, step)


def test_two_rounds_at_once_are_refused_and_so_is_a_run_s_folder(rounds):
    with FolderLock(Folder(str(rounds.out))), pytest.raises(FolderInUseError, match="another penstock run is writing"):
        rounds.call()
    with pytest.raises(OtherRecipeError, match=r"holds a run of recipe 'fresh \(round 1\)', got 'fresh \(rounds\)'"):
        rounds.call(out=rounds.out / "round-0001")
    for folder in (rounds.out, rounds.out / "round-0001"):
        with pytest.raises(OtherRecipeError, match=r"holds a run of recipe 'fresh \(round"):
            run(rounds.recipe, out=str(folder))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train=null", "refresh.train: there is no train section"),
        ("rounds=2", "refresh: got rounds, allowed 1: each call of refresh is a round"),
        ("beside={fixed: {seed: 2}}", "refresh: got beside, allowed none"),
        ("splits={validation: 0}", "refresh: got splits.validation 0"),
        ("refresh.train={batch_size: 8}", "refresh.train.batch_size: got another one for later rounds"),
        ("refresh.train={stepz: 8}", "unknown key refresh.train.stepz; did you mean steps"),
        ("refresh.push_to=ftpx://a/b", "protocol ftpx is not known"),
        ("refresh.accept.tolerance=.nan", "refresh.accept.tolerance"),
    ],
)
def test_a_recipe_that_no_rounds_can_be_made_of_is_refused(rounds, override, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        rounds.call(override)
    assert len(Ledger.load(Folder(str(rounds.out))).rounds) == 3


def test_another_tokenizer_is_refused_before_anything_is_trained_with_it(rounds):
    out = rounds.killed[0].out
    with pytest.raises(ConfigError, match=r"the settings of the tokenizer, .* begin anew with another --out"):
        rounds.call("tokenizer.vocabulary_size=400", out=out)
    assert not (out / "round-0004" / "scored" / "manifest.json").exists()
    assert Ledger.load(Folder(str(out))).last.number == 3


# ── for people ───────────────────────────────────────────────────────────────────────────────────


def test_the_report_shows_all_rounds_side_by_side(rounds):
    page = (rounds.out / "report.html").read_text()
    section = page.split('<section id="refresh">')[1].split("</section>")[0]
    assert section.count("<td>accepted</td>") == 2
    assert section.count("<td>not accepted</td>") == 1
    assert "Everything else on this page is of round 3." in section
    assert "rivers" in section.split("Coverage of the corpus")[1]
    for one in rounds.done["accepted"].ledger.rounds:
        for of in one.losses:
            assert f"{of.difference:+,.4f}".replace("-", "−") in section
    assert "<svg" in section


def test_the_command_says_that_nothing_is_new_and_a_dry_run_writes_nothing(rounds, penstock):
    def stamps():
        return {p: p.stat().st_mtime_ns for p in rounds.out.rglob("*") if p.is_file() and p.name[0] != "."}

    before = stamps()
    code, out, err = penstock("refresh", rounds.file, "--out", rounds.out)
    assert (code, out) == (0, f"report: {rounds.out}/report.html\n")
    assert "nothing new since round 3" in err
    code, out, err = penstock(
        "refresh", rounds.file, "--out", rounds.out, "--dry-run", "--set", "train.weight_decay=0.2"
    )
    assert (code, err) == (0, "")
    assert "round 4: settings or other inputs than documents changed since round 3" in out
    assert "before-model" in out
    assert stamps() == before


def test_a_deployment_s_function_makes_the_same_call(rounds):
    done = VERBS["refresh"].function(str(rounds.file), out=str(rounds.out))
    assert (done.folder, done.steps, done.report) == (str(rounds.out), (), f"{rounds.out}/report.html")
    steps = VERBS["refresh"].steps(recipe=str(rounds.file), out=str(rounds.out))
    assert [step.name for step in steps] == LATER
    with pytest.raises(ConfigError, match="refresh: got rounds"):
        VERBS["refresh"].steps(recipe=str(rounds.file), overrides=["rounds=2"])
