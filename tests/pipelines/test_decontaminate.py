"""Benchmarks indexed from files, and a corpus screened against them, as steps."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.dataset import Dataset, read_part
from penstock.errors import ConfigError, DatasetError, InputError
from penstock.pipelines import decontaminate
from penstock.pipelines.decontaminate import BenchmarkFiles, Benchmarks, Decontaminated
from penstock.pipelines.plan import plan
from penstock.recipe import Recipe
from penstock.selectors.benchmark_index import IndexSettings
from penstock.selectors.decontaminate import Decontaminate
from penstock.selectors.repeated import RepeatedParagraphs
from penstock.sources.base import documents_batch, fingerprint
from penstock.sources.files import FileEntry

LONG = [" ".join(f"{letter}{i}" for i in range(20)) for letter in "qrstuvwxyz"]
FILLER = " ".join(["filler"] * 60)


@pytest.fixture
def bench(tmp_path):
    """``bench(records, name=, answer=)`` writes a benchmark; a plain string is a line as it is."""

    def write(records, name="bench", answer="answer"):
        lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
        (tmp_path / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))
        return BenchmarkFiles(name=name, entries=(FileEntry(path=str(tmp_path / f"{name}.jsonl")),), answer=answer)

    return write


@pytest.fixture
def tiny(monkeypatch):
    """Parts come in batches of two rows."""
    monkeypatch.setattr(decontaminate, "read_part", functools.partial(read_part, rows=2))


def document_files(lab):
    return Dataset(str(lab.root / "decontaminated")).manifest.tables["documents"].files


def index(lab, *benchmarks, **settings):
    return lab.run(Benchmarks("benchmarks", benchmarks, IndexSettings(**settings)))


def corpus(lab, *texts, cut=None):
    batch = documents_batch([f"c#{i}" for i in range(len(texts))], texts, source="files", domains=["web"] * len(texts))
    return lab.given("corpus", documents=cut(batch, [2]) if cut else [batch])


def screened(lab, **options):
    work = Decontaminate(path="", digest="", index=options.pop("index", IndexSettings()), **options)
    return lab.run(Decontaminated("decontaminated", "corpus", "benchmarks", work))


# ── benchmarks ───────────────────────────────────────────────────────────────────────────────────


def test_questions_and_answers_are_joined_by_record_and_every_odd_one_is_counted(lab, bench):
    made = index(
        lab,
        bench(
            [
                {"question": LONG[0], "answer": LONG[1]},
                {"question": "", "answer": LONG[2]},
                {"question": None},
                {"question": LONG[3]},
                {"question": LONG[4], "answer": ""},
                {"answer": "no question at all"},
                "{not json",
                {"question": 7, "answer": "x"},
            ]
        ),
    )
    assert [(r["item"], r["question"], r["answer"]) for r in made.read("items").to_pylist()] == [
        ("bench.jsonl#0", LONG[0], LONG[1]),
        ("bench.jsonl#3", LONG[3], None),
        ("bench.jsonl#4", LONG[4], None),
        ("bench.jsonl#1", None, LONG[2]),
        ("bench.jsonl#2", None, None),
        ("bench.jsonl#5", None, "no question at all"),
    ]
    counts = made.manifest.counts
    assert (counts.rows_in, counts.kept) == (8, 6)
    assert counts.dropped == {"benchmark.bench": {"invalid_json": 1, "not_text": 1}}
    listed = pq.read_table(made.artifact("not_checkable.parquet")).to_pylist()
    assert [(r["item"], r["field"], r["reason"]) for r in listed] == [
        ("bench.jsonl#1", "question", "empty"),
        ("bench.jsonl#2", "question", "empty"),
        ("bench.jsonl#5", "question", "empty"),
        ("bench.jsonl#5", "answer", "short_answer"),
        ("bench.jsonl#5", "question+answer", "too_short"),
    ]
    assert made.manifest.stats["benchmarks"] == {
        "bench": {
            "items": 6,
            "checkable": 4,
            "not_checkable_fields": {"empty": 3, "short_answer": 1, "too_short": 1},
        }
    }


def test_a_benchmark_may_come_in_several_files_of_several_formats(lab, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "one.csv").write_text(f"id,prompt\n1,{LONG[0]}\n2,{LONG[1]}\n")
    pq.write_table(pa.table({"prompt": [LONG[2]], "id": [3]}), tmp_path / "b" / "two.parquet")
    files = BenchmarkFiles(name="mixed", entries=(FileEntry(path=str(tmp_path / "b" / "*")),), question="prompt")
    made = index(lab, files)
    assert made.read("items")["item"].to_pylist() == ["one.csv#0", "one.csv#1", "two.parquet#0"]


def test_the_index_is_built_again_when_a_benchmark_file_changes_and_not_otherwise(lab, bench):
    def key(*records):
        step = Benchmarks("benchmarks", (bench(records, answer=None),), IndexSettings())
        return lab.run(step, fingerprint=fingerprint).manifest.key

    first = key({"question": LONG[0]})
    assert key({"question": LONG[0]}) == first
    assert key({"question": LONG[1]}) != first


def test_a_column_that_is_not_there_is_named(lab, bench):
    with pytest.raises(InputError, match="no column answer; found question"):
        index(lab, bench([{"question": LONG[0]}]))


def test_files_without_a_record_are_an_error_in_words(lab, bench):
    with pytest.raises(ConfigError, match="got no record from bench"):
        index(lab, bench([], answer=None))


@pytest.mark.parametrize(
    ("benchmark", "message"),
    [
        ({"entries": ()}, "files of benchmark b: got none"),
        ({"entries": (FileEntry(path="x", columns={"text": "q"}),)}, "got columns, allowed none here"),
        ({"answer": "question"}, "got 'question' as question and as answer"),
        ({"name": "a#b"}, "without '#'"),
    ],
)
def test_descriptions_that_cannot_work_are_refused_in_words(benchmark, message):
    with pytest.raises(ConfigError, match=message):
        BenchmarkFiles(**({"name": "b", "entries": (FileEntry(path="x"),)} | benchmark))


def test_benchmarks_have_different_names_and_there_is_at_least_one():
    one = BenchmarkFiles(name="b", entries=(FileEntry(path="x"),))
    with pytest.raises(ConfigError, match="got b twice"):
        Benchmarks("benchmarks", (one, one), IndexSettings())
    with pytest.raises(ConfigError, match="got none"):
        Benchmarks("benchmarks", (), IndexSettings())


# ── decontaminated ───────────────────────────────────────────────────────────────────────────────


def test_dropped_documents_are_accounted_for_and_the_benchmark_is_told(lab, bench, cut, tiny):
    index(
        lab,
        bench([{"question": LONG[0]}, {"question": LONG[1]}], "one", None),
        bench([{"question": LONG[2]}], "two", None),
    )
    corpus(lab, "clean", f"x {LONG[0]}", f"{LONG[2]} y", LONG[0], "also clean", cut=cut)
    made = screened(lab)
    assert made.read("documents")["doc_id"].to_pylist() == ["c#0", "c#4"]
    assert made.manifest.counts.dropped == {"decontaminate": {"contaminated:one": 2, "contaminated:two": 1}}
    assert made.read("contamination").select(["doc_id", "benchmark", "item", "coverage"]).to_pylist() == [
        {"doc_id": "c#1", "benchmark": "one", "item": "one.jsonl#0", "coverage": 1.0},
        {"doc_id": "c#2", "benchmark": "two", "item": "two.jsonl#0", "coverage": 1.0},
        {"doc_id": "c#3", "benchmark": "one", "item": "one.jsonl#0", "coverage": 1.0},
    ]
    stats = made.manifest.stats["contamination"]
    assert {
        name: [of[k] for k in ("items", "checkable", "found", "documents", "dropped")] for name, of in stats.items()
    } == {
        "one": [2, 2, 1, 2, 2],
        "two": [1, 1, 1, 1, 1],
    }
    assert stats["one"]["samples"] == [
        {
            "item": "one.jsonl#0",
            "doc_id": "c#1",
            "field": "question",
            "kind": "ngram",
            "coverage": 1.0,
            "text": LONG[0],
        }
    ]


def test_samples_are_five_the_best_first_and_masked_whatever_is_kept(lab, bench):
    secret = "mail ann@example.org now " + LONG[0]
    items = [secret, *LONG[1:8]]
    index(lab, bench([{"question": text} for text in items], answer=None))
    corpus(lab, *(text if i != 3 else text.rpartition(" ")[0] for i, text in enumerate(items)))
    made = lab.run(
        Decontaminated("decontaminated", "corpus", "benchmarks", Decontaminate(path="", digest="")), dropped="full"
    )
    of = made.manifest.stats["contamination"]["bench"]
    assert (of["found"], of["coverage"]) == (8, round((7 + 7 / 8) / 8, 4))
    assert [s["doc_id"] for s in of["samples"]] == ["c#0", "c#1", "c#2", "c#4", "c#5"]
    assert of["samples"][0]["text"].startswith("mail <EMAIL> now")
    assert made.read("contamination")["text"][0].as_py() == secret


def test_excised_documents_stay_with_new_hashes_and_what_went_is_written(lab, bench):
    index(lab, bench([{"question": LONG[0]}], answer=None))
    before = corpus(lab, f"{FILLER} {LONG[0]} {FILLER}", "clean").read("documents").to_pylist()
    made = screened(lab, policy="excise", window=0)
    after = made.read("documents").to_pylist()
    assert after[0]["text"] == f"{FILLER}\n\n{FILLER}"
    assert after[0]["content_hash"] != before[0]["content_hash"]
    assert after[1] == before[1]
    assert {k: after[0][k] for k in ("doc_id", "id_hash", "domain")} == {
        k: before[0][k] for k in ("doc_id", "id_hash", "domain")
    }
    assert made.manifest.counts.dropped_total == 0
    assert made.manifest.stats["excised"] == {"documents": 1, "spans": 1, "bytes": len(LONG[0]) + 2}
    assert made.read("removed").select(["doc_id", "benchmark", "start"]).to_pylist() == [
        {"doc_id": "c#0", "benchmark": "bench", "start": len(FILLER)}
    ]


def test_a_clean_corpus_passes_as_it_is(lab, bench):
    index(lab, bench([{"question": LONG[0]}], answer=None))
    before = corpus(lab, "one", "two")
    made = screened(lab)
    assert made.read("documents").equals(before.read("documents"))
    assert list(made.manifest.tables) == ["documents"]
    assert made.manifest.stats["contamination"]["bench"] == {
        "items": 1,
        "checkable": 1,
        "found": 0,
        "coverage": 0.0,
        "documents": 0,
        "dropped": 0,
        "samples": [],
    }


def test_the_outcome_does_not_depend_on_how_the_corpus_is_cut(lab, new_lab, bench, cut, tiny):
    texts = [f"{FILLER} {LONG[i % 3]} {FILLER}" if i % 4 == 1 else f"clean {i}" for i in range(11)]
    digests = set()
    for where, cutting in ((lab, None), (new_lab(), cut)):
        index(where, bench([{"question": LONG[0]}, {"question": LONG[1]}], answer=None))
        corpus(where, *texts, cut=cutting)
        made = screened(where, policy="excise")
        digests.add((made.manifest.tables["documents"].digest, made.manifest.tables["contamination"].digest))
    assert len(digests) == 1


def test_an_index_of_other_settings_is_not_searched(lab, bench):
    index(lab, bench([{"question": LONG[0]}], answer=None), ngram=8)
    corpus(lab, "text")
    with pytest.raises(DatasetError, match="made with ngram 8, not 13; build it again"):
        screened(lab)


def test_parts_that_did_not_change_are_taken_over(lab, bench, cut):
    index(lab, bench([{"question": LONG[0]}], answer=None))
    corpus(lab, "clean", f"x {LONG[0]}", "last", cut=cut)
    screened(lab)
    files = {Path(f.path).name for f in document_files(lab)}
    corpus(lab, "clean", f"x {LONG[0]}", "another last", cut=cut)
    screened(lab)
    assert len(files & {Path(f.path).name for f in document_files(lab)}) == 1


def test_every_part_is_screened_again_when_a_benchmark_changes(lab, bench):
    corpus(lab, LONG[0], LONG[1])
    for item, left in ((LONG[0], "c#1"), (LONG[1], "c#0")):
        index(lab, bench([{"question": item}], answer=None))
        assert screened(lab).read("documents")["doc_id"].to_pylist() == [left]


# ── the recipe ───────────────────────────────────────────────────────────────────────────────────

RECIPE = """
name: clean
source: {files: corpus.jsonl}
quality: null
select: null
"""


def chain(more):
    """(name, parents) of the steps up to the scores."""
    steps = plan(Recipe.parse(RECIPE + more))
    return {step.name: step.parents for step in steps[: [step.name for step in steps].index("scored") + 1]}


def test_a_recipe_without_benchmarks_and_levels_has_neither_step():
    assert chain("")["tokenizer"] == ("deduplicated",)


def test_repeats_are_cut_before_benchmarks_are_looked_for_and_all_else_reads_the_outcome():
    steps = chain(
        "deduplicate: {lines: {}, substrings: {min_words: 60}}\n"
        "decontaminate: {benchmarks: [{name: gsm8k, files: g.jsonl, answer: solution}], ngram: 8, policy: excise}"
    )
    assert steps["trimmed"] == ("deduplicated",)
    assert steps["benchmarks"] == ()
    assert steps["decontaminated"] == ("trimmed", "benchmarks")
    assert steps["tokenizer"] == ("decontaminated",)
    assert steps["scored"] == ("decontaminated", "tokenizer")


def test_settings_of_the_recipe_reach_the_steps():
    more = (
        "deduplicate: {paragraphs: {keep: rare, max_count: 7}, min_characters: 33}\n"
        "decontaminate: {benchmarks: [{name: b, files: [x.jsonl], question: prompt}], ngram: 9, min_words: 6,"
        " near: 0.9, common_benchmarks: 4, max_matches: 5, boilerplate: [a b c], policy: excise,"
        " min_coverage: 0.25, window: 10, min_piece: 20, max_cuts: 3}"
    )
    steps = {step.name: step for step in plan(Recipe.parse(RECIPE + more))}
    index = IndexSettings(ngram=9, min_words=6, common_benchmarks=4, max_matches=5, boilerplate=("a b c",))
    assert steps["benchmarks"].settings == index
    assert [(b.name, b.question, b.answer, b.entries[0].path) for b in steps["benchmarks"].benchmarks] == [
        ("b", "prompt", None, "x.jsonl")
    ]
    assert steps["decontaminated"].work == Decontaminate(
        path="",
        digest="",
        index=index,
        policy="excise",
        near=0.9,
        min_coverage=0.25,
        window=10,
        min_piece=20,
        max_cuts=3,
    )
    assert steps["trimmed"].levels == (RepeatedParagraphs(keep="rare", max_count=7),)
    assert steps["trimmed"].min_characters == 33


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("decontaminate: {benchmarks: []}", "decontaminate.benchmarks"),
        ("decontaminate: {benchmarks: [{name: b, files: x, anwser: y}]}", "did you mean answer"),
        ("decontaminate: {benchmarks: [{name: b, files: x}], policy: keep}", "decontaminate.policy"),
        ("deduplicate: {lines: {keep: last}}", "keep: got 'last', allowed first, rare"),
        ("deduplicate: {substrings: {min_words: 20}}", r"window: got 16, allowed 1 to half of min_words \(10\)"),
    ],
)
def test_mistakes_in_a_recipe_are_named(more, message):
    with pytest.raises(ConfigError, match=message):
        Recipe.parse(RECIPE + more)
