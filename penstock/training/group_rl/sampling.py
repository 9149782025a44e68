"""Answers of a policy in this process: many prompts together, each read once for all its answers.

    sampler = Sampler(model, end_tokens(model, tokenizer))
    sampled = sampler(prompts, streams, max_new_tokens=256)

Prompts of a batch are filled up on the left, so that all answers grow at the right end of one cache of keys and values;
mask and positions leave the filling out. A prompt's keys and values are computed once and copied to its answers, the
cache is made at its full size once, and rows whose answer has ended leave it when they are a quarter of it.

**Draws.** Token t of a row is the inverse of the cumulative distribution at one number in [0, 1), which is a hash of
(the row's stream, t). Which rows are sampled together, and in which order, decides nothing but the last bits of
batched products; where such a bit moves a draw over the border between two tokens, the answers differ from there on.

**Log-probabilities** are of the softmax of logits / temperature over all tokens, also where ``top_p`` < 1 leaves some
out of the draw. The policy that learns is that whole softmax, so the ratio of both is 1 before the first update and
clipping bounds what it has to. The price is named: under ``top_p`` < 1 what the draw never chooses is not made up for,
so gradients are those of a slightly other expectation. Train with 1 unless there is a reason.

Price: the keys and values of ``batch`` answers at full length in every layer; one forward pass a token; n x V
cumulative sums in float64 a token.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, TrainingError
from penstock.seeding import coins
from penstock.training.evaluation import autocast
from penstock.training.model import has_plain_head

if TYPE_CHECKING:
    import torch

_LEAVES = 0.25  # share of rows that have ended, from which on the cache is made anew without them
_TRIED = 5  # tokens of the try-out's longer prompt


@dataclass(frozen=True)
class Sampled:
    """N answers: token ids with the one that ended them, their log-probabilities (nats), whether they ended."""

    responses: tuple[NDArray[np.int32], ...]
    logprobs: tuple[NDArray[np.float32], ...]
    ended: NDArray[np.bool_]


def end_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Ids that end an answer: those the model's configuration of generation names, and the tokenizer's."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = named if isinstance(named, list) else [named]
    return tuple(sorted({int(end) for end in (*ends, tokenizer.eos_token_id) if end is not None}))


class Sampler:
    """Samples answers of one model, which may learn in between."""

    def __init__(self, model: Any, ends: Sequence[int], *, bfloat16: bool = False) -> None:
        """
        Args:
            model: a causal LM of transformers; it is put into evaluation mode while it samples.
            ends: token ids that end an answer.
            bfloat16: compute in bfloat16.

        Raises:
            ConfigError: the model does not take a cache with positions and a mask, so that answers to prompts of
                different lengths would not be what they are alone.
        """
        self.model, self.ends, self.bfloat16 = model, tuple(ends), bfloat16
        self._plain = has_plain_head(model)
        self._try_out()

    def __call__(
        self,
        prompts: Sequence[NDArray[np.int32]],
        streams: NDArray[np.uint64],
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_p: float = 1.0,
        batch: int = 256,
    ) -> Sampled:
        """One answer a row.

        Args:
            prompts: N arrays of token ids, none empty; rows of one prompt share the array itself.
            streams: (N,) what each row draws from; equal streams after equal prompts give equal answers.
            batch: rows sampled together.

        Raises:
            TrainingError: the model's logits are no finite numbers.
        """
        # prompts of about one length together, so that little is filled up; a stable order keeps a prompt's rows so
        order = np.argsort([len(prompt) for prompt in prompts], kind="stable")
        responses: dict[int, NDArray[np.int32]] = {}
        logprobs: dict[int, NDArray[np.float32]] = {}
        ended = np.zeros(len(prompts), dtype=np.bool_)
        training = self.model.training
        self.model.eval()
        try:
            for begin in range(0, len(order), batch):
                rows = order[begin : begin + batch]
                growing = _Growing(self, [prompts[row] for row in rows], streams[rows], max_new_tokens)
                tokens, found, lengths, done = growing.run(temperature, top_p)
                for place, row in enumerate(rows.tolist()):
                    responses[row] = tokens[place, : lengths[place]]
                    logprobs[row] = found[place, : lengths[place]]
                ended[rows] = done
        finally:
            self.model.train(training)
        number = range(len(prompts))
        return Sampled(tuple(responses[row] for row in number), tuple(logprobs[row] for row in number), ended)

    def last_logits(self, **inputs: Any) -> torch.Tensor:
        """Logits after the last token of each row, in float32 or the model's wider type: (n, V)."""
        import torch

        with autocast(self.model.device, self.bfloat16):
            if self._plain:
                states = self.model.base_model(**inputs, use_cache=True).last_hidden_state
                logits: torch.Tensor = self.model.get_output_embeddings()(states[:, -1])
            else:
                logits = self.model(**inputs, use_cache=True).logits[:, -1]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _try_out(self) -> None:
        """A short prompt beside a longer one, and a token more, against the short one read whole and alone."""
        import torch

        model, training = self.model, self.model.training
        size = int(model.get_input_embeddings().weight.shape[0])
        short, long = (np.arange(1, n, dtype=np.int32) % size for n in (3, _TRIED + 1))
        model.eval()
        try:
            with torch.inference_mode():
                growing = _Growing(self, [long, short], np.zeros(2, dtype=np.uint64), 2)
                growing.prefill()
                among = growing.advance(torch.tensor([3 % size, 4 % size], device=model.device), 0)[1]
                whole = torch.tensor([[*short.tolist(), 4 % size]], device=model.device)
                alone = self.last_logits(input_ids=whole)[0]
            allowed = (0.1 if self.bfloat16 else 1e-3) * float(alone.abs().max())
            good = bool(torch.allclose(among, alone, rtol=0.0, atol=allowed))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError):
            good = False
        finally:
            model.train(training)
        if not good:
            raise ConfigError(
                f"model: {type(model).__name__} does not answer prompts of different lengths together as it answers "
                "each alone; take an attention model that obeys positions, mask and cache, or give stored rollouts"
            )


