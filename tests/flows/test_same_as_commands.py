"""Functions of ``penstock.flows`` make what their commands make: nothing is left to do, or the files are equal."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.errors import ConfigError
from penstock.flows import (
    calibrate,
    compare_tokenizers,
    extend_tokenizer,
    prune_tokenizer,
    score,
    screen,
    select,
    train_tokenizer,
)
from penstock.flows.tokenizing import SPLITS

WORDS = "river gate pipe turbine flow pressure model data token language learn train select".split()  # noqa: SIM905


@pytest.fixture
def texts(tmp_path):
    """(pool of 60 texts in two domains, target of 6)."""
    rng = np.random.default_rng(0)
    rows = [{"text": " ".join(rng.choice(WORDS[n % 2 * 6 :], 30)), "domain": "ab"[n % 2]} for n in range(66)]
    for name, some in (("pool", rows[:60]), ("target", rows[60:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return str(tmp_path / "pool.jsonl"), str(tmp_path / "target.jsonl")


def command(*words):
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


def test_a_selection_of_the_function_is_up_to_date_for_the_command(texts, tmp_path):
    pool, target = texts
    made = select(pool, [target], str(tmp_path / "out"), count=6, overrides=["bm25.k1=1.4"], workers=0)
    assert made.methods == ("random", "bm25")
    said = command(
        "select", pool, "--target", target, "--count", 6, "--set", "bm25.k1=1.4", "--out", tmp_path / "out", "--dry-run"
    )
    steps = [result.step.name for result in made.steps]
    assert [said.count(f"{name} ") > 0 for name in steps] == [True] * len(steps)
    assert said.count("up to date") == len(steps)


def test_scores_and_flags_of_the_functions_are_up_to_date_for_the_commands(texts, finished, tmp_path):
    pool, target = texts
    run, out = str(finished[0] / "run"), {name: str(tmp_path / name) for name in ("scores", "known", "c", "flags")}
    score(pool, run, out["scores"], max_tokens=32, batch_tokens=512)
    score(target, run, out["known"], max_tokens=32)
    calibrate(out["known"], out["c"], rate=0.2, edge=[20], machine_tokens=0, score=["z"])
    flagged = screen(out["scores"], out["c"], out["flags"])
    assert flagged.dataset.manifest.counts.kept == 60
    said = command("score", pool, "--model", run, "--out", out["scores"], "--max-tokens", 32, "--dry-run")
    assert said.count("up to date") == 2
    options = ("--rate", 0.2, "--edge", 20, "--machine-tokens", 0, "--score", "z")
    assert "up to date" in command("screen", "calibrate", out["known"], "--out", out["c"], *options, "--dry-run")
    again = command(
        "screen", "apply", out["scores"], "--calibration", out["c"], "--out", out["flags"], "--dry-run"
    )  # fmt: skip
    assert "up to date" in again


def test_tokenizers_of_the_functions_are_those_of_the_commands(texts, tmp_path):
    pool, _ = texts
    made = train_tokenizer([pool], str(tmp_path / "a"), vocabulary_size=290, weight={"a": 3, "b": 1}, sample_mb=0.005)
    command("tokenizer", "train", pool, "--out", tmp_path / "b", "--vocabulary-size", 290, "--weight", "a=3",
            "--weight", "b=1", "--sample-mb", 0.005)  # fmt: skip
    for name in ("tokenizer.json", "made_from.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert made.files == (str(tmp_path / "a" / "tokenizer.json"), str(tmp_path / "a" / "made_from.json"))
    larger = extend_tokenizer(str(tmp_path / "a"), [pool], str(tmp_path / "c"), 300)
    assert (made.tokenizer.vocabulary, larger.tokenizer.vocabulary) == (290, 300)
    smaller = prune_tokenizer(str(tmp_path / "c"), [pool], str(tmp_path / "d"), size=280)
    assert len(smaller.pruned.old_ids) <= 280
    found, written = compare_tokenizers({"a": str(tmp_path / "a"), "c": str(tmp_path / "c")}, [pool])
    assert ([one.name for one in found.tokenizers], written) == (["a", "c"], [])


def test_mistakes_are_told_by_the_name_of_the_argument(texts, tmp_path):
    with pytest.raises(ConfigError, match=f"split: got 'half', allowed {', '.join(SPLITS)}"):
        train_tokenizer([texts[0]], str(tmp_path / "a"), split="half")
    with pytest.raises(ConfigError, match="max_words: bounds tokens that join words"):
        extend_tokenizer("x", [texts[0]], str(tmp_path / "a"), 300, max_words=2)
    with pytest.raises(ConfigError, match=r"less\.rank=2: sets how gradient features are made"):
        score(texts[0], "x", str(tmp_path / "a"), overrides=["less.rank=2"])
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("split_mb", [0, -1, float("nan")])
def test_a_split_of_nothing_is_refused(split_mb, tmp_path):
    pool = tmp_path / "pool.jsonl"
    pool.write_text('{"text": "the gate lets water in"}\n')
    with pytest.raises(ConfigError, match=rf"^split_mb: got {split_mb}, allowed above 0; 32 is the default$"):
        select(str(pool), [str(pool)], str(tmp_path / "out"), count=1, split_mb=split_mb)
