"""The reasoning-gym families that problems are drawn from, and how the parameters of each may be set.

``families.json`` beside this file was measured (``python -m benchmarks.voyager_families``). A family is usable when its
problems are text, quick to make, the same in every process, and all accepted by the family's own scorer; the others
are listed with the reason. A knob is what reasoning-gym varies of a family (a size, a range of numbers, a style) with
its levels: parameters to set, in the library's order. Level 0 sets nothing and leaves the library's own values. Levels
that failed the same measurement are not there.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from penstock.dataset import hash_json
from penstock.errors import ConfigError


@dataclass(frozen=True)
class Knob:
    """A parameter, or two that go together. ``levels[0]`` is empty."""

    name: str
    levels: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Family:
    """A dataset of reasoning-gym."""

    name: str
    knobs: tuple[Knob, ...]

    def config(self, levels: Mapping[str, int]) -> dict[str, Any]:
        """Parameters of a level of every knob (level 0 where a knob is not named)."""
        out: dict[str, Any] = {}
        for knob in self.knobs:
            out |= knob.levels[levels.get(knob.name, 0)]
        return out


@cache
def _table() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("families.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


@cache
def families() -> Mapping[str, Family]:
    """The usable families by name, sorted."""
    return {
        name: Family(name, tuple(Knob(knob, ({}, *levels)) for knob, levels in sorted(knobs.items())))
        for name, knobs in sorted(_table()["families"].items())
    }


def table_digest() -> str:
    """16 hex digits of all that is measured: what a draw of families and levels means."""
    return hash_json(_table())[:16]


def left_out() -> Mapping[str, str]:
    """Families that are not usable, with the reason."""
    found: dict[str, str] = _table()["left_out"]
    return found


def check_families(names: Iterable[str]) -> None:
    """ConfigError for a name that is not a usable family."""
    for name in names:
        if name in left_out():
            raise ConfigError(f"families: got {name!r}, which is left out: {left_out()[name]}; take another")
        if name not in families():
            near = difflib.get_close_matches(name, families(), n=3) or sorted(families())
            raise ConfigError(f"families: got {name!r}, nearest known {', '.join(near)}; correct the name")
