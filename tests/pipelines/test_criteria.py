"""Criteria as steps: the perplexity model, a classifier trained before, and documents with every score."""

import json
import sys
from collections import Counter
from functools import reduce

import numpy as np
import pyarrow as pa
import pytest

from penstock.cli import main
from penstock.dataset import Dataset
from penstock.errors import ConfigError, DatasetError, InputError
from penstock.pipelines.criteria import PerplexityStep, TrainedQuality, train_quality, trained
from penstock.pipelines.documents import Scored
from penstock.pipelines.fit import Tokenizer, merge_all
from penstock.pipelines.plan import directions_of, parameters_of, plan
from penstock.recipe import Recipe
from penstock.run import run
from penstock.seeding import stream
from penstock.selectors.artifact import load
from penstock.selectors.normalise import Normalise
from penstock.selectors.scorers.config import Ready
from penstock.selectors.scorers.heuristic import HeuristicScore
from penstock.selectors.scorers.perplexity import PerplexityModel
from penstock.selectors.splits import AssignSplit
from penstock.sources.files import FileEntry, FileSource
from penstock.tokenization.bpe import BPEConfig

ALL = 1 << 30
GOOD = "the water of the river turns the wheel of mill number {} and the miller sings of it"
POOR = "buy now cheap deal {} click here free free free order today limited offer {}"


def corpus(count=120):
    rng = stream(0, "corpus")
    rows = []
    for i in range(count):
        template, domain = ((GOOD, "books"), (POOR, "ads"), (POOR, "spam"))[i % 3]
        rows.append((template.format(i, i) * int(rng.integers(1, 4)), domain))
    return rows


def prepared(lab, split_bytes=ALL):
    lab.documents(lab.files(one=corpus()), split_bytes=split_bytes)
    return lab.deduplicated(validation=0.2, test=0.1, split_bytes=split_bytes)


def step(domains=("books",), sources=(), **model):
    return PerplexityStep(
        "perplexity", "deduplicated", reference=(domains, sources), works=(Normalise(),),
        assign=AssignSplit(seed=1, validation=0.2, test=0.1), model=PerplexityModel(**model),
    )  # fmt: skip


def model_of(made):
    model = made.manifest.stats["model"]
    return load(made.folder.join(model["path"]), model["digest"])


def with_tokenizer(lab):
    prepared(lab)
    lab.run(Tokenizer("tokenizer", "deduplicated", BPEConfig(vocabulary_size=290), 2500, 11))


# ── the perplexity model ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("split_bytes", [ALL, 400])
def test_the_model_counts_the_training_rows_of_the_reference_domains_however_they_are_split(
    lab, tiny_batches, split_bytes
):
    table = prepared(lab, split_bytes).read("documents")
    made = lab.run(step())
    chosen = table.filter(pa.array([d == "books" for d in table["domain"].to_pylist()])).combine_chunks()
    assert 0 < chosen["split"].to_pylist().count("train") < len(chosen)
    model = PerplexityModel()
    wanted = model.fit(model.summarise(chosen.to_batches()[0]), str(lab.base / "alone"))
    assert made.manifest.stats["model"]["digest"] == wanted.digest
    train = [t for t, s in zip(chosen["text"].to_pylist(), chosen["split"].to_pylist(), strict=True) if s == "train"]
    assert made.manifest.stats["facts"]["symbols"] == sum(len(t.encode()) for t in train)


def test_a_reference_of_files_is_cleaned_and_counted_beside_the_corpus(lab):
    prepared(lab)
    text = "caf\u0065\u0301 by the river\n" * 60
    (lab.base / "extra.txt").write_text(text)
    source = FileSource(name="reference-files", entries=(FileEntry(path=str(lab.base / "extra.txt")),))
    # what the split would hold out of the corpus is held out here too, so no share is held out for this
    work = PerplexityStep(
        "perplexity", "deduplicated", reference=((), (source,)), works=(Normalise(),),
        assign=AssignSplit(seed=1, validation=0.0, test=0.0), model=PerplexityModel(),
    )  # fmt: skip
    symbols = lab.run(work).manifest.stats["facts"]["symbols"]
    assert symbols == len("caf\u00e9 by the river\n".encode() * 60) < len(text.encode())  # one character now


