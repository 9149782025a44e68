"""What a search leaves behind: a table of the points, a table of the proxies, without the time that it took.

Price: a row a point, a row a proxy and part of the target.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.selectors.search.space import Space
from penstock.selectors.search.trials import Measured

WHOLE = ""  # the target as a whole, in the column ``target``

THETA = pa.schema(
    [
        pa.field("theta_id", pa.int32(), nullable=False),
        pa.field("unit", pa.list_(pa.float64()), nullable=False),  # in the coordinates of the space
        pa.field("values", pa.string(), nullable=False),  # JSON: what it stands for, by domain
    ]
)
PROXIES = pa.schema(
    [
        pa.field("theta_id", pa.int32(), nullable=False),
        pa.field("trial", pa.int32(), nullable=False),
        pa.field("purpose", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("target", pa.string(), nullable=False),  # a part of the target; "" is all of it
        pa.field("loss", pa.float64()),  # nats per token; null: see flag
        pa.field("tokens", pa.int64(), nullable=False),  # of the selection, copies counted
        pa.field("unique_tokens", pa.int64(), nullable=False),
        pa.field("epochs", pa.string(), nullable=False),  # JSON: passes over the tokens of each domain
        pa.field("flag", pa.string()),
    ]
)


def theta_ids(measured: Sequence[Measured]) -> dict[tuple[float, ...], int]:
    """A number for every point, in the order in which they were first measured."""
    return {unit: i for i, unit in enumerate(dict.fromkeys(m.trial.unit for m in measured))}


def theta_table(space: Space, measured: Sequence[Measured]) -> pa.Table:
    """One row a point."""
    rows = [
        {"theta_id": i, "unit": list(unit), "values": json.dumps(space.describe(np.array(unit)), sort_keys=True)}
        for unit, i in theta_ids(measured).items()
    ]
    return pa.Table.from_pylist(rows, schema=THETA)


def proxies_table(measured: Sequence[Measured]) -> pa.Table:
    """One row a proxy and part of the target, and one for the whole of it."""
    ids = theta_ids(measured)
    rows = [
        {
            "theta_id": ids[m.trial.unit],
            "trial": m.trial.number,
            "purpose": m.trial.purpose,
            "label": m.trial.label,
            "seed": m.trial.seed,
            "target": target,
            "loss": loss,
            "tokens": m.tokens,
            "unique_tokens": m.unique_tokens,
            "epochs": json.dumps(m.epochs, sort_keys=True),
            "flag": m.flag,
        }
        for m in measured
        for target, loss in {WHOLE: m.loss, **dict(sorted(m.losses.items()))}.items()
    ]
    return pa.Table.from_pylist(rows, schema=PROXIES)


def without_seconds(value: Any) -> Any:
    """A JSON value without entries ``seconds``: they never repeat, and what holds them would have no digest."""
    if isinstance(value, Mapping):
        return {name: without_seconds(of) for name, of in value.items() if name != "seconds"}
    if isinstance(value, (list, tuple)):
        return [without_seconds(of) for of in value]
    return value
