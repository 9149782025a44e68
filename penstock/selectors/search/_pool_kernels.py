"""Loops over the scored pool: merged ranks binned and counted in one pass, and values read back per row.

Rows lie domain by domain, so the 65,536 counters of one domain stay in the cache while its rows are read.

Price: see ``pool.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.kernels import kernel


@kernel
def count_bins(sigma: Any, tokens: Any, bounds: Any, alpha: Any, bits: Any) -> Any:
    """(bin of every row, bins' bounds by domain, tokens of every occupied bin), bins ascending within a domain.

    ``sigma`` is (n, N) float32, ``bounds`` (M + 1,) where each domain's rows start, ``alpha`` (M, N) float64. The sum
    is taken in the order and the precision of ``MergedScore``: float64, clipped to [0, 1], rounded to float32.
    """
    n, criteria = sigma.shape
    domains = bounds.shape[0] - 1
    size = 1 << bits
    place = np.empty(n, np.int32)
    edges = np.zeros(domains + 1, np.int64)
    found = np.empty(min(n, size * domains), np.int64)
    count = np.empty(size, np.int64)
    rows = np.empty(size, np.int32)
    filled = 0
    for d in range(domains):
        count[:] = 0
        rows[:] = 0
        for i in range(bounds[d], bounds[d + 1]):
            merged = 0.0
            for c in range(criteria):
                merged += alpha[d, c] * np.float64(sigma[i, c])
            merged = np.float64(np.float32(min(max(merged, 0.0), 1.0)))
            code = min(np.int64(merged * size), size - 1)
            place[i] = code
            count[code] += tokens[i]
            rows[code] = 1
        for code in range(size):
            if rows[code]:
                # from here on ``rows`` holds where the bin went
                rows[code] = filled
                found[filled] = count[code]
                filled += 1
        for i in range(bounds[d], bounds[d + 1]):
            place[i] = rows[place[i]]
        edges[d + 1] = filled
    return place, edges, found[:filled]
