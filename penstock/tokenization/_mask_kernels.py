"""The loop of ``packing`` that carries learned tokens of documents to positions of sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock._span_kernels import emit
from penstock.kernels import kernel


@kernel
def carry_runs(
    valid: Any, bounds: Any, runs: Any, document: Any, layout: Any, sequences: Any, size: Any
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:
    """Runs of learned positions of every sequence.

    Args:
        valid: (documents,) whether a document has runs; all of another is learned.
        bounds: (documents + 1,) where those of each document begin in ``runs``.
        runs: start, stop, start, stop, …, tokens of the document.
        document: (copies,) the document of each copy.
        layout: (5, segments) as ``packing`` makes it.
        sequences: their number.
        size: numbers that the result may take at most.

    Returns:
        Bounds (sequences + 1,), runs, and whether all tokens of a sequence are learned (sequences,); these get no runs.
    """
    out = np.empty(size, np.int32)
    out_bounds = np.zeros(sequences + 1, np.int32)
    whole = np.zeros(sequences, np.bool_)
    at = 0
    s = 0
    last_copy = -1
    k = 0
    for sequence in range(sequences):
        first = at
        used = 0
        while s < layout.shape[1] and layout[2, s] == sequence:
            copy, start, place, length = layout[0, s], layout[1, s], layout[3, s], layout[4, s]
            number = document[copy]
            used = place + length
            if not valid[number]:
                at = emit(out, first, at, place, used)
            else:
                # the segments of a copy follow each other, so runs that are passed stay so
                if copy != last_copy:
                    k = bounds[number]
                end = bounds[number + 1]
                while k < end and runs[k + 1] <= start:
                    k += 2
                j = k
                while j < end and runs[j] < start + length:
                    low, high = max(runs[j], start), min(runs[j + 1], start + length)
                    at = emit(out, first, at, low - start + place, high - start + place)
                    j += 2
            last_copy = copy
            s += 1
        if at == first + 2 and out[first] == 0 and out[first + 1] == used:
            whole[sequence] = True
            at = first
        out_bounds[sequence + 1] = at
    return out_bounds, out[:at].copy(), whole