class _Growing:
    """Answers of one batch while they grow."""

    def __init__(
        self, sampler: Sampler, prompts: list[NDArray[np.int32]], streams: NDArray[np.uint64], most: int
    ) -> None:
        import torch

        self.sampler, self.streams, self.most = sampler, streams, most
        self.device = sampler.model.device
        # a prompt is known by its array, so that equal prompts of two problems are no accident to care about
        places: dict[int, int] = {}
        self.owner = [places.setdefault(id(prompt), len(places)) for prompt in prompts]
        distinct = list({id(prompt): prompt for prompt in prompts}.values())
        lengths = np.array([len(prompt) for prompt in distinct])
        self.width = int(lengths.max())
        inside = np.arange(self.width) >= self.width - lengths[:, None]
        tokens = np.zeros(inside.shape, dtype=np.int64)
        tokens[inside] = np.concatenate(distinct)
        self.tokens, self.inside, self.lengths = (
            torch.from_numpy(array).to(self.device) for array in (tokens, inside, lengths)
        )
        self.filled = not inside.all()
        self.rows = np.arange(len(prompts))  # which answers the cache holds

    def prefill(self) -> torch.Tensor:
        """Read the prompts, give every answer its copy of their keys and values; logits of first tokens (n, V)."""
        import torch
        from transformers import DynamicCache
        from transformers.cache_utils import Cache

        read: Any = DynamicCache()
        inputs: dict[str, Any] = {"input_ids": self.tokens}
        if self.filled:
            inputs["attention_mask"] = self.inside.long()
            inputs["position_ids"] = (torch.cumsum(self.inside, dim=1) - 1).clamp(min=0)
        logits = self.sampler.last_logits(**inputs, past_key_values=read)
        owner = torch.tensor(self.owner, device=self.device)
        self.cache = Cache(layers=[_room()(layer.keys, layer.values, owner, self.most) for layer in read.layers])
        self.position = self.lengths[owner][:, None]
        self.mask = None
        if self.filled:
            mask = torch.ones(len(owner), self.width + self.most, dtype=torch.long, device=self.device)
            mask[:, : self.width] = self.inside[owner]
            self.mask = mask
        return logits[owner]

    def advance(self, chosen: torch.Tensor, t: int) -> torch.Tensor:
        """Read token ``t`` of every row that the cache holds; logits of the next one."""
        inputs: dict[str, Any] = {"input_ids": chosen[:, None], "position_ids": self.position + t}
        if self.mask is not None:
            inputs["attention_mask"] = self.mask[:, : self.width + t + 1]
        return self.sampler.last_logits(**inputs, past_key_values=self.cache)

    def keep(self, places: NDArray[np.int64]) -> torch.Tensor:
        """Hold only the rows at these places; the places as a tensor."""
        import torch

        index = torch.from_numpy(places).to(self.device)
        layers: list[Any] = self.cache.layers
        for layer in layers:
            layer.select(index)
        self.position = self.position[index]
        self.mask = None if self.mask is None else self.mask[index]
        self.rows = self.rows[places]
        return index

    def run(self, temperature: float, top_p: float) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """(n, most) tokens and log-probabilities, (n,) lengths and whether they ended."""
        import torch

        count = len(self.rows)
        tokens = torch.zeros(count, self.most, dtype=torch.int32, device=self.device)
        logprobs = torch.zeros(count, self.most, dtype=torch.float32, device=self.device)
        lengths = np.full(count, self.most)
        ended = np.zeros(count, dtype=np.bool_)
        ends = torch.tensor(self.sampler.ends, dtype=torch.int64, device=self.device)
        with torch.inference_mode():
            logits = self.prefill()
            for t in range(self.most):
                at = torch.from_numpy(coins(self.streams[self.rows], t)).to(self.device)
                chosen, said = _draw(logits / temperature, at, top_p)
                held = torch.from_numpy(self.rows).to(self.device)
                tokens[held, t], logprobs[held, t] = chosen.int(), said.float()
                now = torch.isin(chosen, ends).cpu().numpy() & ~ended[self.rows]
                lengths[self.rows[now]], ended[self.rows[now]] = t + 1, True
                alive = np.flatnonzero(~ended[self.rows])
                if not len(alive) or t + 1 == self.most:
                    break
                if len(self.rows) - len(alive) >= _LEAVES * len(self.rows):
                    chosen = chosen[self.keep(alive)]
                logits = self.advance(chosen, t)
        found = logprobs.cpu().numpy()
        if not np.isfinite(found).all():
            raise TrainingError(
                "sampling: the model's logits are no finite numbers, allowed finite ones; lower learning_rate, or look "
                "at the model that the run started from"
            )
        return tokens.cpu().numpy(), found, lengths, ended


