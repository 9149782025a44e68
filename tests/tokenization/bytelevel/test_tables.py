"""What ``penstock bytes`` shows."""

import io
import json
import math
import sys

import numpy as np
import pytest
from rich.console import Console

from penstock.cli import main
from penstock.tokenization.bytelevel.distributions import STOP
from penstock.tokenization.bytelevel.sampling import Sampling
from penstock.tokenization.bytelevel.tables import show_bytes, symbol_name


@pytest.fixture
def shown(toy):
    def show(prompt, settings=None, **options):
        console = Console(file=io.StringIO(), width=100)
        show_bytes(toy, prompt, settings or Sampling(), console=console, **options)
        return console.file.getvalue()

    return show


def test_the_likeliest_bytes_stand_first_with_their_probabilities(shown, toy):
    exact = np.exp(toy.start([b"ca"]).log_probs()[0])
    lines = shown(b"ca").splitlines()
    rows = [line.split() for line in lines if line.startswith(("'", "STOP"))]
    order = np.argsort(-exact)[:4]
    assert [row[0] for row in rows[:4]] == [symbol_name(symbol) for symbol in order.tolist()]
    assert [float(row[1 if row[0] == "STOP" else 2]) for row in rows[:4]] == pytest.approx(exact[order], abs=1e-6)


def test_what_is_left_out_of_the_table_is_summed_up(shown, toy):
    exact = np.exp(toy.start([b"ca"]).log_probs()[0])
    found = shown(b"ca", top=1)
    (line,) = [line for line in found.splitlines() if line.startswith("all others")]
    assert float(line.rsplit(" ", 1)[1]) == pytest.approx(1 - exact.max(), abs=1e-6)


def test_the_probability_of_the_prompt_is_shown_on_request(shown, toy):
    total = math.log(toy.probability(b"ca"))
    assert "log P" not in shown(b"ca")
    found = shown(b"ca", logprob=True)
    assert f"2 bytes: {total:.4f} nats, {-total / math.log(2) / 2:.4f} bits a byte" in found


def test_samples_and_what_tokens_say_stand_beside_it_on_request(shown):
    plain = shown(b"ca")
    assert "Continued" not in plain
    assert "by tokens" not in plain
    found = shown(b"ca", Sampling(max_bytes=3, seed=1), samples=2, compare=True)
    titles = [line for line in found.splitlines() if line.strip().startswith("Continued")]
    assert [title.strip() for title in titles] == [
        "Continued by exact bytes",
        "Continued by tokens",
        "Continued by healed tokens",
    ]
    assert "by tokens" in found
    assert "healed" not in shown(b"", compare=True)


def test_bytes_are_named_as_in_a_literal():
    assert [symbol_name(symbol) for symbol in (97, 10, 0xE2, 39, STOP)] == ["'a'", r"'\n'", r"'\xe2'", '"\'"', "STOP"]


@pytest.fixture
def command(tiny_models, tmp_path, monkeypatch, capsys):
    """``penstock bytes`` on a saved model: (exit code, stdout, stderr)."""
    model, tokenizer = tiny_models[0]
    model.save_pretrained(tmp_path)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["penstock", "bytes", str(tmp_path), *arguments])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    return call


def test_the_verb_shows_the_next_byte_of_a_folders_model(command, byte_models, monkeypatch):
    exact = np.exp(byte_models[0].start([b"the threa"]).log_probs()[0])
    code, out, _ = command("the threa", "--top", "1", "--logprob", "--sample", "1", "--compare", "--device", "cpu")
    assert code == 0
    assert f"{exact.max():.6f}" in out
    assert "Continued by healed tokens" in out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the threa")))
    piped = command("-", "--top", "1", "--device", "cpu")
    assert piped[:2] == command("the threa", "--top", "1", "--device", "cpu")[:2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "--suffix", "b"), "--suffix and --layout"),
        (("a", "--suffix", "b", "--layout", "<s>{suffix}<p>{prefix}", "--compare"), "--compare and --suffix"),
        (("a", "--layout", "{prefix}"), "--suffix and --layout"),
        (("a", "--temperature", "-1"), "temperature"),
        (("a", "--canonical", "maybe"), "canonical"),
    ],
)
def test_the_verb_refuses_what_means_nothing(command, arguments, message):
    code, _, err = command(*arguments)
    assert code == 1
    assert message in err
