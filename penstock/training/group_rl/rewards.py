"""What answers are worth: the final answer compared with the problem's, or a function of yours.

    answer            1 for the right final answer, 0 for another or none, by ``AnswerVerifier`` in processes that can
                      be killed. A comparison that takes too long or fails says nothing about the answer.
    module:function   function(text, problem) -> number, or None for "cannot say"; ``problem`` is a ``Problem`` of the
                      table. It runs in this process, one answer after another, and must bound its own time.

An answer about which nothing can be said is not known: it enters no statistic of its group and no loss. It is counted,
and the first cause of a step is kept, as a reward that always fails would otherwise look like a policy that learns
nothing.

Price: ``answer`` some 10 microseconds where text decides, else a few milliseconds on a worker.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from penstock.errors import ConfigError
from penstock.generators.verification.workers import AnswerVerifier
from penstock.training.group_rl.config import GroupRLConfig
from penstock.training.group_rl.problems import Problem
from penstock.training.group_rl.records import Rewards

_LONGEST = 200  # characters of a cause


class RewardModel(Protocol):
    """Says what answers are worth."""

    def __call__(self, texts: Sequence[str], problems: Sequence[Problem]) -> Rewards:
        """Rewards of N answers, each to the problem at its place."""


def reward_model(config: GroupRLConfig, stack: ExitStack) -> RewardModel:
    """The reward that the configuration names; processes it starts end with ``stack``.

    Raises:
        ConfigError: the function cannot be imported or called.
    """
    if config.reward != "answer":
        return FunctionReward(config.reward)
    verifier = AnswerVerifier(workers=config.reward_workers, deadline=config.reward_deadline)
    return AnswerReward(stack.enter_context(verifier))


class AnswerReward:
    """RewardModel: the final answer of a text compared with the problem's.

    Outcomes are ``correct``, ``wrong``, ``timeout`` and ``error``; the last two are not known.
    """

    def __init__(self, verifier: AnswerVerifier) -> None:
        self.verifier = verifier

    def __call__(self, texts: Sequence[str], problems: Sequence[Problem]) -> Rewards:
        pairs = [(problem.answer, text) for problem, text in zip(problems, texts, strict=True)]
        found = self.verifier.verify(pairs)
        lost = [one for one in found if one.reward is None]
        return Rewards(
            values=np.array([one.reward or 0.0 for one in found], dtype=np.float64),
            known=np.array([one.reward is not None for one in found], dtype=np.bool_),
            outcomes=tuple(one.result for one in found),
            cause=f"{lost[0].result}: {lost[0].detail}"[:_LONGEST] if lost else "",
        )


class FunctionReward:
    """RewardModel: a function of (text, problem).

    Outcomes are ``scored``, ``unknown`` (it returned None), ``invalid`` (no number, or NaN or infinite) and ``error``
    (it raised); all but the first are not known.
    """

    def __init__(self, name: str) -> None:
        """``name`` is ``module:function``. Raises ConfigError when there is no such function."""
        module, _, attribute = name.partition(":")
        advice = "name a function of (text, problem) as module:function, in a module that Python can import from here"
        try:
            found = getattr(import_module(module), attribute, None)
        except Exception as error:  # whatever an import raises
            raise ConfigError(
                f"reward: {name} cannot be imported ({type(error).__name__}: {error}); {advice}"
            ) from error
        if not callable(found):
            raise ConfigError(f"reward: got {name}, and {module} has no function {attribute!r}; {advice}")
        self.name = name
        self.function: Callable[[str, Problem], Any] = found

    def __call__(self, texts: Sequence[str], problems: Sequence[Problem]) -> Rewards:
        found = [self._one(text, problem) for text, problem in zip(texts, problems, strict=True)]
        values = np.array([math.nan if value is None else value for _, value, _ in found], dtype=np.float64)
        known = ~np.isnan(values)
        return Rewards(
            values=np.where(known, values, 0.0),
            known=known,
            outcomes=tuple(outcome for outcome, _, _ in found),
            cause=next((why for _, _, why in found if why), "")[:_LONGEST],
        )

    def _one(self, text: str, problem: Problem) -> tuple[str, float | None, str]:
        """(outcome, reward, why it is not known)."""
        try:
            value = self.function(text, problem)
        except Exception as error:  # noqa: BLE001  of a user's function: one rollout is lost
            return "error", None, f"{self.name} raised {type(error).__name__}: {error}"
        if value is None:
            return "unknown", None, f"{self.name} returned None"
        if not isinstance(value, numbers.Real | np.bool_) or not math.isfinite(value):
            return "invalid", None, f"{self.name} returned {value!r}"
        return "scored", float(value), ""
