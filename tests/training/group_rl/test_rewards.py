"""Rewards: what is not known is masked and counted, never taken for wrong; a mistake costs its own rollout."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from penstock.errors import ConfigError
from penstock.generators.verification.workers import AnswerVerifier, Verified
from penstock.training.group_rl.config import GroupRLConfig
from penstock.training.group_rl.problems import ProblemTable
from penstock.training.group_rl.rewards import AnswerReward, FunctionReward, reward_model


class Fake(AnswerVerifier):
    """Says what it is told to."""

    def __init__(self, *results: Verified) -> None:
        self.results = list(results)
        self.asked: list[tuple[str, str]] = []

    def verify(self, pairs: Sequence[tuple[str, str]]) -> list[Verified]:
        self.asked += pairs
        return self.results


def test_answers_are_compared_gold_first_and_what_cannot_be_said_is_not_known(sums: ProblemTable) -> None:
    fake = Fake(
        Verified("correct", "2", "text"),
        Verified("wrong", "3", "library"),
        Verified("timeout", "x", "library", "no answer within 5 s of computing"),
        Verified("error", "y", "library", "out of memory"),
    )
    rewards = AnswerReward(fake)(["a", "b", "c", "d"], sums.problems[:4])
    assert fake.asked == [("2", "a"), ("2", "b"), ("2", "c"), ("3", "d")]
    assert rewards.values.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert rewards.known.tolist() == [True, True, False, False]
    assert rewards.outcomes == ("correct", "wrong", "timeout", "error")
    assert rewards.counts == {"correct": 1, "error": 1, "timeout": 1, "wrong": 1}
    assert rewards.cause == "timeout: no answer within 5 s of computing"


def test_the_reward_of_the_configuration_is_the_verifier_or_a_function(
    sums: ProblemTable, reward: Callable[..., str]
) -> None:
    with ExitStack() as stack:
        rewards = reward_model(GroupRLConfig(), stack)(["so \\boxed{2}", "5", "x" * 200_001], sums.problems[:3])
    assert rewards.outcomes == ("correct", "wrong", "error")
    assert "200,001 characters" in rewards.cause
    with ExitStack() as stack:
        own = reward_model(GroupRLConfig(reward=reward(lambda text, problem: 0.5)), stack)
    assert isinstance(own, FunctionReward)


def test_a_function_is_given_text_and_problem_and_its_mistakes_cost_one_rollout_each(
    sums: ProblemTable, reward: Callable[..., str]
) -> None:
    def given(text: str, problem: Any) -> Any:
        if text == "throw":
            raise ZeroDivisionError("by zero")
        said = {"nan": math.nan, "inf": -math.inf, "none": None, "word": "1", "yes": True, "np": np.float32(0.25)}
        return said.get(text, float(problem.sub_index))

    texts = ["x", "none", "throw", "nan", "yes", "inf", "word", "np"]
    rewards = FunctionReward(reward(given))(texts, [sums.problems[2]] * 8)
    assert rewards.outcomes == ("scored", "unknown", "error", "invalid", "scored", "invalid", "invalid", "scored")
    assert rewards.known.tolist() == [True, False, False, False, True, False, False, True]
    assert rewards.values.tolist() == [2.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.25]
    assert rewards.cause == "made_rewards:given returned None"
    thrown = FunctionReward("made_rewards:given")(["throw"], sums.problems[:1])
    assert thrown.cause == "made_rewards:given raised ZeroDivisionError: by zero"
    assert FunctionReward("made_rewards:given")(["x"], sums.problems[:1]).cause == ""


def test_ctrl_c_in_a_function_is_no_mistake_of_it(sums: ProblemTable, reward: Callable[..., str]) -> None:
    def given(text: str, problem: Any) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FunctionReward(reward(given))(["a"], sums.problems[:1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_here:f", "cannot be imported .ModuleNotFoundError"),
        ("math:no_such", "math has no function 'no_such'"),
        ("math:pi", "math has no function 'pi'"),
    ],
)
def test_a_function_that_is_not_there_is_refused_at_the_start(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FunctionReward(name)
