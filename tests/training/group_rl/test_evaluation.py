"""pass@k on held-out problems: means and errors by brute force, equal draws each time, a file that lasts."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st

from penstock.errors import DatasetError
from penstock.training.group_rl.evaluation import EvaluationLog, clustered_error, evaluate, mean_pass, passed
from penstock.training.group_rl.problems import ProblemTable
from penstock.training.group_rl.questions import Questions
from penstock.training.group_rl.records import Rewards


def test_an_answer_passes_with_a_reward_of_one_and_unknown_ones_are_no_answers() -> None:
    values = np.array([1.0, 0.0, 0.9, 1.5, 1.0, 1.0])
    known = np.array([True, True, True, True, False, True])
    n, c = passed(Rewards(values=values, known=known, outcomes=("",) * 6), 2)
    assert (n.tolist(), c.tolist()) == ([3, 2], [1, 2])


@bounds(deadline=None)
@given(st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_right_answer_over_problems_with_enough(data: Any) -> None:
    k = data.draw(st.integers(1, 4))
    answers = data.draw(st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=6))
    n, c = np.array([len(a) for a in answers]), np.array([sum(a) for a in answers])
    found = mean_pass(n, c, k, np.arange(len(answers)))
    each = [np.mean([any(draw) for draw in combinations(a, k)]) for a in answers if len(a) >= k]
    assert found["problems"] == len(each)
    if not each:
        assert found["mean"] is None
        return
    assert found["mean"] == pytest.approx(np.mean(each))
    error = None if len(each) < 2 else pytest.approx(np.std(each, ddof=1) / np.sqrt(len(each)), abs=1e-12)
    assert found["error"] == error


def test_phrasings_of_one_question_are_no_independent_evidence() -> None:
    values, groups = np.array([1.0, 0.0, 0.5, 0.7]), np.arange(4)
    alone = clustered_error(values, groups)
    assert alone is not None
    # each value four times over in one group says what it says once
    assert clustered_error(np.repeat(values, 4), np.repeat(groups, 4)) == pytest.approx(alone)
    assert clustered_error(np.repeat(values, 4), np.arange(16)) < alone / 1.8  # type: ignore[operator]
    assert clustered_error(values, np.zeros(4)) is None


class Echo:
    """Stands for a sampler: an answer is one token, decided by the stream; the last prompt's answers are cut."""

    def __init__(self) -> None:
        self.streams: list[Any] = []

    def __call__(self, prompts: Any, streams: Any, **settings: Any) -> Any:
        from penstock.training.group_rl.sampling import Sampled

        self.streams.append(streams)
        tokens = tuple(np.array([int(s) % 2, 9], dtype=np.int32)[: 1 + n % 2] for n, s in enumerate(streams))
        ended = np.array([prompt is not prompts[-1] for prompt in prompts])
        return Sampled(tokens, tuple(np.zeros(len(t), dtype=np.float32) for t in tokens), ended)


class Words:
    """Stands for a tokenizer."""

    def batch_decode(self, ids: Any, **_: Any) -> list[str]:
        return [str(one[0]) for one in ids]


def parity(texts: Any, problems: Any) -> Rewards:
    values = np.array([float(text == "1") for text in texts])
    return Rewards(values=values, known=np.ones(len(texts), dtype=np.bool_), outcomes=("seen",) * len(texts))


def test_a_set_is_its_first_phrasings_with_the_same_draws_at_every_evaluation(
    sums: ProblemTable, settings: Any
) -> None:
    prompts = tuple(np.array([n], dtype=np.int32) for n in range(len(sums)))
    questions = Questions(sums, prompts, np.arange(len(sums), dtype=np.uint64))
    config = settings(eval_problems=5, eval_samples=40, eval_ks=(1, 40))
    sampler: Any = Echo()
    found = [evaluate(sampler, Words(), {"b": questions, "a": questions}, parity, config) for _ in range(2)]
    first, other, again, _ = sampler.streams
    assert len(first) == 5 * 40
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)  # a set of another name draws anew
    record = found[0]["a"]
    assert list(found[0]) == ["a", "b"]
    right = np.array([int(s) % 2 for s in first]).reshape(5, 40)
    assert record["pass"]["1"]["mean"] == pytest.approx(right.mean())
    assert record["pass"]["40"]["mean"] == pytest.approx(right.any(axis=1).mean())
    assert record["by_transform"]["original"] == pytest.approx(right[[0, 3]].mean())
    assert record["by_transform"]["words"] == pytest.approx(right[2].mean())
    assert (record["problems"], record["samples"], record["outcomes"]) == (5, 40, {"seen": 200})
    assert (record["cut"], record["length"]) == (0.2, 1.5)


def test_the_file_goes_on_after_the_step_that_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.jsonl"
    log = EvaluationLog(path, due=[0, 2, 4, 5])
    log.open(0)
    for step in (0, 2, 4):
        log.append(step, {"a": step})
    with path.open("a") as file:
        file.write('{"step": 5, "se')  # a kill while it was written
    again = EvaluationLog(path, due=[0, 2, 4, 5])
    again.open(3)
    assert [line["step"] for line in again.lines] == [0, 2]
    again.append(4, {"a": "anew"})
    assert [json.loads(line)["sets"]["a"] for line in path.read_text().splitlines()] == [0, 2, "anew"]
    # from the start everything is measured again
    again.open(0)
    assert path.read_text() == ""
    with pytest.raises(DatasetError, match=r"holds evaluations of the steps \[\], allowed \[0, 2\]"):
        again.open(2)
