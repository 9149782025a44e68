"""Losses on sequences that training does not see: by domain, and of a target.

Ranks share the sequences by micro-batches and add their sums; under FSDP2 every rank has to run as many forward
passes as the others, so one without a micro-batch of its own left repeats the first and throws its losses away.

Price: one forward pass of the sequences; nothing of training's state is touched but the mode, which is set back.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penstock.training.config import TrainConfig
from penstock.training.distributed import Ranks
from penstock.training.model import PackedInputs, logits_function, pack_inputs, segment_sums, token_losses
from penstock.training.sequences import SequenceStore, segment_layout

if TYPE_CHECKING:
    import torch

Ints = NDArray[np.int64]


def evaluate(
    model: Any, store: SequenceStore, config: TrainConfig, *, logits_of: Any = None, bfloat16: bool = False
) -> dict[str, float]:
    """Validation loss by domain: nats per token over the first ``eval_sequences`` rows of each.

    A domain with nothing that is predicted and learned is left out.

    Args:
        logits_of: what ``logits_function(model)`` gave, when it is at hand.
        bfloat16: run the forward pass under autocast.
    """
    logits_of = logits_of or logits_function(model)

    def losses_of(inputs: PackedInputs) -> torch.Tensor:
        return token_losses(logits_of, inputs, cross_document_attention=config.cross_document_attention)

    size = config.micro_batch_size or config.batch_size
    domain, row = first_rows(store, config.eval_sequences)
    sums, counts = held_out_sums(model, losses_of, store, domain, row, size=size, bfloat16=bfloat16)
    return means_by_domain(store, sums, counts)


def first_rows(store: SequenceStore, most: int) -> tuple[Ints, Ints]:
    """Domain index and row of the first ``most`` sequences of every domain."""
    counts = [min(rows, most) for rows in store.rows]
    return np.repeat(np.arange(len(counts)), counts), np.concatenate([np.arange(count) for count in counts])


def means_by_domain(store: SequenceStore, sums: NDArray[np.float64], counts: NDArray[np.float64]) -> dict[str, float]:
    """Nats per token of every domain that has a token with a loss."""
    return {store.domains[k]: float(sums[k] / counts[k]) for k in np.flatnonzero(counts)}


def held_out_sums(
    model: Any,
    losses_of: Callable[[PackedInputs], torch.Tensor],
    store: SequenceStore,
    domain: Ints,
    row: Ints,
    *,
    size: int,
    bfloat16: bool = False,
    ranks: Ranks | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Summed losses in nats and tokens with a loss by domain, over all ranks: two arrays (K,).

    Args:
        losses_of: token losses of a micro-batch on the model's device: (P,).
        domain, row: the sequences, (n,) each.
        size: sequences per forward pass.
    """
    import torch

    ranks = ranks or Ranks()
    k = len(store.domains)
    loss, tokens = np.zeros(k), np.zeros(k)
    begins = list(range(0, len(row), size))
    training = model.training
    model.eval()
    with torch.no_grad():
        for turn in range(0, len(begins), ranks.world_size):
            mine = turn + ranks.rank < len(begins)
            begin = begins[turn + ranks.rank if mine else 0]
            here = slice(begin, begin + size)
            read = store.read(domain[here], row[here])
            ids, positions = segment_layout(read.segment_counts, read.segment_lengths, store.length)
            inputs = pack_inputs(read.tokens, ids, positions, read.learned, device=model.device)
            with autocast(model.device, bfloat16):
                losses = losses_of(inputs)
            if not mine:
                continue
            sums, predicted = segment_sums(losses, inputs)
            of_segment = np.repeat(domain[here], read.segment_counts)
            loss += np.bincount(of_segment, weights=sums.cpu().numpy(), minlength=k)
            tokens += np.bincount(of_segment, weights=predicted.cpu().numpy(), minlength=k)
    model.train(training)
    both = ranks.sum(np.concatenate([loss, tokens]))
    return both[:k], both[k:]


def autocast(device: torch.device, bfloat16: bool) -> AbstractContextManager[Any]:
    """bfloat16 where it is asked for, on this device."""
    import torch

    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bfloat16)
