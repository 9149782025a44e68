"""What generators make and pass on: items, their verdicts, the explorers that propose them, the gates that judge them.

    Explorer.propose -> items -> gates -> acceptance -> accepted | rejected with a stage and a reason
    Explorer.refine(rejected, anchors) -> its successors

An item is a text (or a question with its answer) before anything is decided about it. Whatever happens to it later, it
carries what is needed to make it again and to say where it came from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol


class Verdict(NamedTuple):
    """What one check said of one row, with its evidence."""

    check: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something proposed.

    Attributes:
        text: what is embedded, compared and gated: the question of a problem, or the whole text.
        answer: of a problem; None for a text.
        verdicts: of checks that its maker ran already (a verifier of a procedural problem).
        invalid: why it can be no item at all (not parsed, no verified answer), or None; such an item is dropped before
            any gate.
        origin: JSON values that make it again: model, revision, request key, seed, family, parameters, …
    """

    text: str
    answer: str | None = None
    verdicts: tuple[Verdict, ...] = ()
    invalid: str | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """32 hex digits of the text, its case and white space folded: equal digests are exact duplicates."""
        folded = " ".join(self.text.casefold().split())
        return hashlib.blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class Explorer(Protocol):
    """A direction that is searched: a prompt, or the state of a procedural maker. Immutable; successors are new ones.

    Attributes:
        explorer_id: unique in a run and equal in every replay of it.
        parent_id: that of the explorer it was refined from; None for a root.
        prompt: its prompt, or its state as canonical JSON; explorers are compared by the text of it.
        gradient: the reason it was refined by; None for a root.
        identity: what decides its items besides its prompt, the round and the seed (JSON values): a model, settings.
    """

    @property
    def explorer_id(self) -> str: ...
    @property
    def parent_id(self) -> str | None: ...
    @property
    def prompt(self) -> str: ...
    @property
    def gradient(self) -> str | None: ...
    @property
    def identity(self) -> dict[str, Any]: ...

    async def propose(self, count: int, *, round: int) -> list[Item]:
        """About ``count`` items in a fixed order, a function of the explorer, the round and the seed alone.

        Raises:
            BudgetError: nothing more may be asked.
        """

    async def refine(self, rejected: Sequence[Item], anchors: Sequence[Item], *, round: int) -> list[Explorer]:
        """Successors that should find what the rejected items did not; none where no successor could be made."""

    def restore(self, explorer_id: str, parent_id: str | None, prompt: str, gradient: str | None) -> Explorer:
        """The explorer with these four and all else (model, task, seed) as this one has it.

        Called on the root it descends from, when a stopped run goes on: an explorer has no other state.
        """


class Gate(Protocol):
    """Judges items before diversity is looked at, so that garbage, which is always far from all else, never enters."""

    name: str

    def setup(self) -> None:
        """Load what ``judge`` needs, or fail now."""

    def judge(self, items: Sequence[Item]) -> list[str | None]:
        """A reason for each item that must not pass, in their order; None lets it pass."""
