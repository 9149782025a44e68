"""Merged batches for the encoders and decoders of transformers.

    reader = DynamicModel(model, tokenizer)
    batch = tokenizer.encode(texts, merges=200)
    out = reader(batch)                            # the model's own output, at the places of merged tokens
    nats = reader.next_token_nats(batch)           # (T,) of the base token after each merged token
    ids = reader.generate(batch, max_new_tokens=20)

A merged token enters as its row (``inputs_embeds``): a base token through the model's own layer, a new one from a
provider (``embeddings``, ``hypernet``) by way of a cache. Positions count merged tokens. A decoder is padded on the
left and told the positions, so that padding changes nothing; an encoder is padded on the right and counts for itself,
since families differ in where they begin. What a decoder gives out is in the base vocabulary: it generates with
``generate`` of transformers, whose cache of keys and values holds the merged prompt.

The rows of new tokens are made from the embedding as it is when ``DynamicModel`` is made, and no gradient flows into
them; call ``refresh`` after the embedding has changed.

Price: a copy of the embedding, and one pass over the batch besides the model's own.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from penstock.errors import ConfigError, InputError
from penstock.tokenization.dynamic.alignment import IGNORED, next_token_labels
from penstock.tokenization.dynamic.batch import DynamicBatch, DynamicTokenizer
from penstock.tokenization.dynamic.cache import RowCache
from penstock.tokenization.dynamic.embeddings import CompositionRows, RowProvider, source_rows
from penstock.tokenization.dynamic.vocabulary import Ints

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class ModelInputs:
    """A batch as a rectangle: n rows of L places.

    Attributes:
        inputs_embeds: (n, L, d).
        attention_mask: (n, L) int64, 1 where a token is.
        position_ids: (n, L) int64 for a decoder, else None.
        place: (T,) int64, the place of each token of the batch in the flattened rectangle.
    """

    inputs_embeds: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor | None
    place: Ints

    def spread(self, values: ArrayLike, fill: int = IGNORED) -> torch.Tensor:
        """(n, L) int64: one value for each token (T,), such as labels, and ``fill`` at padding."""
        import torch

        out = torch.full(self.attention_mask.shape, fill, dtype=torch.int64)
        out.view(-1)[torch.from_numpy(self.place)] = torch.from_numpy(np.asarray(values, np.int64))
        return out.to(self.attention_mask.device)

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """(T, …) what a model gave at each token, of (n, L, …)."""
        import torch

        return values.flatten(0, 1)[torch.from_numpy(self.place).to(values.device)]


class DynamicModel:
    """A model of transformers that reads merged batches.

    Args:
        model: an encoder or a decoder with ``inputs_embeds``.
        tokenizer: what makes the batches.
        provider: rows of new tokens; None composes them from the embedding (``CompositionRows``).
        cache: None is one of 5,000 rows.

    Raises:
        ConfigError: the model takes no ``inputs_embeds``, or the provider's rows are of another width.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: DynamicTokenizer,
        provider: RowProvider | None = None,
        cache: RowCache | None = None,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._takes = inspect.signature(model.forward).parameters
        if "inputs_embeds" not in self._takes:
            raise ConfigError(
                f"model: got {type(model).__name__}, whose forward takes no inputs_embeds, allowed one that does"
            )
        self._embedding = model.get_input_embeddings()
        self._composes = provider is None
        self.cache = RowCache() if cache is None else cache
        self.decodes = bool(model.can_generate())
        if provider is None:
            self.refresh()
        else:
            self.provider = provider
            width = self._embedding.weight.shape[1]
            if provider.width != width:
                raise ConfigError(f"provider: got rows of width {provider.width}, allowed {width}, the model's")

    def refresh(self) -> None:
        """Compose the rows of new tokens from the embedding as it is now."""
        if not self._composes:
            raise ConfigError(
                "refresh: got a model with a provider of its own, allowed without; make the provider anew"
            )
        self.provider = CompositionRows(self.tokenizer.base, source_rows(self._embedding))

    def embed(self, batch: DynamicBatch) -> torch.Tensor:
        """(T, d) the row of every token of the batch.

        Raises:
            InputError: a batch of another base vocabulary, or an id beyond the model's rows.
        """
        import torch

        self._check(batch)
        device = self._embedding.weight.device
        new = batch.ids >= batch.vocabulary
        rows: torch.Tensor = self._embedding(torch.from_numpy(np.where(new, 0, batch.ids)).to(device))
        if new.any():
            used, place = np.unique(batch.ids[new], return_inverse=True)
            made = self.cache.rows([batch.new_bytes(i) for i in used.tolist()], self.provider)
            rows = rows.clone()
            rows[torch.from_numpy(new).to(device)] = made.to(rows)[torch.from_numpy(place).to(device)]
        return rows

    def inputs(self, batch: DynamicBatch) -> ModelInputs:
        """The batch as what ``forward`` takes.

        Raises:
            InputError: as ``embed``, or a row without a token.
        """
        import torch

        lengths = batch.lengths
        if not lengths.size or not lengths.all():
            empty = np.flatnonzero(lengths == 0)[:3].tolist() if lengths.size else "no rows"
            raise InputError(
                f"batch: got rows without a token ({empty}), allowed one token at least; drop them, or encode with "
                "markers"
            )
        rows = self.embed(batch)
        longest = int(lengths.max())
        shift = longest - lengths if self.decodes else np.zeros_like(lengths)
        within = np.arange(len(batch.ids)) - np.repeat(batch.offsets[:-1], lengths)
        place = np.repeat(np.arange(len(batch)) * longest + shift, lengths) + within
        where = torch.from_numpy(place).to(rows.device)
        embeds = rows.new_zeros((len(batch) * longest, rows.shape[1])).index_copy(0, where, rows)
        mask = torch.zeros(len(batch) * longest, dtype=torch.int64, device=rows.device)
        mask[where] = 1
        positions = None
        if self.decodes and "position_ids" in self._takes:
            positions = torch.zeros_like(mask)
            positions[where] = torch.from_numpy(within).to(rows.device)
            positions = positions.view(len(batch), longest)
        return ModelInputs(
            inputs_embeds=embeds.view(len(batch), longest, -1),
            attention_mask=mask.view(len(batch), longest),
            position_ids=positions,
            place=place,
        )

    def __call__(self, batch: DynamicBatch, **options: Any) -> Any:
        """The model's output; ``options`` go to its ``forward``."""
        return self.run(self.inputs(batch), **options)

    def run(self, inputs: ModelInputs, **options: Any) -> Any:
        """The model's output on what ``inputs`` made; labels are spread with it: ``labels=inputs.spread(labels)``."""
        if inputs.position_ids is not None:
            options = {"position_ids": inputs.position_ids, **options}
        return self.model(inputs_embeds=inputs.inputs_embeds, attention_mask=inputs.attention_mask, **options)

    def next_token_nats(self, batch: DynamicBatch) -> torch.Tensor:
        """(T,) -ln P(base token after each merged token); NaN at the end of a row. For decoders.

        Raises:
            ConfigError: the model is no decoder.
        """
        import torch

        self._require_decoder("next_token_nats")
        inputs = self.inputs(batch)
        logits = inputs.gather(self.run(inputs).logits).float()
        labels = torch.from_numpy(next_token_labels(batch)).to(logits.device)
        nats = torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
        return nats.masked_fill(labels == IGNORED, torch.nan)

    def generate(self, batch: DynamicBatch, **options: Any) -> torch.Tensor:
        """(n, new tokens) base ids that ``generate`` of transformers appends to the merged prompts.

        Raises:
            ConfigError: the model is no decoder.
        """
        self._require_decoder("generate")
        inputs = self.inputs(batch)
        found: torch.Tensor = self.model.generate(
            inputs_embeds=inputs.inputs_embeds, attention_mask=inputs.attention_mask, **options
        )
        return found

    def _require_decoder(self, what: str) -> None:
        if not self.decodes:
            raise ConfigError(f"{what}: got {type(self.model).__name__}, an encoder, allowed a causal language model")

    def _check(self, batch: DynamicBatch) -> None:
        rows = self._embedding.weight.shape[0]
        if batch.vocabulary != len(self.tokenizer.base):
            raise InputError(
                f"batch: got one of a base vocabulary of {batch.vocabulary}, allowed {len(self.tokenizer.base)}, that "
                "of this tokenizer"
            )
        base = batch.ids[batch.ids < batch.vocabulary]
        if base.size and int(base.max()) >= rows:
            raise InputError(
                f"batch: got the id {int(base.max())}, allowed below {rows}, the rows of the model's embedding"
            )
