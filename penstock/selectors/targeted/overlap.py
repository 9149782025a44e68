"""How selections differ: the rows that two of them share, and what a selection does to the domains of its pool.

    jaccard(A, B) = |A and B| / |A or B|        1 the same rows, 0 none in common

Two independent random selections of a share f have an expected Jaccard index of f / (2 - f): at 5 % that is 0.026, and
what is not above it has nothing in common.

Price: the ids of all selected rows, in memory.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

OVERLAP = pa.schema([("a", pa.string()), ("b", pa.string()), ("both", pa.int64()), ("jaccard", pa.float64())])
DOMAINS = pa.schema(
    [
        ("method", pa.string()),
        ("domain", pa.string()),
        ("rows", pa.int64()),
        ("tokens", pa.int64()),
        ("selected_rows", pa.int64()),
        ("selected_tokens", pa.int64()),
    ]
)


def overlaps(selected: Mapping[str, pa.Array]) -> pa.Table:
    """Rows in both and Jaccard index of every pair of selections, each pair once and each with itself.

    Args:
        selected: ``doc_id`` of the selected rows by method, each once. Two empty selections have the index 1.
    """
    rows = []
    names = list(selected)
    for i, a in enumerate(names):
        for b in names[i:]:
            both = int(pc.sum(pc.is_in(selected[a], value_set=selected[b])).as_py() or 0)
            either = len(selected[a]) + len(selected[b]) - both
            rows.append({"a": a, "b": b, "both": both, "jaccard": both / either if either else 1.0})
    return pa.Table.from_pylist(rows, schema=OVERLAP)


def domain_shares(method: str, selection: pa.Table) -> pa.Table:
    """Rows and tokens of every domain, in the pool and in the selection, by name (a null counts as "").

    Args:
        selection: ``domain``, ``tokens`` (nulls count nothing), ``selected`` and perhaps ``copies``, which are counted
            as often as they are.
    """
    copies = selection["selected"].cast(pa.int64())
    if "copies" in selection.column_names:
        copies = pc.multiply(copies, selection["copies"].cast(pa.int64()))
    tokens = selection["tokens"].cast(pa.int64()).fill_null(0)
    table = pa.table(
        {
            "domain": selection["domain"].cast(pa.string()).fill_null(""),
            "rows": pa.array(np.ones(selection.num_rows, dtype=np.int64)),
            "tokens": tokens,
            "selected_rows": copies,
            "selected_tokens": pc.multiply(copies, tokens),
        }
    )
    sums = table.group_by("domain", use_threads=False).aggregate([(name, "sum") for name in DOMAINS.names[2:]])
    sums = sums.sort_by("domain")
    columns = [pa.array([method] * sums.num_rows, pa.string()), sums["domain"]]
    columns += [sums[f"{name}_sum"] for name in DOMAINS.names[2:]]
    return pa.table(columns, schema=DOMAINS)
