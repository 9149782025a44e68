"""Generate in a vocabulary of very many tokens, most of which the model was never trained with.

    extra = [b" tokenization", b" of the", …]                      # a million byte strings
    generator = LargeVocabulary(DynamicModel(model, tokenizer), extra)
    for text in generator.generate(batch, max_new_tokens=32): print(text.data)

The output rows are the model's own and, for extra tokens, a length-weighted mean of those of their base tokens, scaled
to the mean norm (``CompositionRows``). Each step asks an ``OutputIndex`` for the best candidates, whose logits are
exact, and draws among them; the chosen token enters the next step as one row, through the cache of keys and values, so
a step costs one place of the model whatever the token's length. (Feher, Vulić and Minixhofer 2025, arXiv:2411.18553,
read the whole sequence anew for every token.)

A softmax over the candidates is no distribution over the vocabulary: what is drawn is, its probability is not.

Price: rows and index of the vocabulary (N × d × 5 bytes with float32 rows), once; a search a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.seeding import stream
from penstock.tokenization.dynamic.batch import DynamicBatch
from penstock.tokenization.dynamic.embeddings import CompositionRows, RowProvider
from penstock.tokenization.dynamic.output_index import OutputIndex
from penstock.tokenization.dynamic.wrappers import DynamicModel

_RUN = 65_536  # extra rows composed at once


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is drawn from the candidates of a step.

    Attributes:
        candidates: how many of the index' best have their say.
        greedy: take the largest logit; the settings below but ``repetition_penalty`` and ``end_bias`` do nothing then.
        temperature: logits are divided by it.
        top_k: of the candidates, the largest so many are drawn from; None is all.
        min_p: tokens of less than this share of the likeliest one's probability are not drawn.
        repetition_penalty: logits of tokens generated before are divided by it where positive, else multiplied.
        end_bias: added to the logit of the tokens that end a text.
        seed: of the draws.
    """

    candidates: int = 20
    greedy: bool = False
    temperature: float = 1.0
    top_k: int | None = 10
    min_p: float = 0.1
    repetition_penalty: float = 1.1
    end_bias: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.candidates < 1 or (self.top_k is not None and self.top_k < 1):
            raise ConfigError(f"candidates, top_k: got {self.candidates}, {self.top_k}, allowed >= 1")
        if self.temperature <= 0 or self.repetition_penalty <= 0:
            raise ConfigError(
                f"temperature, repetition_penalty: got {self.temperature}, {self.repetition_penalty}, allowed > 0; "
                "greedy=True takes the largest"
            )
        if not 0 <= self.min_p <= 1:
            raise ConfigError(f"min_p: got {self.min_p}, allowed 0 to 1")

    def draw(self, logits: NDArray[np.floating[Any]], rng: np.random.Generator) -> int:
        """Place of the token drawn among candidates (k,)."""
        if self.greedy:
            return int(np.argmax(logits))
        scaled = logits.astype(np.float64) / self.temperature
        weights = np.exp(scaled - scaled.max())
        order = np.argsort(-weights, kind="stable")
        weights[order[self.top_k :] if self.top_k is not None else order[:0]] = 0
        weights[weights < self.min_p * weights.max()] = 0
        return int(rng.choice(len(weights), p=weights / weights.sum()))


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What was appended to one prompt.

    Attributes:
        ids: below the rows of the model's head a base id, from there on an extra token.
        data: bytes of the tokens.
        ended: whether an end token closed it; that token is not in it.
    """

    ids: tuple[int, ...]
    data: bytes
    ended: bool


class LargeVocabulary:
    """A decoder with extra output tokens.

    Args:
        reader: the decoder. Its provider makes the input rows of extra tokens.
        extra: byte strings that are not in the base vocabulary, each once.
        output: provider of the extra output rows; None composes them from the model's output rows.
        index: built over base and extra rows; None builds one. ``output_rows`` gives the rows for one of your own.
        end: ids that end a text; None takes those of the model's configuration.

    Raises:
        ConfigError: no decoder, a token of the base vocabulary or twice the same, a model whose logits are not the
            product of hidden states and output rows, or an index over another number of rows.
    """

    def __init__(
        self,
        reader: DynamicModel,
        extra: Sequence[bytes],
        *,
        output: RowProvider | None = None,
        index: OutputIndex | None = None,
        end: Sequence[int] | None = None,
    ) -> None:
        base = reader.tokenizer.base
        self.reader, self.extra = reader, list(extra)
        if not reader.decodes:
            raise ConfigError(f"reader: got {type(reader.model).__name__}, an encoder, allowed a causal language model")
        double = next((t for t in self.extra if not t or t in base.ids), None)
        if double is not None or len(set(self.extra)) < len(self.extra):
            what = "the same token twice" if double is None else repr(double)
            raise ConfigError(f"extra: got {what}, allowed byte strings that the base vocabulary has not, each once")
        self._head = reader.model.get_output_embeddings().weight.detach()
        _require_plain_head(reader.model, self._head)
        self._first = len(self._head)  # rows of extra tokens come after the model's
        if index is None:
            index = OutputIndex(self.output_rows(output))
        if len(index) != self._first + len(self.extra):
            raise ConfigError(
                f"index: got {len(index)} rows, allowed {self._first + len(self.extra)}, the model's and one for each "
                "extra token"
            )
        self.index = index
        config = reader.model.generation_config.eos_token_id if end is None else list(end)
        self._end = {config} if isinstance(config, int) else set(config or ())

    def output_rows(self, output: RowProvider | None = None) -> NDArray[np.float32]:
        """(N, d) the model's output rows and those of extra tokens."""
        provider = output or CompositionRows(self.reader.tokenizer.base, self._head, weighting="bytes", match_norm=True)
        rows = np.empty((self._first + len(self.extra), self._head.shape[1]), np.float32)
        rows[: self._first] = self._head.float().cpu().numpy()
        for start in range(0, len(self.extra), _RUN):
            made = provider.rows(self.extra[start : start + _RUN])
            rows[self._first + start : self._first + start + len(made)] = made.float().cpu().numpy()
        return rows

    def generate(
        self, batch: DynamicBatch, *, max_new_tokens: int, sampling: Sampling | None = None
    ) -> list[Generated]:
        """Continue every prompt of a batch.

        Raises:
            InputError: a prompt without a token.
            ConfigError: ``max_new_tokens`` below 1, or more candidates than there are tokens.
        """
        import torch

        sampling = sampling or Sampling()
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens: got {max_new_tokens}, allowed >= 1")
        inputs = self.reader.inputs(batch)
        rngs = [stream(sampling.seed, "large vocabulary", row) for row in range(len(batch))]
        ids: list[list[int]] = [[] for _ in range(len(batch))]
        ended = [False] * len(batch)
        mask, positions, embeds = inputs.attention_mask, inputs.position_ids, inputs.inputs_embeds
        past: Any = None
        with torch.no_grad():
            for _ in range(max_new_tokens):
                options = {} if positions is None else {"position_ids": positions}
                out = self.reader.model.base_model(
                    inputs_embeds=embeds, attention_mask=mask, past_key_values=past, use_cache=True, **options
                )
                past = out.past_key_values
                hidden = out.last_hidden_state[:, -1].float().cpu().numpy()
                found, logits = self.index.search(hidden, sampling.candidates)
                chosen = [self._choose(*row, sampling) for row in zip(found, logits, ids, rngs, strict=True)]
                for row, token in enumerate(chosen):
                    if not ended[row]:
                        ended[row] = token in self._end
                        ids[row] += [] if ended[row] else [token]
                if all(ended):
                    break
                embeds = self._rows(chosen)[:, None]
                mask = torch.cat([mask, mask.new_ones(len(batch), 1)], dim=1)
                positions = None if positions is None else positions[:, -1:] + 1
        return [
            Generated(ids=tuple(row), data=b"".join(map(self._bytes, row)), ended=done)
            for row, done in zip(ids, ended, strict=True)
        ]

    def _choose(
        self,
        found: NDArray[np.int64],
        logits: NDArray[np.float32],
        before: list[int],
        rng: np.random.Generator,
        sampling: Sampling,
    ) -> int:
        there = found >= 0
        found, logits = found[there], logits[there]
        said = np.isin(found, before)
        penalty = sampling.repetition_penalty
        logits = np.where(said, np.where(logits > 0, logits / penalty, logits * penalty), logits)
        biased = logits + np.isin(found, list(self._end)) * np.float32(sampling.end_bias)
        return int(found[sampling.draw(biased, rng)])

    def _rows(self, tokens: list[int]) -> Any:
        """(n, d) input rows of the chosen tokens."""
        import torch

        embedding = self.reader.model.get_input_embeddings()
        device = embedding.weight.device
        rows = embedding(torch.tensor([t if t < self._first else 0 for t in tokens], device=device)).clone()
        new = [row for row, token in enumerate(tokens) if token >= self._first]
        if new:
            strings = [self.extra[tokens[row] - self._first] for row in new]
            rows[new] = self.reader.cache.rows(strings, self.reader.provider).to(rows)
        return rows

    def _bytes(self, token: int) -> bytes:
        base = self.reader.tokenizer.base.tokens
        if token >= self._first:
            return self.extra[token - self._first]
        return (base[token] or b"") if token < len(base) else b""


def _require_plain_head(model: Any, head: Any) -> None:
    """Some families scale or cap their logits, or have a bias: an index over rows would not rank as they do."""
    import torch

    ids = torch.arange(4, device=head.device)[None] % len(head)
    with torch.no_grad():
        hidden = model.base_model(input_ids=ids).last_hidden_state
        expected = model(input_ids=ids).logits
    made = hidden @ head.T.to(hidden)
    tolerance = 1e-2 if hidden.dtype != torch.float32 else 1e-4
    if made.shape != expected.shape or not torch.allclose(made, expected.to(made), rtol=tolerance, atol=tolerance):
        raise ConfigError(
            f"reader: got {type(model).__name__}, whose logits are not hidden states times output rows (a bias, a "
            "scale or a cap), allowed one whose logits are; their best tokens cannot be searched by inner product"
        )
