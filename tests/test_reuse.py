"""What a build takes over from an earlier one: only what is surely the same, and nothing that changes a row."""

import json
import shutil
from dataclasses import replace

import pytest

from penstock.dataset import Dataset
from penstock.errors import ConfigError
from penstock.pipelines.plan import sources_of
from penstock.recipe import Recipe
from penstock.reuse import Earlier, KeptPass, dump_passes, load_passes
from penstock.run import check, run
from penstock.step import Silent
from penstock.storage import Folder

SPLIT = 30_000  # some splits a file
TABLES = {
    "documents": ("documents", "dropped"),
    "deduplicated": ("documents", "dropped"),
    "scored": ("documents",),
    "dataset-1": ("train", "validation", "test"),
}


class Notes(Silent):
    def __init__(self):
        self.notes, self.warnings = [], []

    def note(self, message):
        self.notes.append(message)

    def warn(self, message):
        self.warnings.append(message)

    def taken(self, what):
        """(parts taken over, parts) of a pass, by the note that says so."""
        found = [n for n in self.notes if n.startswith(f"{what} took over ")]
        numbers = [int(w) for n in found for w in n.split() if w.isdigit()]
        return tuple(numbers)


@pytest.fixture
def nightly(recipe_text):
    """A recipe of a corpus that is published whole, one file a split."""
    return Recipe.parse(recipe_text, ["select=null", "train=null", "rounds=1"])


def build(recipe, out, **options):
    notes = Notes()
    result = run(
        recipe, out=str(out), workers=0, report=False, reporter=notes, split_bytes=SPLIT, only=["dataset-1"], **options
    )
    return result, notes


def rows(out):
    found = {}
    for step, tables in TABLES.items():
        dataset = Dataset(Folder(str(out)) / step)
        for table in tables:
            if table in dataset.manifest.tables:
                found[step, table] = sorted(map(repr, dataset.read(table).to_pylist()))
    return found


def digests(out):
    return {step: Dataset(Folder(str(out)) / step).digest for step in TABLES}


def change(corpus, how):
    if how == "added":
        text = (corpus / "rivers.jsonl").read_text().splitlines()
        again, more = json.loads(text[0]), json.loads(text[1])
        new = [again, more | {"text": more["text"] + " And something new."}, {"text": "short", "domain": "rivers"}]
        (corpus / "mountains.jsonl").write_text("".join(json.dumps(row) + "\n" for row in new))
    elif how == "changed":
        path = corpus / "machines.jsonl"
        path.write_text(path.read_text().replace("engine", "motor"))
    else:
        (corpus / "letters.jsonl").unlink()


@pytest.mark.parametrize("how", ["added", "changed", "removed"])
def test_a_build_since_another_has_the_rows_of_a_full_build(nightly, corpus, tmp_path, how):
    old, new, full = tmp_path / "old", tmp_path / "new", tmp_path / "full"
    build(nightly, old)
    before = rows(old)
    change(corpus, how)
    _, notes = build(nightly, new, since=str(old))
    # what was fitted is the older build's; a full build that goes on with it makes everything else anew
    full.mkdir()
    for step in ("tokenizer", "quality"):
        shutil.copytree(old / step, full / step)
    shutil.copy(old / "run.json", full)
    build(nightly, full, since=str(full))
    assert rows(new) == rows(full)
    assert digests(new) == digests(full)
    assert rows(new) != before
    assert notes.taken("documents: read")[0] >= 1
    assert rows(old) == before
    Dataset(Folder(str(new)) / "dataset-1").verify()
    Dataset(Folder(str(old)) / "dataset-1").verify()


def test_only_what_changed_is_made_again_in_the_same_folder(nightly, corpus, tmp_path):
    build(nightly, tmp_path / "run")
    splits = [s for source in sources_of(nightly) for s in source.plan(SPLIT)]
    same = sum(split.name != "machines.jsonl" for split in splits)
    assert 2 < same < len(splits)
    change(corpus, "changed")
    _, notes = build(nightly, tmp_path / "run", since=str(tmp_path / "run"))
    for what in ("documents: read", "deduplicated: keys", "deduplicated: apply", "scored: annotate"):
        assert notes.taken(what) == (same, len(splits)), what


