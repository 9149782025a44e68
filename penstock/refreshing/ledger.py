"""What a refresh folder knows of its rounds: ``rounds.json``, replaced in one operation at the end of a round.

It is the only commit of a round. It holds no clock time, so a round that was killed and made again leaves the same
bytes; seconds are in the ``timings.json`` of each round's folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from penstock.checked import sealed, unsealed
from penstock.errors import DatasetError
from penstock.report.plain import from_plain, to_plain
from penstock.storage import Folder

ROUNDS = "rounds.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Files:
    """Input files of a round, and how they differ from those of the round before it."""

    total: int
    new: int
    changed: int
    removed: int


@dataclass(frozen=True, kw_only=True)
class Made:
    """Items that were generated for a round; gains are mean gains of the accepted ones."""

    wanted: int
    accepted: int
    gain: float | None
    threshold: float | None
    reason: str  # why the voyage ended


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Both models on the same validation sequences: losses in nats per token, ``difference`` is after minus before.

    ``error`` is the standard error of the difference, paired by sequence; None for a single sequence.
    """

    split: Literal["new", "old"]  # of the round's dataset, or of that of the older model
    sequences: int
    tokens: int  # with a loss
    before: float
    after: float
    difference: float
    error: float | None


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round.

    Attributes:
        base: the accepted round whose model it went on from; None for the first.
        state: hash of what decides its data: settings and input files.
        why: what made it.
        rows: of the published dataset.
        tokens: selected for training, copies counted.
        first_step, last_step: optimiser steps of its model, counted from the first round on.
        losses: none in the first round.
        reason: of the verdict.
        digests: of the steps that others may ask for, by name.
        push_to: where an accepted dataset is sent; ``sent`` says whether it was.
    """

    number: int
    base: int | None
    state: str
    why: str
    files: Files
    rows: int
    tokens: int
    first_step: int
    last_step: int
    accepted: bool
    reason: str
    made: Made | None = None
    losses: tuple[HeldOut, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    push_to: str | None = None
    sent: bool = False

    @property
    def folder(self) -> str:
        """Name of its folder below that of all rounds."""
        return folder_of(self.number)


def folder_of(number: int) -> str:
    """``round-0007``."""
    return f"round-{number:04d}"


@dataclass(frozen=True)
class Ledger:
    """All rounds that ended, in order."""

    rounds: tuple[Round, ...] = ()

    @property
    def current(self) -> Round | None:
        """The last accepted round; None before the first."""
        return next((one for one in reversed(self.rounds) if one.accepted), None)

    @property
    def last(self) -> Round | None:
        """The last round, accepted or not."""
        return self.rounds[-1] if self.rounds else None

    def tried(self, state: str) -> bool:
        """Whether a round of this state is the current one, or was made and rejected since."""
        current = self.current
        return current is not None and any(
            one.state == state and current.number in (one.number, one.base) for one in self.rounds
        )

    def read_by_none(self) -> bool:
        """Whether no round has read the signals of the current model."""
        current = self.current
        return current is not None and all(one.base != current.number for one in self.rounds)

    def with_round(self, one: Round) -> Ledger:
        """This ledger with one more round."""
        return Ledger((*self.rounds, one))

    def sent(self) -> Ledger:
        """This ledger with the current round marked as sent."""
        return Ledger(tuple(replace(one, sent=True) if one is self.current else one for one in self.rounds))

    @classmethod
    def load(cls, root: Folder) -> Ledger:
        """The ledger of a folder; without one, an empty one.

        Raises:
            DatasetError: the file is damaged. It is not made anew by itself: the current round would be forgotten.
        """
        try:
            value = unsealed(root.read_json(ROUNDS))
            if value["format"] != FORMAT:
                raise ValueError(f"format {value['format']}, this penstock reads {FORMAT}")
            rounds = from_plain(tuple[Round, ...], value["rounds"], "rounds")
        except FileNotFoundError:
            return cls()
        except (json.JSONDecodeError, ValueError, KeyError, DatasetError) as error:
            raise DatasetError(
                f"{root.join(ROUNDS)}: damaged ({error}); put back an older copy, or begin anew with another --out"
            ) from error
        return cls(rounds)

    def save(self, root: Folder) -> None:
        """Replace the file in one operation."""
        current = self.current
        value = {
            "format": FORMAT,
            "current": None if current is None else current.folder,
            "rounds": to_plain(self.rounds),
        }
        root.write_json(ROUNDS, sealed(value))