def test_a_reference_that_is_not_there_says_what_to_do(lab):
    prepared(lab)
    with pytest.raises(ConfigError, match=r"perplexity reference: got 0 bytes .*name domains or files that hold more"):
        lab.run(step(domains=("nowhere",)))


def test_a_change_of_the_reference_or_the_model_changes_the_key():
    keys = {json.dumps(s.config()) for s in (step(), step(("ads",)), step(order=3), step(unit="word"))}
    assert len(keys) == 4


# ── documents with scores ────────────────────────────────────────────────────────────────────────


class Failing:
    """Settings of a scorer that fails for some texts and counts them."""

    directions = {"score.x": "higher"}
    libraries = ()

    def said(self):
        return {"name": "failing"}

    def files(self):
        return []

    def scorer(self):
        return FailingScore()


class FailingScore:
    name, revision, reads, adds = "failing", 1, ("text",), ("score.x",)

    def annotate(self, batch):
        return self.edit(batch)[0]

    def edit(self, batch):
        good = ["water" in text for text in batch["text"].to_pylist()]
        values = pa.array([1.0 if well else None for well in good], pa.float32())
        return {"score.x": values}, {"status 400": good.count(False)} if not all(good) else {}


def test_every_scorer_adds_its_column_and_failures_are_counted_and_said(lab, tiny_batches):
    with_tokenizer(lab)
    lab.run(step())
    heuristic = Ready(of=HeuristicScore(), libraries=("zstandard",))
    made = lab.run(
        Scored("scored", "deduplicated", "tokenizer", perplexity="perplexity", scorers=(heuristic, Failing()))
    )
    table = made.read("documents")
    assert {"score.perplexity", "score.heuristic", "score.x", "tokens"} <= set(table.column_names)
    good = np.array(table["domain"].to_pylist()) == "books"
    perplexity = table["score.perplexity"].to_numpy()
    assert perplexity[good].max() < perplexity[~good].min()
    assert made.manifest.stats["no_score"] == {"score.x": int((~good).sum())}
    assert made.manifest.stats["failed"] == {"failing": {"status 400": int((~good).sum())}}
    assert lab.warnings == [f"scored: {(~good).sum()} texts have no score of failing (status 400: {(~good).sum()})"]


def test_a_recipe_without_scores_has_the_key_it_always_had():
    plain = Scored("scored", "deduplicated", "tokenizer", "quality")
    assert set(plain.config()) == {"works"}
    assert plain.parents == ("deduplicated", "tokenizer", "quality")
    assert Scored("scored", "d", "t", perplexity="perplexity").parents == ("d", "t", "perplexity")


# ── a classifier that is trained from files ──────────────────────────────────────────────────────