def test_without_since_the_tokenizer_is_trained_again(nightly, corpus, tmp_path):
    build(nightly, tmp_path / "run")
    before = Dataset(Folder(str(tmp_path / "run")) / "tokenizer").manifest
    change(corpus, "changed")
    kept = {c.step.name: c for c in check(nightly, out=str(tmp_path / "run"), since=str(tmp_path / "run"))}
    assert kept["tokenizer"].skip
    assert kept["tokenizer"].why.startswith("kept as fitted in")
    build(nightly, tmp_path / "run")
    assert Dataset(Folder(str(tmp_path / "run")) / "tokenizer").manifest.key != before.key


def test_a_changed_setting_takes_nothing_over(nightly, tmp_path, recipe_text):
    build(nightly, tmp_path / "run")
    other = Recipe.parse(recipe_text, ["select=null", "train=null", "rounds=1", "filters.gopher_quality.min_words=12"])
    _, notes = build(other, tmp_path / "run")
    assert notes.taken("documents: read") == ()
    vocabulary = Recipe.parse(
        recipe_text,
        [
            "select=null",
            "train=null",
            "rounds=1",
            "filters.gopher_quality.min_words=12",
            "tokenizer.vocabulary_size=400",
        ],
    )
    _, notes = build(vocabulary, tmp_path / "run", since=str(tmp_path / "run"))
    assert notes.notes == []  # documents are up to date; the tokenizer was made otherwise, so nothing of `scored` holds


def test_a_lost_part_is_made_again_and_the_others_are_taken_over(nightly, tmp_path):
    build(nightly, tmp_path / "run")
    before = rows(tmp_path / "run")
    dataset = Dataset(Folder(str(tmp_path / "run")) / "documents")
    (tmp_path / "run" / "documents" / dataset.table("documents").files[0].path).unlink()
    _, notes = build(nightly, tmp_path / "run")
    taken, splits = notes.taken("documents: read")
    assert taken == splits - 1
    assert rows(tmp_path / "run") == before


@pytest.mark.parametrize("data", [b"", b"not zstd", dump_passes({}).replace(b"\x28\xb5", b"\x00\x00")])
def test_damaged_receipts_cost_time_and_nothing_else(nightly, corpus, tmp_path, data):
    build(nightly, tmp_path / "run")
    entry = Dataset(Folder(str(tmp_path / "run")) / "documents").manifest.passes
    (tmp_path / "run" / "documents" / entry.path).write_bytes(data)
    change(corpus, "added")
    result, notes = build(nightly, tmp_path / "run")
    assert notes.taken("documents: read") == ()
    assert "nothing is taken over from it, all is built again" in notes.warnings[0]
    assert result.steps[-1].manifest.counts.kept


def test_receipts_of_another_format_are_refused_by_its_number():
    import zstandard

    with pytest.raises(ValueError, match="format 99, this penstock reads 1"):
        load_passes(zstandard.compress(b'{"format": 99, "passes": {}}'))


def test_receipts_are_what_they_were_after_a_round_trip(nightly, tmp_path):
    build(nightly, tmp_path / "run")
    folder = Folder(str(tmp_path / "run")) / "deduplicated"
    passes = Earlier(folder, Dataset(folder).manifest, print).passes
    assert sorted(passes) == ["apply", "keys"]
    assert load_passes(dump_passes(passes)) == passes
    assert passes["keys"] != replace(passes["keys"], signature="other")
    assert isinstance(passes["keys"], KeptPass)


def test_since_a_folder_that_is_no_run_is_refused(nightly, tmp_path):
    with pytest.raises(ConfigError, match=r"since: got .*nowhere, where no run is \(no run.json\)"):
        build(nightly, tmp_path / "run", since=str(tmp_path / "nowhere"))


def test_everything_is_published_once_without_a_selection(nightly, tmp_path):
    result, _ = build(nightly, tmp_path / "run")
    scored, dataset = (Dataset(Folder(str(tmp_path / "run")) / name) for name in ("scored", "dataset-1"))
    published = [row for split in dataset.manifest.tables for row in dataset.read(split).to_pylist()]
    assert sorted(r["doc_id"] for r in published) == sorted(scored.read("documents", ["doc_id"])["doc_id"].to_pylist())
    assert {row["copies"] for row in published} == {1}
    assert result.steps[-1].manifest.counts.dropped_total == 0
