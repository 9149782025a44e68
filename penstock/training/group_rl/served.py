"""Answers of a server that speaks OpenAI's API, with log-probabilities: ``ServedPolicy``.

    learn(config, model, problems, out, rollouts_from=ChatEndpoint(url="http://127.0.0.1:8000/v1", model="small"))

**The server's weights are not updated.** It answers as the model it was started with, the policy that learns moves away
from it, and the ratio of both is what the loss sees: off-policy learning, good for as long as they are near. Start the
server on the folder the run starts from, with its tokenizer.

Where the tokenizer has a chat template the question is asked as a user's message, else the prompt's text is continued.
Servers tell tokens as text. An id is recovered where one token alone has that text (or the piece of that name, or
``token_id:17``, as vLLM says with ``--return-tokens-as-token-ids``, which loses nothing); an answer of which a token
cannot be told, or whose tokens do not make its text, is dropped and counted as ``unmatched``, one that failed by what
the server said. The end of an answer has no log-probability with many servers; then it is not learned from.

Servers tell log-probabilities before any temperature, so the temperature has to be 1.

Price: one request an answer; as much text as ids for each token of the vocabulary, once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.generators.base import Completion, LanguageModel, Message, Request, failure, run
from penstock.seeding import derive
from penstock.training.group_rl.config import GroupRLConfig
from penstock.training.group_rl.problems import asked, plain_prompt
from penstock.training.group_rl.questions import Questions
from penstock.training.group_rl.records import Ints, Rollouts

_TOKEN_ID = "token_id:"


class ServedPolicy:
    """RolloutSource: a language model that does not learn."""

    def __init__(
        self,
        model: LanguageModel,
        questions: Questions,
        tokenizer: Any,
        config: GroupRLConfig,
        ends: Sequence[int],
    ) -> None:
        """
        Args:
            model: of ``penstock.generators``; one with a store (``ModelSession``) pays for no answer twice.
            ends: token ids that end an answer.

        Raises:
            ConfigError: the temperature is not 1; the model cannot be used.
        """
        if config.temperature != 1.0:
            raise ConfigError(
                f"temperature: got {config.temperature:g}, allowed 1 with a server, which tells log-probabilities "
                "before any temperature; set it to 1"
            )
        self.model, self.questions, self.config = model, questions, config
        self._ids = TokenIds(tokenizer)
        self._chat = bool(getattr(tokenizer, "chat_template", None))
        self._ends = frozenset(ends)
        self.identity = {"served": dict(model.identity)}
        model.setup()

    def __call__(self, step: int, problems: Ints, version: int) -> tuple[Rollouts, dict[str, int]]:
        """Answers to these problems, less those that failed or whose tokens cannot be told."""
        places = np.repeat(problems, self.config.rollouts)
        samples = np.tile(np.arange(self.config.rollouts), len(problems))
        seed = derive(self.config.seed, "served", step) & 0x7FFFFFFF  # servers take 32 bits
        requests = [self._request(*pair, seed) for pair in zip(places.tolist(), samples.tolist(), strict=True)]
        completions = run(self.model.complete(requests))
        lost: Counter[str] = Counter()
        kept: list[tuple[int, NDArray[np.int32], Completion]] = []
        for place, completion in zip(places.tolist(), completions, strict=True):
            if completion.error is not None:
                lost[failure(completion.error)] += 1
                continue
            ids = self._ids.of(completion)
            if ids is None:
                lost["unmatched"] += 1
                continue
            kept.append((place, ids, completion))
        problem = np.array([place for place, _, _ in kept], dtype=np.int64)
        return Rollouts(
            problem=problem,
            group=self.questions.table.group_of[problem],
            prompts=tuple(self.questions.prompts[place] for place, _, _ in kept),
            responses=tuple(ids for _, ids, _ in kept),
            logprobs=tuple(
                np.array([token.logprob for token in one.tokens], dtype=np.float32).clip(max=0.0) for _, _, one in kept
            ),
            ended=np.array(
                [one.finish == "stop" or int(ids[-1]) in self._ends for _, ids, one in kept], dtype=np.bool_
            ),
            texts=tuple(one.text for _, _, one in kept),
            version=0,
        ), dict(sorted(lost.items()))

    def _request(self, place: int, sample: int, seed: int) -> Request:
        question, instruction = self.questions.table.problems[place].prompt, self.config.instruction
        given: dict[str, Any] = (
            {"messages": (Message("user", asked(question, instruction)),)}
            if self._chat
            else {"prompt": plain_prompt(question, instruction)}
        )
        return Request(
            max_tokens=self.config.max_new_tokens,
            temperature=1.0,
            top_p=self.config.top_p,
            seed=seed,
            sample=sample,
            logprobs=1,
            **given,
        )


class TokenIds:
    """Ids of tokens that a server tells as text."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        size = max(tokenizer.get_vocab().values(), default=-1) + 1
        self._size = size
        ids = list(range(size))
        shown = tokenizer.batch_decode(
            [[i] for i in ids], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        # a text that several tokens have tells none of them, also where a piece has it for its name
        shared = {name for name, count in Counter(shown).items() if count > 1}
        pieces = tokenizer.convert_ids_to_tokens(ids)
        self._of = {name: number for number, name in enumerate(pieces) if name is not None and name not in shared}
        self._of |= {name: number for number, name in enumerate(shown) if name not in shared}

    def of(self, completion: Completion) -> NDArray[np.int32] | None:
        """The ids of an answer's tokens; None where one cannot be told, or they are not those of its text."""
        if not completion.tokens:
            return None
        found = [self._one(token.token) for token in completion.tokens]
        if None in found or not all(np.isfinite(token.logprob) for token in completion.tokens):
            return None
        said = self._tokenizer.decode(found, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        # a server may strip what is blank at the ends
        return np.array(found, dtype=np.int32) if said.strip() == completion.text.strip() else None

    def _one(self, name: str) -> int | None:
        number = name.removeprefix(_TOKEN_ID)
        if number != name and number.isdecimal():
            return int(number) if int(number) < self._size else None
        return self._of.get(name)