def sides(folder, count=60):
    for name, template in (("good", GOOD), ("poor", POOR)):
        lines = [json.dumps({"text": template.format(i, i), "body": f"{name} {i}"}) for i in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return [str(folder / "good.jsonl")], [str(folder / "poor.jsonl")]


def test_a_classifier_is_trained_and_measured_on_files_and_found_again(tmp_path):
    score = train_quality(*sides(tmp_path), str(tmp_path / "out"))
    facts = score.facts()
    assert facts["rows"] == {side: {"train": 48, "held_out": 12} for side in ("positive", "negative")}
    assert facts["held_out"] == {"auc": 1.0, "accuracy": 1.0}
    assert trained(str(tmp_path / "out")) == score
    batch = pa.RecordBatch.from_pydict({"text": [GOOD.format(500, 1), POOR.format(500, 1)]})
    high, low = score.annotate(batch)["score.quality"].to_pylist()
    assert high > 0.8 > 0.2 > low
    again = train_quality(*sides(tmp_path), str(tmp_path / "again"))
    assert again.digest == score.digest


def test_a_text_is_taken_once_and_one_of_both_sides_is_positive(tmp_path):
    positive, negative = sides(tmp_path)
    facts = train_quality(positive * 2, negative + positive, str(tmp_path / "out")).facts()
    assert {side: sum(rows.values()) for side, rows in facts["rows"].items()} == {"positive": 60, "negative": 60}


def test_too_few_documents_and_missing_files_are_named(tmp_path):
    positive, negative = sides(tmp_path, 19)
    with pytest.raises(ConfigError, match="--positive: got 19 different documents, allowed >= 20"):
        train_quality(positive, negative, str(tmp_path / "out"))
    with pytest.raises(InputError, match=r"nowhere.jsonl"):
        train_quality([str(tmp_path / "nowhere.jsonl")], negative, str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"quality.model: got .*out, where no quality.json .*penstock quality train"):
        trained(str(tmp_path / "out"))


def test_a_recipe_takes_a_trained_classifier_as_its_own_step_would_make_it(lab, tmp_path):
    with_tokenizer(lab)
    score = train_quality(*sides(tmp_path), str(tmp_path / "out"))
    made = lab.run(TrainedQuality("quality", str(tmp_path / "out")), fingerprint=lambda file: str(file.size))
    assert made.manifest.stats["model"]["digest"] == score.digest
    assert str(tmp_path) not in json.dumps(made.manifest.key_parts)
    (tmp_path / "out").rename(tmp_path / "moved")  # the run holds a copy of its own
    table = lab.run(Scored("scored", "deduplicated", "tokenizer", "quality")).read("documents")
    good = np.array(table["domain"].to_pylist()) == "books"
    quality = table["score.quality"].to_numpy()
    assert quality[good].min() > quality[~good].max()


# ── recipes ──────────────────────────────────────────────────────────────────────────────────────

SMALL = "name: small\nsource: {files: [a.jsonl]}\n"


def test_a_recipe_with_scores_has_their_steps():
    text = (
        SMALL
        + "scores: {heuristic: {}, perplexity: {reference: {domains: [a]}}}\nselect: {criteria: {heuristic: {}}}\n"
    )
    steps = {s.name: s.parents for s in plan(Recipe.parse(text))}
    assert steps["perplexity"] == ("deduplicated",)
    assert steps["scored"] == ("deduplicated", "tokenizer", "perplexity")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("select: {criteria: {heuristics: {}}}", "got heuristics, allowed heuristic, language; did you mean heuristic"),
        ("select: {criteria: {perplexity: {}}}", "got perplexity, allowed heuristic, language; add the section of sco"),
        ("quality: {}", "got neither positive nor model, allowed one"),
        ("quality: {model: q, positive: {domains: [a]}}", "got both positive and model"),
        ("quality: {model: /nowhere}", None),
        ("scores: {heuristic: {stop_wrods: []}}", "unknown key scores.heuristic.stop_wrods; did you mean stop_words"),
        ("scores: {perplexity: {reference: {}}}", "got an empty set, allowed domains, files or environment"),
        ("scores: {perplexity: {reference: {domains: [a]}, order: 9}}", "perplexity order: got 9"),
        ("scores: {askllm: {model: {}}}", "got neither path nor url"),
        ("scores: {classifier: {quality: {path: a}}}", "another scorer makes a criterion of this name"),
        ("scores: {classifier: {lm_x: {path: a}}}", "another scorer makes"),
        ("scores: {classifier: {Edu: {path: a}}}", "scores.classifier"),
        ("scores: {lm: {model: a, max_tokens: 1}}", "max_tokens: got 1"),
    ],
)
def test_recipes_that_do_not_fit_say_what_is_allowed(text, message):
    base = SMALL + ("" if text.startswith("scores") else "scores: {heuristic: {}}\n")
    select = "" if "select" in text else "\nselect: {criteria: {language: {}}}\n"

    def parsed():
        return plan(Recipe.parse(base + text + select))

    if message is None:
        parsed()  # a folder is looked at when the step is checked
        return
    with pytest.raises(ConfigError, match=message):
        parsed()


