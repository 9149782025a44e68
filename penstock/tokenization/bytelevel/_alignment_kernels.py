"""The loop of ``alignment`` that walks two tokenizations of a document side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.kernels import kernel


@kernel
def spans_of(
    first: Any, first_bounds: Any, second: Any, second_bounds: Any
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.bool_]]:
    """Smallest spans of both tokenizations that hold the same bytes.

    Args:
        first, second: (n,) and (m,) bytes of every token, those of all documents one after another.
        first_bounds, second_bounds: (documents + 1,) where each document begins in them.

    Returns:
        Spans (s, 4) as i0, i1, j0, j1, counted from the document's first token; where each document begins in them
        (documents + 1,); and whether both have the same number of bytes (documents,): others get no spans.
    """
    documents = len(first_bounds) - 1
    out = np.empty((min(len(first), len(second)), 4), np.int32)
    bounds = np.zeros(documents + 1, np.int64)
    equal = np.ones(documents, np.bool_)
    at = 0
    for d in range(documents):
        begun = at
        i, i_end = first_bounds[d], first_bounds[d + 1]
        j, j_end = second_bounds[d], second_bounds[d + 1]
        while True:
            while i < i_end and first[i] == 0:
                i += 1
            while j < j_end and second[j] == 0:
                j += 1
            if i == i_end or j == j_end:
                equal[d] = i == i_end and j == j_end
                break
            out[at, 0] = i - first_bounds[d]
            out[at, 2] = j - second_bounds[d]
            # bytes by which the first is ahead of the second
            ahead = np.int64(first[i]) - np.int64(second[j])
            i += 1
            j += 1
            while (ahead < 0 and i < i_end) or (ahead > 0 and j < j_end):
                if ahead < 0:
                    ahead += first[i]
                    i += 1
                else:
                    ahead -= second[j]
                    j += 1
            if ahead != 0:
                equal[d] = False
                break
            out[at, 1] = i - first_bounds[d]
            out[at, 3] = j - second_bounds[d]
            at += 1
        if not equal[d]:
            at = begun
        bounds[d + 1] = at
    return out[:at].copy(), bounds, equal
