"""Frozen dataclasses as JSON values and back, checked against their type hints.

Knows what a run record is made of: dataclasses, tuples of one type, mappings with string keys, ``X | None``,
literals, strings, integers, floats, booleans, and Any for values that are JSON already.

Price: one visit a value, about 1M values a second.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from penstock.errors import ConfigError, DatasetError


def to_plain(value: Any) -> Any:
    """``value`` as JSON values."""
    if dataclasses.is_dataclass(value):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


_hints = functools.cache(get_type_hints)


def from_plain(hint: Any, value: Any, where: str) -> Any:
    """``value`` as the type ``hint``, or DatasetError naming the place ``where``."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):  # only ever "X | None"
        return None if value is None else from_plain(args[0], value, where)
    if origin is Literal:
        if value in args:
            return value
    elif origin is tuple:
        if isinstance(value, list):
            return tuple(from_plain(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    elif origin is Mapping:
        if isinstance(value, dict):
            return {key: from_plain(args[1], item, f"{where}[{key!r}]") for key, item in value.items()}
    elif dataclasses.is_dataclass(hint):
        if isinstance(value, dict):
            return _read_dataclass(hint, value, where)
    elif hint is float:
        if (isinstance(value, (int, float)) and not isinstance(value, bool)) or value in ("nan", "inf", "-inf"):
            return float(value)
    elif type(value) is hint:
        return value
    raise DatasetError(f"run record: {where}: got {value!r:.60}, allowed {hint}; run the recipe again to write it anew")


def _read_dataclass(cls: Any, value: dict[str, Any], where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(value.keys() - fields.keys())
    missing = sorted(
        name
        for name, f in fields.items()
        if name not in value and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    )
    if unknown or missing:
        raise DatasetError(
            f"run record: {where}: unknown {unknown or 'nothing'}, missing {missing or 'nothing'}; "
            "run the recipe again to write it anew"
        )
    hints = _hints(cls)
    try:
        return cls(**{name: from_plain(hints[name], item, f"{where}.{name}") for name, item in value.items()})
    except ConfigError as error:
        raise DatasetError(f"run record: {where}: {error}") from error
