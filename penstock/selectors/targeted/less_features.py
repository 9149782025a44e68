"""Texts as gradient features: what a step on each would do to the factors of a warmed-up model, in D dimensions.

    tokens -> gradients (lora_gradients) -> [Adam's direction (influence)] -> projection -> length 1 -> float16

A layer's gradients are turned into directions and projected while the backward pass goes on, so no vector of P numbers
exists for any example. A text of fewer than two tokens, or of which nothing is learned, has no gradient; its features
are NaN.

A text in another batch rounds differently, by about 1e-7 of its gradient; float16 hides nearly all of it.

Price: ``lora_gradients`` a checkpoint; 3 P numbers of float32 (factors and moments) in memory beside the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from penstock.errors import ConfigError
from penstock.scoring import model as models
from penstock.selectors.targeted.influence import adam_direction, unit_rows
from penstock.selectors.targeted.less_store import Features
from penstock.selectors.targeted.lora import LoraConfig, LoraFactors
from penstock.selectors.targeted.lora_gradients import Examples, PerExampleGradients
from penstock.selectors.targeted.projection import Projection
from penstock.spans import learn_ranges

if TYPE_CHECKING:
    import torch

PAPER_TOKENS = 2048


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Which model reads texts, and how.

    Args:
        model, digest: folder of a causal LM, and ``scoring.model.fingerprint`` of it.
        max_tokens: of a text that are read; None is 2,048 or what the model's context holds, whichever is less.
        device, dtype: see ``scoring.model.load_causal_lm``.
        batch_tokens: tokens of one pass, those that fill up counted.
        lora: size and places of the factors.
    """

    model: str
    digest: str
    lora: LoraConfig
    max_tokens: int | None = None
    device: str = "auto"
    dtype: str = "float32"
    batch_tokens: int = 2048


@dataclass(frozen=True)
class Moments:
    """A checkpoint of the warm-up as vectors of all factors, each (P,) on the model's device."""

    factors: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor


@dataclass(frozen=True)
class Texts:
    """Texts as tokens, with what is learned of each (its prefix included), or None where that is all of it."""

    packed: models.Packed
    learned: tuple[NDArray[np.bool_] | None, ...]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Predicted tokens of each text that are learned: (n,)."""
        counts = [
            max(len(ids) - 1, 0) if mask is None else int(mask[1:].sum())
            for ids, mask in zip(self.packed.ids, self.learned, strict=True)
        ]
        return np.array(counts, dtype=np.int64)

    def take(self, rows: Sequence[int]) -> Texts:
        """The texts at these places, in this order."""
        packed = replace(
            self.packed, ids=tuple(self.packed.ids[i] for i in rows), truncated=self.packed.truncated[list(rows)]
        )
        return Texts(packed, tuple(self.learned[i] for i in rows))

    def examples(self, batch: models.TokenBatch, device: Any) -> Examples:
        """A batch of ``packed`` with what is learned of it."""
        masks = [self.learned[row] for row in batch.rows]
        if all(mask is None for mask in masks):
            return Examples.from_batch(batch, device=device)
        learned = np.ones(batch.tokens.shape, dtype=bool)
        for place, mask in enumerate(masks):
            if mask is not None:
                learned[place, : len(mask)] = mask
        return Examples.from_batch(batch, device=device, learned=learned)


class Reader:
    """A loaded model with factors: makes texts into tokens and tokens into features."""

    def __init__(self, reading: Reading) -> None:
        """
        Raises:
            ConfigError: no causal LM there, no layers of the asked names, or ``max_tokens`` beyond its context.
            DatasetError: the model's files changed.
        """
        self.model, self.tokenizer = models.loaded(reading.model, reading.digest, reading.device, reading.dtype)
        self.reading = reading
        prefix, limit = len(models.prefix_ids(self.tokenizer)), models.context_limit(self.model)
        room = PAPER_TOKENS if limit is None else limit - prefix
        if reading.max_tokens is not None and limit is not None and reading.max_tokens > room:
            raise ConfigError(
                f"max_tokens: got {reading.max_tokens}, allowed <= {room}, which the context of {reading.model} holds; "
                "lower it"
            )
        self.max_tokens = reading.max_tokens or min(room, PAPER_TOKENS)
        self.factors = LoraFactors.new(self.model, reading.lora, seed=0)
        self.gradients = PerExampleGradients(self.model, self.factors)

    def texts(self, batch: pa.RecordBatch | pa.Table) -> Texts:
        """The columns ``text`` and, where there is one, ``learn`` as tokens."""
        rows = batch["text"].fill_null("").to_pylist()
        packed = models.pack_texts(rows, self.tokenizer, self.max_tokens)
        learned: list[NDArray[np.bool_] | None] = [None] * len(rows)
        if "learn" in batch.schema.names and batch["learn"].null_count < len(rows):
            table = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
            whole = table.select(["text", "learn"]).combine_chunks().to_batches()[0]
            bounds, ranges = learn_ranges(whole)
            for row in np.flatnonzero(np.asarray(whole["learn"].is_valid())):
                of_row = ranges[bounds[row] : bounds[row + 1]].reshape(-1, 2)
                learned[row] = self._learned(rows[row], of_row, packed, int(row))
        return Texts(packed, tuple(learned))

    def features(self, texts: Texts, at: Moments, projection: Projection, *, adam: bool) -> Features:
        """Features of every text at a checkpoint: float16, shape (n, D), NaN in rows without a gradient.

        Args:
            adam: directions under the checkpoint's moments, for the pool; plain gradients without, for a target.
        """
        self.factors.assign(at.factors)
        out = np.full((len(texts.learned), projection.dimensions), np.nan, dtype=np.float16)
        with_loss = texts.predicted > 0
        for batch in texts.packed.batches(self.reading.batch_tokens):
            if not with_loss[batch.rows].any():
                continue
            made = projection.zeros(len(batch.rows), self.model.device)

            def receive(block: torch.Tensor, offset: int, made: torch.Tensor = made) -> None:
                if adam:
                    here = slice(offset, offset + block.shape[1])
                    block = adam_direction(block, at.first[here], at.second[here])
                projection.add(made, block, offset)

            self.gradients.run(texts.examples(batch, self.model.device), receive)
            out[batch.rows] = unit_rows(made).cpu().numpy().astype(np.float16)
        out[~with_loss] = np.nan
        return out

    def _learned(self, text: str, ranges: NDArray[np.int64], packed: models.Packed, row: int) -> NDArray[np.bool_]:
        """Tokens of a text that lie in its learned byte ranges, those of the prefix never: (tokens,)."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ConfigError(
                f"{self.reading.model}: its tokenizer says not where its tokens lie, and rows have learned ranges "
                "(column learn); take a model with a tokenizer.json, or drop the column"
            )
        own = packed.ids[row][len(packed.prefix) :]
        places = np.array(backend.encode(text, add_special_tokens=False).offsets[: len(own)], np.int64).reshape(-1, 2)
        code = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        widths = 1 + (code >= 0x80).astype(np.int64) + (code >= 0x800) + (code >= 0x10000)
        starts = np.concatenate([[0], np.cumsum(widths)])
        begin, end = starts[places[:, 0]], starts[places[:, 1]]
        inside = np.zeros(len(own), dtype=bool)
        for low, high in ranges.tolist():
            inside |= (begin >= low) & (end <= high)
        return np.concatenate([np.zeros(len(packed.prefix), dtype=bool), inside])


@lru_cache(maxsize=1)
def reader_of(reading: Reading) -> Reader:
    """The reader, once a process."""
    return Reader(reading)
