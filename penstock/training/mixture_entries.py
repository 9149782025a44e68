"""What a mixture log is made of, and how it is read from JSON that may be damaged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

OnExhausted = Literal["repeat", "redistribute", "stop"]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Dataset:
    """The rows that cursors count; tuples are over the log's domains."""

    rows: tuple[int, ...]  # 0 where the dataset lacks the domain
    fingerprint: str = ""
    generation: int = 0  # datasets before it in this log
    begins: int = 0  # sequence from which it is read
    group_rows: int | None = None  # see ``permutation``


@dataclass(frozen=True)
class Entry:
    """One version of the mixture, in force from sequence ``effective_from`` on; tuples are over the log's domains."""

    effective_from: int
    quotas: tuple[int, ...]  # sequences of each domain in one block
    base: tuple[int, ...]  # sequences of each domain read from the dataset before ``effective_from``
    weights: tuple[float, ...]  # shares that the quotas stand for, as they were asked for
    limits: tuple[int | None, ...]  # cursors that are not read any more; None is no limit
    on_exhausted: OnExhausted = "repeat"
    generation: int = 0  # of its dataset


def read_dataset(value: Mapping[str, Any]) -> Dataset:
    """The dataset that JSON tells; TypeError or KeyError where it is damaged."""
    rows = tuple(whole(n) for n in value["rows"])
    group_rows = value["group_rows"]
    return Dataset(
        rows,
        exactly(str, value["fingerprint"]),
        whole(value["generation"]),
        whole(value["begins"]),
        None if group_rows is None else whole(group_rows, 1),
    )


def read_entry(value: Mapping[str, Any]) -> Entry:
    """The entry that JSON tells; TypeError or KeyError where it is damaged."""
    limits = tuple(None if limit is None else whole(limit) for limit in value["limits"])
    on_exhausted = exactly(str, value["on_exhausted"])
    if on_exhausted not in get_args(OnExhausted) or (on_exhausted == "repeat" and any(x is not None for x in limits)):
        raise TypeError(f"on_exhausted {on_exhausted} with limits {limits}")
    return Entry(
        effective_from=whole(value["effective_from"]),
        quotas=tuple(whole(q) for q in value["quotas"]),
        base=tuple(whole(b) for b in value["base"]),
        weights=tuple(_share(w) for w in value["weights"]),
        limits=limits,
        on_exhausted=on_exhausted,  # type: ignore[arg-type]
        generation=whole(value["generation"]),
    )


def exactly(kind: type[_T], value: Any) -> _T:
    """A value of this type and of none beneath it; TypeError otherwise."""
    if type(value) is not kind:
        raise TypeError(f"got {value!r}, expected {kind.__name__}")
    return value  # type: ignore[no-any-return]


def _share(value: Any) -> float:
    if not 0 <= exactly(float, value) < math.inf:
        raise TypeError(f"got {value}, expected a finite weight >= 0")
    return float(value)


def whole(value: Any, least: int = 0) -> int:
    """A number of sequences, which numpy counts with 64 bits."""
    if not least <= exactly(int, value) < 1 << 62:
        raise TypeError(f"got {value}, expected {least} to 2^62")
    return int(value)
