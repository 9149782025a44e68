"""Answers out of files: a run teaches again what it taught, and what does not belong is refused by name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.errors import ConfigError, DatasetError, InputError
from penstock.training.group_rl.config import GroupRLConfig
from penstock.training.group_rl.loop import learn
from penstock.training.group_rl.problems import ProblemTable
from penstock.training.group_rl.questions import Questions
from penstock.training.group_rl.rollouts import ROLLOUTS, TEMPERATURE
from penstock.training.group_rl.stored import StoredRollouts

Make = Callable[..., GroupRLConfig]
OFF_POLICY = "ignore:the policy learns from answers that another one gave:UserWarning"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def live(half_right: Path, sums: ProblemTable, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of one epoch in which the policy answered itself, at another temperature than 1."""
    config = GroupRLConfig(
        objective="grpo", steps=3, groups_per_step=4, rollouts=3, instruction="", max_new_tokens=4, device="cpu",
        threads=1, learning_rate=5e-3, temperature=0.9, reward_workers=1,
    )  # fmt: skip
    return learn(config, half_right, sums, tmp_path_factory.mktemp("live"), progress=False), config


@pytest.mark.filterwarnings(OFF_POLICY)
def test_a_runs_rollouts_teach_the_first_step_again_to_the_bit_and_then_are_off_policy(
    live: Any, half_right: Path, sums: ProblemTable, tmp_path: Path
) -> None:
    result, config = live
    again = learn(config, half_right, sums, tmp_path / "o", rollouts_from=result.rollouts, progress=False)
    before, after = lines(result.metrics), lines(again.metrics)
    assert after[0] == before[0]
    assert [record["behind"] for record in after] == [0, 1, 2]
    # the same answers from then on, though the policy that learns is the one that gave them here as well
    assert [record["reward"] for record in after] == [record["reward"] for record in before]
    assert after[2]["loss"] == pytest.approx(before[2]["loss"], abs=1e-6)
    first = [pq.read_table(folder / "step-00000003.parquet") for folder in (result.rollouts, again.rollouts)]
    assert first[0].drop(["version"]).equals(first[1].drop(["version"]))


def test_learning_off_policy_is_said_aloud(live: Any, half_right: Path, sums: ProblemTable, tmp_path: Path) -> None:
    result, config = live
    with pytest.warns(UserWarning, match="whose weights are not updated"):
        learn(config, half_right, sums, tmp_path / "o", rollouts_from=[result.rollouts], progress=False)
    # a run that is told of other answers is another run
    other = [result.rollouts / "step-00000001.parquet", result.rollouts / "step-00000003.parquet"]
    with pytest.warns(UserWarning, match="off-policy"), pytest.raises(DatasetError, match=r"another run: .*stored"):
        learn(config, half_right, sums, tmp_path / "o", rollouts_from=other, progress=False)


def test_a_swap_of_prompts_needs_the_policy_that_answered(
    live: Any, half_right: Path, sums: ProblemTable, tmp_path: Path
) -> None:
    config = dataclasses.replace(live[1], objective="ta-grpo", ratio_context="original_swap")
    with pytest.raises(ConfigError, match="ratio_context: got 'original_swap' with answers of another policy"):
        learn(config, half_right, sums, tmp_path / "o", rollouts_from=live[0].rollouts, progress=False)


class Codes:
    """A tokenizer of codes; texts are their sums."""

    def batch_decode(self, ids: Any, **_: Any) -> list[str]:
        return [str(sum(one)) for one in ids]


@pytest.fixture
def questions(sums: ProblemTable) -> Questions:
    prompts = tuple(np.array([n, 1], dtype=np.int32) for n in range(len(sums)))
    return Questions(sums, prompts, np.arange(len(sums), dtype=np.uint64))


def answer(questions: Questions, place: int, *response: int, **changes: Any) -> dict[str, Any]:
    name = questions.table.problems[place].problem_id
    logprobs = [-0.5] * len(response)
    row = {"problem_id": name, "prompt": questions.prompts[place].tolist(), "response": response, "logprobs": logprobs}
    return row | changes


