"""Batches of packed sequences as the tensors that a causal language model of transformers takes.

A row holds pieces of several documents. There are four ways to treat them, and ``check_attention`` tries out whether
a model obeys the one that was chosen:

``positions``: position ids that restart at every document, and no mask; transformers finds the borders in them
    (``find_packed_sequence_indices``). Eager, SDPA and flex attention; the cheapest.
``mask``: the same positions and a mask (n, 1, L, L) of booleans, for SDPA of models that look for no borders.
``flat``: all rows as one row of n * L with restarting positions, which FlashAttention needs to see borders at all.
``across``: positions of the row and no mask; documents see what stands before them in their row.

In all four ``labels`` are the tokens, -100 where nothing is predicted: on padding, on tokens that are not learned and
on the first token of a document, which nothing of its own precedes. Models shift labels by themselves.

Price: 8 bytes a token for each of three tensors; ``mask`` adds n * L * L bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from penstock.errors import ConfigError
from penstock.training.batch import Batch
from penstock.training.model import PackedInputs, attention_mask, pack_inputs, predicted_tokens, segment_sums

if TYPE_CHECKING:
    import torch

Attention = Literal["positions", "mask", "flat", "across"]
WAYS = ("positions", "mask", "flat", "across")
IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class CausalCollator:
    """``collate_fn`` for a ``DataLoader`` and ``data_collator`` for a ``Trainer``; ``attention`` is described above."""

    attention: Attention = "positions"

    def __post_init__(self) -> None:
        if self.attention not in WAYS:
            raise ConfigError(f"attention: got {self.attention!r}, allowed {', '.join(map(repr, WAYS))}")

    def __call__(self, batches: Batch | Sequence[Batch]) -> dict[str, Any]:
        """``input_ids``, ``labels`` and ``position_ids`` (n, L) int64, (1, n * L) with ``flat``; with ``mask`` also
        ``attention_mask`` (n, 1, L, L); with ``positions`` and ``flat`` also ``use_cache``, which is False.

        Several batches become one, in order.
        """
        import torch

        parts = [batches] if isinstance(batches, Batch) else list(batches)
        if other := [part for part in parts if not isinstance(part, Batch)]:
            raise ConfigError(
                f"a collator of batches: got {type(other[0]).__name__}, allowed Batch; for other data, such as rows to "
                "evaluate on, use MixtureDataset or a collator of its own"
            )
        tokens = np.concatenate([part.tokens.astype(np.int64) for part in parts])
        segments = np.concatenate([part.segment_ids for part in parts])
        positions = np.concatenate([part.positions for part in parts])
        predicted = np.zeros(tokens.shape, dtype=np.bool_)
        predicted[:, 1:] = np.concatenate([predicted_tokens(part.segment_ids, part.learned) for part in parts])
        if self.attention == "across":
            positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int64), tokens.shape).copy()
        out = {
            "input_ids": torch.from_numpy(tokens),
            "labels": torch.from_numpy(np.where(predicted, tokens, IGNORED)),
            "position_ids": torch.from_numpy(positions),
        }
        given: dict[str, Any] = dict(out)
        if self.attention == "flat":
            given = {name: values.reshape(1, -1) for name, values in out.items()}
        if self.attention == "mask":
            given["attention_mask"] = attention_mask(torch.from_numpy(segments))
        elif self.attention != "across":
            # a model that makes a cache, as most do unless told not to, does not look for borders
            given["use_cache"] = False
        return given


def segment_losses(logits: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a loop trains on, and what it shows to a mixer.

    Args:
        logits: of the batch as ``CausalCollator`` gave it: (n, L, V), or (1, n * L, V) with ``flat``.

    Returns:
        Cross-entropy in nats of every predicted token that is learned, (P,) float32, with gradient; then by segment
        its sum and the number of such tokens, (S,) float64, without.
    """
    _, losses, sums, counts = packed_losses(logits, batch)
    return losses, sums, counts


def packed_losses(logits: torch.Tensor, batch: Batch) -> tuple[PackedInputs, torch.Tensor, torch.Tensor, torch.Tensor]:
    """``segment_losses`` with the places and targets that they are taken at."""
    import torch

    inputs = pack_inputs(batch.tokens, batch.segment_ids, batch.positions, batch.learned, device=logits.device)
    predicted = logits.flatten(0, 1)[inputs.places].float()
    losses = torch.nn.functional.cross_entropy(predicted, inputs.targets, reduction="none")
    return inputs, losses, *segment_sums(losses, inputs)


def check_attention(model: Any, attention: Attention) -> None:
    """Make sure that a model keeps documents apart when it is given what ``CausalCollator(attention=…)`` gives.

    Two rows of two documents each, once more with other tokens in the first documents: the logits of the second ones
    must be the same to the last bit. Leaves gradients, random generators and training mode as they were.

    Raises:
        ConfigError: what stands before a document changes its logits.
    """
    import torch

    if attention == "across":
        return
    tokens = np.arange(2, 18, dtype=np.uint32).reshape(2, 8) % model.config.vocab_size
    other = tokens.copy()
    other[:, :4] = (tokens[:, :4] + 1) % model.config.vocab_size
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            found = []
            for ids in (tokens, other):
                given = CausalCollator(attention=attention)(_two_documents(ids))
                del given["labels"]
                on_device = {k: v.to(model.device) if isinstance(v, torch.Tensor) else v for k, v in given.items()}
                logits = model(**on_device).logits
                found.append(logits.reshape(2, 8, -1)[:, 4:])
        apart = bool(torch.equal(*found))
    finally:
        model.train(training)
    if not apart:
        kind = getattr(model.config, "_attn_implementation", None) or "its own"
        raise ConfigError(
            f"attention={attention!r}: {type(model).__name__} with {kind} attention lets documents of a row see each "
            "other; choose another of 'positions', 'mask' and 'flat', another attn_implementation, or 'across' if that "
            "is wanted"
        )


def _two_documents(tokens: Any) -> Batch:
    """Rows of eight tokens, two documents of four in each."""
    import pyarrow as pa

    n = len(tokens)
    zeros = np.zeros(n, dtype=np.int64)
    return Batch(
        numbers=zeros,
        domain=zeros,
        rows=zeros,
        mixture_version=zeros,
        tokens=tokens,
        segment_counts=np.full(n, 2, dtype=np.int64),
        segment_lengths=np.full(2 * n, 4, dtype=np.int64),
        segment_docs=pa.array(["probe"] * (2 * n), pa.string()),
    )
