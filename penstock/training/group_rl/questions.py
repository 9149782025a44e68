"""A table of problems as one policy reads it, and which of them are asked at which step: ``Questions``.

An epoch is a permutation of the groups, cut into steps of ``groups_per_step``; what is left over sits out that epoch,
so no step asks a question twice. Which groups, which phrasing of a group and what an answer draws from are functions of
the seed and the step: a run has no state here, and one that goes on asks what it would have asked.

Price: the prompts' tokens in memory; one permutation of the groups an epoch.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, DatasetError
from penstock.seeding import hash_ids, mix64, rehash, stream
from penstock.training.group_rl.config import GroupRLConfig
from penstock.training.group_rl.problems import ProblemTable, prompt_tokens
from penstock.training.group_rl.records import Ints

Streams = NDArray[np.uint64]


@dataclass(frozen=True)
class Questions:
    """Problems and the tokens that ask them.

    Attributes:
        table: the problems.
        prompts: token ids of each, one array a problem.
        hashes: (problems,) a hash of each problem's id.
    """

    table: ProblemTable
    prompts: tuple[NDArray[np.int32], ...]
    hashes: Streams

    @classmethod
    def of(
        cls, table: ProblemTable, tokenizer: Any, *, instruction: str, most: int | None, what: str = "problems"
    ) -> Questions:
        """Encode a table; a prompt of more than ``most`` tokens is dropped and counted as ``too_long``.

        Args:
            what: how a message names the table.

        Raises:
            ConfigError: the tokenizer makes no token of a question.
            DatasetError: no problem is left.
        """
        prompts = [prompt_tokens(tokenizer, problem.prompt, instruction) for problem in table.problems]
        empty = [problem for problem, prompt in zip(table.problems, prompts, strict=True) if not len(prompt)]
        if empty:
            raise ConfigError(
                f"{what}: problem {empty[0].problem_id} has no token, allowed one or more; give the model's own "
                "tokenizer"
            )
        whole = cls(table, tuple(prompts), hash_ids(problem.problem_id for problem in table.problems))
        if most is None:
            return whole
        table = table.without((i for i, prompt in enumerate(prompts) if len(prompt) > most), "too_long")
        if not len(table):
            raise DatasetError(
                f"{what}: all {len(prompts)} prompts have more than {most} tokens, which is what the model's context "
                "leaves beside max_new_tokens; lower max_new_tokens or take a model with a longer context"
            )
        return whole.of_table(table)

    def of_table(self, table: ProblemTable) -> Questions:
        """Those of a table that is a part of this one."""
        places = {problem.problem_id: place for place, problem in enumerate(self.table.problems)}
        kept = [places[problem.problem_id] for problem in table.problems]
        return Questions(table, tuple(self.prompts[place] for place in kept), self.hashes[kept])

    def for_training(self, config: GroupRLConfig) -> Questions:
        """Those that the configuration's groups are made of.

        Only the first ``max_phrasings`` of a group are asked, and a group whose pool would be one answer has no
        baseline: it is dropped and counted as ``alone``.

        Raises:
            DatasetError: no group is left.
            ConfigError: fewer groups than a step asks.
        """
        table = self.table
        if config.phrasings == "original":
            table = table.first_phrasings(1)
        elif config.max_phrasings is not None:
            table = table.first_phrasings(config.max_phrasings)
        if config.settled("pool") == "group" and config.phrasings == "all" and config.rollouts == 1:
            table = table.without((places[0] for places in table.groups if len(places) == 1), "alone")
        if not len(table):
            raise DatasetError(
                "problems: every group has one phrasing, and one answer to it has no baseline; raise rollouts, or give "
                "groups with verified variants (penstock transform)"
            )
        if len(table.groups) < config.groups_per_step:
            raise ConfigError(
                f"groups_per_step: got {config.groups_per_step}, allowed at most the {len(table.groups)} groups there "
                "are; lower it or give more problems"
            )
        return self.of_table(table)

    def at(self, step: int, config: GroupRLConfig) -> Ints:
        """Problems asked at ``step``, counted from 0: those of a group together, its original first."""
        size = config.groups_per_step
        epoch, turn = divmod(step, len(self.table.groups) // size)
        groups = _order(len(self.table.groups), config.seed, epoch)[turn * size : (turn + 1) * size]
        if config.phrasings == "one":
            coins = stream(config.seed, "phrasing", step).random(size)
            chosen = [
                self.table.groups[group][int(coin * len(self.table.groups[group]))]
                for group, coin in zip(groups.tolist(), coins, strict=True)
            ]
            return np.array(chosen, dtype=np.int64)
        return np.array([place for group in groups.tolist() for place in self.table.groups[group]], dtype=np.int64)

    def epoch(self, step: int, config: GroupRLConfig) -> int:
        """How many times a group that is asked at ``step`` has had its turn before."""
        return step // (len(self.table.groups) // config.groups_per_step)

    def streams(self, problem: Ints, sample: Ints, seed: int, *path: int | str) -> Streams:
        """What answer ``sample`` to ``problem`` draws from: (N,), by the problem's id and not by its place."""
        return rehash(self.hashes[problem] ^ mix64(sample.astype(np.uint64) + np.uint64(1)), seed, *path)


@functools.lru_cache(maxsize=4)
def _order(groups: int, seed: int, epoch: int) -> Ints:
    return stream(seed, "order of groups", epoch).permutation(groups)
