"""Filters as a recipe wires them: their order, exemptions, files in the key, and the guard."""

import gzip
import json

import pyarrow.parquet as pq
import pytest

from penstock.errors import ConfigError, DropGuardError, InputError
from penstock.pipelines.home import HomeEngine
from penstock.pipelines.plan import row_work
from penstock.recipe import Recipe
from penstock.run import check, run

SENTENCE = "the river of that valley has to be crossed with a boat and the boat is at the mill"
WORDS = SENTENCE.split()


def write_page(folder, texts, name="pages.jsonl", **columns):
    folder.mkdir(exist_ok=True)
    rows = [{"text": text} | {key: values[k] for key, values in columns.items()} for k, text in enumerate(texts)]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def recipe(tmp_path, filters, *overrides):
    text = json.dumps(
        {
            "name": "filters",
            "source": {"files": [{"path": str(tmp_path / "in" / "*.jsonl")}]},
            "filters": {"gopher_quality": None, "gopher_repetition": None} | filters,
            "select": None,
        }
    )
    return Recipe.parse(text, overrides)


def build(tmp_path, wanted, engine=None):
    options = {"engine": engine or HomeEngine(0), "only": ["documents"], "report": False, "split_bytes": 9000}
    return run(wanted, out=str(tmp_path / "run"), **options).steps[0].manifest


def table(tmp_path, manifest, name):
    paths = [tmp_path / "run" / "documents" / file.path for file in manifest.tables[name].files]
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


EVERY = {
    "urls": {"domains": ["d.txt"]},
    "licenses": {"allow": ["MIT"]},
    "gopher_quality": {},
    "gopher_repetition": {},
    "language": {"languages": ["en"], "thresholds": {"en": 0.5}},
    "refinedweb": {},
    "c4": {},
    "fineweb": {},
    "words": {"lists": ["w.txt"]},
    "pii": {"email": "drop"},
}


def test_filters_run_in_the_documented_order_and_prose_rules_can_be_exempt(tmp_path):
    plain = row_work(recipe(tmp_path, EVERY))
    assert [work.name for work in plain] == [
        "normalise",
        "not_empty",
        "urls",
        "licenses",
        "gopher_quality",
        "gopher_repetition",
        "language_id",
        "language",
        "refinedweb",
        "refinedweb_lines",
        "c4_lines",
        "c4",
        "fineweb",
        "words",
        "pii_mask",
        "pii",
    ]
    scoped = row_work(recipe(tmp_path, EVERY | {"exempt": ["code"]}))
    assert [work.name for work in scoped] == [work.name for work in plain]
    assert {work.name for work in scoped if hasattr(work, "domains") and hasattr(work, "inner")} == {
        "gopher_quality",
        "gopher_repetition",
        "language",
        "refinedweb",
        "refinedweb_lines",
        "c4_lines",
        "c4",
        "fineweb",
        "words",
    }
    assert [work.name for work in row_work(recipe(tmp_path, {}))] == ["normalise", "not_empty", "language_id"]


