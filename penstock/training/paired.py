"""Two models on the same held-out sequences: the difference of their losses and its standard error.

    difference = sum(after_i - before_i) / sum(tokens_i)                nats per token
    error      = sqrt(n / (n - 1) * sum((d_i - difference * tokens_i)^2)) / sum(tokens_i)

with d_i = after_i - before_i the difference of the summed losses of sequence i and n the sequences. Losses of one
sequence go together, so the sequence is the unit (a cluster), and what makes some sequences harder than others cancels
(paired differences and clustered errors: Miller 2024, "Adding Error Bars to Evals", arXiv 2411.00640; the ratio's error
by linearisation, Cochran 1977, "Sampling Techniques", section 6.4).

Price: a forward pass of the sequences for each model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penstock.training.evaluation import autocast
from penstock.training.model import PackedInputs, pack_inputs, segment_sums
from penstock.training.sequences import SequenceStore, segment_layout

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Losses in nats per token, of sequences that hold a token with a loss."""

    sequences: int
    tokens: int
    before: float
    after: float
    difference: float
    error: float | None  # None for a single sequence


def paired(before: Floats, after: Floats, tokens: Floats) -> Paired | None:
    """The comparison of summed losses by sequence; None where no sequence has a token with a loss.

    Args:
        before, after: nats of each sequence, (n,).
        tokens: with a loss, (n,).
    """
    seen = tokens > 0
    before, after, tokens = before[seen], after[seen], tokens[seen]
    n, total = len(tokens), float(tokens.sum())
    if not n:
        return None
    difference = float((after - before).sum() / total)
    error = None
    if n > 1:
        rest = after - before - difference * tokens
        error = math.sqrt(n / (n - 1) * float((rest * rest).sum())) / total
    return Paired(
        sequences=n,
        tokens=int(total),
        before=float(before.sum() / total),
        after=float(after.sum() / total),
        difference=difference,
        error=error,
    )


def shared_rows(store: SequenceStore, most: int) -> tuple[Ints, Ints]:
    """Domain index and row of about ``most`` sequences: of every domain its first rows, in its share, at least one.

    Rows of a domain stand in the order of a hash, so the first ones are a sample.
    """
    total = sum(store.rows)
    counts = [rows if total <= most else min(rows, max(1, rows * most // total)) for rows in store.rows]
    return np.repeat(np.arange(len(counts)), counts), np.concatenate([np.arange(count) for count in counts])


def sequence_losses(
    model: Any,
    losses_of: Callable[[PackedInputs], torch.Tensor],
    store: SequenceStore,
    domain: Ints,
    row: Ints,
    *,
    size: int,
    bfloat16: bool = False,
) -> tuple[Floats, Floats]:
    """Summed loss in nats and tokens with a loss of every sequence: two arrays (n,).

    Args:
        losses_of: token losses of a micro-batch on the model's device: (P,).
        domain, row: the sequences, (n,) each.
        size: sequences per forward pass.
    """
    import torch

    loss, tokens = np.zeros(len(row)), np.zeros(len(row))
    model.eval()
    with torch.no_grad():
        for begin in range(0, len(row), size):
            here = slice(begin, begin + size)
            read = store.read(domain[here], row[here])
            ids, positions = segment_layout(read.segment_counts, read.segment_lengths, store.length)
            inputs = pack_inputs(read.tokens, ids, positions, read.learned, device=model.device)
            with autocast(model.device, bfloat16):
                sums, counts = segment_sums(losses_of(inputs), inputs)
            of_sequence = np.repeat(np.arange(len(row[here])), read.segment_counts)
            n = len(row[here])
            loss[here] = np.bincount(of_sequence, weights=sums.cpu().numpy(), minlength=n)
            tokens[here] = np.bincount(of_sequence, weights=counts.cpu().numpy(), minlength=n)
    return loss, tokens
