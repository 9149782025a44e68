"""What goes from one part of group-relative learning to the next: answers, and what they were worth.

A *problem* is one phrasing of a question, a *group* the question with all its phrasings: ``problem_id`` and
``group_id`` of the ``problems`` table. Parts know groups by these numbers alone, never by position or by text.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """N answers of a policy. Tokens are of the policy's own tokenizer.

    Attributes:
        problem: (N,) which problem of the table was asked.
        group: (N,) which group of the table it belongs to.
        prompts: N arrays of token ids, as the policy read them; answers to one problem share one array.
        responses: N arrays of token ids, the token that ended the answer included; none is empty.
        logprobs: N arrays, the log-probability (nats) of each response token after its own prompt, under the policy
            that sampled it and at the temperature it was sampled at.
        ended: (N,) whether the answer ended by itself, rather than at the most tokens allowed.
        texts: the N responses as text, without special tokens.
        version: optimiser updates that the policy which sampled them had seen.
    """

    problem: Ints
    group: Ints
    prompts: tuple[NDArray[np.int32], ...]
    responses: tuple[NDArray[np.int32], ...]
    logprobs: tuple[NDArray[np.float32], ...]
    ended: NDArray[np.bool_]
    texts: tuple[str, ...]
    version: int

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Ints) -> Rollouts:
        """The answers at these places."""
        places = rows.tolist()
        return Rollouts(
            problem=self.problem[rows],
            group=self.group[rows],
            prompts=tuple(self.prompts[row] for row in places),
            responses=tuple(self.responses[row] for row in places),
            logprobs=tuple(self.logprobs[row] for row in places),
            ended=self.ended[rows],
            texts=tuple(self.texts[row] for row in places),
            version=self.version,
        )


@dataclass(frozen=True, kw_only=True)
class Rewards:
    """What N answers were worth.

    Attributes:
        values: (N,) float64; of an answer that is not known any number, 0 as a rule.
        known: (N,) False where nothing could be said: a time-out, an error of the reward, a row that only fills a
            batch. Such a row is in no statistic and has no loss.
        outcomes: N words for what became of each answer: ``correct``, ``wrong``, ``timeout``, ``error``, …
        cause: of the first answer that is not known, why; empty where all are.
    """

    values: Floats
    known: NDArray[np.bool_]
    outcomes: tuple[str, ...]
    cause: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """Answers by what became of them."""
        return dict(sorted(Counter(self.outcomes).items()))
