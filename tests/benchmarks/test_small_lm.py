"""The small model, its loop's figures, and jobs that are run once."""

import json
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

from benchmarks import small_lm
from benchmarks.harness import BenchmarkError
from benchmarks.small_lm import Job, Schedule, paired, run_jobs, seeds_row


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(small_lm, "multiplies_bfloat16", lambda: False)
    torch.manual_seed(0)
    return small_lm.SmallLM(8, vocabulary=32)


def test_losses_are_the_plain_cross_entropy_of_each_next_token(model):
    tokens = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]], dtype=np.uint16)
    losses, rows = model.token_losses(tokens)
    ids = torch.from_numpy(tokens.astype(np.int64))
    logits = model(ids[:, :-1]) @ model.tokens.weight.T
    plain = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    torch.testing.assert_close(losses, plain)
    assert rows.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert small_lm.evaluate(model, tokens, rows=1) == pytest.approx(float(plain.detach().mean()), abs=1e-6)


def test_a_loss_does_not_depend_on_what_follows(model):
    one = np.array([[3, 1, 4, 1, 5, 9]], dtype=np.uint16)
    other = np.array([[3, 1, 4, 1, 7, 2]], dtype=np.uint16)
    first, second = model.token_losses(one)[0], model.token_losses(other)[0]
    torch.testing.assert_close(first[:3], second[:3])
    assert float((first[3:] - second[3:]).detach().abs().min()) > 1e-4


def test_the_learning_rate_rises_and_reaches_zero_after_the_last_step():
    schedule = Schedule(steps=100, rows=1, length=2, evaluate_every=1, learning_rate=1.0, warmup=10)
    rates = [schedule.learning_rate_at(step) for step in range(1, 102)]
    assert rates[4] == 0.5
    assert rates[9] == 1.0
    assert all(a > b for a, b in pairwise(rates[9:]))
    assert 0 < rates[99] < 0.001
    assert rates[100] == pytest.approx(0.0, abs=1e-12)


def test_seeds_are_paired_and_the_error_is_that_of_the_differences():
    found = paired({0: 1.0, 1: 2.0, 2: 4.0, 5: 0.0}, {2: 1.0, 1: 2.0, 0: 0.0, 9: 7.0})
    assert found.values == (1.0, 0.0, 3.0)
    assert found.mean == pytest.approx(4 / 3)
    assert found.standard_error == pytest.approx((7 / 3) ** 0.5 / 3**0.5)
    assert paired({0: 1.0}, {0: 0.5}).in_errors is None


def test_a_seed_without_a_value_is_shown_and_does_not_count():
    row = seeds_row("arm", {0: 1.0, 1: None, 2: 2.0}, "steps")
    assert (row["mean"], row["seeds"], row["by seed"]) == (1.5, 2, [1.0, None, 2.0])


WORK = """
import os
def count(folder, job):
    with open(folder / "calls", "a") as file:
        file.write(f"{job.arm}{job.seed} ")
    return {"seed": job.seed}
def die(folder, job):
    os._exit(3)
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Functions of a module that a worker process can import."""
    (tmp_path / "work_of_a_test.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(tmp_path))
    import work_of_a_test

    yield work_of_a_test
    del sys.modules["work_of_a_test"]


def test_a_job_with_a_result_is_not_run_again(work, tmp_path):
    done, missing = Job("set", "a", 0), Job("set", "a", 1)
    (tmp_path / done.file).write_text(json.dumps({"seed": 17}))
    found = run_jobs(work.count, tmp_path, [done, missing])
    assert found == {done: {"seed": 17}, missing: {"seed": 1}}
    assert run_jobs(work.count, tmp_path, [done, missing]) == found
    assert (tmp_path / "calls").read_text() == "a1 "


def test_a_worker_that_dies_is_told_and_what_was_done_stays(work, tmp_path):
    first, second = Job("set", "a", 0), Job("set", "a", 1)
    run_jobs(work.count, tmp_path, [first])
    with pytest.raises(BenchmarkError, match="run again"):
        run_jobs(work.die, tmp_path, [first, second])
    assert (tmp_path / first.file).exists()
    assert not (tmp_path / second.file).exists()


def test_documents_are_cut_into_pieces_and_a_short_rest_is_left_out(tmp_path):
    texts = {"one": ["the cat sat on the mat and the dog sat on the cat " * 20], "two": ["to be or not to be " * 40]}
    encode = small_lm.train_tokenizer(texts, tmp_path)
    pieces = small_lm.pieces_of("one", texts["one"], encode, 7)
    assert [piece.name for piece in pieces[:2]] == ["one/0/0", "one/0/7"]
    assert {piece.document for piece in pieces} == {"one/0"}
    assert {len(piece.tokens) for piece in pieces} == {7}

    from tokenizers import Tokenizer

    decode = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).decode
    text = "".join(decode(piece.tokens.tolist()) for piece in pieces)
    assert texts["one"][0].startswith(text)
    assert len(text) > 0.9 * len(texts["one"][0])
