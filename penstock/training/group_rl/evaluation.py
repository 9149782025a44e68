"""pass@k on held-out problems, and the file that it is written to.

Each of a set's first ``eval_problems`` phrasings is answered ``eval_samples`` times, at the temperature of training. An
answer passes when its reward is 1 or more. Answers draw from streams of (seed, set), the same at every evaluation, so
that the difference of two evaluations is one of policies and less of luck.

``evaluation.jsonl`` has one line an evaluation::

    {"step": 50, "sets": {"originals": {
        "problems": 128, "samples": 32, "outcomes": {"correct": 1270, …}, "length": 31.2, "cut": 0.01,
        "by_transform": {"original": 0.31}, "pass": {"1": {"mean": 0.31, "error": 0.03, "problems": 128}, …}}}}

``mean`` is over problems by the unbiased estimator (``passk``); ``error`` is its standard error, where problems of one
group are not independent and count together; a problem of which fewer than k answers are known is left out of pass@k.

Price: ``eval_problems`` x ``eval_samples`` answers a set.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import DatasetError
from penstock.storage import storage_errors
from penstock.training.group_rl.config import GroupRLConfig
from penstock.training.group_rl.passk import pass_at_k
from penstock.training.group_rl.questions import Questions
from penstock.training.group_rl.records import Floats, Ints, Rewards
from penstock.training.group_rl.rewards import RewardModel
from penstock.training.group_rl.rollouts import sample_answers
from penstock.training.group_rl.sampling import Sampler
from penstock.training.metrics import whole_lines


def evaluate(
    sampler: Sampler,
    tokenizer: Any,
    sets: Mapping[str, Questions],
    reward: RewardModel,
    config: GroupRLConfig,
) -> dict[str, Any]:
    """What the policy does on each set: the ``sets`` of a line of ``evaluation.jsonl``."""
    return {name: _evaluate_set(name, sampler, tokenizer, sets[name], reward, config) for name in sorted(sets)}


def _evaluate_set(
    name: str, sampler: Sampler, tokenizer: Any, questions: Questions, reward: RewardModel, config: GroupRLConfig
) -> dict[str, Any]:
    asked = np.arange(min(len(questions.table), config.eval_problems))
    samples = config.eval_samples
    answers = sample_answers(sampler, tokenizer, questions, asked, config, samples, 0, ("evaluation", name))
    problems = [questions.table.problems[place] for place in answers.problem.tolist()]
    rewards = reward(answers.texts, problems)
    n, c = passed(rewards, len(asked))
    lengths = np.array([len(response) for response in answers.responses])
    transforms = np.array([questions.table.problems[place].transform for place in asked.tolist()])
    return {
        "problems": len(asked),
        "samples": samples,
        "outcomes": rewards.counts,
        "length": float(lengths.mean()),
        "cut": float(np.mean(~answers.ended)),
        "by_transform": {
            str(kind): _share(c[transforms == kind], n[transforms == kind]) for kind in np.unique(transforms)
        },
        "pass": {str(k): mean_pass(n, c, k, questions.table.group_of[asked]) for k in config.eval_ks},
    }


def passed(rewards: Rewards, problems: int) -> tuple[Ints, Ints]:
    """Known answers of each problem, and those that pass, two (problems,): of the rewards of equally many each."""
    known = rewards.known.reshape(problems, -1)
    good = known & (rewards.values.reshape(problems, -1) >= 1.0)
    return known.sum(axis=1), good.sum(axis=1)


def mean_pass(n: Ints, c: Ints, k: int, groups: Ints) -> dict[str, Any]:
    """pass@k over problems with at least k known answers: its mean, its standard error, and how many they are.

    Args:
        n, c: (problems,) known answers, and those that pass.
        groups: (problems,) problems of one group are answers to one question: only groups are independent.
    """
    enough = n >= k
    count = int(enough.sum())
    if not count:
        return {"mean": None, "error": None, "problems": 0}
    values = pass_at_k(n[enough], c[enough], k)
    return {
        "mean": float(values.mean()),
        "error": clustered_error(values, groups[enough]),
        "problems": count,
    }


def clustered_error(values: Floats, clusters: NDArray[Any]) -> float | None:
    """Standard error of the mean of values (n,) that are independent between clusters only; None for one cluster.

    With one value a cluster it is the standard deviation (n - 1) over the root of n.
    """
    _, index = np.unique(clusters, return_inverse=True)
    sums = np.bincount(index, values - values.mean())
    if len(sums) < 2:
        return None
    return float(np.sqrt(np.square(sums).sum() * len(sums) / (len(sums) - 1)) / len(values))


def _share(good: Ints, known: Ints) -> float | None:
    return float(good.sum() / known.sum()) if known.sum() else None


class EvaluationLog:
    """``evaluation.jsonl`` of a run: one line at each step that is due, in order."""

    def __init__(self, path: Path, due: Sequence[int]) -> None:
        """``due`` are the steps after which an evaluation is made; 0 is before the first."""
        self.path, self.due = path, tuple(due)
        self.lines: list[dict[str, Any]] = []

    def open(self, step: int) -> None:
        """Take over the lines of a run that goes on after ``step``; later ones are dropped.

        Raises:
            DatasetError: a line up to ``step`` is missing.
        """
        found = [line for line in whole_lines(self.path) if line["step"] <= step]
        expected = [due for due in self.due if due <= step] if step else []
        if step and [line["step"] for line in found] != expected:
            raise DatasetError(
                f"{self.path}: holds evaluations of the steps {[line['step'] for line in found]}, allowed {expected} "
                "before the checkpoint; put the file back, or remove the run's folder to start anew"
            )
        self.lines = found if step else []
        self._write()

    def append(self, step: int, sets: dict[str, Any]) -> dict[str, Any]:
        """Write the line of an evaluation after ``step``; it is on the disk when this returns."""
        line = {"step": step, "sets": sets}
        self.lines.append(line)
        self._write()
        return line

    def _write(self) -> None:
        """All lines anew: there are few, and the file is whole at any moment."""
        with storage_errors(str(self.path)):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.path.with_name(f".tmp-{self.path.name}")
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(line, allow_nan=False, ensure_ascii=False) + "\n" for line in self.lines)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