def test_a_recipe_refuses_settings_that_a_filter_refuses(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown key filters.c4.min_sentence; did you mean min_sentences\?"):
        recipe(tmp_path, {"c4": {"min_sentence": 3}})
    with pytest.raises(ConfigError, match=r"filters\.pii\.email"):
        recipe(tmp_path, {"pii": {"email": "hide"}})
    with pytest.raises(ConfigError, match="thresholds: got 'de'"):
        recipe(tmp_path, {"language": {"languages": ["en"], "thresholds": {"de": 0.5}}})


def test_edits_and_masks_are_in_the_rows_and_their_counts_in_the_statistics(tmp_path):
    line = " ".join(WORDS) + "."
    texts = [f"{line}\n{line}\nno end here\nWrite to ann@example.org or Bob.\n" + f"{line} {line}\n" * 2]
    write_page(tmp_path / "in", texts)
    wanted = recipe(tmp_path, {"c4": {}, "pii": {}})
    manifest = build(tmp_path, wanted)
    (row,) = table(tmp_path, manifest, "documents")
    assert row["text"] == "\n".join([line, line, "Write to <EMAIL> or Bob.", f"{line} {line}", f"{line} {line}"])
    assert row["pii"] == ["email"]
    assert manifest.stats["edits"] == {"c4_lines": {"kept": 5, "no_terminal_punc": 1}, "pii_mask": {"email": 1}}


def test_a_list_belongs_to_the_key_by_its_content(tmp_path):
    write_page(tmp_path / "in", ["one boat", "two boats", "three mills"])
    path = tmp_path / "words.txt.gz"
    path.write_bytes(gzip.compress(b"boat\n", mtime=0))
    wanted = recipe(tmp_path, {"words": {"lists": [str(path)]}})
    first = build(tmp_path, wanted)
    assert [row["text"] for row in table(tmp_path, first, "documents")] == ["two boats", "three mills"]
    assert f"filters.words:{path}" in first.key_parts["inputs"]

    out = str(tmp_path / "run")
    path.write_bytes(gzip.compress(b"boat\n", mtime=0))  # as it was, at another time
    assert check(wanted, out=out, split_bytes=9000)[0].skip
    path.write_bytes(gzip.compress(b"boats\n", mtime=0))
    assert not check(wanted, out=out, split_bytes=9000)[0].skip
    again = build(tmp_path, wanted)
    # the rows of the first build are not taken over, though the source did not change
    assert [row["text"] for row in table(tmp_path, again, "documents")] == ["one boat", "three mills"]

    path.unlink()
    with pytest.raises(InputError, match=r"words\.txt\.gz: matches no file"):
        check(wanted, out=out, split_bytes=9000)


class Counting(HomeEngine):
    """An engine that counts the splits it was given."""

    made = 0

    def map(self, job, splits, done):
        self.made += len(splits)
        super().map(job, splits, done)


def test_the_guard_stops_before_the_commit_and_a_rerun_goes_on_from_the_work_done(tmp_path):
    texts = [" ".join(WORDS[k % 7 :]) for k in range(200)]
    for name in ("a.jsonl", "b.jsonl"):
        write_page(tmp_path / "in", texts, name)
    engine = Counting(0)
    filters = {"gopher_quality": {"min_words": 1000}}
    with pytest.raises(DropGuardError) as error:
        build(tmp_path, recipe(tmp_path, filters), engine)
    message = str(error.value)
    assert "documents: gopher_quality dropped 100.0% of 400 rows (gopher_short_doc 400), allowed 95.0%" in message
    assert "--set max_dropped.gopher_quality=1" in message
    made = engine.made
    assert made > 1
    assert not (tmp_path / "run" / "documents" / "manifest.json").exists()

    allowed = recipe(tmp_path, filters, "max_dropped.gopher_quality=1")
    assert allowed.max_dropped == {"default": 0.95, "gopher_quality": 1.0}
    assert check(allowed, out=str(tmp_path / "run"), split_bytes=9000)[0].why == "resumes an unfinished build"
    manifest = build(tmp_path, allowed, engine)
    assert engine.made == made  # nothing was read again
    assert manifest.counts.dropped == {"gopher_quality": {"gopher_short_doc": 400}}
    # the share is no part of the key
    assert check(recipe(tmp_path, filters), out=str(tmp_path / "run"), split_bytes=9000)[0].skip


def test_bad_records_of_a_source_trip_the_guard_as_well(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.jsonl").write_text("{not json\n" * 150)
    with pytest.raises(DropGuardError, match=r"documents: files dropped 100.0% of 150 rows .*max_dropped.files=1"):
        build(tmp_path, recipe(tmp_path, {}))
    assert build(tmp_path, recipe(tmp_path, {}, "max_dropped.files=1")).counts.kept == 0


def test_shares_are_shares(tmp_path):
    with pytest.raises(ConfigError, match=r"max_dropped\.default"):
        recipe(tmp_path, {}, "max_dropped.default=95")
    assert recipe(tmp_path, {}).max_dropped == {"default": 0.95}
    assert recipe(tmp_path, {}, "max_dropped.default=0.5").max_dropped == {"default": 0.5}