def stored(path: Path, rows: list[dict[str, Any]], *, temperature: float | None = None) -> Path:
    kinds = {name: ROLLOUTS.field(name).type for name in rows[0]}
    told = None if temperature is None else {TEMPERATURE: repr(temperature).encode()}
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(kinds.items()).with_metadata(told)), path)
    return path


def opened(path: Path, questions: Questions, settings: Make, **changes: Any) -> StoredRollouts:
    config = settings(**{"groups_per_step": 1, "rollouts": 2, "objective": "grpo"} | changes)
    return StoredRollouts([path], questions, Codes(), config, ends=[9])


def test_a_question_takes_its_next_answers_each_time_it_is_asked(
    questions: Questions, settings: Make, tmp_path: Path
) -> None:
    rows = [answer(questions, place, n, 9) for place in (0, 3) for n in range(5)]
    rows += [answer(questions, 1, 7)]  # a variant with one answer, cut; the others of the table have none
    source = opened(stored(tmp_path / "r.parquet", rows), questions, settings)
    assert source.questions.table.dropped == {"unanswered": 36 - 3}
    ids = [problem.problem_id for problem in source.questions.table.problems]
    assert ids == [questions.table.problems[place].problem_id for place in (0, 1, 3)]
    taken = []
    for epoch in range(3):
        found, lost = source(2 * epoch, np.array([0, 1]), 0)  # two groups, one a step: an epoch is two steps
        taken.append([int(response[0]) for response in found.responses])
        assert lost == {}
        assert found.problem.tolist() == [0, 0, 1]
        assert found.ended.tolist() == [True, True, False]
        assert found.texts[-1] == "7"
        assert found.group.tolist() == [0, 0, 0]
        assert all(len(logprobs) == len(r) for logprobs, r in zip(found.logprobs, found.responses, strict=True))
    assert taken == [[0, 1, 7], [2, 3, 7], [4, 0, 7]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem_id": "1+1"}, r"row 1: answers problem '1\+1', which is not in the table"),
        ({"prompt": [0, 2]}, r"row 1: problem 2\+0 was asked by other tokens"),
        ({"logprobs": [-0.5]}, "row 1: got 2 tokens and 1 log-probabilities"),
        ({"logprobs": [-0.5, float("nan")]}, "row 1: got 2 tokens and 2 log-probabilities"),
        ({"logprobs": [-0.5, 0.7]}, "allowed one finite number of at most 0 for each token"),
        ({"response": [], "logprobs": []}, "row 1: got 0 tokens"),
    ],
)
def test_answers_that_do_not_belong_are_refused_by_file_and_row(
    questions: Questions, settings: Make, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    rows = [answer(questions, 0, 1, 9), answer(questions, 0, 1, 9) | changes]
    with pytest.raises(DatasetError, match=message):
        opened(stored(tmp_path / "r.parquet", rows), questions, settings)


def test_files_of_another_temperature_or_of_no_question_are_refused(
    questions: Questions, settings: Make, tmp_path: Path
) -> None:
    rows = [answer(questions, 0, 1, 9), answer(questions, 0, 2, 9)]
    path = stored(tmp_path / "r.parquet", rows, temperature=0.7)
    with pytest.raises(ConfigError, match=r"temperature: got 1, allowed 0\.7"):
        opened(path, questions, settings)
    assert len(opened(path, questions, settings, temperature=0.7).questions.table) == 1
    variants = stored(tmp_path / "v.parquet", [answer(questions, 1, 1, 9)])
    with pytest.raises(DatasetError, match="no question with its original has an answer"):
        opened(variants, questions, settings)
    pq.write_table(pa.table({"problem_id": ["a"], "prompt": [[1]]}), tmp_path / "c.parquet")
    with pytest.raises(DatasetError, match=r"missing column\(s\) response, logprobs"):
        opened(tmp_path / "c.parquet", questions, settings)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: holds no \.parquet file"):
        opened(tmp_path / "empty", questions, settings)
    with pytest.raises(InputError, match="cannot be read as rollouts"):
        opened(tmp_path / "none.parquet", questions, settings)
