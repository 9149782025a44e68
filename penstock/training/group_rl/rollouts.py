"""Where a step's answers come from, and answers as Parquet.

    LivePolicy       the model that learns, in this process
    StoredRollouts   files of answers that were sampled before, with their log-probabilities (``stored``)
    ServedPolicy     a server that speaks OpenAI's API (``served``)

The last two are off-policy: whoever answered does not learn, so the policy moves away from it step by step, and ratios
make up for that only within their clipping.

Price: some 8 bytes a token on the disk, compressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.storage import storage_errors
from penstock.training.group_rl.advantages import Advantages
from penstock.training.group_rl.config import GroupRLConfig
from penstock.training.group_rl.problems import ProblemTable
from penstock.training.group_rl.questions import Questions
from penstock.training.group_rl.records import Ints, Rewards, Rollouts
from penstock.training.group_rl.sampling import Sampler

TEMPERATURE = b"penstock.temperature"  # in the schema's metadata: at which the answers were sampled

ROLLOUTS = pa.schema(
    [
        pa.field("step", pa.int64(), nullable=False),  # that learned from it, from 1
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("group_id", pa.string(), nullable=False),
        pa.field("transform", pa.string(), nullable=False),  # "original" or how the phrasing was made
        pa.field("question", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),  # the answer, without special tokens
        pa.field("outcome", pa.string(), nullable=False),  # correct, wrong, timeout, error, …
        pa.field("reward", pa.float64()),  # null where it is not known
        pa.field("advantage", pa.float64(), nullable=False),
        pa.field("ended", pa.bool_(), nullable=False),  # by itself
        pa.field("version", pa.int64(), nullable=False),  # updates that the policy which answered had seen
        pa.field("prompt", pa.list_(pa.int32()), nullable=False),  # token ids
        pa.field("response", pa.list_(pa.int32()), nullable=False),  # with the one that ended it
        pa.field("logprobs", pa.list_(pa.float32()), nullable=False),  # nats, of each token of the response
    ]
)


class RolloutSource(Protocol):
    """Answers questions."""

    @property
    def identity(self) -> Any:
        """What tells it from another, as JSON values."""

    @property
    def questions(self) -> Questions:
        """What it can be asked: problems are places in their table."""

    def __call__(self, step: int, problems: Ints, version: int) -> tuple[Rollouts, dict[str, int]]:
        """``rollouts`` answers to each of these problems at ``step``, from 0, and how many were lost and why.

        Args:
            version: updates that the model which learns has seen.
        """


class LivePolicy:
    """RolloutSource: the model that learns."""

    identity = "live"

    def __init__(self, sampler: Sampler, tokenizer: Any, questions: Questions, config: GroupRLConfig) -> None:
        self.sampler, self.tokenizer, self.questions, self.config = sampler, tokenizer, questions, config

    def __call__(self, step: int, problems: Ints, version: int) -> tuple[Rollouts, dict[str, int]]:
        config = self.config
        path = ("rollouts", step)
        answers = sample_answers(
            self.sampler, self.tokenizer, self.questions, problems, config, config.rollouts, version, path
        )
        return answers, {}


def sample_answers(
    sampler: Sampler,
    tokenizer: Any,
    questions: Questions,
    problems: Ints,
    config: GroupRLConfig,
    samples: int,
    version: int,
    path: tuple[int | str, ...],
) -> Rollouts:
    """``samples`` answers to each problem, those of one together, from streams of their own (seed, path)."""
    problem = np.repeat(problems, samples)
    sample = np.tile(np.arange(samples), len(problems))
    prompts = tuple(questions.prompts[place] for place in problem.tolist())
    sampled = sampler(
        prompts,
        questions.streams(problem, sample, config.seed, *path),
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        batch=config.rollout_batch,
    )
    return Rollouts(
        problem=problem,
        group=questions.table.group_of[problem],
        prompts=prompts,
        responses=sampled.responses,
        logprobs=sampled.logprobs,
        ended=sampled.ended,
        texts=texts_of(tokenizer, sampled.responses),
        version=version,
    )


def texts_of(tokenizer: Any, responses: Sequence[Any]) -> tuple[str, ...]:
    """Responses as text, without special tokens."""
    ids = [response.tolist() for response in responses]
    found = tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return tuple(str(text) for text in found)


def write_rollouts(
    path: Path,
    step: int,
    table: ProblemTable,
    rollouts: Rollouts,
    rewards: Rewards,
    advantages: Advantages,
    *,
    temperature: float,
) -> None:
    """Write the answers of one step; the file is whole or not there.

    Raises:
        StorageError: the disk is full or read-only.
    """
    problems = [table.problems[place] for place in rollouts.problem.tolist()]
    count = len(rollouts)
    columns: dict[str, Any] = {
        "step": np.full(count, step),
        "problem_id": [problem.problem_id for problem in problems],
        "group_id": [problem.group_id for problem in problems],
        "transform": [problem.transform for problem in problems],
        "question": [problem.prompt for problem in problems],
        # half a surrogate pair, which a text of broken tokens may hold, is no UTF-8
        "text": [text.encode("utf-8", "replace").decode() for text in rollouts.texts],
        "outcome": list(rewards.outcomes),
        "reward": pa.array(rewards.values, mask=~rewards.known),
        "advantage": advantages.values,
        "ended": rollouts.ended,
        "version": np.full(count, rollouts.version),
        "prompt": _lists(rollouts.prompts, pa.int32()),
        "response": _lists(rollouts.responses, pa.int32()),
        "logprobs": _lists(rollouts.logprobs, pa.float32()),
    }
    told = ROLLOUTS.with_metadata({TEMPERATURE: repr(temperature).encode()})
    arrays = [pa.array(columns[field.name], field.type) for field in ROLLOUTS]
    with storage_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".tmp-{path.name}")
        pq.write_table(pa.Table.from_arrays(arrays, schema=told), temporary, compression="zstd")
        temporary.replace(path)


def _lists(arrays: Sequence[Any], kind: pa.DataType) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])])
    flat = np.concatenate(arrays) if len(arrays) else np.zeros(0)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat, kind))
