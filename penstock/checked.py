"""JSON objects that say whether they are whole: a hash of what is in them stands beside it.

A file that a kill, a full disk or a bad sector left half-written is seldom no JSON any more, and a changed digit never
is. Who reads such state takes a damaged file for one that is not there, and makes what it stood for again.

    folder.write_json("x.json", sealed({"rows": 3}))     {"check": "5f1c…", "rows": 3}
    unsealed(folder.read_json("x.json"))                 {"rows": 3}

It guards against accidents, not against an adversary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from penstock.dataset import hash_json

CHECK = "check"


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The object, which has no key ``check``, with a hash of itself there; tuples become lists and keys texts."""
    assert CHECK not in value, "the name is taken"
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain | {CHECK: hash_json(plain)}


def unsealed(value: Any) -> dict[str, Any]:
    """The object that ``sealed`` got, from what a file holds.

    Raises:
        ValueError: it is no object, or not the one that was written.
    """
    if not isinstance(value, dict):
        raise ValueError(f"got {type(value).__name__}, expected an object")
    rest = {name: of for name, of in value.items() if name != CHECK}
    try:
        whole = value.get(CHECK) == hash_json(rest)
    except RecursionError as error:
        raise ValueError("lists are too deep in one another") from error
    if not whole:
        raise ValueError("it is not what was written")
    return rest
