"""``penstock select``: a pool and a target in, selections beside each other out."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from penstock.cli import app
from penstock.dataset import Dataset
from penstock.errors import ConfigError, DatasetError, InputError, OtherRecipeError
from penstock.selection import budget_of, check, plan, print_selected, select, steps_of
from penstock.selectors.targeted.base import Budget
from penstock.sources.files import FileEntry, FileSource
from penstock.storage import Folder

SEA = ("harbour", "tide", "sail", "mast", "anchor", "wave", "gull", "reef")
LAND = ("tractor", "field", "barn", "wheat", "plough", "hedge", "cow", "gate")
SHARED = ("the", "of", "and", "a", "in", "to", "with", "on")


def sentence(rng, own):
    return " ".join(rng.choices(own + SHARED, k=rng.randint(10, 30)))


def write(path, texts, domain=None):
    rows = [{"text": text} | ({} if domain is None else {"domain": domain[i]}) for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def texts_of(path):
    return [json.loads(line)["text"] for line in Path(path).read_text().splitlines()]


@pytest.fixture
def files(tmp_path):
    """(pool, target): 180 texts of the land and 20 of the sea, and 15 of the sea to look for."""
    rng = random.Random(0)
    pool = [(sentence(rng, LAND), "land") for _ in range(180)] + [(sentence(rng, SEA), "sea") for _ in range(20)]
    rng.shuffle(pool)
    target = [sentence(rng, SEA) for _ in range(15)]
    return (
        write(tmp_path / "pool.jsonl", [text for text, _ in pool], [domain for _, domain in pool]),
        write(tmp_path / "target.jsonl", target),
    )


DOMAIN = ("columns.domain=domain",)


def go(pool, target, out, *, by=(), overrides=(), budget=None, split_bytes=32 << 20, **options):
    steps = steps_of(pool, [target], plan(by, overrides), budget or Budget(fraction=0.1), **options)
    return select(steps, str(out), workers=0, split_bytes=split_bytes)


def selection(out, method):
    return Dataset(f"{out}/by-{method}").read("selection")


def chosen(out, method):
    rows = selection(out, method)
    return set(rows["doc_id"].filter(rows["selected"]).to_pylist())


def test_the_planted_rows_are_found_and_their_documents_written(files, tmp_path):
    pool, target = files
    result = go(pool, target, tmp_path / "out", by=["bm25"], overrides=DOMAIN)
    assert result.methods == ("random", "bm25")
    rows = selection(tmp_path / "out", "bm25")
    assert rows.num_rows == 200
    assert {"doc_id", "score", "rank", "selected", "method", "target_fingerprint", "state_fingerprint"} <= set(
        rows.column_names
    )
    assert set(rows["method"].to_pylist()) == {"bm25"}
    sea = [domain == "sea" for domain in rows["domain"].to_pylist()]
    assert roc_auc_score(sea, rows["score"].to_numpy()) > 0.99
    taken = Dataset(tmp_path / "out" / "by-bm25").read("documents")
    assert taken["domain"].to_pylist() == ["sea"] * 20
    assert sorted(taken["rank"].to_pylist()) == list(range(1, 21))
    assert all("land" not in text for text in taken["text"].to_pylist())
    assert Dataset(tmp_path / "out" / "by-random").manifest.counts.kept == 20
    manifest = Dataset(tmp_path / "out" / "by-bm25").manifest
    assert manifest.counts.dropped == {"selection": {"not_selected": 180}}
    assert manifest.stats["choice"]["asked"] == 20


def test_selections_are_the_same_in_1_3_and_8_shards_and_in_any_order(files, tmp_path):
    pool, target = files
    lines = Path(pool).read_text().splitlines(keepends=True)
    found = {}
    for name, size in (("one", 32 << 20), ("three", 12_000), ("eight", 3_050)):
        go(pool, target, tmp_path / name, overrides=DOMAIN, split_bytes=size)
        parts = len(Dataset(tmp_path / name / "pool").table("documents").files)
        datasets = [Dataset(tmp_path / name / step) for step in ("by-random", "by-bm25", "comparison")]
        found[name] = [parts, *(dataset.digest for dataset in datasets)]
    assert [found[name][0] for name in found] == [1, 3, 8]
    assert found["one"][1:] == found["three"][1:] == found["eight"][1:]
    # rows have other ids in another order: the texts chosen are the same, but for ties
    random.Random(5).shuffle(lines)
    shuffled = tmp_path / "shuffled" / "pool.jsonl"
    shuffled.parent.mkdir()
    shuffled.write_text("".join(lines))
    go(str(shuffled), target, tmp_path / "other", overrides=DOMAIN)
    texts = [
        sorted(Dataset(tmp_path / out / "by-bm25").read("documents")["text"].to_pylist()) for out in ("one", "other")
    ]
    assert texts[0] == texts[1]


def test_methods_that_read_vectors_share_them(files, tmp_path):
    pytest.importorskip("faiss")
    pool, target = files
    overrides = (*DOMAIN, "importance.clusters=4", "importance.epochs=1", "diverse.beta=3")
    result = go(pool, target, tmp_path / "out", by=["importance", "diverse"], overrides=overrides)
    assert [step.step.name for step in result.steps].count("embedded") == 1
    for method, bar in (("importance", 0.9), ("diverse", 0.9)):
        rows = selection(tmp_path / "out", method)
        assert "embedding" not in rows.column_names
        sea = [domain == "sea" for domain in rows["domain"].to_pylist()]
        assert roc_auc_score(sea, rows["score"].to_numpy()) > bar
    taken = Dataset(tmp_path / "out" / "by-importance").read("documents")
    assert sum(taken["copies"].to_pylist()) == pytest.approx(20, abs=10)
    facts = Dataset(tmp_path / "out" / "by-importance").manifest.stats["choice"]
    assert facts["expected"] == pytest.approx(20)
    assert 0 < facts["effective_sample_size"] < 200
    split = tmp_path / "split"
    go(pool, target, split, by=["importance", "diverse"], overrides=overrides, split_bytes=9_000)
    for step in ("scores-importance", "scores-diverse", "by-importance", "by-diverse", "comparison"):
        assert Dataset(split / step).digest == Dataset(tmp_path / "out" / step).digest
    pairs = {(r["a"], r["b"]): r["jaccard"] for r in Dataset(split / "comparison").read("overlap").to_pylist()}
    own = {method: chosen(split, method) for method in ("bm25", "diverse")}
    both = len(own["bm25"] & own["diverse"]) / len(own["bm25"] | own["diverse"])
    assert pairs["bm25", "diverse"] == pytest.approx(both)
    assert len(pairs) == 10


def test_workers_change_nothing(files, tmp_path):
    pool, target = files
    steps = steps_of(pool, [target], plan((), DOMAIN), Budget(fraction=0.1))
    for name, workers in (("here", 0), ("two", 2)):
        select(steps, str(tmp_path / name), workers=workers, split_bytes=8_000)
    for step in ("pool", "scores-bm25", "by-bm25", "by-random", "comparison"):
        assert Dataset(tmp_path / "here" / step).digest == Dataset(tmp_path / "two" / step).digest


def test_another_budget_scores_nothing_again_and_the_same_one_does_nothing(files, tmp_path):
    pool, target = files
    built = lambda result: [step.step.name for step in result.steps if not step.skipped]  # noqa: E731
    assert "scores-bm25" in built(go(pool, target, tmp_path / "out", overrides=DOMAIN))
    assert built(go(pool, target, tmp_path / "out", overrides=DOMAIN)) == []
    again = go(pool, target, tmp_path / "out", overrides=DOMAIN, budget=Budget(count=7))
    assert built(again) == ["by-random", "by-bm25", "comparison"]
    assert len(chosen(tmp_path / "out", "bm25")) == 7
    other = go(pool, target, tmp_path / "out", overrides=(*DOMAIN, "bm25.k1=1.2"), budget=Budget(count=7))
    assert built(other)[0] == "scores-bm25"
    would = check(steps_of(pool, [target], plan((), DOMAIN), Budget(count=7)), str(tmp_path / "out"))
    assert [step.step.name for step in would if not step.skip] == ["scores-bm25", "by-bm25", "comparison"]


def test_a_selection_that_was_cut_short_goes_on_where_it_stopped(files, tmp_path, monkeypatch):
    from penstock.selectors.targeted.bm25 import BM25Score

    pool, target = files
    seen, annotate = [], BM25Score.annotate

    def failing(self, batch):
        seen.append(batch.num_rows)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return annotate(self, batch)

    monkeypatch.setattr(BM25Score, "annotate", failing)
    with pytest.raises(KeyboardInterrupt):
        go(pool, target, tmp_path / "out", overrides=DOMAIN, split_bytes=12_000)
    go(pool, target, tmp_path / "out", overrides=DOMAIN, split_bytes=12_000)
    assert len(seen) == 4  # three parts, one of them tried twice
    monkeypatch.undo()
    go(pool, target, tmp_path / "whole", overrides=DOMAIN, split_bytes=12_000)
    assert Dataset(tmp_path / "out" / "by-bm25").digest == Dataset(tmp_path / "whole" / "by-bm25").digest


def test_rows_of_the_target_are_no_candidates(files, tmp_path):
    pool, target = files
    texts, others = texts_of(target), texts_of(pool)
    both = write(tmp_path / "both.jsonl", [*texts[:4], *others])
    go(both, target, tmp_path / "out")
    manifest = Dataset(tmp_path / "out" / "pool").manifest
    assert manifest.counts.dropped == {"not_in_target": {"in_target": 4}}
    assert not set(Dataset(tmp_path / "out" / "by-bm25").read("documents")["text"].to_pylist()) & set(texts)
    with pytest.raises(ConfigError, match=r"4 row.s. of the pool are rows of the target"):
        go(both, target, tmp_path / "refused", overlap="refuse")
    with pytest.raises(ConfigError, match=r"no row is left to choose from .15 of 15"):
        go(target, target, tmp_path / "same")
    with pytest.raises(ConfigError, match="overlap: got 'keep', allowed drop, refuse"):
        go(pool, target, tmp_path / "keep", overlap="keep")


def test_a_budget_in_tokens_needs_counts_and_keeps_to_them(files, tmp_path):
    from penstock.tokenization.bpe import BPEConfig, train_bpe

    pool, target = files
    budget = Budget(count=300, unit="tokens")
    with pytest.raises(DatasetError, match="without token counts"):
        go(pool, target, tmp_path / "out", budget=budget)
    (tmp_path / "tokenizer.json").write_bytes(
        train_bpe([" ".join((*SEA, *LAND, *SHARED))] * 20, BPEConfig(vocabulary_size=300))
    )
    go(pool, target, tmp_path / "out", budget=budget, tokenizer=str(tmp_path / "tokenizer.json"))
    facts = Dataset(tmp_path / "out" / "by-bm25").manifest.stats["choice"]
    taken = Dataset(tmp_path / "out" / "by-bm25").read("documents")
    assert facts["tokens"] == sum(taken["tokens"].to_pylist()) <= 300
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        go(pool, target, tmp_path / "none", tokenizer=str(tmp_path / "nowhere"))


def test_a_run_is_a_pool_by_its_scored_documents(finished, files, tmp_path):
    base, _, _ = finished
    go(str(base / "run"), files[1], tmp_path / "out", budget=Budget(fraction=0.2, unit="tokens"))
    pool = Dataset(tmp_path / "out" / "pool").manifest
    scored = Dataset(base / "run" / "scored")
    assert pool.counts.rows_in == scored.table("documents").rows
    assert pool.key_parts["inputs"] == {"dataset": scored.digest}
    facts = Dataset(tmp_path / "out" / "by-random").manifest.stats["choice"]
    assert 0 < facts["tokens"] <= facts["asked"]
    # the tokens of a dataset stand; a tokenizer beside them would give others
    with pytest.raises(ConfigError, match="which has token counts"):
        go(str(base / "run"), files[1], tmp_path / "again", tokenizer="x")
    with pytest.raises(DatasetError, match="no dataset of documents"):
        go(str(base / "run" / "tokenizer"), files[1], tmp_path / "none")
    # one selection is the pool of the next
    go(str(tmp_path / "out" / "by-bm25"), files[1], tmp_path / "next", budget=Budget(count=3))
    assert len(chosen(tmp_path / "next", "random")) == 3


def test_a_domain_of_one_row_equal_scores_and_more_than_there_is_are_no_reason_to_stop(tmp_path):
    pool = write(tmp_path / "pool.jsonl", ["alpha one", "beta two", "gamma three"], ["a", "b", "b"])
    target = write(tmp_path / "target.jsonl", ["delta"])
    said = []

    class Listener:
        def __getattr__(self, name):
            return lambda *given: said.append(given[0]) if name == "warn" else None

    steps = steps_of(pool, [target], plan((), DOMAIN), Budget(count=10))
    select(steps, str(tmp_path / "out"), workers=0, reporter=Listener())
    assert chosen(tmp_path / "out", "bm25") == {"pool.jsonl#0", "pool.jsonl#1", "pool.jsonl#2"}
    assert any("by-bm25: every row has the same score" in words for words in said)
    assert any("by-bm25: asked for 10 examples, the pool has 3; took all" in words for words in said)
    assert not any("by-random: every row" in words for words in said)
    domains = Dataset(tmp_path / "out" / "comparison").read("domains").to_pylist()
    assert {(row["domain"], row["rows"], row["selected_rows"]) for row in domains} == {("a", 1, 1), ("b", 2, 2)}


@pytest.mark.parametrize(
    ("lines", "error", "words"),
    [("", ConfigError, "target: got no rows"), ('{"text": ""}\n', ConfigError, "1 records could not be used")],
)
def test_an_empty_target_is_refused(files, lines, error, words, tmp_path):
    (tmp_path / "empty.jsonl").write_text(lines)
    with pytest.raises(error, match=words):
        go(files[0], str(tmp_path / "empty.jsonl"), tmp_path / "out")
    with pytest.raises(InputError, match="matches no file"):
        go(files[0], str(tmp_path / "nowhere.jsonl"), tmp_path / "out")
    with pytest.raises(ConfigError, match="target: got no files"):
        steps_of(files[0], [], plan(()), Budget(count=1))


def test_methods_and_settings_are_checked_before_anything_runs(tmp_path):
    for by, overrides, model, words in (
        (["tfidf"], (), None, "allowed random, bm25, importance"),
        ([], ("importance.clusters=8",), None, "--set importance.*asked for with --by"),
        ([], ("bm25.k2=1",), None, "unknown key bm25.k2; did you mean k1"),
        ([], ("bm25.k1=high",), None, "bm25.k1"),
        ([], ("bm25.b=7",), None, "bm25.b: got 7"),
        (["loss"], (), None, "loss: got no model.*--model PATH"),
        ([], (), "somewhere", "a model that no method reads"),
        ([], ("columns.text=7",), None, "columns"),
        ([], ("max_dropped.pool=2",), None, "max_dropped"),
        ([], ("embed.model=word2vec",), None, "embed"),
    ):
        with pytest.raises(ConfigError, match=words):
            plan(by, overrides, model)
    assert list(plan(["diverse,importance", "bm25"]).methods) == ["random", "bm25", "diverse", "importance"]
    made = plan(["diverse", "bm25"], ("diverse.beta=2", "embed.characters=99"))
    assert list(made.methods) == ["random", "bm25", "diverse"]
    assert made.methods["diverse"].beta == 2
    assert made.embed.characters == 99


@pytest.mark.parametrize("given", [(), (0.1, 5, None), (None, 5, 5), (0.0, None, None)])
def test_how_much_is_said_once(given):
    with pytest.raises(ConfigError, match="how much"):
        budget_of(*given)


def test_the_budget_of_each_option():
    assert budget_of(fraction=0.05) == Budget(fraction=0.05)
    assert budget_of(count=3) == Budget(count=3)
    assert budget_of(tokens=9) == Budget(count=9, unit="tokens")


def test_the_folder_of_a_recipe_is_left_alone(finished, files, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[0] / "run", run)
    with pytest.raises(OtherRecipeError, match="recipe 'small'"):
        go(*files, run)
    go(*files, tmp_path / "out")
    assert Folder(str(tmp_path / "out")).read_json("run.json") == {"recipe": "penstock select"}


def test_the_verb_selects_and_compares(files, tmp_path):
    pool, target = files
    command = ["select", pool, "--target", target, "--fraction", "0.1", "--out", str(tmp_path / "out")]
    command += ["--set", "columns.domain=domain", "--workers", "0"]
    dry = CliRunner().invoke(app, [*command, "--dry-run"])
    assert dry.exit_code == 0
    assert "scores-bm25" in dry.output
    assert not (tmp_path / "out").exists()
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.output
    table = found.output.split("Selected by method")[1]
    assert [line.split()[:2] for line in table.splitlines()[2:4]] == [["random", "20"], ["bm25", "20"]]
    assert "sea" in table
    # a recipe reads what was selected as files
    pattern = str(tmp_path / "out" / "by-bm25" / "*" / "take" / "*.documents.parquet")
    source = FileSource(name="chosen", entries=(FileEntry(path=pattern, columns={"domain": "domain"}),))
    rows = [rows.documents for split in source.plan(1 << 20) for rows in source.read(split, dropped="ids")]
    assert [domain for batch in rows for domain in batch["domain"].to_pylist()] == ["sea"] * 20


def test_what_is_said_of_a_selection_has_tokens_where_they_are_known(finished, files, tmp_path, capsys):
    from rich.console import Console

    result = go(str(finished[0] / "run"), files[1], tmp_path / "out")
    print_selected(result, Console(width=200))
    shown = capsys.readouterr().out
    facts = Dataset(tmp_path / "out" / "by-bm25").manifest.stats["choice"]
    assert f"{facts['tokens']:,}" in shown
    assert "Domains before and after" in shown
