"""Answers that were sampled before, out of Parquet files: ``StoredRollouts``.

Rows have the columns of ``rollouts.ROLLOUTS``, as a run writes them. Of rows from elsewhere ``problem_id``, ``prompt``,
``response`` and ``logprobs`` are needed; ``ended`` and ``text`` follow from the tokens where they are not there. The
temperature is in the schema's metadata (``penstock.temperature``), 1 where nothing is said. Rewards are given anew.

Who sampled them does not learn: see ``rollouts``.

Price: all answers in memory, some 20 bytes a token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from penstock import schema
from penstock.errors import ConfigError, DatasetError, InputError
from penstock.training.group_rl.config import GroupRLConfig
from penstock.training.group_rl.questions import Questions
from penstock.training.group_rl.records import Ints, Rollouts
from penstock.training.group_rl.rollouts import TEMPERATURE, texts_of

_REQUIRED = ("problem_id", "prompt", "response", "logprobs")
_OPTIONAL = ("ended", "text")


class StoredRollouts:
    """RolloutSource: answers out of files. The k-th time a question is asked it takes its next ``rollouts`` answers.

    After its last answer a problem begins again with the first; of one with fewer answers than a step takes, each is
    taken once a step. Problems without an answer are dropped from the questions and counted as ``unanswered``.

    Attributes:
        questions: those of them that can be trained on.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        questions: Questions,
        tokenizer: Any,
        config: GroupRLConfig,
        ends: Sequence[int],
    ) -> None:
        """
        Args:
            paths: Parquet files, and folders of them.
            questions: all that the run may ask.
            ends: token ids that end an answer.

        Raises:
            ConfigError: the answers were sampled at another temperature.
            DatasetError: a problem that is not in the table, another prompt than this run asks, an empty answer, or
                log-probabilities that are not one <= 0 for each token; no question has an answer. And as
                ``Questions.for_training``.
            InputError: a file cannot be read.
        """
        self.config = config
        self._tokenizer, self._ends = tokenizer, frozenset(ends)
        self._places = {problem.problem_id: place for place, problem in enumerate(questions.table.problems)}
        self._all = questions
        self._answers: dict[str, list[_Answer]] = {}
        digests = []
        for file in _files(paths):
            digests.append(self._read(file))
        unanswered = [place for name, place in self._places.items() if name not in self._answers]
        table = questions.table.without(unanswered, "unanswered")
        if not len(table):
            raise DatasetError("rollouts: no question with its original has an answer in the files; give others")
        self.questions = questions.of_table(table).for_training(config)
        self.identity = {"stored": sorted(digests)}

    def __call__(self, step: int, problems: Ints, version: int) -> tuple[Rollouts, dict[str, int]]:
        """Answers to these problems of ``questions``."""
        turn = self.questions.epoch(step, self.config) * self.config.rollouts
        taken, places = [], []
        for place in problems.tolist():
            found = self._answers[self.questions.table.problems[place].problem_id]
            count = min(self.config.rollouts, len(found))
            taken += [found[(turn + number) % len(found)] for number in range(count)]
            places += [place] * count
        problem = np.array(places, dtype=np.int64)
        responses = tuple(answer.response for answer in taken)
        texts = iter(texts_of(self._tokenizer, [answer.response for answer in taken if answer.text is None]))
        return Rollouts(
            problem=problem,
            group=self.questions.table.group_of[problem],
            prompts=tuple(self.questions.prompts[place] for place in places),
            responses=responses,
            logprobs=tuple(answer.logprobs for answer in taken),
            ended=np.array([answer.ended for answer in taken], dtype=np.bool_),
            texts=tuple(next(texts) if answer.text is None else answer.text for answer in taken),
            version=0,
        ), {}

    def _read(self, file: Path) -> str:
        """Take the answers of a file; the digest of its bytes."""
        try:
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            table = pq.read_table(file)
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"{file}: cannot be read as rollouts ({error}); give Parquet") from error
        schema.require(table.column_names, _REQUIRED, where=str(file))
        temperature = float((table.schema.metadata or {}).get(TEMPERATURE, b"1.0"))
        if temperature != self.config.temperature:
            raise ConfigError(
                f"temperature: got {self.config.temperature:g}, allowed {temperature:g}, at which the answers of "
                f"{file} were sampled: their log-probabilities are of that policy"
            )
        columns = [name for name in (*_REQUIRED, *_OPTIONAL) if name in table.column_names]
        for number, row in enumerate(table.select(columns).to_pylist()):
            self._take(row, f"{file}: row {number}")
        return digest

    def _take(self, row: Mapping[str, Any], where: str) -> None:
        name = row["problem_id"]
        place = self._places.get(name)
        if place is None:
            raise DatasetError(
                f"{where}: answers problem {name!r}, which is not in the table of problems; give the problems that "
                "were asked, or leave the row out"
            )
        if not np.array_equal(np.asarray(row["prompt"], dtype=np.int64), self._all.prompts[place]):
            raise DatasetError(
                f"{where}: problem {name} was asked by other tokens than this run asks it; keep instruction and "
                "tokenizer as they were, since log-probabilities are of answers after that prompt"
            )
        response = np.asarray(row["response"], dtype=np.int32)
        logprobs = np.asarray(row["logprobs"], dtype=np.float32)
        # NaN fails the comparison too; rounding may leave a sure token a little above 0
        if not len(response) or len(response) != len(logprobs) or not bool((logprobs <= 1e-3).all()):
            raise DatasetError(
                f"{where}: got {len(response)} tokens and {len(logprobs)} log-probabilities, allowed one finite number "
                "of at most 0 for each token, and one token or more; sample with log-probabilities"
            )
        ended = row.get("ended")
        self._answers.setdefault(name, []).append(
            _Answer(response, logprobs, int(response[-1]) in self._ends if ended is None else ended, row.get("text"))
        )


class _Answer:
    """A stored answer."""

    __slots__ = ("ended", "logprobs", "response", "text")

    def __init__(
        self, response: NDArray[np.int32], logprobs: NDArray[np.float32], ended: bool, text: str | None
    ) -> None:
        self.response, self.logprobs, self.ended, self.text = response, logprobs, ended, text


def _files(paths: Sequence[str | Path]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"{path}: holds no .parquet file, allowed rollouts; give the folder of a run's rollouts")
        found += inside
    return found