def _draw(logits: torch.Tensor, at: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A token of each row of logits (n, V) at the numbers ``at`` (n,) in [0, 1), and its log-probability: (n,)."""
    import torch

    logprobs = torch.log_softmax(logits, dim=-1)
    probabilities = logprobs.exp()
    if top_p < 1.0:
        probabilities = _nucleus(probabilities, top_p)
    cumulative = torch.cumsum(probabilities, dim=-1, dtype=torch.float64)
    # `right` passes over tokens of probability 0; the bound is for a sum that rounding left below its last number
    chosen = torch.searchsorted(cumulative, at[:, None] * cumulative[:, -1:], right=True)
    chosen = chosen.clamp(max=logits.shape[-1] - 1)
    return chosen[:, 0], logprobs.gather(-1, chosen)[:, 0]


def _nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Probabilities (n, V) of the likeliest tokens that together reach ``top_p``, 0 for all others."""
    import torch

    best, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = torch.cumsum(best, dim=-1, dtype=torch.float64) - best
    return torch.zeros_like(probabilities).scatter(-1, order, torch.where(before < top_p, best, 0.0))


@functools.cache
def _room() -> Any:
    """The class of a layer's keys and values with room for all tokens to come; made late, as transformers is heavy."""
    from transformers.cache_utils import DynamicLayer

    class Room(DynamicLayer):  # type: ignore[misc]
        """Keys and values of prompts, copied to their answers; what comes is written behind them in place."""

        def __init__(self, keys: torch.Tensor, values: torch.Tensor, owner: torch.Tensor, more: int) -> None:
            super().__init__()
            self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
            self.used = keys.shape[-2]
            self.buffers = []
            for prompt in (keys, values):
                buffer = prompt.new_empty(len(owner), prompt.shape[1], self.used + more, prompt.shape[3])
                buffer[:, :, : self.used] = prompt[owner]
                self.buffers.append(buffer)
            self._show()

        def update(self, key_states: Any, value_states: Any, cache_kwargs: Any = None) -> tuple[Any, Any]:
            end = self.used + key_states.shape[-2]
            for buffer, new in zip(self.buffers, (key_states, value_states), strict=True):
                buffer[:, :, self.used : end] = new
            self.used = end
            self._show()
            return self.keys, self.values

        def select(self, rows: torch.Tensor) -> None:
            """Hold only these rows."""
            self.buffers = [buffer[rows] for buffer in self.buffers]
            self._show()

        def _show(self) -> None:
            self.keys, self.values = (buffer[:, :, : self.used] for buffer in self.buffers)

    return Room
