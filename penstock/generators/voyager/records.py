"""What a voyage leaves behind: a decision for every item, a record for every round, and why it ended.

Everything can be written as JSON and read back without loss, so that a checkpoint holds it; vectors go as base64 of
float32. Nothing here knows how a decision is made.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.generators.items import Explorer, Item, Verdict


@dataclass(frozen=True, kw_only=True)
class ExplorerFacts:
    """What an explorer is, and which root (its place among them) it descends from."""

    explorer_id: str
    parent_id: str | None
    prompt: str
    gradient: str | None
    root: int

    @classmethod
    def of(cls, explorer: Explorer, root: int) -> ExplorerFacts:
        return cls(
            explorer_id=explorer.explorer_id,
            parent_id=explorer.parent_id,
            prompt=explorer.prompt,
            gradient=explorer.gradient,
            root=root,
        )


@dataclass(frozen=True, kw_only=True)
class Decision:
    """An item and what became of it.

    Attributes:
        item_id: unique in a voyage and equal in every replay of it.
        round: from 0; negative for the batches of the first sample.
        rank: of the explorer in its round.
        position: of the item in its batch.
        stage, reason: where and why it was dropped; both None for an accepted item.
        gain: given the anchors at the time; None where it was dropped before, or there is no kernel.
        threshold: what the gain had to reach; None where none was asked.
        anchors: hash of the ordered ids of the anchors at the time; empty where they were not looked at.
        nearest: id of the anchor it resembles most, or of the accepted item that it duplicates.
        vector: its embedding, float32 (d,); None where it was dropped before it had one.
    """

    item_id: str
    item: Item
    explorer_id: str
    round: int
    rank: int
    position: int
    stage: str | None = None
    reason: str | None = None
    gain: float | None = None
    threshold: float | None = None
    anchors: str = ""
    nearest: str | None = None
    vector: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)

    @property
    def accepted(self) -> bool:
        return self.stage is None

    def to_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("item", "vector")}
        item = {name: getattr(self.item, name) for name in self.item.__dataclass_fields__}
        vector = None if self.vector is None else base64.b64encode(self.vector.astype("<f4").tobytes()).decode("ascii")
        return values | {"item": item | {"origin": dict(self.item.origin)}, "vector": vector}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Decision:
        """What ``to_json`` wrote, after a way through JSON."""
        item, vector = dict(value["item"]), value["vector"]
        item["verdicts"] = tuple(Verdict(*verdict) for verdict in item["verdicts"])
        found = None if vector is None else np.frombuffer(base64.b64decode(vector), "<f4").astype(np.float32)
        return cls(**{**value, "item": Item(**item), "vector": found})


class Spending(NamedTuple):
    """What was asked of a model so far: ``calls`` answered, from a store or not, and what the paid ones cost."""

    calls: int
    cost: float


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One round in numbers; round -1 is the first sample.

    Attributes:
        threshold: in force; None without one.
        proposed: items of all its batches; accepted plus all dropped.
        dropped: items by stage and reason.
        mean_gain: of the items that had one.
        vendi: Vendi score of all items accepted so far, cosine kernel on their embeddings.
        total: items accepted so far.
        explorers: for each its id, its parent's, items proposed and items accepted, in order of rank.
        steps: times that explorers were asked to propose or to refine.
        calls, cost: of the model, where a meter was given.
    """

    round: int
    threshold: float | None
    proposed: int
    accepted: int
    dropped: Mapping[str, Mapping[str, int]]
    mean_gain: float | None
    vendi: float
    total: int
    explorers: Sequence[tuple[str, str | None, int, int]]
    steps: int
    calls: int | None = None
    cost: float | None = None

    @property
    def rate(self) -> float:
        """Share of the proposed items that was accepted."""
        return self.accepted / self.proposed if self.proposed else 0.0

    @property
    def rejected(self) -> int:
        return sum(sum(reasons.values()) for reasons in self.dropped.values())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RoundRecord:
        return cls(**{**value, "explorers": tuple(tuple(one) for one in value["explorers"])})


def reasons_of(decisions: Sequence[Decision]) -> dict[str, dict[str, int]]:
    """Dropped items by stage and reason."""
    found: dict[str, Counter[str]] = {}
    for one in decisions:
        if one.stage is not None:
            found.setdefault(one.stage, Counter())[str(one.reason)] += 1
    return {stage: dict(sorted(counts.items())) for stage, counts in sorted(found.items())}


@dataclass(frozen=True, kw_only=True)
class Voyage:
    """All that a voyage made.

    Attributes:
        decisions: of every item proposed, in order.
        rounds: their records; round -1 first, where there was a first sample.
        explorers: all that ever proposed, by id.
        reason: one of ``count``, ``rounds``, ``patience``, ``budget``, ``no_items``.
        detail: the reason in words, with its evidence.
        threshold: the first one; None without.
        kernel: what the run kernel is (``RunKernel.describe``) and its fingerprint; None without.
        seed: of all its draws.
    """

    decisions: tuple[Decision, ...]
    rounds: tuple[RoundRecord, ...]
    explorers: Mapping[str, ExplorerFacts]
    reason: str
    detail: str
    threshold: float | None
    kernel: Mapping[str, Any] | None
    seed: int

    @property
    def accepted(self) -> tuple[Decision, ...]:
        return tuple(one for one in self.decisions if one.accepted)

    @property
    def rejected(self) -> tuple[Decision, ...]:
        return tuple(one for one in self.decisions if not one.accepted)

    @property
    def complete(self) -> bool:
        """Whether as many items were accepted as were wanted."""
        return self.reason == "count"
