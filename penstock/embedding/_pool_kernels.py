"""Loop of the static embedder: a row's vector is the mean of its tokens' vectors, brought to unit length.

Sums run over one row at a time and in token order, so a row's vector does not depend on the batch it came in.

Price: one read of the vector of each token, about 10M tokens/s a core at 256 dimensions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.kernels import kernel


@kernel
def mean_pool(words: Any, starts: Any, ids: Any, bounds: Any, table: Any, unknown: Any, out: Any) -> None:
    """Write unit vectors into ``out`` (n, d) float32, which is zero.

    Row i is the words ``words[starts[i]:starts[i + 1]]``; word w is the tokens ``ids[bounds[w]:bounds[w + 1]]`` of
    ``table`` (vocabulary, d) float32. Ids that equal ``unknown`` or lie outside the table are left out. A row without
    a token, or whose tokens cancel out, stays zero.
    """
    dimensions = table.shape[1]
    for row in range(out.shape[0]):
        for place in range(starts[row], starts[row + 1]):
            word = words[place]
            for at in range(bounds[word], bounds[word + 1]):
                token = ids[at]
                if token == unknown or token < 0 or token >= table.shape[0]:
                    continue
                for j in range(dimensions):
                    out[row, j] += table[token, j]
        square = 0.0
        for j in range(dimensions):
            square += np.float64(out[row, j]) * np.float64(out[row, j])
        # the mean's length drops out, so the sum is divided once
        if square > 0.0 and np.isfinite(square):
            scale = np.float32(1.0 / np.sqrt(square))
            for j in range(dimensions):
                out[row, j] *= scale
        else:
            for j in range(dimensions):
                out[row, j] = np.float32(0.0)
