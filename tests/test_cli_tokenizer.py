"""``penstock tokenizer``: what each verb writes and says, and how it refuses."""

import json
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer

from penstock.cli import main

WORDS = "river gate pipe turbine flow pressure model data token language learn train select".split()  # noqa: SIM905


@pytest.fixture
def penstock(monkeypatch, capsys):
    """Run the command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["penstock", "tokenizer", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for domain, letters in (("web", WORDS[:7]), ("book", WORDS[6:])):
        rows += [{"text": " ".join(rng.choice(letters, 20)), "domain": domain} for _ in range(150)]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_train_writes_a_tokenizer_and_what_it_was_made_from(penstock, data, tmp_path):
    out = tmp_path / "out"
    options = ("--weight", "web=3", "--weight", "book=1", "--sample-mb", "0.01", "--vocabulary-size", "300")
    code, said, _ = penstock("train", data, *options, "--digits", "right-to-left", "--special", "<x>", "--out", out)
    assert code == 0
    assert "75.00%" in said
    assert str(out / "tokenizer.json") in said
    made = json.loads((out / "made_from.json").read_text())
    assert made["settings"]["digits"] == "right_to_left"
    assert {tuple(cell["name"]): cell["bytes"] for cell in made["sample"]["cells"]} == {("book",): 2500, ("web",): 7500}
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    assert tokenizer.token_to_id("<x>") == 2
    # equal inputs and settings make equal files
    again = tmp_path / "again"
    penstock("train", data, *options, "--digits", "right-to-left", "--special", "<x>", "--out", again)
    for name in ("tokenizer.json", "made_from.json"):
        assert (again / name).read_bytes() == (out / name).read_bytes()


def test_train_says_when_there_is_less_text_than_asked(penstock, data, tmp_path):
    options = ("--weight", "web=0.9", "--weight", "book=0.1", "--vocabulary-size", "300")
    code, said, _ = penstock("train", data, *options, "--out", tmp_path / "out")
    assert code == 0
    assert "smaller than the 256,000,000 bytes asked for: there is no more text of web, and the shares hold" in said


def test_extend_keeps_ids_and_superbpe_joins_words(penstock, data, tmp_path):
    penstock("train", data, "--vocabulary-size", "300", "--out", tmp_path / "base")
    base = Tokenizer.from_file(str(tmp_path / "base" / "tokenizer.json")).get_vocab()
    code, said, _ = penstock("extend", tmp_path / "base", data, "--vocabulary-size", "320", "--out", tmp_path / "more")
    assert code == 0
    assert "320 tokens" in said
    more = Tokenizer.from_file(str(tmp_path / "more" / "tokenizer.json")).get_vocab()
    assert all(more[token] == number for token, number in base.items())
    assert not any("Ġ" in token[1:] for token in more)
    options = ("--vocabulary-size", "420", "--superbpe", "--max-words", "2", "--out", tmp_path / "super")
    code, said, _ = penstock("extend", tmp_path / "more", data, *options)
    assert code == 0
    joined = [t for t in Tokenizer.from_file(str(tmp_path / "super" / "tokenizer.json")).get_vocab() if "Ġ" in t[1:]]
    assert joined
    assert all(len(token.replace("Ġ", " ").split()) <= 2 for token in joined)
    made = json.loads((tmp_path / "super" / "made_from.json").read_text())
    assert made["settings"]["max_words"] == 2
    options = ("--vocabulary-size", "400", "--max-words", "2", "--out", tmp_path / "not")
    code, _, said = penstock("extend", tmp_path / "base", data, *options)
    assert code == 1
    assert "add --superbpe" in said


def test_hypernet_trains_on_a_small_model(penstock, finished, data, tmp_path):
    base, _, _ = finished
    small = ("batch=4", "length=16", "shape.hidden=16", "shape.layers=1", "shape.heads=2", "shape.feed_forward=16")
    small += ("sampler.size=400", "identity_batch=32", "negatives=32", "checkpoint_every=2")
    options = [word for one in small for word in ("--set", one)]
    options += ["--steps", "2", "--identity-steps", "2", "--device", "cpu", "--out", tmp_path / "net"]
    code, said, err = penstock("hypernet", base / "run" / "model-1", data, *options)
    assert code == 0, err
    assert "nats a byte, composed rows" in said
    assert (tmp_path / "net" / "hypernet.safetensors").exists()
    code, _, said = penstock("hypernet", base / "run" / "model-1", data, "--set", "bach=4", "--out", tmp_path / "net")
    assert code == 1
    assert "batch" in said


def test_prune_compare_and_infer_go_on_from_there(penstock, data, tmp_path):
    penstock("train", data, "--vocabulary-size", "330", "--out", tmp_path / "whole")
    before = Tokenizer.from_file(str(tmp_path / "whole" / "tokenizer.json"))
    only = tmp_path / "only.txt"
    only.write_text("river gate pipe\n" * 20)
    code, said, _ = penstock("prune", tmp_path / "whole", only, "--out", tmp_path / "small")
    assert code == 0
    assert "kept: used" in said
    small = Tokenizer.from_file(str(tmp_path / "small" / "tokenizer.json"))
    old = np.load(tmp_path / "small" / "old_ids.npy")
    assert len(old) == small.get_vocab_size() < before.get_vocab_size()
    ids = small.encode("river gate pipe\n").ids
    assert old[ids].tolist() == before.encode("river gate pipe\n").ids
    assert json.loads((tmp_path / "small" / "made_from.json").read_text())["verb"] == "prune"

    options = ("--data", data, "--reference", "whole", "--out", tmp_path / "compared")
    code, said, _ = penstock("compare", tmp_path / "whole", f"pruned={tmp_path / 'small'}", *options)
    assert code == 0
    assert "bytes/token" in said
    figures = json.loads((tmp_path / "compared" / "comparison.json").read_text())["figures"]
    assert {figure["tokenizer"] for figure in figures} == {"whole", "pruned"}
    assert all(figure["nsl"] >= 1 for figure in figures)
    assert (tmp_path / "compared" / "comparison.html").read_text().startswith("<!DOCTYPE html>")

    options = ("--merges", "40", "--out", tmp_path / "mixed")
    code, said, _ = penstock("infer-mixture", tmp_path / "whole", data, *options)
    assert code == 0
    assert "No category is named other" in said
    mixture = json.loads((tmp_path / "mixed" / "mixture.json").read_text())
    assert mixture["in_bytes"]["web"] == pytest.approx(0.47, abs=0.05)
    code, said, _ = penstock("infer-mixture", tmp_path / "whole", data, "--category", "web", "--merges", "40")
    assert code == 0
    assert "other" in said
    assert "No category is named other" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "DATA", "--weight", "web", "--out", "OUT"), "--weight web: allowed NAME=VALUE"),
        (("train", "DATA", "--weight", "web=much", "--out", "OUT"), "--weight web: got 'much', allowed a number"),
        (("train", "DATA", "--weight", "web=1", "--weight", "web=2", "--out", "OUT"), "got it twice"),
        (("train", "DATA", "--weight", "wbe=1", "--out", "OUT"), "did you mean web?"),
        (("train", "DATA", "--digits", "both", "--out", "OUT"), "digits: got 'both'"),
        (("train", "DATA", "--split", "half", "--out", "OUT"), "split: got 'half'"),
        (("train", "NONE.jsonl", "--out", "OUT"), "NONE.jsonl"),
        (("compare", "NONE", "--data", "DATA"), "cannot be read"),
        (("compare", "DATA", "--data", "DATA"), "not a tokenizer.json"),
        (("compare", "a=x", "a=y", "--data", "DATA"), "two are called a"),
    ],
)
def test_a_mistake_is_one_line_on_stderr(penstock, data, tmp_path, arguments, message):
    places = {"DATA": data, "OUT": tmp_path / "out"}
    code, _, said = penstock(*(places.get(word, word) for word in arguments))
    assert code == 1
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
