"""Items through a row of gates: each gate sees what those before it let pass, so the cheap ones stand first.

A plain gate (``items.Gate``) says yes or gives a reason. An *examiner* has more to say, or asks a model for it: its
verdicts stay with the item whether it passes or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, cast

from penstock.errors import ConfigError
from penstock.generators.items import Gate, Item, Verdict


class Finding(NamedTuple):
    """What an examiner says of one item: why it must not pass, or None, and its verdicts."""

    reason: str | None
    verdicts: tuple[Verdict, ...] = ()

    def beside(self, item: Item) -> Item:
        """The item with these verdicts after its own."""
        return replace(item, verdicts=(*item.verdicts, *self.verdicts)) if self.verdicts else item


class Examiner(Protocol):
    """A gate whose judgement is awaited and comes with verdicts."""

    name: str

    def setup(self) -> None:
        """Load what ``examine`` needs, or fail now."""

    async def examine(self, items: Sequence[Item]) -> list[Finding]:
        """One finding for each item, in their order.

        Raises:
            BudgetError: nothing more may be asked.
        """


class Judged(NamedTuple):
    """An item with the verdicts that gates gave it; ``gate`` and ``reason`` are of the one that stopped it."""

    item: Item
    gate: str | None = None
    reason: str | None = None


async def judged(gates: Sequence[Gate | Examiner], items: Sequence[Item]) -> list[Judged]:
    """Every item after all gates, in their order. An item that is ``invalid`` meets no gate and has that as its reason.

    Raises:
        BudgetError: from a gate that asks a model.
    """
    out = [Judged(item, "invalid" if item.invalid else None, item.invalid) for item in items]
    for gate in gates:
        rows = [row for row, one in enumerate(out) if one.gate is None]
        if not rows:
            break
        for row, found in zip(rows, await findings(gate, [out[row].item for row in rows]), strict=True):
            stopped_by = gate.name if found.reason is not None else None
            out[row] = Judged(found.beside(out[row].item), stopped_by, found.reason)
    return out


def reasons(judged: Sequence[Judged]) -> dict[str, int]:
    """How many items each reason stopped, the most frequent first."""
    return dict(Counter(one.reason for one in judged if one.reason is not None).most_common())


async def findings(gate: Gate | Examiner, items: Sequence[Item]) -> list[Finding]:
    """What a gate of either kind says of items, in their order.

    Raises:
        BudgetError: from a gate that asks a model.
        ConfigError: it does not say something of each.
    """
    examine: Any = getattr(gate, "examine", None)
    if examine is not None:
        found = cast(list[Finding], await examine(items))
    else:
        found = [Finding(reason) for reason in cast(Gate, gate).judge(items)]
    if len(found) != len(items):
        raise ConfigError(f"gate {gate.name}: got {len(found)} verdicts for {len(items)} items, allowed one each")
    return found
