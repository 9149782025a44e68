"""Gradient features as a step of ``penstock score``: what LESS makes of each text, kept, resumed, accounted for."""

import sys

import numpy as np
import pyarrow as pa
import pytest

from penstock.cli import main
from penstock.dataset import Dataset
from penstock.pipelines.passes import Split
from penstock.scoring.gradients_step import GradientsOfTexts, learnable
from penstock.scoring.lm_scores import LanguageModelScores
from penstock.scoring.run import check, run_steps, score_steps
from penstock.selectors.targeted.less import LESS

LONG, SHORT = 9, 1  # texts with a gradient, and of a single token


@pytest.fixture
def texts(tiny):
    rng = np.random.default_rng(0)
    return [*(tiny.words(rng.integers(0, 32, 4 + n)) for n in range(LONG)), tiny.words([3])]


@pytest.fixture
def corpus(jsonl, texts):
    return jsonl("corpus/a.jsonl", texts)


def less(model, **settings):
    own = {"share": 0.5, "epochs": 2, "batch_size": 2, "rank": 2, "dimensions": 64, "learning_rate": 1e-2}
    return LESS(model=str(model), device="cpu", **(own | settings))


def steps(corpus, model, **settings):
    work = LanguageModelScores.of(str(model), device="cpu", max_tokens=16)
    return score_steps(str(corpus), work, texts_per_split=4, gradients=less(model, **settings))


def features(table, number):
    return table[f"checkpoint_{number}"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)


def test_every_text_has_the_features_that_less_would_give_it(corpus, model, texts, tmp_path):
    done = run_steps(steps(corpus, model), str(tmp_path / "out"))
    table = done.of("gradients").read("gradients")
    assert table["doc_id"].to_pylist() == [f"a.jsonl#{i}" for i in range(LONG + SHORT)]
    assert table["has_gradient"].to_pylist() == [True] * LONG + [False] * SHORT
    assert [name for name in table.column_names if name.startswith("checkpoint")] == ["checkpoint_1", "checkpoint_2"]
    rows = pa.RecordBatch.from_pydict({"doc_id": table["doc_id"].to_pylist(), "domain": ["a"] * 10, "text": texts})
    whole = learnable(rows)
    own = less(model).warm_up([whole], str(tmp_path / "own")).of(whole)
    for number in (1, 2):
        found = features(table, number).astype(np.float64)
        np.testing.assert_allclose(found[:LONG], own[number - 1][:LONG], atol=2e-3)
        np.testing.assert_allclose(np.linalg.norm(found[:LONG], axis=1), 1.0, atol=2e-3)
        assert not found[LONG:].any()
    assert np.abs(features(table, 1) - features(table, 2)).max() > 0.01  # another checkpoint, other directions
    assert len(done.of("gradients").manifest.stats["warmup"]) == 2
    assert done.of("scores").table("scores").rows == LONG + SHORT


def test_what_decides_the_features_decides_the_key_and_where_they_lie_does_not(corpus, model, tmp_path):
    out = str(tmp_path / "out")
    run_steps(steps(corpus, model), out)
    same = {c.step.name: c.skip for c in check(steps(corpus, model, batch_tokens=64, store=str(tmp_path / "s")), out)}
    assert same["gradients"]
    for other in ({"rank": 4}, {"dimensions": 128}, {"seed": 1}, {"share": 1.0}):
        assert not {c.step.name: c.skip for c in check(steps(corpus, model, **other), out)}["gradients"]


def test_a_stopped_run_makes_what_is_missing_and_the_same_bytes(corpus, model, tmp_path, monkeypatch):
    whole = run_steps(steps(corpus, model), str(tmp_path / "whole")).of("gradients")
    made = GradientsOfTexts.__call__
    asked = []

    def stopping(self, split: Split, out):
        asked.append(split.id)
        if len(asked) == 2:
            raise KeyboardInterrupt
        made(self, split, out)

    monkeypatch.setattr(GradientsOfTexts, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        run_steps(steps(corpus, model), str(tmp_path / "out"))
    assert len(asked) == 2
    again = run_steps(steps(corpus, model), str(tmp_path / "out")).of("gradients")
    assert len(asked) == 4  # of three splits the first was kept
    assert again.digest == whole.digest
    assert Dataset(again.folder).missing() == []


def test_the_verb_makes_them_and_refuses_settings_without_them(corpus, model, tmp_path, monkeypatch, capsys):
    def penstock(*arguments):
        monkeypatch.setattr(sys, "argv", ["penstock", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return end.code or 0, *capsys.readouterr()
        return 0, *capsys.readouterr()

    command = ("score", corpus, "--model", model, "--out", tmp_path / "out", "--max-tokens", 16, "--device", "cpu")
    own = ("--set", "less.rank=2", "--set", "less.dimensions=64", "--set", "less.share=0.5", "--set", "less.epochs=1")
    code, _, err = penstock(*command, *own)
    assert code == 1
    assert "add --gradients" in err
    code, out, err = penstock(*command, "--gradients", *own)
    assert code == 0, err
    assert "gradients of 9 of 10 texts; the warm-up's loss by epoch:" in out
    code, _, err = penstock(*command, "--gradients", "--set", "less.rnk=2")
    assert code == 1
    assert "rank" in err
