"""The whole run: what it makes, when it skips, what a change rebuilds, and how it resumes."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from penstock.dataset import Dataset
from penstock.errors import FolderInUseError, OtherRecipeError
from penstock.lock import FolderLock
from penstock.recipe import Recipe
from penstock.run import check, run
from penstock.storage import Folder

STEPS = [
    "documents",
    "deduplicated",
    "tokenizer",
    "quality",
    "scored",
    "selection-1",
    "dataset-1",
    "sequences-1",
    "model-1",
    "selection-2",
    "dataset-2",
    "sequences-2",
    "model-2",
]


def digests(root, names=STEPS):
    return {name: Dataset(f"{root}/{name}").digest for name in names}


def test_every_step_is_built_and_its_rows_are_accounted_for(finished):
    base, _, result = finished
    assert [r.step.name for r in result.steps] == STEPS
    assert not any(r.skipped for r in result.steps)
    assert all(r.manifest.counts.balances for r in result.steps)
    assert result.steps[0].manifest.counts.rows_in == 243
    assert result.steps[0].manifest.counts.dropped["source.files"] == {"invalid_json": 3}
    for name in STEPS:
        Dataset(f"{base}/run/{name}").verify()


def test_the_report_is_written(finished):
    base, _, result = finished
    text = (base / "run" / "report.html").read_text()
    assert result.report == str(base / "run" / "report.html")
    assert "exact_duplicate" in text
    assert "selection-2" in text


def test_a_second_run_skips_every_step(finished):
    base, recipe, _ = finished
    again = run(recipe, out=str(base / "run"), workers=0)
    assert [r.skipped for r in again.steps] == [True] * len(STEPS)


def test_a_changed_filter_says_what_changed_and_later_steps_wait(finished):
    base, recipe, _ = finished
    changed = Recipe.parse(recipe.to_yaml(), ["filters.gopher_quality.min_words=20"])
    checks = check(changed, out=str(base / "run"))
    assert not checks[0].skip
    assert "min_words: 50 -> 20" in checks[0].why
    assert [c.why for c in checks[1:3]] == ["after documents", "after deduplicated"]


def test_a_change_that_leaves_the_output_alone_stops_there(finished, tmp_path):
    base, recipe, _ = finished
    shutil.copytree(base / "run", tmp_path / "run")
    changed = Recipe.parse(recipe.to_yaml(), ["filters.gopher_quality.max_words=99999"])
    again = run(changed, out=str(tmp_path / "run"), workers=0)
    assert [r.step.name for r in again.steps if not r.skipped] == ["documents"]


def test_touching_an_input_without_changing_it_rebuilds_nothing(finished):
    base, recipe, _ = finished
    os.utime(base / "corpus" / "rivers.jsonl")
    assert all(c.skip for c in check(recipe, out=str(base / "run")))


def test_a_lost_part_is_found_and_its_step_is_built_again_with_the_same_digest(finished, tmp_path):
    base, recipe, _result = finished
    shutil.copytree(base / "run", tmp_path / "run")
    entry = Dataset(f"{tmp_path}/run/scored").table("documents").files[0]
    os.unlink(tmp_path / "run" / "scored" / entry.path)
    again = run(recipe, out=str(tmp_path / "run"), workers=0)
    assert [r.step.name for r in again.steps if not r.skipped] == ["scored"]
    assert digests(tmp_path / "run") == digests(base / "run")


@pytest.mark.parametrize(
    ("workers", "split_bytes", "last"),
    [(1, 4_000, ["dataset-1"]), (3, 20_000, ["dataset-1", "dataset-2"])],
    ids=["one worker", "three workers"],
)
def test_workers_and_split_sizes_change_no_digest_and_no_published_byte(
    finished, published_bytes, tmp_path, workers, split_bytes, last
):
    base, recipe, _ = finished
    made = run(recipe, out=str(tmp_path / "run"), workers=workers, split_bytes=split_bytes, only=last, report=False)
    names = [step.step.name for step in made.steps]
    assert digests(tmp_path / "run", names) == digests(base / "run", names)
    for name in last:
        one, two = (published_bytes(Folder(f"{root}/{name}")) for root in (tmp_path / "run", base / "run"))
        assert one == two


def test_another_recipe_is_refused_and_both_are_named(finished):
    base, recipe, _ = finished
    other = Recipe.parse(recipe.to_yaml(), ["name=other"])
    with pytest.raises(OtherRecipeError, match=r"holds a run of recipe 'small', got 'other'.*--out"):
        run(other, out=str(base / "run"))


def test_two_runs_into_one_folder_are_refused(finished):
    base, recipe, _ = finished
    with FolderLock(Folder(str(base / "run"))):
        with pytest.raises(FolderInUseError, match=f"process {os.getpid()}"):
            run(recipe, out=str(base / "run"))


def test_the_second_selection_reads_what_training_saw(finished):
    base, _, _ = finished
    seen = set(Dataset(f"{base}/run/model-1").read("signals")["doc_id"].to_pylist())
    selection = Dataset(f"{base}/run/selection-2").read("selection").to_pylist()
    assert seen
    for row in selection:
        assert (row["score.excess_loss"] is not None) == (row["doc_id"] in seen)
    first = Dataset(f"{base}/run/selection-1").read("selection")["copies"].to_pylist()
    assert [row["copies"] for row in selection] != first


def test_validation_and_test_rows_have_one_copy_and_stay_the_same_between_rounds(finished):
    base, _, _ = finished
    for split in ("validation", "test"):
        rows = [Dataset(f"{base}/run/dataset-{n}").read(split)["doc_id"].to_pylist() for n in (1, 2)]
        assert rows[0] == rows[1]
        assert rows[0]
        assert set(Dataset(f"{base}/run/dataset-1").read(split)["copies"].to_pylist()) == {1}


def test_no_text_stands_in_two_splits(finished):
    base, _, _ = finished
    rows = Dataset(f"{base}/run/scored").read("documents", ["text", "split"]).to_pylist()
    assert len({r["text"] for r in rows}) == len(rows)


def test_copies_times_tokens_are_packed_or_cut(finished):
    base, _, _ = finished
    selection = Dataset(f"{base}/run/selection-1").read("selection").to_pylist()
    stats = Dataset(f"{base}/run/sequences-1").manifest.stats["tokens"]
    for split, domains in stats.items():
        for domain, count in domains.items():
            expected = sum(
                r["copies"] * r["tokens"] for r in selection if r["split"] == split and r["domain"] == domain
            )
            assert count["in"] == expected == count["packed"] + count["cut"]


def test_ctrl_c_prints_one_line_and_the_next_run_resumes(corpus, tmp_path, recipe_text):
    (tmp_path / "recipe.yaml").write_text(recipe_text)
    code = (
        "import os, signal, sys, threading, time\n"
        "from penstock import step\n"
        "seen = []\n"
        "original = step.run_step\n"
        "def slow(s, *rest):\n"
        "    seen.append(s.name)\n"
        "    if s.name == 'scored':\n"
        "        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "        time.sleep(5)\n"
        "    return original(s, *rest)\n"
        "import penstock.run\n"
        "penstock.run.run_step = slow\n"
        f"sys.argv = ['penstock', 'run', '--plain', '--workers', '0', '--out', {str(tmp_path / 'run')!r}, "
        f"{str(tmp_path / 'recipe.yaml')!r}]\n"
        "from penstock.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 130
    assert done.stderr.strip().splitlines()[-1] == (
        "penstock: interrupted; what is done is kept, run the same command again to resume"
    )
    assert "Traceback" not in done.stderr
    checks = check(Recipe.parse(recipe_text), out=str(tmp_path / "run"))
    assert [c.step.name for c in checks if c.skip] == ["documents", "deduplicated", "tokenizer", "quality"]


def test_the_run_folder_says_whose_it_is_and_keeps_the_resolved_recipe(finished):
    base, recipe, _ = finished
    assert json.loads((base / "run" / "run.json").read_text()) == {"recipe": "small"}
    assert Recipe.load(base / "run" / "recipe.yaml") == recipe