def test_a_score_without_a_good_end_needs_a_direction():
    text = SMALL + "scores: {lm: {model: /models/a}}\nselect: {criteria: {lm_zlib: {%s}}}\n"
    recipe = Recipe.parse(text % "")
    with pytest.raises(ConfigError, match=r"select.criteria.lm_zlib.direction: got none .*allowed higher or lower"):
        parameters_of(recipe.select, directions_of(recipe))
    recipe = Recipe.parse(text % "direction: lower")
    assert parameters_of(recipe.select, directions_of(recipe)).criteria[0].direction == "lower"


def test_a_run_selects_by_several_criteria_and_takes_good_text(lab):
    lab.files(one=corpus())
    recipe = Recipe.parse(
        f"""
name: scored
source: {{files: [{{path: '{lab.base}/corpus/*.jsonl', columns: {{domain: domain}}}}]}}
filters: {{gopher_quality: null, gopher_repetition: null}}
splits: {{validation: 0.1, test: 0.1}}
tokenizer: {{vocabulary_size: 300}}
scores:
  heuristic: {{}}
  perplexity: {{reference: {{domains: [books]}}, unit: word}}
select: {{criteria: {{heuristic: {{}}, perplexity: {{}}}}, omega: 0.3, normalizer_scope: global}}
"""
    )
    assert Recipe.parse(recipe.to_yaml()) == recipe
    run(recipe, out=str(lab.base / "run"), workers=0, flow=False)
    chosen = Dataset(f"{lab.base}/run/selection-1").read("selection").to_pylist()
    best = sorted((r for r in chosen if r["split"] == "train"), key=lambda r: r["score.perplexity"])[:10]
    assert {r["domain"] for r in best} == {"books"}
    assert "score.heuristic" in chosen[0]
    assert all(r["copies"] >= 1 for r in best if r["quadmix.rank"] <= 0.3)


# ── merging ──────────────────────────────────────────────────────────────────────────────────────


class Bag:
    """A summary that notes how much was touched to merge it."""

    touched = 0

    def __init__(self, of):
        self.of = of

    def merge(self, other):
        Bag.touched += self.of.total() + other.of.total()
        return Bag(self.of + other.of)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 100])
def test_summaries_are_merged_to_their_sum_with_little_work(count):
    Bag.touched = 0
    parts = [Bag(Counter({i % 5: 1})) for i in range(count)]
    found = merge_all(parts)
    if count == 0:
        assert found is None
        return
    assert found.of == reduce(lambda a, b: a + b, (part.of for part in parts))
    assert Bag.touched <= count * (1 + np.log2(count)) + count


def test_a_reference_of_empty_files_says_where_to_look(lab):
    prepared(lab)
    (lab.base / "empty.txt").write_text("")
    source = FileSource(name="reference-files", entries=(FileEntry(path=str(lab.base / "empty.txt")),))
    with pytest.raises(DatasetError, match=r"the reference set has no row; look at scores.perplexity.reference"):
        lab.run(step(domains=(), sources=(source,)))


# ── the command ──────────────────────────────────────────────────────────────────────────────────


def test_the_command_trains_prints_what_was_held_out_and_names_the_file(tmp_path, monkeypatch, capsys):
    positive, negative = sides(tmp_path)
    out = str(tmp_path / "out")
    arguments = ["quality", "train", "--positive", *positive, "--negative", *negative, "--out", out, "--seed", "3"]
    monkeypatch.setattr(sys, "argv", ["penstock", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    printed = capsys.readouterr().out
    assert end.value.code == 0
    assert "positive          48        12" in printed
    assert "held out: AUC 1.0000, accuracy 1.0000" in printed
    assert trained(out).path in printed.replace("\n", "")


def test_the_command_reads_another_column(tmp_path):
    score = train_quality(*sides(tmp_path), str(tmp_path / "out"), text_column="body")
    batch = pa.RecordBatch.from_pydict({"text": ["good 999", "poor 999"]})
    high, low = score.annotate(batch)["score.quality"].to_pylist()
    assert high > 0.9 > 0.1 > low
