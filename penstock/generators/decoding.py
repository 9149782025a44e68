"""Tokens after prompts, for several prompts of one length at a time: ``decode``.

Rows whose prompts have as many tokens advance together, one forward pass for the next token of all; one that ends
leaves the pass. No row is filled up, so none attends to filling, and each draws from a stream of its own: what a row
says does not depend on the others but for the last bits of a batched product.

Price: one forward pass a token for all rows together, with the key-value cache of all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.generators.base import Completion, Request, TokenLogprob, Usage
from penstock.seeding import stream


def decode(
    model: Any,
    tokenizer: Any,
    rows: Sequence[tuple[Request, NDArray[np.int32], NDArray[np.float64]]],
    ends: frozenset[int],
) -> list[Completion]:
    """Completions of requests whose prompts have equally many tokens, in their order.

    Args:
        model, tokenizer: of transformers.
        rows: each request, the tokens of its prompt (L,), and the logits of its first token (V,).
        ends: tokens that end a completion.
    """
    import torch

    made = [_Row(request, prompt, tokenizer, ends) for request, prompt, _ in rows]
    running = [row for row, (_, _, logits) in zip(made, rows, strict=True) if row.take(logits)]
    cache: Any = None
    while running:
        last = [[row.chosen[-1]] if cache is not None else [*row.prompt.tolist(), row.chosen[-1]] for row in running]
        with torch.inference_mode():
            answer = model(input_ids=torch.tensor(last, device=model.device), past_key_values=cache, use_cache=True)
        cache = answer.past_key_values
        logits = answer.logits[:, -1].double().cpu().numpy()
        kept = [place for place, row in enumerate(running) if row.take(logits[place])]
        if len(kept) < len(running):
            running = [running[place] for place in kept]
            if running:
                cache.batch_select_indices(torch.tensor(kept, device=model.device))
    return [row.completion() for row in made]


class _Row:
    """One completion as it grows."""

    def __init__(self, request: Request, prompt: NDArray[np.int32], tokenizer: Any, ends: frozenset[int]) -> None:
        told = hashlib.blake2b(prompt.tobytes(), digest_size=8).hexdigest()
        self._rng = stream(request.seed, "complete", told, request.sample) if request.temperature > 0 else None
        self._request, self._tokenizer, self._ends = request, tokenizer, ends
        self._tokens: list[TokenLogprob] = []
        self._stopped: str | None = None  # the text, where it ended at a stop text
        self._finish = "length"
        self.prompt, self.chosen = prompt, list[int]()

    def take(self, logits: NDArray[np.float64]) -> bool:
        """Choose the next token from its logits (V,); whether there is another after it."""
        request = self._request
        logprobs = logits - np.logaddexp.reduce(logits)
        if self._rng is None:
            token = int(np.argmax(logprobs))
        else:
            # the largest of perturbed log-probabilities is a draw from their distribution (Gumbel)
            scaled = nucleus(logprobs / request.temperature, request.top_p)
            token = int(np.argmax(scaled + self._rng.gumbel(size=len(scaled))))
        if request.logprobs:
            best = np.argsort(-logprobs, kind="stable")[: request.logprobs]
            names = self._tokenizer.batch_decode([[int(t)] for t in (token, *best)], clean_up_tokenization_spaces=False)
            top = tuple(zip(names[1:], (float(logprobs[t]) for t in best), strict=True))
            self._tokens.append(TokenLogprob(names[0], float(logprobs[token]), top))
        if token in self._ends:
            self._finish = "stop"
            return False
        self.chosen.append(token)
        if request.stop:
            text = self._text()
            stops = [place for place in map(text.find, request.stop) if place >= 0]
            if stops:
                self._stopped, self._finish = text[: min(stops)], "stop"
                return False
        return len(self.chosen) < request.max_tokens

    def _text(self) -> str:
        return str(self._tokenizer.decode(self.chosen, clean_up_tokenization_spaces=False))

    def completion(self) -> Completion:
        return Completion(
            text=self._text() if self._stopped is None else self._stopped,
            tokens=tuple(self._tokens),
            usage=Usage(prompt_tokens=len(self.prompt), completion_tokens=len(self.chosen)),
            finish=self._finish,
        )


def nucleus(scores: NDArray[np.float64], top_p: float) -> NDArray[np.float64]:
    """Scores of the likeliest tokens that together reach ``top_p``; -inf for all others (Holtzman et al. 2020)."""
    if top_p >= 1.0:
        return scores
    order = np.argsort(-scores, kind="stable")
    probabilities = np.exp(scores[order] - np.logaddexp.reduce(scores))
    before = np.cumsum(probabilities) - probabilities
    out = np.full(len(scores), -np.inf)
    kept = order[before < top_p]
    out[kept] = scores[kept]
    return out
