"""``penstock score`` and ``penstock screen`` from end to end: ``python -m pytest tests/scoring/test_run.py``."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from penstock.dataset import Dataset
from penstock.errors import ConfigError, DatasetError, InputError, OtherRecipeError
from penstock.scoring import run as scoring_run
from penstock.scoring.corpus import open_corpus
from penstock.scoring.formulas import SCORES, column
from penstock.scoring.lm_scores import LanguageModelScores
from penstock.scoring.reference import TokenCounts
from penstock.scoring.run import check, open_scores, run_steps, score_steps
from penstock.scoring.screen_step import apply_steps, calibrate_steps, screen_of
from penstock.scoring.step import reference_of
from penstock.step import Silent


@pytest.fixture
def texts(tiny):
    """Twelve texts of 2 to 24 random words."""
    rng = np.random.default_rng(0)
    return [tiny.words(rng.integers(0, 32, 2 * n)) for n in range(1, 13)]


@pytest.fixture
def corpus(jsonl, texts):
    jsonl("corpus/a.jsonl", texts[:7])
    return jsonl("corpus/b.jsonl", texts[7:]).parent


def go(corpus, model, out, *, settings=None, workers=0, reporter=None, **options):
    work = LanguageModelScores.of(str(model), device="cpu", **({"max_tokens": 16} | (settings or {})))
    return run_steps(
        score_steps(str(corpus), work, **({"texts_per_split": 5} | options)),
        str(out),
        workers=workers,
        reporter=reporter or Silent(),
    )


def table(done):
    return done.dataset.read("scores").sort_by("doc_id")


def close(one, other):
    """Equal rows, but for a last digit of a score."""
    assert one.column_names == other.column_names
    for name in one.column_names:
        if name.startswith("score."):
            assert one[name].is_null().equals(other[name].is_null())
            step = 10.0 ** -SCORES[name.removeprefix("score.lm_")].decimals
            np.testing.assert_allclose(
                one[name].drop_null().to_numpy(), other[name].drop_null().to_numpy(), rtol=1e-6, atol=1.01 * step
            )
        else:
            assert one[name].equals(other[name]), name


def test_scores_are_a_dataset_of_one_row_a_text_with_what_made_them(corpus, model, tmp_path, texts, tiny):
    done = go(corpus, model, tmp_path / "out")
    rows = done.dataset.read("scores")
    work = LanguageModelScores.of(str(model), device="cpu", max_tokens=16)
    assert rows["doc_id"].to_pylist() == [*(f"a.jsonl#{i}" for i in range(7)), *(f"b.jsonl#{i}" for i in range(5))]
    assert "text" not in rows.column_names
    direct = work.annotate(tiny.rows(texts))
    for name in work.adds:
        np.testing.assert_allclose(
            rows[name].to_numpy().astype(float), direct[name].to_numpy(zero_copy_only=False).astype(float), atol=2e-3
        )
    assert set(rows["model_fp"].to_pylist()) == {work.digest}
    assert rows["ref_id"].null_count == 12
    assert done.dataset.manifest.stats["domains"]["a"]["texts"] == 7
    done.dataset.verify()


def test_a_second_run_skips_and_a_changed_setting_is_named(corpus, model, tmp_path):
    first = go(corpus, model, tmp_path / "out")
    again = go(corpus, model, tmp_path / "out")
    assert [result.skipped for result in again.steps] == [True, True]
    assert again.dataset.digest == first.dataset.digest
    work = LanguageModelScores.of(str(model), device="cpu", max_tokens=8)
    checks = check(score_steps(str(corpus), work), str(tmp_path / "out"))
    assert [c.skip for c in checks] == [True, False]
    assert checks[1].why == "changed: settings.scores.max_tokens: 16 -> 8"
    shorter = go(corpus, model, tmp_path / "out", settings={"max_tokens": 8})
    assert [result.skipped for result in shorter.steps] == [True, False]
    assert max(table(shorter)["lm_tokens"].to_pylist()) == 8


def test_a_run_that_was_stopped_scores_only_what_is_left(corpus, model, tmp_path, monkeypatch):
    want = table(go(corpus, model, tmp_path / "whole"))
    seen, stop_at = [], [3]
    annotate = LanguageModelScores.annotate

    def watched(self, batch):
        seen.append(batch["doc_id"].to_pylist())
        if len(seen) in stop_at:
            raise KeyboardInterrupt
        return annotate(self, batch)

    monkeypatch.setattr(LanguageModelScores, "annotate", watched)
    with pytest.raises(KeyboardInterrupt):
        go(corpus, model, tmp_path / "out")
    with pytest.raises(DatasetError):
        _ = Dataset(str(tmp_path / "out" / "scores")).manifest
    under_way = seen[2]
    seen.clear()
    stop_at.clear()
    done = go(corpus, model, tmp_path / "out")
    # twelve texts in splits of five, of which two were done
    assert seen == [under_way]
    assert len(under_way) == 2
    close(table(done), want)


def test_texts_that_did_not_change_are_taken_over_and_not_scored_again(corpus, model, tmp_path, jsonl, monkeypatch):
    # a part for each line: small files share one otherwise, and change together
    settings = scoring_run._settings
    monkeypatch.setattr(scoring_run, "_settings", lambda root: replace(settings(root), split_bytes=1))
    go(corpus, model, tmp_path / "out")
    jsonl("corpus/aa.jsonl", ["w1 w2 w3", "w4 w5 w6"])
    seen = []
    annotate = LanguageModelScores.annotate

    def watched(self, batch):
        seen.extend(batch["doc_id"].to_pylist())
        return annotate(self, batch)

    monkeypatch.setattr(LanguageModelScores, "annotate", watched)
    done = go(corpus, model, tmp_path / "out")
    assert seen == ["aa.jsonl#0", "aa.jsonl#1"]
    assert done.dataset.manifest.counts.kept == 14
    assert done.dataset.manifest.stats["domains"]["a"]["texts"] == 7


def test_neither_splits_nor_workers_change_a_score(corpus, model, tmp_path):
    want = table(go(corpus, model, tmp_path / "one", texts_per_split=100))
    close(table(go(corpus, model, tmp_path / "two", texts_per_split=1)), want)
    close(table(go(corpus, model, tmp_path / "three", workers=2)), want)


def test_a_dataset_and_a_run_are_read_where_they_lie(corpus, model, tmp_path, jsonl):
    want = table(go(corpus, model, tmp_path / "out"))
    direct = go(tmp_path / "out" / "documents", model, tmp_path / "of-dataset")
    assert [result.step.name for result in direct.steps] == ["scores"]
    close(table(direct), want)
    shutil.copytree(tmp_path / "out", tmp_path / "run")
    close(table(go(tmp_path / "run", model, tmp_path / "of-run")), want)
    assert open_corpus(str(corpus)) is None
    with pytest.raises(DatasetError, match="no table of texts"):
        open_corpus(str(tmp_path / "out" / "scores"))
    with pytest.raises(ConfigError, match="leave out how to read files"):
        go(tmp_path / "out" / "documents", model, tmp_path / "x", text_column="body")


def test_columns_and_units_of_files_may_be_named(model, tmp_path):
    (tmp_path / "table.csv").write_text("body,text\nw1 w2 w3,w4\n")
    done = go(tmp_path / "table.csv", model, tmp_path / "csv", text_column="body")
    assert done.dataset.read("scores")["lm_tokens"].to_pylist() == [3]
    (tmp_path / "lines.txt").write_text("w1 w2\nw3 w4 w5\n")
    done = go(tmp_path / "lines.txt", model, tmp_path / "txt", text_unit="line")
    assert done.dataset.read("scores")["lm_tokens"].to_pylist() == [2, 3]


# ── reference counts ─────────────────────────────────────────────────────────────────────────────


def test_a_reference_corpus_is_counted_once_and_serves_other_runs(corpus, model, tmp_path, jsonl):
    counted = jsonl("reference.jsonl", ["w1 w2 w2", "w3 " * 2000, "", "w1"])
    done = go(corpus, model, tmp_path / "out", reference=str(counted))
    assert [result.step.name for result in done.steps] == ["documents", "reference-documents", "reference", "scores"]
    reference = reference_of(Dataset(str(tmp_path / "out" / "reference")))
    facts = reference.facts()
    assert (facts["documents"], facts["tokens"], facts["max_tokens"]) == (3, 3 + 1024 + 1, 1024)
    np.testing.assert_allclose(np.exp(reference.log_p())[[1, 2, 3, 4]], np.array([3, 3, 1025, 1]) / (1028 + 32))
    assert np.exp(reference.log_p()).sum() == pytest.approx(1)
    rows = table(done)
    assert rows["score.lm_dcpdd"].null_count == rows["score.lm_loss"].null_count
    assert set(rows["ref_id"].to_pylist()) == {reference.id}
    again = go(corpus, model, tmp_path / "again", reference=str(tmp_path / "out"))
    assert [result.step.name for result in again.steps] == ["documents", "scores"]
    close(table(again), rows)


def test_token_counts_merge_in_any_order_and_only_of_one_tokenizer():
    def counts(values, tokenizer="t"):
        return TokenCounts(np.array(values), sum(values), tokenizer)

    a, b, c = counts([1, 0, 2]), counts([0, 5, 0]), counts([3, 0, 0])
    one, other = a.merge(b).merge(c), c.merge(b.merge(a))
    assert one.to_table().equals(other.to_table())
    assert one.to_table().schema.metadata == other.to_table().schema.metadata
    back = TokenCounts.from_table(one.to_table())
    assert (back.counts.tolist(), back.documents, back.tokenizer) == ([4, 5, 2], 11, "t")
    with pytest.raises(ConfigError, match="of tokenizers t… and u…, allowed of one"):
        a.merge(counts([1, 1, 1], "u"))


def test_counts_of_another_tokenizer_are_refused_before_anything_is_scored(corpus, model, tmp_path, tiny):
    other = shutil.copytree(model, tmp_path / "other")
    tiny.tokenizer(other, shift=3)
    go(corpus, other, tmp_path / "out", reference=str(corpus))
    with pytest.raises(ConfigError, match="counts ids of tokenizer"):
        go(corpus, model, tmp_path / "again", reference=str(tmp_path / "out"))
    assert not (tmp_path / "again" / "documents").exists()


# ── bad input ────────────────────────────────────────────────────────────────────────────────────


def test_a_corpus_without_texts_is_refused_and_nothing_is_published(model, tmp_path, jsonl):
    with pytest.raises(DatasetError, match=r"documents: its inputs hold no rows"):
        go(jsonl("empty.jsonl", []), model, tmp_path / "out")
    assert not (tmp_path / "out" / "scores" / "manifest.json").exists()
    with pytest.raises(InputError, match="matches no file"):
        go(tmp_path / "nowhere", model, tmp_path / "out2")
    some, blank = jsonl("some.jsonl", ["w1 w2 w3"]), jsonl("blank.jsonl", [" "])
    with pytest.raises(DatasetError, match="reference-documents: no row is left, all 1 were dropped"):
        go(some, model, tmp_path / "out3", reference=str(blank))


def test_a_corpus_of_one_token_texts_has_rows_and_no_scores(model, tmp_path, jsonl):
    done = go(jsonl("short.jsonl", ["w1", "w2"]), model, tmp_path / "out")
    rows = done.dataset.read("scores")
    assert rows["lm_tokens"].to_pylist() == [1, 1]
    assert all(rows[column(score)].null_count == 2 for score in SCORES)


def test_folders_of_others_are_not_written_into(corpus, model, tmp_path):
    go(corpus, model, tmp_path / "out")
    with pytest.raises(ConfigError, match="is a dataset; give a folder that may hold datasets"):
        go(corpus, model, tmp_path / "out" / "scores")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"recipe": "mine"}')
    with pytest.raises(OtherRecipeError, match="holds a run of recipe 'mine'"):
        go(corpus, model, tmp_path / "run")


# ── screening ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def sets(model, tiny, tmp_path_factory):
    """Folders of scores: shuffled texts twice, and texts of the model among shuffled ones."""
    base, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    own = tiny.written(model, 40, 40, seed=1)
    people = [" ".join(rng.permutation(text.split())) for text in tiny.written(model, 260, 40, seed=2)]
    files = {"reference": people[:120], "control": people[120:220], "mixed": people[220:] + own}
    out = {}
    for name, of in files.items():
        path = base / name / "news.jsonl"
        path.parent.mkdir()
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in of))
        go(path, model, base / f"s-{name}", settings={"max_tokens": 64}, texts_per_split=50)
        out[name] = str(base / f"s-{name}")
    return out


def screened(sets, tmp_path, **settings):
    given = {"rate": 0.05, "edges": (), "machine_tokens": 0} | settings
    run_steps(calibrate_steps(sets["reference"], **given), str(tmp_path / "calibration"))
    return run_steps(apply_steps(sets["mixed"], str(tmp_path / "calibration")), str(tmp_path / "flags"))


def test_texts_of_the_model_are_flagged_and_those_of_people_at_the_rate(sets, tmp_path):
    done = screened(sets, tmp_path, control=sets["control"], positive=sets["mixed"])
    rows = done.dataset.read("flags")
    assert rows.num_rows == 80  # nothing was dropped
    flagged = np.array(["machine:z" in flags for flags in rows["flags"].to_pylist()])
    assert flagged[40:].mean() > 0.9
    assert flagged[:40].mean() <= 0.2
    scores = open_scores(sets["mixed"]).read("scores")
    for name in scores.column_names:
        assert rows[name].equals(scores[name])
    excess = done.dataset.manifest.stats["excess"]
    assert {"z", "zs_signed"} <= {entry["score"] for entry in excess if entry["named"]}
    assert done.dataset.manifest.stats["screened"]["controlled"] is True


def test_the_reference_set_is_stored_and_its_own_texts_are_not_screened(sets, tmp_path):
    screened(sets, tmp_path)
    _, calibration = screen_of(str(tmp_path / "calibration"))
    kept = calibration.read("reference")
    assert kept["doc_id"].to_pylist() == open_scores(sets["reference"]).read("scores")["doc_id"].to_pylist()
    calibration.verify()
    done = run_steps(apply_steps(sets["reference"], str(tmp_path / "calibration")), str(tmp_path / "own"))
    assert done.dataset.read("flags")["flags"].null_count == 120


def test_scores_made_otherwise_are_refused_by_a_calibration(sets, model, tmp_path, jsonl):
    screened(sets, tmp_path)
    go(jsonl("more.jsonl", ["w1 w2 w3"]), model, tmp_path / "longer", settings={"max_tokens": 32})
    with pytest.raises(DatasetError, match="max_tokens 32 there, 64 here"):
        apply_steps(str(tmp_path / "longer"), str(tmp_path / "calibration"))
    with pytest.raises(ConfigError, match=r"control: .* was scored with another max_tokens"):
        calibrate_steps(sets["reference"], control=str(tmp_path / "longer"))
    with pytest.raises(ConfigError, match="control: got the reference set itself"):
        calibrate_steps(sets["reference"], control=sets["reference"])
    with pytest.raises(ConfigError, match="scores: got dcpdd, which these texts lack"):
        calibrate_steps(sets["reference"], scores=["dcpdd"])
    with pytest.raises(DatasetError, match="no scores there"):
        calibrate_steps(str(tmp_path / "calibration"))
    with pytest.raises(DatasetError, match="no calibration there"):
        apply_steps(sets["mixed"], sets["mixed"])
    with pytest.raises(ConfigError, match=r"fdr: got 1\.0"):
        apply_steps(sets["mixed"], str(tmp_path / "calibration"), fdr=1.0)


# ── the command line ─────────────────────────────────────────────────────────────────────────────


def test_the_verbs_print_what_they_found(penstock, corpus, model, tmp_path, sets):
    command = ["score", corpus, "--model", model, "--out", tmp_path / "out", "--max-tokens", 16, "--device", "cpu"]
    code, out, _ = penstock(*command, "--dry-run")
    assert code == 0
    assert "not built yet" in out
    assert not (tmp_path / "out").exists()
    code, out, err = penstock(*command)
    assert code == 0, err
    assert "Scores, means over texts" in out
    assert "1 of 12 texts have fewer than two predicted tokens and no score" in out
    assert f"{tmp_path}/out/scores" in out
    assert "reference none, so no dcpdd" in out
    assert "up to date" in penstock(*command)[1]

    calibrate = ["screen", "calibrate", sets["reference"], "--out", tmp_path / "c", "--rate", 0.05, "--edge", 30]
    code, out, err = penstock(*calibrate, "--machine-tokens", 0, "--score", "z", "--score", "zs")
    assert code == 0, err
    assert "Thresholds at a false-positive rate of 5.00%" in out
    assert "news/30+" in out
    assert "no negative control" in out
    code, out, err = penstock(
        "screen", "apply", sets["mixed"], "--calibration", tmp_path / "c", "--out", tmp_path / "f"
    )
    assert code == 0, err
    assert "as evidence only" in out
    assert "more than chance" in out


def test_mistakes_are_one_line_and_exit_code_1(penstock, corpus, tmp_path):
    code, out, err = penstock("score", corpus, "--model", tmp_path, "--out", tmp_path / "out")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert f"model: got {tmp_path}" in err
